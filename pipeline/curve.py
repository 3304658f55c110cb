"""A cluster's run while it trains, in a terminal: loss and accuracy so far, the time left."""

import itertools
from collections.abc import Sequence

from components.common import storage
from components.common.progress import duration
from components.train.supervisor.curve import MAX_BYTES, NAME, Curve, read
from pipeline.client import Run
from pipeline.parameters import is_sweep, trials

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 60


def curves_of(run: Run) -> dict[str, Curve]:
    """What each training of a run has told so far, by the label of its trial: "" for a single one.

    Nothing without `checkpoint_uri`; the log is removed with the checkpoints when training ends.

    Raises:
        ConfigError, TransferError: the store cannot be reached.
        DataError: what is there is no log of training.
    """
    uri = str(run.parameters.get("checkpoint_uri") or "").rstrip("/")
    if not uri:
        return {}
    planned = trials(run.parameters) if is_sweep(run.parameters) else ()
    places = {one.label: f"/{one.name}" for one in planned} or {"": ""}
    found = {}
    for label, place in places.items():
        where = f"{uri}/{run.run_id}{place}/{NAME}"
        if data := storage.read_object(where, MAX_BYTES):
            found[label] = read(data, where)
    return found


def drawn(curve: Curve, *, plot: bool = True) -> list[str]:
    """A training's curves as lines; without `plot` one line in words."""
    train, valid = curve.of("train"), curve.of("valid")
    if not train:
        return []
    newest = train[-1]
    at = f"epoch {newest['epoch']}/{curve.epochs}, update {newest['update']:,}/{curve.updates:,}"
    left = seconds_left(curve)
    ends = f", {duration(left)} left" if left else ""
    rows = [
        ("loss", [r.get("loss") for r in train], "{:.3f}"),
        ("accuracy", [r.get("accuracy") for r in train], "{:.1f} %"),
        ("validation", [r.get("accuracy") for r in valid], "{:.1f} %"),
    ]
    told = [(name, [v for v in values if v is not None], form) for name, values, form in rows]
    told = [row for row in told if row[1]]
    if not plot:
        figures = "".join(f", {name} {form.format(v[-1])}" for name, v, form in told)
        return [at + figures + ends]
    lines = [
        f"  {name:<10} {sparkline(v):<{WIDTH}} {form.format(v[0])} → {form.format(v[-1])}"
        for name, v, form in told
    ]
    return [*lines, f"  {at}{ends}"]


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Means of the values, in at most so many blocks, between the least and the greatest."""
    count = min(width, len(values))
    bounds = [round(len(values) * place / count) for place in range(count + 1)]
    parts = [values[a:b] for a, b in itertools.pairwise(bounds)]
    means = [sum(part) / len(part) for part in parts]
    least, span = min(means), max(means) - min(means)
    steps = len(BLOCKS) - 1
    return "".join(BLOCKS[round((m - least) / span * steps) if span else 0] for m in means)


def seconds_left(curve: Curve) -> float | None:
    """By the pace of the last tenth of the records, validation within it included."""
    train = curve.of("train")
    before, newest = train[-max(2, len(train) // 10) :][0], train[-1]
    updates = newest["update"] - before["update"]
    spent = float(newest["seconds"] - before["seconds"])
    return (curve.updates - newest["update"]) * spent / updates if updates > 0 else None
