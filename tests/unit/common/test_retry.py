"""How often and how long what may pass is tried again."""

import logging
from collections.abc import Callable

import pytest

from components.common.errors import DataError, TransferError
from components.common.retry import AttemptError, Patience, retry


def test_waits_double_up_to_a_limit_and_half_of_each_is_chance() -> None:
    patience = Patience(first_wait=1.0, longest_wait=10.0)
    for failures, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (5000, 10.0)):
        waits = [patience.wait(failures) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_a_wait_that_is_asked_for_is_kept_within_the_limit() -> None:
    patience = Patience(first_wait=1.0, longest_wait=10.0)
    assert patience.wait(1, asked=7.0) == 7.0
    assert patience.wait(1, asked=3600.0) == 10.0
    assert 0.5 <= patience.wait(1, asked=0.0) <= 1.0


class Source:
    """Raises these errors, one an attempt, and then gives 7."""

    def __init__(self, *errors: AttemptError) -> None:
        self.errors = list(errors)
        self.attempts = 0
        self.waited: list[float] = []

    def __call__(self) -> int:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7

    def ask(self, attempts: int = 3, **named: object) -> int:
        patience = Patience(attempts=attempts, first_wait=1.0)
        given: dict[str, object] = {"where": "the store", "patience": patience, **named}
        return retry(self, pause=self.waited.append, **given)  # type: ignore[arg-type]


def test_what_passes_is_tried_again() -> None:
    source = Source(AttemptError("cut"), AttemptError("busy", wait=9.0))
    assert source.ask() == 7
    first, second = source.waited
    assert 0.5 <= first <= 1.0
    assert second == 9.0


@pytest.mark.parametrize(
    ("attempts", "error", "said"),
    [
        (1, lambda: AttemptError("cut"), "the store: cut (1 attempt)"),
        (3, lambda: AttemptError("cut"), "the store: cut (3 attempts)"),
        (3, lambda: AttemptError("gone", passes=False), "the store: gone (1 attempt)"),
    ],
)
def test_it_ends_when_that_is_in_vain(
    attempts: int, error: Callable[[], AttemptError], said: str
) -> None:
    source = Source(*(error() for _ in range(5)))
    with pytest.raises(TransferError) as raised:
        source.ask(attempts, hint="Look at it")
    assert (raised.value.what, raised.value.hint) == (said, "Look at it")


def test_an_error_says_what_becomes_of_it_and_what_to_do() -> None:
    class Damaged(AttemptError):
        final = DataError

    with pytest.raises(DataError) as raised:
        Source(Damaged("other bytes", passes=False, hint="Make it again")).ask(hint="Look at it")
    assert raised.value.hint == "Make it again"


def test_the_count_begins_again_after_progress() -> None:
    source = Source(*(AttemptError("cut") for _ in range(5)))
    further = iter([True, False, True, False, True])
    assert source.ask(attempts=3, progressed=lambda: next(further)) == 7
    assert source.attempts == 6


@pytest.mark.parametrize(("warn_from", "lines"), [(None, 0), (1, 4), (3, 2)])
def test_it_warns_from_a_failure_on(
    warn_from: int | None, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Source(*(AttemptError("cut") for _ in range(4))).ask(attempts=5, warn_from=warn_from)
    assert len(caplog.messages) == lines
    assert all(m.startswith("the store: cut; trying again in ") for m in caplog.messages)
