"""Progress on long work: a bar with rate and time left on a terminal, a quiet line elsewhere."""

import logging
import sys
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def bar(
    *, total: int | None, what: str, unit: str = "it", initial: int = 0, bytes: bool = False
) -> Any:
    """A tqdm bar on stderr, shown only on a terminal; `update(n)` and `close()` as tqdm has them.

    `bytes` counts in binary units (KiB, MiB).
    """
    return tqdm(
        total=total,
        desc=what,
        unit="B" if bytes else unit,
        unit_scale=bytes,
        unit_divisor=1024 if bytes else 1000,
        initial=initial,
        disable=not sys.stderr.isatty(),
        leave=False,
        dynamic_ncols=True,
        file=sys.stderr,
    )


class LogHandler(logging.StreamHandler[Any]):
    """Writes log lines to stderr above the bars, which would otherwise be torn apart by them."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def duration(seconds: float) -> str:
    """A time for people: 4.2 s, 3 min 04 s or 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
