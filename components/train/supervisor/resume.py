"""Checkpoints: kept and published while training runs, found again when it starts or goes on.

An artifact `checkpoint_uri/update-000500` holds checkpoint.pt, checkpoint_best.pt unless that is
the same one, the records of the log up to then, TensorBoard's files, and progress.json. Its
manifest says what the run was made of, so that no other run goes on from it. The newest one, and
that from which the run started, is also in the folder `KEPT` of the output that is being made.
"""

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.common import strict_json
from components.common.errors import ConfigError, DataError, RaceError
from components.common.files import link_or_copy
from components.common.settings import Settings
from components.train import checkpoints
from components.train.config import Plan, TrainConfig
from components.train.data import vocabulary_size
from components.train.rank.hooks import BEST, CHECKPOINT
from components.train.records import Record, lines_of, parse
from components.train.roberta import differences, roberta_of
from components.train.supervisor import curve
from components.train.supervisor.log import TrainLog
from components.train.supervisor.provenance import Provenance

logger = logging.getLogger(__name__)

KEPT = "kept"
PROGRESS, LOG, TENSORBOARD = "progress.json", "train_log.jsonl", "tensorboard"

# fairseq makes each by its name.
METERS = ("AverageMeter", "SumMeter", "TimeMeter", "StopwatchMeter")

# Of what is read back: 27,000 updates make less than 1 MiB of records.
MAX_PROGRESS, MAX_LOG = 1 << 16, 256 << 20  # bytes


@dataclass(frozen=True)
class Progress:
    """How far a run had come: what fairseq's own checkpoint does not tell, or not as easily."""

    update: int
    epoch: int  # that goes on, or comes next
    best: str  # name of the file with the best checkpoint; "" if there is none yet
    skipped_updates: int
    seconds: float

    def ends(self, config: TrainConfig) -> bool:
        """Whether nothing is left to do."""
        return self.epoch > config.epochs or 0 < config.max_updates <= self.update


def restore(
    config: TrainConfig, origin: Provenance, folder: Path
) -> tuple[Progress | None, TrainLog]:
    """Fetch the newest checkpoint that is whole; None where there is none to go on from.

    Looks at `checkpoint_uri`, where an earlier attempt at the same run may have left some, and then
    at `resume_from`. `folder/checkpoints` then holds what fairseq would find there, and the log is
    as it was. A new log's time begins now: the look into the store is no part of it.

    Raises:
        ConfigError: the checkpoints are of another training.
        DataError: all checkpoints are damaged, or `resume_from` has none.
        TransferError: the store could not be reached.
    """
    from components.common import storage  # boto3 takes a while to import

    for uri in (config.checkpoint_uri, config.resume_from):
        if not uri:
            continue
        newest = storage.find(uri) or storage.newest(uri)
        if newest and (differing := origin.differences(newest.manifest)):
            raise ConfigError(
                f"{newest.address} is of another training: {'; '.join(differing)}",
                hint="Use its parameters and data, or another checkpoint_uri",
            )
        started = time.monotonic()
        artifact = storage.fetch_newest(uri, folder / KEPT)
        if artifact:
            require_usable(config, folder / KEPT, artifact.address)
            log = TrainLog()
            progress = place(folder, artifact.address, log)
            logger.info(
                "going on from %s, update %d: fetched and checked in %.1f s",
                artifact.address,
                progress.update,
                time.monotonic() - started,
            )
            return progress, log
    if config.resume_from:
        raise DataError(
            f"{config.resume_from}: no checkpoint is there to resume from",
            hint="Give the checkpoint_uri of a run that has published one",
        )
    return None, TrainLog()


def require_usable(config: TrainConfig, fetched: Path, where: str) -> None:
    """Refuse a checkpoint that was fetched and cannot be gone on from; `where` it came from.

    Raises:
        DataError: it is damaged, unsafe or of another model.
    """
    progress = read_progress(fetched / PROGRESS, where)
    wanted = config.shape(vocabulary_size(config.data))
    try:
        for name in sorted({CHECKPOINT, progress.best or CHECKPOINT}):
            state = checkpoints.load(fetched / name)
            model = roberta_of(state, fetched / name, ranks=True)
            if differing := differences(model.shape, wanted):
                raise _unusable(where, f"{name}: {'; '.join(differing)}")
            if name == CHECKPOINT:
                _require_resumable(state, progress.update, where)
    except DataError as error:
        raise DataError(error.what.replace(str(fetched), where), hint=_HINT) from error


