"""A sweep as a page: what was selected, how far trials lie apart, and what several can do."""

from collections.abc import Sequence

from components.common.report.axes import Dot
from components.common.report.page import render
from components.common.results.metrics import Selection, Trial
from components.evaluate.report import NAMES, published


def write_report(selection: Selection) -> str:
    """The page."""
    groups, trials = selection.scores.shown, selection.trials
    tests = [test.name for test in selection.scores.tests]
    return render(
        "components/select/templates/sweep.html",
        selection=selection,
        groups=groups,
        names=NAMES,
        published=published(groups),
        tests=tests if len(tests) > 1 else [],
        on_validation=[_dot(trial, trial.validation_accuracy) for trial in trials],
        on_test=[_dot(t, t.accuracies["all"], t.interval.get("all", ())) for t in trials],
    )


def _dot(trial: Trial, accuracy: float | None, interval: Sequence[float] = ()) -> Dot:
    return Dot(trial.label, accuracy, interval, hollow=bool(trial.collapsed))
