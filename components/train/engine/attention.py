"""Attention within each sequence of a packed stream, and dropout, on a GPU and on the CPU.

On a GPU the work is done by the two kernels that torch's own scaled_dot_product_attention uses for
sequences of different lengths: FlashAttention-2 (Dao, 2023) in 16 bits on Ampere and later,
otherwise the memory-efficient kernel of xformers. Both take the boundaries of the sequences and
the dropout of attention weights, and neither ever holds an attention matrix in memory.

On the CPU, sequences are done one after the other with exact matrix products: no padding, no mask,
and the attention matrix of one sequence stays in the cache. Dropout masks come from 16 random bits
for each value, which is several times faster than torch's Bernoulli numbers; FlashAttention uses 8.
NumPy draws them (Doty-Humphrey's SFC64, seeded by torch's generator) and compares them: its loops
are vectorized where torch's for integers are not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16  # a mask is decided by 16 bits


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the sequences of a packed stream begin and end.

    Args:
        lengths: number of tokens of each sequence, as Python numbers.
        bounds: (sequences + 1,), int32, on the stream's device: 0, and the end of each sequence.
    """

    lengths: list[int]
    bounds: Tensor

    @classmethod
    def of(cls, lengths: Tensor, device: torch.device) -> "Layout":
        """The layout of sequences with these lengths (a tensor on the CPU)."""
        ends = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        return cls(lengths.tolist(), ends.to(device, non_blocking=True))

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def starts(self) -> Tensor:
        """(sequences,), int64: the place of each sequence's first token in the stream."""
        return self.bounds[:-1].long()

    def places(self) -> Tensor:
        """(tokens,), int64: the place of each token within its own sequence."""
        device, total = self.bounds.device, sum(self.lengths)
        # The output's size is given, so that nothing waits for the GPU to count.
        starts = torch.repeat_interleave(
            self.starts(), self.bounds.diff().long(), output_size=total
        )
        return torch.arange(total, device=device) - starts

    def of_first_tokens(self) -> "Layout":
        """The layout of a stream that holds only the first token of each sequence."""
        count = len(self.lengths)
        return Layout(
            [1] * count, torch.arange(count + 1, dtype=torch.int32, device=self.bounds.device)
        )


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_layout: Layout,
    key_layout: Layout,
    dropout: float,
) -> Tensor:
    """Softmax attention of each sequence's queries to the same sequence's keys.

    Args:
        query: (query tokens, heads, head width), laid out as `query_layout`.
        key, value: (tokens, heads, head width), laid out as `key_layout`.
        dropout: probability that an attention weight is set to 0; 0 outside training.

    Returns:
        (query tokens, heads, head width)
    """
    if query.device.type != "cuda":
        output: Tensor = _CpuAttention.apply(  # type: ignore[no-untyped-call]
            query, key, value, query_layout.lengths, key_layout.lengths, dropout
        )
        return output
    if _flash_serves(query):
        return _flash(query, key, value, query_layout, key_layout, dropout)
    return _efficient(query, key, value, query_layout, key_layout, dropout)


def _flash_serves(query: Tensor) -> bool:
    return (
        query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and torch.backends.cuda.is_flash_attention_available()
    )


def _flash(
    query: Tensor, key: Tensor, value: Tensor, q: Layout, k: Layout, dropout: float
) -> Tensor:
    output: Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, q.bounds, k.bounds, q.longest, k.longest, dropout, False, False
    )[0]
    return output


def _efficient(
    query: Tensor, key: Tensor, value: Tensor, q: Layout, k: Layout, dropout: float
) -> Tensor:
    output: Tensor = torch.ops.aten._efficient_attention_forward(
        query.unsqueeze(0),
        key.unsqueeze(0),
        value.unsqueeze(0),
        None,  # no bias
        q.bounds,
        k.bounds,
        q.longest,
        k.longest,
        dropout,
        0,  # no causal mask
        compute_log_sumexp=torch.is_grad_enabled(),
    )[0]
    return output.squeeze(0)


