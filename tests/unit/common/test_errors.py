"""What the error classes promise: one line, a status, and both survive a process boundary."""

import pickle

import pytest

from components.common import errors
from components.common.errors import DataError, RaceError, one_line

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


def test_an_error_reads_as_what_and_mend() -> None:
    assert str(DataError("a.txt: no answer", hint="Add it")) == "a.txt: no answer. Add it"
    assert str(DataError("a.txt: no answer")) == "a.txt: no answer"


def test_every_error_has_a_status_of_its_own() -> None:
    assert len({kind.exit_status for kind in KINDS}) == len(KINDS) == 8
    assert all(0 < kind.exit_status < 64 for kind in KINDS)
    assert errors.LASTING == (2, 3, 5, 7, 8)
    assert not any(kind.transient for kind in KINDS if kind.exit_status in errors.LASTING)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_a_process_boundary_whole(kind: type[RaceError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("what", hint="hint")))
    assert type(copy) is kind
    assert (copy.what, copy.hint) == ("what", "hint")


def test_an_error_stays_short_whatever_is_called_so_and_keeps_its_hint() -> None:
    line = str(DataError("a" * 1_000_000, hint="Rename it"))
    assert len(line) < 2100
    assert line.endswith("aaa.... Rename it")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\r\nlines\tand\u2028more", "two lines and more"),
        ("\x1b]0;title\x07\x1b[31mred", "\\x1b]0;title\\x07\\x1b[31mred"),
        ("not \udcff text", "not \\udcff text"),
        ("right \u202eto left", "right \\u202eto left"),
        ("größe 日本語", "größe 日本語"),
    ],
)
def test_an_error_is_one_line_that_a_terminal_does_not_obey(text: str, shown: str) -> None:
    assert one_line(text) == str(DataError(text)) == shown
