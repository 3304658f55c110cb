"""One rank of a training: fairseq-train in a process that dies with the one that started it.

    python -m components.train.rank.worker [--links DIR] [--control DIR] \\
        [--checkpoint-interval N] [--checkpoint-minutes M] [--patience S] [--group FILE] \\
        [--fitting FILE] DATA --arch ...

`--links` is the folder that it works in, see components.train.flags.fairseq_arguments. `--control`
is the folder that joins it with the process that supervises, see components.train.rank.hooks; the
rest are fairseq-train's arguments. `--group` is for one of the ranks of several nodes: JSON with
the arguments of components.train.rank.group.Group. `--fitting` is JSON with the `path` of the
pretrained checkpoint and the `shape` that it must have. What ends it is written as one line, FAILED
and a JSON object, for that process.
"""

import argparse
import ctypes
import gc
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from components.common import strict_json
from components.common.disk import no_space
from components.common.errors import CollapseError, RaceError
from components.train import records
from components.train.rank import hooks
from components.train.rank.group import Ended, Group
from components.train.roberta import Shape

FAILED = "FAILED "

# The variable with the process that starts a rank, which may end before the rank looks for it.
PARENT = "RACE_TRAIN_PARENT"


def die_with_parent(signum: signal.Signals) -> None:
    """Have the kernel send `signum` to this process when its parent ends, however that happens.

    The parent is the process that PARENT names in the environment, where it does; processes that
    this one starts find it there as their parent.
    """
    if sys.platform != "linux":
        return
    parent = int(os.environ.get(PARENT, os.getppid()))
    os.environ[PARENT] = str(os.getpid())
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signum))
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), signum)


def main(argv: Sequence[str] | None = None) -> int:
    die_with_parent(signal.SIGKILL)
    gc.disable()  # until fairseq is imported, which makes a million objects, all of them to stay
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--links", type=Path, default=Path())
    own.add_argument("--control", type=Path)
    own.add_argument("--checkpoint-interval", type=int)
    own.add_argument("--checkpoint-minutes", type=float, default=0)
    own.add_argument("--patience", type=float, default=hooks.PATIENCE)
    own.add_argument("--group", type=Path)
    own.add_argument("--fitting", type=Path)
    options, arguments = own.parse_known_args(argv)
    try:
        os.chdir(options.links)
        boundaries = None
        if options.control:
            boundaries = _boundaries(options)
        if options.fitting:
            wanted = strict_json.read(options.fitting)
            hooks.require_fitting(Path(wanted["path"]), Shape(**wanted["shape"]))
        _train(arguments, boundaries)
    except Exception as raised:
        traceback.print_exc()
        # The folder `control` lies below the output that is being made.
        output = options.control.parents[2] if options.control else Path()
        places = (output, Path(tempfile.gettempdir()))
        error = raised if isinstance(raised, RaceError) else no_space(raised, *places) or raised
        # What is ours already says what to do.
        message, hint = getattr(error, "what", str(error)), getattr(error, "hint", "")
        report = {"type": type(error).__name__, "message": message, "hint": hint}
        report["rank"] = hooks.rank()
        report["transient"] = _transient(error)
        records.write(FAILED, report)
        sys.stderr.flush()
        # The threads of a broken process group can hang an orderly exit.
        os._exit(1)
    return 0


def _transient(error: Exception) -> bool:
    """Whether a second try may end well: what the GPU or the ranks' connection said by its type."""
    if isinstance(error, RaceError):
        return error.transient
    import torch

    return isinstance(error, (torch.AcceleratorError, torch.distributed.DistError))


def _boundaries(options: argparse.Namespace) -> hooks.Boundaries:
    alive = options.control / hooks.ALIVE
    alive.touch()
    group = Group(**strict_json.read(options.group), live=alive.touch) if options.group else None
    return hooks.Boundaries(
        options.control,
        options.checkpoint_interval,
        hooks.rank(),
        group,
        options.patience,
        60 * options.checkpoint_minutes,
    )


def _train(arguments: list[str], boundaries: hooks.Boundaries | None) -> None:
    from components.train import compat

    try:
        compat.run("fairseq-train", arguments, boundaries.install if boundaries else None)
    except hooks.Stopped:
        sys.stdout.write(f"{hooks.STOPPED}\n")
        sys.stdout.flush()
        _leave(boundaries)
    except Ended:
        _leave(boundaries)
    except CollapseError:
        _leave(boundaries)
        raise
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _leave(boundaries: hooks.Boundaries | None) -> None:
    """End together with the ranks of other nodes, which have come to the same point."""
    if boundaries and boundaries.group:
        boundaries.group.leave()


if __name__ == "__main__":
    raise SystemExit(main())
