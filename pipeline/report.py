"""A run as a page that leads to its reports, and runs side by side.

Both are made from what lies in the runs' folders, see pipeline.local: run.json, and the metrics and
reports that the steps wrote.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.errors import ConfigError, DataError
from components.common.exam import in_order
from components.common.files import atomic_file
from components.common.progress import duration
from components.common.report.html import (
    Content,
    Markup,
    definitions,
    hidden,
    key_figures,
    page,
    section,
    table,
    tag,
)
from components.evaluate.statistics import mcnemar, wilson

INDEX = "index.html"
COMPARISON = "compare.html"

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
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    selection: Mapping[str, Any]

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
            f"{folder}: not the folder of a run", mend="Give one, such as runs/latest"
        )
    run = _read(folder / "run.json")
    if not {"state", "runner", "parameters", "steps"} <= run.keys():
        raise DataError(f"{folder / 'run.json'}: not written by `race run`")
    training, evaluation, selection = (
        _figures_of(folder / name) for name in ("model", "report", "selection")
    )
    return Record(folder, run, training, evaluation, selection)


def _figures_of(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a JSON object")
    return found


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
    return page(
        record.name,
        _key(record),
        _reports(record),
        _trials(record) if record.trials else None,
        _steps(record),
        _files(record),
        section(
            "Parameters",
            hidden(
                f"all {len(record.run['parameters'])}",
                definitions([(k, _spelled(v)) for k, v in record.run["parameters"].items()]),
            ),
        ),
        kind="Run",
        lead=_lead(record),
    )


def _lead(record: Record) -> str:
    failed = next((step["name"] for step in record.steps if step["exit_status"]), "")
    state = record.run["state"]
    said = {
        "succeeded": "All steps succeeded",
        "running": "Still running when this page was written",
    }.get(state, f"Failed in {failed}" if failed else "Did not come to its end")
    if failed == "gate":
        wanted = record.run["parameters"]["evaluate_min_accuracy"]
        said = f"The model is complete, but not as good as was asked for ({wanted:g} %)"
    started = record.run.get("started")
    return f"{said}. {f'Started {started}, ' if started else ''}runner {record.run['runner']}."


def levels(figures: Iterable[str]) -> list[str]:
    """The test sets that an evaluation's figures, given by their names, are about."""
    return in_order([name.removeprefix("correct_") for name in figures if "correct_" in name])


def _sets(records: Iterable[Record]) -> dict[str, str]:
    """What the names of figures end with, and what the questions are called."""
    found = {name for record in records for name in levels(record.evaluation)}
    every = {"": "all test questions"}
    return every | {f"_{name}": LEVELS.get(name, f"test, {name}") for name in in_order(found)}


def _key(record: Record) -> Markup:
    shown: list[tuple[str, Content, Content]] = []
    for suffix, name in _sets([record]).items():
        if record.evaluation:
            low, high = _interval(record, suffix)
            shown.append(
                (name, f"{record.evaluation[f'accuracy{suffix}']:.1f} %", f"{low:.1f}–{high:.1f} %")
            )
    if record.selection:
        shown += _sweep_key(record.selection)
    best = record.training.get("best_valid_accuracy")
    if best is not None:
        shown.append(("best on dev", f"{best:.1f} %", f"{record.training['updates']:,} updates"))
    shown.append(("time", duration(_seconds(record)), f"{len(record.steps)} steps"))
    return key_figures(shown)


def _sweep_key(selection: Mapping[str, Any]) -> list[tuple[str, Content, Content]]:
    ensemble, count = selection["ensemble"], len(selection["trials"])
    collapsed = selection["collapsed"]
    told = f"{collapsed} of {count} collapsed" if collapsed else f"{count} trials"
    shown: list[tuple[str, Content, Content]] = [
        ("median trial", f"{selection['median_accuracy']:.1f} %", told)
    ]
    if len(ensemble["trials"]) > 1:
        low, high = ensemble["interval"]["all"]
        name = f"ensemble of {len(ensemble['trials'])}"
        shown.append((name, f"{ensemble['accuracy']:.1f} %", f"{low:.1f}–{high:.1f} %"))
    return shown


def _interval(record: Record, suffix: str) -> tuple[float, float]:
    found = record.evaluation
    return wilson(found[f"correct{suffix}"], found[f"questions{suffix}"])


