"""The packed model against fairseq's own, in float64: the same numbers, only fewer computed."""

import argparse
import copy
import math
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.common.errors import ConfigError
from components.train import compat

compat.import_fairseq()

from fairseq.data import Dictionary  # noqa: E402
from fairseq.models.roberta import RobertaModel  # noqa: E402

from components.train.engine import attention as kernels  # noqa: E402
from components.train.engine.attention import Layout, attention, dropout  # noqa: E402
from components.train.engine.batch import PackedBatch, pack  # noqa: E402
from components.train.engine.model import PackedRoberta  # noqa: E402

HEAD = "sentence_classification_head"
VOCABULARY = 60
LONGEST = 64


def stock_model(**changes: Any) -> Any:
    """fairseq's model with weights large enough that every part of it matters."""
    dictionary = Dictionary()
    for word in range(VOCABULARY - dictionary.nspecial):
        dictionary.add_symbol(f"word{word}")
    settings: dict[str, Any] = {
        "encoder_layers": 3,
        "encoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 40,
        "encoder_attention_heads": 3,
        "max_positions": LONGEST,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        **changes,
    }
    task = types.SimpleNamespace(source_dictionary=dictionary)
    model = RobertaModel.build_model(argparse.Namespace(**settings), task)
    model.register_classification_head(HEAD, num_classes=1)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(std=0.3, generator=generator)
        if "norm.weight" in name or "layernorm_embedding.weight" in name:
            parameter.data += 1
    return model.double()


def questions(*lengths: tuple[int, ...]) -> list[tuple[int, list[Tensor], int]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (
            place,
            [torch.randint(4, VOCABULARY, (n,), generator=generator) for n in options],
            place % len(options),
        )
        for place, options in enumerate(lengths)
    ]


QUESTIONS = questions(
    (5, 9, 7, 3), (LONGEST, 20, 18, LONGEST), (8, 8, 8, 8), (1, 2, 1, 40), (33, 31, 32, 30)
)


def packed_batch(some: list[tuple[int, list[Tensor], int]]) -> PackedBatch:
    batch = pack(some)
    assert batch is not None
    return batch


def stock_scores(model: Any, some: list[tuple[int, list[Tensor], int]], together: bool) -> Tensor:
    """As the stock criterion computes them: an option at a time, questions padded or one by one."""
    groups = [some] if together else [[question] for question in some]
    rows = []
    for group in groups:
        columns = []
        for option in range(4):
            tokens = torch.nn.utils.rnn.pad_sequence(
                [options[option] for _, options, _ in group], batch_first=True, padding_value=1
            )
            columns.append(model(tokens, classification_head_name=HEAD)[0])
        rows.append(torch.cat(columns, dim=1))
    return torch.cat(rows)


def loss(scores: Tensor) -> Tensor:
    right = torch.tensor([right for _, _, right in QUESTIONS])
    return F.nll_loss(F.log_softmax(scores, dim=-1, dtype=torch.float32), right, reduction="sum")


@pytest.fixture(scope="module")
def models() -> tuple[Any, PackedRoberta]:
    stock = stock_model()
    return stock.train(), PackedRoberta(copy.deepcopy(stock), HEAD).train()


@pytest.mark.parametrize("together", [True, False], ids=["padded", "one by one"])
@pytest.mark.parametrize("limit", [10_000, 200, 1])
def test_scores_and_gradients_are_those_of_fairseq(
    models: tuple[Any, PackedRoberta], together: bool, limit: int
) -> None:
    stock, packed = models
    stock.zero_grad()
    packed.zero_grad()
    expected = stock_scores(stock, QUESTIONS, together)
    loss(expected).backward()
    parts = packed_batch(QUESTIONS).split(limit)
    scores = torch.cat([packed(part) for part in parts])
    loss(scores).backward()

    assert len(parts) == {10_000: 1, 200: 3, 1: 5}[limit]
    assert scores.std() > 0.1
    assert (scores - expected).abs().max() < 1e-12
    gradients = {name: parameter.grad for name, parameter in stock.named_parameters()}
    compared = set()
    for name, parameter, rows in packed.parts():
        assert parameter.grad is not None
        ours = parameter.grad if rows is None else parameter.grad[rows]
        assert (ours - gradients[name]).abs().max() < 1e-9, name
        # What is added to all keys, or to all scores, the softmax takes out again.
        if not name.endswith(("k_proj.bias", f"{HEAD}.out_proj.bias")):
            assert ours.abs().max() > 1e-6, name
        compared.add(name)
    # What is left has no gradient in fairseq either.
    assert all(gradients[name] is None for name in gradients.keys() - compared)


