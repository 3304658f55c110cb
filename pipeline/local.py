"""Run the pipeline on this machine, through KFP's own local runner.

KFP sorts the DAG, hands artifacts from step to step and keeps the cache. Three of its functions are
replaced while it runs, because it has no hook for what they leave out: it says nothing about a
step but in a log that nobody would want to read, it drops a step's exit status, and it runs the
trials of a sweep in threads, where no signal arrives.

A folder of runs looks like this:

    runs/
      .cache/                       which outputs belong to which inputs (KFP's)
      sample-1f0c/                  the made-up inputs, where a profile wants them
      latest -> 2026-01-31.12-00-00-smoke
      2026-01-31.12-00-00-smoke/
        race roberta bpe text data model report     the outputs, a cached step's as well
        trials/seed-1/                              those of a sweep's trials, and
        selection                                   what was selected from them
        logs/                       one file a step, and kfp.log
        run.json                    parameters, times and results
        index.html                  a page that leads to the reports, see pipeline.report
        artifacts/                  where the steps of this run wrote: their metrics as KFP keeps
                                    them, and links to the outputs for the cache

Nothing in a run's folder depends on what is outside: it can be moved, copied and removed by itself.
What a cached step left for an earlier run is linked file by file (hard links, or copies).
"""

import contextlib
import itertools
import logging
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import kfp.local
from kfp import dsl
from kfp.dsl.component_factory import EXECUTOR_MODULE
from kfp.local import status as kfp_status
from kfp.local import subprocess_task_handler
from kfp.local.orchestrator import enhanced_dag_orchestrator, task_executor

from components.common import strict_json
from components.common.cli import LOG_FORMAT_VARIABLE
from components.common.errors import ConfigError, DataError, GateError, RaceError
from components.common.files import atomic_file, atomic_folder, link_or_copy
from components.common.processes import python, running
from components.common.progress import duration
from components.evaluate.trained import read_metrics
from components.select.core import table
from components.select.trials import Trial
from pipeline.caching import salts
from pipeline.display import NAME_WIDTH, say, step_line, working
from pipeline.images import Images
from pipeline.parameters import is_sweep, parameters_of, trials
from pipeline.pipeline import build
from pipeline.report import levels, write_index

# Lines of a failed step's log that are shown.
TAIL = 20

# What each step did, in a few words, from its artifacts' metadata.
_OUTCOMES = {
    "download": "{mib:,.1f} MiB",
    "preprocess": "{questions:,.0f} questions about {passages:,.0f} passages",
    "binarize": "{tokens:,.0f} tokens",
    "train": "{updates:,.0f} updates, accuracy {best_valid_accuracy:.1f} % on dev",
    "evaluate": "accuracy {accuracy:.1f} % on test",
    "select": "best {accuracy:.1f} %, ensemble {ensemble_accuracy:.1f} % on test",
}

# Artifacts that hold what is in their step's folder too.
COPIES = (dsl.Metrics, dsl.ClassificationMetrics, dsl.HTML)

# What is wrong with parameters or data is wrong with them in every trial.
HOPELESS = (ConfigError.exit_status, DataError.exit_status)

# How long a step may take to end when it is asked to, in seconds, before it is killed.
GRACE = 20.0


class StepError(RaceError):
    """A step failed; the exit status is the step's own."""

    def __init__(self, what: str, *, mend: str = "", exit_status: int = 1) -> None:
        super().__init__(what, mend=mend)
        self.exit_status = exit_status


@dataclass
class Step:
    """One step of a run.

    `artifacts` are KFP's, by output name; `outputs` tells where they lie below the run's folder;
    `seconds` is wall time.
    """

    name: str
    logs: Path
    trial: Trial | None = None  # of a sweep
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    cached: bool = True  # until its process is started
    exit_status: int = 0
    artifacts: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For people: train, or train (seed 2)."""
        return f"{self.name} ({self.trial.label})" if self.trial else self.name

    @property
    def log(self) -> Path:
        """The file with what it says."""
        return self.logs / f"{self.name}{f'-{self.trial.name}' if self.trial else ''}.log"

    @property
    def figures(self) -> dict[str, float]:
        """The numbers among its artifacts' metadata: its metrics, or the bytes of a download."""
        everything = [item for a in self.artifacts.values() for item in a.metadata.items()]
        return {k: v for k, v in sorted(everything) if isinstance(v, int | float)}


