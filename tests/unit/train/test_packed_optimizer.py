"""The packed optimizer's step in 16 bits: the bits of the plain one, in fewer kernels."""

import types
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from components.train import compat

compat.import_fairseq()

from components.train.engine import optimizer  # noqa: E402
from components.train.engine.optimizer import PackedAdam  # noqa: E402

SCALE = 48.0  # what gradients are divided by: its inverse is no power of two


class Kernels(TorchDispatchMode):
    """Counts the operations that reach a device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def adam(dtype: torch.dtype) -> PackedAdam:
    space = types.SimpleNamespace
    cfg = space(
        optimizer=space(lr=[1e-3], adam_betas=(0.9, 0.98), adam_eps=1e-6, weight_decay=0.01),
        common=space(
            fp16_scale_window=128,
            fp16_init_scale=4,
            fp16_scale_tolerance=0.0,
            threshold_loss_scale=1.0,
            min_loss_scale=1e-4,
        ),
    )
    weights = torch.randn(3000, generator=torch.Generator().manual_seed(1))
    return PackedAdam(cfg, [nn.Parameter(weights.to(dtype))])


def wide_step(adam: PackedAdam) -> None:
    """Widened by one kernel, scaled by another, all at once."""
    adam.steps += 1
    adam._adam(slice(None), adam.gradients.float().mul_(1 / SCALE))
    adam.weights.copy_(adam.master)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_a_step_in_pieces_of_one_kernel_has_the_same_bits(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer, "_PIECE", 1024)
    ours, plain = adam(dtype), adam(dtype)
    kernels = Kernels()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        size = ours.gradients.shape
        # From denormal values to ones near overflow.
        gradient = torch.randn(size, generator=generator) * 10.0 ** torch.empty(size).uniform_(
            -8, 4, generator=generator
        )
        for each in (ours, plain):
            each.gradients.copy_(gradient)
        with kernels:
            ours.step(scale=SCALE)
        wide_step(plain)
    for name in ("master", "weights", "exp_avg", "exp_avg_sq"):
        assert torch.equal(getattr(ours, name), getattr(plain, name)), name
    assert kernels.seen["mul"] == kernels.seen["_fused_adamw_"] == 3 * 20
    assert not {"_to_copy", "mul_"} & kernels.seen.keys()