@pytest.mark.parametrize("only_first", [False, True], ids=["all tokens", "first tokens"])
def test_attention_is_the_textbook_one(only_first: bool) -> None:
    torch.manual_seed(1)
    lengths = torch.tensor([7, 1, 20, 3])
    keys = Layout.of(lengths, torch.device("cpu"))
    queries = keys.of_first_tokens() if only_first else keys
    shapes = [(sum(layout.lengths), 2, 8) for layout in (queries, keys, keys)]
    q, k, v = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)
    output = attention(q, k, v, queries, keys, 0.0)
    expected = torch.cat(
        [
            F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in sequence)).transpose(0, 1)
            for sequence in zip(
                q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths), strict=True
            )
        ]
    )
    assert (output - expected).abs().max() < 1e-14
    direction = torch.randn_like(output)
    ours = torch.autograd.grad(output, (q, k, v), direction)
    theirs = torch.autograd.grad(expected, (q, k, v), direction)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() < 1e-13


@pytest.mark.parametrize("only_first", [False, True], ids=["all tokens", "first tokens"])
@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [(kernels._flash, torch.float16), (kernels._efficient, torch.float32)],
    ids=["flash", "efficient"],
)
def test_the_gpus_kernels_take_what_they_are_given(
    kernel: Any, dtype: torch.dtype, only_first: bool
) -> None:
    """Signature, shapes and the presence of a gradient, which torch knows without a GPU."""
    lengths = [7, 20, 3]
    keys = Layout(lengths, torch.empty(4, dtype=torch.int32, device="meta"))
    qkv = torch.empty(30, 3, 4, 64, dtype=dtype, device="meta", requires_grad=True)
    query, key, value = qkv.unbind(1)
    queries = keys
    if only_first:
        query, queries = query[:3], Layout([1, 1, 1], keys.bounds)
    output = kernel(query, key, value, queries, keys, 0.1)
    assert output.shape == (3 if only_first else 30, 4, 64)
    assert output.dtype == dtype
    output.sum().backward()
    assert qkv.grad is not None
    assert qkv.grad.shape == qkv.shape


