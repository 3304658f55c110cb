"""What the rows of tables say: passages with their questions, answers, levels and splits.

Answers are letters, indices or texts, in all tables of a data set the same; what they are is what
most of them can be, and what could be two things is refused, with both.
"""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.common import strict_json
from components.common.dataset import LETTERS
from components.common.errors import ConfigError, DataError
from components.preprocess.columns import Columns
from components.preprocess.passage import InvalidPassage, Passage, kind_of
from components.preprocess.source import Source
from components.preprocess.tables import SPLITS, find_tables, levels_of, read_rows, split_of

READINGS = {
    "letter": "a letter",
    "index0": "an index from 0",
    "index1": "an index from 1",
    "text": "an option's text",
}
Answers = Literal["auto", "letter", "index0", "index1", "text"]
HELP_ANSWERS = "what a table's answers are, where they do not tell"
HELP_SPLIT = (
    "shares in percent of train, dev and test, as 80/10/10, for a table without splits: each"
    " passage with its questions goes into one of them, always the same"
)

_RACE_ID = re.compile(r"(middle|high)\d+\.txt")

Group = tuple[str, str]  # split and level


@dataclass(slots=True)
class Row:
    """A question. `means` is the option, 0-based, that its answer is in each reading."""

    where: str  # file and row
    question: str
    options: list[str]
    answer: Any
    means: dict[str, int]
    id: str


