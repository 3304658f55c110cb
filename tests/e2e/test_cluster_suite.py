"""`make test-cluster` before it meets a cluster: its tests, on a server that answers as one did."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline.docs import ROOT
from tests.unit.pipeline.conftest import KubeflowPipelines, serving
from tests.unit.pipeline.situations import (
    CPU,
    DATA,
    NEVER,
    SITUATIONS,
    Attempt,
    Situation,
    Step,
    going,
)

SPEED = 60  # seconds of a situation in one of ours

KUBECTL = """#!{python}
import json, sys
pod = {{"metadata": {{"name": "pod-1"}}, "status": {{"phase": "Running"}}}}
pod["spec"] = {{"containers": [{{"args": ["-m", "components.train"]}}]}}
open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
if "get" in sys.argv:
    print(json.dumps({{"items": [pod]}}))
"""


def waiting(pod: Attempt) -> Situation:
    """A run whose training goes on until somebody terminates it."""
    return Situation(going(NEVER)[:2], [*DATA, Step("train", 51, attempts=[pod])])


def resumed() -> Situation:
    made = copy.deepcopy(SITUATIONS["pod-deleted-retried"])
    train = next(step for step in made.steps if step.name == "train")
    last = dataclasses.replace(train.attempts[-1], log="going on from update-000080, update 80\n")
    steps = [
        dataclasses.replace(step, attempts=[train.attempts[0], last]) if step is train else step
        for step in made.steps
    ]
    return dataclasses.replace(made, steps=steps)


class Server(KubeflowPipelines):
    """Each run meets the situation that its test is about, from its start on and in a hurry."""

    def __init__(self, bucket: str) -> None:
        super().__init__()
        self.bucket = bucket
        self.lock = threading.Lock()
        self.met: dict[str, tuple[Situation, float]] = {}

    def handle(self, method: str, address: str, headers: Any, body: bytes) -> tuple[int, Any]:
        with self.lock:
            for run, (situation, start) in self.met.items():
                if run in address:
                    self.replay = situation
                    self.clock.now = SPEED * (time.monotonic() - start)
            status, answer = super().handle(method, address, headers, body)
            if method == "POST" and address.endswith("/runs"):
                self.met[answer["run_id"]] = (self._situation(json.loads(body)), time.monotonic())
            return status, answer

    def _situation(self, run: dict[str, Any]) -> Situation:
        given = run["runtime_config"]["parameters"]
        if given.get("seeds"):
            return copy.deepcopy(SITUATIONS["sweep-two-trials"])
        if given["min_accuracy"] == 100:
            return copy.deepcopy(SITUATIONS["retry-of-gate"])
        if given["checkpoint_uri"]:
            key = given["checkpoint_uri"].partition(f"{self.bucket}/")[2]
            boto3.client("s3").put_object(Bucket=self.bucket, Key=f"{key}/run/manifest.json")
            return resumed()
        if "cpuLimit: 900" in self.packages[-1]:
            return waiting(Attempt(61, pending=NEVER, waits=[(70, CPU)]))
        if given["epochs"] == 50:
            return waiting(Attempt(51))
        return copy.deepcopy(SITUATIONS["succeeded"])


@pytest.fixture
def server(bucket: str) -> Iterator[Server]:
    with serving(Server(bucket)) as state:
        yield state


@pytest.mark.slow
def test_the_suite_passes_and_leaves_nothing(server: Server, bucket: str, tmp_path: Path) -> None:
    kubectl, log = tmp_path / "kubectl", tmp_path / "kubectl.log"
    kubectl.write_text(KUBECTL.format(python=sys.executable, log=str(log)))
    kubectl.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RACE_CLUSTER_HOST": server.host,
        "RACE_CLUSTER_STORE": f"s3://{bucket}/tests",
        "RACE_CLUSTER_NAMESPACE": "team",
        "RACE_CLUSTER_FLAGS": "--local-images",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cluster"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "6 passed" in done.stdout
    assert "--namespace=team delete pod pod-1" in log.read_text()
    listed = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix="tests/race-test-")
    assert listed["KeyCount"] == 0
    assert not server.runs
    assert not server.experiments
    assert not server.versions
