"""What a training on several nodes asks of a Kubernetes cluster."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.common import kubernetes
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

# Where a pod finds the authorities that it is to trust, and who reads that: boto3, requests, and by
# Python's and Go's own libraries everything else, KFP's launcher too.
CA_FOLDER = "/etc/race-ca"
CA_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")

SCRATCH_FOLDER = "/tmp"


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

    environment: dict[str, str] = option(
        {}, help='variables of each pod, such as {"HTTPS_PROXY": "http://proxy:3128"}; no secrets'
    )
    ca_config_map: str = option(
        "", help="ConfigMap with the authorities that pods trust, for https and S3"
    )
    ca_secret: str = option("", help="or a Secret with them")
    ca_key: str = option("ca.crt", help="which of its entries: certificates in PEM")
    run_as_user: int = option(
        USER, least=-1, help="user of the pods; -1 leaves it to the cluster, as OpenShift wants"
    )
    pod_labels: dict[str, str] = option(
        {}, help='labels of each pod, such as {"kueue.x-k8s.io/queue-name": "team"}'
    )
    pod_annotations: dict[str, str] = option({}, help="annotations of each pod")
    scratch_size: str = option(
        "",
        help="size of a volume for /tmp of each big step, such as 200Gi, made with its pod and"
        " removed with it; empty: the node's own disk",
    )
    scratch_class: str = option("", help="its StorageClass; empty: the cluster's default")

    image: str = ""  # of this very step
    namespace: str = ""  # "": that of this pod, or of the kubeconfig's context
    shm_size: str = SHM_SIZE
    deadline: int = DEADLINE  # seconds

    def __post_init__(self) -> None:
        for name, wrong in _CHECKS.items():
            optional = self.__dataclass_fields__[name].default == ""
            called = name if name == "s3_secret" else f"cluster_{name}"
            kubernetes.require(called, getattr(self, name), wrong, empty=optional)
        if self.node_gpus < 0:
            raise ConfigError(f"cluster_node_gpus is {self.node_gpus}", hint="Use 0 or more")
        if self.run_as_user == 0 or self.run_as_user < -1:
            raise ConfigError(
                f"cluster_run_as_user is {self.run_as_user}",
                hint="Use 1 or more, for root is refused, or -1 to leave it to the cluster",
            )
        if self.ca_config_map and self.ca_secret:
            raise ConfigError(
                "cluster_ca_config_map and cluster_ca_secret are both given", hint="Give one"
            )

    @property
    def ca_file(self) -> str:
        """Path of the authorities' certificates in a pod; "" where none are given."""
        return f"{CA_FOLDER}/{self.ca_key}" if self.ca_config_map or self.ca_secret else ""

    @property
    def variables(self) -> dict[str, str]:
        """What stands in the environment of each pod."""
        trusted = {name: self.ca_file for name in CA_VARIABLES if self.ca_file}
        return {**trusted, **self.environment}


_CHECKS: Mapping[str, Callable[[Any], str]] = {
    "node_cpu": kubernetes.cpu,
    "node_memory": kubernetes.memory,
    "shm_size": kubernetes.memory,
    "scratch_size": kubernetes.memory,
    "node_runtime": kubernetes.name,
    "node_service_account": kubernetes.name,
    "namespace": kubernetes.name,
    "s3_secret": kubernetes.name,
    "image_pull_secret": kubernetes.name,
    "scratch_class": kubernetes.name,
    "ca_config_map": kubernetes.volume,
    "ca_secret": kubernetes.volume,
    "ca_key": kubernetes.file,
    "gpu_type": kubernetes.resource,
    "gpu_node_selector": kubernetes.labels,
    "gpu_tolerations": kubernetes.tolerations,
    "environment": kubernetes.environment,
    "pod_labels": kubernetes.labels,
    "pod_annotations": kubernetes.annotations,
}


@dataclass(frozen=True)
class NodesConfig(TrainConfig, ClusterConfig):
    """What to train, and the job that makes the nodes.

    Raises:
        ConfigError: a value is out of its range, or two contradict each other.
    """

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        ClusterConfig.__post_init__(self)
