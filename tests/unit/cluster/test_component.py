"""The pipeline's train step with train_num_nodes above 1."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.common import storage
from components.common.cli import run_step
from components.train.cluster import core
from components.train.cluster.__main__ import main
from components.train.cluster.manifest import Addresses, job_name
from components.train.config import TrainConfig
from pipeline.components import compiled_flags
from pipeline.parameters import load_config, resolve
from pipeline.steps import STEPS, on_nodes

RUN, URI = "0c5e3a41-52ee-4f0b-9d1e-6f2f3f5b7a10", "s3://bucket/race"


@pytest.fixture
def step(config: TrainConfig, tmp_path: Path, folders: None, monkeypatch: Any, timing: Any) -> Any:
    """Runs the step's command as KFP has it; gives what it answered, by output."""
    monkeypatch.setenv("RACE_IMAGE", "registry.example.org/train:1")
    # As in the component, but fast.
    monkeypatch.setattr(core, "Timing", lambda: timing)

    def run(**changes: Any) -> dict[str, Any]:
        own = {"train_num_nodes": 2, "train_gpus": 0, "checkpoint_uri": URI}
        values = resolve(load_config("roberta-large"), {**own, **changes})
        train = on_nodes(STEPS["train"])
        flags = compiled_flags(train, values)
        given = {field: values[name] for field, name in train.given.items() if name in values}
        given |= {"run_id": RUN, "trial": "seed-1"}
        flags += [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        artifacts = {
            name: {"artifacts": [{"type": {"schemaTitle": f"system.{kind}"}, "uri": uri}]}
            for name, kind in train.outputs.items()
            for uri in [str(tmp_path / name)]
        }
        answer = tmp_path / "answer.json"
        told = {"outputs": {"artifacts": artifacts, "outputFile": str(answer)}}
        paths = [f"--data={config.data}", f"--pretrained={config.pretrained}"]
        paths += [f"--output={tmp_path / 'model'}", f"--executor-input={json.dumps(told)}"]
        main([*flags, *paths])
        answered = json.loads(answer.read_text())["artifacts"]
        return {name: about["artifacts"][0] for name, about in answered.items()}

    return run


def failed(step: Any) -> int:
    return run_step(lambda _: step() and None)


def test_its_artifacts_are_those_of_one_node(kubernetes, step, tmp_path) -> None:
    jobs: list[Any] = []

    def control(k: Any, job: Any) -> None:
        jobs.append(job)
        folder = tmp_path / "made"
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({"best_valid_accuracy": 84.0, "x": None}))
        (folder / "report.html").write_text("<p>the report")
        storage.publish(folder, Addresses(f"{URI}/{RUN}/seed-1").output)
        k.true(job["metadata"]["name"], "Complete")

    kubernetes.controller = control
    made = step()
    assert made["curve"]["metadata"] == {"best_valid_accuracy": 84.0}
    assert Path(made["training_report"]["uri"]).read_text() == "<p>the report"
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
        said = "the data is damaged. Binarize again"
        ended = {"exitCode": 3, "reason": "Error", "message": said, "finishedAt": ""}
        k.container(name, 0, terminated=ended).end()
        k.true(name, "Failed")

    kubernetes.controller = control
    assert failed(step) == 3
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: TrainJob race-seed-1-")
    assert last.endswith("failed: node 0: the data is damaged. Binarize again")


def test_a_wrong_parameter_of_the_cluster_is_one_line_too(kubernetes, step, capfd) -> None:
    kubernetes.runtimes.clear()
    assert failed(step) == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        "error: the cluster has no ClusterTrainingRuntime race-torch. Apply pipeline/manifests,"
        " or set cluster_node_runtime to one that is there"
    )
