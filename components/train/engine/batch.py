"""Questions packed without padding, and how they are divided over micro-batches and ranks."""

import dataclasses
import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """All options of some questions, one after the other, as one stream of tokens.

    Args:
        tokens: (tokens,), int64. Option 0 of question 0, its option 1, ..., option 0 of question 1.
        lengths: (questions * options,), the number of tokens of each of these sequences. It stays
            on the CPU: it says how large the kernels' inputs are, and asking a GPU would stall it.
        options: number of options of a question, or of the one that has most.
        ids: (questions,), int64, on the CPU: place of each question in its data set.
        targets: (questions,), int64, the right options; None where they are not known.
        counts: number of options of each question, where they differ; `lengths` and `tokens` have
            no others.
    """

    tokens: Tensor
    lengths: Tensor
    options: int
    ids: Tensor
    targets: Tensor | None = None
    counts: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """The number of questions. fairseq takes a batch of length 0 for none."""
        return len(self.ids)

    @property
    def stock_tokens(self) -> int:
        """What fairseq's task calls `ntokens`: the tokens of the first options only."""
        return int(self.lengths[self.bounds[:-1]].sum())

    @property
    def bounds(self) -> list[int]:
        """Where each question's sequences begin in `lengths`, and where the last one's end."""
        return [0, *itertools.accumulate(self.counts or (self.options,) * len(self))]

    @property
    def per_question(self) -> list[int]:
        """Tokens of each question."""
        tokens: list[int] = F.pad(self.lengths.cumsum(0), (1, 0))[self.bounds].diff().tolist()
        return tokens

    def by_question(self, scores: Tensor) -> Tensor:
        """Scores of all sequences as (questions, options), -inf where a question has no option."""
        if self.counts is None:
            return scores.view(-1, self.options)
        there = torch.arange(self.options) < torch.tensor(self.counts)[:, None]
        table = scores.new_full(there.shape, -torch.inf)
        return table.masked_scatter(there.to(scores.device), scores)

    def pin_memory(self) -> "PackedBatch":
        """Called by torch's DataLoader, so that `to` need not wait for the copy to the GPU."""
        return dataclasses.replace(
            self,
            tokens=self.tokens.pin_memory(),
            targets=None if self.targets is None else self.targets.pin_memory(),
        )

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch with tokens and targets on `device`."""
        return dataclasses.replace(
            self,
            tokens=self.tokens.to(device, non_blocking=True),
            targets=None if self.targets is None else self.targets.to(device, non_blocking=True),
        )

    def split(self, max_tokens: int) -> list["PackedBatch"]:
        """Micro-batches of at most `max_tokens` tokens, of about the same size, as views.

        A question is never cut, so one that is longer than `max_tokens` is a micro-batch by itself.
        """
        per_question = self.per_question
        sizes = cut(per_question, max_tokens)
        if len(sizes) == 1:
            return [self]
        bounds = self.bounds
        return [
            dataclasses.replace(
                self,
                tokens=self.tokens[places],
                lengths=self.lengths[bounds[questions.start] : bounds[questions.stop]],
                ids=self.ids[questions],
                targets=None if self.targets is None else self.targets[questions],
                counts=self.counts and self.counts[questions],
            )
            for questions, places in _slices(sizes, per_question)
        ]


def pack(
    questions: Sequence[tuple[int, Sequence[Tensor], int | None]], options: int = 0
) -> PackedBatch | None:
    """A batch of (place in the data set, token ids of each option, right option or None).

    Args:
        options: the most that a question has, where they differ.

    Returns:
        None for no questions.
    """
    if not questions:
        return None
    sequences = [tokens for _, options, _ in questions for tokens in options]
    targets = [target for _, _, target in questions if target is not None]
    counts = tuple(len(sequences) for _, sequences, _ in questions) if options else None
    return PackedBatch(
        tokens=torch.cat([tokens.long() for tokens in sequences]),
        lengths=torch.tensor([len(tokens) for tokens in sequences]),
        options=options or len(questions[0][1]),
        ids=torch.tensor([place for place, _, _ in questions]),
        targets=torch.tensor(targets) if targets else None,
        counts=counts,
    )


def cut(sizes: Sequence[int], limit: int) -> list[int]:
    """How many consecutive items go into each part, so that no part's sizes exceed `limit`.

    As few parts as filling one after the other gives, and then as even as they can be: a small last
    micro-batch would leave a GPU idle. An item larger than `limit` is alone in its part.
    """
    counts = _fill(sizes, limit)
    # The least limit that still gives this number of parts evens them out.
    low, high = max(max(sizes), -(-sum(sizes) // len(counts))), limit
    while low < high:
        middle = (low + high) // 2
        if len(_fill(sizes, middle)) <= len(counts):
            high = middle
        else:
            low = middle + 1
    return _fill(sizes, high)


def _fill(sizes: Sequence[int], limit: int) -> list[int]:
    counts, filled = [0], 0
    for size in sizes:
        if counts[-1] and filled + size > limit:
            counts.append(0)
            filled = 0
        counts[-1] += 1
        filled += size
    return counts


def _slices(counts: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """For each part, given its number of items: the places of these and of what they consist of."""
    item = place = 0
    for count in counts:
        size = sum(sizes[item : item + count])
        yield slice(item, item + count), slice(place, place + size)
        item, place = item + count, place + size


def balance(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """The items of each rank, as places in `sizes`, so that the sums are about equal.

    Largest first, each to the rank that has least so far (Graham, 1969: at most 4/3 of the best
    possible maximum). Every rank computes the same division.
    """
    loads = [(0, rank) for rank in range(ranks)]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for place in sorted(range(len(sizes)), key=lambda place: (-sizes[place], place)):
        load, rank = heapq.heappop(loads)
        shares[rank].append(place)
        heapq.heappush(loads, (load + sizes[place], rank))
    return [sorted(share) for share in shares]
