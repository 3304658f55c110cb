"""The training as a page: how the loss went, how fast, on what, and with which settings."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.common.progress import duration
from components.common.report import chart
from components.common.report.html import (
    Content,
    Markup,
    definitions,
    key_figures,
    page,
    section,
    table,
    tag,
)

Record = Mapping[str, Any]


def write_report(metrics: Mapping[str, Any], records: Sequence[Record]) -> str:
    """The page.

    Args:
        metrics: what metrics.json holds.
        records: those of train_log.jsonl, see components.train.log.
    """
    parameters = metrics["parameters"]
    chance = math.log(parameters["num_classes"])
    return page(
        _title(metrics),
        _key(metrics, records),
        section(
            "Course",
            _charts(records),
            note="A line is the mean of some records, the band behind it their range; dots are the"
            f" validation questions after an epoch. Guessing has a loss of ln"
            f" {parameters['num_classes']} = {chance:.3f} nats.",
        ),
        _epochs(records),
        _time(metrics, records),
        _hardware(metrics),
        section("Settings", definitions([(k, _spelled(v)) for k, v in parameters.items()])),
        kind="Training report",
        lead=_lead(metrics, records, chance),
    )


def _title(metrics: Mapping[str, Any]) -> str:
    arch = _model(metrics["parameters"])
    best = metrics["best_valid_accuracy"]
    if metrics.get("collapsed"):
        return f"{arch}: collapsed, {_plural(metrics['updates'], 'update')}"
    if best is None:
        return f"{arch}, {metrics['updates']:,} updates"
    return f"{arch}: {best:.1f} % of the validation questions correct"


def _model(parameters: Mapping[str, Any]) -> str:
    layers, width = parameters["encoder_layers"], parameters["encoder_embed_dim"]
    if not (layers or width):
        return str(parameters["arch"]).replace("roberta_", "RoBERTa-")
    # A model of another size than the architecture's own must not go by its name.
    sizes = [f"{layers} layers"] * bool(layers) + [f"width {width}"] * bool(width)
    return f"RoBERTa of {', '.join(sizes)}"


def _lead(metrics: Mapping[str, Any], records: Sequence[Record], chance: float) -> Content:
    parts: list[Content] = [
        f"{metrics['questions']:,} questions, {_plural(_last_epoch(records), 'epoch')},"
        f" {metrics['updates']:,} updates of {_batch(metrics)} questions in"
        f" {duration(metrics['seconds'])}."
    ]
    skipped = metrics["skipped_updates"]
    if skipped:
        parts.append(
            f" {_plural(skipped, 'update')} skipped because of overflow in 16 bits, which lowers"
            " the loss scale; some are usual."
        )
    final = metrics["final_train_loss"]
    if metrics.get("collapsed"):
        parts.append(
            f" It was given up, and there is no model: {metrics['collapsed']}. A lower learning"
            " rate, a warm-up or another seed may help."
        )
    elif final is None:
        parts.append(" The loss is not finite: nothing was learned.")
    elif final > chance - 0.01:
        parts.append(
            " The loss stayed at that of guessing: nothing was learned. A lower learning rate, a"
            " warm-up or another seed may help."
        )
    return parts


def _batch(metrics: Mapping[str, Any]) -> int:
    return int(metrics["parameters"]["effective_batch"])


def _key(metrics: Mapping[str, Any], records: Sequence[Record]) -> Markup:
    best, final = metrics["best_valid_accuracy"], metrics["final_valid_loss"]
    rate = metrics["questions_per_second"]
    where = "GPU" if metrics["device"] == "cuda" else "CPU process"
    count = metrics["processes"]
    return key_figures(
        [
            (
                "best validation accuracy",
                "unknown" if best is None else f"{best:.1f} %",
                None if best is None else f"after update {metrics['best_valid_update']:,}",
            ),
            (
                "last validation loss",
                "not finite" if final is None else f"{final:.3f}",
                "nats a question",
            ),
            (
                "throughput",
                "unknown" if rate is None else chart.number(float(f"{rate:.3g}")),
                "questions a second",
            ),
            (
                "time",
                duration(metrics["seconds"]),
                f"on {_plural(count, where)}",
            ),
        ]
    )


# Chart: title, name in a record, unit, further arguments.
_CHARTS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("Loss", "loss", "nats a question", {"low": 0.0}),
    ("Accuracy", "accuracy", "%", {"low": 0.0, "high": 100.0}),
    ("Learning rate", "learning_rate", "", {"low": 0.0}),
    ("Norm of the gradient", "gradient_norm", "before clipping", {"low": 0.0}),
    ("Loss scale", "loss_scale", "powers of two", {"log2": True}),
    ("Throughput", "questions_per_second", "questions a second", {"low": 0.0}),
)


def _charts(records: Sequence[Record]) -> Markup:
    drawn = []
    for title, name, unit, arguments in _CHARTS:
        # Means of powers of two would be none: the loss scale is shown as it was, if possible.
        most = 400 if "log2" in arguments else 100
        series = [
            made
            for split, said in (("train", "training"), ("valid", "validation"))
            if (points := _points(records, split, name, positive="log2" in arguments))
            and (made := chart.line(said, points, dots=split == "valid", most=most))
        ]
        if name == "learning_rate" and series:
            series, unit = _scaled(series)
        if series:
            drawn.append(chart.lines(title, series, x="update", unit=unit, **arguments))
    return tag("div", drawn, class_="charts")


def _scaled(series: Sequence[chart.Line]) -> tuple[list[chart.Line], str]:
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
    return scaled, f"× {chart.number(10.0**power)}"


def _points(
    records: Iterable[Record], split: str, name: str, *, positive: bool
) -> list[tuple[float, float]]:
    found = [(r["update"], r.get(name)) for r in records if r["split"] == split]
    return [
        (float(update), float(value))
        for update, value in found
        if value is not None and (value > 0 or not positive)
    ]


def _epochs(records: Sequence[Record]) -> Markup | None:
    trained = [r for r in records if r["split"] == "train_epoch"]
    validated = [r for r in records if r["split"] == "valid"]
    if not validated:
        return None
    by_update = {r["update"]: r for r in trained}
    rows: list[list[Content]] = []
    for record in validated:
        mean = by_update.get(record["update"], {})
        rows.append(
            [
                record["epoch"],
                f"{record['update']:,}",
                *(_shown(mean.get("loss"), 3), _shown(mean.get("accuracy"), 1)),
                *(_shown(record.get("loss"), 3), _shown(record.get("accuracy"), 1)),
                duration(record["seconds"]),
            ]
        )
    head = ["epoch", "update", "training loss", "accuracy, %"]
    head += ["validation loss", "accuracy, %", "after"]
    return section(
        "Epochs",
        table(head, rows),
        note="Training figures are means over the epoch, while the model was still learning and"
        " with dropout: they are no measure of the model at its end.",
    )


def stages(metrics: Mapping[str, Any], records: Sequence[Record]) -> dict[str, float]:
    """Seconds spent on each stage.

    The log has the time of each record. What passes between two training records of an epoch is
    training, and gives the time of an update; updates elsewhere count with that. The rest of what
    passes until the first record is the start, before a validation record validation, and after
    it the writing of checkpoints, as is the end.
    """
    found = {"start": 0.0, "training": 0.0, "validation": 0.0, "checkpoints": 0.0}
    kept = [r for r in records if r["split"] != "train_epoch"]
    pure = [
        (after["update"] - before["update"], after["seconds"] - before["seconds"])
        for before, after in itertools.pairwise(kept)
        if before["split"] == after["split"] == "train"
    ]
    updates = sum(count for count, _ in pure)
    per_update = sum(seconds for _, seconds in pure) / updates if updates else 0.0
    before: Record = {"split": "", "update": 0, "seconds": 0.0}
    for record in kept:
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


_STAGES = {
    "start": "start: processes, data, model",
    "training": "training",
    "validation": "validation",
    "checkpoints": "checkpoints and end",
}


def _time(metrics: Mapping[str, Any], records: Sequence[Record]) -> Markup | None:
    spent = stages(metrics, records)
    total = sum(spent.values())
    if not records or total <= 0:
        return None
    rows = [
        [
            [tag("span", class_=f"swatch fill-{i}"), _STAGES[name]],
            duration(seconds),
            f"{100 * seconds / total:.1f} %",
        ]
        for i, (name, seconds) in enumerate(spent.items())
    ]
    bar = tag(
        "div",
        [
            tag(
                "span",
                class_=f"fill-{i}",
                style=f"--share:{seconds / total:.4f}",
                title=f"{_STAGES[name]}: {duration(seconds)}",
            )
            for i, (name, seconds) in enumerate(spent.items())
        ],
        class_="spans",
        aria_hidden="true",
    )
    return section(
        "Time",
        bar,
        table(["stage", "time", "share"], rows, class_="narrow"),
        note="Of fairseq’s processes, by the times in its log; updates beside a validation count"
        " with the mean time of an update.",
    )


def _hardware(metrics: Mapping[str, Any]) -> Markup:
    pairs: list[tuple[str, Content]] = [
        (name, _spelled(value)) for name, value in metrics.get("hardware", {}).items()
    ]
    if metrics.get("nodes", 1) > 1:
        pairs.append(("nodes", metrics["nodes"]))
    pairs += [("processes", metrics["processes"]), ("update_freq", metrics["update_freq"])]
    pairs += list(metrics["versions"].items())
    return section("Hardware and software", definitions(pairs))


def _last_epoch(records: Sequence[Record]) -> int:
    return max((int(r["epoch"]) for r in records), default=0)


def _plural(count: int, name: str) -> str:
    if count == 1:
        return f"1 {name}"
    return f"{count:,} {name}{'es' if name.endswith('s') else 's'}"


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return chart.number(value)
    return str(value) or "–"
