"""What a training on several nodes asks of a Kubernetes cluster."""

import re
from dataclasses import dataclass
from typing import Any

from components.common.cli import option
from components.common.errors import ConfigError
from components.train.config import TrainConfig

HOUR = 3600  # seconds

# Training's processes exchange batches and gradients through /dev/shm, which is 64 MiB by default.
# It counts as memory of the pod.
SHM_SIZE = "8Gi"

# An hour less than the pipeline leaves the step that waits for the job, so that this can tell.
DEADLINE = 71 * HOUR

# The user that both images run as.
USER = 10001

# A quantity and a name as Kubernetes writes them (apimachinery's resource.Quantity, RFC 1123).
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """The job that makes the nodes, and what each node's pod gets.

    The first fields are the pipeline's parameters too, `cluster_*` with the same names.

    Raises:
        ConfigError: a value cannot be right.
    """

    node_runtime: str = option("race-torch", help="the nodes' ClusterTrainingRuntime")
    node_cpu: str = option("32", help="CPUs of each node")
    node_memory: str = option("256Gi", help="memory of each node, /dev/shm included")
    node_gpus: int = option(8, help="GPUs of each node, one process on each")
    node_service_account: str = option(
        "", help="service account of the nodes; empty: their namespace's default"
    )
    gpu_type: str = option("nvidia.com/gpu", help="resource name of a GPU")
    gpu_node_selector: dict[str, str] = option({}, help="labels of the machines for the nodes")
    gpu_tolerations: list[Any] = option([], help="taints that they tolerate, as in Kubernetes")
    s3_secret: str = option("", help="Secret with AWS_ACCESS_KEY_ID and so on; it may be absent")
    image_pull_secret: str = option("", help="Secret for pulling the image; it may be absent")

    image: str = ""  # of this very step
    namespace: str = ""  # "": that of this pod, or of the kubeconfig's context
    shm_size: str = SHM_SIZE
    deadline: int = DEADLINE  # seconds

    def __post_init__(self) -> None:
        for name in ("node_cpu", "node_memory", "shm_size"):
            if not _QUANTITY.fullmatch(getattr(self, name)):
                raise ConfigError(
                    f"cluster_{name} is {getattr(self, name)!r}",
                    hint="Write it as Kubernetes does, such as 8 or 64Gi",
                )
        if self.node_gpus < 0:
            raise ConfigError(f"cluster_node_gpus is {self.node_gpus}", hint="Use 0 or more")
        names = ("s3_secret", "image_pull_secret", "node_service_account", "namespace")
        for name in ("node_runtime", *names):
            value = getattr(self, name)
            if not (_NAME.fullmatch(value) or (name in names and not value)):
                raise ConfigError(
                    f"cluster_{name} is {value!r}",
                    hint="Use small letters, digits, dots and hyphens, as Kubernetes does",
                )


@dataclass(frozen=True)
class NodesConfig(TrainConfig, ClusterConfig):
    """What to train, and the job that makes the nodes.

    Raises:
        ConfigError: a value is out of its range, or two contradict each other.
    """

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        ClusterConfig.__post_init__(self)