def _seconds(record: Record) -> float:
    return sum(float(step["seconds"]) for step in record.steps)


def _reports(record: Record) -> Markup:
    rows: list[list[Content]] = []
    for folder, (title, about) in ((SWEEP_REPORT if record.trials else {}) | REPORTS).items():
        path = f"{folder}/report.html"
        there = (record.folder / path).is_file()
        rows.append([tag("a", title, href=path) if there else title, about if there else "not yet"])
    return section("Reports", table(["report", "what it shows"], rows, words=2))


def _trials(record: Record) -> Markup:
    """A line for each trial, with the way to its own reports."""
    judged = {trial["label"]: trial for trial in record.selection.get("trials", ())}
    tests = {s: n for s, n in _sets([record]).items() if s} or {}
    rows: list[list[Content]] = []
    for name in record.trials:
        steps = [step for step in record.steps if step.get("trial") == name]
        folder = f"trials/{name}"
        training, evaluation = (
            _figures_of(record.folder / folder / part) for part in ("model", "report")
        )
        label = steps[0]["name"].partition("(")[2].rstrip(")") or name
        collapsed = judged.get(label, {}).get("collapsed") or training.get("collapsed")
        state = "collapsed" if collapsed else ""
        if any(step["exit_status"] for step in steps):
            state = "failed"
        elif label == record.selection.get("selected"):
            state = "selected"
        links: list[Content] = [
            [tag("a", title, href=f"{folder}/{part}/report.html"), " "]
            for part, title in (("model", "training"), ("report", "evaluation"))
            if (record.folder / folder / part / "report.html").is_file()
        ]
        values = [training.get("best_valid_accuracy")]
        values += [evaluation.get(f"accuracy{suffix}") for suffix in (*tests, "")]
        shown = ["–" if value is None else f"{value:.1f}" for value in values]
        rows.append(
            [
                label,
                tag("td", state, class_="bad" if state in ("collapsed", "failed") else None),
                tag("td", links or "–"),
                *shown,
            ]
        )
    head: list[Content] = ["trial", tag("th", "", scope="col"), tag("th", "reports", scope="col")]
    head += ["dev", *(name.removeprefix("test, ") for name in tests.values()), "test"]
    return section("Trials", table(head, rows), note="Accuracies in percent.")


def _steps(record: Record) -> Markup:
    longest = max((float(step["seconds"]) for step in record.steps), default=0.0) or 1.0
    rows: list[list[Content]] = []
    for step in record.steps:
        seconds = float(step["seconds"])
        log = f"logs/{step.get('log') or step['name'] + '.log'}"
        state = "cached" if step["cached"] else "done"
        if step["exit_status"]:
            state = f"failed ({step['exit_status']})"
        bar = tag(
            "svg",
            tag(
                "rect",
                width=f"{100 * seconds / longest:.2f}%",
                height="0.5rem",
                y="0.75rem",
                rx=1,
                class_="fill-one",
            ),
            aria_hidden="true",
        )
        there = (record.folder / log).is_file()
        rows.append(
            [
                tag("a", step["name"], href=log) if there else step["name"],
                tag("td", state),
                "–" if step["cached"] else duration(seconds),
                tag("td", bar, class_="strip"),
            ]
        )
    head: list[Content] = ["step (its log)", tag("th", "state", scope="col"), "time"]
    head.append(tag("th", "", class_="strip", scope="col"))
    return section("Steps", table(head, rows))


def _files(record: Record) -> Markup:
    rows = [
        [tag("a", tag("code", path), href=path), about]
        for path, about in FILES.items()
        if (record.folder / path).is_file()
    ]
    return section("Files", table(["file", "what it holds"], rows, words=2))