class _CpuAttention(torch.autograd.Function):
    """Attention and its gradient on the CPU, sequence after sequence.

    Kept for the gradient: the attention weights before dropout, and a byte for each mask value.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_lengths: list[int],
        key_lengths: list[int],
        dropout: float,
    ) -> Tensor:
        heads, width = query.shape[1:]
        spans = list(_spans(query_lengths, key_lengths, heads))
        weights = query.new_empty(spans[-1].weights.stop)
        mask, keep = _random_mask(len(weights), dropout) if dropout else (None, 1.0)
        scratch = torch.empty_like(weights[: max(s.size for s in spans)])
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        for s in spans:
            q, k, v = _heads(query, s.query), _heads(key, s.key), _heads(value, s.key)
            kept = weights[s.weights].view(s.shape)
            torch.bmm(q * width**-0.5, k.transpose(1, 2), out=kept)
            torch.softmax(kept, -1, out=kept)
            dropped = kept if mask is None else _masked(kept, mask[s.weights], scratch)
            _heads(output, s.query).copy_(torch.bmm(dropped, v))
        ctx.save_for_backward(query, key, value, weights, mask)
        ctx.spans, ctx.keep = spans, keep
        return output.div_(keep) if dropout else output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, weights, mask = ctx.saved_tensors
        grad = grads[0] / ctx.keep if mask is not None else grads[0]
        scale = query.shape[-1] ** -0.5
        d_query, d_key, d_value = (
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)
        )
        # New memory for each matrix would cost more than a product: its pages come one by one.
        scratch, gradients = weights.new_empty(2, max(s.size for s in ctx.spans))
        for s in ctx.spans:
            q, k, v = _heads(query, s.query), _heads(key, s.key), _heads(value, s.key)
            g, kept = _heads(grad, s.query), weights[s.weights].view(s.shape)
            dropped = kept if mask is None else _masked(kept, mask[s.weights], scratch)
            _heads(d_value, s.key).copy_(torch.bmm(dropped.transpose(1, 2), g))
            d_scores = gradients[: s.size].view(s.shape)
            torch.bmm(g, v.transpose(1, 2), out=d_scores)
            if mask is not None:
                d_scores *= scratch[: s.size].copy_(mask[s.weights]).view(s.shape)
            torch._softmax_backward_data(d_scores, kept, -1, kept.dtype, grad_input=d_scores)
            _heads(d_query, s.query).copy_(torch.bmm(d_scores, k).mul_(scale))
            _heads(d_key, s.key).copy_(torch.bmm(d_scores.transpose(1, 2), q * scale))
        return d_query, d_key, d_value, None, None, None


@dataclass(frozen=True)
class _Span:
    """One sequence's place in the streams of queries and keys, and in the list of weights."""

    query: slice
    key: slice
    weights: slice
    shape: tuple[int, int, int]  # heads, queries, keys

    @property
    def size(self) -> int:
        heads, queries, keys = self.shape
        return heads * queries * keys


def _spans(query_lengths: list[int], key_lengths: list[int], heads: int) -> Iterator[_Span]:
    q = k = w = 0
    for queries, keys in zip(query_lengths, key_lengths, strict=True):
        size = heads * queries * keys
        yield _Span(
            slice(q, q + queries), slice(k, k + keys), slice(w, w + size), (heads, queries, keys)
        )
        q, k, w = q + queries, k + keys, w + size


def _heads(stream: Tensor, span: slice) -> Tensor:
    """(heads, tokens, head width): one sequence, as a view."""
    return stream[span].transpose(0, 1)


def _random_mask(size: int, dropout: float) -> tuple[Tensor, float]:
    """`size` bytes, 1 with probability 1 - `dropout` (to 16 bits), and that probability exactly."""
    dropped = round(dropout * _LEVELS)
    generator = np.random.Generator(np.random.SFC64(int(torch.randint(1 << 62, ()))))
    words = generator.integers(1 << 64, size=-(-size // 4), dtype=np.uint64)
    mask = words.view(np.uint16)[:size] >= dropped
    return torch.from_numpy(mask.view(np.uint8)), 1 - dropped / _LEVELS


def _masked(values: Tensor, mask: Tensor, scratch: Tensor) -> Tensor:
    """`values` where `mask` is 1, else 0, in the memory of `scratch`."""
    result = scratch[: values.numel()]
    # A copy from bytes and a product of floats are vectorized; a product of both is not.
    return result.copy_(mask).view(values.shape).mul_(values)


class _CpuDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        mask, keep = _random_mask(x.numel(), probability)
        factors = mask.view(x.shape).to(x.dtype).div_(keep)
        ctx.save_for_backward(factors)
        return x * factors

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (factors,) = ctx.saved_tensors
        return grads[0] * factors, None


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Values set to 0 with a probability, the others scaled so that the mean stays."""
    if not training or not probability:
        return x
    if x.device.type == "cuda":
        return F.dropout(x, probability)
    result: Tensor = _CpuDropout.apply(x, probability)  # type: ignore[no-untyped-call]
    return result
