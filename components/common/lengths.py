"""How long the sequences of a split are, and what is cut off of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.dataset import read_counts
from components.common.indexed import read_sizes

# What the sentence_ranking task makes of question, option and passage (fairseq/tasks/
# sentence_ranking.py), with the lengths of fairseq's README.race.md, which train has as defaults.
OPTION_TOKENS = 128
TOKENS = 512


@dataclass(frozen=True)
class Lengths:
    """The sequences of a split, in tokens: a question and an option with the passage.

    `whole` has a length for each sequence, options already cut, special tokens included; 0 where a
    question lacks the option.
    """

    whole: NDArray[np.int64]  # (questions, options)
    options: NDArray[np.int64]  # (questions, options), before they are cut
    most: int = TOKENS  # that a model takes
    most_options: int = OPTION_TOKENS

    @classmethod
    def of(
        cls,
        passages: NDArray[Any],
        options: Sequence[NDArray[Any]],
        most: int = TOKENS,
        most_options: int = OPTION_TOKENS,
        counts: Sequence[int] | None = None,
    ) -> "Lengths":
        """The lengths by the sizes of the items, their end tokens included.

        The task puts a token before each option and cuts it to `most_options`, puts a separator
        before the passage, joins them, and cuts to `most`.

        Args:
            passages: (questions,)
            options: for each option, (questions,)
            counts: how many options each question has, where they differ.
        """
        asked = np.stack([sizes + 1 for sizes in options], axis=1)
        whole = np.minimum(asked, most_options) + passages[:, None] + 1
        if counts is not None:
            there = np.arange(len(options)) < np.array(counts)[:, None]
            whole, asked = whole * there, asked * there
        return cls(whole, asked, most, most_options)

    @property
    def sequences(self) -> NDArray[np.int64]:
        """(sequences,)"""
        return self.whole[self.whole > 0]

    @property
    def cut(self) -> float:
        """The share of sequences that are longer than a model takes."""
        return float((self.sequences > self.most).mean()) if self.whole.size else 0.0

    @property
    def questions_cut(self) -> NDArray[np.bool_]:
        """(questions,): whether one of its sequences is."""
        longest: NDArray[np.int64] = self.whole.max(axis=1, initial=0)
        return longest > self.most

    @property
    def options_cut(self) -> float:
        cut = (self.options > self.most_options).sum()
        return float(cut / len(self.sequences)) if self.options.size else 0.0

    @property
    def lost(self) -> float:
        """The share of all tokens that are cut off at the end of their passages."""
        if not self.whole.size:
            return 0.0
        return float(np.maximum(self.whole - self.most, 0).sum() / self.whole.sum())


def lengths(
    data: Path, split: str, most: int = TOKENS, most_options: int = OPTION_TOKENS
) -> Lengths:
    """The lengths of a split's sequences, from the indices of its inputs."""
    passage = read_sizes(data / "input0" / split)
    columns = sorted(data.glob("input[0-9]*"), key=lambda path: int(path.name[5:]))[1:]
    options = [read_sizes(column / split) for column in columns]
    counts = read_counts(data, split, len(passage))
    return Lengths.of(passage, options, most, most_options, counts)
