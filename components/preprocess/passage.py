"""One RACE file: read, checked, and turned into lines of text.

A file is a JSON object with a passage and its questions, in RACE with four options each (Lai et al.
2017, "RACE: Large-scale ReAding Comprehension Dataset From Examinations"):

    {"article": "...", "questions": ["..."], "options": [["...", "...", "...", "..."]],
     "answers": ["A"], "id": "high10024.txt"}
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from components.common.dataset import LETTERS, OPTIONS

# White space other than spaces and newlines.
ODD_ASCII_SPACE = [c for c in map(chr, range(128)) if c.isspace() and c not in " \n"]
LABELS = {letter: b"%d\n" % label for label, letter in enumerate(LETTERS)}
KINDS = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}


class InvalidPassage(ValueError):
    """Why a file is not a RACE passage."""


@dataclass(frozen=True, slots=True)
class Passage:
    """`questions`, `options` (each as many strings) and `answers` (letters) correspond."""

    article: str
    questions: list[str]
    options: list[list[str]]
    answers: list[str]


@dataclass(frozen=True, slots=True)
class Lines:
    """UTF-8 lines, each with its newline, one a question: the inputs, and the labels.

    Input 0 is the passage, again for each question; inputs 1, 2 and so on are the question with
    option A, B and so on; a label is the index of the right option.
    """

    inputs: tuple[bytes, ...]
    labels: bytes
    questions: int


def parse(content: bytes, count: int = OPTIONS) -> Passage:
    """The passage in the bytes of a RACE file.

    Args:
        count: options of each question, from 2 to 26.

    Raises:
        InvalidPassage: it is not JSON in UTF-8, or not of the form above. No question is allowed.
    """
    return check(decode(content), count)


def decode(content: bytes) -> dict[str, Any]:
    """The object in the bytes of a file; whatever Python's own module takes for JSON is read.

    Raises:
        InvalidPassage: it is not JSON in UTF-8, or no object.
    """
    try:
        fields = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise InvalidPassage(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise InvalidPassage("JSON nested too deeply") from None
    except ValueError as error:
        raise InvalidPassage(f"not JSON: {error}") from None
    if type(fields) is not dict:
        raise InvalidPassage(f"{kind_of(fields)} where an object is wanted")
    return fields


def check(fields: dict[str, Any], count: int = OPTIONS) -> Passage:
    """The passage in the object that a RACE file holds.

    Args:
        count: options of each question, from 2 to 26.

    Raises:
        InvalidPassage: it is not of the form above. No question is allowed.
    """
    article = fields.get("article")
    if type(article) is not str:
        raise InvalidPassage(f"article is {kind_of(article)}, not a string")
    questions, options, answers = (
        _list(fields, name) for name in ("questions", "options", "answers")
    )
    if not len(questions) == len(options) == len(answers):
        raise InvalidPassage(
            f"{len(questions)} questions, {len(options)} lists of options and "
            f"{len(answers)} answers: the numbers differ"
        )
    letters = tuple(LETTERS[:count])
    for i, (question, choices, answer) in enumerate(zip(questions, options, answers, strict=True)):
        if type(question) is not str:
            raise InvalidPassage(f"question {i} is {kind_of(question)}, not a string")
        if type(choices) is not list or len(choices) != count:
            what = f"{len(choices)} options" if type(choices) is list else kind_of(choices)
            raise InvalidPassage(f"question {i} has {what}, not a list of {count} options")
        for choice in choices:
            if type(choice) is not str:
                raise InvalidPassage(
                    f"an option of question {i} is {kind_of(choice)}, not a string"
                )
        if type(answer) is not str or answer not in letters:
            allowed = f"{', '.join(letters[:-1])} or {letters[-1]}"
            raise InvalidPassage(f"the answer of question {i} is {answer!r:.20}, not {allowed}")
    return Passage(article, questions, options, answers)


def lines(passage: Passage, count: int = OPTIONS) -> Lines:
    """What fairseq's examples/roberta/preprocess_RACE.py writes for the passage.

    An option takes the place of each underscore of its question, or follows it after a space; a run
    of white space becomes one space, so that no line holds a newline of any kind.

    Args:
        count: options of each question, or the most that one has.

    Raises:
        InvalidPassage: the text holds half of a surrogate pair, which UTF-8 cannot express.
    """
    context = collapse(passage.article) + "\n"
    asked = len(passage.questions)
    rows = [
        [question.replace("_", option) for option in options]
        if "_" in question
        else [f"{question} {option}" for option in options]
        for question, options in zip(passage.questions, passage.options, strict=True)
    ]
    # Of fewer options than others have, the rest are empty lines.
    columns = [*zip_longest(*rows, fillvalue="")]
    columns += [("",) * asked] * (count - len(columns))
    try:
        inputs = (context.encode() * asked, *[_column(texts).encode() for texts in columns])
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        raise InvalidPassage(f"half of a surrogate pair (\\u{half:04x}) in its text") from None
    return Lines(inputs, b"".join([LABELS[answer] for answer in passage.answers]), asked)


def _column(texts: Iterable[str]) -> str:
    # One look at all texts together is cheaper than one at each; "|" cannot make a run of spaces.
    together = "|".join(texts)
    if "  " in together or "\n" in together or _may_have_odd_space(together):
        texts = [collapse(text) for text in texts]
    return "\n".join([*texts, ""])


def collapse(text: str) -> str:
    r"""`re.sub(r"\s+", " ", text)`, many times faster on usual text."""
    if not _may_have_odd_space(text):
        text = text.replace("\n", " ")
        if "  " not in text:
            return text
    words = " ".join(text.split())
    before = " " if text[0].isspace() else ""
    after = " " if words and text[-1].isspace() else ""
    return before + words + after


def _may_have_odd_space(text: str) -> bool:
    """False only where spaces and newlines are all the white space there is."""
    if text.isascii():  # a search for each in turn is much faster than a look at each character
        return any(space in text for space in ODD_ASCII_SPACE)
    # Of all white space only the common space is printable.
    return not text.replace("\n", " ").isprintable()


def _list(fields: dict[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if type(value) is not list:
        raise InvalidPassage(f"{name} is {kind_of(value)}, not a list")
    return value


def kind_of(value: object) -> str:
    """What a value of JSON is called in errors."""
    return "missing or null" if value is None else KINDS.get(type(value), type(value).__name__)
