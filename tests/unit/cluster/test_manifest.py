"""TrainJob and the manifests fit the published schemas, and say what they should.

The schemas are those of Kubeflow's own API package, which is generated from the OpenAPI description
of its CRDs: kubeflow-trainer-api, of the oldest Trainer that will do. They leave out some of what
the CRDs check; that is added here.
"""

import copy
import dataclasses
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubeflow_trainer_api.models as trainer
import kubernetes.client.models as core
import pytest
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from components.common.cli import config_of, parser
from components.common.errors import LASTING
from components.common.storage.client import S3_VARIABLES
from components.train.cluster.api import Api
from components.train.cluster.config import USER, ClusterConfig
from components.train.cluster.manifest import (
    DIGEST,
    MAX_NAME,
    Addresses,
    job,
    job_name,
)
from components.train.config import TrainConfig

MANIFESTS = Path(__file__).parents[3] / "pipeline" / "manifests"

# What the CRDs check and the models do not; lists by their longest (trainjob_types.go,
# manifests/base/crds), texts by all that they may be (also k8s.io/api's types).
LONGEST = {"command": 128, "args": 128, "env": 128, "runtimePatches": 16, "replicatedJobs": 100}
ONE_OF = {
    "restartPolicy": ("Always", "OnFailure", "Never", "ExitCode"),
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "medium": ("", "Memory"),
    "completionMode": ("Indexed", "NonIndexed"),
    "effect": ("", "NoSchedule", "PreferNoSchedule", "NoExecute"),
    "operator": ("", "Exists", "Equal", "In", "NotIn"),
    "action": (
        *("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
        *("FailJob", "FailIndex", "Ignore", "Count"),
    ),
}
NAME = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"


class SchemaError(Exception):
    pass


def valid(model: Any, value: Any, path: str = "") -> None:
    """Check a value against a model, strictly.

    The models let unknown fields pass, which a cluster drops or refuses.

    Raises:
        SchemaError: a field is unknown, missing or of the wrong type.
    """
    kind, arguments = typing.get_origin(model), typing.get_args(model)
    if kind in (typing.Union, types.UnionType):
        (model,) = (a for a in arguments if a is not type(None))
        valid(model, value, path)
    elif kind is typing.Annotated:
        try:
            TypeAdapter(model).validate_python(value, strict=True)
        except ValidationError as error:
            raise SchemaError(f"{path}: {error}") from error
    elif kind in (list, dict):
        if type(value) is not kind:
            raise SchemaError(f"{path}: {value!r} is no {kind.__name__}")
        for key, item in value.items() if kind is dict else enumerate(value):
            valid(arguments[-1], item, f"{path}.{key}")
    elif model is Any:
        pass
    elif "actual_instance" in getattr(model, "model_fields", {}):  # one of several types
        try:
            model(value)
        except ValueError as error:
            raise SchemaError(f"{path}: {error}") from error
    elif isinstance(model, type) and issubclass(model, BaseModel):
        fields = {f.alias or name: f for name, f in model.model_fields.items()}
        required = {name for name, f in fields.items() if f.is_required()}
        known = {n: (f.rebuild_annotation(), n in required) for n, f in fields.items()}
        _object(known, value, path, valid)
    else:
        TypeAdapter(model).validate_python(value, strict=True)


def valid_openapi(model: str, value: Any, path: str = "") -> None:
    """As `valid`, for the other generation of models, which name their types in words."""
    if match := re.fullmatch(r"list\[(.*)\]|dict\(str, (.*)\)", model):
        kind = list if match[1] else dict
        if type(value) is not kind:
            raise SchemaError(f"{path}: {value!r} is no {kind.__name__}")
        for key, item in value.items() if kind is dict else enumerate(value):
            valid_openapi(match[1] or match[2], item, f"{path}.{key}")
    elif plain := {"str": str, "int": int, "bool": bool}.get(model):
        if type(value) is not plain:
            raise SchemaError(f"{path}: {value!r} is no {model}")
    else:
        found = getattr(core, model)
        names = found.attribute_map
        known = {
            alias: (found.openapi_types[name], _required(found, name))
            for name, alias in names.items()
        }
        _object(known, value, path, valid_openapi)


def _required(model: Any, name: str) -> bool:
    """Whether a model refuses to be without a value."""
    try:
        getattr(model, name).fset(
            types.SimpleNamespace(
                local_vars_configuration=types.SimpleNamespace(client_side_validation=True)
            ),
            None,
        )
    except ValueError:
        return True
    return False


def _object(
    known: dict[str, tuple[Any, bool]],
    value: Any,
    path: str,
    valid: Callable[[Any, Any, str], None],
) -> None:
    if not isinstance(value, dict):
        raise SchemaError(f"{path}: {value!r} is no object")
    if unknown := value.keys() - known.keys():
        raise SchemaError(f"{path}: unknown field {sorted(unknown)[0]}")
    for name, (model, required) in known.items():
        if name in value:
            valid(model, value[name], f"{path}.{name}")
            if name in ONE_OF and value[name] not in ONE_OF[name]:
                raise SchemaError(f"{path}.{name}: {value[name]!r} is none of {ONE_OF[name]}")
            if len(value[name] if name in LONGEST else ()) > LONGEST.get(name, 0):
                raise SchemaError(f"{path}.{name}: more than {LONGEST[name]}")
        elif required:
            raise SchemaError(f"{path}: {name} is missing")


SCHEMAS: dict[str, Callable[[Any], None]] = {
    "TrainJob": lambda body: valid(trainer.TrainerV1alpha1TrainJob, body),
    "ClusterTrainingRuntime": lambda body: valid(
        trainer.TrainerV1alpha1ClusterTrainingRuntime, body
    ),
    "Secret": lambda body: valid_openapi("V1Secret", body),
    "ServiceAccount": lambda body: valid_openapi("V1ServiceAccount", body),
    **{
        kind: lambda body, kind=kind: valid_openapi(f"V1{kind}", body)  # type: ignore[misc]
        for kind in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
    },
}


def check(body: Any) -> None:
    if "apiVersion" not in body or "kind" not in body:
        raise SchemaError("apiVersion or kind is missing")
    if not re.fullmatch(NAME, body["metadata"]["name"]):
        raise SchemaError(f"{body['metadata']['name']!r} is no name")
    SCHEMAS[body["kind"]](body)


@pytest.fixture
def body(config: TrainConfig, cluster: ClusterConfig) -> Callable[..., Any]:
    def make(**changes: Any) -> Any:
        ours = {k: v for k, v in changes.items() if hasattr(config, k)}
        theirs = {k: v for k, v in changes.items() if k not in ours}
        a_config = dataclasses.replace(config, **ours)
        return job(
            a_config,
            dataclasses.replace(cluster, **theirs),
            Addresses(a_config.checkpoint_uri),
            processes=2,
            environment={"RACE_REVISION": "abc", "RACE_LOG_FORMAT": "json", "SECRET": "canary"},
        )

    return make


def runtime() -> Any:
    return yaml.safe_load((MANIFESTS / "runtime.yaml").read_text())


BARE = {
    "node_service_account": "",
    "gpu_node_selector": {},
    "gpu_tolerations": [],
    "s3_secret": "",
    "image_pull_secret": "",
    "node_gpus": 0,
}


SET = {
    "environment": {"HTTPS_PROXY": "http://proxy:3128"},
    "ca_config_map": "company-ca",
    "run_as_user": -1,
    "pod_labels": {"team": "nlp", "kueue.x-k8s.io/queue-name": "nlp"},
    "pod_annotations": {"note": "ours"},
    "scratch_size": "200Gi",
    "scratch_class": "fast",
}
BY_SECRET = {"ca_secret": "company-ca", "scratch_size": "1Gi"}


@pytest.mark.parametrize(
    "changes", [{}, BARE, SET, BY_SECRET], ids=["all", "bare", "set", "by secret"]
)
def test_a_job_fits_its_published_schema(body, changes) -> None:
    check(body(**changes))


def test_the_runtime_fits_its_published_schema() -> None:
    check(runtime())


def at(value: Any, *path: Any) -> Any:
    for step in path:
        value = value[step]
    return value


NODE = ("replicatedJobs", 0, "template", "spec", "template", "spec")
PATCH = ("spec", "runtimePatches", 0, "trainingRuntimeSpec", "template", "spec", *NODE)
RUNTIME = ("spec", "template", "spec")


@pytest.mark.parametrize(
    ("kind", "path", "name", "value"),
    [
        ("trainjob", ("spec",), "runtimePatch", []),  # a misspelt field
        ("trainjob", ("spec", "trainer"), "numProcsPerNode", 2),
        ("trainjob", PATCH, "shareProcessNamespace", True),  # one that may not be patched
        ("trainjob", (*PATCH, "containers", 0), "image", "image"),
        ("trainjob", (*PATCH, "tolerations", 0), "operation", "Exists"),
        ("trainjob", ("spec", "trainer"), "numNodes", "3"),  # a wrong type
        ("trainjob", ("spec", "trainer"), "args", "--epochs=1"),
        ("trainjob", ("spec", "trainer", "args"), 0, 1),
        ("trainjob", ("spec", "trainer", "env", 0), "value", 1),
        ("trainjob", ("spec", "trainer", "resourcesPerNode", "limits"), "cpu", ["8"]),
        ("trainjob", (*PATCH, "securityContext"), "runAsUser", "10001"),
        ("trainjob", (*PATCH, "nodeSelector"), "pool", True),
        ("trainjob", ("spec",), "runtimeRef", {"kind": "ClusterTrainingRuntime"}),  # one missing
        ("trainjob", (*PATCH, "containers"), 0, {"volumeMounts": []}),
        ("trainjob", ("spec", "runtimePatches"), 0, {}),
        ("trainjob", ("spec", "trainer"), "args", ["--x"] * 129),  # too many
        ("trainjob", (*PATCH, "volumes", 0, "emptyDir"), "medium", "RAM"),  # none of those
        ("trainjob", ("metadata",), "name", "0-race"),
        ("trainjob", ("metadata",), "name", "race-" + "x" * 60),
        ("runtime", (*RUNTIME, "failurePolicy"), "maxRestart", 3),
        ("runtime", (*RUNTIME, "failurePolicy"), "maxRestarts", "3"),
        ("runtime", (*RUNTIME, "failurePolicy", "rules", 0), "action", "Fail"),
        ("runtime", (*RUNTIME, "failurePolicy", "rules"), 0, {"action": "FailJobSet"}),
        ("runtime", (*RUNTIME, "network"), "publishNotReadyAddress", True),
        ("runtime", (*RUNTIME, *NODE), "restartPolicy", "no"),
        ("runtime", ("spec", "mlPolicy"), "pytorch", {}),
    ],
)
def test_the_schemas_refuse_what_is_wrong(body, kind, path, name, value) -> None:
    wrong = runtime() if kind == "runtime" else copy.deepcopy(body())
    at(wrong, *path)[name] = value
    with pytest.raises(SchemaError):
        check(wrong)


# What Trainer's and Kubernetes' webhooks refuse, though the schemas allow it


def test_variables_of_the_node_are_set_where_they_may_be(body) -> None:
    made = body()
    assert "env" not in at(made, *PATCH)["containers"][0]
    names = [variable["name"] for variable in made["spec"]["trainer"]["env"]]
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("PET_")]  # those are Trainer's


