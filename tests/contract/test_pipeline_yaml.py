"""What pipeline.yaml promises to a cluster: mostly what nobody would notice before it hurts."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.images import images
from pipeline.parameters import load_profile, parameters, resolve
from pipeline.pipeline import compiled

PIPELINE_YAML = Path(__file__).parents[2] / "pipeline.yaml"
STEPS = {
    "download-race",
    "download-roberta",
    "download-bpe",
    "preprocess",
    "binarize",
    "train",
    "evaluate",
}
GPU_STEPS = {"train", "evaluate"}
DAY = 24 * 3600


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    return list(yaml.safe_load_all(PIPELINE_YAML.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def spec(documents: list[Any]) -> Any:
    return documents[0]


@pytest.fixture(scope="module")
def tasks(spec: Any) -> Any:
    return spec["root"]["dag"]["tasks"]


@pytest.fixture(scope="module")
def containers(spec: Any) -> dict[str, Any]:
    executors = spec["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): e["container"] for name, e in executors.items()}


@pytest.fixture(scope="module")
def pods(documents: list[Any]) -> dict[str, Any]:
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): e for name, e in executors.items()}


def parameter_of(task: Any, reference: str) -> str:
    """The pipeline's parameter behind a reference in a container's resources."""
    found = re.fullmatch(r"\{\{\$\.inputs\.parameters\['(.*)'\]\}\}", reference)
    assert found, f"{reference} is fixed, not a parameter"
    return task["inputs"]["parameters"][found[1]]["componentInputParameter"]


def test_it_is_up_to_date() -> None:
    fresh = compiled(resolve(load_profile("roberta-large"), {}), images({}))
    assert PIPELINE_YAML.read_text(encoding="utf-8") == fresh, "run `race compile`"


def test_the_downloads_wait_for_nothing_and_each_other_step_for_what_it_reads(tasks: Any) -> None:
    assert {name: set(task.get("dependentTasks", ())) for name, task in tasks.items()} == {
        "download-race": set(),
        "download-roberta": set(),
        "download-bpe": set(),
        "preprocess": {"download-race"},
        "binarize": {"preprocess", "download-bpe"},
        "train": {"binarize", "download-roberta"},
        "evaluate": {"preprocess", "binarize", "train"},
    }


def test_artifacts_are_typed(spec: Any) -> None:
    outputs = {
        f"{name.removeprefix('comp-')}/{output}": artifact["artifactType"]["schemaTitle"]
        for name, component in spec["components"].items()
        for output, artifact in component["outputDefinitions"]["artifacts"].items()
    }
    assert outputs == {
        "download-race/race": "system.Dataset",
        "download-roberta/roberta": "system.Model",
        "download-bpe/bpe": "system.Artifact",
        "preprocess/text": "system.Dataset",
        "preprocess/counts": "system.Metrics",
        "binarize/data": "system.Dataset",
        "binarize/size": "system.Metrics",
        "binarize/data_report": "system.HTML",
        "train/model": "system.Model",
        "train/curve": "system.Metrics",
        "train/training_report": "system.HTML",
        "evaluate/report": "system.Artifact",
        "evaluate/accuracy": "system.Metrics",
        "evaluate/confusion": "system.ClassificationMetrics",
        "evaluate/evaluation_report": "system.HTML",
    }


@pytest.mark.parametrize("step", sorted(STEPS))
def test_cpu_and_memory_are_parameters_and_requests_equal_limits(
    step: str, tasks: Any, containers: Any
) -> None:
    resources = containers[step]["resources"]
    group = step if step in GPU_STEPS else "data"
    for kind in ("Request", "Limit"):
        for name, what in (("Cpu", "cpu"), ("Memory", "memory")):
            asked = parameter_of(tasks[step], resources[f"resource{name}{kind}"])
            assert asked == f"cluster_{group}_{what}"


@pytest.mark.parametrize("step", sorted(STEPS))
def test_gpus_are_parameters_of_train_and_evaluate_only(
    step: str, tasks: Any, containers: Any
) -> None:
    accelerator = containers[step]["resources"].get("accelerator")
    if step not in GPU_STEPS:
        assert accelerator is None
        return
    assert parameter_of(tasks[step], accelerator["resourceType"]) == "cluster_gpu_type"
    assert parameter_of(tasks[step], accelerator["resourceCount"]) == f"cluster_{step}_gpus"


@pytest.mark.parametrize("step", sorted(GPU_STEPS))
def test_gpu_steps_have_shared_memory_and_their_place(step: str, pods: Any) -> None:
    (shm,) = pods[step]["emptyDirMounts"]
    assert (shm["mountPath"], shm["medium"]) == ("/dev/shm", "Memory")
    assert int(shm["sizeLimit"].removesuffix("Gi")) >= 1
    selector = pods[step]["nodeSelector"]["nodeSelectorJson"]
    assert selector == {"componentInputParameter": "cluster_gpu_node_selector"}
    (toleration,) = pods[step]["tolerations"]
    assert toleration["tolerationJson"] == {"componentInputParameter": "cluster_gpu_tolerations"}


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_failed_step_is_tried_again_for_days(step: str, tasks: Any, pods: Any) -> None:
    policy = tasks[step]["retryPolicy"]
    window = seconds(policy["backoffMaxDuration"])
    assert window >= 7 * DAY
    attempts = policy["maxRetryCount"] + 1
    assert attempts >= 3
    assert window >= attempts * int(pods[step]["activeDeadlineSeconds"])
    assert seconds(policy["backoffDuration"]) >= 10


@pytest.mark.parametrize("step", sorted(STEPS))
def test_an_attempt_has_a_time_limit(step: str, pods: Any) -> None:
    limit = int(pods[step]["activeDeadlineSeconds"])
    assert 3600 <= limit <= 7 * DAY
    if step == "train":
        assert limit >= 2 * DAY


@pytest.mark.parametrize("step", sorted(STEPS))
def test_data_steps_are_cached_and_training_never(step: str, tasks: Any) -> None:
    cached = tasks[step]["cachingOptions"].get("enableCache", False)
    assert cached is (step not in GPU_STEPS)


@pytest.mark.parametrize("step", sorted(STEPS))
def test_credentials_come_from_a_secret_that_may_be_absent(step: str, pods: Any) -> None:
    (secret,) = pods[step]["secretAsEnv"]
    assert secret["optional"] is True
    assert secret["secretNameParameter"] == {"componentInputParameter": "cluster_s3_secret"}
    variables = {entry["secretKey"]: entry["envVar"] for entry in secret["keyToEnv"]}
    assert variables.keys() >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"}
    assert all(key == variable for key, variable in variables.items())


@pytest.mark.parametrize("step", sorted(STEPS))
def test_the_pod_is_nobody_special_and_finds_its_image(step: str, pods: Any) -> None:
    assert pods[step]["securityContext"] == {"runAsUser": "10001", "runAsNonRoot": True}
    assert pods[step]["imagePullPolicy"] == "IfNotPresent"
    (secret,) = pods[step]["imagePullSecret"]
    assert secret["secretNameParameter"] == {"componentInputParameter": "cluster_image_pull_secret"}


def test_the_user_is_the_one_of_the_images(pods: Any) -> None:
    for dockerfile in (PIPELINE_YAML.parent / "docker").glob("*.Dockerfile"):
        users = re.findall(r"^USER (\S+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
        assert users[-1].partition(":")[0] == pods["train"]["securityContext"]["runAsUser"]


def test_training_knows_its_run_and_steps_their_image(tasks: Any, containers: Any) -> None:
    run_id = tasks["train"]["inputs"]["parameters"]["run_id"]
    assert run_id == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}
    for container in containers.values():
        assert {"name": "RACE_IMAGE", "value": container["image"]} in container["env"]


def test_each_image_reference_comes_from_one_place(containers: Any) -> None:
    known = images({})
    for step, container in containers.items():
        assert container["image"] == (known.train if step in GPU_STEPS else known.data), step


def test_steps_install_nothing_and_name_no_package(containers: Any) -> None:
    for container in containers.values():
        assert "pip install" not in " ".join(container["command"])


def test_the_image_references_can_be_replaced_and_pinned() -> None:
    pinned = f"registry.example.org/team/data@sha256:{'0' * 64}"
    text = compiled(
        resolve(load_profile("roberta-large"), {}),
        images({"RACE_DATA_IMAGE": pinned, "RACE_IMAGE_PREFIX": "ghost.example.org/x"}),
    )
    found = set(re.findall(r"image: (\S+)", text))
    assert len(found) == 2
    assert pinned in found
    assert next(iter(found - {pinned})).startswith("ghost.example.org/x/race-pipeline-train:")


def test_inputs_have_the_profile_s_values_and_a_description(spec: Any) -> None:
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    values = resolve(load_profile("roberta-large"), {})
    assert inputs.keys() == parameters().keys()
    for name, about in inputs.items():
        assert about["description"] == parameters()[name].help, name
        assert about["defaultValue"] == values[name], name


def test_nothing_of_the_machine_that_compiled_it_is_in_it() -> None:
    text = PIPELINE_YAML.read_text(encoding="utf-8")
    assert str(PIPELINE_YAML.parent) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"
