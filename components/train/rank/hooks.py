"""What a rank does besides fairseq-train: signs of life, checkpoints between epochs, an early end.

fairseq has no hooks for these. The functions that it calls by the name of their module, once after
each update, when it validates, saves and loads, are wrapped; `install` says which.

A folder, `control`, joins a rank and the process that supervises the ranks:

    rank.json       made by the supervisor: `links`, the folder to work in (see
                    components.train.flags.fairseq_arguments); `fitting`, the `path` of the
                    pretrained checkpoint and the `shape` that it must have; `group`, arguments of
                    components.train.rank.group.Group; `boundaries`, those of Boundaries
    alive           touched when a rank starts, after each update and each validation batch
    stop            made by the supervisor: end soon, with a checkpoint
    stop-after      made by rank 0 for the others: after how many updates
    update-000500/  a checkpoint that is whole, for the supervisor to publish and remove; before
                    rank 0 makes the next one, it waits for that

The ranks of several nodes have such a folder on each, see components.train.rank.group.
"""

import functools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.files import link_or_copy
from components.train import records
from components.train.rank.group import Group, SharedStop
from components.train.roberta import Shape, require_same_shape, roberta_of

SAVED = "SAVED "
STOPPED = "STOPPED "  # a rank's last word when training ended because it was asked to

INSTRUCTIONS, ALIVE, STOP, STOP_AFTER = "rank.json", "alive", "stop", "stop-after"
EXACT = "exact"  # in fairseq's extra_state
CHECKPOINT, BEST = "checkpoint.pt", "checkpoint_best.pt"

# Seconds that rank 0 waits for a publication. A store that is slow loses a killed run no more than
# one interval and one publication so; one that is down must not stop training.
PATIENCE = 60.0


class Stopped(Exception):
    """Training ends before its time, because it was asked to; a checkpoint is written."""


class Stop:
    """How the ranks of one machine find the same boundary to stop at.

    Rank 0 decides for the next one. No rank gets there before it has exchanged gradients with
    rank 0 after that, so each finds the decision.
    """

    def __init__(self, control: Path) -> None:
        self.control = control

    def asked(self) -> bool:
        return (self.control / STOP).exists()

    def decide(self, after: int) -> None:
        partial = self.control / f"{STOP_AFTER}.partial"
        partial.write_text(str(after))
        partial.replace(self.control / STOP_AFTER)

    def decided(self) -> int | None:
        """After how many boundaries; None as long as that is open."""
        try:
            return int((self.control / STOP_AFTER).read_text())
        except FileNotFoundError:
            return None


