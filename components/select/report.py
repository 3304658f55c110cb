"""A sweep as a page: what was selected, how far trials lie apart, and what several can do."""

from collections.abc import Mapping, Sequence
from typing import Any

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
from components.evaluate.report import NAMES, PUBLISHED, accuracies, comparable
from components.evaluate.statistics import Group

DEV = "dev"


def write_report(metrics: Mapping[str, Any]) -> str:
    """The page.

    Args:
        metrics: what metrics.json holds.
    """
    best, trials = metrics["selected"], metrics["trials"]
    ensemble = metrics["ensemble"]
    members = len(ensemble["trials"])
    parts = [
        _spread(metrics),
        accuracies(groups(metrics), metrics["chance"], f"The selected model, {best}"),
    ]
    if members > 1:
        parts.append(_ensemble(metrics))
    return page(
        f"The best of {len(trials)} trials: {metrics['accuracy']:.1f} % of the test questions"
        " correct"
        if len(trials) > 1
        else f"{metrics['accuracy']:.1f} % of the test questions correct",
        _key(metrics),
        _trials(metrics),
        *parts,
        _settings(metrics),
        kind="Sweep report",
        lead=_lead(metrics),
    )


def groups(figures: Mapping[str, Any]) -> dict[str, Group]:
    """All questions and those of each test set, of figures as evaluate writes them."""
    found = {}
    for name in figures["interval"]:
        suffix = "" if name == "all" else f"_{name}"
        found[name] = Group(name, figures[f"questions{suffix}"], figures[f"correct{suffix}"])
    return found


def _lead(metrics: Mapping[str, Any]) -> str:
    trials, collapsed = len(metrics["trials"]), metrics["collapsed"]
    said = f"Selected for being the best on dev: {metrics['selected']}, with"
    said += f" {metrics['dev_accuracy']:.1f} %; the test sets had no say in that."
    if collapsed:
        were = "was" if collapsed == 1 else "were"
        said += f" {collapsed} of {trials} trials collapsed, and {were} left out of all figures."
    left = trials - collapsed
    if left > 1:
        deviation = metrics["spread"]["all"]["deviation"]
        said += (
            f" Over the {left} that learned, accuracy on test has a standard deviation of"
            f" {deviation:.2f} points: what one training more would give is the median,"
            f" {metrics['median_accuracy']:.1f} %, rather than the best."
        )
    return said


def _key(metrics: Mapping[str, Any]) -> Markup:
    spread, ensemble = metrics["spread"]["all"], metrics["ensemble"]
    left = len(metrics["trials"]) - metrics["collapsed"]
    shown: list[tuple[str, Content, Content]] = [
        ("best on dev", f"{metrics['accuracy']:.1f} %", _interval(metrics["interval"]["all"])),
        (
            "median",
            f"{spread['median']:.1f} %",
            f"{spread['min']:.1f}–{spread['max']:.1f} % over {left}",
        ),
    ]
    if len(ensemble["trials"]) > 1:
        shown.append(
            (
                f"ensemble of {len(ensemble['trials'])}",
                f"{ensemble['accuracy']:.1f} %",
                _interval(ensemble["interval"]["all"]),
            )
        )
    shown.append(("collapsed", metrics["collapsed"], f"of {len(metrics['trials'])} trials"))
    return key_figures(shown)


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.1f}–{ends[1]:.1f} %"


def _trials(metrics: Mapping[str, Any]) -> Markup:
    tests = [name for name in metrics["interval"] if name != "all"]
    keys = [f"accuracy_{name}" for name in tests] if len(tests) > 1 else []
    members = metrics["ensemble"]["trials"]
    head: list[Content] = ["trial", "dev", *(tests if keys else []), "test"]
    head += ["loss on dev", tag("th", "", scope="col")]
    rows: list[list[Content]] = []
    for trial in metrics["trials"]:
        values = [trial["dev_accuracy"], *(trial[key] for key in keys), trial["accuracy"]]
        marks = []
        if trial["label"] == metrics["selected"]:
            marks.append("selected")
        if trial["label"] in members and len(members) > 1:
            marks.append("in the ensemble")
        if trial["collapsed"]:
            marks.append("collapsed")
        rows.append(
            [
                trial["label"],
                *(_shown(value) for value in values),
                _shown(trial["dev_loss"], 4),
                tag("td", ", ".join(marks), class_="bad" if trial["collapsed"] else None),
            ]
        )
    reasons = [
        tag("p", tag("b", trial["label"]), f": {trial['collapsed']}.")
        for trial in metrics["trials"]
        if trial["collapsed"]
    ]
    return section(
        "Trials",
        tag("div", _dots(metrics, "dev_accuracy"), _dots(metrics, "accuracy"), class_="charts"),
        table(head, rows),
        tag("h3", "Why trials collapsed") if reasons else None,
        *reasons,
        note="Accuracies in percent, losses in nats a question. Hollow dots are trials that"
        " collapsed: train gave them up, or their accuracy on dev cannot be told from guessing.",
    )


def _dots(metrics: Mapping[str, Any], key: str) -> Markup:
    tested = key == "accuracy"
    return chart.dots(
        "Accuracy on all test questions" if tested else "Accuracy on dev",
        [
            chart.Dot(
                trial["label"],
                trial[key],
                tuple(trial["interval"]["all"]) if tested and trial["interval"] else None,
                hollow=bool(trial["collapsed"]),
            )
            for trial in metrics["trials"]
        ],
        unit="%, with 95 % intervals (Wilson)" if tested else "%, by which the best is selected",
        hollow_means="collapsed",
        mark=metrics["chance"],
        mark_name="guessing",
    )


def _shown(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _spread(metrics: Mapping[str, Any]) -> Markup:
    published = comparable(groups(metrics))
    head = ["", "mean", "standard deviation", "median", "lowest", "highest"]
    head += ["published"] if published else []
    rows = []
    for name, spread in metrics["spread"].items():
        values = [spread[key] for key in ("mean", "deviation", "median", "min", "max")]
        row = [DEV if name == DEV else NAMES.get(name, name), *map(_shown, values)]
        if published:
            row.append("–" if name == DEV else f"{PUBLISHED[name]:.1f}")
        rows.append(row)
    left = len(metrics["trials"]) - metrics["collapsed"]
    note = f"In percent, over the {left} trials that did not collapse; the deviation is a sample’s."
    if published:
        note += " Published: RoBERTa-large (Liu et al. 2019)."
    return section("Over the trials", table(head, rows), note=note)


def _ensemble(metrics: Mapping[str, Any]) -> Markup:
    ensemble = metrics["ensemble"]
    gain = ensemble["accuracy"] - metrics["accuracy"]
    p = ensemble["mcnemar"]
    title = f"The ensemble of {len(ensemble['trials'])}"
    made = accuracies(groups(ensemble), metrics["chance"], title)
    said = (
        (
            f"The mean of the probabilities of {', '.join(ensemble['trials'])}."
            f" Beside the selected model alone: {gain:+.1f} points on all test questions, which two"
            f" models of the same skill would differ by with probability {p:.2g} (McNemar, exact)."
        )
        .replace("+0.0 points", "no difference")
        .replace("-", "−")
    )
    return Markup(made.replace("</section>", f"{tag('p', said)}</section>"))


def _settings(metrics: Mapping[str, Any]) -> Markup:
    pairs: list[tuple[str, Content]] = [("ensemble", metrics["parameters"]["ensemble"])]
    pairs += [
        (trial["label"], f"{trial['updates']:,} updates" if trial["updates"] is not None else "–")
        for trial in metrics["trials"]
    ]
    return section("Settings", definitions(pairs))
