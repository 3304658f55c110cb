"""How questions are packed, cut into micro-batches and divided over ranks."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.train import compat

compat.import_fairseq()

from components.train.engine.batch import PackedBatch, balance, cut, pack  # noqa: E402

SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=30)


def batch(*lengths: tuple[int, ...]) -> PackedBatch:
    """Questions whose options have these lengths; every token is a number of its own."""
    numbers = iter(range(1000))
    packed = pack(
        [
            (place, [torch.tensor([next(numbers) for _ in range(n)]) for n in options], place % 2)
            for place, options in enumerate(lengths)
        ]
    )
    assert packed is not None
    return packed


def test_options_follow_each_other_without_padding() -> None:
    packed = batch((2, 3), (1, 4))
    assert packed.tokens.tolist() == list(range(10))
    assert packed.lengths.tolist() == [2, 3, 1, 4]
    assert packed.ids.tolist() == [0, 1]
    assert packed.targets is not None
    assert packed.targets.tolist() == [0, 1]
    assert len(packed) == 2
    assert packed.stock_tokens == 3  # first options only, as fairseq counts


def test_no_questions_are_no_batch() -> None:
    assert pack([]) is None


@given(st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=9), st.integers(1, 60))
def test_micro_batches_hold_all_questions_once_and_in_order(
    lengths: list[tuple[int, ...]], limit: int
) -> None:
    whole = batch(*lengths)
    parts = whole.split(limit)
    for name in ("tokens", "lengths", "ids", "targets"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(whole, name))
    for part in parts:
        assert len(part.tokens) == int(part.lengths.sum())
        assert len(part.lengths) == 3 * len(part.ids)
        assert len(part.tokens) <= limit or len(part) == 1


@given(SIZES, st.integers(1, 100))
def test_parts_are_as_few_as_they_can_be(sizes: list[int], limit: int) -> None:
    counts = cut(sizes, limit)
    assert sum(counts) == len(sizes)
    assert all(counts)
    starts = [sum(counts[:n]) for n in range(len(counts))]
    sums = [sum(sizes[s : s + n]) for s, n in zip(starts, counts, strict=True)]
    assert all(s <= limit or n == 1 for s, n in zip(sums, counts, strict=True))
    # Two parts in a row never fit into one.
    assert all(a + b > limit for a, b in itertools.pairwise(sums))


def test_parts_are_even() -> None:
    assert cut([10] * 9, 80) == [5, 4]
    assert cut([10] * 8, 80) == [8]
    assert cut([30, 10], 20) == [1, 1]


@given(SIZES, st.integers(1, 5))
def test_ranks_get_all_items_once_and_about_equal_sums(sizes: list[int], ranks: int) -> None:
    shares = balance(sizes, ranks)
    assert sorted(place for share in shares for place in share) == list(range(len(sizes)))
    sums = [sum(sizes[place] for place in share) for share in shares]
    assert max(sums) - min(sums) <= max(sizes)


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_may_be_left_without_questions(ranks: int) -> None:
    assert balance([7], ranks) == [[0], *[[] for _ in range(ranks - 1)]]


def test_an_option_that_a_question_lacks_is_not_in_the_batch() -> None:
    sequences = [torch.arange(length) for length in (3, 4, 5, 6, 7)]
    batch = pack([(0, sequences[:2], 1), (1, sequences[2:], 2)], options=3)
    assert batch is not None
    assert batch.per_question == [7, 18]
    assert batch.stock_tokens == 3 + 5
    scores = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0], requires_grad=True)
    table = batch.by_question(scores)
    assert table.tolist() == [[0.5, 1.0, float("-inf")], [2.0, 3.0, 4.0]]
    loss = torch.nn.functional.cross_entropy(table, batch.targets, reduction="sum")
    loss.backward()
    alone = [torch.tensor([0.5, 1.0]), torch.tensor([2.0, 3.0, 4.0])]
    expected = sum(
        -scores.log_softmax(0)[place] for scores, place in zip(alone, (1, 2), strict=True)
    )
    assert loss.item() == pytest.approx(float(expected))
    assert torch.isfinite(scores.grad).all()
    first, second = batch.split(18)
    assert (first.counts, second.counts) == ((2,), (3,))
    assert second.lengths.tolist() == [5, 6, 7]
    assert len(second.tokens) == 18
