"""The splits of a data set from preprocess's text columns, as these checks need them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from components.common.asked import Asked, read_asked
from components.common.dataset import COUNTS, natural
from components.common.errors import DataError
from components.common.files import plain

# Sentences shorter than this (bytes) are in many passages, as "Yes, I am" is.
SENTENCE = 24
_ENDS = bytes.maketrans(b"?!", b"..")

HINT = "Give RACE's archive or folder, a table of questions, or the folder that preprocess wrote"


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
        texts = (passage.translate(_ENDS).split(b". ") for passage in self.normal)
        return [[part for part in parts if len(part) >= SENTENCE] for parts in texts]

    def place(self, passage: int) -> str:
        """The id of a passage's first question."""
        return self.ids[self.starts[passage]]


def read_splits(text: Path) -> list[Split]:
    """train, dev and the test sets.

    Raises:
        DataError: columns are missing, damaged, or not of one length.
    """
    names = {path.name.removesuffix(".label") for path in text.glob("*.label")}
    order = ["train", "dev", *sorted(names - {"train", "dev"}, key=natural)]
    if not names >= {"train", "dev"}:
        raise DataError(f"{text}: no text columns of train and dev", hint=HINT)
    return [_read(text, name) for name in order]


def _read(text: Path, name: str) -> Split:
    def lines(column: str) -> list[bytes]:
        return plain(text / f"{name}.{column}").read_bytes().splitlines()

    columns = sorted(text.glob(f"{name}.input*"), key=lambda path: natural(path.name))
    try:
        with columns[0].open("rb") as file:  # a passage stands there again for each question
            runs = [(line[:-1], len([*same])) for line, same in groupby(file)]
        options = [path.read_bytes().split(b"\n")[:-1] for path in columns[1:]]
        labels = [int(label) for label in lines("label")]
        ids = [line.decode() for line in lines("id")]
        starts = [0]
        for _, length in runs[:-1]:
            starts.append(starts[-1] + length)
        rows = list(zip(*options, strict=True))
        if (text / f"{name}.{COUNTS}").is_file():
            counts = map(int, lines(COUNTS))
            rows = [row[:count] for row, count in zip(rows, counts, strict=True)]
        if not sum(length for _, length in runs) == len(rows) == len(labels) == len(ids):
            raise ValueError("columns of different lengths")
        if any(not 0 <= label < len(row) for label, row in zip(labels, rows, strict=True)):
            raise ValueError("a label that is none of the options")
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: missing", hint=HINT) from None
    except ValueError as error:
        raise DataError(f"{text / name}: {error}", hint="Run components.preprocess again") from None
    return Split(name, ids, labels, [line for line, _ in runs], starts, rows, text, len(options))
