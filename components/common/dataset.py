"""How a data set lies in folders, as the steps agree on it: levels, test sets, options.

A data set has train, dev and test, each with the same levels. RACE has middle and high; others may
have other levels, or none, where a split's files lie in the split's folder itself.

In text columns a test set is called test-{level}, or test where there is no level; fairseq's
names for test sets are test, test1, test2 and so on, in the order of the levels.
"""

import math
import re
from collections.abc import Collection
from pathlib import Path

from components.common import strict_json
from components.common.errors import ConfigError, DataError, one_line

# RACE's.
OPTIONS = 4
LEVELS = ("middle", "high")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# The column of each question's number of options, where they differ; the inputs of options that a
# question lacks are empty lines, and are never scored.
COUNTS = "options"

# In the folder of binary data: for each split of the text columns, what fairseq calls it.
SPLITS_FILE = "splits.json"


# Where a data set or a pretrained model came from: what download says, handed on from step to step.
ORIGIN_FILE = "origin.json"


def write_origin(folder: Path, name: str) -> None:
    """Say what a folder holds: a name on the Hugging Face hub, OWNER/NAME, or of a file."""
    if not (folder / ORIGIN_FILE).exists():  # an archive may hold one of its own
        strict_json.write(folder / ORIGIN_FILE, {"name": name})


def read_origin(folder: Path) -> str:
    """The name that `write_origin` has written, "" where it is not known."""
    try:
        name = strict_json.read(folder / ORIGIN_FILE)["name"]
    except (OSError, LookupError, TypeError, ValueError):
        return ""
    return one_line(name)[:200] if isinstance(name, str) else ""


def copy_origin(source: Path, folder: Path) -> None:
    """Hand a name on, where it is known."""
    if name := read_origin(source):
        write_origin(folder, name)


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts names by the numbers in them."""
    pieces = re.split("([0-9]+)", name)
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], name


def in_order(levels: Collection[str]) -> list[str]:
    """Levels in their order: RACE's own as RACE has them, then others by their names."""
    return [level for level in LEVELS if level in levels] + sorted(
        set(levels) - set(LEVELS), key=natural
    )


def split_of(level: str) -> str:
    """The name of a level's test set in text columns."""
    return f"test-{level}" if level else "test"


def level_of(split: str) -> str:
    """What the test set of text columns is called when people speak of it: its level, or `test`."""
    return split.removeprefix("test-")


def fairseq_splits(levels: Collection[str]) -> dict[str, str]:
    """fairseq's name for each split of the text columns of a data set with these levels."""
    tests = [split_of(level) for level in in_order(levels)]
    return {"train": "train", "dev": "valid"} | {
        split: f"test{number or ''}" for number, split in enumerate(tests)
    }


def read_test_sets(data: Path) -> dict[str, str]:
    """The test sets of a folder of binary data: fairseq's name, and that of the text columns.

    A folder without splits.json, as fairseq's own scripts write it, is taken for RACE.

    Raises:
        DataError: splits.json is damaged.
    """
    path = data / SPLITS_FILE
    try:
        found = strict_json.read(path)
        splits = {str(ours): str(theirs) for ours, theirs in found.items()}
    except FileNotFoundError:
        splits = fairseq_splits(LEVELS)
    except (AttributeError, ValueError):
        raise DataError(f"{path}: not what binarize writes", hint="Binarize again") from None
    return {theirs: ours for ours, theirs in splits.items() if theirs.startswith("test")}


def count_options(data: Path) -> int:
    """The options of each question in a folder of binary data: one for each input but the passage.

    Raises:
        DataError: there are no inputs, or one is missing between others.
    """
    names = {path.name for path in data.glob("input*") if path.is_dir()}
    options = len(names) - 1
    if options < 2 or names != {f"input{column}" for column in range(options + 1)}:
        raise DataError(
            f"{data}: holds {', '.join(sorted(names, key=natural)) or 'no inputs'}, not input0 (the"
            " passages) and one for each option from input1 on",
            hint="Give the folder that binarize wrote",
        )
    return options


def read_counts(data: Path, split: str, questions: int) -> list[int] | None:
    """Each question's number of options in binary data; None where all have the same.

    Raises:
        DataError: the file is damaged, or has not as many as there are questions.
    """
    path = data / COUNTS / f"{split}.{COUNTS}"
    if not path.is_file():
        return None
    return parse_counts(path, questions, count_options(data), "Binarize again")


def parse_counts(path: Path, questions: int, most: int, hint: str) -> list[int]:
    """The numbers of options in a file, from 2 to `most`, one a line, of this many questions.

    Raises:
        DataError: the file is damaged, or has not as many as there are questions.
    """
    counts = [int(line) if line.isdigit() else 0 for line in path.read_bytes().splitlines()]
    if len(counts) != questions or not all(2 <= count <= most for count in counts):
        raise DataError(f"{path}: not the numbers of options of {questions} questions", hint=hint)
    return counts


def guessed_among(data: Path) -> float:
    """The number of options whose logarithm is the loss of guessing on the train split.

    Where questions differ it is the geometric mean of their numbers.
    """
    path = data / COUNTS / f"train.{COUNTS}"
    if not path.is_file():
        return count_options(data)
    counts = path.read_bytes().split()
    return math.exp(sum(math.log(int(count)) for count in counts) / len(counts))


def require_equal(data: Path) -> None:
    """Refuse data in which questions differ in their number of options, for the engine stock.

    Raises:
        ConfigError: they differ.
    """
    if (data / COUNTS).is_dir():
        raise ConfigError(
            f"{data}: its questions differ in their number of options, which engine stock cannot"
            " score",
            hint="Use engine packed",
        )
