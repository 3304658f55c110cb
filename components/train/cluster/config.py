"""What a training on several nodes asks of a Kubernetes cluster."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.common.errors import ConfigError

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


@dataclass(frozen=True)
class ClusterConfig:
    """The job that makes the nodes, and what each node's pod gets.

    The first fields are the pipeline's parameters `cluster_*`, by the same names.

    Raises:
        ConfigError: a value cannot be right.
    """

    node_runtime: str  # a ClusterTrainingRuntime
    node_cpu: str
    node_memory: str  # /dev/shm included
    node_gpus: int
    node_service_account: str  # "": the namespace's default
    gpu_type: str  # resource name of a GPU
    gpu_node_selector: Mapping[str, str]
    gpu_tolerations: Sequence[Mapping[str, Any]]
    s3_secret: str  # both may be absent from the cluster
    image_pull_secret: str

    image: str = ""  # of this very step
    namespace: str = ""  # "": that of this pod, or of the kubeconfig's context
    shm_size: str = SHM_SIZE
    deadline: int = DEADLINE  # seconds

    def __post_init__(self) -> None:
        for name in ("node_cpu", "node_memory", "shm_size"):
            if not _QUANTITY.fullmatch(getattr(self, name)):
                raise ConfigError(
                    f"cluster_{name} is {getattr(self, name)!r}",
                    mend="Write it as Kubernetes does, such as 8 or 64Gi",
                )
        if self.node_gpus < 0:
            raise ConfigError(f"cluster_node_gpus is {self.node_gpus}", mend="Use 0 or more")
        names = ("s3_secret", "image_pull_secret", "node_service_account", "namespace")
        for name in ("node_runtime", *names):
            value = getattr(self, name)
            if not (_NAME.fullmatch(value) or (name in names and not value)):
                raise ConfigError(
                    f"cluster_{name} is {value!r}",
                    mend="Use small letters, digits, dots and hyphens, as Kubernetes does",
                )