@dataclass
class Run:
    """A run and what it has done so far.

    `trials` are those of a sweep, and `trial` the one that is on; `refused` is the gate's verdict
    on a model that is complete, but not good enough.
    """

    folder: Path
    values: Mapping[str, Any]
    trials: Sequence[Trial] = ()
    steps: list[Step] = field(default_factory=list)
    trial: Trial | None = None
    refused: "StepError | None" = None

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def line(self, step: Step, spent: str, result: str) -> str:
        """What is shown of a step."""
        longest = max((len(f"evaluate ({trial.label})") for trial in self.trials), default=0)
        return step_line(step.label, spent, result, max(longest, NAME_WIDTH))


def run_pipeline(
    values: Mapping[str, Any],
    images: Images,
    runs: Path,
    *,
    name: str,
    runner: str = "subprocess",
    cache: bool = True,
) -> Run:
    """Run all steps, one after another, and show a line for each.

    `runs` is the folder for this run and its cache; `name` is what the run is called there. A trial
    of a sweep that fails does not stop the others, unless they would fail as well. A model that the
    gate refuses is no error here, but the run's `refused`.

    Raises:
        StepError: a step failed. The last lines of its log have been shown, and nothing that it
            half made is left.
        OSError: the folder cannot be written.
    """
    sweep = is_sweep(values)
    planned = trials(values) if sweep else ()
    values = {n: values[n] for n in parameters_of(sweep)}
    values = {n: _absolute(v) if n.endswith("_url") else v for n, v in values.items()}
    run = Run(_new_folder(runs, name), values, planned)
    (run.folder / "logs").mkdir()
    say(f"run {shown(run.folder)}")
    salt = salts(values) if cache else {}
    inputs = [local_path(v) for n, v in values.items() if n.endswith("_url")]
    readable = [runs.absolute(), *(path for path in inputs if path is not None)]

    def configure(task: Any, step: str, _: Mapping[str, Any]) -> None:
        if step in salt:  # whatever is in a task's environment is part of KFP's key
            task.set_env_variable("RACE_CACHE_SALT", salt[step])

    pipeline = build(values, images, configure)
    with (
        _recorded(run, values, runner),
        _kfp_log(run.folder / "logs" / "kfp.log"),
        _observed(run),
        RUNNERS[runner](run, images, readable) as kfp_runner,
    ):
        kfp.local.init(
            runner=kfp_runner,
            pipeline_root=str(run.folder / "artifacts"),
            raise_on_error=False,  # _observed has noticed, and knows more
            enable_caching=cache,
            cache_root=str(runs / ".cache"),
        )
        pipeline()
    return run


@contextlib.contextmanager
def subprocess_runner(run: Run, images: Images, readable: Sequence[Path]) -> Iterator[Any]:
    """KFP's SubprocessRunner: each step is a process of this Python environment."""

    class Process(subprocess_task_handler.SubprocessTaskHandler):  # type: ignore[misc]
        def validate_image(self, image: str) -> None:
            """Any image will do, for none is started."""

        def run(self) -> Any:
            # KFP puts this Python in place of "python3" wherever it stands, in paths and parameters
            # too, and does not quote it. It belongs into the third part, the shell script, only,
            # in place of the shell, which would otherwise end first when both are asked to.
            command = list(self.full_command)
            start = f"exec {shlex.join(python(EXECUTOR_MODULE))}"
            command[2] = command[2].replace(f"python3 -m {EXECUTOR_MODULE}", start)
            step = run.steps[-1]
            step.cached = False
            step.exit_status = supervise(command, self.env_vars, step.log)
            return kfp_status.Status.FAILURE if step.exit_status else kfp_status.Status.SUCCESS

    with _replaced(subprocess_task_handler, "SubprocessTaskHandler", lambda _: Process):
        yield kfp.local.SubprocessRunner(use_venv=False)


