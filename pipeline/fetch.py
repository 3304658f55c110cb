"""A cluster's run as the folder that a run on this machine leaves, see pipeline.record.

An artifact comes to its place there when it is whole. Until then it is in `.fetching`, where what
was cut off goes on. A folder may be fetched into again, for what a run has made since.
"""

import contextlib
import datetime
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.common import storage, strict_json
from components.common.cli import config_of, parser
from components.common.errors import ConfigError
from components.common.files import atomic_file, link_tree
from components.common.program import handed
from components.common.progress import bar
from components.trials.core import Trial
from pipeline.artifacts import Stored, artifacts_of, read_log
from pipeline.client import ENDED, Api, Run
from pipeline.display import say
from pipeline.outcome import read_failure
from pipeline.parameters import SET_BY_SWEEP, folded, is_sweep, parameters, steps_of, trials
from pipeline.record import STARTED, Execution, write_record
from pipeline.record import Run as Folder
from pipeline.report import PLATFORM, read_run, write_index
from pipeline.steps import COPIES, STEPS, Step, on_nodes
from pipeline.workflow import StepStatus, read_workflow

FETCHING = ".fetching"
GOING = ("pending", "running", "retrying")  # states of steps
RUNNER = "kubeflow"
LOG_FILES = "logs"
MAX_FIGURES = 1 << 20  # bytes of a Metrics artifact
# What runs are compared by, and the endings of the files in it that this needs.
COMPARED, FIGURES = ("model", "report", "selection"), (".json", ".jsonl")


@dataclass(frozen=True)
class Place:
    """Where an artifact belongs in the run's folder, and what of it is in the store.

    `stored` is None where nobody tells its address; `objects` are bytes by key, see storage.sizes.
    """

    step: str
    trial: int | None
    path: str
    stored: Stored | None
    objects: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def names_of(sweep: bool) -> list[str]:
    """What may be fetched by itself."""
    kinds = [(n, kind) for step in steps_of(sweep) for n, kind in step.outputs.items()]
    return [*dict.fromkeys(n for n, kind in kinds if kind not in COPIES), LOG_FILES]


def fetch(
    api: Api, run: Run, output: Path, *, only: Sequence[str] = (), figures: bool = False
) -> list[str]:
    """Bring a run's artifacts into the folder `output`, which may have some of them already.

    Args:
        only: names of the artifacts, all where it is empty.
        figures: fetch no more than comparisons need.

    Returns:
        What is missing, and why, a line each.

    Raises:
        ConfigError: the server does not tell where they lie, another run is in `output`, or `only`
            has a name that is none.
        DataError, TransferError: an artifact is damaged, or the store cannot be reached.
        OSError: the folder cannot be written.
    """
    workflow = read_workflow(api.manifest(run.run_id))
    stored = artifacts_of(api, run.run_id)
    if workflow is None or not stored:
        raise ConfigError(
            f"run {run.run_id}: the server does not tell where its artifacts lie",
            hint="It has not started a step yet, or its workflow is kept no more",
        )
    sweep = is_sweep(run.parameters)
    if not sweep and any(status.trial is not None for status in workflow.steps):
        raise ConfigError(
            f"run {run.run_id}: the server does not tell which trials it has",
            hint="Give seeds or learning_rates with the run, and not in what is compiled",
        )
    known = names_of(sweep)
    only = only or [name for name in known if name in COMPARED or not figures]
    for name in set(only) - set(known):
        raise ConfigError(f"there is no artifact {name!r}", hint=f"There are {', '.join(known)}")
    require_endpoint(stored)
    _require_same(output, run.run_id)
    planned = tuple(trials(run.parameters)) if sweep else ()
    chosen = [place for place in _places(stored, planned, sweep) if place.name in only]
    statuses = {
        (s.name, s.trial): s
        for s in workflow.steps
        # A pipeline of another version may have others.
        if not s.driver and s.name in STEPS and (s.trial is None or s.trial < len(planned))
    }
    going = {key for key, s in statuses.items() if s.state in GOING and run.state not in ENDED}
    places = [
        # What a step has begun to store is not whole yet.
        p if (p.step, p.trial) in going else _looked_up(p, figures)
        for p in chosen
        if p.trial is None or not figures
    ]
    folder = Folder(output, values_of(run, stored), planned)
    about = {"state": _state(run), "started": _started(run), "runner": RUNNER, "run": run.run_id}
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "run.json").exists():  # from here on no other run is fetched into it
        write_record(folder, about)
    _fetch_all(output, places)
    for key, status in statuses.items():
        execution = _execution(folder, status)
        if LOG_FILES in only and (text := read_log(stored, *key)):
            execution.log.parent.mkdir(exist_ok=True)
            with atomic_file(execution.log) as partial:
                partial.write_text(text, encoding="utf-8")
        if status.state not in GOING:
            mine = [place for place in places if (place.step, place.trial) == key and place.objects]
            execution.outputs = {place.name: place.path for place in mine}
            execution.figures = _figures(stored, *key)
            if status.state == "failed":
                log = api.log(run.run_id, status.pods[-1].node) if status.pods else ""
                execution.exit_status = read_failure(log).exit_status or 1
            folder.executions.append(execution)
    write_record(folder, about)
    selected = output / "selection" / "report"
    if selected.is_dir() and not (output / "report").exists():
        link_tree(selected, output / "report")
    write_index(output)
    return [
        f"{place.path}: {_why(statuses.get((place.step, place.trial)))}"
        for place in places
        if not (output / place.path).exists()
    ]


