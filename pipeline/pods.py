"""What each step's pod gets of a Kubernetes cluster, through KFP's settings of a task."""

from collections.abc import Mapping
from typing import Any

from kfp import kubernetes

from components.common.hub import TOKEN
from components.common.storage.client import S3_VARIABLES
from components.train.cluster.config import (
    CA_FOLDER,
    SCRATCH_FOLDER,
    SHM_SIZE,
    ClusterConfig,
)
from pipeline.platform import cluster_config
from pipeline.steps import Step


def give_resources(task: Any, step: Step, values: Mapping[str, Any], p: Mapping[str, Any]) -> None:
    """CPUs, memory, GPUs and disk."""
    cpu, memory = (values[f"cluster_{step.resources}_{what}"] for what in ("cpu", "memory"))
    # Requests equal limits: the pod is then the last to be evicted when its node runs short.
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    if step.gpus:
        count = p[step.gpus] if step.gpus in p else values[step.gpus]
        task.set_accelerator_type(values["cluster_gpu_type"]).set_accelerator_limit(count)
        if step.gpus in p:
            # KFP's compiler overlooks resources when it gathers the parameters that a loop needs.
            task.register_pipeline_channels([count])
        kubernetes.empty_dir_mount(
            task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=SHM_SIZE
        )
    if values["cluster_scratch_size"] and step.resources != "small":
        kubernetes.add_ephemeral_volume(
            task,
            volume_name="scratch",
            mount_path=SCRATCH_FOLDER,
            access_modes=["ReadWriteOnce"],
            size=values["cluster_scratch_size"],
            storage_class_name=values["cluster_scratch_class"] or None,
        )


def give_place(task: Any, step: Step, values: Mapping[str, Any]) -> None:
    """Which nodes it may run on, and what others see of it."""
    kind = "gpu" if step.gpus else "cpu"
    for label, value in values[f"cluster_{kind}_node_selector"].items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in values["cluster_gpu_tolerations"] if step.gpus else ():
        seconds = toleration.get("tolerationSeconds")
        own = {k: v for k, v in toleration.items() if k != "tolerationSeconds"}
        kubernetes.add_toleration(task, **own, toleration_seconds=seconds)
    for label, value in values["cluster_pod_labels"].items():
        kubernetes.add_pod_label(task, label, value)
    for name, value in values["cluster_pod_annotations"].items():
        kubernetes.add_pod_annotation(task, name, value)


def give_access(task: Any, step: Step, values: Mapping[str, Any], p: Mapping[str, Any]) -> None:
    """Secrets, the proxy and the authorities that it trusts; and as whom it runs."""
    if step.reads_stores:
        kubernetes.use_secret_as_env(
            task,
            secret_name=p["s3_secret"],
            secret_key_to_env={name: name for name in S3_VARIABLES},
            optional=True,
        )
    if step.reads_hub:
        kubernetes.use_secret_as_env(
            task,
            secret_name=values["cluster_hf_secret"],
            secret_key_to_env={TOKEN: TOKEN},
            optional=True,
        )
    cluster = cluster_config(values)
    _trust(task, cluster)
    for name, value in cluster.variables.items():
        task.set_env_variable(name, value)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_image_pull_secrets(task, [values["cluster_image_pull_secret"]])
    # KFP itself drops all capabilities, forbids privilege escalation and sets a seccomp profile.
    user = None if cluster.run_as_user < 0 else cluster.run_as_user
    kubernetes.set_security_context(task, run_as_user=user, run_as_non_root=True)


def _trust(task: Any, cluster: ClusterConfig) -> None:
    if cluster.ca_config_map:
        kubernetes.use_config_map_as_volume(task, cluster.ca_config_map, CA_FOLDER)
    elif cluster.ca_secret:
        kubernetes.use_secret_as_volume(task, cluster.ca_secret, CA_FOLDER)
