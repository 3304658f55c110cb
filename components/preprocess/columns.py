"""Which column of a table is what.

A row has the passage (article, passage, context, text or dialogue), the question, the options as a
list (options, choices) or in columns of their own (A to Z, option1 to option26), the answer, and
perhaps an id, a level and a split. What could be two columns is refused, with both.
"""

import re
from collections.abc import Mapping
from typing import Any

from components.common.errors import ConfigError
from components.preprocess.passage import InvalidPassage

SYNONYMS = {
    "article": ("article", "passage", "context", "text", "dialogue"),
    "question": ("question", "query"),
    "options": ("options", "choices", "choice", "candidates"),
    "answer": ("answer", "answerkey", "correctanswer", "correct", "label", "gold", "solution"),
    "id": ("id", "exampleid", "questionid"),
    "level": ("level", "difficulty"),
    "split": ("split",),
}
NEEDED = ("article", "question", "options", "answer")
HELP_COLUMNS = (
    "a table's columns, where their names do not tell: article=NAME,question=NAME,answer=NAME,"
    "options=NAME or options=NAME+NAME+NAME (one each), id, level, split"
)

_OPTION = re.compile(r"(?:options?|choices?|answers?|opt|ending)?([a-z])")
_NUMBERED = re.compile(r"(?:options?|choices?|answers?|opt|ending)(\d{1,2})")


class Columns:
    """Which column is what, by the names that are given or else by their synonyms.

    Args:
        given: as `--columns` has it.

    Raises:
        ConfigError: it is not of that form.
    """

    def __init__(self, given: str) -> None:
        self.given: dict[str, str] = {}
        for pair in filter(None, given.split(",")):
            name, _, column = pair.partition("=")
            if name.strip() not in SYNONYMS or not column.strip():
                raise ConfigError(
                    f"columns has {pair!r:.60}", hint=f"Use NAME=COLUMN, NAME {', '.join(SYNONYMS)}"
                )
            self.given[name.strip()] = column.strip()
        self._known: dict[tuple[str, ...], dict[str, Any]] = {}

    def fits(self, header: tuple[str, ...]) -> bool:
        try:
            return bool(self.of(header))
        except InvalidPassage:
            return False

    def of(self, header: tuple[str, ...]) -> dict[str, Any]:
        """The column of each part of a question; of options the one, or a list of them.

        Raises:
            InvalidPassage: one that is needed is not there, or could be one of two columns.
        """
        if header not in self._known:
            found = {name: self._find(name, header) for name in SYNONYMS}
            for name in NEEDED:
                if not found[name]:
                    has = ", ".join(filter(None, header)) or "none"
                    raise InvalidPassage(
                        f"no column for the {name} (its columns: {has}); say which with --columns"
                    )
            self._known[header] = {name: column for name, column in found.items() if column}
        return self._known[header]

    def _find(self, name: str, header: tuple[str, ...]) -> Any:
        if given := self.given.get(name):
            names = given.split("+") if name == "options" and given not in header else [given]
            if missing := [column for column in names if column not in header]:
                if name in NEEDED:
                    raise InvalidPassage(
                        f"no column {missing[0]} (its columns: {', '.join(header)})"
                    )
                return None
            return names if len(names) > 1 else names[0]
        taken = set(self.given.values())
        plain = {c: re.sub(r"[\W_]+", "", c.casefold()) for c in header if c not in taken}
        found: list[Any] = [column for column, p in plain.items() if p in SYNONYMS[name]]
        if name == "options":
            found += [*_series(plain, _OPTION), *_series(plain, _NUMBERED)]
        if len(found) > 1:
            one, other = ("+".join(f) if type(f) is list else f for f in found[:2])
            raise InvalidPassage(
                f"columns {one} and {other} could both be the {name}; choose with --columns"
                f" {name}={one} or --columns {name}={other}"
            )
        return found[0] if found else None


def _series(plain: Mapping[str, str], form: re.Pattern[str]) -> list[list[str]]:
    """Columns that are numbered or lettered one after the other, if there are two or more."""
    places: dict[int, str] = {}
    for column, name in plain.items():
        if match := form.fullmatch(name):
            said = match[1]
            places.setdefault(int(said) if said.isdecimal() else ord(said) - ord("a"), column)
    first = int(form is _NUMBERED and 0 not in places)
    run: list[str] = []
    while first + len(run) in places:
        run.append(places[first + len(run)])
    return [run] if len(run) > 1 else []