def test_only_what_the_runtime_has_is_patched(body) -> None:
    theirs = at(runtime(), *RUNTIME)["replicatedJobs"]
    (patch,) = body()["spec"]["runtimePatches"]
    patched = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert [one["name"] for one in patched] == [one["name"] for one in theirs] == ["node"]
    containers = at(theirs[0], *NODE[2:])["containers"]
    assert [c["name"] for c in at(body(), *PATCH)["containers"]] == [c["name"] for c in containers]
    assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*/.+", patch["manager"])


def test_volumes_of_runtime_and_patch_are_the_same_ones(body) -> None:
    """Two of different names at one place would be refused."""
    theirs, ours = at(runtime(), *RUNTIME, *NODE), at(body(), *PATCH)
    for pod in (theirs, ours):
        mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"shm": "/dev/shm", "tmp": "/tmp"}
    assert theirs["volumes"] == ours["volumes"]


def test_a_job_may_have_a_pod_failure_policy() -> None:
    spec = at(runtime(), *RUNTIME, *NODE[:4])
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == sorted(LASTING)


def test_a_lost_node_restarts_the_group() -> None:
    assert at(runtime(), *RUNTIME)["failurePolicy"]["maxRestarts"] == 10


def test_the_runtime_leaves_node_0_time_for_its_last_checkpoint() -> None:
    assert at(runtime(), *RUNTIME, *NODE)["terminationGracePeriodSeconds"] == 180
    default = {f.name: f.default for f in dataclasses.fields(TrainConfig)}["stop_timeout"]
    assert default + 60 == 180  # to publish it, and for its own end


