"""A run on this machine: what it consists of, what its folder holds, and what is shown of it.

A folder of runs looks like this:

    runs/
      .cache/                       which outputs belong to which inputs, see pipeline.caching
      sample-1f0c/                  the made-up inputs, where a config wants them
      latest -> 2026-01-31.12-00-00-smoke
      2026-01-31.12-00-00-smoke/
        race roberta bpe text data model report     the outputs, a cached step's as well
        trials/seed-1/                              those of a sweep's trials, and
        selection                                   what was selected from them
        logs/                       one file a step, and kfp.log
        run.json                    parameters, times and results
        index.html                  a page that leads to the reports, see pipeline.report
        artifacts/                  where KFP has outputs: links to those above, metrics and pages

Nothing in a run's folder depends on what is outside, so each can be removed, moved or copied by
itself.
"""

import contextlib
import itertools
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.common import strict_json
from components.common.errors import RaceError
from components.common.files import atomic_file
from components.common.results.metrics import Evaluation, Selection, Training
from components.common.results.scores import ALL
from components.select.core import table
from components.trials.core import Trial
from pipeline.display import NAME_WIDTH, say, step_line
from pipeline.report import write_index
from pipeline.steps import Step

# Lines of a failed step's log that are shown.
TAIL = 20

STARTED = "%Y-%m-%d %H:%M:%S UTC"  # in run.json


class StepError(RaceError):
    """A step failed; the exit status is the step's own."""

    def __init__(self, what: str, *, hint: str = "", exit_status: int = 1) -> None:
        super().__init__(what, hint=hint)
        self.exit_status = exit_status


@dataclass
class Execution:
    """One step of a run as it was executed.

    `outputs` tells where they lie below the run's folder, `figures` are the numbers of their
    metadata, and `seconds` is wall time.
    """

    step: Step
    logs: Path
    trial: Trial | None = None  # of a sweep
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    cached: bool = False
    exit_status: int = 0
    key: str = ""  # of the cache
    outputs: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For people: train, or train (seed 2)."""
        return f"{self.step.name} ({self.trial.label})" if self.trial else self.step.name

    @property
    def log(self) -> Path:
        """The file with what it says."""
        return self.logs / f"{self.step.name}{f'-{self.trial.name}' if self.trial else ''}.log"

    def lines(self) -> list[str]:
        """What it said, without colours."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in lines]

    @property
    def published(self) -> str:
        """What the last line says was published, and where."""
        return "".join(self.lines()[-1:]).removeprefix("published ")

    def error(self) -> StepError:
        """The error of a failed step, by what it said last."""
        said = next((line for line in reversed(self.lines()) if line.startswith("error: ")), "")
        what = said.removeprefix("error: ") or f"ended with status {self.exit_status}"
        return StepError(
            f"{self.label}: {what}",
            hint=f"Its log: {shown(self.log)}",
            exit_status=self.exit_status,
        )

    def tail(self) -> list[str]:
        """The last lines before its error."""
        lines = self.lines()
        found = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        return lines[: found[-1] if found else len(lines)][-TAIL:]


@dataclass
class Run:
    """A run and what it has done so far.

    `trials` are those of a sweep; `errors` of steps that failed, but for the gate's verdict on a
    model that is complete: that is `refused`.
    """

    folder: Path
    values: Mapping[str, Any]
    trials: Sequence[Trial] = ()
    executions: list[Execution] = field(default_factory=list)
    errors: list[StepError] = field(default_factory=list)
    refused: StepError | None = None

    def execution(self, name: str) -> Execution:
        return next(one for one in self.executions if one.step.name == name)

    def say(self, execution: Execution, spent: str, result: str) -> None:
        """Show a step's line."""
        longest = max((len(f"evaluate ({trial.label})") for trial in self.trials), default=0)
        say(step_line(execution.label, spent, result, max(longest, NAME_WIDTH)))

    def outcome(self, execution: Execution) -> str:
        """What a step did, in a few words."""
        step, figures = execution.step, execution.figures
        if step.name == "train":
            training = Training.find(self.folder / execution.outputs["model"])
            if training and training.collapsed:
                return f"collapsed after {figures['updates']:,.0f} updates"
        about = {**self.values, **figures, "mib": figures.get("bytes", 0) / (1 << 20)}
        about["trials"] = "; ".join(trial.label for trial in self.trials)
        try:
            return step.summary.format(**about, execution=execution)
        except KeyError:
            return step.without_figures


def new_folder(runs: Path, name: str) -> Path:
    """Make a run's folder, with a number after its name where that is taken, and point to it."""
    runs.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = runs / (name if number == 1 else f"{name}.{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    temporary = runs / f".latest-{secrets.token_hex(4)}"
    temporary.symlink_to(folder.name)
    os.replace(temporary, runs / "latest")
    (folder / "logs").mkdir()
    return folder


@contextlib.contextmanager
def recorded(run: Run, runner: str) -> Iterator[None]:
    """Write run.json: what was asked for, and when the block ends what came of it; and its page."""
    started = time.strftime(STARTED, time.gmtime())

    def write(state: str) -> None:
        write_record(run, {"state": state, "started": started, "runner": runner})

    write("running")
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, RaceError):  # what went wrong before matters more
            write("failed")
            say(f"reports: {shown(write_index(run.folder))}")
        raise
    write("failed" if run.refused else "succeeded")
    write_index(run.folder)


def write_record(run: Run, about: Mapping[str, Any]) -> None:
    """Write run.json: `about` the run, its parameters and steps."""
    steps = [
        {
            "name": one.label,
            "trial": one.trial.name if one.trial else "",
            "log": one.log.name,
            "seconds": round(one.seconds, 3),
            "cached": one.cached,
            "exit_status": one.exit_status,
            "figures": one.figures,
            "outputs": one.outputs,
        }
        for one in run.executions
    ]
    with atomic_file(run.folder / "run.json") as partial:
        strict_json.write(partial, {**about, "parameters": dict(run.values), "steps": steps})


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def report(run: Run) -> str:
    """The accuracies, and where everything lies."""
    if run.trials:
        results = table(Selection.read(run.folder / "selection")).splitlines()
    else:
        results = _accuracies(run)
    return "\n".join(["", *results, "", *_places(run)])


def _accuracies(run: Run) -> list[str]:
    lines = ["test set   questions   accuracy"]
    scores = Evaluation.read(run.folder / run.execution("evaluate").outputs["report"]).scores
    heads = {test.name: test.name for test in scores.tests}
    if len(heads) > 1:
        heads[ALL] = "both" if len(heads) == 2 else ALL
    for name, head in heads.items():
        group = scores.groups[name]
        lines.append(f"{head:<8} {group.questions:>11,} {group.accuracy:>8.2f} %")
    return lines


def _places(run: Run) -> list[str]:
    folder = shown(run.folder)
    if run.trials:
        own = {
            "selection/report.html": "the trials side by side",
            "selection/metrics.json": "these figures and more",
            "model/checkpoint_best.pt": "the model, best in validation",
            "trials": "each trial's model and report",
        }
    else:
        own = {
            "model/checkpoint_best.pt": "the model, best in validation",
            "model/train_log.jsonl": "every logged value of training",
            "report/predictions.jsonl": "each question's answer",
            "report/metrics.json": "these figures and more",
        }
    places = {"index.html": "the reports", **own, "logs": "what each step said"}
    return [f"{folder}/{path:<29} {about}" for path, about in places.items()]
