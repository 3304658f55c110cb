import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.preprocess.passage import InvalidPassage, Passage, collapse, lines, parse

GOOD = {
    "article": "It rained.",
    "questions": ["What did it do?", "It _ ."],
    "options": [["rain", "snow", "hail", "stop"], ["rained", "snowed", "hailed", "stopped"]],
    "answers": ["A", "B"],
}


def as_bytes(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_question_takes_the_option_after_it_or_in_its_blanks() -> None:
    found = lines(parse(as_bytes(questions=["What did it do?", "It _ and _ ."])))
    assert found.inputs == (
        b"It rained.\n" * 2,
        b"What did it do? rain\nIt rained and rained .\n",
        b"What did it do? snow\nIt snowed and snowed .\n",
        b"What did it do? hail\nIt hailed and hailed .\n",
        b"What did it do? stop\nIt stopped and stopped .\n",
    )
    assert found.labels == b"0\n1\n"
    assert found.questions == 2


def test_no_question_is_valid_and_gives_no_line() -> None:
    found = lines(parse(as_bytes(questions=[], options=[], answers=[])))
    assert found.inputs == (b"",) * 5
    assert found.labels == b""


def test_what_json_tolerates_is_tolerated() -> None:
    content = as_bytes().replace(b"{", b'{"article": 1, "more": [NaN, {}], ', 1)
    assert parse(b" \r\n" + content).article == "It rained."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (as_bytes()[:-20], "not JSON"),
        (as_bytes() + b"}", "not JSON"),
        (as_bytes(article="\xe9").replace(b"\\u00e9", b"\xe9"), "not UTF-8 at byte 13"),
        (b"\xef\xbb\xbf" + as_bytes(), "BOM"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"article": ' + b"9" * 5_000 + b"}", "not JSON"),
        (as_bytes().replace(b"It rained.", b"It\nrained."), "not JSON"),
        (b"[]", "a list where an object is wanted"),
        (b"null", "where an object is wanted"),
        (as_bytes(article=None), "article is missing or null"),
        (as_bytes(article=["x"]), "article is a list, not a string"),
        (as_bytes(questions="What?"), "questions is a string, not a list"),
        (as_bytes(options=None), "options is missing or null, not a list"),
        (as_bytes(answers={"0": "A"}), "answers is an object, not a list"),
        (as_bytes(answers=["A"]), "2 questions, 2 lists of options and 1 answers"),
        (as_bytes(questions=["What?"]), "1 questions, 2 lists of options and 2 answers"),
        (as_bytes(questions=["What?", 3]), "question 1 is a number, not a string"),
        (as_bytes(options=[["a", "b", "c"], ["a"] * 4]), "question 0 has 3 options"),
        (as_bytes(options=[["a"] * 4, ["a"] * 5]), "question 1 has 5 options"),
        (as_bytes(options=[["a"] * 4, "abcd"]), "question 1 has a string"),
        (as_bytes(options=[["a", "b", "c", None], ["a"] * 4]), "an option of question 0"),
        (as_bytes(answers=["A", "E"]), "the answer of question 1 is 'E'"),
        (as_bytes(answers=["a", "B"]), "the answer of question 0 is 'a'"),
        (as_bytes(answers=["A", "AB"]), "the answer of question 1 is 'AB'"),
        (as_bytes(answers=["A", 1]), "the answer of question 1 is 1"),
        (as_bytes(answers=["A", ["A"]]), "the answer of question 1 is"),
    ],
)
def test_invalid_file_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(InvalidPassage, match=re.escape(reason)):
        parse(content)


@pytest.mark.parametrize("where", ["article", "question", "option"])
def test_half_of_a_surrogate_pair_is_refused(where: str) -> None:
    texts = {"article": "a", "question": "q", "option": "o", where: "\ud800"}
    passage = Passage(
        texts["article"], [texts["question"]], [["x", "y", "z", texts["option"]]], ["A"]
    )
    with pytest.raises(InvalidPassage, match=r"surrogate pair \(\\ud800\)"):
        lines(passage)


ODD = st.text(st.sampled_from(["a", " ", "\n", "\t", "\r", "\x1c", "\x85", "\xa0", "\u2028", "é"]))


@given(st.one_of(ODD, st.text(st.characters(exclude_categories=["Cs"]))))
def test_collapse_is_the_regular_expression(text: str) -> None:
    assert collapse(text) == re.sub(r"\s+", " ", text)


def test_collapse_knows_all_white_space() -> None:
    for code in range(0x110000):
        text = f"a{chr(code)}b"
        assert collapse(text) == ("a b" if re.match(r"\s", chr(code)) else text)


@given(article=ODD, question=ODD, options=st.lists(ODD, min_size=4, max_size=4))
def test_no_line_holds_a_newline_of_any_kind(
    article: str, question: str, options: list[str]
) -> None:
    found = lines(Passage(article, [question, "_"], [options, options], ["A", "D"]))
    for column in found.inputs:
        rows = column.decode().split("\n")
        assert len(rows) == 3
        assert all(len(row.splitlines()) <= 1 for row in rows)