@dataclass
class Table:
    """The questions of a data set's tables by split and level, then by passage, in their order.

    What is invalid stops the reading, or is noted in `skipped` where `skip` says so.
    """

    root: Path
    skip: bool
    groups: dict[Group, dict[str, list[Row]]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # file and row, why
    scheme: Sequence[str] = ()

    def rows(self) -> Iterator[Row]:
        for passages in self.groups.values():
            for rows in passages.values():
                yield from rows

    def passage(self, article: str, rows: Sequence[Row]) -> Passage:
        labels = [next(row.means[how] for how in self.scheme if how in row.means) for row in rows]
        return Passage(
            article,
            [row.question for row in rows],
            [row.options for row in rows],
            [LETTERS[label] for label in labels],
        )

    def refuse(self, where: str, why: str) -> None:
        """Raises DataError, or notes what is left out."""
        if not self.skip:
            hint = "Correct the file, or preprocess with --invalid skip"
            raise DataError(f"{self.root / where}: {why}", hint=hint)
        self.skipped.append((where, why))


def read_tables(
    source: Source, *, columns: str, answers: str, split: str, options: int, skip: bool
) -> Table | None:
    """The questions of all tables of a source; None where it has no table.

    Args:
        columns, answers, split: as the parameters have them.
        options: of each question; 0 is as many as each has.
        skip: leave out rows that are invalid, instead of stopping.

    Raises:
        DataError: a file or row cannot be read, or could mean two things; names file, row, column.
    """
    paths = find_tables(source)
    if not paths:
        return None
    table, known = Table(source.root, skip), Columns(columns)
    levels = levels_of(paths)
    for path in levels:
        file_split = split_of(path)
        with contextlib.closing(read_rows(source, path, known.fits)) as found:
            for number, fields in found:
                where = f"{path}, row {number}"
                try:
                    if isinstance(fields, str):
                        raise InvalidPassage(fields)
                    article, row, said = _row(where, fields, known.of(tuple(fields)), options)
                    if file_split and said.get("split") not in (None, file_split):
                        raise InvalidPassage(
                            f"its split is {said['split']}, its file's {file_split}"
                        )
                except InvalidPassage as error:
                    table.refuse(where, str(error))
                    continue
                level = said.get("level") or levels[path]
                if not level and (race := _RACE_ID.fullmatch(row.id)):
                    level = race[1]
                group = (said.get("split") or file_split, level)
                table.groups.setdefault(group, {}).setdefault(article, []).append(row)
    _decide(table, answers)
    _divide(table, source.root / paths[0] if len(paths) == 1 else source.root, split)
    _name(table)
    return table


def _row(
    where: str, fields: Mapping[str, Any], columns: Mapping[str, Any], count: int
) -> tuple[str, Row, dict[str, str]]:
    """The article, the row, and what it says of level and split."""
    article = fields[columns["article"]]
    if type(article) is list and all(type(turn) is str for turn in article):
        article = "\n".join(article)  # a dialogue, by turns
    for name, value in (("article", article), ("question", fields[columns["question"]])):
        if type(value) is not str:
            raise InvalidPassage(f"column {columns[name]}: {kind_of(value)} where text is wanted")
    options = _options(fields, columns["options"], count)
    answer = fields[columns["answer"]]
    if type(answer) not in (str, int, float):
        raise InvalidPassage(
            f"column {columns['answer']}: {kind_of(answer)} where an answer is wanted"
        )
    said = {}
    for name in ("id", "level", "split"):
        value = fields.get(columns.get(name, ""))
        if value is None:
            continue
        text = str(value).strip()
        if not text.isprintable() or (name == "level" and ("/" in text or text == "all")):
            raise InvalidPassage(f"column {columns[name]}: {text[:40]!a} cannot be a {name}")
        if name == "split" and text.casefold() not in SPLITS:
            raise InvalidPassage(f"column {columns[name]}: {text!r:.40} is not train, dev or test")
        said[name] = SPLITS[text.casefold()] if name == "split" else text
    means = _meant(answer, options)
    row = Row(where, fields[columns["question"]], options, answer, means, said.pop("id", ""))
    return article, row, said


def _options(fields: Mapping[str, Any], columns: Any, count: int) -> list[str]:
    if type(columns) is list:
        found = [fields[column] for column in columns]
        while found and found[-1] is None:
            found.pop()
        name = f"columns {columns[0]} to {columns[-1]}"
    else:
        name, found = f"column {columns}", fields[columns]
        if type(found) is str and found.lstrip().startswith("["):
            found = _listed(found)
        if type(found) is not list:
            raise InvalidPassage(f"{name}: {kind_of(found)} where a list of options is wanted")
    for place, option in enumerate(found if {*map(type, found)} != {str} else ()):
        if type(option) in (int, float):
            found[place] = str(option)
        elif type(option) is not str:
            raise InvalidPassage(
                f"{name}: option {LETTERS[place % 26]} is {kind_of(option)}, not text"
            )
    if not (len(found) == count if count else 2 <= len(found) <= len(LETTERS)):
        wanted = count or f"2 to {len(LETTERS)}"
        raise InvalidPassage(f"{name}: {len(found)} options, not {wanted}")
    return found


def _listed(text: str) -> Any:
    """A list in a cell of a CSV file, as JSON."""
    try:
        return strict_json.loads(text)
    except ValueError:
        return text


def _meant(answer: str | float, options: Sequence[str]) -> dict[str, int]:
    """The option, 0-based, that an answer means in each reading in which it means one."""
    text = str(answer).strip()
    found = {}
    letter = text.strip("(). ").upper()
    if len(letter) == 1 and letter in LETTERS[: len(options)]:
        found["letter"] = LETTERS.index(letter)
    number = text.removesuffix(".0")
    if number.isdecimal() and number.isascii() and len(number) < 3:
        if int(number) < len(options):
            found["index0"] = int(number)
        if 1 <= int(number) <= len(options):
            found["index1"] = int(number) - 1
    same = [p for p, option in enumerate(options) if text in option and option.strip() == text]
    if len(same) == 1:
        found["text"] = same[0]
    return found


def _decide(table: Table, answers: str) -> None:
    """Find what the answers of all tables are: what most of them can be; it must be one thing."""
    if answers == "auto":
        valid = Counter(reading for row in table.rows() for reading in row.means)
        most = max(valid.values(), default=0)
        table.scheme = [reading for reading in READINGS if valid[reading] == most]
    else:
        table.scheme = [answers]
    for group, passages in table.groups.items():
        kept = {
            a: [row for row in rows if _is_answered(row, table)] for a, rows in passages.items()
        }
        table.groups[group] = {article: rows for article, rows in kept.items() if rows}


def _is_answered(row: Row, table: Table) -> bool:
    readings = [(name, row.means[name]) for name in table.scheme if name in row.means]
    for other, second in readings:
        one, first = readings[0]
        if first != second:
            raise DataError(
                f"{table.root / row.where}: the answer {row.answer!r:.20} may be {READINGS[one]}"
                f" ({LETTERS[first]}) or {READINGS[other]} ({LETTERS[second]})",
                hint=f"Choose with --answers {one} or --answers {other}",
            )
    if not readings:
        last = LETTERS[len(row.options) - 1]
        named = " or ".join(READINGS[reading] for reading in table.scheme)
        why = f"the answer {row.answer!r:.40} is none of the options A to {last} (read as {named})"
        table.refuse(row.where, why)
    return bool(readings)


def _divide(table: Table, where: Path, split: str) -> None:
    """Put what has no split into one by its passage, and see that none is missing."""
    unknown = [group for group in table.groups if not group[0]]
    if unknown and not split:
        raise DataError(
            f"{where}: neither a file's name nor a column says what is train, dev and test",
            hint="Name files after their splits, or divide with --split 80/10/10",
        )
    if unknown:
        shares = shares_of(split)
        # A passage that is in a split stays in it.
        place = {a: group[0] for group in table.groups if group[0] for a in table.groups[group]}
        articles = sorted(
            {article for group in unknown for article in table.groups[group]} - place.keys(),
            key=lambda article: hashlib.sha256(article.encode("utf-8", "replace")).digest(),
        )
        ends = [round(sum(shares[: n + 1]) * len(articles) / 100) for n in range(3)]
        names = ("train", "dev", "test")
        place |= {a: names[sum(i >= end for end in ends[:2])] for i, a in enumerate(articles)}
        for group in unknown:
            for article, rows in table.groups.pop(group).items():
                new = (place[article], group[1])
                table.groups.setdefault(new, {}).setdefault(article, []).extend(rows)
    found = {split for (split, _), passages in table.groups.items() if passages}
    if not found:
        raise DataError(f"{where}: no question in it", hint="Check the file")
    if missing := [split for split in ("train", "dev", "test") if split not in found]:
        raise DataError(
            f"{where}: no question for {' and '.join(missing)}",
            hint="Add a file of that name; or give one table without splits, and --split 80/10/10",
        )


def shares_of(split: str) -> list[int]:
    """The shares of train, dev and test in percent.

    Raises:
        ConfigError: they are not three that make 100.
    """
    shares = [int(share) for share in split.split("/") if share.isdecimal()]
    if len(shares) != 3 or sum(shares) != 100 or not all(shares) or split.count("/") != 2:
        raise ConfigError(
            f"split is {split!r:.40}", hint="Use three shares that make 100: 80/10/10"
        )
    return shares


def _name(table: Table) -> None:
    """Give each question an id of its own in its split: what the table has, or file and row."""
    splits: dict[str, Counter[str]] = {}
    for (split, _), passages in table.groups.items():
        ids = splits.setdefault(split, Counter())
        ids.update(row.id for rows in passages.values() for row in rows)
    seen: dict[tuple[str, str], int] = Counter()
    for (split, _), passages in table.groups.items():
        unique = max(splits[split].values(), default=1) == 1
        for rows in passages.values():
            for row in rows:
                name = row.id or row.where.replace(", row ", "#")
                if row.id and not unique:
                    seen[split, name] += 1
                    name = f"{name}#{seen[split, name] - 1}"
                row.id = name
