"""How much of the questions a model gets to see, counted without writing them in binary."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.binarize.bpe import Encoder, read_encoder
from components.check.columns import Split
from components.common.lengths import TOKENS, Lengths
from components.common.text import counted

BATCH = 4096  # lines that are encoded at a time


def cut(splits: Sequence[Split], bpe: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is cut off in each split, and the ids of the questions that lose most.

    Raises:
        DataError: the BPE is missing or damaged.
    """
    encoder = read_encoder(bpe / "encoder.json", bpe / "vocab.bpe")
    for split in splits:
        if not split.labels:
            continue
        repeats = np.diff([*split.starts, len(split.labels)])
        passages = np.repeat(_sizes(encoder, split.passages), repeats)
        columns = itertools.zip_longest(*split.options, fillvalue=b"")
        options = [_sizes(encoder, column) for column in columns]
        found = Lengths.of(passages, options, counts=[len(row) for row in split.options])
        longest = found.whole.max(axis=1)
        number = int(found.questions_cut.sum())
        if number:
            order = np.argsort(-longest, kind="stable")[:number]
            yield (
                f"{counted(number, 'question')} of {split.name}"
                f" ({number / len(longest):.1%}) lose text beyond {TOKENS} tokens,"
                f" {found.lost:.1%} of all of it",
                tuple(split.ids[n] for n in order),
            )


def _sizes(encoder: Encoder, lines: Sequence[bytes]) -> NDArray[np.int64]:
    """Tokens of each line, with the one that ends it in binary data."""
    found = []
    for start in range(0, len(lines), BATCH):
        ids = encoder.encode(list(lines[start : start + BATCH]))
        ends = np.flatnonzero(ids == encoder.newline)
        found.append(np.diff(ends, prepend=-1))
    return np.concatenate(found)
