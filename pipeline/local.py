"""Run the pipeline on this machine, through KFP's own local runner.

KFP sorts the DAG and hands artifacts from step to step. A subclass of its task handler executes a
step: it looks in the cache, starts the command otherwise, shows a line, and puts the outputs into
the run's folder.
"""

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import kfp.local
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH
from kfp.local import status as kfp_status
from kfp.local import subprocess_task_handler

from components.common import executor
from components.common.cli import LOG_FORMAT_VARIABLE
from components.common.errors import ConfigError, DataError, GateError
from components.common.files import link_tree, scratch_folder
from components.common.processes import python, running
from components.common.program import EXECUTOR_INPUT
from components.common.progress import duration
from components.download.core import without_digests
from components.trials.core import Trial
from pipeline.cache import Cache
from pipeline.caching import salts
from pipeline.components import PYTHON
from pipeline.display import say, working
from pipeline.images import Images
from pipeline.parameters import inputs_of, is_sweep, spelled, trials
from pipeline.pipeline import build
from pipeline.record import Execution, Run, StepError, new_folder, recorded, shown
from pipeline.steps import COPIES, STEPS, Step

# Where KFP has artifacts, in a run's folder.
ROOT = "artifacts"

# What is wrong with parameters or data is wrong with them in every trial.
HOPELESS = (ConfigError.exit_status, DataError.exit_status)

# How long a step may take to end when it is asked to, in seconds, before it is killed.
GRACE = 20.0

# How often (seconds) it is looked whether a step has ended.
TICK = 0.05

# Starts a step's command with its output in a log; gives the exit status.
Start = Callable[[Sequence[str], Path], int]


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
    values = {n: _absolute(v) if n.endswith(("_url", "_uri")) else v for n, v in values.items()}
    run = Run(new_folder(runs, name), values, trials(values) if sweep else ())
    say(f"run {shown(run.folder)}")
    addresses = [without_digests(values[n]) for n in inputs_of(sweep) if n.endswith("_url")]
    inputs = [local_path(address) for address in addresses]
    readable = [runs.absolute(), *(path for path in inputs if path is not None)]
    worker = Worker(run, Cache(runs.absolute(), salts(values)) if cache else None)
    pipeline = build(values, images, lambda *_: None, parallelism=1)
    with (
        recorded(run, runner),
        _kfp_log(run.folder / "logs" / "kfp.log"),
        worker.stopped_by_signals(),
    ):
        handler, kfp_runner = RUNNERS[runner](worker, images, readable)
        kfp.local.init(
            runner=kfp_runner,
            pipeline_root=str(run.folder.absolute() / ROOT),
            raise_on_error=False,  # the worker has noticed, and knows more
        )
        with _in_place_of_kfps(handler):
            pipeline()
        if run.errors:
            raise _without(run)
    return run


def require_carried(folder: Path, values: Mapping[str, Any]) -> None:
    """Refuse what Kubeflow Pipelines would not hand to a step as it is.

    Args:
        folder: the run's.
        values: of the pipeline's parameters.

    Raises:
        ConfigError: a path is no text, or it or a parameter has a placeholder of KFP's.
    """
    addresses = {n: _absolute(v) for n, v in values.items() if n.endswith("_url")}
    for name, value in {"--output": str(folder.absolute()), **values, **addresses}.items():
        text = spelled(value)
        if text.encode(errors="ignore").decode() != text:
            raise ConfigError(f"{name} {text!a}: not text in UTF-8", hint="Rename its folders")
        for taken in ("{{$", WORKSPACE_MOUNT_PATH):
            if taken in text:
                raise ConfigError(
                    f"{name} {text}: Kubeflow Pipelines would put something else for {taken}",
                    hint="Choose a name without it",
                )