@dataclass
class Boundaries:
    """Watches over the boundaries between updates, on each rank.

    Args:
        control: the folder.
        interval: updates between two checkpoints, besides those that fairseq writes; 0 is none, and
            None that no checkpoint is handed over.
        rank: of this process.
        group: the ranks of all nodes, if there are several.
        patience: seconds to wait for the publication of a checkpoint, before the next one.
        longest: seconds after which there is a checkpoint at the next boundary; 0 is never.
    """

    control: Path
    interval: int | None
    rank: int
    group: Group | None = None
    patience: float = PATIENCE
    longest: float = 0

    def __post_init__(self) -> None:
        group, control = self.group, self.control
        self.stop = SharedStop(group, control / STOP) if group else Stop(control)
        self.passed = 0
        self.stop_after: int | None = None
        self.saved_at = -1  # updates
        self.saved_when = time.monotonic()
        self.fresh = False  # saved since the last boundary
        self.saving_took = 0.0  # seconds

    def install(self) -> None:
        """Wrap fairseq's functions."""
        self.live()
        if self.rank == 0:
            records.install(functools.partial(records.write, records.RECORD))
        import fairseq_cli.train
        from fairseq import checkpoint_utils
        from fairseq.trainer import Trainer

        @records.wraps(fairseq_cli.train, "validate_and_save")
        def at_boundary(
            check: Any, cfg: Any, trainer: Any, task: Any, epoch_itr: Any, subsets: Any, end: bool
        ) -> Any:
            self.live()
            losses, ends = check(cfg, trainer, task, epoch_itr, subsets, end)
            self.reached(cfg, trainer, epoch_itr, last=bool(end or ends))
            return losses, ends

        # fairseq keeps the best score as an attribute of what has the name `save_checkpoint`.
        @records.wraps(checkpoint_utils, "save_checkpoint")
        def saving(save: Any, cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> None:
            started = time.monotonic()
            save(cfg, trainer, epoch_itr, val_loss)
            self.saved_when = time.monotonic()
            self.saving_took = self.saved_when - started
            self.saved_at, self.fresh = trainer.get_num_updates(), True

        @records.wraps(checkpoint_utils, "load_checkpoint")
        def loading(load: Any, cfg: Any, trainer: Any, **arguments: Any) -> Any:
            self.live()
            if self.group:
                self.group.agree(cfg)
            extra_state, epoch_itr = load(cfg, trainer, **arguments)
            if extra_state is not None and not cfg.reset_meters:
                _restore_interval(extra_state)
                if type(trainer) is Trainer:
                    _restore_weights(Path(cfg.restore_file), trainer, extra_state)
            return extra_state, epoch_itr

        @records.wraps(Trainer, "valid_step")
        def validating(step: Any, trainer: Any, *arguments: Any, **named: Any) -> Any:
            self.live()
            return step(trainer, *arguments, **named)

        @records.wraps(Trainer, "save_checkpoint")  # the packed engine has its own
        def writing(write: Any, trainer: Any, filename: str, extra_state: dict[str, Any]) -> None:
            if self.interval is not None:
                extra_state = extra_state | _exact(trainer.optimizer)
            write(trainer, filename, extra_state)

    def live(self) -> None:
        (self.control / ALIVE).touch()

    def reached(self, cfg: Any, trainer: Any, epoch_itr: Any, *, last: bool) -> None:
        """Called on all ranks after each update, when fairseq has saved if it wanted to.

        Args:
            last: of the epoch or the run; fairseq has saved then, and goes on to sum them up.

        Raises:
            Stopped: the run was asked to end.
        """
        from fairseq import checkpoint_utils

        self.passed += 1
        updates = trainer.get_num_updates()
        stops = self._stops() and not last
        due = self.interval and updates and updates % self.interval == 0
        if (due or ((stops or self._late()) and self.rank == 0)) and self.saved_at != updates:
            # Where an uninterrupted run would write none, that must not change what follows: it is
            # up to rank 0 alone, and a trainer that goes on from what it wrote does not.
            trainer.exact = not due
            # Without a score, it is not a candidate for the best one.
            checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, None)
            trainer.exact = False
        if self.fresh and self.rank == 0 and self.interval is not None:
            self._hand_over(Path(cfg.checkpoint.save_dir), updates, epoch_itr, last)
        self.fresh = False
        if stops:
            raise Stopped

    def _late(self) -> bool:
        """Whether the last checkpoint is older than it may be."""
        return 0 < self.longest < time.monotonic() - self.saved_when

    def _stops(self) -> bool:
        """Whether to end here, which all ranks find at the same boundary."""
        if self.stop_after is None:
            if self.stop.asked() and self.rank == 0:
                self.stop.decide(self.passed + 1)
            self.stop_after = self.stop.decided()
        return self.stop_after is not None and self.passed >= self.stop_after

    def _hand_over(self, save_dir: Path, updates: int, epoch_itr: Any, last: bool) -> None:
        waited = self._wait()
        folder = self.control / f"update-{updates:06d}"
        folder.mkdir(exist_ok=True)
        newest, best = save_dir / "checkpoint_last.pt", save_dir / "checkpoint_best.pt"
        link(newest, folder / CHECKPOINT)
        is_best = best.exists() and best.samefile(newest)
        if best.exists() and not is_best:
            link(best, folder / BEST)
        saved = {
            "folder": str(folder),
            "update": updates,
            "epoch": epoch_itr.state_dict()["epoch"],
            "best": CHECKPOINT if is_best else BEST if best.exists() else "",
            "last": last,
            # In which nothing was trained: for the writing, and for the store.
            "seconds": round(self.saving_took, 3),
            "waited": round(waited, 3),
            "late": waited >= self.patience,
        }
        records.write(SAVED, saved)

    def _wait(self) -> float:
        """Wait until the checkpoint before is published or has failed; how long it took, in s."""
        started = time.monotonic()
        while any(self.control.glob("update-*")) and not self.stop.asked():
            if time.monotonic() - started >= self.patience:
                break
            self.live()
            time.sleep(0.05)
        return time.monotonic() - started


# The tensors of a pretrained checkpoint that was looked into before fairseq asks for it.
_fitting: dict[Path, dict[str, Any]] = {}


def require_fitting(path: Path, wanted: Shape) -> None:
    """Refuse a pretrained checkpoint that cannot be trained, before anything is built.

    Raises:
        ConfigError: the model has another size.
        DataError: it is missing, damaged, not safe, or no RoBERTa.
    """
    from components.train import checkpoints

    found = roberta_of(checkpoints.load(path), path, ranks=False, layers=wanted.layers)
    require_same_shape(found.shape, wanted, path)
    _fitting[path.resolve()] = found.tensors


