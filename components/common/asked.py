"""The questions of a data set as people read them, from the preprocess step's folder."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from components.common import strict_json
from components.common.errors import DataError
from components.common.files import plain


@dataclass(frozen=True)
class Asked:
    """A question with its options; an underscore in it is a blank that an option fills."""

    id: str
    question: str
    options: tuple[str, ...]


def read_asked(text: Path, split: str) -> list[Asked]:
    """The questions of a split (dev, test-middle or test-high) in the order of its columns.

    Raises:
        DataError: the files are missing, damaged or do not belong together.
    """
    found = []
    try:
        ids = plain(text / f"{split}.id").read_text(encoding="utf-8").splitlines()
        lines = plain(text / f"{split}.question").read_text(encoding="utf-8").splitlines()
        for name, line in zip(ids, lines, strict=True):
            question, *options = strict_json.loads(line)
            if not all(isinstance(part, str) for part in (question, *options)):
                raise ValueError("not text")
            found.append(Asked(name, question, tuple(options)))
    except OSError as error:
        raise DataError(
            f"{error.filename}: missing", hint="Give the folder that preprocess wrote"
        ) from None
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{text / split}.question: line {len(found) + 1}: {error}",
            hint="Run components.preprocess again",
        ) from None
    return found


def read_passages(text: Path, split: str, wanted: Collection[int]) -> dict[int, str]:
    """The passages of the questions with these places (0-based) in a split.

    Raises:
        DataError: there is no such passage.
    """
    path, found = text / f"{split}.input0", {}
    try:
        with plain(path).open(encoding="utf-8", newline="\n") as file:
            for place, line in enumerate(itertools.islice(file, max(wanted, default=-1) + 1)):
                if place in wanted:
                    found[place] = line.rstrip("\n")
    except (OSError, UnicodeDecodeError):
        raise DataError(
            f"{path}: missing or not text", hint="Give the folder that preprocess wrote"
        ) from None
    if len(found) < len(wanted):
        raise DataError(
            f"{path}: fewer passages than questions", hint="Run components.preprocess again"
        )
    return found
