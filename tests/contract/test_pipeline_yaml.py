"""What pipeline.yaml and sweep.yaml promise to a cluster: mostly what shows when it hurts."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.train.cluster.config import DEADLINE
from pipeline.images import images
from pipeline.parameters import (
    SETTINGS,
    inputs_of,
    load_config,
    resolve,
)
from pipeline.pipeline import compiled

ROOT = Path(__file__).parents[2]
DATA_STEPS = {"download-race", "download-roberta", "download-bpe", "preprocess", "binarize"}
GPU_STEPS = {"train", "evaluate"}
STEPS = {
    "pipeline.yaml": {*DATA_STEPS, *GPU_STEPS, "gate", "publish"},
    "sweep.yaml": {*DATA_STEPS, *GPU_STEPS, "gate", "publish", "trials", "select"},
}
# Those that would say the same again, and so are not tried again.
ONCE = {"gate", "trials"}
LOOP = "for-loop-1"
VALUES = resolve(load_config("roberta-large"), {})
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
DAY = 24 * 3600


class Compiled:
    """A pipeline as the cluster gets it; `tasks` has those of the loop and of the condition too."""

    def __init__(self, file: str) -> None:
        documents = list(yaml.safe_load_all((ROOT / file).read_text(encoding="utf-8")))
        self.spec: Any = documents[0]
        root = self.spec["root"]["dag"]["tasks"]
        self.loop: Any = root.get(LOOP)
        inner = {n: t for n, t in root.items() if n.startswith(("for-loop-", "condition-"))}
        self.within: dict[str, str] = {}
        self.tasks: Any = {n: t for n, t in root.items() if n not in inner}
        for name in inner:
            below = self.spec["components"]["comp-" + name]["dag"]["tasks"]
            self.tasks |= below
            self.within |= dict.fromkeys(below, name)
        self.looped = {n: t for n, t in self.tasks.items() if self.within.get(n) == LOOP}
        self.inner: Any = inner
        executors = self.spec["deploymentSpec"]["executors"]
        self.containers = {n.removeprefix("exec-"): e["container"] for n, e in executors.items()}
        kubernetes = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self.pods: Any = {n.removeprefix("exec-"): e for n, e in kubernetes.items()}

    def parameter(self, step: str, channel: Any) -> str:
        """The pipeline's parameter behind an input that a task takes from the DAG around it."""
        name = channel["componentInputParameter"]
        if step not in self.within:
            assert name in self.spec["root"]["inputDefinitions"]["parameters"]
            return name
        group = self.within[step]
        declared = self.spec["components"]["comp-" + group]["inputDefinitions"]["parameters"]
        assert name in declared, f"{group} does not hand {name} on to {step}"
        return self.inner[group]["inputs"]["parameters"][name]["componentInputParameter"]

    def referred(self, step: str, reference: str) -> str:
        """The pipeline's parameter behind a reference in a container's resources."""
        found = re.fullmatch(r"\{\{\$\.inputs\.parameters\['(.*)'\]\}\}", reference)
        assert found, f"{reference} is fixed, not a parameter"
        return self.parameter(step, self.tasks[step]["inputs"]["parameters"][found[1]])


@functools.cache
def load(file: str) -> Compiled:
    return Compiled(file)


each_file = pytest.mark.parametrize("file", sorted(STEPS))
each_step = pytest.mark.parametrize(
    ("file", "step"), [(file, step) for file in sorted(STEPS) for step in sorted(STEPS[file])]
)
each_gpu_step = pytest.mark.parametrize(
    ("file", "step"), [(file, step) for file in sorted(STEPS) for step in sorted(GPU_STEPS)]
)


@each_file
def test_it_is_up_to_date(file: str) -> None:
    values = resolve(load_config("roberta-large"), {})
    fresh = compiled(values, images({}), sweep=file == "sweep.yaml")
    assert (ROOT / file).read_text(encoding="utf-8") == fresh, "run `race compile`"


def test_they_are_small() -> None:
    sizes = {file: (ROOT / file).stat().st_size for file in STEPS}
    assert sizes["pipeline.yaml"] <= 40_000
    assert sizes["sweep.yaml"] <= 50_000


@each_file
def test_it_has_these_steps(file: str) -> None:
    made = load(file)
    assert made.tasks.keys() == made.containers.keys() == made.pods.keys() == STEPS[file]


