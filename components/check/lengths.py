"""How much of the questions a model gets to see, counted without writing them in binary."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.binarize.binarizer import Binarizer
from components.binarize.bpe import read_encoder
from components.check.columns import Split
from components.common.errors import DataError
from components.common.lengths import TOKENS, Lengths
from components.common.text import counted
from components.preprocess.text import AGAIN

BATCH = 4096  # lines that are encoded at a time


def cut(splits: Sequence[Split], bpe: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is cut off in each split, and the ids of the questions that lose most.

    Raises:
        DataError: the BPE is missing or damaged, or a text is not UTF-8.
    """
    binarizer = Binarizer(read_encoder(bpe / "encoder.json", bpe / "vocab.bpe"))
    for split in splits:
        if not split.labels:
            continue
        try:
            found = lengths_of(binarizer, split)
        except UnicodeDecodeError:
            raise DataError(f"{split.text / split.name}: not UTF-8", hint=AGAIN) from None
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


def lengths_of(binarizer: Binarizer, split: Split) -> Lengths:
    """The lengths that the split's sequences will have in binary data."""
    repeats = np.diff([*split.starts, len(split.labels)])
    passages = np.repeat(_sizes(binarizer, split.passages), repeats)
    columns = itertools.zip_longest(*split.options, fillvalue=b"")
    options = [_sizes(binarizer, column) for column in columns]
    return Lengths.of(passages, options, counts=[len(row) for row in split.options])


def _sizes(binarizer: Binarizer, lines: Sequence[bytes]) -> NDArray[np.int32]:
    """Tokens of each line, with the one that ends it in binary data."""
    batches = (list(lines[start : start + BATCH]) for start in range(0, len(lines), BATCH))
    return np.concatenate([binarizer.binarize(batch).sizes for batch in batches])