def check_checkpoints() -> None:
    """Let fairseq load only what was checked, and nothing that it would evaluate or build from.

    Training goes on from all that a checkpoint holds, or starts from its model (`reset_optimizer`),
    which may lack the head then. A node may learn only while it starts which of the two it is.
    """
    from fairseq import checkpoint_utils
    from fairseq.trainer import Trainer

    @records.wraps(Trainer, "load_checkpoint")
    def loading(
        load: Any, trainer: Any, filename: str, reset_optimizer: bool = False, *more: Any, **n: Any
    ) -> Any:
        read = functools.partial(_checked, resumes=not reset_optimizer)
        checkpoint_utils.load_checkpoint_to_cpu = read
        return load(trainer, filename, reset_optimizer, *more, **n)

    checkpoint_utils.load_checkpoint_to_cpu = functools.partial(_checked, resumes=False)


def link_checkpoints() -> None:
    """Let fairseq give a checkpoint several names, where it would copy it.

    A checkpoint is never changed once it is written, so a link does as well; it takes no time and
    no space, and there is no moment at which half a file has the name.
    """
    from fairseq.file_io import PathManager

    @records.wraps(PathManager, "copy")
    def linking(copy: Any, source: str, target: str, overwrite: bool = False) -> bool:
        link(Path(source), Path(target))
        return True


def link(source: Path, target: Path) -> None:
    """Give a file a second name, in place of what has it; a copy where there are no links."""
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    link_or_copy(source, partial)
    partial.replace(target)


def _checked(
    path: str, arg_overrides: object = None, load_on_all_ranks: bool = True, *, resumes: bool
) -> dict[str, Any]:
    from components.train import checkpoints

    file = Path(path).resolve()  # as its user calls it
    model = None if resumes else _fitting.pop(file, None)
    if model is None:
        state = checkpoints.load(file)
        model = roberta_of(state, file, ranks=resumes).tensors
    if resumes:
        kept = ("optimizer_history", "extra_state", "last_optimizer_state")
        return {"model": model, **{name: state.get(name) for name in kept}}
    start = {"train_iterator": {"epoch": 1}}
    return {"model": model, "optimizer_history": [], "extra_state": start}


def _restore_interval(extra_state: dict[str, Any]) -> None:
    """Take over the means since the last line of the log.

    fairseq drops all of them where a checkpoint is from the end of an epoch; but this interval goes
    on from one epoch to the next.
    """
    from fairseq.logging import metrics

    interval = extra_state.get("metrics", {}).get("train_inner")
    if interval is not None:
        metrics.load_state_dict({"train_inner": interval})


def _exact(optimizer: Any) -> dict[str, Any]:
    """What fairseq's checkpoints of 16-bit training lack: the weights in 32 bits, and the scaler.

    Without them a resumed run starts from rounded weights.
    """
    if not hasattr(optimizer, "fp32_params"):
        return {}
    scaler = optimizer.scaler
    return {
        EXACT: {
            "weights": [weight.detach().cpu() for weight in _masters(optimizer)],
            "scaler": None if scaler is None else dict(vars(scaler)),
        }
    }


def _masters(optimizer: Any) -> list[Any]:
    weights = optimizer.fp32_params  # flat ones by device, or one for each parameter
    return list(weights.values()) if isinstance(weights, dict) else list(weights)


def _restore_weights(path: Path, trainer: Any, extra_state: dict[str, Any]) -> None:
    """Make a stock trainer's weights exactly those that were saved.

    fairseq makes its copies of weights for its fast inference again when it loads a checkpoint.
    In training nothing reads them, but they are in the next checkpoint.
    """
    import torch

    from components.train import checkpoints

    exact = extra_state.pop(EXACT, None)
    with torch.no_grad():
        if exact is None:
            saved = checkpoints.load(path)["model"]
            # Not the parameters by name: a wrapper for several ranks calls them otherwise.
            for name, weight in trainer.model.state_dict().items():
                weight.copy_(saved[name])
            return
        optimizer = trainer.optimizer
        for weight, value in zip(_masters(optimizer), exact["weights"], strict=True):
            weight.copy_(value)
        if optimizer.scaler is not None and exact["scaler"] is not None:
            vars(optimizer.scaler).update(exact["scaler"])
        optimizer._sync_fp32_params_to_fp16()


def rank() -> int:
    return int(os.environ.get("RANK", "0"))