def place(folder: Path, where: str, log: TrainLog) -> Progress:
    """Have a run, and its log, as they were when the files that are kept were written.

    Raises:
        DataError: its progress or its records are not what they should be.
    """
    fetched = folder / KEPT
    progress = read_progress(fetched / PROGRESS, where)
    records = read_records(fetched / LOG, where)
    save_dir = folder / "checkpoints"
    save_dir.mkdir()
    link_or_copy(fetched / CHECKPOINT, save_dir / "checkpoint_last.pt")
    if progress.best:
        link_or_copy(fetched / progress.best, save_dir / "checkpoint_best.pt")
    if (fetched / TENSORBOARD).is_dir():
        shutil.copytree(fetched / TENSORBOARD, folder / TENSORBOARD)
    log.go_back(records, progress.skipped_updates, progress.seconds)
    return progress


def _require_resumable(state: dict[str, Any], update: int, where: str) -> None:
    """Refuse a checkpoint that fairseq could not go on from; it believes what it reads."""
    history, extra = state.get("optimizer_history"), state.get("extra_state")
    last = history[-1] if isinstance(history, list) and history else None
    saved = last.get("num_updates") if isinstance(last, dict) else None
    if type(saved) is not int or saved != update:
        raise DataError(f"{where}: its checkpoint is not of update {update}")
    if not isinstance(extra, dict):
        raise _unusable(where, "it has no extra_state")
    place = Settings(extra, where, _HINT).below("train_iterator")
    for name, least in (("epoch", 1), ("iterations_in_epoch", 0)):
        place.whole(name, least, 1 << 53)
    meters = extra.get("metrics", {})
    if not isinstance(meters, dict) or not all(
        type(meter) is tuple and len(meter) == 4 and meter[2] in METERS
        for group in meters.values()
        for meter in (group if isinstance(group, list) else [None])
    ):
        raise _unusable(where, "its meters")


def read_progress(path: Path, where: str) -> Progress:
    """The content of progress.json, which came from a store that others may write to.

    Raises:
        DataError: it is not what it should be.
    """
    try:
        value = strict_json.loads(_read(path, MAX_PROGRESS, where))
        if (seconds := strict_json.number(value["seconds"])) < 0:
            raise ValueError("its seconds")
    except (LookupError, TypeError, ValueError) as error:
        raise _unusable(where, f"{PROGRESS}: {str(error)[:80]}") from None
    told = Settings(value, f"{where}: {PROGRESS}", _HINT)
    update, epoch, skipped = (
        told.whole(name, 0, 1 << 53) for name in ("update", "epoch", "skipped_updates")
    )
    best = told.choice("best", ("", CHECKPOINT, BEST), "")
    return Progress(update, epoch, best, skipped, seconds)


def read_records(path: Path, where: str) -> list[Record]:
    """The records of a log, which came from a store that others may write to.

    Raises:
        DataError: one is not what `TrainLog` makes.
    """
    records: list[Record] = []
    for line in _read(path, MAX_LOG, where).splitlines():
        try:
            records.append(parse(line))
        except ValueError as error:
            what = f"record {len(records) + 1} of {LOG}: {str(error)[:80]}"
            raise _unusable(where, what) from None
    return records


def _read(path: Path, limit: int, where: str) -> str:
    try:
        if path.stat().st_size > limit:
            raise ValueError(f"larger than {limit} bytes")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _unusable(where, f"it has no {path.name}") from None
    except ValueError as error:
        raise _unusable(where, f"{path.name}: {str(error)[:80]}") from None


def _unusable(where: str, what: str) -> DataError:
    return DataError(f"{where} is not a checkpoint of this step: {what}", hint=_HINT)


_HINT = "Remove it to go on from the one before, or give another address"


def remove_checkpoints(config: TrainConfig, origin: Provenance) -> None:
    """Remove what a run that has ended had at `checkpoint_uri`, and nothing else that lies there.

    Its output has to be whole: from here on, the run would start from the beginning. A failure is
    only logged.
    """
    from components.common import storage

    def own(artifact: storage.Artifact) -> bool:
        named = re.fullmatch(r"update-\d{6,}", artifact.name)
        return bool(named) and not origin.differences(artifact.manifest)

    try:
        removed = storage.remove_all(config.checkpoint_uri, which=own)
    except (RaceError, OSError) as error:
        logger.warning("the run has ended, and its checkpoints were not removed: %s", error)
    else:
        logger.info("removed %d checkpoints: the run has ended", len(removed))


