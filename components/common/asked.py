"""The questions of a data set as people read them, from the preprocess step's folder."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from components.common import strict_json
from components.common.errors import DataError
from components.common.files import text_input

_HINT = "Give the folder that preprocess wrote"


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
    path, found = text / f"{split}.question", []
    with text_input(text / f"{split}.id", _HINT) as ids, text_input(path, _HINT) as lines:
        try:
            for name, line in zip(ids, lines, strict=True):
                question, *options = strict_json.loads(line)
                if not all(isinstance(part, str) for part in (question, *options)):
                    raise ValueError("not text")
                found.append(Asked(name.rstrip("\n"), question, tuple(options)))
        except (TypeError, ValueError) as error:
            what = f"{path}: line {len(found) + 1}: {error}"
            raise DataError(what, hint="Run components.preprocess again") from None
    return found


def read_passages(text: Path, split: str, wanted: Collection[int]) -> dict[int, str]:
    """The passages of the questions with these places (0-based) in a split.

    Raises:
        DataError: there is no such passage.
    """
    path, found = text / f"{split}.input0", {}
    with text_input(path, _HINT, newline="\n") as file:
        for place, line in enumerate(itertools.islice(file, max(wanted, default=-1) + 1)):
            if place in wanted:
                found[place] = line.rstrip("\n")
    if len(found) < len(wanted):
        raise DataError(
            f"{path}: fewer passages than questions", hint="Run components.preprocess again"
        )
    return found
