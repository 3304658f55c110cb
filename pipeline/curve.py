"""A cluster's run while it trains, in a terminal: loss and accuracy so far, the time left."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.common import storage
from components.common.errors import RaceError
from components.common.progress import duration
from components.train.supervisor.curve import MAX_BYTES, NAME, Curve, read
from pipeline.client import Run
from pipeline.display import say
from pipeline.parameters import is_sweep, trials
from pipeline.workflow import StepStatus

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 60


def curves_of(run: Run, steps: Sequence[StepStatus]) -> dict[str, Curve]:
    """What each training that goes on has told so far, by the label of its trial, "" for a single.

    Nothing without `checkpoint_uri`; where the store cannot be read, that is said and no more.
    """
    uri = str(run.parameters.get("checkpoint_uri") or "").rstrip("/")
    going = [s for s in steps if s.name == "train" and s.state in ("running", "retrying", "failed")]
    found: dict[str, Curve] = {}
    if not uri or not going:
        return found
    try:
        planned = trials(run.parameters) if is_sweep(run.parameters) else ()
        for step in going:
            trials_of = [] if step.trial is None else [planned[step.trial]]
            where = "/".join([uri, run.run_id, *(one.name for one in trials_of), NAME])
            if data := storage.read_small(where, MAX_BYTES):
                found["".join(one.label for one in trials_of)] = read(data, where)
    except (RaceError, OSError, LookupError) as error:
        say(f"how training goes is not known: {error}")
    return found


def figures(curves: Mapping[str, Curve]) -> list[dict[str, Any]]:
    """The newest record of each training, for machines."""
    return [
        {"trial": label, "updates": c.updates, **c.of("train")[-1], "seconds_left": seconds_left(c)}
        for label, c in curves.items()
        if c.of("train")
    ]


def drawn(curves: Mapping[str, Curve], *, plot: bool = True) -> list[str]:
    """Trainings' curves as lines; without `plot` a line in words for each."""
    lines = []
    for label, curve in curves.items():
        name = f"train ({label})" if label else "train"
        told = (_plot if plot else _words)(curve)
        lines += ["", name, *told] if plot else [f"{name}: {line}" for line in told]
    return lines


def _words(curve: Curve) -> list[str]:
    told = [f", {name} {form.format(values[-1])}" for name, values, form in _rows(curve)]
    return ["".join([at, *told, left]) for at, left in _progress(curve)]


def _plot(curve: Curve) -> list[str]:
    lines = [
        f"  {name:<10} {sparkline(v):<{WIDTH}} {form.format(v[0])} → {form.format(v[-1])}"
        for name, v, form in _rows(curve)
    ]
    return lines + [f"  {at}{left}" for at, left in _progress(curve)]


def _progress(curve: Curve) -> Iterator[tuple[str, str]]:
    for newest in curve.of("train")[-1:]:
        at = (
            f"epoch {newest['epoch']}/{curve.epochs}, update {newest['update']:,}/{curve.updates:,}"
        )
        left = seconds_left(curve)
        yield at, f", {duration(left)} left" if left else ""


def _rows(curve: Curve) -> Iterator[tuple[str, list[float], str]]:
    """Name, values and format of each curve that there is."""
    for name, split, key, form in (
        ("loss", "train", "loss", "{:.3f}"),
        ("accuracy", "train", "accuracy", "{:.1f} %"),
        ("validation", "valid", "accuracy", "{:.1f} %"),
    ):
        values = [one for r in curve.of(split) if (one := r.get(key)) is not None]
        if values:
            yield name, values, form


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
