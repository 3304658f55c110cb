"""The progress of training, for people without access to its pod: one small object in a store.

It is rewritten at `checkpoint_uri/train_log.jsonl` until training has ended well. Its first line
has how many updates and epochs there shall be, the others are records of the log, the older ones
thinned out; `pipeline.curve` draws it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.common import strict_json
from components.common.errors import DataError, RaceError
from components.common.retry import Patience
from components.train.config import Plan
from components.train.records import Record, lines_of, parse

logger = logging.getLogger(__name__)

NAME = "train_log.jsonl"
MAX_BYTES = 1 << 20  # of what is read back
MOST = 400  # records of training; all of validation are kept
EVERY = 15.0  # seconds
LAST = 5.0  # seconds that the end of training waits for what is being written
_FIELDS = ("split", "epoch", "update", "loss", "accuracy", "learning_rate", "seconds")
# A store that does not answer is asked again with the next records.
_PATIENCE = Patience(attempts=1, connect=5.0, read=10.0)


@dataclass(frozen=True)
class Curve:
    """The records so far, and how many updates and epochs there shall be."""

    updates: int
    epochs: int
    records: Sequence[Record]

    def of(self, split: str) -> list[Record]:
        return [record for record in self.records if record["split"] == split]


def compose(records: Sequence[Record], updates: int, epochs: int) -> bytes:
    """What is stored: at most some 100 kB."""
    train = [place for place, record in enumerate(records) if record["split"] == "train"]
    step = -(-len(train) // MOST) or 1
    left_out = set(train) - set(train[::-1][::step])  # the newest stays
    lines = [{"updates": updates, "epochs": epochs}]
    for place, record in enumerate(records):
        if place not in left_out:
            lines.append({name: record[name] for name in _FIELDS if name in record})
    return lines_of(lines).encode()


def read(data: bytes, where: str) -> Curve:
    """What `compose` has made, from a store that others may write to.

    Raises:
        DataError: it is something else.
    """
    try:
        first, *others = data.decode().splitlines()
        head = strict_json.loads(first)
        return Curve(int(head["updates"]), int(head["epochs"]), [*map(parse, others)])
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{where}: no log of training: {str(error)[:80]}") from None


def remove(uri: str) -> None:
    """Remove what lies at this `checkpoint_uri`: the run has ended, and its output has the log."""
    from components.common import storage

    with contextlib.suppress(RaceError, OSError):
        storage.remove_objects(f"{uri}/{NAME}")


class LiveCurve:
    """Stores the records while training runs, in a thread; training never waits for it or fails."""

    def __init__(
        self, uri: str, plan: Plan, epochs: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._uri, self._updates, self._epochs = f"{uri}/{NAME}", plan.updates, epochs
        self._clock, self._written = clock, float("-inf")
        self._thread = threading.Thread()

    def logged(self, records: Sequence[Record]) -> None:
        """Store these, unless others were just stored, or still are being stored."""
        if self._clock() - self._written >= EVERY and not self._thread.is_alive():
            self._start(records)

    def close(self, records: Sequence[Record]) -> None:
        """Store the last ones, if that takes no more than `LAST` seconds."""
        if self._thread.is_alive():
            self._thread.join(LAST)
        if not self._thread.is_alive():
            self._start(records)
            self._thread.join(LAST)

    def _start(self, records: Sequence[Record]) -> None:
        self._written = self._clock()
        data = compose(records, self._updates, self._epochs)
        self._thread = threading.Thread(target=self._write, args=(data,), daemon=True)
        self._thread.start()

    def _write(self, data: bytes) -> None:
        from components.common import storage  # boto3 takes a while to import

        try:
            storage.write_small(self._uri, data, _PATIENCE)
        except (RaceError, OSError) as error:
            logger.debug("%s was not written: %s", self._uri, error)
