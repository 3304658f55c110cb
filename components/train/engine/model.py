"""RoBERTa with a ranking head, computed on packed questions.

The mathematics are those of fairseq's RobertaModel (models/roberta/model.py) as its
sentence_ranking criterion uses it. What differs is only how much is computed: no padding, the last
layer's queries and feed-forward part for <s> alone (nothing else of it is read), the products for
query, key and value in one, and one forward for all options of all questions.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

from components.common.errors import ConfigError
from components.train.engine.attention import Layout, attention, dropout
from components.train.engine.batch import PackedBatch
from components.train.roberta import COMPUTED, ENCODER, HEADS, LANGUAGE, UNUSED, tied


class PackedRoberta(BaseFairseqModel):  # type: ignore[misc]
    """A RoBERTa that scores the options of packed questions.

    Its state dict has fairseq's names and shapes, without fairseq's duplicates of parameters, so
    that fairseq loads it, and it loads what fairseq wrote.

    Args:
        stock: fairseq's RobertaModel, whose parameters are taken over.
        head: name of the classification head that ranks.

    Raises:
        ConfigError: the model has a part that this class does not compute.
    """

    def __init__(self, stock: Any, head: str) -> None:
        super().__init__()
        args = stock.args
        _require_supported(args)
        encoder = stock.encoder.sentence_encoder
        self.args = args
        self.head = head
        self.padding = int(encoder.padding_idx)
        self.dropout = float(args.dropout)
        self.pooler_dropout = float(args.pooler_dropout)
        self.tokens = _taken(encoder.embed_tokens.weight)
        self.positions = _taken(encoder.embed_positions.weight)
        self.embedding_norm = _own(encoder.layernorm_embedding)
        layers = [PackedLayer(layer, args) for layer in encoder.layers]
        self.layers = nn.ModuleList(layers)
        self.heads = layers[0].heads
        self.inner_width = layers[0].inner_width
        self.dense = _own(stock.classification_heads[head].dense)
        self.out_proj = _own(stock.classification_heads[head].out_proj)
        # The language model's head takes no part in ranking, but fairseq wants it in a checkpoint.
        self.untrained = {
            name: value.detach().clone()
            for name, value in stock.state_dict().items()
            if name.startswith(LANGUAGE) and not UNUSED.fullmatch(name)
        }

    def forward(self, batch: PackedBatch) -> Tensor:
        """The score of each option, (questions, options); -inf where a question has fewer.

        Args:
            batch: on the model's device, no sequence longer than `max_positions`.
        """
        layout = Layout.of(batch.lengths, batch.tokens.device)
        # Positions count from the padding's index on (fairseq/utils.py, make_positions).
        places = layout.places() + (self.padding + 1)
        x = F.embedding(batch.tokens, self.tokens) + F.embedding(places, self.positions)
        x = dropout(self.embedding_norm(x), self.dropout, self.training)
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x, layout)
        x = last(x, layout, first_only=True)
        x = dropout(x, self.pooler_dropout, self.training)
        x = dropout(torch.tanh(self.dense(x)), self.pooler_dropout, self.training)
        scores: Tensor = self.out_proj(x)
        return batch.by_question(scores.view(-1))

    def max_positions(self) -> int:
        return int(self.args.max_positions)

    def flops(self, lengths: Tensor) -> float:
        """Floating point operations in the matrix products of one forward; a backward has twice.

        Only what this class computes is counted: the last layer mostly for one token of each
        sequence.

        Args:
            lengths: tokens of each sequence.
        """
        width, inner = self.tokens.shape[1], self.inner_width
        tokens, sequences = float(lengths.sum()), len(lengths)
        per_token = 4 * width * width + 2 * width * inner  # attention's four products, and two
        full = tokens * per_token + 2 * width * float((lengths.double() ** 2).sum())
        last = 2 * width * width * tokens + sequences * (per_token - 2 * width * width)
        last += 2 * width * tokens + sequences * (width * width + width)  # and the head
        return 2 * (full * (len(self.layers) - 1) + last)

    def parts(self) -> Iterator[tuple[str, nn.Parameter, slice | None]]:
        """fairseq's name of each parameter, and the rows of ours that hold it (None for all)."""
        yield ENCODER + "embed_tokens.weight", self.tokens, None
        yield ENCODER + "embed_positions.weight", self.positions, None
        yield from _named(ENCODER + "layernorm_embedding", self.embedding_norm)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, PackedLayer)
            yield from layer.parts(f"{ENCODER}layers.{number}.")
        yield from _named(f"{HEADS}{self.head}.dense", self.dense)
        yield from _named(f"{HEADS}{self.head}.out_proj", self.out_proj)

    def stock_state(self, value: Callable[[nn.Parameter], Tensor]) -> dict[str, Tensor]:
        """The state dict that fairseq's own model loads.

        Args:
            value: what to save for a parameter of ours; of the same shape.
        """
        state = {
            name: value(parameter) if rows is None else value(parameter)[rows]
            for name, parameter, rows in self.parts()
        }
        return state | self.untrained | tied(state)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return self.stock_state(lambda parameter: parameter.detach())

    def load_state_dict(
        self,
        state_dict: dict[str, Tensor],
        strict: bool = True,
        model_cfg: Any = None,
        args: Any = None,
    ) -> Any:
        """Load what fairseq or this class writes today (components.train.roberta knows old names).

        A ranking head that is not in the checkpoint stays as it is, as with fairseq.

        Raises:
            RuntimeError: a shape differs; or `strict`, and a parameter is missing or one too many.
        """
        ours = self.state_dict()
        expected, given = (
            {name for name in state if not UNUSED.fullmatch(name)} for state in (ours, state_dict)
        )
        if not any(name.startswith(HEADS) for name in given):
            expected = {name for name in expected if not name.startswith(HEADS)}
        missing, unexpected = sorted(expected - given), sorted(given - expected)
        if strict and (missing or unexpected):
            raise RuntimeError(f"missing: {missing}; unexpected: {unexpected}")
        for name in expected & given:
            value, target = state_dict[name], ours[name]
            if target.shape != value.shape:
                raise RuntimeError(f"{name} is {tuple(value.shape)}, not {tuple(target.shape)}")
            target.copy_(value)
        return nn.modules.module._IncompatibleKeys(missing, unexpected)