class Checkpoints:
    """Keeps the newest checkpoint that the ranks hand over, and publishes all while they train.

    Args:
        folder: the output that is being made.
    """

    def __init__(
        self, config: TrainConfig, plan: Plan, origin: Provenance, log: TrainLog, folder: Path
    ) -> None:
        self._config, self._origin, self._log, self._folder = config, origin, log, folder
        self._held: dict[str, Any] | None = None
        # How many, and seconds in which nothing was trained: for the writing, and for the store.
        self._saved, self._saving, self._waited = 0, 0.0, 0.0
        self._started = time.monotonic()
        self._publisher = None
        if config.checkpoint_uri:
            from components.common import storage

            self._publisher = storage.Publisher(config.checkpoint_uri, keep=config.keep_checkpoints)
        self._curve = curve.LiveCurve(config.checkpoint_uri, plan, config.epochs)

    def saved(self, about: Mapping[str, Any]) -> None:
        """Take over what a rank says after `hooks.SAVED`."""
        self._saved, self._saving = self._saved + 1, self._saving + about["seconds"]
        self._waited += about["waited"]
        if about["late"]:
            logger.warning(
                "the checkpoint before update %d is not published yet; after %.0f s training goes"
                " on, and may lose more than one interval when it is killed",
                about["update"],
                about["waited"],
            )
        if about["last"]:
            # Resuming from it would not sum the epoch up again, so that record has to be in it.
            self._held = dict(about)
        else:
            self._submit(about)

    def logged(self, record: Record) -> None:
        """Take note of a record, which the log has already."""
        if self._publisher:
            self._curve.logged(self._log.records)
        if self._held and record["split"] == "train_epoch":
            held, self._held = self._held, None
            self._submit(held)

    def _submit(self, about: Mapping[str, Any]) -> None:
        folder = Path(about["folder"])
        progress = Progress(
            update=about["update"],
            epoch=about["epoch"],
            best=about["best"],
            skipped_updates=self._log.skipped_updates,
            seconds=self._log.seconds,
        )
        strict_json.write(folder / PROGRESS, asdict(progress))
        (folder / LOG).write_text(lines_of(self._log.records), encoding="utf-8")
        if (self._folder / TENSORBOARD).is_dir():
            shutil.copytree(self._folder / TENSORBOARD, folder / TENSORBOARD)
        if self._config.restartable:
            shutil.rmtree(self._folder / KEPT, ignore_errors=True)
            shutil.copytree(folder, self._folder / KEPT, copy_function=link_or_copy)
        if self._publisher:
            producer, inputs = self._origin.producer, self._origin.inputs
            self._publisher.submit(folder, folder.name, producer=producer, inputs=inputs)
        else:
            shutil.rmtree(folder)

    def kept(self) -> int:
        """The update of the checkpoint that is kept; 0 where there is none."""
        if not (self._folder / KEPT).is_dir():
            return 0
        return read_progress(self._folder / KEPT / PROGRESS, KEPT).update

    def go_back(self) -> Progress | None:
        """Have the run as it was at the checkpoint that is kept, or at its start: None."""
        self._held = None
        for name in ("checkpoints", TENSORBOARD):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        if not (self._folder / KEPT).is_dir():
            self._log.go_back([], 0, 0.0)
            return None
        return place(self._folder, KEPT, self._log)

    def finish(self, seconds: float | None = None) -> None:
        """Wait until all is published, at most so long (seconds); a failure is only logged.

        What was trained is not to be lost because the store is.
        """
        if not self._publisher:
            return
        self._curve.close(self._log.records)
        if self._saved:
            spent = self._saving + self._waited
            share = 100 * spent / max(time.monotonic() - self._started, 1e-9)
            logger.info(
                "wrote %d checkpoints, in %.1f s, and waited %.1f s for the store (%.2f %% of the"
                " time)",
                self._saved,
                self._saving,
                self._waited,
                share,
            )
        started = time.monotonic()
        try:
            self._publisher.close(seconds)
        except (RaceError, OSError) as error:
            logger.warning("the last checkpoint was not published: %s", error)
            return
        if (waited := time.monotonic() - started) > 1:
            logger.info("waited %.0f s for the last checkpoint to be published", waited)

    @contextlib.contextmanager
    def closed(self) -> Iterator["Checkpoints"]:
        """Publish what is left when the block ends or fails; at once when it is interrupted."""
        try:
            yield self
        except Exception:
            self.finish(self._config.stop_timeout)
            raise
        except BaseException:
            if self._publisher:
                self._publisher.stop()
            raise
        else:
            self.finish()
