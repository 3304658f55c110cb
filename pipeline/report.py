"""A run as a page that leads to its reports, and runs side by side.

Both are made from what lies in the runs' folders, see pipeline.local: run.json, and the metrics and
reports that the steps wrote.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common import strict_json
from components.common.dataset import in_order
from components.common.errors import ConfigError, DataError
from components.common.files import atomic_file
from components.common.progress import duration
from components.common.report.page import render
from components.common.results.metrics import Evaluation, Selection, Training
from components.common.results.predictions import PREDICTIONS, read_predictions
from components.common.results.scores import ALL, Group
from components.common.text import columns
from components.evaluate.statistics import mcnemar
from pipeline.parameters import spelled

INDEX = "index.html"
COMPARISON = "compare.html"
UNKNOWN = "–"
PLATFORM = "cluster_"  # begins the names of its parameters

# Folder in a run's folder: what its report is about.
REPORTS = {
    "data": ("Data", "counts against the published ones, lengths, examples"),
    "model": ("Training", "loss, accuracy and speed over the updates, time, settings"),
    "report": ("Evaluation", "accuracy and its certainty, breakdowns, calibration, mistakes"),
}
# In the folder of a sweep, before these.
SWEEP_REPORT = {"selection": ("Sweep", "the trials side by side, the best, the ensemble")}
FILES = {
    "model/checkpoint_best.pt": "the model, best on the validation questions",
    "model/metrics.json": "figures of training",
    "model/train_log.jsonl": "every logged value of training",
    "report/metrics.json": "figures of the evaluation",
    "report/predictions.jsonl": "each question’s answer",
    "selection/metrics.json": "figures of the trials and of the ensemble",
    "selection/ensemble.jsonl": "the ensemble’s answer to each question",
    "run.json": "parameters, times and results",
}
LEVELS = {"middle": "test, middle school", "high": "test, high school"}


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it; `training` and `evaluation` are empty if it came not so far.

    In a sweep they are those of the selected trial, and `selection` is what select wrote.
    """

    folder: Path
    run: Mapping[str, Any]
    training: Training
    evaluation: Evaluation
    selection: Selection | None

    @property
    def groups(self) -> Mapping[str, Group]:
        return self.evaluation.scores.groups

    @property
    def trials(self) -> list[str]:
        """The names of a sweep's trials, as far as it came."""
        return list(dict.fromkeys(s["trial"] for s in self.steps if s.get("trial")))

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def steps(self) -> Sequence[Mapping[str, Any]]:
        steps: Sequence[Mapping[str, Any]] = self.run["steps"]
        return steps


def read_run(folder: Path) -> Record:
    """What a run's folder holds.

    Raises:
        ConfigError: it is not one.
        DataError: a file in it is damaged.
    """
    if not (folder / "run.json").is_file():
        raise ConfigError(
            f"{folder}: not the folder of a run", hint="Give one, such as runs/latest"
        )
    run = strict_json.read_object(folder / "run.json", hint="Run it again")
    if not {"state", "runner", "parameters", "steps"} <= run.keys():
        raise DataError(f"{folder / 'run.json'}: not written by `race run`")
    return Record(folder, run, *_figures_of(folder), Selection.find(folder / "selection"))


def _figures_of(folder: Path) -> tuple[Training, Evaluation]:
    return (
        Training.find(folder / "model") or Training(),
        Evaluation.find(folder / "report") or Evaluation(),
    )


# -- the page of a run


def write_index(folder: Path) -> Path:
    """Write index.html into a run's folder; its path.

    Raises:
        ConfigError, DataError: see `read_run`.
        OSError: the folder cannot be written.
    """
    record = read_run(folder)
    with atomic_file(folder / INDEX) as partial:
        partial.write_text(_index(record), encoding="utf-8")
    return folder / INDEX


def _index(record: Record) -> str:
    sets = _sets([record])
    return render(
        "pipeline/templates/run.html",
        run=record.run,
        name=record.name,
        training=record.training,
        selection=record.selection,
        failed=next((step["name"] for step in record.steps if step["exit_status"]), ""),
        accuracies=[
            (title, record.groups[name].accuracy, record.groups[name].interval)
            for name, title in sets.items()
            if record.groups
        ],
        tests=[title.removeprefix("test, ") for name, title in sets.items() if name != ALL],
        trials=[_trial(record, name, list(sets)) for name in record.trials],
        reports=(SWEEP_REPORT if record.trials else {}) | REPORTS,
        files=FILES,
        parameters={name: spelled(value) for name, value in record.run["parameters"].items()},
        there=lambda path: (record.folder / path).is_file(),
    )


def _trial(record: Record, name: str, tests: Sequence[str]) -> dict[str, Any]:
    """A line of a sweep's page: label, state, folder, accuracies in validation and on test."""
    steps = [step for step in record.steps if step.get("trial") == name]
    folder = f"trials/{name}"
    training, evaluation = _figures_of(record.folder / folder)
    label = steps[0]["name"].partition("(")[2].rstrip(")") or name
    selection = record.selection
    collapsed = {trial.label for trial in selection.trials if trial.collapsed} if selection else ()
    state = ""
    if any(step["exit_status"] for step in steps):
        state = "failed"
    elif label in collapsed or training.collapsed:
        state = "collapsed"
    elif selection and label == selection.selected:
        state = "selected"
    groups = evaluation.scores.groups
    accuracies = [groups[test].accuracy if test in groups else None for test in tests]
    # All questions last.
    values = [training.best_valid_accuracy, *accuracies[1:], *accuracies[:1]]
    return {"label": label, "state": state, "folder": folder, "accuracies": values}