@contextlib.contextmanager
def docker_runner(run: Run, images: Images, readable: Sequence[Path]) -> Iterator[Any]:
    """KFP's DockerRunner: each step is a container, see pipeline.containers."""
    from kfp.local import docker_task_handler

    from pipeline.containers import container_arguments, container_runner, require_image
    from pipeline.image_build import engine

    start = container_runner(lambda: run.steps[-1].log)

    def container(*arguments: Any, **named: Any) -> int:
        step = run.steps[-1]
        step.cached = False
        step.exit_status = start(*arguments, **named)
        return step.exit_status

    with engine() as client:
        for image in (images.data, images.train):
            require_image(client, image)
        arguments = container_arguments(client, readable=readable)
    with _replaced(docker_task_handler, "run_docker_container", lambda _: container):
        yield kfp.local.DockerRunner(**arguments)


# A runner yields what kfp.local.init wants. It sends a step's output to the log of `run.steps[-1]`,
# and notes there that the step was started, and its exit status. `readable` are the files and
# folders that steps read: local inputs, and the outputs of this and earlier runs.
Runner = Callable[[Run, Images, Sequence[Path]], contextlib.AbstractContextManager[Any]]
RUNNERS: dict[str, Runner] = {"subprocess": subprocess_runner, "docker": docker_runner}


def supervise(command: list[str], environment: Mapping[str, str], log: Path) -> int:
    """Run a command with its output in `log`; its exit status, 128 + n where signal n ended it.

    However this is left, no process of the command's group is.
    """
    with tempfile.TemporaryDirectory(prefix="race-") as scratch, log.open("ab") as output:
        environment = {
            # torch's threads spin while they wait, which on a busy machine costs more than it
            # saves: evaluating a small model took three times as long.
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            **environment,
            # KFP's command makes a temporary folder that nobody removes.
            "TMPDIR": scratch,
            "PYTHONUNBUFFERED": "1",
            LOG_FORMAT_VARIABLE: "text",  # the log of a step is read by people, and by `_fail`
        }
        with running(
            command, grace=GRACE, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process:
            status = process.wait()
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _recorded(run: Run, values: Mapping[str, Any], runner: str) -> Iterator[None]:
    """Write run.json: what was asked for, and when the block ends what came of it; and its page."""

    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())

    def write(state: str) -> None:
        steps = [
            {
                "name": step.label,
                "trial": step.trial.name if step.trial else "",
                "log": step.log.name,
                "seconds": round(step.seconds, 3),
                "cached": step.cached,
                "exit_status": step.exit_status,
                "figures": step.figures,
                "outputs": step.outputs,
            }
            for step in run.steps
        ]
        record = {
            "state": state,
            "started": started,
            "runner": runner,
            "parameters": dict(values),
            "steps": steps,
        }
        with atomic_file(run.folder / "run.json") as partial:
            strict_json.write(partial, record)

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


@contextlib.contextmanager
def _observed(run: Run) -> Iterator[None]:
    """Note and show each step that KFP executes or takes from its cache."""

    def single(original: Callable[..., Any]) -> Callable[..., Any]:
        def execute(*, task_name: str, **rest: Any) -> Any:
            step = Step(task_name, run.folder / "logs", run.trial)
            run.steps.append(step)
            with working(step.label, step.log):
                outputs, status = original(task_name=task_name, **rest)
            step.artifacts = {n: a for n, a in outputs.items() if isinstance(a, dsl.Artifact)}
            step.seconds = time.monotonic() - step.started
            _finish(run, step)
            return outputs, status

        return execute

    def loop(_: Any) -> Callable[..., Any]:
        def execute(*_: Any, tasks: Any, parallelism_limit: int, **rest: Any) -> Any:
            # One after another: side by side they would share this machine's memory and GPUs.
            outputs = {}
            failures: list[StepError] = []
            for trial, (name, task) in zip(run.trials, tasks, strict=True):
                run.trial = trial
                try:
                    outputs[name], _ = enhanced_dag_orchestrator.execute_task(
                        task_name=name, task_spec=task, **rest
                    )
                except StepError as error:
                    failures.append(error)
                    if error.exit_status in HOPELESS or trial is run.trials[-1]:
                        break
            run.trial = None
            if failures:
                raise _without(run, failures)
            return outputs, kfp_status.Status.SUCCESS

        return execute

    executor = enhanced_dag_orchestrator.ParallelExecutor
    with (
        _replaced(task_executor, "execute_single_task", single),
        _replaced(executor, "execute_parallel_tasks", loop),
    ):
        yield


