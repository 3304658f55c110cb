"""How many tokens to compute at once on a device, and how fast it can be."""

import os

import torch
from torch import Tensor

from components.train.engine.batch import PackedBatch
from components.train.engine.model import PackedRoberta

# Dense matrix products with 16-bit inputs and 32-bit sums, from the vendors' data sheets: the
# longest part of a GPU's name that is a key, and operations per second.
_PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "A100": 312e12,
    "A10": 125e12,
    "A40": 150e12,
    "L4": 121e12,
    "L40": 181e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}

# On the CPU, larger micro-batches gain nothing any more.
_CPU_TOKENS = 1 << 14

_PROBE_QUESTIONS = 2


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of a known GPU in 16 bits; 0 where it is not known."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return 0.0
    name = torch.cuda.get_device_name(device)
    known = [key for key in _PEAK_FLOPS if key in name]
    return _PEAK_FLOPS[max(known, key=len)] if known else 0.0


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
