"""What bars promise: on a terminal a bar, elsewhere nothing; log lines stay whole beside them."""

import io
import logging
import sys

import pytest

from components.common.progress import LogHandler, bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What is written to stderr from here on, as if it were a terminal."""
    # No fixture: what a fixture sets, pytest's own capture replaces before the test begins.
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")
    return stream


def test_nothing_is_shown_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(total=3, what="work") as shown:
        shown.update(3)
    assert capsys.readouterr() == ("", "")


def test_a_bar_counts_bytes_in_binary_units(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with bar(total=4 << 20, what="file", bytes=True) as shown:
        shown.update(2 << 20)
        shown.refresh()
    assert "file:" in terminal.getvalue()
    assert "2.00M/4.00M" in terminal.getvalue()


def test_a_bar_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with bar(total=3, what="work") as shown:
        shown.update(3)
    assert terminal.getvalue().endswith("\r")


def test_a_log_line_is_not_torn_by_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    logger = logging.Logger("test")
    logger.addHandler(LogHandler())
    with bar(total=10, what="work") as shown:
        shown.update(1)
        logger.warning("a line")
    before, _, after = terminal.getvalue().partition("a line\n")
    assert before.endswith("\r")
    assert "work:" in after