def _without(run: Run, failures: Sequence[StepError]) -> StepError:
    """The error of a sweep whose trials did not all end well; says how to go on without those."""
    first = failures[0]
    ended = [path.parent for path in sorted((run.folder / "trials").glob("*/report"))]
    if not ended:
        return first

    def paths(name: str) -> str:
        return " ".join(shlex.quote(shown(trial / name)) for trial in ended)

    output = shlex.quote(shown(run.folder / "selection"))
    say(f"{len(ended)} of {len(run.trials)} trials ended well; to select from them:")
    say(
        f"  python -P -m components.select --models {paths('model')}"
        f" --evaluations {paths('report')} --output {output}"
    )
    return first


def _finish(run: Run, step: Step) -> None:
    """Check, put into its place and show what a step left."""
    if step.exit_status == GateError.exit_status and step.name == "gate":
        say(run.line(step, duration(step.seconds), "failed"))
        run.refused = _error(step, _lines(step))
        return
    if step.exit_status:
        _fail(run, step)
    for name, artifact in step.artifacts.items():
        path = Path(artifact.path)
        if not path.exists():
            raise StepError(
                f"{step.label}: it ended well, but left no {name}", mend=f"See {shown(step.log)}"
            )
        if not isinstance(artifact, COPIES):
            _place(run, step, name, path)
    if step.name == "select":
        # The selected trial's: with it the run's folder looks like that of a single training.
        _link_files(run.folder / "selection" / "report", run.folder / "report")
    if step.name == "gate" and not run.values["evaluate_min_accuracy"]:
        return  # nothing was asked for
    spent = "cached" if step.cached else duration(step.seconds)
    say(run.line(step, spent, _outcome(run, step)))


def _place(run: Run, step: Step, name: str, path: Path) -> None:
    """Put an output into the run's folder, where `path` still finds it unless it is cached."""
    step.outputs[name] = f"trials/{step.trial.name}/{name}" if step.trial else name
    target = run.folder / step.outputs[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    if step.cached:
        _link_files(path, target)
    else:
        path.rename(target)
        path.symlink_to(os.path.relpath(target, path.parent))


def _link_files(source: Path, target: Path) -> None:
    """The files of a folder in a new folder as well."""
    with atomic_folder(target) as partial:
        shutil.copytree(source, partial, copy_function=link_or_copy, dirs_exist_ok=True)


def _fail(run: Run, step: Step) -> None:
    """Show the end of a failed step's log, and raise its error."""
    say(run.line(step, duration(step.seconds), "failed"))
    lines = _lines(step)
    error = _error(step, lines)
    found = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if found:
        del lines[found[-1] :]
    # KFP's executor starts with the step's input as JSON, whose last line this is.
    start = lines.index("}") + 1 if "}" in lines else 0
    for line in lines[start:][-TAIL:]:
        say(f"  | {line}")
    raise error


def _lines(step: Step) -> list[str]:
    """What a step said, without colours."""
    lines = step.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in lines]


def _error(step: Step, lines: Sequence[str]) -> StepError:
    """The error of a failed step, by what it said last."""
    said = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    what = said.removeprefix("error: ") or f"ended with status {step.exit_status}"
    return StepError(
        f"{step.label}: {what}",
        mend=f"Its log: {shown(step.log)}",
        exit_status=step.exit_status,
    )