# What the job says


def pod_of(made: Any) -> Any:
    return at(made, *PATCH)


def container_of(made: Any) -> Any:
    """The container as it will be, with what a TrainJob says elsewhere."""
    (container,) = pod_of(made)["containers"]
    said = made["spec"]["trainer"]
    return {**container, **said, "resources": said["resourcesPerNode"]}


def test_the_command_is_the_step_s_own_with_all_its_parameters(body, config) -> None:
    given = {"epochs": 3, "save_optimizer": True, "keep_last": False}
    given["resume_from"] = "s3://bucket/$(X)"
    made = container_of(body(**given))
    assert made["command"] == ["python", "-P", "-m", "components.train"]
    # Kubernetes puts the values of variables in place of $(NAME), and $ in place of $$.
    arguments = [a.replace("$$", "$") for a in made["args"]]
    assert not re.search(r"(?<!\$)\$\(", " ".join(made["args"]))
    flags = parser(TrainConfig, prog="train", description="").parse_args(arguments)
    read = config_of(TrainConfig, flags)
    place = Addresses(config.checkpoint_uri)
    expected = dataclasses.replace(
        config,
        data=Path(place.data),
        pretrained=Path(place.pretrained),
        output=Path(place.output),
        **given,
    )
    assert read == expected


def test_a_node_gets_resources_gpus_shared_memory_and_its_place(body) -> None:
    made = body()
    asked = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert container_of(made)["resources"] == {"requests": asked, "limits": asked}
    pod = pod_of(made)
    assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert pod["nodeSelector"] == {"pool": "a100"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["imagePullSecrets"] == [{"name": "race-registry"}]
    assert pod["serviceAccountName"] == "race-nodes"


def test_what_was_not_asked_for_is_left_out(body) -> None:
    made = body(**BARE)
    asked = {"cpu": "8", "memory": "64Gi"}
    assert container_of(made)["resources"] == {"requests": asked, "limits": asked}
    absent = {"nodeSelector", "tolerations", "imagePullSecrets", "serviceAccountName"}
    assert not absent & pod_of(made).keys()
    assert [v["name"] for v in container_of(made)["env"]] == [
        "RACE_IMAGE",
        "RACE_REVISION",
        "RACE_LOG_FORMAT",
    ]


@pytest.mark.parametrize("kind", ["trainjob", "runtime"])
def test_a_node_is_nobody_special(body, kind) -> None:
    pod = at(runtime(), *RUNTIME, *NODE) if kind == "runtime" else pod_of(body())
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    if kind != "trainjob":  # which may not say it; the runtime does
        assert pod["automountServiceAccountToken"] is False


def test_a_node_has_what_every_pod_has(body) -> None:
    made = body(**SET)
    environment = {v["name"]: v.get("value") for v in container_of(made)["env"]}
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"
    assert environment["SSL_CERT_FILE"] == environment["AWS_CA_BUNDLE"] == "/etc/race-ca/ca.crt"
    pod = pod_of(made)
    assert "runAsUser" not in pod["securityContext"]
    assert pod["volumes"][1]["ephemeral"]["volumeClaimTemplate"]["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "200Gi"}},
        "storageClassName": "fast",
    }
    assert pod["volumes"][2] == {"name": "ca", "configMap": {"name": "company-ca"}}
    assert [m["mountPath"] for m in pod["containers"][0]["volumeMounts"]] == [
        "/dev/shm",
        "/tmp",
        "/etc/race-ca",
    ]


def test_kueue_s_queue_is_the_job_s_and_not_each_pod_s(body) -> None:
    made = body(**SET)
    assert SET["pod_labels"].items() <= made["metadata"]["labels"].items()
    (patch,) = made["spec"]["runtimePatches"]
    (group,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    about = group["template"]["spec"]["template"]["metadata"]
    assert about["labels"] == {"team": "nlp", "sidecar.istio.io/inject": "false"}
    assert about["annotations"]["note"] == "ours"


def test_credentials_come_from_the_secret_and_nothing_else_of_this_step(body) -> None:
    made = container_of(body())
    references = {v["name"]: v["valueFrom"] for v in made["env"] if "valueFrom" in v}
    assert references == {
        name: {"secretKeyRef": {"name": "race-s3", "key": name, "optional": True}}
        for name in S3_VARIABLES
    }
    assert {v["name"]: v["value"] for v in made["env"] if "value" in v} == {
        "RACE_IMAGE": made["image"],
        "RACE_REVISION": "abc",
        "RACE_LOG_FORMAT": "json",
    }
    assert "canary" not in str(made)


def test_a_trainjob_has_its_nodes_and_processes(body) -> None:
    spec = body()["spec"]
    assert (spec["trainer"]["numNodes"], spec["trainer"]["numProcPerNode"]) == (3, 2)
    assert spec["runtimeRef"]["name"] == runtime()["metadata"]["name"] == "race-torch"
    assert spec["activeDeadlineSeconds"] == 71 * 3600


# Its identity


def test_the_same_training_has_the_same_name_and_digest(body) -> None:
    assert body() == body()


@pytest.mark.parametrize(
    "change", [{"epochs": 9}, {"num_nodes": 2}, {"node_memory": "1Gi"}, {"image": "another"}]
)
def test_another_training_has_another_digest(body, change) -> None:
    digests = {made["metadata"]["annotations"][DIGEST] for made in (body(), body(**change))}
    assert len(digests) == 2


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/race/0c5e3a41-52ee-4f0b-9d1e-6f2f3f5b7a10",
        "s3://bucket/race/0c5e3a41-52ee-4f0b-9d1e-6f2f3f5b7a10/seed-1-lr-1e-05",
        "s3://b/" + "x" * 300,
        "s3://b/Ünïcödé_Name.7/",
        "s3://b/---",
    ],
)
def test_a_name_is_one_that_pods_and_their_labels_can_have(uri) -> None:
    name = job_name(uri)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= MAX_NAME
    assert len(f"{name}-node-0-63-abcde") <= 63
    assert name == job_name(uri + "/")


