"""What a rank tells of training: fairseq's means, unrounded, as JSON lines for the supervisor.

fairseq rounds a loss to 0.001 bits and an accuracy to 0.1 % before anything gets to see them, and
says of a skipped update in words only. `install` wraps the methods where both can still be had.
"""

import functools
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from components.common import strict_json

RECORD = "RECORD "

Record = dict[str, Any]

# fairseq's name of a summary: `split` of its record.
_SPLITS = {"train_inner": "train", "train": "train_epoch", "valid": "valid"}

# Name in a record: name of fairseq's. Losses are separate: fairseq gives them in bits.
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


class _Means(OrderedDict[str, Any]):
    """What fairseq logs, rounded as it does that, beside the same values as they are."""

    exact: dict[str, float | None]


def write(kind: str, value: Mapping[str, Any]) -> None:
    """Tell the supervisor; one write, so that the lines of several ranks do not mix."""
    sys.stdout.write(f"{kind}{strict_json.dumps(value)}\n")
    sys.stdout.flush()


def parse(line: str) -> Record:
    """A record in the line of a log, which others may have written.

    Raises:
        ValueError: it is none; says why in a phrase.
    """
    record = strict_json.loads(line)
    if not isinstance(record, dict) or record.get("split") not in _SPLITS.values():
        raise ValueError("its split")
    for name in ("epoch", "update", "loss"):
        record.setdefault(name, None)
    for name, value in record.items():
        kind = int if name in ("epoch", "update") else int | float | None
        if name != "split" and not isinstance(value, kind):
            raise ValueError(f"its {name}")
    strict_json.number(record.get("seconds"))
    return record


def lines_of(records: Iterable[Record]) -> str:
    """A log with these records."""
    return "".join(strict_json.dumps(record) + "\n" for record in records)


def wraps(owner: Any, name: str) -> Callable[[Callable[..., Any]], object]:
    """Put a function in the place of fairseq's, which it gets as its first argument."""
    original = getattr(owner, name)

    def replace(new: Callable[..., Any]) -> None:
        @functools.wraps(original)
        def called(*args: Any, **named: Any) -> Any:
            return new(original, *args, **named)

        setattr(owner, name, called)

    return replace


def install(tell: Callable[[Record], None]) -> None:
    """Have every record of this process told, and every update that is skipped.

    A record has `split` ("train": mean since the record before; "train_epoch"; "valid"), `epoch`,
    `update`, `loss` (nats per question), and where fairseq has them the names of `_VALUES` and
    `questions_per_second`. A value that is not finite is None. An update that was skipped for an
    overflow is told as {"skipped": 1}. A stock trainer whose memory was not enough for an update
    would go on without it; it raises the error now.
    """
    from fairseq import checkpoint_utils
    from fairseq.logging import meters, progress_bar

    @wraps(meters.MetersDict, "get_smoothed_values")
    def means(smoothed: Any, found: Any) -> _Means:
        values = _Means(smoothed(found))
        values.exact = {name: _unrounded(found, name) for name in values}
        return values

    @wraps(checkpoint_utils, "load_checkpoint")
    def loading(load: Any, cfg: Any, trainer: Any, **arguments: Any) -> Any:
        wraps(trainer, "train_step")(functools.partial(_counted, trainer, tell))
        return load(cfg, trainer, **arguments)

    def told(show: Any, bar: Any, stats: _Means, tag: str, step: int) -> None:
        show(bar, stats, tag=tag, step=step)
        tell(_record(stats, _SPLITS[tag], bar.epoch, step))

    wraps(progress_bar.JsonProgressBar, "log")(told)
    wraps(progress_bar.JsonProgressBar, "print")(told)


def _unrounded(found: Any, name: str) -> float | None:
    """A mean of fairseq's MetersDict."""
    meter = found[name]
    digits, meter.round = getattr(meter, "round", None), None
    try:
        value = float(found.get_smoothed_value(name))
    except (TypeError, ValueError):
        return None
    finally:
        meter.round = digits
    return value if math.isfinite(value) else None


def _counted(trainer: Any, tell: Callable[[Record], None], step: Any, samples: Any) -> Any:
    before = trainer.get_num_updates()
    logged = step(samples, raise_oom=True)
    if trainer.get_num_updates() == before:
        tell({"skipped": 1})
    return logged


def _record(stats: _Means, split: str, epoch: int, update: int) -> Record:
    exact = stats.exact
    loss, rate, questions = (exact.get(name) for name in ("loss", "ups", "bsz"))
    record: Record = {
        "split": split,
        "epoch": epoch,
        "update": update,
        "loss": None if loss is None else loss * math.log(2),
    }
    record |= {name: exact[theirs] for name, theirs in _VALUES.items() if theirs in exact}
    if split == "train" and rate and questions:
        record["questions_per_second"] = round(rate * questions, 2)
    return record