class Worker:
    """Executes the steps of a run, one at a time, whichever thread of KFP asks for it."""

    def __init__(self, run: Run, cache: Cache | None) -> None:
        self.run, self.cache = run, cache
        self.stopping = False
        self._turn = threading.Lock()
        self._made: dict[str, Execution] = {}  # by the address of an output

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Within the block, a signal that ends this process ends the step that runs as well.

        KFP runs the trials of a sweep in another thread, and waits for that before it lets an
        exception out.
        """
        found = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        before = {signum: handler for signum, handler in found.items() if callable(handler)}

        def stop(signum: int, frame: Any) -> None:
            self.stopping = True
            before[signal.Signals(signum)](signum, frame)

        try:
            for signum in before:
                signal.signal(signum, stop)
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def execute(self, command: Sequence[str], start: Start) -> Any:
        """Execute the step of a command; its status, as KFP has it."""
        told = next(part for part in command if part.startswith(EXECUTOR_INPUT))
        given = executor.parse(told.partition("=")[2])
        with self._turn:
            execution = self._begin(command, given)
            if execution is None:
                return kfp_status.Status.FAILURE
            try:
                self._work(execution, command, given, start)
                self._finish(execution, given)
            except StepError as error:
                self.run.errors.append(error)
                return kfp_status.Status.FAILURE
            refused = execution.exit_status  # the gate's, which is no error
            return kfp_status.Status.FAILURE if refused else kfp_status.Status.SUCCESS

    def _begin(self, command: Sequence[str], given: executor.ExecutorInput) -> Execution | None:
        """A new execution; None where an earlier one has failed and this would be in vain."""
        step = STEPS[given.answer.parent.name]
        trial = self._trial(step, command, given)
        hopeless = any(error.exit_status in HOPELESS for error in self.run.errors)
        if self.stopping or hopeless or (self.run.errors and trial is None):
            return None
        execution = Execution(step, self.run.folder / "logs", trial)
        self.run.executions.append(execution)
        for artifact in given.outputs.values():
            self._made[artifact.uri] = execution
        return execution

    def _trial(
        self, step: Step, command: Sequence[str], given: executor.ExecutorInput
    ) -> Trial | None:
        """The trial that a command names, or that an input is of; what collects them is of none."""
        named = next((p.partition("=")[2] for p in command if p.startswith("--trial=")), "")
        if named:
            return next(trial for trial in self.run.trials if trial.name == named)
        single = [n for n, kind in step.inputs.items() if not kind.startswith("list")]
        makers = (self._made.get(a.uri) for name in single for a in given.inputs.get(name, ()))
        return next((made.trial for made in makers if made and made.trial), None)

    def _work(
        self,
        execution: Execution,
        command: Sequence[str],
        given: executor.ExecutorInput,
        start: Start,
    ) -> None:
        with working(execution.label, execution.log):
            if self.cache and execution.step.cached:
                sources = {uri: made.key for uri, made in self._made.items()}
                execution.key = self.cache.key(execution.step, command, given, sources)
                execution.cached = self.cache.restore(execution.key, given)
            if not execution.cached:
                execution.exit_status = start(command, execution.log)
        execution.seconds = time.monotonic() - execution.started

    def _finish(self, execution: Execution, given: executor.ExecutorInput) -> None:
        """Check, put into its place and show what a step left."""
        run, spent = self.run, duration(execution.seconds)
        if execution.exit_status:
            run.say(execution, spent, "failed")
            error = execution.error()
            if execution.exit_status == GateError.exit_status:
                run.refused = error
                return
            for line in execution.tail():
                say(f"  | {line}")
            raise error
        left = {"answer": given.answer, **{name: a.path for name, a in given.outputs.items()}}
        for name, path in left.items():
            if not path.exists():
                raise StepError(
                    f"{execution.label}: it ended well, but left no {name}",
                    hint=f"See {shown(execution.log)}",
                )
        for name, metadata in given.read_answer().items():
            if given.outputs[name].kind not in COPIES:
                self._place(execution, name, given.outputs[name].path)
            execution.figures |= {k: v for k, v in metadata.items() if isinstance(v, int | float)}
        if self.cache and execution.step.cached and not execution.cached:
            self.cache.keep(execution.key, given)
        if execution.step.name == "select":
            # The selected trial's: with it the run's folder looks like that of a single training.
            link_tree(run.folder / "selection" / "report", run.folder / "report")
        if execution.step.name == "gate" and not run.values["min_accuracy"]:
            return  # nothing was asked for
        run.say(execution, "cached" if execution.cached else spent, run.outcome(execution))

    def _place(self, execution: Execution, name: str, path: Path) -> None:
        """Put an output into the run's folder, where `path` still finds it."""
        trial = execution.trial
        execution.outputs[name] = f"trials/{trial.name}/{name}" if trial else name
        target = self.run.folder.absolute() / execution.outputs[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        path.symlink_to(os.path.relpath(target, path.parent))


def subprocess_runner(worker: Worker, images: Images, readable: Sequence[Path]) -> tuple[type, Any]:
    """KFP's SubprocessRunner: each step is a process of this Python environment."""

    class Process(subprocess_task_handler.SubprocessTaskHandler):  # type: ignore[misc]
        def validate_image(self, image: str) -> None:
            """Any image will do, for none is started."""

        def validate_not_container_component(self, full_command: list[str]) -> None:
            """A container's command that starts Python runs here as well."""

        def run(self) -> Any:
            def start(command: Sequence[str], log: Path) -> int:
                here = python(*command[len(PYTHON) :])
                return supervise(here, self.env_vars, log, lambda: worker.stopping)

            return worker.execute(self.full_command, start)

    return Process, kfp.local.SubprocessRunner(use_venv=False)


def docker_runner(worker: Worker, images: Images, readable: Sequence[Path]) -> tuple[type, Any]:
    """KFP's DockerRunner: each step is a container, see pipeline.containers."""
    from kfp.local import docker_task_handler

    from pipeline.containers import container_arguments, mount, require_image, run_container
    from pipeline.image_build import engine

    with engine() as client:
        for image in (images.data, images.train):
            require_image(client, image)
        arguments = container_arguments(client, readable=readable)
    root = worker.run.folder.absolute() / ROOT
    written = [local_path(worker.run.values.get(n, "")) for n in ("checkpoint_uri", "publish_uri")]
    for folder in (root, *filter(None, written)):
        folder.mkdir(parents=True, exist_ok=True)
        arguments["mounts"].append(mount(folder, read_only=False))

    class Container(docker_task_handler.DockerTaskHandler):  # type: ignore[misc]
        def run(self) -> Any:
            def start(command: Sequence[str], log: Path) -> int:
                environment = {**arguments["environment"], **self.env_vars}
                with engine() as client:
                    return run_container(
                        client,
                        self.image,
                        command,
                        log,
                        lambda: worker.stopping,
                        **{**arguments, "environment": environment},
                    )

            return worker.execute(self.full_command, start)

    return Container, kfp.local.DockerRunner()


# Each gives a subclass of KFP's task handler, which brings the steps' commands to the worker, and
# what kfp.local.init wants. `readable` are the files and folders that steps read: local inputs, and
# the outputs of this and earlier runs.
RUNNERS = {"subprocess": subprocess_runner, "docker": docker_runner}


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Run a command with its output in `log`; its exit status, 128 + n where signal n ended it.

    However this is left, no process of the command's group is. It is left early when `stopping`.
    """
    with scratch_folder() as scratch, log.open("ab") as output:
        environment = {
            # torch's threads spin while they wait, which on a busy machine costs more than it
            # saves: evaluating a small model took three times as long.
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            **environment,
            "TMPDIR": str(scratch),
            "PYTHONUNBUFFERED": "1",
            LOG_FORMAT_VARIABLE: "text",  # a step's log is read by people, and by Execution.error
        }
        with running(
            command, grace=GRACE, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process:
            while process.poll() is None and not stopping():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(TICK)
        status = process.wait()
    return status if status >= 0 else 128 - status


def _without(run: Run) -> StepError:
    """The error of a run with a failed step; says how to go on without a sweep's failed trials."""
    first = run.errors[0]
    ended = [path.parent for path in sorted((run.folder / "trials").glob("*/report"))]
    if not ended or len(ended) == len(run.trials):
        return first

    def paths(name: str) -> str:
        return " ".join(shlex.quote(shown(trial / name)) for trial in ended)

    output = shlex.quote(shown(run.folder / "selection"))
    say(f"{len(ended)} of {len(run.trials)} trials ended well; to select from them:")
    say(
        f"  python -m components.select --models {paths('model')}"
        f" --evaluations {paths('report')} --output {output}"
    )
    return first


@contextlib.contextmanager
def _in_place_of_kfps(handler: type) -> Iterator[None]:
    """KFP uses our subclass of its task handler for as long as the block runs."""
    (original,) = handler.__bases__
    module = sys.modules[original.__module__]
    setattr(module, original.__name__, handler)
    try:
        yield
    finally:
        setattr(module, original.__name__, original)


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


def local_path(address: str) -> Path | None:
    """The path that an address without a scheme, or with file://, names; None for any other."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in address or not address else Path(os.path.expanduser(address))


def _absolute(address: str) -> str:
    path = local_path(address)
    return address if path is None else os.path.abspath(path)
