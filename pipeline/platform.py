"""What a cluster gives the steps: fixed when the pipeline is compiled, and no input of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.common import kubernetes
from components.common.cli import option, options
from components.common.errors import ConfigError
from components.train.cluster.config import ClusterConfig
from components.train.config import TrainConfig, plan, update_freq_of


@dataclass(frozen=True)
class Platform:
    """What a cluster gives, as `cluster_<name>`, besides what ClusterConfig says of nodes.

    Raises:
        ConfigError: a value is none that Kubernetes takes.
    """

    data_cpu: str = option("1", help="CPUs of each data step")
    data_memory: str = option("2Gi", help="memory of each data step")
    small_cpu: str = option("200m", help="CPUs of the steps that only compare figures")
    small_memory: str = option("256Mi", help="memory of the steps that only compare figures")
    train_cpu: str = option("8", help="CPUs of train")
    train_memory: str = option("64Gi", help="memory of train, /dev/shm included")
    evaluate_cpu: str = option("4", help="CPUs of evaluate")
    evaluate_memory: str = option("32Gi", help="memory of evaluate")
    publish_cpu: str = option("2", help="CPUs of publish")
    publish_memory: str = option("8Gi", help="memory of publish: three times the model's weights")
    evaluate_gpus: int = option(1, help="GPUs of evaluate")
    gpu_node_selector: dict[str, str] = option(
        {}, help='labels of the nodes for train and evaluate, such as {"pool": "a100"}'
    )
    cpu_node_selector: dict[str, str] = option({}, help="labels of the nodes for all other steps")
    gpu_tolerations: list[Any] = option(
        [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        help="taints that train and evaluate tolerate: a list of Kubernetes tolerations",
    )
    image_pull_secret: str = option(
        "race-registry",
        help="Secret for pulling the images; it may be absent where none is needed",
    )
    hf_secret: str = option(
        "race-hf",
        help="Secret with HF_TOKEN, for hf:// addresses; it may be absent where none is needed",
    )
    drop_downs: bool = option(
        False,
        help="let the Kubeflow Pipelines page offer choices, such as those of precision, in a list;"
        " it wants a server of 2.16 or later",
    )
    ttl: int = option(
        0,
        help="seconds after which a run that has ended is removed from Kubernetes, pods and all;"
        " 0 leaves it to the cluster",
    )

    def __post_init__(self) -> None:
        checks: dict[str, Callable[[Any], str]] = {
            "_cpu": kubernetes.cpu,
            "_memory": kubernetes.memory,
            "cpu_node_selector": kubernetes.labels,
        }
        for name, value in vars(self).items():
            for ending, wrong in checks.items():
                if name.endswith(ending):
                    kubernetes.require(f"cluster_{name}", value, wrong)
        for name in ("evaluate_gpus", "ttl"):
            if getattr(self, name) < 0:
                raise ConfigError(f"cluster_{name} is {getattr(self, name)}", hint="Use 0 or more")


def cluster_config(values: Mapping[str, Any]) -> ClusterConfig:
    """What each pod gets, and each node where there are several.

    Raises:
        ConfigError: a value cannot be right.
    """
    return ClusterConfig(**_own(ClusterConfig, values))


def require_platform(values: Mapping[str, Any], train: TrainConfig, *, here: bool) -> None:
    """See that a cluster would take these values, and that the training fits its GPUs.

    Args:
        train: the step's config with these values.
        here: whether the run is on this machine, whose GPUs nobody has counted yet.

    Raises:
        ConfigError: it would not, or does not.
    """
    Platform(**_own(Platform, values))
    cluster = cluster_config(values)
    if values["train_gpus"] < 0:
        raise ConfigError(f"train_gpus is {values['train_gpus']}", hint="Use 0 or more")
    gpus = values["train_gpus"]
    if train.num_nodes > 1:
        if gpus:
            raise ConfigError(
                f"with train_num_nodes {train.num_nodes} the train step only waits for the nodes,"
                f" and its {gpus} GPUs would be idle",
                hint="Set train_gpus to 0; each node gets cluster_node_gpus",
            )
        gpus = cluster.node_gpus
    try:
        if here:
            update_freq_of(train, train.processes or 1)
        else:
            plan(train, gpus=0 if train.device == "cpu" else gpus, questions=1 << 40)
    except ConfigError as error:
        raise ConfigError(f"train: {error.what}", hint=error.hint) from error


def _own(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    known = {n.removeprefix("cluster_"): v for n, v in values.items()}
    return {o.name: known[o.name] for o in options(config)}
