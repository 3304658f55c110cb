import json
from pathlib import Path

import pytest

from components.common.asked import Asked, read_asked, read_passages
from components.common.errors import DataError


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "dev.id").write_text("middle/1.txt#0\nmiddle/1.txt#1\n")
    lines = [["What _ ?", "a", "b\u2028c", "d", "é"], ["Why?", "", "x", "y", "z"]]
    (tmp_path / "dev.question").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "dev.input0").write_text("one\u2028passage\nanother\n", encoding="utf-8")
    return tmp_path


def test_questions_are_read_as_they_were_asked(text: Path) -> None:
    assert read_asked(text, "dev") == [
        Asked("middle/1.txt#0", "What _ ?", ("a", "b\u2028c", "d", "é")),
        Asked("middle/1.txt#1", "Why?", ("", "x", "y", "z")),
    ]
    assert read_passages(text, "dev", {0, 1}) == {0: "one\u2028passage", 1: "another"}
    assert read_passages(text, "dev", {1}) == {1: "another"}
    assert read_passages(text, "dev", set()) == {}


@pytest.mark.parametrize(
    "content", ["[]\n", '["a"]\n[1, "b"]\n', '["a"]\n', '["a"]\n{"x"\n', '["a"]\n["b"]\n["c"]\n']
)
def test_damaged_questions_are_refused(text: Path, content: str) -> None:
    (text / "dev.question").write_text(content)
    with pytest.raises(DataError, match=r"dev\.question: line \d"):
        read_asked(text, "dev")


def test_missing_files_are_named(text: Path) -> None:
    with pytest.raises(DataError, match=r"fewer passages than questions"):
        read_passages(text, "dev", {5})
    (text / "dev.input0").unlink()
    with pytest.raises(DataError, match=r"dev\.input0: no such file"):
        read_passages(text, "dev", {0})
    (text / "dev.question").unlink()
    with pytest.raises(DataError, match=r"dev\.question: no such file"):
        read_asked(text, "dev")


def test_what_cannot_be_read_is_not_called_missing(text: Path) -> None:
    for name in ("dev.question", "dev.input0"):
        (text / name).unlink()
        (text / name).mkdir()
    with pytest.raises(IsADirectoryError):
        read_asked(text, "dev")
    with pytest.raises(IsADirectoryError):
        read_passages(text, "dev", {0})