def fetch_figures(api: Api, run: Run) -> Path:
    """What comparisons need of a run, in this user's cache; what is there of it already stays.

    Raises:
        ConfigError, DataError, TransferError, OSError: see `fetch`.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    server = hashlib.sha256(api.server.host.encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.-]+", "-", run.name).strip(".-") or run.run_id
    folder = cache / "race-pipeline" / server / run.run_id / name
    for line in fetch(api, run, folder, figures=True):
        say(f"{run.name}: not fetched: {line}")
    return folder


def _state(run: Run) -> str:
    if run.state not in ENDED:
        return "running"
    return "succeeded" if run.state == "SUCCEEDED" else "failed"


def _started(run: Run) -> str:
    created = datetime.datetime.fromisoformat(run.created)
    return created.astimezone(datetime.UTC).strftime(STARTED)


def require_endpoint(stored: Sequence[Stored]) -> None:
    """Refuse to look for a cluster's own store at AWS.

    Raises:
        ConfigError: no endpoint is set, and it is needed.
    """
    own = next((one for one in stored if one.uri.startswith("minio://")), None)
    if own and not any(os.environ.get(f"AWS_ENDPOINT_URL{end}") for end in ("", "_S3")):
        within = next((one.endpoint for one in stored if one.endpoint), "the cluster's store")
        raise ConfigError(
            f"{own.folder}: the artifacts are in {within}, which has no address here",
            hint="Forward its port (kubectl port-forward), and set AWS_ENDPOINT_URL=http://..."
            " and the AWS keys for it",
        )


def _require_same(output: Path, run_id: str) -> None:
    if (output / "run.json").exists() and read_run(output).run.get("run") != run_id:
        raise ConfigError(f"{output}: another run is there", hint="Give a new folder")
    if output.is_dir() and not (output / "run.json").exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty", hint="Give a new folder")


def _places(stored: Sequence[Stored], planned: Sequence[Trial], sweep: bool) -> Iterator[Place]:
    """The place of each output that the run has or will have."""
    known = {(one.step, one.trial, one.name): one for one in stored}
    for step in steps_of(sweep):
        looped = sweep and step.name in ("train", "evaluate")
        folders = (
            {i: f"trials/{one.name}/" for i, one in enumerate(planned)} if looped else {None: ""}
        )
        for name in [n for n, kind in step.outputs.items() if kind not in COPIES]:
            for trial, folder in folders.items():
                found = known.get((step.name, trial, name))
                yield Place(step.name, trial, folder + name, found)


def _looked_up(place: Place, figures: bool) -> Place:
    found = storage.sizes(place.stored.address) if place.stored else {}
    wanted = {k: size for k, size in found.items() if not figures or k.endswith(FIGURES)}
    return replace(place, objects=wanted)


def _fetch_all(output: Path, places: Sequence[Place]) -> None:
    """Fetch what is not there yet; the small before the large."""
    missing = [p for p in places if p.stored and p.objects and not (output / p.path).exists()]
    missing.sort(key=lambda place: sum(place.objects.values()))
    scratch = output / FETCHING
    scratch.mkdir(parents=True, exist_ok=True)
    total = sum(sum(place.objects.values()) for place in missing)
    if shutil.disk_usage(output).free < total:  # what has come already is counted again
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))
    with contextlib.closing(bar(total=total, what="fetch", bytes=True)) as progress:
        for place in missing:
            assert place.stored
            # By its execution: what an earlier fetch left of another one is not taken for this.
            below = scratch / place.stored.folder.rpartition("/")[2]
            uri = place.stored.address
            storage.fetch_objects(uri, dict(place.objects), below, progress.update)
            target = output / place.path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(below / uri.rpartition("/")[2], target)
    shutil.rmtree(scratch)


def _execution(folder: Folder, status: StepStatus) -> Execution:
    return Execution(
        STEPS[status.name],
        folder.folder / LOG_FILES,
        None if status.trial is None else folder.trials[status.trial],
        seconds=status.seconds,
        cached=status.state == "cached",
    )


def _figures(stored: Sequence[Stored], step: str, trial: int | None) -> dict[str, float]:
    """The numbers in the metrics that a step has stored."""
    found: dict[str, float] = {}
    for one in stored:
        if (one.step, one.trial, one.kind) == (step, trial, "Metrics"):
            data = storage.read_small(one.address, MAX_FIGURES)
            with contextlib.suppress(ValueError):
                found |= strict_json.loads(data.decode()) if data else {}
    return found


def _why(status: StepStatus | None) -> str:
    if status is None:
        return "its step has not run"
    if status.state in ("succeeded", "cached"):
        return f"{status.name} {status.state}, but it is not in the store, or nobody tells where"
    return f"{status.name} {'failed' if status.state == 'failed' else f'is {status.state}'}"


def values_of(run: Run, stored: Sequence[Stored]) -> dict[str, Any]:
    """The parameters that a run was made with, as far as its server tells them.

    Those of the platform, such as the nodes' memory, it does not; and of a step that did not run
    what was compiled into its pipeline.
    """
    values = {n: p.default for n, p in parameters().items() if not n.startswith(PLATFORM)}
    for name, value in run.parameters.items():
        with contextlib.suppress(ConfigError):  # an older pipeline has others
            values |= folded({name: value})
    fixed = SET_BY_SWEEP if is_sweep(run.parameters) else {}
    for step in STEPS.values():
        command = next((s.command for s in stored if s.step == step.name and s.command), ())
        with contextlib.suppress(ConfigError):
            values |= {n: v for n, v in _configured(step, command).items() if n not in fixed}
    return values


def _configured(step: Step, command: Sequence[str]) -> dict[str, Any]:
    """The step's own parameters, by its command.

    Raises:
        ConfigError: that is of another version.
    """
    flags = [place for place, part in enumerate(command) if part.startswith("--")]
    if not flags:
        return {}
    own = on_nodes(step) if step.name == "train" and "components.train.cluster" in command else step
    arguments, _ = handed(command[flags[0] :], own.config)
    flags_of = parser(own.config, prog=step.name, description="")
    config: Any = config_of(own.config, flags_of.parse_args(arguments))
    return {step.own(o): getattr(config, o.name) for o in step.configurable}


# -- what a run has stored, to be removed


def held_by(api: Api, run: Run) -> dict[str, Mapping[str, int]]:
    """What a run has stored: the artifacts that it made itself, and its checkpoints.

    What it published, and what it took from the cache, is not its own.

    Returns:
        Addresses of folders, each with the sizes (bytes) of its objects.

    Raises:
        ConfigError, TransferError: see `fetch`; or what it published lies among them.
    """
    known = artifacts_of(api, run.run_id)
    if not known:
        raise ConfigError(
            f"run {run.run_id}: the server does not tell where its artifacts lie",
            hint="Without --artifacts its record alone is removed",
        )
    stored = [one for one in known if one.run == run.run_id]
    require_endpoint(stored)
    folders = {one.address.rsplit("/", 3)[0] for one in stored}
    if uri := str(run.parameters.get("checkpoint_uri") or ""):
        folders.add(f"{uri.rstrip('/')}/{run.run_id}")
    if uri := str(run.parameters.get("publish_uri") or ""):
        published = f"{uri.rstrip('/')}/{run.run_id}/"
        if within := next((f for f in folders if published.startswith(f"{f}/")), ""):
            raise ConfigError(
                f"{within}: what the run published lies there too",
                hint="Remove by hand what is not to stay, and the record without --artifacts",
            )
    sizes = {folder: storage.sizes(folder) for folder in sorted(folders)}
    return {folder: found for folder, found in sizes.items() if found}
