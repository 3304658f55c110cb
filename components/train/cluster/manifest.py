"""The job that makes the nodes, as Kubernetes wants it: a TrainJob.

It refers to a ClusterTrainingRuntime (pipeline/manifests has ours), whose JobSet template it
completes: `spec.trainer` says what runs, `spec.runtimePatches` where. Its pods get torchrun's
PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT, from which a node knows its place
(components.train.node), so nobody else may set those.

Sources: the CRDs and the admission webhooks of Kubeflow Trainer 2.2 and 2.3 (kubeflow/trainer
pkg/apis/trainer/v1alpha1, pkg/runtime/framework/plugins).
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from components.common import strict_json
from components.common.cli import LOG_FORMAT_VARIABLE, arguments_of
from components.common.storage.client import S3_VARIABLES
from components.train.cluster.config import CA_FOLDER, SCRATCH_FOLDER, ClusterConfig
from components.train.config import TrainConfig

MODULE = "components.train"

# Written on a job: the digest of what was asked for, by which a later attempt knows it.
DIGEST = "race-pipeline/digest"
# Who owns our entry of runtimePatches; a path with a domain, as Trainer's webhook wants it.
MANAGER = "race-pipeline/train"

# A pod's name is its job's with "-node-0-12-abcde" behind it, and 63 at most.
MAX_NAME = 40

# Environment variables of this step that the nodes are to have as well.
HANDED_ON = ("RACE_REVISION", LOG_FORMAT_VARIABLE)


KIND, GROUP, VERSION, PLURAL = "TrainJob", "trainer.kubeflow.org", "v1alpha1", "trainjobs"
API_VERSION = f"{GROUP}/{VERSION}"
CONTAINER = "node"  # that trains, in each pod
JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"  # of the pods
KUEUE = "kueue.x-k8s.io/"
INSTALLED_BY = "Kubeflow Trainer 2.2 or later"


def rank_of(pod: Mapping[str, Any]) -> int | None:
    """Which node a pod is; None for one that is none."""
    index = pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-completion-index")
    return int(index) if index is not None else None


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
    spec = _spec(config, cluster, addresses, processes, environment)
    digest = hashlib.sha256(strict_json.dumps([API_VERSION, spec], sort_keys=True).encode())
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": job_name(config.checkpoint_uri),
            "labels": {
                **cluster.pod_labels,
                "app.kubernetes.io/name": "train",
                "app.kubernetes.io/part-of": "race-pipeline",
            },
            "annotations": {DIGEST: digest.hexdigest()},
        },
        "spec": spec,
    }


def _spec(
    config: TrainConfig,
    cluster: ClusterConfig,
    addresses: Addresses,
    processes: int,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    # A profile of Kubeflow gives pods a proxy, which never ends, and which NCCL does not get past.
    off = {"sidecar.istio.io/inject": "false"}
    # Kueue admits the job as a whole: its pods are not to wait in the queue each for itself.
    labels = {n: v for n, v in cluster.pod_labels.items() if not n.startswith(KUEUE)}
    about = {"labels": {**labels, **off}, "annotations": {**cluster.pod_annotations, **off}}
    node = {"metadata": about, "spec": _pod(cluster)}
    patch = {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": node}}}]}
    return {
        "runtimeRef": {
            "apiGroup": GROUP,
            "kind": "ClusterTrainingRuntime",
            "name": cluster.node_runtime,
        },
        "activeDeadlineSeconds": cluster.deadline,
        "trainer": {
            "image": cluster.image,
            **_command(config, addresses),
            "numNodes": config.num_nodes,
            "numProcPerNode": processes,
            "resourcesPerNode": _resources(cluster),
            "env": _environment(cluster, environment),
        },
        "runtimePatches": [
            {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": patch}}}
        ],
    }


def _command(config: TrainConfig, addresses: Addresses) -> dict[str, list[str]]:
    arguments = arguments_of(
        config, data=addresses.data, pretrained=addresses.pretrained, output=addresses.output
    )
    # Kubernetes would put the value of a variable in place of "$(NAME)".
    escaped = [argument.replace("$", "$$") for argument in arguments]
    return {"command": ["python", "-P", "-m", MODULE], "args": escaped}


def _resources(cluster: ClusterConfig) -> dict[str, dict[str, str]]:
    # Requests equal limits: the pod is then the last to be evicted when its node runs short.
    each = {"cpu": cluster.node_cpu, "memory": cluster.node_memory}
    if cluster.node_gpus:
        each[cluster.gpu_type] = str(cluster.node_gpus)
    return {"requests": each, "limits": each}


def _environment(cluster: ClusterConfig, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    plain = {**cluster.variables, "RACE_IMAGE": cluster.image}
    plain |= {name: environment[name] for name in HANDED_ON if environment.get(name)}
    found: list[dict[str, Any]] = [{"name": n, "value": value} for n, value in plain.items()]
    if cluster.s3_secret:
        for name in S3_VARIABLES:
            key = {"name": cluster.s3_secret, "key": name, "optional": True}
            found.append({"name": name, "valueFrom": {"secretKeyRef": key}})
    return found


def _pod(cluster: ClusterConfig) -> dict[str, Any]:
    volumes = _volumes(cluster)
    user = {} if cluster.run_as_user < 0 else {"runAsUser": cluster.run_as_user}
    pod: dict[str, Any] = {
        "containers": [
            {
                # Its variables may only be set in `trainer`, says Trainer's webhook.
                "name": CONTAINER,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": volume["name"], "mountPath": path} for path, volume in volumes.items()
                ],
            }
        ],
        "securityContext": {
            "runAsNonRoot": True,
            **user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": list(volumes.values()),
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


def _volumes(cluster: ClusterConfig) -> dict[str, dict[str, Any]]:
    """The volumes of a pod, by the path where it has them."""
    shm = {"medium": "Memory", "sizeLimit": cluster.shm_size}
    found: dict[str, dict[str, Any]] = {"/dev/shm": {"name": "shm", "emptyDir": shm}}
    # Fetched inputs, checkpoints and output are below /tmp until they are published.
    found[SCRATCH_FOLDER] = {"name": "tmp", "emptyDir": {}}
    if cluster.scratch_size:
        claim: dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": cluster.scratch_size}},
        }
        if cluster.scratch_class:
            claim["storageClassName"] = cluster.scratch_class
        template = {"volumeClaimTemplate": {"spec": claim}}
        found[SCRATCH_FOLDER] = {"name": "tmp", "ephemeral": template}
    if cluster.ca_config_map:
        found[CA_FOLDER] = {"name": "ca", "configMap": {"name": cluster.ca_config_map}}
    elif cluster.ca_secret:
        found[CA_FOLDER] = {"name": "ca", "secret": {"secretName": cluster.ca_secret}}
    return found
