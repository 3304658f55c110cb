"""The splits of a data set from preprocess's text columns, as these checks need them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import Path

from components.common.asked import Asked, read_asked
from components.common.dataset import natural
from components.common.errors import DataError
from components.preprocess.text import AGAIN, Layout, layout_of, read_answers

# Sentences shorter than this (bytes) are in many passages, as "Yes, I am" is.
SENTENCE = 24
_ENDS = bytes.maketrans(b"?!", b"..")


@dataclass(frozen=True)
class Split:
    """One split's columns; all lists have one entry a question but `passages`.

    `options` are lines of a question with each of its options put in, and `columns` the most that
    a question has; `starts` are the places of the first questions of `passages`.
    """

    name: str
    ids: list[str]
    labels: list[int]
    passages: list[bytes]
    starts: list[int]
    options: list[tuple[bytes, ...]]
    text: Path
    columns: int

    @cached_property
    def asked(self) -> Sequence[Asked]:
        """The questions as they were asked; train has none."""
        return read_asked(self.text, self.name) if self.name != "train" else ()

    @cached_property
    def normal(self) -> list[bytes]:
        """The passages in lower case; preprocess has made all white space one space."""
        return [passage.lower() for passage in self.passages]

    @cached_property
    def sentences(self) -> list[list[bytes]]:
        """Those of each passage that are not short, in lower case."""
        texts = map(sentences_of, self.normal)
        return [[part for part in parts if len(part) >= SENTENCE] for parts in texts]

    def place(self, passage: int) -> str:
        """The id of a passage's first question."""
        return self.ids[self.starts[passage]]


def sentences_of(text: bytes) -> list[bytes]:
    return text.translate(_ENDS).split(b". ")


def read_splits(text: Path) -> list[Split]:
    """train, dev and the test sets.

    Raises:
        DataError: columns are missing, damaged, or not of one length.
    """
    layout = layout_of(text)
    tests = sorted(layout.splits.keys() - {"train", "dev"}, key=natural)
    return [_read(text, name, layout) for name in ("train", "dev", *tests)]


def _read(text: Path, name: str, layout: Layout) -> Split:
    answers = read_answers(text, name, layout)
    with (text / f"{name}.input0").open("rb") as file:  # a passage is there again for each question
        runs = [(line[:-1], len([*same])) for line, same in groupby(file)]
    lengths = [length for _, length in runs]
    columns = [(text / f"{name}.{c}").read_bytes().split(b"\n")[:-1] for c in layout.inputs[1:]]
    if {sum(lengths), *map(len, columns)} != {len(answers.labels)}:
        raise DataError(f"{text / name}: columns of different lengths", hint=AGAIN)
    rows = zip(*columns, strict=True)
    options = [row[:count] for row, count in zip(rows, answers.counts, strict=True)]
    return Split(
        name=name,
        ids=answers.ids,
        labels=answers.labels,
        passages=[line for line, _ in runs],
        starts=[*accumulate(lengths, initial=0)][:-1],
        options=options,
        text=text,
        columns=layout.options,
    )
