"""What a platform engineer sets: in the compiled pipelines, and what is refused beforehand."""

from typing import Any

import pytest
import yaml
from kfp import dsl, kubernetes

from components.common.errors import ConfigError
from pipeline.images import images
from pipeline.parameters import inputs_of, load_config, parameters, resolve
from pipeline.pipeline import compiled

DATA_STEPS = {"download-race", "download-roberta", "download-bpe", "preprocess", "binarize"}
SET = {
    "cluster_environment": {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".svc,.local"},
    "cluster_ca_config_map": "company-ca",
    "cluster_ca_key": "bundle.pem",
    "cluster_run_as_user": -1,
    "cluster_pod_labels": {"kueue.x-k8s.io/queue-name": "team"},
    "cluster_pod_annotations": {"sidecar.istio.io/inject": "false"},
    "cluster_cpu_node_selector": {"pool": "cpu"},
    "cluster_gpu_node_selector": {"pool": "a100"},
    "cluster_scratch_size": "200Gi",
    "cluster_scratch_class": "fast",
    "cluster_drop_downs": True,
    "cluster_ttl": 86400,
}


class Compiled:
    def __init__(self, config: str, given: dict[str, Any]) -> None:
        values = resolve(load_config(config), given)
        spec, platforms = yaml.safe_load_all(compiled(values, images({}), sweep=False))
        self.inputs = spec["root"]["inputDefinitions"]["parameters"]
        self.kubernetes = platforms["platforms"]["kubernetes"]
        pods = self.kubernetes["deploymentSpec"]["executors"]
        self.pods: Any = {n.removeprefix("exec-"): pod for n, pod in pods.items()}
        executors = spec["deploymentSpec"]["executors"]
        self.containers = {n.removeprefix("exec-"): e["container"] for n, e in executors.items()}

    def environment(self, step: str) -> dict[str, str]:
        return {v["name"]: v["value"] for v in self.containers[step]["env"]}


@pytest.fixture(scope="module")
def made() -> Compiled:
    return Compiled("roberta-large", SET)


@pytest.fixture(scope="module")
def smoke() -> Compiled:
    return Compiled("smoke", {"race_url": "s3://b/r", "cluster_ca_secret": "company-ca"})


def test_choices_become_drop_downs_where_that_is_asked_for(made: Compiled, smoke: Compiled) -> None:
    offered = {name: p["literals"] for name, p in made.inputs.items() if "literals" in p}
    assert offered == {"precision": list(parameters()["precision"].choices or ())}
    assert not any("literals" in p for p in smoke.inputs.values())


def test_what_concerns_the_platform_is_no_input(made: Compiled) -> None:
    assert not [name for name in made.inputs if name.startswith("cluster_")]
    assert {parameters()[name].kind for name in SET} == {"platform"}
    assert not inputs_of(True).keys() & SET.keys()