def test_the_downloads_wait_for_nothing_and_each_other_step_for_what_it_reads() -> None:
    data = {
        "download-race": set(),
        "download-roberta": set(),
        "download-bpe": set(),
        "preprocess": {"download-race"},
        "binarize": {"preprocess", "download-bpe"},
    }
    assert waits_for(load("pipeline.yaml").tasks) == {
        **data,
        "train": {"binarize", "download-roberta"},
        "evaluate": {"preprocess", "binarize", "train"},
        "gate": {"evaluate"},
        "publish": set(),
    }
    sweep = load("sweep.yaml")
    assert waits_for(sweep.tasks) == {
        **data,
        "trials": set(),
        "train": set(),
        "evaluate": {"train"},
        "select": {LOOP},
        "gate": {"select"},
        "publish": set(),
    }
    assert set(sweep.loop["dependentTasks"]) == {
        "trials",
        "binarize",
        "download-roberta",
        "preprocess",
    }


def waits_for(tasks: Any) -> dict[str, set[str]]:
    return {name: set(task.get("dependentTasks", ())) for name, task in tasks.items()}


def test_artifacts_are_typed() -> None:
    assert outputs_of("pipeline.yaml") == {
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
    assert outputs_of("sweep.yaml") == outputs_of("pipeline.yaml") | {
        "select/model": "system.Model",
        "select/selection": "system.Artifact",
        "select/scores": "system.Metrics",
        "select/sweep_report": "system.HTML",
    }


def outputs_of(file: str) -> dict[str, str]:
    return {
        f"{name.removeprefix('comp-')}/{output}": artifact["artifactType"]["schemaTitle"]
        for name, component in load(file).spec["components"].items()
        for output, artifact in component.get("outputDefinitions", {}).get("artifacts", {}).items()
        if name != "comp-" + LOOP
    }


# The sweep


def test_a_sweep_takes_the_data_steps_of_a_single_run_from_the_cache() -> None:
    """KFP's key: the pipeline's name, and of a step its container, inputs and outputs."""
    once, sweep = load("pipeline.yaml"), load("sweep.yaml")
    assert once.spec["pipelineInfo"]["name"] == sweep.spec["pipelineInfo"]["name"]
    for step in DATA_STEPS:
        assert once.tasks[step] == sweep.tasks[step]
        assert once.containers[step] == sweep.containers[step]
        assert once.spec["components"][f"comp-{step}"] == sweep.spec["components"][f"comp-{step}"]


def test_the_trials_run_in_a_loop_two_at_a_time() -> None:
    sweep = load("sweep.yaml")
    assert sweep.looped.keys() == GPU_STEPS
    assert sweep.loop["iteratorPolicy"] == {"parallelismLimit": 2}
    items = sweep.loop["parameterIterator"]["items"]["inputParameter"]
    assert sweep.loop["inputs"]["parameters"][items]["taskOutputParameter"] == {
        "outputParameterKey": "Output",
        "producerTask": "trials",
    }


@pytest.mark.parametrize("limit", [1, 5])
def test_how_many_trials_run_at_a_time_can_be_said(limit: int) -> None:
    values = resolve(load_config("roberta-large"), {"seeds": [1, 2]})
    text = compiled(values, images({}), parallelism=limit)
    assert f"parallelismLimit: {limit}\n" in text


def test_each_trial_has_its_own_seed_learning_rate_and_name() -> None:
    inputs = load("sweep.yaml").tasks["train"]["inputs"]["parameters"]
    for name in ("seed", "learning_rate", "trial"):
        assert inputs[name]["componentInputParameter"].endswith("-loop-item")
        assert inputs[name]["parameterExpressionSelector"] == f'parseJson(string_value)["{name}"]'


def test_the_trials_are_planned_from_the_pipeline_s_parameters() -> None:
    sweep = load("sweep.yaml")
    inputs = sweep.tasks["trials"]["inputs"]["parameters"]
    assert {
        name: sweep.parameter("trials", inputs[name])
        for name in ("seeds", "learning_rates", "seed", "learning_rate")
    } == {
        "seeds": "seeds",
        "learning_rates": "learning_rates",
        "seed": "seed",
        "learning_rate": "learning_rate",
    }


def test_a_trial_that_collapses_is_marked_and_only_its_best_checkpoint_kept() -> None:
    marked = {"--on-collapse=mark", "--no-keep-last"}
    assert marked <= set(load("sweep.yaml").containers["train"]["args"])
    assert not marked & set(load("pipeline.yaml").containers["train"]["args"])


def test_all_models_and_evaluations_are_collected() -> None:
    sweep = load("sweep.yaml")
    artifacts = sweep.tasks["select"]["inputs"]["artifacts"]
    for name, (step, output) in {
        "models": ("train", "model"),
        "evaluations": ("evaluate", "report"),
    }.items():
        source = artifacts[name]["taskOutputArtifact"]
        assert source["producerTask"] == LOOP
        outputs = sweep.spec["components"]["comp-" + LOOP]["dag"]["outputs"]["artifacts"]
        (selector,) = outputs[source["outputArtifactKey"]]["artifactSelectors"]
        assert selector == {"outputArtifactKey": output, "producerSubtask": step}


@each_file
def test_the_loop_hands_on_whatever_its_steps_refer_to(file: str) -> None:
    """KFP's compiler does not see to that by itself, and only a cluster would notice."""
    made = load(file)
    for step, task in made.tasks.items():
        for channel in task.get("inputs", {}).get("parameters", {}).values():
            name = channel.get("componentInputParameter", "")
            if name and not name.endswith("-loop-item"):
                made.parameter(step, channel)
        for name in re.findall(r"'componentInputParameter': '([^']*)'", str(made.pods[step])):
            made.parameter(step, {"componentInputParameter": name})


# The gate


@each_file
def test_the_gate_judges_what_another_step_has_left(file: str) -> None:
    made = load(file)
    inputs = made.tasks["gate"]["inputs"]
    judged = {"pipeline.yaml": ("report", "evaluate"), "sweep.yaml": ("selection", "select")}[file]
    source = inputs["artifacts"]["evaluation"]["taskOutputArtifact"]
    assert (source["outputArtifactKey"], source["producerTask"]) == judged
    least = inputs["parameters"]["min_accuracy"]
    assert made.parameter("gate", least) == "min_accuracy"


@each_file
def test_what_the_gate_let_pass_is_published_where_that_is_asked_for(file: str) -> None:
    made = load(file)
    group = made.inner[made.within["publish"]]
    assert {"gate", "download-bpe"} <= set(group["dependentTasks"])
    condition = group["triggerPolicy"]["condition"]
    assert condition == "inputs.parameter_values['pipelinechannel--publish_uri'] != ''"
    published = made.tasks["publish"]["inputs"]["artifacts"]["model"]["componentInputArtifact"]
    source = group["inputs"]["artifacts"][published]["taskOutputArtifact"]
    maker = {"pipeline.yaml": "train", "sweep.yaml": "select"}[file]
    assert (source["outputArtifactKey"], source["producerTask"]) == ("model", maker)


# Every step


@each_step
def test_cpu_and_memory_are_compiled_in_and_requests_equal_limits(file: str, step: str) -> None:
    resources = load(file).containers[step]["resources"]
    own = {*GPU_STEPS, "publish"}
    group = step if step in own else "small" if step in ONCE else "data"
    for kind in ("Request", "Limit"):
        for name, what in (("Cpu", "cpu"), ("Memory", "memory")):
            assert resources[f"resource{name}{kind}"] == VALUES[f"cluster_{group}_{what}"]


@each_step
def test_gpus_are_parameters_of_train_and_evaluate_only(file: str, step: str) -> None:
    made = load(file)
    accelerator = made.containers[step]["resources"].get("accelerator")
    if step not in GPU_STEPS:
        assert accelerator is None
        return
    assert accelerator["resourceType"] == VALUES["cluster_gpu_type"]
    count = accelerator["resourceCount"]
    if step == "train":
        assert made.referred(step, count) == "train_gpus"
    else:
        assert count == str(VALUES["cluster_evaluate_gpus"])


@each_gpu_step
def test_gpu_steps_have_shared_memory_and_their_place(file: str, step: str) -> None:
    made = load(file)
    (shm,) = made.pods[step]["emptyDirMounts"]
    assert (shm["mountPath"], shm["medium"]) == ("/dev/shm", "Memory")
    assert int(shm["sizeLimit"].removesuffix("Gi")) >= 1
    (toleration,) = made.pods[step]["tolerations"]
    assert toleration == TOLERATION


def test_gpu_steps_go_to_the_nodes_with_the_labels_that_are_asked_for() -> None:
    values = {**VALUES, "cluster_gpu_node_selector": {"pool": "a100"}}
    _, platforms = yaml.safe_load_all(compiled(values, images({})))
    pods = platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    labelled = {name for name, pod in pods.items() if "nodeSelector" in pod}
    assert labelled == {"exec-train", "exec-evaluate"}
    assert pods["exec-train"]["nodeSelector"]["labels"] == {"pool": "a100"}


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


@each_step
def test_a_failed_step_is_tried_again_for_days(file: str, step: str) -> None:
    made = load(file)
    if step in ONCE:
        assert "retryPolicy" not in made.tasks[step]
        return
    policy = made.tasks[step]["retryPolicy"]
    window = seconds(policy["backoffMaxDuration"])
    assert window >= 7 * DAY
    attempts = policy["maxRetryCount"] + 1
    assert attempts >= 3
    assert window >= attempts * int(made.pods[step]["activeDeadlineSeconds"])
    assert seconds(policy["backoffDuration"]) >= 10


@each_step
def test_an_attempt_has_a_time_limit(file: str, step: str) -> None:
    limit = int(load(file).pods[step]["activeDeadlineSeconds"])
    assert 3600 <= limit <= 7 * DAY
    if step == "train":
        assert limit >= 2 * DAY
        assert limit > DEADLINE  # it is there to tell that its nodes were too slow


@each_step
def test_what_comes_from_known_content_is_cached_and_nothing_else(file: str, step: str) -> None:
    cached = load(file).tasks[step]["cachingOptions"].get("enableCache", False)
    assert cached is (step in ("download-race", "preprocess"))  # RoBERTa has no known sha256


@each_file
@pytest.mark.parametrize(
    "step", ["download-race", "download-roberta", "download-bpe", "train", "publish"]
)
def test_credentials_come_from_a_secret_that_may_be_absent(file: str, step: str) -> None:
    made = load(file)
    secret, *other = made.pods[step]["secretAsEnv"]
    assert secret["optional"] is True
    tokens = [("race-hf", ["HF_TOKEN"], True)] * (step != "train")
    assert tokens == [
        (
            one["secretNameParameter"]["runtimeValue"]["constant"],
            [entry["envVar"] for entry in one["keyToEnv"]],
            one["optional"],
        )
        for one in other
    ]
    assert made.parameter(step, secret["secretNameParameter"]) == "s3_secret"
    variables = {entry["secretKey"]: entry["envVar"] for entry in secret["keyToEnv"]}
    assert variables.keys() >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"}
    assert all(key == variable for key, variable in variables.items())


@each_step
def test_the_pod_is_nobody_special_and_finds_its_image(file: str, step: str) -> None:
    made = load(file)
    pod = made.pods[step]
    assert pod["securityContext"] == {"runAsUser": "10001", "runAsNonRoot": True}
    assert pod["imagePullPolicy"] == "IfNotPresent"
    (secret,) = pod["imagePullSecret"]
    assert secret["secretName"] == VALUES["cluster_image_pull_secret"]


def test_the_user_is_the_one_of_the_images() -> None:
    pod = load("pipeline.yaml").pods["train"]
    for dockerfile in (ROOT / "docker").glob("*.Dockerfile"):
        users = re.findall(r"^USER (\S+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
        assert users[-1].partition(":")[0] == pod["securityContext"]["runAsUser"]


@each_file
def test_training_knows_its_run_and_steps_their_image(file: str) -> None:
    made = load(file)
    run_id = made.tasks["train"]["inputs"]["parameters"]["run_id"]
    assert run_id == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}
    for container in made.containers.values():
        assert {"name": "RACE_IMAGE", "value": container["image"]} in container["env"]


@each_file
def test_each_image_reference_comes_from_one_place(file: str) -> None:
    known = images({})
    for step, container in load(file).containers.items():
        wanted = known.train if step in {*GPU_STEPS, "publish"} else known.data
        assert container["image"] == wanted, step


@each_file
def test_steps_install_nothing_and_name_no_package(file: str) -> None:
    for container in load(file).containers.values():
        assert "pip install" not in " ".join(container["command"])


def test_the_image_references_can_be_replaced_and_pinned() -> None:
    pinned = f"registry.example.org/team/data@sha256:{'0' * 64}"
    text = compiled(
        resolve(load_config("roberta-large"), {}),
        images({"RACE_DATA_IMAGE": pinned, "RACE_IMAGE_PREFIX": "ghost.example.org/x"}),
    )
    found = set(re.findall(r"image: (\S+)", text))
    assert len(found) == 2
    assert pinned in found
    assert next(iter(found - {pinned})).startswith("ghost.example.org/x/race-pipeline-train:")


def declared(file: str) -> Any:
    return load(file).spec["root"]["inputDefinitions"]["parameters"]


@each_file
def test_inputs_have_the_config_s_values_and_a_description(file: str) -> None:
    known = inputs_of(file == "sweep.yaml")
    assert declared(file).keys() == {*known, *SETTINGS}
    for name, p in known.items():
        about = declared(file)[name]
        assert about["description"] == p.help, name
        assert about["defaultValue"] == VALUES[name], name
    for name in SETTINGS:
        assert declared(file)[name]["defaultValue"] == {}


@pytest.mark.parametrize(("file", "most"), [("pipeline.yaml", 40_000), ("sweep.yaml", 50_000)])
def test_it_is_small(file: str, most: int) -> None:
    """A workflow holds it several times, and may have 1 MB."""
    assert (ROOT / file).stat().st_size <= most


@each_file
def test_nothing_of_the_machine_that_compiled_it_is_in_it(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"