class PackedLayer(nn.Module):
    """A transformer encoder layer (post-norm) on a packed stream of sequences."""

    def __init__(self, stock: Any, args: Any) -> None:
        super().__init__()
        own = stock.self_attn
        self.heads = int(own.num_heads)
        self.attention_dropout = float(args.attention_dropout)
        self.dropout = float(args.dropout)
        self.activation_dropout = float(args.activation_dropout)
        projections = (own.q_proj, own.k_proj, own.v_proj)
        self.qkv_weight = nn.Parameter(torch.cat([p.weight.detach() for p in projections]))
        self.qkv_bias = nn.Parameter(torch.cat([p.bias.detach() for p in projections]))
        self.out_proj = _own(own.out_proj)
        self.attention_norm = _own(stock.self_attn_layer_norm)
        self.inner_width = int(stock.fc1.out_features)
        self.fc1 = _own(stock.fc1)
        self.fc2 = _own(stock.fc2)
        self.final_norm = _own(stock.final_layer_norm)

    def forward(self, x: Tensor, layout: Layout, first_only: bool = False) -> Tensor:
        """The layer's output for (tokens, width), or only for the first token of each sequence."""
        if first_only:
            width = x.shape[1]
            key_value = F.linear(x, self.qkv_weight[width:], self.qkv_bias[width:])
            x = x[layout.starts()]
            query = F.linear(x, self.qkv_weight[:width], self.qkv_bias[:width])
            query = query.view(len(x), self.heads, -1)
            key, value = key_value.view(len(key_value), 2, self.heads, -1).unbind(1)
            query_layout = layout.of_first_tokens()
        else:
            qkv = F.linear(x, self.qkv_weight, self.qkv_bias)
            query, key, value = qkv.view(len(x), 3, self.heads, -1).unbind(1)
            query_layout = layout
        probability = self.attention_dropout if self.training else 0.0
        y = attention(query, key, value, query_layout, layout, probability).flatten(1)
        y = dropout(self.out_proj(y), self.dropout, self.training)
        x = self.attention_norm(x + y)
        y = dropout(_gelu(self.fc1(x)), self.activation_dropout, self.training)
        y = dropout(self.fc2(y), self.dropout, self.training)
        output: Tensor = self.final_norm(x + y)
        return output

    def parts(self, prefix: str) -> Iterator[tuple[str, nn.Parameter, slice | None]]:
        width = self.qkv_weight.shape[1]
        for place, name in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = slice(place * width, (place + 1) * width)
            yield f"{prefix}self_attn.{name}.weight", self.qkv_weight, rows
            yield f"{prefix}self_attn.{name}.bias", self.qkv_bias, rows
        yield from _named(prefix + "self_attn.out_proj", self.out_proj)
        yield from _named(prefix + "self_attn_layer_norm", self.attention_norm)
        yield from _named(prefix + "fc1", self.fc1)
        yield from _named(prefix + "fc2", self.fc2)
        yield from _named(prefix + "final_layer_norm", self.final_norm)


def _gelu(x: Tensor) -> Tensor:
    # fairseq computes it in float32 whatever the type (modules/gelu.py). In 16 bits torch's own
    # kernel does the same without the copies; only float64, which tests use, needs them.
    return F.gelu(x.float()).double() if x.dtype == torch.float64 else F.gelu(x)


def _taken(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach())


def _own(module: nn.Module) -> nn.Module:
    """A module like this one that has the same values, in parameters of its own."""
    own = copy.copy(module)
    own._parameters = {n: None if p is None else _taken(p) for n, p in module._parameters.items()}
    return own


def _named(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Parameter, slice | None]]:
    for name, parameter in module.named_parameters(recurse=False):
        yield f"{prefix}.{name}", parameter, None


def _require_supported(args: Any) -> None:
    for name, value in {**COMPUTED, "relu_dropout": 0}.items():
        given = getattr(args, name, value)
        if given != value:
            raise ConfigError(
                f"the packed engine computes {name} = {value} only, not {given}",
                hint="Use engine stock for this model",
            )