def test_trainings_at_different_places_have_different_names() -> None:
    trials = [f"s3://bucket/{run}/{trial}" for run in ("a", "b") for trial in ("seed-1", "seed-2")]
    assert len({job_name(uri) for uri in trials}) == len(trials)


# The manifests


def resources(folder: Path) -> list[Any]:
    """What a kustomization lists, as it lies there."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization["kind"] == "Kustomization"
    return [
        document
        for name in kustomization["resources"]
        for document in yaml.safe_load_all((folder / name).read_text())
    ]


@pytest.mark.parametrize("folder", [MANIFESTS, MANIFESTS / "namespace"], ids=lambda p: p.name)
def test_all_that_a_kustomization_lists_is_there_and_valid(folder: Path) -> None:
    found = resources(folder)
    assert found
    for document in found:
        check(document)
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    there = {p.name for p in folder.glob("*.yaml")} - {"kustomization.yaml"}
    # What a user copies and fills in.
    assert there - set(listed) <= {"s3-secret.example.yaml", "inference-service.yaml"}


def test_the_example_of_a_secret_has_all_variables_and_no_value() -> None:
    secret = yaml.safe_load((MANIFESTS / "namespace" / "s3-secret.example.yaml").read_text())
    check(secret)
    assert tuple(secret["stringData"]) == S3_VARIABLES
    assert all("REPLACE" in value for value in secret["stringData"].values())


def rights(role: Any) -> set[tuple[str, str, str]]:
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_role_gives_what_the_step_asks_for_and_no_more(kubernetes) -> None:
    Api().require_access("race-torch")
    asked = {
        (r["verb"], r["group"], "/".join(filter(None, (r["resource"], r["subresource"]))))
        for r in kubernetes.reviews
    }
    by_kind = {d["kind"]: d for d in resources(MANIFESTS) + resources(MANIFESTS / "namespace")}
    assert rights(by_kind["Role"]) | rights(by_kind["ClusterRole"]) == asked


def test_the_service_account_is_said_in_one_place() -> None:
    namespace = yaml.safe_load((MANIFESTS / "namespace" / "kustomization.yaml").read_text())
    (patch,) = namespace["patches"]
    ((operation,),) = [yaml.safe_load(patch["patch"])]
    by_kind = {d["kind"]: d for d in resources(MANIFESTS / "namespace")}
    binding = by_kind["RoleBinding"]
    assert patch["target"] == {"kind": "RoleBinding", "name": binding["metadata"]["name"]}
    assert operation["path"] == "/subjects/0/name"
    assert binding["subjects"][0] == {"kind": "ServiceAccount", "name": operation["value"]}
    assert binding["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
