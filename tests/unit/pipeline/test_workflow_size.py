"""Whether a sweep's workflow can be stored, by a model of its nodes."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import cli, workflow_size
from pipeline.workflow_size import LIMIT, MODEL, workflow_bytes

SWEEP = Path(__file__).parents[3] / "sweep.yaml"


def test_thirty_trials_can_be_stored_with_a_quarter_to_spare() -> None:
    seeds = {"seeds": list(range(30))}
    assert workflow_bytes(SWEEP.read_text(), seeds, 30) * MODEL <= 0.75 * LIMIT


def test_a_sweep_that_cannot_be_stored_is_refused_before_upload(kubeflow, capsys) -> None:
    seeds = json.dumps(list(range(150)))
    submit = ["submit", "--host", kubeflow.host, "--local-images", "-p", f"seeds={seeds}"]
    assert cli.main(submit) == 2
    error = capsys.readouterr().err
    assert "error: 150 trials make a workflow that Kubernetes cannot store. Give at most " in error
    assert {method for method, _, _ in kubeflow.requests} == {"GET"}
    most = int(re.findall(r"at most (\d+)", error)[0])
    package, values = SWEEP.read_text(), {"seeds": list(range(150))}
    assert workflow_bytes(package, values, most - 3) * MODEL < LIMIT
    assert workflow_bytes(package, values, most + 3) * MODEL > LIMIT


def package_of(nodes: Any) -> str:
    """What was compiled, as the drivers of a recorded sweep were given it."""
    spec: dict[str, Any] = {"components": {}, "deploymentSpec": {"executors": {}}}
    platform = {}
    for node in nodes.values():
        if node["type"] != "Pod" or not node["displayName"].endswith("-driver(0)"):
            continue
        given = {p["name"]: p.get("value") for p in node["inputs"]["parameters"]}
        component = json.loads(given["component"])
        if not given.get("task"):
            spec["root"] = component
            continue
        spec["components"][json.loads(given["task"])["componentRef"]["name"]] = component
        if "container" in given:
            executor = component["executorLabel"]
            container = json.loads(given["container"])
            spec["deploymentSpec"]["executors"][executor] = {"container": container}
            platform[executor] = json.loads(given["kubernetes-config"])
    executors = {"deploymentSpec": {"executors": platform}}
    return yaml.safe_dump_all([spec, {"platforms": {"kubernetes": executors}}])


def test_the_model_is_as_large_as_a_real_sweep(recording, monkeypatch: pytest.MonkeyPatch) -> None:
    real = recording("sweep-two-trials").said
    parameters = real["get_run_v2beta1"][-1]["answer"]["runtime_config"]["parameters"]
    packed = real["get_run_v1beta1_at_the_end"]["workflow_status"]["compressedNodes"]
    nodes = json.loads(gzip.decompress(base64.b64decode(packed)))
    package = package_of(nodes)
    sweep = workflow_size._Sweep(package, parameters, 2)
    ours = dict(sweep.nodes("root", sweep.spec["root"]))
    raw = [sum(map(len, ours.values())), len(json.dumps(nodes, separators=(",", ":")))]
    assert raw[0] == pytest.approx(raw[1], rel=0.05)
    compressed = workflow_bytes(package, parameters, 2) - sweep.specification()
    assert compressed * MODEL == pytest.approx(len(packed), rel=0.05)
    # It was seen that about 20 trials can no more be stored.
    assert workflow_bytes(package, parameters, 22) * MODEL > LIMIT
