"""What fairseq prints while it trains, as records and as a live line."""

import itertools
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from components.common.progress import bar
from components.train.config import Plan

# 2026-01-31 12:00:00 | INFO | train_inner | {"epoch": 1, "loss": "1.998", ...}
_RECORD = re.compile(r"\| (train_inner|train|valid) \| (\{.*\})\s*$")

# Name in a record: name in fairseq's output. Losses are separate: fairseq gives them in bits.
_VALUES = {
    "accuracy": "accuracy",
    "learning_rate": "lr",
    "gradient_norm": "gnorm",
    "loss_scale": "loss_scale",
    # Of the packed engine only.
    "tokens_per_second": "tokens_per_second",
    "percent_of_peak": "peak_percent",
    "memory_gb": "gb_used",
}

Record = dict[str, Any]


@dataclass
class TrainLog:
    """Reads fairseq-train's lines and keeps the records.

    A record has: `split` ("train": mean since the record before; "train_epoch": mean of the epoch;
    "valid"), `epoch`, `update`, `loss` (nats per question), `accuracy` (percent), `seconds` since
    the start of the run, and where fairseq gives them `learning_rate`, `gradient_norm`,
    `loss_scale`, `tokens_per_second`, `percent_of_peak` (of the GPU's known speed in matrix
    products), `memory_gb`, `questions_per_second` and `skipped_updates` (so far, for overflow).
    fairseq rounds losses to 0.001 bits and accuracies to 0.1 %. A value that is not finite is None.
    """

    clock: Callable[[], float] = time.monotonic
    records: list[Record] = field(default_factory=list)
    skipped_updates: int = 0
    before: float = 0.0
    """Seconds that the run took until it was interrupted; `records` are those of that time."""

    def __post_init__(self) -> None:
        self._start = self.clock()

    @property
    def seconds(self) -> float:
        """How long the run has taken, as far as it was not lost."""
        return round(self.before + self.clock() - self._start, 2)

    def read(self, line: str) -> Record | None:
        """The record in a line of output; None when there is none."""
        if "gradient overflow detected, ignoring gradient" in line:
            self.skipped_updates += 1
            return None
        found = _RECORD.search(line)
        if found is None:
            return None
        try:
            values = json.loads(found[2])
        except ValueError:
            return None
        split = {"train_inner": "train", "train": "train_epoch", "valid": "valid"}[found[1]]
        prefix = "" if split == "train" else f"{found[1]}_"

        def number(name: str) -> float | None:
            try:
                value = float(values[prefix + name])
            except (KeyError, TypeError, ValueError):
                return None
            return value if math.isfinite(value) else None

        loss, update = number("loss"), number("num_updates")
        if update is None:
            return None
        record: Record = {
            "split": split,
            "epoch": int(values.get("epoch", 0)),
            "update": int(update),
            "loss": None if loss is None else round(loss * math.log(2), 6),
            "seconds": self.seconds,
        }
        for name, theirs in _VALUES.items():
            if prefix + theirs in values:
                record[name] = number(theirs)
        updates_per_second, questions = number("ups"), number("bsz")
        if split == "train" and updates_per_second and questions:
            record["questions_per_second"] = round(updates_per_second * questions, 2)
        if split != "valid" and self.skipped_updates:
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
        updates, seconds = 0, 0.0
        train = self.of("train")
        validations = {record["update"] for record in self.of("valid")}
        for before, after in itertools.pairwise(train):
            between = range(before["update"], after["update"])
            if before["epoch"] == after["epoch"] and not validations.intersection(between):
                updates += after["update"] - before["update"]
                seconds += after["seconds"] - before["seconds"]
        return round(updates * per_update / seconds, 2) if seconds > 0 else None


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
    """

    EVERY_SECONDS = 10.0

    def __init__(
        self,
        plan: Plan,
        epochs: int,
        show: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
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
