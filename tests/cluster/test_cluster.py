"""The pipeline on a real server of Kubeflow Pipelines: about 20 minutes on one small node.

`make test-cluster HOST=http://localhost:8080 STORE=s3://bucket/folder` runs them in this order, one
after the other; docs/cluster.md says what they need. Without a server they are skipped.
"""

import json
import re
import time
from collections.abc import Callable

import pytest

from pipeline.follow import CANCELLED, Follower, RunError
from pipeline.logs import read_logs
from pipeline.runs import ours
from pipeline.workflow import read_workflow

from .conftest import LONGEST, Cluster, Submission, objects

DATA_STEPS = ("download-race", "download-bpe", "preprocess", "binarize")


def states(submission: Submission, step: str) -> list[str]:
    """What was said of a step, line by line."""
    return [line for line in submission.lines if line.split(" ")[0] == step]


def wait_for(condition: Callable[[], bool], submission: Submission) -> None:
    deadline = time.monotonic() + LONGEST
    while not condition():
        assert submission.process.poll() is None, submission.output
        assert time.monotonic() < deadline, submission.output
        time.sleep(1)


def test_a_run_succeeds(cluster: Cluster) -> None:
    status, run = cluster.run()
    assert status == 0, run.output
    for step in (*DATA_STEPS, "train", "evaluate", "gate"):
        assert "succeeded" in states(run, step)[-1]


def test_a_gate_that_refuses_ends_with_its_status_and_data_steps_are_cached(
    cluster: Cluster,
) -> None:
    status, run = cluster.run("-p", "min_accuracy=100", "-p", "train_max_updates=2")
    assert status == 7, run.output
    assert "below" in run.lines[-1]
    for step in ("preprocess", "binarize"):
        assert "cached" in states(run, step)[-1]
    # Kubeflow Pipelines runs the failed step alone again, and it fails in the same way.
    follower = Follower(cluster.api, run.run_id, every=3)
    cluster.api.retry(run.run_id)
    with pytest.raises(RunError) as raised:
        follower.follow()
    assert raised.value.exit_status == 7
    assert run.run_id in [
        one.run_id for one in cluster.api.runs(limit=100, wanted=ours(cluster.api))
    ]
    said = [line.text for line in read_logs(follower, "gate", lambda step, trial: "")]
    assert any(line.startswith("error: accuracy") for line in said)


def test_a_pod_that_waits_says_why(cluster: Cluster) -> None:
    arguments = ("-p", "cluster_train_cpu=900", "--pending-timeout=1", "--terminate-stuck")
    status, run = cluster.run(*arguments)
    assert status not in (0, CANCELLED), run.output
    assert "waiting: Unschedulable" in run.output
    assert "was terminated" in run.lines[-1]


def test_a_training_pod_that_is_deleted_goes_on_from_its_checkpoint(
    cluster: Cluster, kubectl: Callable[..., str]
) -> None:
    checkpoints = f"{cluster.store}/checkpoints"
    run = cluster.start(
        *("-p", f"checkpoint_uri={checkpoints}", "-p", "train_checkpoint_interval=20"),
        *("-p", "epochs=20", "--retries=2"),
    )
    wait_for(lambda: any("manifest.json" in key for key in objects(checkpoints)), run)
    pods = json.loads(kubectl("get", "pods", "-l", f"pipeline/runid={run.run_id}", "-o", "json"))
    training = [
        pod["metadata"]["name"]
        for pod in pods["items"]
        if pod["status"]["phase"] == "Running" and "components.train" in json.dumps(pod["spec"])
    ]
    assert len(training) == 1, training
    kubectl("delete", "pod", training[0], "--wait=false")
    assert run.end() == 0, run.output
    assert re.search(r"\(attempt 2\)|retrying the run", run.output)
    assert "going on from" in cluster.api.log(run.run_id, train_pod(cluster, run))


def train_pod(cluster: Cluster, run: Submission) -> str:
    """Node of train's last attempt."""
    workflow = read_workflow(cluster.api.manifest(run.run_id))
    assert workflow
    (train,) = [step for step in workflow.steps if step.name == "train"]
    return train.pods[-1].node


def test_a_sweep_names_its_trials(cluster: Cluster) -> None:
    status, run = cluster.run("-p", "seeds=[1,2]", "-p", "train_max_updates=20")
    assert status == 0, run.output
    for trial in ("seed 1", "seed 2"):
        assert re.search(rf"train \({trial}\).* succeeded", run.output)
    assert "succeeded" in states(run, "select")[-1]


def test_a_run_that_is_terminated_is_cancelled(cluster: Cluster) -> None:
    run = cluster.start("-p", "epochs=50")
    wait_for(lambda: any("running" in line for line in states(run, "train")), run)
    cluster.api.terminate(run.run_id)
    assert run.end() == CANCELLED, run.output
    assert "cancelled" in run.lines[-1]
