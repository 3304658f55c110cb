"""A sweep as a page: what was selected, how far trials lie apart, and what several can do."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.common.report.axes import Dot
from components.common.report.page import render
from components.evaluate.report import NAMES, published
from components.evaluate.statistics import Group


def write_report(metrics: Mapping[str, Any]) -> str:
    """The page.

    Args:
        metrics: what metrics.json holds.
    """
    groups = _groups(metrics)
    tests = [name for name in groups if name != "all"]
    return render(
        "components/select/templates/sweep.html",
        metrics=metrics,
        groups=groups,
        ensemble_groups=_groups(metrics["ensemble"]),
        names=NAMES,
        published=published(groups),
        tests=tests if len(tests) > 1 else [],
        on_dev=[_dot(trial, "dev_accuracy") for trial in metrics["trials"]],
        on_test=[_dot(t, "accuracy", t["interval"].get("all", ())) for t in metrics["trials"]],
    )


def _dot(trial: Mapping[str, Any], key: str, interval: Sequence[float] = ()) -> Dot:
    return Dot(trial["label"], trial[key], interval, hollow=bool(trial["collapsed"]))


def _groups(figures: Mapping[str, Any]) -> dict[str, Group]:
    """All questions and those of each test set, of figures as evaluate writes them."""
    found = {}
    for name in figures["interval"]:
        suffix = "" if name == "all" else f"_{name}"
        found[name] = Group(name, figures[f"questions{suffix}"], figures[f"correct{suffix}"])
    return found
