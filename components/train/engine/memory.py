"""How many tokens to compute at once on a device, and how fast it can be."""

import os
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from components.train.engine.batch import PackedBatch
from components.train.engine.model import PackedRoberta

# Dense matrix products with 16-bit inputs and 32-bit sums, from the vendors' data sheets: how many
# operations per second, by a GPU's name without the words of `_PACKAGING`.
_PEAK_FLOPS = {
    "H200": 989e12,
    "H200 NVL": 835e12,
    "H100": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "A100": 312e12,
    "A100 PCIe": 312e12,
    "A10": 125e12,
    "A40": 150e12,
    "L4": 121e12,
    "L40": 181e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "T4": 65e12,
}

# Maker, line, memory and socket in a name, where they say nothing of the speed.
_PACKAGING = re.compile(r"NVIDIA|Tesla|GeForce|\d+GB|HBM\w+|SXM\d")

# On the CPU, larger micro-batches gain nothing any more.
_CPU_TOKENS = 1 << 14

_PROBE_QUESTIONS = 2


def peak_flops(name: str, dtype: torch.dtype) -> float:
    """Floating point operations a second of a GPU of this name in 16 bits; 0 if not known."""
    if dtype not in (torch.float16, torch.bfloat16):
        return 0.0
    words = [word for word in re.split(r"[ -]", name) if word and not _PACKAGING.fullmatch(word)]
    return _PEAK_FLOPS.get(" ".join(words).replace("PCIE", "PCIe"), 0.0)


@dataclass
class Budget:
    """How many tokens are computed at once: fewer after a full memory, and again more later.

    Every update has another shape, so that one that does not fit says little of the others. Each
    time that the memory was full, the wait until more is tried doubles.
    """

    tokens: int
    most: int
    wait: int = 50  # updates in a row that have to fit
    fitted: int = 0

    def failed(self, least: int) -> bool:
        """Halve it, to no less than `least`; False if it is as small already."""
        if self.tokens <= least:
            return False
        self.tokens, self.fitted = max(least, self.tokens // 2), 0
        self.wait = min(2 * self.wait, 10_000)
        return True

    def worked(self) -> bool:
        """Take note of an update that had room; whether it is larger from now on."""
        self.fitted += 1
        if self.tokens >= self.most or self.fitted < self.wait:
            return False
        self.tokens, self.fitted = min(self.most, 2 * self.tokens), 0
        return True


def token_budget(model: PackedRoberta, options: int) -> int:
    """How many tokens forward and backward have room for, beside what is allocated now.

    On a GPU, measured: a small micro-batch shows how much memory a token takes.
    """
    device = next(model.parameters()).device
    longest = model.max_positions()
    if device.type != "cuda":
        return _cpu_tokens(model, longest)
    probe = _probe(options, longest).to(device)
    _forward_and_backward(model, probe)  # the first one also loads kernels
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _forward_and_backward(model, probe)
    per_token = (torch.cuda.max_memory_allocated(device) - before) / len(probe.tokens)
    torch.cuda.empty_cache()
    free, _total = torch.cuda.mem_get_info(device)
    # A tenth is left to fragmentation, to the collectives and to the display.
    return max(len(probe.tokens) // _PROBE_QUESTIONS, int(0.9 * free / per_token))


def _forward_and_backward(model: PackedRoberta, probe: PackedBatch) -> None:
    scores: Tensor = model(probe)
    scores.float().sum().backward()  # type: ignore[no-untyped-call]


def _probe(options: int, longest: int) -> PackedBatch:
    sequences = options * _PROBE_QUESTIONS
    return PackedBatch(
        tokens=torch.full((sequences * longest,), 2),
        lengths=torch.full((sequences,), longest),
        options=options,
        ids=torch.arange(_PROBE_QUESTIONS),
    )


def _cpu_tokens(model: PackedRoberta, longest: int) -> int:
    """As many as a quarter of the free memory holds.

    Kept for the backward of each layer are, for each token, about 34 values of the model's width
    and its rows of the attention matrices with a byte of mask each (attention.py).
    """
    width, itemsize = model.tokens.shape[1], model.tokens.element_size()
    per_layer = 34 * width * itemsize + model.heads * longest * (itemsize + 1)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(_CPU_TOKENS, max(4 * longest, free // 4 // (len(model.layers) * per_layer)))
