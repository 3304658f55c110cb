"""A run on a cluster as its server tells of it when it has ended, and its artifacts in a store.

The nodes have the shape that a real server (KFP 2.17.0) gave: what the tests read of the launcher's
command is in `pod-spec-patch`, and nothing of a step that was taken from the cache.
"""

import base64
import datetime
import gzip
import json
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from pipeline.cli import main
from pipeline.components import PYTHON, arguments, compiled_flags
from pipeline.parameters import (
    is_sweep,
    load_config,
    parameters,
    run_inputs,
    settings_of,
    trials,
)
from pipeline.report import compare
from pipeline.steps import COPIES, STEPS
from tests.unit.pipeline.conftest import KubeflowPipelines, serving
from tests.unit.pipeline.situations import listed

ROOT = "minio://mlpipeline/v2/artifacts/race-roberta"
ENDPOINT = "minio-service.kubeflow:9000"
WORKFLOW = "race-roberta-abcde"
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
# Whose output an input is.
SOURCES = {
    "race": "download-race",
    "roberta": "download-roberta",
    "bpe": "download-bpe",
    "text": "preprocess",
    "data": "binarize",
    "model": "train",
    "report": "evaluate",
    "selection": "select",
}
OUTPUT = {"pretrained": "roberta", "models": "model", "evaluations": "report"}


@dataclass(frozen=True)
class Ran:
    """A step; `cached_from` is the run that made what it was given from the cache."""

    step: str
    seconds: float = 10
    trial: int | None = None
    cached_from: str = ""
    phase: str = "Succeeded"


@dataclass
class StoredRun:
    """What a run's server answers, for `KubeflowPipelines.replay`."""

    steps: Sequence[Ran]
    run_id: str = "run-1"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    root: str = ROOT
    compiled: Mapping[str, Any] = field(default_factory=dict)
    state: str = "SUCCEEDED"
    compressed: bool = False
    terminated: float = 0

    def folder(self, step: str, trial: int | None = None) -> str:
        """The address of an execution."""
        made_by = next((r.cached_from for r in self.steps if r.step == step), "") or self.run_id
        execution = uuid.uuid5(uuid.NAMESPACE_URL, f"{made_by} {step} {trial}")
        return f"{self.root}/{made_by}/{step}/{execution}"

    def run(self, now: float) -> dict[str, Any]:
        return {
            "state": self.state,
            "created_at": f"{START:%Y-%m-%dT%H:%M:%SZ}",
            "runtime_config": {"parameters": dict(self.parameters)},
        }

    def listed(self, name: str) -> dict[str, Any]:
        """The run in lists, for `KubeflowPipelines.runs`; the rest comes from `run`."""
        found = listed(self.run_id, name, 1, "RUNNING", self.state)
        return {key: value for key, value in found.items() if key != "state_history"}

    def log(self, node: str, now: float) -> str:
        return '{"error_message":"BadRequestError: Failed to read logs"}'

    def manifest(self, now: float = 0) -> str:
        nodes = {node["id"]: node for node in self._nodes()}
        ended = {"SUCCEEDED": "Succeeded", "FAILED": "Failed"}
        status: dict[str, Any] = {"phase": ended.get(self.state, "Running"), "nodes": nodes}
        if self.compressed:
            packed = gzip.compress(json.dumps(status.pop("nodes")).encode())
            status["compressedNodes"] = base64.b64encode(packed).decode()
        return json.dumps({"metadata": {"name": WORKFLOW}, "status": status})

    def _nodes(self) -> Iterator[dict[str, Any]]:
        at = START
        for ran in self.steps:
            parts = [WORKFLOW, "root"]
            if ran.trial is not None:
                turn = f"iteration-iterations({ran.trial}:{ran.trial})"
                parts += ["for-loop-1", turn, "iteration-item"]
            path = "".join(f"{part}(0)." for part in parts) + ran.step
            end = at + datetime.timedelta(seconds=ran.seconds)
            patch = [] if ran.cached_from else [self._patch(ran)]
            driver = {"outputs": {"parameters": [{"name": "cached-decision"}, *patch]}}
            yield _node(f"{path}-driver(0)", "Pod", at, at, "Succeeded", driver)
            if ran.cached_from:
                yield _node(f"{path}(0).executor", "Skipped", at, at, "Skipped", {})
                continue
            given = {"inputs": {"parameters": patch}}
            yield _node(f"{path}(0).executor", "Retry", at, end, ran.phase, given)
            yield _node(f"{path}(0).executor(0)", "Pod", at, end, ran.phase, given)
            at = end

    def _patch(self, ran: Ran) -> dict[str, str]:
        place = self.folder(ran.step, ran.trial)
        names = [*STEPS[ran.step].outputs, "executor-logs"]
        inputs = {name: self._inputs(name, ran) for name in STEPS[ran.step].inputs}
        given = {
            "inputs": {
                "artifacts": {name: {"artifacts": a} for name, a in inputs.items()},
                "parameterValues": self._values(ran),
            },
            "outputs": {
                "artifacts": {
                    n: {"artifacts": [{"name": n, "uri": f"{place}/{n}"}]} for n in names
                },
                "outputFile": f"/minio/{place.partition('//')[2]}/output_metadata.json",
            },
        }
        command = ["/kfp-launcher/launch", "--run_id", self.run_id]
        command += ["--executor_input", json.dumps(given), "--component_spec", "{}"]
        step = STEPS[ran.step]
        flags = compiled_flags(step, self.compiled)
        program = [*PYTHON, step.program, *arguments(step, flags)]
        pod = {"containers": [{"name": "main", "command": command, "args": program}]}
        return {"name": "pod-spec-patch", "value": json.dumps(pod)}

    def _values(self, ran: Ran) -> dict[str, Any]:
        step = STEPS[ran.step]
        found = {field: self.parameters.get(name, "") for field, name in step.given.items()}
        if ran.trial is not None and ran.step == "train":
            trial = trials(self.parameters)[ran.trial]
            own = {"seed": trial.seed, "learning_rate": trial.learning_rate, "trial": trial.name}
            found |= own
        return found | {"settings": self.parameters.get(settings_of(step), {})}

    def _inputs(self, name: str, ran: Ran) -> list[dict[str, Any]]:
        output = OUTPUT.get(name, name)
        swept = any(one.step == "select" for one in self.steps)
        if name == "evaluation":
            output = "selection" if swept else "report"
        step = SOURCES[output]
        found = [r for r in self.steps if r.step == step and r.trial in (None, ran.trial)]
        found = found or [r for r in self.steps if r.step == step]
        session = json.dumps({"Provider": "minio", "Params": {"endpoint": ENDPOINT}})
        return [
            {
                "name": "99",
                "uri": f"{self.folder(step, r.trial)}/{output}",
                "metadata": {"display_name": output, "store_session_info": session},
            }
            for r in found
        ]


