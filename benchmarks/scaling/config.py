"""What the model is told: public figures of GPUs, and assumptions that can be replaced."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.common.cli import option
from components.common.errors import ConfigError

GB = 1e9
GPUS_PER_NODE = 8
HOUR = 3600.0  # seconds

GpuName = Literal["H200", "H100", "A100", "V100", "L4", "T4"]


@dataclass(frozen=True)
class Gpu:
    """Figures of NVIDIA's data sheets, and a price that is only an example.

    Args:
        peak: dense matrix products of 16-bit numbers with 32-bit sums, FLOP/s.
        memory: bandwidth of its memory, bytes/s.
        link: bandwidth to the other GPUs of a node, in one direction, bytes/s.
        joined: what that link is.
        price: of a GPU hour on demand, in dollars; assumed.
    """

    peak: float
    memory: float
    link: float
    joined: str
    price: float


# H100 and H200: SXM5. A100: SXM4 with 80 GB. V100: SXM2. Data sheets give links in both directions
# together, and those of the Hopper and Ada GPUs the peak with sparsity, which is twice the dense.
GPUS: Mapping[GpuName, Gpu] = {
    "H200": Gpu(989e12, 4800 * GB, 450 * GB, "NVLink 4", 4.00),
    "H100": Gpu(989e12, 3350 * GB, 450 * GB, "NVLink 4", 3.00),
    "A100": Gpu(312e12, 2039 * GB, 300 * GB, "NVLink 3", 2.00),
    "V100": Gpu(125e12, 900 * GB, 150 * GB, "NVLink 2", 1.50),
    "L4": Gpu(121e12, 300 * GB, 32 * GB, "PCIe 4 x16", 0.80),
    "T4": Gpu(65e12, 300 * GB, 16 * GB, "PCIe 3 x16", 0.40),
}


@dataclass(frozen=True)
class Assumptions:
    """What the model does not derive. Replace what you have measured.

    Raises:
        ConfigError: a value is out of its range.
    """

    gpu: GpuName = option("A100", help="whose figures of the data sheet are used")
    peak_share: float = option(
        0.4, help="share of the GPU's peak that forward and backward sustain"
    )
    throughput: float = option(
        0.0,
        help="questions a second of one GPU in updates of 16, as benchmarks/train_step.py prints;"
        " 0: from peak_share",
    )
    precision: Literal["fp16", "bf16", "fp32"] = option(
        "fp16", help="of the parameters, and so of the gradients that are reduced"
    )
    memory_share: float = option(0.8, help="share of the memory's bandwidth that a step sustains")
    link: float = option(0.0, help="GB/s of a GPU to its node, one way; 0: the data sheet's")
    link_share: float = option(0.7, help="share of it that an all-reduce sustains")
    link_latency: float = option(5e-6, help="seconds of a step of a ring within a node")
    network: float = option(100.0, help="Gb/s of a node, one way")
    network_share: float = option(0.85, help="share of it that an all-reduce sustains")
    network_latency: float = option(25e-6, help="seconds of a step of a ring between nodes")
    reduce: Literal["hierarchical", "ring"] = option(
        "hierarchical", help="an all-reduce within nodes and then between them, or one flat ring"
    )
    launch: float = option(8e-6, help="seconds in which the host issues one kernel")
    kernels: int = option(55, help="of a layer, forward and backward")
    host: float = option(2e-3, help="seconds of an update in which no kernel runs")
    start: float = option(
        210.0, help="seconds from asking for nodes to the first update: node, image, data, model"
    )
    detect: float = option(60.0, help="seconds until a loss is noticed and the rest has ended")
    checkpoint_rate: float = option(
        0.25, help="GB/s at which a checkpoint is written while training waits"
    )
    store_rate: float = option(0.25, help="GB/s at which it is published, and fetched")
    interval: int = option(1000, help="updates between checkpoints, besides each epoch's; 0: none")
    price: float = option(0.0, help="of a GPU hour on demand, in dollars; 0: the example's")
    spot_share: float = option(0.4, help="price of a spot GPU as a share of that on demand")
    losses: tuple[float, ...] = option(
        (1 / 24, 1 / 4, 1.0), help="losses of a spot node in an hour"
    )
    questions_per_gpu: int = option(
        4, help="questions of an update for each GPU, where the effective batch may grow"
    )
    seeds: int = option(5, help="independent runs of a sweep")
    random_seed: int = option(1, help="of the lengths and of the simulation")
    runs: int = option(4000, help="runs that are simulated for each row")

    def __post_init__(self) -> None:
        for name in ("peak_share", "memory_share", "link_share", "network_share", "spot_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}", mend="It must be above 0 and at most 1"
                )
        above = ("network", "checkpoint_rate", "store_rate")
        at_least = {name: 0.0 for name in ("throughput", "link", "price", "host", "launch")}
        at_least |= {name: 0.0 for name in ("link_latency", "network_latency", "start", "detect")}
        at_least |= {"interval": 0, "random_seed": 0}
        at_least |= {"kernels": 1, "questions_per_gpu": 1, "seeds": 1, "runs": 2}
        for name, least in at_least.items():
            if not least <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}", mend=f"It must be at least {least:g}"
                )
        for name in above:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", mend="It must be above 0")
        for rate in self.losses:
            if not 0 < rate < math.inf:
                raise ConfigError(f"losses has {rate}", mend="They must be above 0")

    @property
    def of_gpu(self) -> Gpu:
        return GPUS[self.gpu]

    @property
    def gpu_hour(self) -> float:
        """Dollars on demand."""
        return self.price or self.of_gpu.price


@dataclass(frozen=True)
class Output:
    """What the program writes besides the tables on the terminal."""

    plots: Path | None = option(None, help="folder for the plots of these assumptions")
    write: bool = option(False, help="write docs/scaling.md and docs/scaling/ anew")
    check: bool = option(False, help="fail if docs/scaling.md or docs/scaling/ are not up to date")