def _outcome(run: Run, step: Step) -> str:
    """What a step did, in a few words."""
    if step.name == "trials":
        return "; ".join(trial.label for trial in run.trials)
    if step.name == "gate":
        return f"accuracy is at least {run.values['evaluate_min_accuracy']:g} %"
    if step.name == "train" and read_metrics(Path(step.artifacts["model"].path)).get("collapsed"):
        return f"collapsed after {step.figures['updates']:,.0f} updates"
    if step.name == "evaluate" and "accuracy" not in step.figures:
        return "nothing to evaluate"
    template = _OUTCOMES.get(step.name.partition("-")[0], "")
    try:
        return template.format(**step.figures, mib=step.figures.get("bytes", 0) / (1 << 20))
    except KeyError:
        return ""


@contextlib.contextmanager
def _replaced(module: Any, name: str, replacement: Callable[[Any], Any]) -> Iterator[None]:
    """`module.name` is `replacement(its value)` for as long as the block runs."""
    original = getattr(module, name)
    setattr(module, name, replacement(original))
    try:
        yield
    finally:
        setattr(module, name, original)


@contextlib.contextmanager
def _kfp_log(path: Path) -> Iterator[None]:
    """Send what KFP prints, logs and warns about to a file."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with path.open("w", encoding="utf-8") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.handlers[:] = [logging.StreamHandler(file)]
        try:
            with contextlib.redirect_stdout(file):
                yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)


def _new_folder(runs: Path, name: str) -> Path:
    """Make the run's folder, with a number after its name where that is taken, and point to it."""
    runs.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = runs / (name if number == 1 else f"{name}.{number}")
        try:
            folder.mkdir()
            break
        except FileExistsError:
            continue
    latest = runs / "latest"
    temporary = runs / f".latest-{secrets.token_hex(4)}"
    temporary.symlink_to(folder.name)
    os.replace(temporary, latest)
    return folder


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def local_path(address: str) -> Path | None:
    """The path that an address without a scheme, or with file://, names; None for any other."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in address or not address else Path(address).expanduser()


def _absolute(address: str) -> str:
    path = local_path(address)
    return address if path is None else os.path.abspath(path)


def report(run: Run) -> str:
    """The accuracies, and where everything lies."""
    return "\n".join(["", *(_trials(run) if run.trials else _accuracies(run)), "", *_places(run)])


def _accuracies(run: Run) -> list[str]:
    figures = run.step("evaluate").figures
    lines = ["test set   questions   accuracy"]
    tests = {name: f"_{name}" for name in levels(figures)}
    if len(tests) > 1:
        tests["both" if len(tests) == 2 else "all"] = ""
    for name, suffix in tests.items():
        questions, accuracy = figures[f"questions{suffix}"], figures[f"accuracy{suffix}"]
        lines.append(f"{name:<8} {questions:>11,.0f} {accuracy:>8.2f} %")
    return lines


def _trials(run: Run) -> list[str]:
    path = run.folder / "selection" / "metrics.json"
    return table(strict_json.read(path)).splitlines()


def _places(run: Run) -> list[str]:
    folder = shown(run.folder)
    lines = [f"{folder}/index.html                    the reports"]
    if run.trials:
        lines += [
            f"{folder}/selection/report.html         the trials side by side",
            f"{folder}/selection/metrics.json        these figures and more",
            f"{folder}/model/checkpoint_best.pt      the model, best on dev",
            f"{folder}/trials                        each trial's model and report",
        ]
    else:
        lines += [
            f"{folder}/model/checkpoint_best.pt      the model, best on dev",
            f"{folder}/model/train_log.jsonl         every logged value of training",
            f"{folder}/report/predictions.jsonl      each question's answer",
            f"{folder}/report/metrics.json           these figures and more",
        ]
    return [*lines, f"{folder}/logs                          what each step said"]
