"""The job's own command, run as a job controller runs it: by two nodes, one of which is lost."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from components.common import storage
from components.train.cluster.config import ClusterConfig
from components.train.cluster.core import Timing, launch
from components.train.config import TrainConfig

ROOT = Path(__file__).parents[3]


class Group:
    """Plays JobSet: a process for each node, and all of them anew when one fails."""

    def __init__(self, restarts: int, uri: str) -> None:
        self.restarts, self.uri = restarts, uri
        self.attempts = 0
        self.killed = False
        self.processes: list[subprocess.Popen[str]] = []

    def __call__(self, k: Any, job: Any) -> None:
        name = job["metadata"]["name"]
        while True:
            statuses = self.attempt(k, job, name)
            self.attempts += 1
            if not any(statuses):
                return k.true(name, "Complete")
            if self.attempts > self.restarts:
                return k.true(name, "Failed", "FailedJobs", "jobset failed")

    def attempt(self, k: Any, job: Any, name: str) -> list[int]:
        trainer = job["spec"]["trainer"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        nodes = []
        for rank in range(trainer["numNodes"]):
            own = {
                "PYTHONPATH": str(ROOT),
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
            }
            pod = f"{name}-node-0-{rank}-{self.attempts}"
            log = k.container(name, rank, name=pod, running={})
            command = [sys.executable, *trainer["command"][1:], *trainer["args"]]
            process = subprocess.Popen(
                command,
                env={**os.environ, **own},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self.processes.append(process)
            reader = threading.Thread(target=self.read, args=(process, log), daemon=True)
            reader.start()
            nodes.append((rank, pod, process, reader, log))
        k.state(name, jobsStatus=[{"name": "node", "active": 1, "ready": 1}])
        if not self.killed:
            while storage.newest(self.uri) is None:
                assert nodes[0][2].poll() is None, "it ended before anything was published"
                time.sleep(0.1)
            nodes[1][2].send_signal(signal.SIGKILL)
            self.killed = True
        statuses = []
        for rank, pod, process, reader, log in nodes:
            statuses.append(process.wait(300))
            reader.join(10)
            ended = {"exitCode": abs(statuses[-1]), "reason": "", "finishedAt": ""}
            k.container(name, rank, name=pod, terminated=ended)
            log.end()
        return statuses

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def read(self, process: Any, log: Any) -> None:
        with process.stdout:
            for line in process.stdout:
                log.write(line.rstrip("\n"))


@pytest.mark.slow
def test_two_nodes_train_through_the_job_and_the_loss_of_one(
    kubernetes: Any,
    tiny_race: Any,
    cluster: ClusterConfig,
    timing: Timing,
    bucket: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri = f"s3://{bucket}/race/run-1"
    group = Group(restarts=1, uri=uri)
    kubernetes.controller = group
    config = TrainConfig(
        data=tiny_race.data,
        pretrained=tiny_race.pretrained,
        output=tmp_path / "model",
        checkpoint_uri=uri,
        checkpoint_interval=2,
        **{**tiny_race.parameters, "num_nodes": 2, "epochs": 4, "stall_timeout": 60},
    )
    on_cpu = dataclasses.replace(cluster, node_gpus=0)
    try:
        result = launch(config, on_cpu, timing=timing)
    finally:
        group.end()

    assert group.attempts == 2
    assert result.metrics["updates"] == 4 * 96 // 16
    assert (result.metrics["nodes"], result.metrics["processes"]) == (2, 2)
    assert result.checkpoint_best is not None
    assert result.checkpoint_best.is_file()
    assert (config.output / "report.html").is_file()
    # Node 0 of both groups is heard, and the second goes on from where the first had come.
    shown = capfd.readouterr().err
    assert shown.count("training roberta_base") == 2
    assert "going on from" in shown
    assert not kubernetes.jobs
