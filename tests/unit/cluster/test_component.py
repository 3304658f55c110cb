"""The pipeline's train step with train_nodes above 1."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.common import storage
from components.train.cluster import core
from components.train.cluster.core import ClusterConfig
from components.train.cluster.manifest import Addresses, job_name
from components.train.config import TrainConfig
from pipeline import components
from pipeline.parameters import load_profile, resolve

RUN, URI = "0c5e3a41-52ee-4f0b-9d1e-6f2f3f5b7a10", "s3://bucket/race"


@pytest.fixture
def step(config: TrainConfig, tmp_path: Path, folders: None, monkeypatch: Any, timing: Any) -> Any:
    """Calls the body of the component, as KFP does; gives its artifacts."""
    monkeypatch.setenv("RACE_IMAGE", "registry.example.org/train:1")
    # As in the component, but fast.
    monkeypatch.setattr(core, "Timing", lambda: timing)

    def run(**changes: Any) -> dict[str, Any]:
        own = {"train_nodes": 2, "cluster_train_gpus": 0, "train_checkpoint_uri": URI}
        values = resolve(load_profile("roberta-large"), {**own, **changes})
        names = components.train.component_spec.inputs
        arguments = {n: values[n if n in values else f"train_{n}"] for n in names if named(n)}
        made = {
            "model": dsl.Model(uri=str(tmp_path / "model")),
            "curve": dsl.Metrics(uri=str(tmp_path / "curve")),
            "training_report": dsl.HTML(uri=str(tmp_path / "report.html")),
        }
        components.train.python_func(
            data=dsl.Dataset(uri=str(config.data)),
            pretrained=dsl.Model(uri=str(config.pretrained)),
            run_id=RUN,
            trial="seed-1",
            **arguments,
            **made,
        )
        return made

    return run


def named(name: str) -> bool:
    return name not in ("data", "pretrained", "run_id", "trial")


def test_its_artifacts_are_those_of_one_node(kubernetes, step, tmp_path) -> None:
    jobs: list[Any] = []

    def control(k: Any, job: Any) -> None:
        jobs.append(job)
        folder = tmp_path / "made"
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({"best_valid_accuracy": 84.0, "x": None}))
        (folder / "report.html").write_text("<p>the report")
        storage.publish(folder, Addresses(f"{URI}/{RUN}/seed-1").output, show_progress=False)
        k.true(job["metadata"]["name"], "Complete")

    kubernetes.controller = control
    made = step()
    assert made["curve"].metadata == {"best_valid_accuracy": 84.0}
    assert Path(made["training_report"].path).read_text() == "<p>the report"
    (job,) = jobs
    assert job["metadata"]["name"] == job_name(f"{URI}/{RUN}/seed-1")
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert trainer["image"] == "registry.example.org/train:1"
    assert f"--checkpoint-uri={URI}/{RUN}/seed-1" in trainer["args"]
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "8"


def test_its_failure_is_one_line_and_the_node_s_status(kubernetes, step, capfd) -> None:
    def control(k: Any, job: Any) -> None:
        name = job["metadata"]["name"]
        ended = {"exitCode": 3, "reason": "Error", "finishedAt": ""}
        log = k.container(name, 0, terminated=ended)
        log.write("error: the data is damaged. Binarize again")
        log.end()
        k.true(name, "Failed")

    kubernetes.controller = control
    with pytest.raises(SystemExit) as ended:
        step()
    assert ended.value.code == 3
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: TrainJob race-seed-1-")
    assert last.endswith("failed: node 0: the data is damaged. Binarize again")


def test_a_wrong_parameter_of_the_cluster_is_one_line_too(kubernetes, step, capfd) -> None:
    kubernetes.runtimes.clear()
    with pytest.raises(SystemExit) as ended:
        step()
    assert ended.value.code == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        "error: the cluster has no ClusterTrainingRuntime race-torch. Apply pipeline/manifests,"
        " or set cluster_node_runtime to one that is there"
    )


def test_with_one_node_the_cluster_is_not_asked(kubernetes, step, monkeypatch) -> None:
    from components.train import core as alone

    def train(config: TrainConfig) -> Any:
        raise SystemExit(f"trains here on {config.nodes} node")

    monkeypatch.setattr(alone, "train", train)
    with pytest.raises(SystemExit, match="trains here on 1 node"):
        step(train_nodes=1)
    assert not kubernetes.requests


def test_the_component_has_all_that_a_cluster_has_to_be_told() -> None:
    told = {f.name for f in dataclasses.fields(ClusterConfig) if f.default is dataclasses.MISSING}
    names = components.train.component_spec.inputs
    assert {n.removeprefix("cluster_") for n in names if n.startswith("cluster_")} == told