def _spelled(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# -- runs side by side

Row = tuple[str, list[str]]


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
        raise ConfigError("one run alone cannot be compared", mend="Give two or more runs")
    records = [read_run(folder) for folder in folders]
    names = {name: None for record in records for name in record.run["parameters"]}
    settings: list[Row] = []
    for name in names:
        values = [_spelled(record.run["parameters"].get(name, "–")) for record in records]
        if len(set(values)) > 1:
            settings.append((name, values))
    figures = [
        (name, ["–" if value is None else value for value in values])
        for name, values in _figures(records)
        if any(value is not None for value in values)
    ]
    return Comparison([r.name for r in records], settings, figures, _paired(records))


def _figures(records: Sequence[Record]) -> list[tuple[str, list[str | None]]]:
    def of(part: str, key: str, form: str) -> list[str | None]:
        values = (getattr(record, part).get(key) for record in records)
        return [None if value is None else form.format(value) for value in values]

    rows: list[tuple[str, list[str | None]]] = [("state", [r.run["state"] for r in records])]
    for suffix, name in _sets(records).items():
        rows.append((f"{name}, %", of("evaluation", f"accuracy{suffix}", "{:.2f}")))
        ends = [
            _interval(r, suffix) if f"correct{suffix}" in r.evaluation else None for r in records
        ]
        rows.append(("  95 % interval", [e and f"{e[0]:.1f}–{e[1]:.1f}" for e in ends]))
    rows += [
        ("trials", [str(len(r.trials)) if r.trials else None for r in records]),
        ("collapsed", of("selection", "collapsed", "{}")),
        ("median of the trials, %", of("selection", "median_accuracy", "{:.2f}")),
        ("ensemble, %", of("selection", "ensemble_accuracy", "{:.2f}")),
        ("test loss, nats", of("evaluation", "loss", "{:.4f}")),
        ("calibration error", of("evaluation", "calibration_error", "{:.4f}")),
        ("best on dev, %", of("training", "best_valid_accuracy", "{:.1f}")),
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
    answers = [_answers(record.folder / "report" / "predictions.jsonl") for record in records]
    first = answers[0]
    if not first:
        return []
    lost, won, chance = ["–"], ["–"], ["–"]
    for other in answers[1:]:
        if first.keys() != other.keys():
            for row in (lost, won, chance):
                row.append("other questions")
            continue
        only_first = sum(right and not other[name] for name, right in first.items())
        only_other = sum(right and not first[name] for name, right in other.items())
        lost.append(f"{only_first:,}")
        won.append(f"{only_other:,}")
        chance.append(f"{mcnemar(only_first, only_other):.2g}")
    return [
        ("right in the first only", lost),
        ("right in this only", won),
        ("p of no difference", chance),
    ]


def _answers(path: Path) -> dict[str, bool]:
    """Whether each question was answered correctly; nothing where there are no predictions."""
    if not path.is_file():
        return {}
    found = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            answer = json.loads(line)
            found[str(answer["id"])] = answer["predicted"] == answer["gold"]
    except (KeyError, TypeError, ValueError):
        mend = "Run the evaluation again"
        raise DataError(f"{path}: not what evaluate writes", mend=mend) from None
    return found


def as_text(comparison: Comparison) -> str:
    """For the terminal."""
    parts = [("", [("", comparison.names)]), ("settings that differ", comparison.settings)]
    parts += [("figures", comparison.figures), ("answers, beside the first run", comparison.paired)]
    rows = [row for _, found in parts for row in found]
    first = max(len(name) for name, _ in rows) + 2
    widths = [max(map(len, column)) for column in zip(*(v for _, v in rows), strict=True)]
    lines = []
    for title, found in parts:
        if title and found:
            lines += ["", title]
        for name, values in found:
            cells = (value.rjust(width) for value, width in zip(values, widths, strict=True))
            lines.append(f"  {name:<{first}}{'  '.join(cells)}".rstrip())
    if not comparison.settings:
        lines.append("\nno setting differs")
    return "\n".join(lines)


def as_page(comparison: Comparison) -> str:
    """For a browser."""

    def part(title: str, rows: Sequence[Row], note: str, empty: str = "") -> Markup | None:
        if not rows and not empty:
            return None
        head = ["", *comparison.names]
        made = table(head, [[name.strip(), *values] for name, values in rows])
        return section(title, made if rows else tag("p", empty), note=note if rows else None)

    return page(
        f"{len(comparison.names)} runs side by side",
        part("Settings that differ", comparison.settings, "All others are the same.", "None."),
        part("Figures", comparison.figures, "Accuracies with their 95 % intervals (Wilson)."),
        part(
            "Answers",
            comparison.paired,
            "Each run beside the first, question by question. p is the probability that two models"
            " of the same skill differ at least so much (McNemar, exact); below 0.05 is usually"
            " taken as a real difference.",
        ),
        kind="Comparison",
        lead=", ".join(comparison.names),
    )


def write_comparison(comparison: Comparison, output: Path) -> None:
    """Write the page.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(output) as partial:
        partial.write_text(as_page(comparison), encoding="utf-8")