def test_every_pod_has_the_proxy_and_trusts_the_authority(made: Compiled) -> None:
    for step, pod in made.pods.items():
        environment = made.environment(step)
        assert SET["cluster_environment"].items() <= environment.items()
        trusted = {environment[n] for n in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")}
        (mount,) = pod["configMapAsVolume"]
        assert trusted == {f"{mount['mountPath']}/bundle.pem"}
        assert mount["configMapName"] == "company-ca"
        assert "secretAsVolume" not in pod


def test_the_authority_may_be_a_secret_s(smoke: Compiled) -> None:
    for pod in smoke.pods.values():
        (mount,) = pod["secretAsVolume"]
        assert mount["secretName"] == "company-ca"
    assert smoke.environment("train")["SSL_CERT_FILE"] == f"{mount['mountPath']}/ca.crt"


def test_only_the_steps_that_use_s3_have_its_secret(made: Compiled) -> None:
    downloads = {name for name in DATA_STEPS if name.startswith("download")}
    assert {n for n, pod in made.pods.items() if "secretAsEnv" in pod} == {
        *downloads,
        "train",
        "publish",
    }
    tokens = {n for n, pod in made.pods.items() if "race-hf" in str(pod.get("secretAsEnv"))}
    assert tokens == {*downloads, "publish"}


def test_the_user_may_be_left_to_the_cluster(made: Compiled) -> None:
    assert all(p["securityContext"] == {"runAsNonRoot": True} for p in made.pods.values())


def test_every_pod_has_the_labels_and_annotations(made: Compiled) -> None:
    for pod in made.pods.values():
        assert pod["podMetadata"] == {
            "labels": SET["cluster_pod_labels"],
            "annotations": SET["cluster_pod_annotations"],
        }


def test_each_step_goes_to_the_nodes_of_its_kind(made: Compiled) -> None:
    places = {n: pod["nodeSelector"]["labels"]["pool"] for n, pod in made.pods.items()}
    assert places == {n: "a100" if n in ("train", "evaluate") else "cpu" for n in made.pods}


def test_big_steps_have_a_volume_of_their_own(made: Compiled) -> None:
    assert {n for n, p in made.pods.items() if "genericEphemeralVolume" not in p} == {"gate"}
    (volume,) = made.pods["preprocess"]["genericEphemeralVolume"]
    assert volume == {
        "volumeName": "scratch",
        "mountPath": "/tmp",
        "accessModes": ["ReadWriteOnce"],
        "size": "200Gi",
        "storageClassName": "fast",
    }


def test_the_workflow_goes_when_it_is_old(made: Compiled, smoke: Compiled) -> None:
    assert str(86400) in str(made.kubernetes["pipelineConfig"])
    assert "pipelineConfig" not in smoke.kubernetes


def amount(quantity: str) -> float:
    units = {"m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30}
    digits = quantity.rstrip("mMiG")
    return float(digits) * units.get(quantity[len(digits) :], 1)


def test_smoke_fits_a_node_of_two_cpus_and_8_gib(smoke: Compiled) -> None:
    for container in smoke.containers.values():
        resources = container["resources"]
        assert amount(resources["resourceCpuRequest"]) <= 1
        assert amount(resources["resourceMemoryRequest"]) <= 4 << 30


def test_the_gate_asks_for_little(made: Compiled) -> None:
    resources = made.containers["gate"]["resources"]
    assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("200m", "256Mi")


def test_kfp_still_lacks_what_the_documentation_says_it_lacks() -> None:
    settings = [*kubernetes.__all__, *dir(dsl.PipelineTask)]
    assert not [n for n in settings if "priority" in n or "ephemeral_storage" in n]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("cluster_data_memory", "lots", "cluster_data_memory is 'lots'. Write it as Kubernetes"),
        ("cluster_train_memory", "64", "such as 512Mi or 64Gi"),
        ("cluster_small_cpu", "200 m", "cluster_small_cpu is '200 m'"),
        ("cluster_evaluate_cpu", "4Gi", "cluster_evaluate_cpu is '4Gi'"),
        ("cluster_node_memory", "many", "cluster_node_memory is 'many'"),
        ("cluster_scratch_size", "big", "cluster_scratch_size is 'big'"),
        ("cluster_image_pull_secret", "My Secret", "cluster_image_pull_secret is 'My Secret'"),
        ("s3_secret", "my_secret", "s3_secret is 'my_secret'. Use small letters"),
        ("s3_secret", "a..b", "s3_secret is 'a..b'"),
        ("cluster_ca_secret", "company.ca", "63 at most: a volume is called by it"),
        ("cluster_ca_key", "../key", "one of its keys"),
        ("cluster_gpu_type", "gpu of mine", "such as nvidia.com/gpu"),
        ("cluster_gpu_node_selector", {"pool!": "a100"}, "'pool!' is no key"),
        ("cluster_cpu_node_selector", {"pool": 1}, "pool: the value of a label is text"),
        ("cluster_pod_labels", {"a/b/c": "x"}, "'a/b/c' is no key"),
        ("cluster_pod_labels", {"queue": "x y"}, "queue: the value of a label"),
        ("cluster_pod_annotations", {"a": True}, "a: the value of an annotation is text"),
        ("cluster_environment", {"no-proxy": "x"}, "'no-proxy' is no name of a variable"),
        ("cluster_environment", {"A": 1}, "A: the value of a variable is text"),
        ("cluster_environment", {"RACE_IMAGE": "x"}, "is set by the pipeline itself"),
        ("cluster_gpu_tolerations", ["gpu"], "Each is a JSON object"),
        ("cluster_gpu_tolerations", [{"toleration_seconds": 1}], "'toleration_seconds' is none of"),
        ("cluster_gpu_tolerations", [{"key": 1}], "key is 1"),
        ("cluster_gpu_tolerations", [{"key": "a", "operator": "In"}], "operator 'In' is none of"),
        ("cluster_gpu_tolerations", [{"key": "a", "effect": "No"}], "effect 'No' is none of"),
        ("cluster_gpu_tolerations", [{"key": "a b"}], "'a b' is no key"),
        (
            "cluster_gpu_tolerations",
            [{"key": "a", "operator": "Exists", "value": "x"}],
            "operator Exists takes no value",
        ),
        ("cluster_gpu_tolerations", [{"effect": "NoExecute"}], "has to be Exists"),
        (
            "cluster_gpu_tolerations",
            [{"key": "a", "tolerationSeconds": 5}],
            "tolerationSeconds wants effect NoExecute",
        ),
        ("cluster_run_as_user", 0, "root is refused"),
        ("cluster_ttl", -1, "cluster_ttl is -1"),
        ("train_gpus", -1, "train_gpus is -1"),
        ("checkpoint_uri", "gs://bucket/x", "train: checkpoint_uri: gs://bucket/x/run: gs:// is"),
        ("publish_uri", "gs://bucket/x", "publish: publish_uri: gs://"),
        ("resume_from", "gs://bucket/x", "train: resume_from: gs://"),
        ("mirror_uri", "gs://bucket/x", "download-race: mirror_uri: gs://"),
        ("effective_batch_size", 15, "train: effective_batch_size 15 does not divide over 2"),
        ("train_gpus", 3, "train: effective_batch_size 16 does not divide over 3 processes"),
        ("train_gpus", 0, "train: precision fp16 needs a GPU"),
        ("train_processes", 4, "train: processes is 4, but 2 GPUs"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused_at_once(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve(load_config("roberta-large"), {name: value})
    assert says in str(raised.value)


def test_an_authority_is_in_one_place() -> None:
    given = {"cluster_ca_secret": "a", "cluster_ca_config_map": "b"}
    with pytest.raises(ConfigError, match="both given"):
        resolve(load_config("smoke"), given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cluster_data_memory", "1.5Gi"),
        ("cluster_data_memory", "2147483648"),
        ("cluster_data_cpu", "0.5"),
        ("cluster_image_pull_secret", "team.registry"),
        ("cluster_gpu_tolerations", []),
        ("cluster_gpu_tolerations", [{"operator": "Exists"}]),
        (
            "cluster_gpu_tolerations",
            [{"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 60}],
        ),
        ("cluster_gpu_node_selector", {"cloud.google.com/gke-accelerator": "nvidia-a100"}),
        ("checkpoint_uri", "s3://bucket"),
        ("train_processes", 1),
        ("effective_batch_size", 64),
    ],
)
def test_what_a_cluster_takes_is_taken(name: str, value: Any) -> None:
    assert resolve(load_config("roberta-large"), {name: value})[name] == value


def test_a_run_here_has_the_gpus_that_are_here() -> None:
    roberta = load_config("roberta-large")
    assert resolve(roberta, {"train_processes": 8}, here=True)["train_gpus"] == 2
    assert resolve(roberta, {"precision": "fp32", "train_gpus": 0}, here=True)
    with pytest.raises(ConfigError, match="does not divide over 3 processes"):
        resolve(roberta, {"train_processes": 3}, here=True)
    with pytest.raises(ConfigError, match="does not divide over 1 process of batch_size 3"):
        resolve(roberta, {"train_batch_size": 3}, here=True)
    with pytest.raises(ConfigError, match="cluster_data_memory is 'lots'"):
        resolve(roberta, {"cluster_data_memory": "lots"}, here=True)
