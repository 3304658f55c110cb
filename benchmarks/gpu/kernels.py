"""Attention's kernels against a loop over sequences in float64, and its dropout."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.setting import Setting, require
from components.train import compat

compat.import_fairseq()

from components.train.engine.attention import Layout, attention  # noqa: E402

HEADS, WIDTH = 4, 64
DROPOUT = 0.1
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Largest error allowed, as a share of the reference's norm: some roundings of each type.
ALLOWED = {"fp16": 4e-3, "bf16": 3e-2, "fp32": 5e-5}
RAGGED = (512, 1, 77, 2, 512, 129, 384, 31)


def kernels(setting: Setting) -> dict[str, Any]:
    torch.backends.cuda.matmul.allow_tf32 = False
    figures: dict[str, Any] = {}
    for precision in ("fp32", "bf16") if setting.rehearse else TYPES:
        dtype = TYPES[precision]
        for first_only in (False, True):
            errors = without_dropout(setting.device, dtype, RAGGED, first_only)
            name = f"{precision}_{'first' if first_only else 'all'}_tokens"
            setting.tell(**{name: (figures := figures | {name: errors})[name]})
            require(max(errors.values()) < ALLOWED[precision], f"{name}: errors of {errors}")
        dropped = with_dropout(setting.device, dtype)
        figures |= {f"{precision}_dropout": dropped}
        setting.tell(**figures)
        for name in ("output", "query", "key", "value"):
            require(dropped[name] < ALLOWED[precision], f"{precision}: dropout's {name}: {dropped}")
        require(abs(dropped["sigmas"]) < 5, f"{precision}: the share kept is off: {dropped}")
        require(abs(dropped["mean"] - 1) < 0.01, f"{precision}: the mean is off: {dropped}")
    return figures


def without_dropout(
    device: str, dtype: torch.dtype, lengths: Sequence[int], first_only: bool
) -> dict[str, float]:
    """Relative errors of the output and of the three gradients."""
    keys = Layout.of(torch.tensor(lengths), torch.device(device))
    queries = keys.of_first_tokens() if first_only else keys
    query, key, value = _inputs(device, dtype, sum(queries.lengths), sum(keys.lengths))
    output = attention(query, key, value, queries, keys, 0.0)
    direction = torch.randn(output.shape, device=device).to(dtype)
    output.backward(direction)
    return _errors(output, (query, key, value), queries, keys, direction, mask=None)


def with_dropout(device: str, dtype: torch.dtype) -> dict[str, float]:
    """The same with dropout, whose mask is read off where the values are the identity; the share
    kept in standard deviations from the one asked for; and the mean of a sum of dropped weights."""
    lengths = [WIDTH, 1, 33, 64] * 16
    layout = Layout.of(torch.tensor(lengths), torch.device(device))
    query, key, value = _inputs(device, dtype, sum(lengths), sum(lengths))
    with torch.no_grad():
        rows = [torch.eye(WIDTH, dtype=dtype, device=device)[:length] for length in lengths]
        value.copy_(torch.cat(rows)[:, None].expand_as(value))
    output = attention(query, key, value, layout, layout, DROPOUT)
    direction = torch.randn(output.shape, device=device).to(dtype)
    output.backward(direction)
    mask = [
        (part[:, :, :length] != 0).transpose(0, 1).double() / (1 - DROPOUT)
        for part, length in zip(output.detach().split(lengths), lengths, strict=True)
    ]
    kept = sum(float((part > 0).sum()) for part in mask)
    count = sum(part.numel() for part in mask)
    errors = _errors(output, (query, key, value), layout, layout, direction, mask)
    errors["sigmas"] = (kept / count - (1 - DROPOUT)) / math.sqrt(DROPOUT * (1 - DROPOUT) / count)
    with torch.no_grad():
        long = Layout.of(torch.tensor([512] * 4), torch.device(device))
        q, k, v = (x.detach() for x in _inputs(device, dtype, 2048, 2048))
        sums = attention(q, k, torch.ones_like(v), long, long, DROPOUT)
        errors["mean"] = float(sums.double().mean())
    return errors


def _inputs(device: str, dtype: torch.dtype, queries: int, keys: int) -> tuple[Tensor, ...]:
    return tuple(
        torch.randn(count, HEADS, WIDTH, device=device).to(dtype).requires_grad_()
        for count in (queries, keys, keys)
    )


def _errors(
    output: Tensor,
    inputs: tuple[Tensor, ...],
    queries: Layout,
    keys: Layout,
    direction: Tensor,
    mask: list[Tensor] | None,
) -> dict[str, float]:
    wide = [x.detach().double().requires_grad_() for x in inputs]
    parts = zip(
        wide[0].split(queries.lengths),
        wide[1].split(keys.lengths),
        wide[2].split(keys.lengths),
        strict=True,
    )
    found = []
    for place, (q, k, v) in enumerate(part for part in parts):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        weights = torch.softmax(q @ k.transpose(1, 2) * WIDTH**-0.5, -1)
        weights = weights if mask is None else weights * mask[place]
        found.append((weights @ v).transpose(0, 1))
    expected = torch.cat(found)
    gradients = torch.autograd.grad(expected, wide, direction.double())
    return {"output": relative(output, expected)} | {
        name: relative(x.grad, gradient)
        for name, x, gradient in zip(("query", "key", "value"), inputs, gradients, strict=True)
    }


def relative(found: Tensor | None, expected: Tensor) -> float:
    """The norm of the difference as a share of the norm; not a number if there are any that are
    none, which no comparison lets pass."""
    assert found is not None
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def cudnn(setting: Setting) -> dict[str, Any]:
    """Whether cuDNN's attention takes packed sequences here, and its time beside FlashAttention's.

    Of nothing that is used: a probe. That it refuses is a finding, no failure.
    """
    if setting.rehearse:
        return {"cudnn": "needs a GPU", "flash_ms": None, "cudnn_ms": None}
    lengths = [512, 300, 412, 256] * 16
    layout = Layout.of(torch.tensor(lengths), torch.device("cuda"))
    query, key, value = (
        torch.randn(sum(lengths), 16, WIDTH, device="cuda", dtype=torch.float16) for _ in range(3)
    )

    def flash() -> Tensor:
        return attention(query, key, value, layout, layout, 0.0)

    def ragged() -> Any:
        return torch.ops.aten._cudnn_attention_forward(
            *(query, key, value, None, layout.bounds, layout.bounds, 512, 512, True, 0.0, False)
        )[0]

    figures: dict[str, Any] = {"flash_ms": milliseconds(flash), "cudnn_ms": None}
    try:
        figures["cudnn"] = f"error {relative(ragged(), flash()):.1e}"
        figures["cudnn_ms"] = milliseconds(ragged)
    except Exception as error:
        figures["cudnn"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return figures


def milliseconds(work: Any, rounds: int = 15) -> float:
    """The median time on the device, after a warm-up."""
    work()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in itertools.pairwise(marks))
    return round(times[rounds // 2], 4)
