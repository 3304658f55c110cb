"""Where the artifacts of a run on a cluster lie.

Kubeflow Pipelines' API has no call for that. But the driver of a step puts the ExecutorInput, with
the address of every input and output, into the launcher's command, and that into the parameter
`pod-spec-patch` of the step's nodes, at

    minio://mlpipeline/v2/artifacts/PIPELINE/RUN/STEP/EXECUTION/NAME

The patch of a step that was taken from the cache is empty. Its outputs are known from the steps
that read them, and what it had read itself from the run that made them.
"""

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.common import storage, strict_json
from components.common.dataset import natural
from pipeline.client import Api
from pipeline.steps import STEPS
from pipeline.workflow import nodes_of, trial_of

LOGS = "executor-logs"
MAX_LOG = 64 << 20  # bytes
_PATCH = "pod-spec-patch"


@dataclass(frozen=True)
class Stored:
    """An artifact of a run, of which nothing says that it was written.

    `uri` is the server's: minio://bucket/key, s3://bucket/key. An `execution` has a folder of its
    own, and `run` is the one that made it: another one where the step was cached. `trial` is the
    index in a sweep, `endpoint` the store's address within the cluster, "" where it is unknown, and
    `command` that of the step's program, with its inputs in the place of KFP's placeholders.
    """

    step: str
    name: str
    uri: str
    trial: int | None = None
    kind: str = ""  # its schema's, such as Model
    endpoint: str = ""
    command: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return self.uri.rpartition("/")[0]

    @property
    def run(self) -> str:
        return self.uri.split("/")[-4]

    @property
    def address(self) -> str:
        """Where it is for who is not in the cluster: s3://bucket/key, or a path."""
        return re.sub(r"^minio://", "s3://", self.uri)


def artifacts_of(api: Api, run_id: str) -> list[Stored]:
    """The artifacts of all steps that a run has come to, each step's log among them as `LOGS`."""
    found: dict[tuple[str, int | None, str], Stored] = {}

    def add(artifacts: Sequence[Stored]) -> None:
        for one in artifacts:
            found.setdefault((one.step, one.trial, one.name), one)

    executions = list(_executions(api.manifest(run_id)))
    for made, _ in executions:
        add(made)
    for _, read in executions:
        add([one for one in read if one.run != run_id])
    looked_at = {run_id}
    while made_by := {one.run for one in found.values()} - looked_at:
        run = min(made_by)
        looked_at.add(run)
        cached = {one.folder: one for one in found.values() if one.run == run}
        for made, read in _executions(api.manifest(run)):
            if any(one.folder in cached for one in made):
                add([*made, *read])
        for folder, one in cached.items():  # should that run have been deleted
            outputs = STEPS[one.step].outputs.items()
            add([Stored(one.step, n, f"{folder}/{n}", kind=kind) for n, kind in outputs])
    return list(found.values())


def _executions(manifest: str) -> Iterator[tuple[list[Stored], list[Stored]]]:
    """What each execution has made and read; of a step that was run again the newest one."""
    try:
        nodes = nodes_of(strict_json.loads(manifest)["status"])
        nodes = sorted(nodes, key=lambda node: node.get("startedAt") or "", reverse=True)
        patches: dict[str, int | None] = {}
        for node in nodes:
            for side in ("inputs", "outputs"):
                for parameter in node.get(side, {}).get("parameters") or []:
                    if parameter["name"] == _PATCH and parameter.get("value"):
                        patches.setdefault(parameter["value"], trial_of(node["name"]))
        for patch, trial in patches.items():
            container = strict_json.loads(patch)["containers"][0]
            launcher = container["command"]
            text = launcher[launcher.index("--executor_input") + 1]
            given = strict_json.loads(text)
            program = tuple(_filled(a, text, given) for a in container.get("args") or [])
            inputs, outputs = ([*_artifacts(given, side)] for side in ("inputs", "outputs"))
            read = [_stored("", one, None) for _, one in inputs if _step(one["uri"])]
            endpoint = read[0].endpoint if read else ""
            made = (_stored(n, one, trial, program) for n, one in outputs if _step(one["uri"]))
            yield [replace(one, endpoint=endpoint) for one in made], read
    except (AttributeError, LookupError, TypeError, ValueError, zlib.error):
        return


def _filled(argument: str, text: str, given: Mapping[str, Any]) -> str:
    """An argument as the launcher hands it on, but for the paths of artifacts."""
    values = given.get("inputs", {}).get("parameterValues", {})

    def value(found: re.Match[str]) -> str:
        one = values.get(found[1], "")
        return one if isinstance(one, str) else strict_json.dumps(one)

    argument = argument.replace("{{$}}", text)
    return re.sub(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}", value, argument)


def _artifacts(given: Mapping[str, Any], side: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, about in given.get(side, {}).get("artifacts", {}).items():
        for one in about["artifacts"]:
            yield name, one


def _step(uri: str) -> str:
    """The step that made what lies there; "" if it is none of ours."""
    step = uri.split("/")[-3] if uri.count("/") >= 6 else ""
    return step if step in STEPS else ""


def _stored(
    name: str, one: Mapping[str, Any], trial: int | None, command: tuple[str, ...] = ()
) -> Stored:
    uri = str(one["uri"]).partition("?")[0]  # a root's query tells the launcher how to get there
    name = name or uri.rpartition("/")[2]
    session = one.get("metadata", {}).get("store_session_info")
    params = strict_json.loads(session).get("Params", {}) if session else {}
    return Stored(
        step=_step(uri),
        name=name,
        uri=uri,
        trial=trial,
        kind=STEPS[_step(uri)].outputs.get(name, ""),
        endpoint=str(params.get("endpoint") or ""),
        command=command,
    )


def read_log(artifacts: Sequence[Stored], step: str, trial: int | None = None) -> str:
    """What the attempts at a step have said, the first one first; "" where nothing is kept.

    Raises:
        ConfigError, TransferError: see `components.common.storage`.
        DataError: it is larger than `MAX_LOG`.
    """
    of_step = [a for a in artifacts if (a.step, a.trial, a.name) == (step, trial, LOGS)]
    parts = [
        storage.read_small(f"{one.address.rpartition('/')[0]}/{key}", MAX_LOG) or b""
        for one in of_step
        # One an attempt: executor-logs-0, executor-logs-1.
        for key in sorted(storage.sizes(one.address, siblings=True), key=natural)
    ]
    return b"".join(parts).decode(errors="replace")