def _node(
    name: str,
    kind: str,
    start: datetime.datetime,
    end: datetime.datetime,
    phase: str,
    more: dict[str, Any],
) -> dict[str, Any]:
    return {
        "id": f"{WORKFLOW}-{zlib.crc32(name.encode())}",
        "name": name,
        "displayName": name.rpartition(".")[2],
        "type": kind,
        "phase": phase,
        "startedAt": start.isoformat(),
        "finishedAt": end.isoformat(),
        **more,
    }


def as_on_a_cluster(folder: Path, client: Any, bucket: str) -> StoredRun:
    """A run of this machine (of the smoke config), as if it had been one on a cluster.

    Its outputs and logs are put into the bucket as the launcher does that.
    """
    record = json.loads((folder / "run.json").read_text())
    values = record["parameters"]
    sweep = is_sweep(values)
    compiled = {n: p.default for n, p in parameters().items()} | dict(load_config("smoke").values)
    names = [trial.name for trial in trials(values)] if sweep else []
    steps = [
        Ran(
            step["name"].partition(" (")[0],
            0 if step["cached"] else step["seconds"],
            names.index(step["trial"]) if step["trial"] else None,
        )
        for step in record["steps"]
    ]
    run = StoredRun(
        steps,
        parameters=run_inputs(values, compiled, sweep),
        root=f"minio://{bucket}/v2/artifacts/race-roberta",
        compiled=compiled,
    )
    (root,) = (folder / "artifacts").iterdir()
    for ran, step in zip(steps, record["steps"], strict=True):
        place = run.folder(ran.step, ran.trial)
        copies = root if ran.trial is None else root / f"for-loop-1-iteration-{ran.trial}"
        for name, kind in STEPS[ran.step].outputs.items():
            found = copies / ran.step / name
            if kind not in COPIES:
                found = folder / step["outputs"][name]
            upload(client, bucket, found, f"{place}/{name}")
        upload(client, bucket, folder / "logs" / step["log"], f"{place}/executor-logs-0")
    return run


def assert_comes_back(local: Path, bucket: str, folder: Path, monkeypatch: Any) -> Path:
    """See that a run of this machine, moved to a cluster, is fetched as it was; the new folder.

    `race compare` sees no difference either, to that folder or to the cluster's own.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    run = as_on_a_cluster(local, boto3.client("s3", region_name="us-east-1"), bucket)
    fetched = folder / "fetched"
    with serving(KubeflowPipelines()) as server:
        server.runs = [run.listed("the run")]
        server.replay = run
        host = ["--host", server.host]
        assert main(["runs", "fetch", run.run_id, *host, "--output", str(fetched)]) == 0
        page = folder / "compare.html"
        runs = [str(local), str(fetched), "the run"]
        assert main(["compare", *runs, *host, "--output", str(page)]) == 0
    (cached,) = (folder / "cache").rglob("run.json")
    assert not list(cached.parent.rglob("*.pt"))
    found = compare([local, fetched, cached.parent])
    assert not found.settings
    assert len(found.figures) > 10
    assert not [row for row in found.figures if len(set(row[1:])) > 1]
    assert [row[2:] for row in found.paired] == [["0", "0"], ["0", "0"], ["1", "1"]]
    places = [path for path in local.iterdir() if path.is_dir() and path.name != "artifacts"]
    for place in places:
        for path in filter(Path.is_file, place.rglob("*")):
            if path.stat().st_size and path.name != "kfp.log":
                assert (fetched / path.relative_to(local)).read_bytes() == path.read_bytes()
    assert (fetched / "index.html").is_file()
    return fetched


def upload(client: Any, bucket: str, source: Path, uri: str) -> None:
    """Put a file or a folder where the launcher would put it."""
    key = uri.removeprefix(f"minio://{bucket}/")
    files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    for path in files:
        below = "" if path == source else f"/{path.relative_to(source)}"
        client.upload_file(str(path), bucket, key + below)
