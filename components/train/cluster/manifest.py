"""The job that makes the nodes, as Kubernetes wants it: a TrainJob or a PyTorchJob.

A TrainJob refers to a ClusterTrainingRuntime (pipeline/manifests has ours), whose JobSet template
it completes: `spec.trainer` says what runs, `spec.runtimePatches` where. A PyTorchJob says all of
it itself. Either gives its pods torchrun's PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and
PET_MASTER_PORT, from which a node knows its place (components.train.node), so nobody else may set
those.

Sources: the CRDs and the admission webhooks of Kubeflow Trainer 2.2 and 2.3
(kubeflow/trainer pkg/apis/trainer/v1alpha1, pkg/runtime/framework/plugins) and of the training
operator 1.9 (kubeflow/training-operator pkg/controller.v1).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.common.cli import LOG_FORMAT_VARIABLE, arguments_of
from components.common.storage.client import S3_VARIABLES
from components.train.cluster.config import USER, ClusterConfig
from components.train.config import TrainConfig

MODULE = "components.train"

# Written on a job: the digest of what was asked for, by which a later attempt knows it.
DIGEST = "race-pipeline/digest"
# Who owns our entry of runtimePatches; a path with a domain, as Trainer's webhook wants it.
MANAGER = "race-pipeline/train"

# A pod's name is its job's with "-node-0-12-abcde" or "-worker-12" behind it, and 63 at most.
MAX_NAME = 40

# What node 0 takes over the network for its checkpoint after SIGTERM, and for its own end.
GRACE_SECONDS = 60

# Environment variables of this step that the nodes are to have as well.
HANDED_ON = ("RACE_REVISION", LOG_FORMAT_VARIABLE)


@dataclass(frozen=True)
class Kind:
    """A kind of job: what it is called in the API, and by which labels its pods are known."""

    name: str
    group: str
    version: str
    plural: str
    container: str  # that trains, in each pod
    job_label: str
    installed_by: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}"

    @property
    def resource(self) -> str:
        return f"{self.plural}.{self.group}"

    def rank(self, pod: Mapping[str, Any]) -> int | None:
        """Which node a pod is; None for one that is none."""
        about = pod["metadata"]
        # Kubernetes has the index as an annotation too, and before 1.28 only there.
        marks = {**about.get("annotations", {}), **about.get("labels", {})}
        index = marks.get("batch.kubernetes.io/job-completion-index")
        if self is PYTORCHJOB:
            master = marks.get("training.kubeflow.org/replica-type") == "master"
            index = marks.get("training.kubeflow.org/replica-index")
            return 0 if master else int(index) + 1 if index is not None else None
        return int(index) if index is not None else None


TRAINJOB = Kind(
    "TrainJob",
    "trainer.kubeflow.org",
    "v1alpha1",
    "trainjobs",
    "node",
    "jobset.sigs.k8s.io/jobset-name",
    "Kubeflow Trainer 2.2 or later",
)
PYTORCHJOB = Kind(
    "PyTorchJob",
    "kubeflow.org",
    "v1",
    "pytorchjobs",
    "pytorch",
    "training.kubeflow.org/job-name",
    "Kubeflow's training operator 1.7 or later",
)
KINDS = {"trainjob": TRAINJOB, "pytorchjob": PYTORCHJOB}


class Addresses:
    """Where the nodes find what they need and leave what they made: s3:// addresses.

    They are beside a training's checkpoints, where nobody looks for checkpoints.
    """

    def __init__(self, checkpoint_uri: str) -> None:
        self.place = f"{checkpoint_uri.rstrip('/')}-nodes"
        self.data = f"{self.place}/data"
        self.pretrained = f"{self.place}/pretrained"
        self.output = f"{self.place}/output"


def job_name(checkpoint_uri: str) -> str:
    """The same for each attempt at one training, another one for any other.

    In a pipeline the address has the run's id in it, and so is of that run alone.
    """
    digest = hashlib.sha256(checkpoint_uri.rstrip("/").encode()).hexdigest()[:10]
    last = checkpoint_uri.rstrip("/").rpartition("/")[2].lower()
    readable = re.sub(r"[^a-z0-9]+", "-", last)[: MAX_NAME - len(f"race--{digest}")].strip("-")
    return f"race-{readable or 'train'}-{digest}"


def job(
    config: TrainConfig,
    cluster: ClusterConfig,
    addresses: Addresses,
    *,
    processes: int,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """The job for a training.

    Args:
        processes: on each node.
        environment: of this step; the nodes get some of it.
    """
    kind = KINDS[cluster.node_job]
    make = _trainjob if kind is TRAINJOB else _pytorchjob
    spec = make(config, cluster, addresses, processes, environment)
    digest = hashlib.sha256(json.dumps([kind.api_version, spec], sort_keys=True).encode())
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {
            "name": job_name(config.checkpoint_uri),
            "labels": {
                "app.kubernetes.io/name": "train",
                "app.kubernetes.io/part-of": "race-pipeline",
            },
            "annotations": {DIGEST: digest.hexdigest()},
        },
        "spec": spec,
    }


def _trainjob(
    config: TrainConfig,
    cluster: ClusterConfig,
    addresses: Addresses,
    processes: int,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    pod = _pod(cluster)
    # The variables of this container may only be set in `trainer`, says Trainer's webhook.
    container = {
        "name": TRAINJOB.container,
        "securityContext": _container_security(),
        "volumeMounts": _mounts(),
    }
    node = {"metadata": _pod_metadata(), "spec": {**pod, "containers": [container]}}
    patch = {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": node}}}]}
    return {
        "runtimeRef": {
            "apiGroup": TRAINJOB.group,
            "kind": "ClusterTrainingRuntime",
            "name": cluster.node_runtime,
        },
        "activeDeadlineSeconds": cluster.deadline,
        "trainer": {
            "image": cluster.image,
            **_command(config, addresses),
            "numNodes": config.nodes,
            "numProcPerNode": processes,
            "resourcesPerNode": _resources(cluster),
            "env": _environment(cluster, environment),
        },
        "runtimePatches": [
            {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": patch}}}
        ],
    }


def _pytorchjob(
    config: TrainConfig,
    cluster: ClusterConfig,
    addresses: Addresses,
    processes: int,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    container = {
        "name": PYTORCHJOB.container,
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        **_command(config, addresses),
        "resources": _resources(cluster),
        "env": _environment(cluster, environment),
        "securityContext": _container_security(),
        "volumeMounts": _mounts(),
    }
    pod = {
        **_pod(cluster),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": config.stop_timeout + GRACE_SECONDS,
        "containers": [container],
    }
    # A lost node has to restart all of them, since torchrun's group is a fixed one. The operator
    # has no word for that, but this does it: the nodes that are left cannot reach the lost one and
    # end with an error, and on an error a container is started again where it was.
    replica = {
        "restartPolicy": "OnFailure",
        "template": {"metadata": _pod_metadata(), "spec": pod},
    }
    return {
        "nprocPerNode": str(processes),
        "runPolicy": {
            "activeDeadlineSeconds": cluster.deadline,
            # It counts the restarts of all containers together.
            "backoffLimit": cluster.restarts * config.nodes,
            # The log of node 0 is read to its end; then the job is deleted.
            "cleanPodPolicy": "None",
        },
        "pytorchReplicaSpecs": {
            "Master": {"replicas": 1, **replica},
            "Worker": {"replicas": config.nodes - 1, **replica},
        },
    }


def _command(config: TrainConfig, addresses: Addresses) -> dict[str, list[str]]:
    arguments = arguments_of(
        config, data=addresses.data, pretrained=addresses.pretrained, output=addresses.output
    )
    # Kubernetes would put the value of a variable in place of "$(NAME)".
    escaped = [argument.replace("$", "$$") for argument in arguments]
    return {"command": ["python", "-m", MODULE], "args": escaped}


def _resources(cluster: ClusterConfig) -> dict[str, dict[str, str]]:
    # Requests equal limits: the pod is then the last to be evicted when its node runs short.
    each = {"cpu": cluster.node_cpu, "memory": cluster.node_memory}
    if cluster.node_gpus:
        each[cluster.gpu_type] = str(cluster.node_gpus)
    return {"requests": each, "limits": each}


def _environment(cluster: ClusterConfig, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    plain = {"RACE_IMAGE": cluster.image}
    plain |= {name: environment[name] for name in HANDED_ON if environment.get(name)}
    found: list[dict[str, Any]] = [{"name": n, "value": value} for n, value in plain.items()]
    if cluster.s3_secret:
        for name in S3_VARIABLES:
            key = {"name": cluster.s3_secret, "key": name, "optional": True}
            found.append({"name": name, "valueFrom": {"secretKeyRef": key}})
    return found


def _pod(cluster: ClusterConfig) -> dict[str, Any]:
    """What a pod of either kind has, besides its container."""
    pod: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shm_size}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if cluster.gpu_node_selector:
        pod["nodeSelector"] = dict(cluster.gpu_node_selector)
    if cluster.gpu_tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in cluster.gpu_tolerations]
    if cluster.image_pull_secret:
        pod["imagePullSecrets"] = [{"name": cluster.image_pull_secret}]
    if cluster.node_service_account:
        pod["serviceAccountName"] = cluster.node_service_account
    return pod


def _mounts() -> list[dict[str, str]]:
    # Fetched inputs, checkpoints and the output are below /tmp until they are published.
    return [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"}]


def _container_security() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _pod_metadata() -> dict[str, dict[str, str]]:
    # A profile of Kubeflow gives pods a proxy, which never ends, and which NCCL does not get past.
    off = {"sidecar.istio.io/inject": "false"}
    return {"labels": off, "annotations": off}
