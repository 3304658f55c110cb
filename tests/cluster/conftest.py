"""A real server of Kubeflow Pipelines, and what a submission to it says."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import kfp
import pytest

from components.common.storage.store import parse_address
from pipeline.client import GOING, Api, Server
from pipeline.sample import make_sample
from pipeline.steps import NAME

SUBMIT = [sys.executable, "-P", "-m", "pipeline"]
SUBMIT += ["submit", "--config=smoke", "--wait", "--poll=3"]
LONGEST = 900  # seconds that a run may take on a small node

HOST, STORE, NAMESPACE = "RACE_CLUSTER_HOST", "RACE_CLUSTER_STORE", "RACE_CLUSTER_NAMESPACE"
FLAGS = "RACE_CLUSTER_FLAGS"  # further ones of `race submit`


@dataclass
class Submission:
    """A `race submit --wait` that goes on; its output as far as it has come."""

    process: "subprocess.Popen[str]"
    lines: list[str]
    reader: threading.Thread

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def run_id(self) -> str:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"/#/runs/details/([\w-]+)", self.output)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)  # a run may have begun before its address is printed
        return found[1]

    def end(self) -> int:
        """The exit status, when the run has ended."""
        status = self.process.wait(LONGEST)
        self.reader.join()
        return status


@dataclass(frozen=True)
class Cluster:
    """A server, a folder in a store that both it and we reach, and an experiment of our own."""

    server: Server
    store: str
    experiment: str
    api: Api

    def start(self, *arguments: str) -> Submission:
        """Submit the smoke config and follow it; it trains for one epoch unless told otherwise."""
        sample = f"{self.store}/sample"
        inputs = {
            "race_url": f"{sample}/RACE.tar.gz",
            "roberta_url": f"{sample}/roberta.tiny.tar.gz",
            "bpe_url": f"{sample}/bpe",
            "epochs": "1",
            "min_accuracy": "0",
        }
        given = [f"--host={self.server.host}", f"--experiment={self.experiment}"]
        given += shlex.split(os.environ.get(FLAGS, ""))
        given += [f"--namespace={self.server.namespace}"] if self.server.namespace else []
        given += [part for name, value in inputs.items() for part in ("-p", f"{name}={value}")]
        process = subprocess.Popen(
            [*SUBMIT, *given, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines: list[str] = []
        assert process.stdout
        output = process.stdout

        def read() -> None:
            with output:
                for line in output:
                    lines.append(line.rstrip())
                    print(lines[-1], flush=True)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        return Submission(process, lines, reader)

    def run(self, *arguments: str) -> tuple[int, Submission]:
        submission = self.start(*arguments)
        return submission.end(), submission


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The server of `make test-cluster`; nothing of ours is left on it, nor in the store."""
    host, store = os.environ.get(HOST, ""), os.environ.get(STORE, "").rstrip("/")
    if not host or not store:
        pytest.skip("no cluster: make test-cluster HOST=http://... STORE=s3://bucket/folder")
    name = f"race-test-{uuid.uuid4().hex[:8]}"
    server = Server(host, os.environ.get(NAMESPACE, ""))
    found = Cluster(server, f"{store}/{name}", name, Api(server))
    sample = tmp_path_factory.mktemp("cluster") / "sample"
    make_sample(sample, passages=200)
    with nothing_left(found):
        upload(sample, f"{found.store}/sample")
        yield found


@contextlib.contextmanager
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """Within the block runs may be made, and pipelines and objects; then all of it goes."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        client = kfp.Client(host=cluster.server.host, namespace=cluster.server.namespace)
    before = versions(client)
    try:
        yield
    finally:
        remove(cluster.store)
        with contextlib.suppress(ValueError):  # nothing was submitted
            experiment = client.get_experiment(experiment_name=cluster.experiment).experiment_id
            for run in cluster.api.runs(experiment, limit=100):
                if run.state in GOING:
                    cluster.api.terminate(run.run_id)
                cluster.api.delete(run.run_id)
            client.delete_experiment(experiment)
        for pipeline, version in versions(client) - before:
            client.delete_pipeline_version(pipeline, version)


def versions(client: Any) -> set[tuple[str, str]]:
    """Ids of the pipeline and of its newest versions."""
    pipeline = client.get_pipeline_id(NAME)
    if not pipeline:
        return set()
    listed = client.list_pipeline_versions(pipeline, page_size=100, sort_by="created_at desc")
    return {(pipeline, version.pipeline_version_id) for version in listed.pipeline_versions or ()}


@pytest.fixture
def kubectl(cluster: Cluster) -> Callable[..., str]:
    """Run kubectl in the runs' namespace; what it prints."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl on the PATH")
    namespace = cluster.server.namespace or "kubeflow"

    def run(*arguments: str) -> str:
        command = [program, f"--namespace={namespace}", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


def upload(folder: Path, uri: str) -> None:
    address, s3 = parse_address(uri), boto3.client("s3")
    for path in filter(Path.is_file, folder.rglob("*")):
        s3.upload_file(str(path), address.bucket, f"{address.path}/{path.relative_to(folder)}")


def objects(uri: str) -> list[str]:
    """Keys below an address."""
    address = parse_address(uri)
    pages = boto3.client("s3").get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=address.bucket, Prefix=f"{address.path}/")
    return [one["Key"] for page in found for one in page.get("Contents", ())]


def remove(uri: str) -> None:
    s3, bucket = boto3.client("s3"), parse_address(uri).bucket
    for key in objects(uri):
        s3.delete_object(Bucket=bucket, Key=key)
