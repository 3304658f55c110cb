"""Questions as people have them: a RACE file, or a question a line as JSON."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from components.common.dataset import LETTERS
from components.preprocess.passage import InvalidPassage, Passage, check, decode, lines
from components.preprocess.source import MAX_FILE_BYTES

# What is taken from the input at a time, and answered before more is waited for.
CHUNK_BYTES = 1 << 20
# What a line may become: its passage stands there for each question, an option for each underscore.
MOST_CHARACTERS = 16 * MAX_FILE_BYTES


@dataclass(frozen=True)
class Question:
    """A question as it is answered.

    Args:
        line: where it was read, from 1.
        name: the id that was given or else the line, and which of the questions there it is.
        options: as they were asked.
        inputs: the lines that the preprocess step writes of it: the passage, and the question with
            each option.
        gold: the right option, 0-based; None where it is not known.
    """

    line: int
    name: str
    options: list[str]
    inputs: list[bytes]
    gold: int | None


def read_chunks(handle: int) -> Iterator[list[tuple[int, bytes]]]:
    """What there is to read, as lines with their numbers, as soon as it is there.

    Of a pipe or a terminal that is all that was written to it since, so that questions are answered
    while more of them are being made. An input whose first line is a single brace is one JSON
    object over several lines.

    Args:
        handle: a file descriptor that is open for reading.
    """
    number, rest, document = 0, b"", False
    while data := os.read(handle, CHUNK_BYTES):
        if document:
            rest = (rest + data)[: MAX_FILE_BYTES + 1]
            continue
        *whole, rest = (rest + data).split(b"\n")
        if number == 0 and whole and whole[0].strip() == b"{":
            document, rest = True, b"\n".join([*whole, rest])
            continue
        rest = rest[: MAX_FILE_BYTES + 1]  # such a line is refused: no more of it is kept
        if whole:
            yield list(enumerate(whole, start=number + 1))
        number += len(whole)
    if rest:
        yield [(number + 1, rest)]


def parse_line(number: int, line: bytes, options: int) -> list[Question]:
    """The questions in a line.

    A line is a JSON object: {"article", "question", "options"}; or what a RACE file holds. "id" and
    the right answers (see `_known`) are there where they are known.

    Args:
        options: how many questions have that do not show it, for each option is scored by itself.

    Raises:
        InvalidPassage: it cannot be answered.
    """
    if len(line) > MAX_FILE_BYTES:
        raise InvalidPassage(f"more than {MAX_FILE_BYTES >> 20} MiB")
    return read_fields(number, decode(line), options)


def read_fields(
    number: int, fields: dict[str, Any], options: int, most: int = MOST_CHARACTERS
) -> list[Question]:
    """The questions in the object that a line holds, see `parse_line`.

    Args:
        most: characters of all that the model would be given to read.

    Raises:
        InvalidPassage: it holds none that can be answered.
    """
    race = _as_race(fields)
    options = _count(race, options)
    passage = check(race, options)
    gold = _known(fields, passage.options)
    if (made := _characters(passage)) > most:
        raise InvalidPassage(f"it becomes {made:,} characters to read, more than {most:,}")
    text = lines(passage, options)
    name = _name(fields.get("id"), number)
    columns = [column.split(b"\n")[:-1] for column in text.inputs]
    return [
        Question(
            line=number,
            name=name if "question" in fields else f"{name}#{place}",
            options=asked,
            inputs=list(inputs),
            gold=gold[place],
        )
        for place, (asked, inputs) in enumerate(
            zip(passage.options, zip(*columns, strict=True), strict=True)
        )
    ]


def _characters(passage: Passage) -> int:
    """How long the lines become that are made of it."""
    asked = zip(passage.questions, passage.options, strict=True)
    return len(passage.article) * len(passage.questions) + sum(
        len(question) * len(options) + max(1, question.count("_")) * sum(map(len, options))
        for question, options in asked
    )


def _count(race: dict[str, Any], usual: int) -> int:
    """How many options the first question has.

    Raises:
        InvalidPassage: it may not have as many.
    """
    given = race.get("options")
    first = given[0] if type(given) is list and given else None
    if type(first) is not list:
        return usual
    if not 2 <= len(first) <= len(LETTERS):
        raise InvalidPassage(f"question 0 has {len(first)} options, not 2 to {len(LETTERS)}")
    return len(first)


def _name(given: Any, line: int) -> str:
    """The id that was given, or else the number of the line.

    Raises:
        InvalidPassage: it holds half of a surrogate pair, which no answer could.
    """
    name = str(given) if type(given) in (str, int) else str(line)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidPassage(f"half of a surrogate pair in its id {name!r:.40}") from None
    return name


def _as_race(fields: dict[str, Any]) -> dict[str, Any]:
    """What a RACE file would hold, with A for all answers, which `_known` reads."""
    if "question" in fields:
        fields = {
            "article": fields.get("article"),
            "questions": [fields["question"]],
            "options": [fields.get("options")],
        }
    questions = fields.get("questions")
    return {**fields, "answers": ["A"] * (len(questions) if type(questions) is list else 0)}


def _known(fields: dict[str, Any], options: list[list[str]]) -> list[int | None]:
    """The right option of each question, 0-based; None where a line does not say, or says null.

    It is called answer, answers or label: a list with an answer for each question, or the one
    answer to a single question.

    Raises:
        InvalidPassage: an answer cannot be understood, or two contradict each other.
    """
    found: list[int | None] = [None] * len(options)
    for name in ("answer", "answers", "label"):
        values = fields.get(name)
        if values is None:
            continue
        values = values if type(values) is list else [values]
        if len(values) != len(options):
            raise InvalidPassage(f"{name}: {len(values)} answers for {len(options)} questions")
        for place, (value, texts) in enumerate(zip(values, options, strict=True)):
            if value is None:
                continue
            # RACE's own answers are letters, whatever its options say.
            option = _option(value, place, texts, by_text="question" in fields)
            if found[place] not in (None, option):
                raise InvalidPassage(f"two answers of question {place} contradict each other")
            found[place] = option
    return found


def _option(value: Any, place: int, texts: list[str], *, by_text: bool) -> int:
    """The option that a letter of either case, an index from 0, or the very text means.

    "1" is no index: it may be meant from 0 or from 1.
    """
    meant: set[int] = set()
    if type(value) is int and 0 <= value < len(texts):
        meant = {value}
    elif type(value) is str:
        if len(value) == 1 and value.upper() in LETTERS[: len(texts)]:
            meant = {LETTERS.index(value.upper())}
        if by_text:
            meant |= {i for i, text in enumerate(texts) if text == value}
    if len(meant) == 1:
        return meant.pop()
    last = len(texts) - 1
    letters = f"{', '.join(LETTERS[:last])} or {LETTERS[last]}"
    why = "which means several options" if meant else f"not {letters}, 0 to {last}, or an option"
    raise InvalidPassage(f"the answer of question {place} is {value!r:.20}, {why}")
