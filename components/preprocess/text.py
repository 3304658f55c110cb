"""The folder of text columns that preprocess writes, as the steps that read it find it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from components.common.dataset import COUNTS, LEVELS, OPTIONS, fairseq_splits, parse_counts
from components.common.errors import DataError

AGAIN = "Run components.preprocess again"


@dataclass(frozen=True)
class Layout:
    """What the folder holds: our name for each split with fairseq's, and options.

    Where questions have different numbers of them, it is the most, and they are not `equal`.
    """

    splits: dict[str, str]
    options: int
    equal: bool = True

    @property
    def copied(self) -> tuple[str, ...]:
        return ("label", "id") if self.equal else ("label", "id", COUNTS)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(f"input{column}" for column in range(self.options + 1))


def layout_of(text: Path) -> Layout:
    """What the names of the files tell; RACE's own where they tell nothing."""
    names = os.listdir(text) if text.is_dir() else []
    inputs = [re.fullmatch(r".+\.input(\d+)", name) for name in names]
    options = max((int(found[1]) for found in inputs if found), default=OPTIONS)
    tests = [re.fullmatch(r"test(?:-(.+))?\.(?:input\d+|label|id)", name) for name in names]
    levels = {found[1] or "" for found in tests if found}
    equal = not any(name.endswith(f".{COUNTS}") for name in names)
    return Layout(fairseq_splits(levels or LEVELS), options, equal)


@dataclass(frozen=True)
class Answers:
    """For each question of a split its id, its label, and its number of options."""

    ids: list[str]
    labels: list[int]
    counts: list[int]


def read_answers(text: Path, split: str, layout: Layout) -> Answers:
    """The columns of a split that are not encoded; the others have to be there.

    Raises:
        DataError: a column is missing or of another length, a label is none of the options, or
            an id is not UTF-8.
    """
    for column in (*layout.inputs, *layout.copied):
        if not (text / f"{split}.{column}").is_file():
            raise DataError(
                f"{text}: {split}.{column} is missing", hint="Run components.preprocess first"
            )
    lines = (text / f"{split}.label").read_bytes().splitlines()
    counts = [layout.options] * len(lines)
    if not layout.equal:
        counts = parse_counts(text / f"{split}.{COUNTS}", len(lines), layout.options, AGAIN)
    labels = {b"%d" % label: label for label in range(layout.options)}
    for number, (line, count) in enumerate(zip(lines, counts, strict=True), start=1):
        if labels.get(line, count) >= count:
            raise DataError(
                f"{text / split}.label: line {number} is {line!r:.20}, not one of the"
                f" {count} options (0 to {count - 1})",
                hint=AGAIN,
            )
    try:
        ids = [line.decode() for line in (text / f"{split}.id").read_bytes().splitlines()]
    except UnicodeDecodeError:
        raise DataError(f"{text / split}.id: not UTF-8", hint=AGAIN) from None
    if len(ids) != len(lines):
        raise DataError(
            f"{text / split}.label has {len(lines)} lines, and {split}.id has {len(ids)}",
            hint=AGAIN,
        )
    return Answers(ids, [labels[line] for line in lines], counts)
