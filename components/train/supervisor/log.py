"""What training tells, as records and as a live line."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.common.progress import bar
from components.train.config import Plan
from components.train.records import Record


@dataclass
class TrainLog:
    """Keeps the records that rank 0 tells.

    To the fields that `records.install` tells of it adds `seconds` since the start of the run, and
    while it trains `skipped_updates`: how many were so far, for overflow, if any.
    """

    clock: Callable[[], float] = time.monotonic
    records: list[Record] = field(default_factory=list)
    skipped_updates: int = 0
    before: float = 0.0
    """Seconds that the run took until it was interrupted; `records` are those of that time."""
    restarts: int = 0
    """How often the ranks were started again by this process."""

    def __post_init__(self) -> None:
        self._start = self.clock()

    def go_back(self, records: list[Record], skipped_updates: int, seconds: float) -> None:
        """Take over the log of an interrupted run, and the seconds that it had taken by then."""
        self.records, self.skipped_updates, self.before = records, skipped_updates, seconds
        self._start = self.clock()

    @property
    def update(self) -> int:
        """The last update that was told of."""
        return max((record["update"] for record in self.records), default=0)

    @property
    def seconds(self) -> float:
        """How long the run has taken, as far as it was not lost."""
        return round(self.before + self.clock() - self._start, 2)

    def add(self, told: Record) -> Record | None:
        """The record of what was told; None when that was a skipped update."""
        if "skipped" in told:
            self.skipped_updates += told["skipped"]
            return None
        record = told | {"seconds": self.seconds}
        if record["split"] != "valid" and self.skipped_updates:
            record["skipped_updates"] = self.skipped_updates
        self.records.append(record)
        return record

    def of(self, split: str) -> list[Record]:
        return [record for record in self.records if record["split"] == split]

    def questions_per_second(self, per_update: int) -> float | None:
        """Mean rate of training alone, between the first record of each epoch and its last.

        Start-up, validation and the writing of checkpoints are left out. None for less than two
        records in an epoch.

        Args:
            per_update: questions in a full update.
        """
        updates, seconds = training_alone(self.records)
        return round(updates * per_update / seconds, 2) if seconds > 0 else None


def training_alone(records: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    """How many updates were made between two records of training in an epoch, in how many seconds.

    Between these was nothing else, such as a validation.
    """
    kept = [record for record in records if record["split"] != "train_epoch"]
    updates, seconds = 0, 0.0
    for before, after in itertools.pairwise(kept):
        if before["split"] == after["split"] == "train" and before["epoch"] == after["epoch"]:
            updates += after["update"] - before["update"]
            seconds += after["seconds"] - before["seconds"]
    return updates, seconds


def duration(seconds: float) -> str:
    """A time for people: 42 s, 3 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


class Display:
    """Training as it goes: a live line on a terminal, elsewhere a line every ten seconds.

    Args:
        show: where finished lines go.
        restarts: how often the ranks were started again.
    """

    EVERY_SECONDS = 10.0

    def __init__(
        self,
        plan: Plan,
        epochs: int,
        show: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        restarts: int = 0,
    ) -> None:
        self._restarted = f", restarts: {restarts}" if restarts else ""
        self._plan, self._epochs, self._show, self._clock = plan, epochs, show, clock
        self._bar = bar(total=plan.updates, what="train", unit="update")
        self._shown_at = clock()
        self._first: Record | None = None

    def update(self, record: Record) -> None:
        if record["split"] == "train":
            self._interval(record)
        else:
            what = "trained" if record["split"] == "train_epoch" else "validated"
            self._write(f"epoch {record['epoch']}/{self._epochs} {what}: {_figures(record)}")

    def _interval(self, record: Record) -> None:
        self._first = self._first or record
        figures = _figures(record)
        if "questions_per_second" in record:
            figures += f", {record['questions_per_second']:.0f} questions/s"
        if record.get("tokens_per_second"):
            figures += f", {record['tokens_per_second']:.0f} tokens/s"
        if record.get("percent_of_peak"):
            figures += f", {record['percent_of_peak']:.0f} % of the GPU's peak"
        figures += self._restarted
        self._bar.set_postfix_str(
            f"epoch {record['epoch']}/{self._epochs}, {figures}", refresh=False
        )
        self._bar.update(record["update"] - self._bar.n)
        if self._bar.disable and self._clock() - self._shown_at >= self.EVERY_SECONDS:
            left = self._seconds_left(record)
            self._write(
                f"epoch {record['epoch']}/{self._epochs},"
                f" update {record['update']}/{self._plan.updates}: {figures}"
                + (f", {duration(left)} left" if left is not None else "")
            )

    def _seconds_left(self, record: Record) -> float | None:
        assert self._first is not None
        updates = record["update"] - self._first["update"]
        seconds: float = record["seconds"] - self._first["seconds"]
        return (self._plan.updates - record["update"]) * seconds / updates if updates else None

    def _write(self, line: str) -> None:
        self._show(line)
        self._shown_at = self._clock()

    def close(self) -> None:
        self._bar.close()


def _figures(record: Record) -> str:
    loss = "not finite" if record["loss"] is None else f"{record['loss']:.3f}"
    accuracy = record.get("accuracy")
    return f"loss {loss}" + ("" if accuracy is None else f", accuracy {accuracy:.1f} %")