def test_the_gradient_of_attention_with_dropout_is_that_of_its_output() -> None:
    lengths = Layout.of(torch.tensor([5, 3]), torch.device("cpu"))
    inputs = [torch.randn(8, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def output(*qkv: Tensor) -> Tensor:
        torch.manual_seed(7)  # the same weights are dropped in every evaluation
        return attention(*qkv, lengths, lengths, 0.3)

    assert torch.autograd.gradcheck(output, inputs)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_drops_its_share_independently_and_keeps_the_mean(probability: float) -> None:
    torch.manual_seed(1)
    side = 1000
    output = dropout(torch.ones(side, side), probability, training=True)
    dropped = output == 0
    sigma = math.sqrt(probability * (1 - probability))
    assert abs(dropped.double().mean() - probability) < 5 * sigma / side
    assert output.double().mean() == pytest.approx(1, abs=0.005)
    assert output[~dropped].unique().tolist() == pytest.approx([1 / (1 - probability)], rel=1e-4)
    centred = dropped.double() - probability
    # Neighbours along rows and columns, and those that share a random word, are not correlated.
    for distance in (1, 2, 3, 4, side):
        pairs = centred.flatten()[distance:] * centred.flatten()[:-distance]
        assert abs(pairs.mean()) < 5 * sigma**2 / side


def test_attention_drops_weights_as_often_as_it_should() -> None:
    torch.manual_seed(1)
    length, heads = 200, 4
    layout = Layout.of(torch.tensor([length, length]), torch.device("cpu"))
    zeros = torch.zeros(2 * length, heads, length)
    # With equal weights and the identity as values, the output shows the weights themselves.
    identity = torch.eye(length).repeat(2, 1)[:, None].expand(-1, heads, -1)
    weights = attention(zeros, zeros, identity, layout, layout, 0.1)
    dropped = weights == 0
    assert dropped.double().mean() == pytest.approx(0.1, abs=0.002)
    assert weights[~dropped].unique().tolist() == pytest.approx([1 / 0.9 / length], rel=1e-4)
    first, second = dropped[:length].double(), dropped[length:].double()
    assert (first * second).mean() == pytest.approx(0.01, abs=0.002)


def test_dropout_is_reproduced_by_the_seed_and_absent_outside_training() -> None:
    model = PackedRoberta(stock_model(dropout=0.1, attention_dropout=0.1), HEAD)
    batch = packed_batch(QUESTIONS)

    def scores(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(batch)

    model.train()
    assert torch.equal(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))
    model.eval()
    assert torch.equal(scores(1), scores(2))


def test_dropout_has_fairseqs_mean_and_spread() -> None:
    """Over many draws, scores with dropout have the distribution that they have in fairseq."""
    stock = stock_model(dropout=0.1, attention_dropout=0.1).float().train()
    packed = PackedRoberta(copy.deepcopy(stock), HEAD).train()
    some = questions(*[(12, 12, 12, 12)])
    repeated = [some[0]] * 500
    torch.manual_seed(1)
    with torch.no_grad():
        theirs = torch.cat([stock_scores(stock, repeated, together=True) for _ in range(4)])
        ours = torch.cat([packed(packed_batch(repeated)) for _ in range(4)])
    error = theirs.std(0) / math.sqrt(len(theirs))
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * math.sqrt(2) * error).all()
    # The standard error of a standard deviation is about 1 / sqrt(2 n) of it.
    assert ((ours.std(0) / theirs.std(0) - 1).abs() < 5 / math.sqrt(len(theirs))).all()


def test_the_state_dict_is_fairseqs_without_its_duplicates(
    models: tuple[Any, PackedRoberta],
) -> None:
    stock, packed = models
    theirs, ours = stock.state_dict(), packed.state_dict()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    left_out = {name.rpartition(".")[2] for name in theirs.keys() - ours.keys()}
    parts = ("in_proj", "out_proj", "fc1", "fc2")
    assert left_out == {f"{part}_{kind}" for part in parts for kind in ("weight", "bias")}
    assert sum(p.numel() for p in packed.parameters()) < 0.7 * sum(
        p.numel() for p in stock.parameters()
    )


def test_models_load_each_others_state() -> None:
    stock, packed = stock_model(), PackedRoberta(stock_model(), HEAD)
    for parameter in stock.parameters():
        parameter.data.mul_(1.5)
    packed.load_state_dict(stock.state_dict(), strict=True)
    assert torch.equal(packed.positions, stock.encoder.sentence_encoder.embed_positions.weight)
    other = stock_model()
    other.load_state_dict(packed.state_dict(), strict=True)
    scores = stock_scores(stock, QUESTIONS, together=True)
    assert torch.equal(stock_scores(other, QUESTIONS, together=True), scores)
    assert (packed(packed_batch(QUESTIONS)) - scores).abs().max() < 1e-12


def test_a_checkpoint_without_the_head_leaves_it_as_it_is() -> None:
    packed = PackedRoberta(stock_model(), HEAD)
    state = {n: v * 2 for n, v in packed.state_dict().items() if "classification" not in n}
    before = packed.dense.weight.detach().clone()
    packed.load_state_dict(state, strict=True)
    assert torch.equal(packed.dense.weight, before)
    assert torch.equal(packed.tokens, state["encoder.sentence_encoder.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("encoder.sentence_encoder.layers.1.fc1.bias"), r"missing.*layers\.1\.fc1"),
        (lambda s: s.update({"encoder.extra": torch.ones(1)}), "unexpected.*encoder.extra"),
        (
            lambda s: s.update({"encoder.lm_head.bias": torch.ones(3)}),
            r"lm_head\.bias is \(3,\), not \(60,\)",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change: Any, message: str) -> None:
    packed = PackedRoberta(stock_model(), HEAD)
    state = packed.state_dict()
    change(state)
    with pytest.raises(RuntimeError, match=message):
        packed.load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder_normalize_before": True},
        {"activation_fn": "relu"},
        {"encoder_layerdrop": 0.1},
        {"untie_weights_roberta": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_model_that_it_does_not_compute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        PackedRoberta(stock_model(**change), HEAD)


def test_flops_are_those_of_the_products() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    packed = PackedRoberta(stock_model(), HEAD)
    batch = packed_batch(QUESTIONS)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        packed(batch)
    assert packed.flops(batch.lengths) == counter.get_total_flops()
