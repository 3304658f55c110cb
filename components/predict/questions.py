"""Questions as people have them: a RACE file, or a question a line as JSON."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from components.preprocess.core import MAX_FILE_BYTES
from components.preprocess.passage import InvalidPassage, lines, parse

# What is taken from the input at a time, and answered before more is waited for.
STRETCH_BYTES = 1 << 20


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


@dataclass(frozen=True)
class BadLine:
    """Why a line cannot be answered."""

    line: int
    reason: str


def read_stretches(handle: int) -> Iterator[list[tuple[int, bytes]]]:
    """What there is to read, as lines with their numbers, as soon as it is there.

    Of a pipe or a terminal that is all that was written to it since, so that questions are answered
    while more of them are being made. An input whose first line is a single brace is one JSON
    object over several lines.

    Args:
        handle: a file descriptor that is open for reading.
    """
    number, rest, document = 0, b"", False
    while data := os.read(handle, STRETCH_BYTES):
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


def parse_line(number: int, line: bytes, options: int) -> list[Question] | BadLine:
    """The questions in a line.

    A line is a JSON object: {"article", "question", "options"}, with "id" and "answer" where they
    are known; or what a RACE file holds, whose "answers" may be missing.

    Args:
        options: how many each question must have.
    """
    if len(line) > MAX_FILE_BYTES:
        return BadLine(number, f"more than {MAX_FILE_BYTES >> 20} MiB")
    fields: Any = None
    try:
        fields = json.loads(line.decode())
        content = json.dumps(_as_race(fields)).encode() if type(fields) is dict else line
    except (ValueError, RecursionError):
        content = line  # what is wrong with it, `parse` knows to say
    try:
        passage = parse(content, options)
        text = lines(passage, options)
    except InvalidPassage as error:
        return BadLine(number, str(error))
    name = fields.get("id")
    name = str(name) if type(name) in (str, int) else str(number)
    known = "answers" in fields or fields.get("answer") is not None
    columns = [column.split(b"\n")[:-1] for column in text.inputs]
    labels = [int(label) for label in text.labels.split()]
    return [
        Question(
            line=number,
            name=name if "question" in fields else f"{name}#{place}",
            options=asked,
            inputs=list(inputs),
            gold=label if known else None,
        )
        for place, (asked, label, inputs) in enumerate(
            zip(passage.options, labels, zip(*columns, strict=True), strict=True)
        )
    ]


def _as_race(fields: dict[str, Any]) -> dict[str, Any]:
    """The content of a RACE file for a line's; an answer that is not known is put as A."""
    if "question" in fields:
        return {
            "article": fields.get("article"),
            "questions": [fields["question"]],
            "options": [fields.get("options")],
            "answers": ["A" if fields.get("answer") is None else fields["answer"]],
        }
    questions = fields.get("questions")
    if "answers" not in fields and type(questions) is list:
        return {**fields, "answers": ["A"] * len(questions)}
    return fields
