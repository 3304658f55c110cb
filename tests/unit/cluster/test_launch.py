"""A training on several nodes, from the side of the step that waits for it."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.common import storage
from components.common.cli import Terminated
from components.common.errors import (
    ConfigError,
    DataError,
    OutputError,
    RaceError,
    TrainingError,
    TransferError,
)
from components.train.cluster.config import ClusterConfig
from components.train.cluster.core import Timing, launch
from components.train.cluster.manifest import DIGEST, Addresses, job_name
from components.train.config import TrainConfig


@pytest.fixture(autouse=True)
def _shown(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> None:
    if "bucket" not in request.fixturenames:
        request.getfixturevalue("folders")
    caplog.set_level(logging.INFO, logger="components.train.cluster")


@pytest.fixture(autouse=True)
def _limited() -> Iterator[None]:
    """A job that never ends is waited for without end."""

    def stop(*_: object) -> None:
        raise AssertionError("it did not come to an end")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def name(config: TrainConfig) -> str:
    return job_name(config.checkpoint_uri)


@pytest.fixture
def train(config: TrainConfig, cluster: ClusterConfig, timing: Timing) -> Callable[..., Any]:
    def run(**changes: Any) -> Any:
        ours = {k: v for k, v in changes.items() if hasattr(config, k)}
        theirs = {k: v for k, v in changes.items() if k not in ours}
        return launch(
            dataclasses.replace(config, **ours),
            dataclasses.replace(cluster, **theirs),
            timing=timing,
        )

    return run


@pytest.fixture
def publish(config: TrainConfig, tmp_path: Path) -> Callable[[], None]:
    """What node 0 does last."""

    def run(accuracy: float = 81.5) -> None:
        folder = tmp_path / "made-by-node-0"
        folder.mkdir()
        (folder / "checkpoint_best.pt").write_bytes(b"best")
        (folder / "metrics.json").write_text(json.dumps({"best_valid_accuracy": accuracy}))
        (folder / "report.html").write_text("<html></html>")
        output = Addresses(config.checkpoint_uri).output
        storage.publish(folder, output)

    return run


def terminated(
    status: int, reason: str = "Error", at: int = 0, message: str = ""
) -> dict[str, Any]:
    return {
        "exitCode": status,
        "message": message,
        "reason": reason,
        "finishedAt": f"2026-01-01T00:00:{at:02}Z",
    }


def trains_well(publish: Callable[[], None]) -> Callable[[Any, Any], None]:
    """A controller whose nodes train and succeed."""

    def control(k: Any, job: Any) -> None:
        name = job["metadata"]["name"]
        k.state(name, jobsStatus=[{"name": "node", "active": 1, "ready": 0}])
        k.container(name, 0, waiting={"reason": "ContainerCreating"})
        log = k.container(name, 0, running={})
        k.container(name, 1, running={})
        k.state(name, jobsStatus=[{"name": "node", "active": 1, "ready": 1}])
        log.write("training on 3 nodes", "epoch 1", "trained 27 updates")
        publish()
        k.container(name, 0, terminated=terminated(0, "Completed"))
        log.end()
        k.true(name, "Complete")

    return control


def test_a_model_of_another_vocabulary_is_refused_before_there_is_a_job(
    kubernetes, train, config
) -> None:
    for folder, symbols in (
        (config.data / "input0", "1 1\n2 1\n"),
        (config.pretrained, "2 1\n1 1\n"),
    ):
        (folder / "dict.txt").write_text(symbols)
    try:
        with pytest.raises(DataError, match=r"roberta: were made with different dict\.txt"):
            train()
    finally:
        (config.data / "input0" / "dict.txt").unlink()
    assert not kubernetes.jobs


def test_object_storage_is_all_that_step_and_nodes_share(
    kubernetes, train, config, bucket, tmp_path
) -> None:
    uri = f"s3://{bucket}/race/0c5e3a41"

    def control(k: Any, job: Any) -> None:
        arguments = dict(a.split("=", 1) for a in job["spec"]["trainer"]["args"] if "=" in a)
        storage.fetch(arguments["--data"], tmp_path / "data")
        assert (tmp_path / "data" / "label" / "train.label").is_file()
        storage.fetch(arguments["--pretrained"], tmp_path / "pretrained")
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "metrics.json").write_text("{}")
        storage.publish(tmp_path / "made", arguments["--output"])
        k.true(job["metadata"]["name"], "Complete")

    kubernetes.controller = control
    train(checkpoint_uri=uri)
    assert (config.output / "metrics.json").is_file()
    assert storage.newest(uri) is None  # resuming does not take any of it for a checkpoint


def test_the_nodes_train_and_what_node_0_made_is_the_output(
    kubernetes, train, publish, config, name, capfd, caplog
) -> None:
    kubernetes.controller = trains_well(publish)
    result = train()
    assert result.metrics == {"best_valid_accuracy": 81.5}
    assert result.checkpoint_best == config.output / "checkpoint_best.pt"
    assert result.checkpoint_last is None
    assert (config.output / "report.html").is_file()
    assert capfd.readouterr().err.splitlines()[-3:] == [
        "training on 3 nodes",
        "epoch 1",
        "trained 27 updates",
    ]
    assert caplog.messages[-1].endswith(": succeeded")
    assert not kubernetes.jobs


def test_the_nodes_get_data_and_checkpoint_by_the_store(
    kubernetes, train, publish, config, name, tmp_path
) -> None:
    kubernetes.controller = trains_well(publish)
    train()
    place = Addresses(config.checkpoint_uri)
    storage.fetch(place.data, tmp_path / "data")
    storage.fetch(place.pretrained, tmp_path / "pretrained")
    there = {path.relative_to(tmp_path / "data") for path in (tmp_path / "data").rglob("*.*")}
    assert there == {path.relative_to(config.data) for path in config.data.rglob("*.*")}
    assert (tmp_path / "pretrained" / "model.pt").read_bytes() == b"weights"


def test_a_checkpoint_of_another_name_arrives_as_the_model(
    kubernetes, train, publish, config, tmp_path
) -> None:
    kubernetes.controller = trains_well(publish)
    other = tmp_path / "checkpoint_best.pt"
    other.write_bytes(b"weights")
    train(pretrained=other)
    storage.fetch(Addresses(config.checkpoint_uri).pretrained, tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["model.pt"]


def test_each_change_is_shown_once(kubernetes, train, publish, name, caplog) -> None:
    good = trains_well(publish)

    def control(k: Any, job: Any) -> None:
        k.true(name, "Suspended", "Suspended")
        k.wait_for(lambda: "suspended" in caplog.text)
        k.state(name, jobsStatus=[{"name": "node", "active": 1, "ready": 0}])
        k.wait_for(lambda: "pending" in caplog.text)
        good(k, job)

    kubernetes.controller = control
    train()
    phases = [m.rpartition(": ")[2] for m in caplog.messages if m.startswith(f"TrainJob {name}: ")]
    phases = [phase for phase in phases if " " not in phase]
    assert phases[:3] == ["created", "suspended", "pending"]
    assert phases[-1] == "succeeded"
    assert len(phases) == len(set(phases))


UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        }
    ],
}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (UNSCHEDULABLE, "2 pods wait: Unschedulable: 0/3 nodes are available: 3 Insufficient"),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    {"name": "node", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
                ],
            },
            "2 pods wait: ImagePullBackOff",
        ),
        (None, "it has no pods yet"),
    ],
)
def test_pods_that_wait_long_say_why_and_once(
    kubernetes, train, publish, name, caplog, status, says
) -> None:
    good = trains_well(publish)

    def control(k: Any, job: Any) -> None:
        for rank in (1, 2) if status else ():
            k.pod(name, rank, **status)
        k.wait_for(lambda: says in caplog.text)
        looks = k.asked("GET", "/pods$")
        k.wait_for(lambda: k.asked("GET", "/pods$") > looks + 6)
        k.pods.clear()
        good(k, job)

    kubernetes.controller = control
    train()
    assert caplog.text.count(says) == 1


# What goes wrong with the nodes


def fails(*endings: tuple[int, int, str], reason: str = "", message: str = "") -> Any:
    """A controller whose nodes end with these: rank, exit status, its error."""

    def control(k: Any, job: Any) -> None:
        name = job["metadata"]["name"]
        for at, (rank, status, error) in enumerate(endings):
            k.container(name, rank, terminated=terminated(status, at=at, message=error)).end()
        k.true(name, "Failed", reason, message)

    return control


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (2, ConfigError),
        (3, DataError),
        (4, TransferError),
        (5, OutputError),
        (6, TrainingError),
        (1, TrainingError),
    ],
)
def test_a_node_s_error_is_the_step_s(kubernetes, train, status, kind, name, config) -> None:
    kubernetes.controller = fails((0, status, "it is wrong. Change it"))
    with pytest.raises(RaceError) as raised:
        train()
    assert type(raised.value) is kind
    assert str(raised.value) == f"TrainJob {name} failed: node 0: it is wrong. Change it"
    assert not config.output.exists()


def test_the_node_that_failed_first_says_why(kubernetes, train) -> None:
    kubernetes.controller = fails(
        (1, 6, "rank 3: the GPU's memory was not enough. Lower token_budget"),
        (0, 6, "node 1 cannot be reached"),
    )
    with pytest.raises(TrainingError, match=r"node 1: rank 3: the GPU's memory"):
        train()


def test_a_wrong_parameter_says_more_than_what_it_led_to(kubernetes, train) -> None:
    kubernetes.controller = fails(
        (0, 6, "node 1 cannot be reached"), (1, 2, "it is another data set")
    )
    with pytest.raises(ConfigError, match="node 1: it is another data set"):
        train()


def test_without_words_of_its_own_the_cluster_s_are_told(kubernetes, train) -> None:
    kubernetes.controller = fails((1, 137, ""), reason="FailedJobs", message="jobset failed")
    with pytest.raises(TrainingError) as raised:
        train()
    assert "node 1 ended with exit status 137 (FailedJobs: jobset failed)" in str(raised.value)


def test_memory_that_ran_out_is_said(kubernetes, train, name) -> None:
    def control(k: Any, job: Any) -> None:
        k.container(name, 2, terminated=terminated(137, "OOMKilled")).end()
        k.true(name, "Failed")

    kubernetes.controller = control
    with pytest.raises(TrainingError, match=r"memory of node 2.*cluster_node_memory"):
        train()


def test_a_failure_without_pods_is_told_with_its_reason(kubernetes, train) -> None:
    kubernetes.controller = fails(reason="TrainingRuntimeNotSupported", message="no such runtime")
    with pytest.raises(TrainingError, match="TrainingRuntimeNotSupported: no such runtime"):
        train()


def test_the_deadline_is_an_error_of_its_own(kubernetes, train) -> None:
    kubernetes.controller = fails(
        (0, 143, "terminated by SIGTERM"), reason="DeadlineExceeded", message="long"
    )
    with pytest.raises(TrainingError, match=r"was not done within 2 h 00 min"):
        train(deadline=7200)


def test_an_error_that_stays_ends_the_job_before_its_restarts_are_spent(
    kubernetes, train, name
) -> None:
    def control(k: Any, job: Any) -> None:
        ended = terminated(2, message="no such parameter")
        k.container(name, 0, restarts=1, running={}, last=ended)

    kubernetes.controller = control
    with pytest.raises(ConfigError, match="node 0: no such parameter"):
        train()
    assert not kubernetes.jobs


def test_a_restart_after_a_lost_node_is_no_failure(kubernetes, train, publish, name) -> None:
    good = trains_well(publish)

    def control(k: Any, job: Any) -> None:
        k.container(name, 0, name=f"{name}-old", terminated=terminated(6)).end()
        k.container(name, 1, name=f"{name}-lost", terminated=terminated(137)).end()
        looks = k.asked("GET", "/pods$")
        k.wait_for(lambda: k.asked("GET", "/pods$") > looks + 2)
        good(k, job)

    kubernetes.controller = control
    assert train().metrics


def test_a_job_that_fails_after_its_output_was_published_has_succeeded(
    kubernetes, train, publish, caplog
) -> None:
    def control(k: Any, job: Any) -> None:
        publish()
        fails((0, 5, "s3://... exists already"))(k, job)

    kubernetes.controller = control
    assert train().metrics
    assert "it is taken" in caplog.text


def test_a_job_that_somebody_deletes_is_told(kubernetes, train, name) -> None:
    def control(k: Any, job: Any) -> None:
        k.container(name, 0, running={})
        del k.jobs[name]

    kubernetes.controller = control
    with pytest.raises(TrainingError, match="was deleted while it ran"):
        train()


def test_a_failed_job_is_deleted(kubernetes, train) -> None:
    kubernetes.controller = fails((0, 6, "no"))
    with pytest.raises(TrainingError):
        train()
    assert not kubernetes.jobs


# A later attempt at the same step


def test_output_of_an_earlier_attempt_is_fetched_without_another_job(
    kubernetes, train, publish
) -> None:
    publish()
    assert train().metrics == {"best_valid_accuracy": 81.5}
    assert not kubernetes.asked("POST", "jobs$")


def earlier_job(kubernetes: Any, train: Any, name: str) -> None:
    """The job that an attempt has made which was killed without a chance to delete it."""
    kubernetes.fail("GET", f"/trainjobs/{name}$", *[503] * 4)
    with pytest.raises(TransferError):
        train()


def test_the_job_of_an_earlier_attempt_is_adopted(kubernetes, train, publish, name, caplog) -> None:
    earlier_job(kubernetes, train, name)
    assert "the next attempt adopts it" in caplog.text
    job = kubernetes.jobs[name]
    threading.Timer(0.05, trains_well(publish), (kubernetes, job)).start()
    assert train().metrics
    assert "adopted from an earlier attempt" in caplog.text
    assert kubernetes.asked("POST", "/trainjobs$") == 2
    assert not kubernetes.jobs


def test_a_job_that_another_attempt_finished_is_used_up(kubernetes, train, publish, name) -> None:
    earlier_job(kubernetes, train, name)
    kubernetes.true(name, "Failed")
    kubernetes.controller = trains_well(publish)
    kubernetes.lingering = 3  # its pods take a while to end
    assert train().metrics
    assert kubernetes.asked("DELETE", "/trainjobs/") == 2  # the old one, and at the end


def test_a_job_that_is_being_deleted_is_waited_for(kubernetes, train, publish, name) -> None:
    earlier_job(kubernetes, train, name)
    kubernetes.jobs[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    kubernetes.lingering = 3
    kubernetes.controller = trains_well(publish)
    assert train().metrics


def test_a_job_that_does_not_go_is_told(kubernetes, train, timing, name, config, cluster) -> None:
    earlier_job(kubernetes, train, name)
    kubernetes.jobs[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    kubernetes.lingering = 10_000
    short = dataclasses.replace(timing, removal=0.05)
    with pytest.raises(TrainingError, match="is still being deleted"):
        launch(config, cluster, timing=short)


def test_another_s_job_of_this_name_is_left_alone(kubernetes, train, name) -> None:
    earlier_job(kubernetes, train, name)
    kubernetes.jobs[name]["metadata"]["annotations"][DIGEST] = "another"
    with pytest.raises(ConfigError, match=r"exists in namespace team, and trains something else"):
        train()
    assert name in kubernetes.jobs
    kubernetes.denied = {"list pods"}  # nor is it when this step fails before it looks
    with pytest.raises(ConfigError, match="lacks rights"):
        train()
    assert name in kubernetes.jobs


def test_data_that_is_published_already_is_not_sent_again(
    kubernetes, train, publish, config, name
) -> None:
    earlier_job(kubernetes, train, name)
    before = storage.find(Addresses(config.checkpoint_uri).data)
    kubernetes.true(name, "Failed")
    kubernetes.controller = trains_well(publish)
    train()
    assert storage.find(Addresses(config.checkpoint_uri).data) == before


def test_other_data_at_the_same_place_is_refused(kubernetes, train, config, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("something else")
    storage.publish(tmp_path / "other", Addresses(config.checkpoint_uri).data)
    with pytest.raises(OutputError, match="another artifact has been published here"):
        train()
    assert not kubernetes.asked("POST", "jobs$")


# What is refused before anything is made


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"checkpoint_uri": ""}, "needs checkpoint_uri at an s3:// address"),
        ({"checkpoint_uri": "/data/checkpoints"}, "needs checkpoint_uri at an s3:// address"),
        ({"effective_batch_size": 8}, "does not divide over 3 nodes of 2 processes"),
        ({"processes": 4}, "processes is 4, but 2 GPUs"),
        ({"node_gpus": 0, "precision": "fp16"}, "precision fp16 needs a GPU"),
        ({"image": ""}, "the nodes' image is not known"),
        ({"node_memory": "64 GB"}, "cluster_node_memory is '64 GB'"),
        ({"node_gpus": -1}, "cluster_node_gpus is -1"),
        ({"node_runtime": ""}, "cluster_node_runtime is ''"),
        ({"s3_secret": "Race"}, "s3_secret is 'Race'"),
    ],
)
def test_what_cannot_work_is_refused_at_once(kubernetes, train, changes, says, monkeypatch) -> None:
    monkeypatch.delenv("RACE_IMAGE", raising=False)
    with pytest.raises(ConfigError) as raised:
        train(**changes)
    assert says in str(raised.value)
    assert not kubernetes.requests


def test_the_image_is_this_step_s_own(kubernetes, train, publish, name, monkeypatch) -> None:
    monkeypatch.setenv("RACE_IMAGE", "registry.example.org/this:1")
    images = []
    good = trains_well(publish)

    def control(k: Any, job: Any) -> None:
        images.append(job["spec"]["trainer"]["image"])
        good(k, job)

    kubernetes.controller = control
    train(image="")
    assert images == ["registry.example.org/this:1"]


# Faults of the API


def test_missing_rights_are_named_all_together(kubernetes, train) -> None:
    kubernetes.denied = {"create trainjobs", "delete trainjobs", "get pods/log"}
    with pytest.raises(ConfigError) as raised:
        train()
    assert str(raised.value) == (
        "service account team:pipeline-runner lacks rights in namespace team:"
        " create trainjobs.trainer.kubeflow.org, delete trainjobs.trainer.kubeflow.org,"
        " get pods/log. Bind the Role of pipeline/manifests to it, see the README there"
    )
    assert not kubernetes.jobs


def test_a_right_that_is_taken_away_later_is_told(kubernetes, train) -> None:
    kubernetes.fail("POST", "/trainjobs", 403)
    with pytest.raises(
        ConfigError, match=r"may not create the job in namespace team: 403 it hurts"
    ):
        train()


def test_a_cluster_without_trainer_is_told(kubernetes, train) -> None:
    kubernetes.known.clear()
    with pytest.raises(ConfigError) as raised:
        train()
    says = "does not know trainjobs.trainer.kubeflow.org/v1alpha1. Install Kubeflow Trainer 2.2"
    assert says in str(raised.value)


def test_a_missing_runtime_is_told(kubernetes, train) -> None:
    with pytest.raises(ConfigError, match="the cluster has no ClusterTrainingRuntime mine"):
        train(node_runtime="mine")


def test_whoever_may_not_read_runtimes_need_not(kubernetes, train, publish) -> None:
    kubernetes.denied = {"get clustertrainingruntimes"}
    kubernetes.controller = trains_well(publish)
    assert train().metrics
    assert not kubernetes.asked("GET", "clustertrainingruntimes")


@pytest.mark.parametrize("status", [400, 422])
def test_what_the_cluster_does_not_accept_is_told(kubernetes, train, status) -> None:
    kubernetes.fail("POST", "/trainjobs", status)
    with pytest.raises(ConfigError, match="the cluster refuses the TrainJob: it hurts"):
        train()
    assert not kubernetes.jobs


def test_a_field_that_the_cluster_does_not_know_is_refused_not_dropped(
    kubernetes, train, publish
) -> None:
    kubernetes.controller = trains_well(publish)
    train()
    (query,) = [q for m, p, q in kubernetes.requests if m == "POST" and p.endswith("/trainjobs")]
    assert query == {"fieldValidation": "Strict"}


@pytest.mark.parametrize("lost_reply", [False, True])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "selfsubjectaccessreviews"),
        ("POST", "/trainjobs"),
        ("GET", "/trainjobs/"),
        ("GET", "/pods"),
        ("DELETE", "/trainjobs/"),
    ],
)
def test_a_failing_api_is_asked_again_and_nothing_is_done_twice(
    kubernetes, train, publish, method, path, lost_reply
) -> None:
    kubernetes.fail(method, path, 500, 0, 429, lost_reply=lost_reply)
    kubernetes.controller = trains_well(publish)
    assert train().metrics
    assert not kubernetes.failures
    assert not kubernetes.jobs


def test_an_api_that_goes_on_failing_leaves_the_job_to_the_next_attempt(
    kubernetes, train, name
) -> None:
    kubernetes.fail("GET", f"/trainjobs/{name}$", *[500] * 10)
    with pytest.raises(TransferError) as raised:
        train()
    assert "does not let this pod read the job: it answered 500 it hurts (4 attempts)" in str(
        raised.value
    )
    assert name in kubernetes.jobs


def test_an_expired_token_is_told(kubernetes, train) -> None:
    kubernetes.token = "another"
    with pytest.raises(ConfigError, match=r"refuses the token: 401 Unauthorized"):
        train()


def test_a_renewed_token_is_taken_up(kubernetes, train, publish, tmp_path, name) -> None:
    good = trains_well(publish)

    def control(k: Any, job: Any) -> None:
        k.token = "renewed"
        # JSON is YAML: see `write_kubeconfig`.
        path = tmp_path / "kubeconfig"
        path.write_text(path.read_text().replace("good-token", "renewed"))
        good(k, job)

    kubernetes.controller = control
    assert train().metrics


def test_a_cluster_that_nobody_answers_for_is_told(kubernetes, train, tmp_path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(path.read_text().replace(kubernetes.address, "http://127.0.0.1:9"))
    with pytest.raises(TransferError, match=r"http://127.0.0.1:9 .* Connection refused"):
        train()


def test_no_access_to_any_cluster_is_told(train, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no access to a Kubernetes cluster"):
        train()


# The end of this process


@pytest.mark.parametrize("end", [Terminated, KeyboardInterrupt])
def test_whoever_ends_this_step_ends_the_job(kubernetes, train, name, monkeypatch, end) -> None:
    from components.train.cluster import core

    def look(pods: object) -> str:
        raise end

    monkeypatch.setattr(core, "_why_waiting", look)
    with pytest.raises(end):
        train()
    assert kubernetes.asked("POST", "/trainjobs$") == 1
    assert not kubernetes.jobs


@pytest.fixture
def in_a_pod(kubernetes, tmp_path, monkeypatch) -> dict[str, Any]:
    """This process has a pod in the cluster, which a workflow owns."""
    from components.train.cluster import api

    monkeypatch.setattr(api, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("HOSTNAME", "the-step")
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run", "uid": "u-1"}
    controller = {"controller": True, "blockOwnerDeletion": True}
    pod = {
        "metadata": {"name": "the-step", "labels": {}, "ownerReferences": [owner | controller]},
        "status": {},
    }
    kubernetes.pods["the-step"] = pod
    return pod


def test_the_job_goes_with_its_run(kubernetes, train, publish, in_a_pod) -> None:
    owners: list[Any] = []
    good = trains_well(publish)

    def control(k: Any, job: Any) -> None:
        owners.extend(job["metadata"]["ownerReferences"])
        good(k, job)

    kubernetes.controller = control
    train()
    (owner,) = owners
    assert owner == {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "name": "run",
        "uid": "u-1",
    }


@pytest.mark.parametrize("status", ["True", "False", "unknown"])
def test_only_a_step_whose_machine_is_taken_away_leaves_the_job(
    kubernetes, train, name, monkeypatch, in_a_pod, status
) -> None:
    from components.train.cluster import core

    def look(pods: object) -> str:
        condition = {"type": "DisruptionTarget", "status": status, "reason": "TerminationByKubelet"}
        in_a_pod["status"] = {"conditions": [condition]}
        if status == "unknown":
            kubernetes.fail("GET", "/pods/the-step", *[500] * 10)
        raise Terminated

    monkeypatch.setattr(core, "_why_waiting", look)
    with pytest.raises(Terminated):
        train()
    assert (name in kubernetes.jobs) is (status == "True")


def test_in_a_pod_it_is_its_service_account(tmp_path, monkeypatch) -> None:
    from kubernetes.config import incluster_config

    from components.train.cluster import api

    for file, content in (
        ("token", "a-token"),
        ("ca.crt", "a certificate"),
        ("namespace", "mine\n"),
    ):
        (tmp_path / file).write_text(content)
    monkeypatch.setattr(api, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    read = []

    def client(configuration: Any) -> Any:
        read.append(configuration)
        return "client"

    monkeypatch.setattr(api.kubernetes.client, "ApiClient", client)
    assert api._connect() == ("client", "mine")
    (configuration,) = read
    assert configuration.host == "https://10.0.0.1:443"
    assert configuration.get_api_key_with_prefix("authorization") == "bearer a-token"


STEP = """
    import sys
    from pathlib import Path
    from components.common.cli import run_step
    from components.train.cluster.config import ClusterConfig
    from components.train.cluster.core import launch
    from components.train.config import TrainConfig

    def main(argv):
        data, pretrained, output, uri = sys.argv[1:]
        config = TrainConfig(Path(data), Path(pretrained), Path(output), num_nodes=2,
                             precision="fp32", checkpoint_uri=uri)
        launch(config, ClusterConfig(node_cpu="8", node_memory="64Gi", node_gpus=0, image="image"))

    raise SystemExit(run_step(main))
"""


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_deletes_the_job(kubernetes, config, bucket, signum, status) -> None:
    uri = f"s3://{bucket}/race/0c5e3a41"
    name = job_name(uri)

    def control(k: Any, job: Any) -> None:
        k.container(name, 0, running={}).write("epoch 1")

    kubernetes.controller = control
    arguments = [config.data, config.pretrained, config.output, uri]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STEP), *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line == "epoch 1\n":
            break
    assert name in kubernetes.jobs
    started = time.monotonic()
    process.send_signal(signum)
    with process.stderr as stderr:
        last = stderr.read().splitlines()[-1]
    assert process.wait(10) == status
    assert time.monotonic() - started < 5
    assert last.startswith("error: ")
    assert not kubernetes.jobs