def _sets(records: Iterable[Record]) -> dict[str, str]:
    """What the questions of each set are called, all questions first."""
    found = {name for record in records for name in record.groups} - {ALL}
    every = {ALL: "all test questions"}
    return every | {name: LEVELS.get(name, f"test, {name}") for name in in_order(found)}


# -- runs side by side

Row = list[str]  # its name, and a value for each run


@dataclass(frozen=True)
class Comparison:
    """A column for each run: settings that differ, and figures; texts ready to be shown.

    `paired` compares each later run with the first, where both answered the same questions.
    """

    names: list[str]
    settings: list[Row]
    figures: list[Row]
    paired: list[Row]


def compare(folders: Sequence[Path]) -> Comparison:
    """Runs side by side.

    Raises:
        ConfigError: there are fewer than two, or one is not the folder of a run.
        DataError: a file in one is damaged.
    """
    if len(folders) < 2:
        raise ConfigError("one run alone cannot be compared", hint="Give two or more runs")
    records = [read_run(folder) for folder in folders]
    names = {name: None for record in records for name in record.run["parameters"]}
    settings: list[Row] = []
    for name in names:
        values = [spelled(record.run["parameters"].get(name, UNKNOWN)) for record in records]
        # A fetched run has none of the platform's: its server does not tell them.
        if len(set(values)) > 1 and not (name.startswith(PLATFORM) and UNKNOWN in values):
            settings.append([name, *values])
    figures = [
        [name, *(UNKNOWN if value is None else value for value in values)]
        for name, values in _figures(records)
        if any(value is not None for value in values)
    ]
    return Comparison([r.name for r in records], settings, figures, _paired(records))


def _figures(records: Sequence[Record]) -> list[tuple[str, list[str | None]]]:
    def of(part: str, name: str, form: str) -> list[str | None]:
        values = [getattr(getattr(record, part), name, None) for record in records]
        return [None if value is None else form.format(value) for value in values]

    rows: list[tuple[str, list[str | None]]] = [("state", [r.run["state"] for r in records])]
    for name, title in _sets(records).items():
        groups = [record.groups.get(name) for record in records]
        rows.append((f"{title}, %", [f"{g.accuracy:.2f}" if g else None for g in groups]))
        ends = [g.interval if g else None for g in groups]
        rows.append(("  95 % interval", [e and f"{e[0]:.1f}–{e[1]:.1f}" for e in ends]))
    losses = [record.groups[ALL].loss if record.groups else None for record in records]
    rows += [
        ("trials", [str(len(r.trials)) if r.trials else None for r in records]),
        ("collapsed", of("selection", "collapsed", "{}")),
        ("median of the trials, %", of("selection", "median_accuracy", "{:.2f}")),
        ("ensemble, %", of("selection", "ensemble_accuracy", "{:.2f}")),
        ("test loss, nats", [None if loss is None else f"{loss:.4f}" for loss in losses]),
        ("calibration error", of("evaluation", "calibration_error", "{:.4f}")),
        ("best in validation, %", of("training", "best_valid_accuracy", "{:.1f}")),
        ("updates", of("training", "updates", "{:,}")),
        ("skipped updates", of("training", "skipped_updates", "{:,}")),
        ("training, questions/s", of("training", "questions_per_second", "{:,.1f}")),
        ("processes", of("training", "processes", "{}")),
        ("device", of("training", "device", "{}")),
    ]
    for step in {_kind(s): None for r in records for s in r.steps}:
        found = [[s for s in r.steps if _kind(s) == step] for r in records]
        rows.append((f"time of {step}", [_spent(some) if some else None for some in found]))
    return rows


def _kind(step: Mapping[str, Any]) -> str:
    """The name that the steps of all trials share: train of train (seed 2)."""
    return str(step["name"]).partition(" (")[0]


def _spent(steps: Sequence[Mapping[str, Any]]) -> str:
    if all(step["cached"] for step in steps):
        return "cached"
    return duration(sum(float(step["seconds"]) for step in steps))


def _paired(records: Sequence[Record]) -> list[Row]:
    """How each run's answers differ from the first one's, and whether chance explains that."""
    answers = [_answers(record.folder / "report") for record in records]
    first = answers[0]
    if not first:
        return []
    found = [("right in the first only", "right in this only", "p-value (McNemar)")]
    found.append((UNKNOWN,) * 3)
    for other in answers[1:]:
        if first.keys() != other.keys():
            found.append(("other questions",) * 3)
            continue
        lost = sum(right and not other[name] for name, right in first.items())
        won = sum(right and not first[name] for name, right in other.items())
        found.append((f"{lost:,}", f"{won:,}", f"{mcnemar(lost, won):.2g}"))
    return [list(row) for row in zip(*found, strict=True)]


def _answers(folder: Path) -> dict[str, bool]:
    """Whether each question was answered correctly; nothing where there are no predictions."""
    if not (folder / PREDICTIONS).is_file():
        return {}
    found = read_predictions(folder)
    return dict(zip(found.ids, found.right.tolist(), strict=True))


def as_text(comparison: Comparison) -> str:
    """For the terminal."""
    parts = [("", [["", *comparison.names]]), ("settings that differ", comparison.settings)]
    parts += [("figures", comparison.figures), ("answers, beside the first run", comparison.paired)]
    aligned = iter(columns([row for _, rows in parts for row in rows]))
    lines = []
    for title, rows in parts:
        if title and rows:
            lines += ["", title]
        lines += [f"  {next(aligned)}" for _ in rows]
    if not comparison.settings:
        lines.append("\nno setting differs")
    return "\n".join(lines)


def write_comparison(comparison: Comparison, output: Path) -> None:
    """For a browser.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(output) as partial:
        page = render("pipeline/templates/comparison.html", comparison=comparison)
        partial.write_text(page, encoding="utf-8")
