"""One rank of a training: fairseq-train in a process that dies with the one that started it.

    python -m components.train.rank.worker [--control DIR] DATA --arch ...

`--control` is the folder that joins it with the process that supervises, see
components.train.rank.hooks; the rest are fairseq-train's arguments. What ends it is written as one
line, FAILED and a JSON object, for that process.
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
    own.add_argument("--control", type=Path)
    options, arguments = own.parse_known_args(argv)
    control: Path | None = options.control
    try:
        _train(arguments, _boundaries(control) if control else None)
    except Exception as raised:
        traceback.print_exc()
        # The folder `control` lies below the output that is being made.
        output = control.parents[2] if control else Path()
        places = (output, Path(tempfile.gettempdir()))
        error = raised if isinstance(raised, RaceError) else no_space(raised, *places) or raised
        # What is ours already says what to do.
        message, hint = getattr(error, "what", str(error)), getattr(error, "hint", "")
        report = {"type": type(error).__name__, "message": message, "hint": hint}
        records.write(FAILED, {**report, "rank": hooks.rank(), "transient": _transient(error)})
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


def _boundaries(control: Path) -> hooks.Boundaries:
    """Do as the supervisor says in `control`, before fairseq is imported."""
    alive = control / hooks.ALIVE
    alive.touch()
    instructions = strict_json.read(control / hooks.INSTRUCTIONS)
    os.chdir(instructions["links"])
    if fitting := instructions["fitting"]:
        hooks.require_fitting(Path(fitting["path"]), Shape(**fitting["shape"]))
    group = Group(**instructions["group"], live=alive.touch) if instructions["group"] else None
    return hooks.Boundaries(control, rank=hooks.rank(), group=group, **instructions["boundaries"])


def _train(arguments: list[str], boundaries: hooks.Boundaries | None) -> None:
    from components.train import compat

    try:
        compat.run("fairseq-train", arguments, boundaries.install if boundaries else None)
    except hooks.Stopped:
        records.write(hooks.STOPPED, {})
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
