"""The training as a page: how the loss went, how fast, on what, and with which settings."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.common.report.axes import Line, Plot, line, number, plot
from components.common.report.page import render
from components.train.supervisor.log import training_alone

Record = Mapping[str, Any]

# Charts: title, name in a record, unit, what the upright axis has to hold.
_CHARTS: tuple[tuple[str, str, str, tuple[float, ...]], ...] = (
    ("Loss", "loss", "nats a question", (0.0,)),
    ("Accuracy", "accuracy", "%", (0.0, 100.0)),
    ("Learning rate", "learning_rate", "", (0.0,)),
    ("Norm of the gradient", "gradient_norm", "before clipping", (0.0,)),
    ("Loss scale", "loss_scale", "powers of two", ()),
    ("Throughput", "questions_per_second", "questions a second", (0.0,)),
)
_STAGES = {
    "start": "start: processes, data, model",
    "training": "training",
    "validation": "validation",
    "checkpoints": "checkpoints and end",
}


def write_report(metrics: Mapping[str, Any], records: Sequence[Record]) -> str:
    """The page.

    Args:
        metrics: what metrics.json holds.
        records: those of train_log.jsonl, see components.train.supervisor.log.
    """
    rate = metrics["questions_per_second"]
    spent = stages(metrics, records)
    return render(
        "components/train/supervisor/templates/training.html",
        metrics=metrics,
        model=_model(metrics["parameters"]),
        epochs=max((int(record["epoch"]) for record in records), default=0),
        chance=math.log(metrics["options"]),
        rate=None if rate is None else float(f"{rate:.3g}"),
        plots=list(_plots(records)),
        validations=[record for record in records if record["split"] == "valid"],
        trained={r["update"]: r for r in records if r["split"] == "train_epoch"},
        spent=[(_STAGES[name], seconds) for name, seconds in spent.items()]
        if records and sum(spent.values()) > 0
        else [],
        machine=_machine(metrics),
    )


def _model(parameters: Mapping[str, Any]) -> str:
    layers, width = parameters["encoder_layers"], parameters["encoder_embed_dim"]
    if not (layers or width):
        return str(parameters["arch"]).replace("roberta_", "RoBERTa-")
    # A model of another size than the architecture's own must not go by its name.
    sizes = [f"{layers} layers"] * bool(layers) + [f"width {width}"] * bool(width)
    return f"RoBERTa of {', '.join(sizes)}"


def _plots(records: Sequence[Record]) -> Iterator[tuple[str, str, Plot]]:
    """The charts that there are values for: title, unit, lines."""
    for title, name, unit, ends in _CHARTS:
        log2 = name == "loss_scale"
        # Means of powers of two would be none: the loss scale is shown as it was, if possible.
        series = [
            line(said, points, dots=split == "valid", most=400 if log2 else 100)
            for split, said in (("train", "training"), ("valid", "validation"))
            if (points := _points(records, split, name, positive=log2))
        ]
        if series and name == "learning_rate":
            series, unit = _scaled(series)
        if series:
            yield title, unit, plot(series, ends=ends, log2=log2)


def _points(
    records: Sequence[Record], split: str, name: str, *, positive: bool
) -> list[tuple[float, float]]:
    found = [(r["update"], r.get(name)) for r in records if r["split"] == split]
    return [
        (float(update), float(value))
        for update, value in found
        if value is not None and (value > 0 or not positive)
    ]


def _scaled(series: Sequence[Line]) -> tuple[list[Line], str]:
    """Small numbers as multiples of a power of ten, which is then the unit."""
    highest = max(y for s in series for _, y in s.points)
    if not 0 < highest < 0.1:
        return list(series), ""
    power = math.floor(math.log10(highest) + 1e-9)
    factor = 10.0**-power
    scaled = [
        dataclasses.replace(
            s,
            points=[(x, y * factor) for x, y in s.points],
            band=[(x, low * factor, high * factor) for x, low, high in s.band],
        )
        for s in series
    ]
    return scaled, f"× {number(10.0**power)}"


def stages(metrics: Mapping[str, Any], records: Sequence[Record]) -> dict[str, float]:
    """Seconds spent on each stage.

    The log has the time of each record. What passes between two training records of an epoch is
    training, and gives the time of an update; updates elsewhere count with that. The rest of what
    passes until the first record is the start, before a validation record validation, and after
    it the writing of checkpoints, as is the end.
    """
    found = {"start": 0.0, "training": 0.0, "validation": 0.0, "checkpoints": 0.0}
    updates, seconds = training_alone(records)
    per_update = seconds / updates if updates else 0.0
    before: Record = {"split": "", "update": 0, "seconds": 0.0}
    for record in records:
        if record["split"] == "train_epoch":
            continue
        spent = record["seconds"] - before["seconds"]
        trained = spent
        stage = "training"
        if record["split"] == "valid" or before["split"] != "train":
            trained = min((record["update"] - before["update"]) * per_update, spent)
            stage = {"": "start", "valid": "checkpoints"}.get(before["split"], "validation")
            if record["split"] == "valid":
                stage = "validation"
        found["training"] += trained
        found[stage] += spent - trained
        before = record
    found["checkpoints"] += max(metrics["seconds"] - before["seconds"], 0.0)
    return found


def _machine(metrics: Mapping[str, Any]) -> dict[str, Any]:
    nodes = metrics.get("nodes", 1)
    return {
        **metrics.get("hardware", {}),
        **({"nodes": nodes} if nodes > 1 else {}),
        "processes": metrics["processes"],
        "update_freq": metrics["update_freq"],
        **metrics["versions"],
    }
