"""The log of node 0 through slow and cut streams, restarts and replaced pods: each line once."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from components.train.cluster.follow import LogFollower, timed

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND  # some whole second


@pytest.fixture
def job(kubernetes: Any) -> str:
    """A job with nobody who controls it."""
    kubernetes.jobs["race-x"] = {"kind": "TrainJob", "metadata": {"name": "race-x"}}
    return "race-x"


class Reader:
    def __init__(self, api: Any, job: str, silence: float) -> None:
        self.lines: list[str] = []
        self.follower = LogFollower(api, job, self.lines.append, pause=0.002, silence=silence)
        self.follower.start()

    def finish(self) -> list[str]:
        self.follower.finish(10)
        assert not self.follower._thread.is_alive()
        return self.lines


@pytest.fixture
def reader(api: Any, job: str) -> Iterator[Callable[..., Reader]]:
    made = []

    def read(silence: float = 5.0) -> Reader:
        made.append(Reader(api, job, silence))
        return made[-1]

    yield read
    for one in made:
        one.follower.finish(0)


def numbered(count: int) -> list[str]:
    return [f"line {n}" for n in range(count)]


def ended(kubernetes: Any, job: str, name: str = "", restarts: int = 0, status: int = 0) -> None:
    """The container of node 0 is over."""
    kubernetes.container(
        job, 0, name, restarts, terminated={"exitCode": status, "reason": "", "finishedAt": ""}
    )
    kubernetes.logs[name or f"{job}-0", restarts].end()


def test_lines_come_as_they_are_written(kubernetes, job, reader) -> None:
    log = kubernetes.container(job, 0, running={})
    kubernetes.container(job, 1, running={}).write("of another node")
    read = reader()
    for number, line in enumerate(numbered(20)):
        log.write(line)
        kubernetes.wait_for(lambda n=number: len(read.lines) > n)
    ended(kubernetes, job)
    assert read.finish() == numbered(20)
    assert kubernetes.asked("GET", "/log$") <= 2


def test_a_log_that_began_before_is_read_from_its_beginning(kubernetes, job, reader) -> None:
    kubernetes.container(job, 0, running={}).write(*numbered(500))
    ended(kubernetes, job)
    assert reader().finish() == numbered(500)


def test_it_waits_for_a_pod_and_for_its_container(kubernetes, job, reader) -> None:
    read = reader()
    kubernetes.wait_for(lambda: kubernetes.asked("GET", "/pods$") > 2)
    kubernetes.container(job, 0, waiting={"reason": "ContainerCreating"})
    looks = kubernetes.asked("GET", "/pods$")
    kubernetes.wait_for(lambda: kubernetes.asked("GET", "/pods$") > looks + 2)
    kubernetes.container(job, 0, running={}).write("here")
    kubernetes.wait_for(lambda: read.lines)
    ended(kubernetes, job)
    assert read.finish() == ["here"]
    assert not kubernetes.failures


@pytest.mark.parametrize("seed", range(6))
def test_cut_anywhere_no_line_is_lost_or_doubled(kubernetes, job, reader, seed) -> None:
    rng = random.Random(seed)
    log = kubernetes.container(job, 0, running={})
    # Several lines of one moment, several moments of one second, and seconds without a fraction.
    moment, lines = START, []
    for number in range(120):
        moment += rng.choice([0, 0, 1, 1000, 10_000_000, SECOND // 2, SECOND - moment % SECOND])
        lines.append(f"line {number} " + "x" * rng.randrange(40))
        log.write(lines[-1], at=moment)
    kubernetes.cut_logs.extend(rng.randrange(1, 3000) for _ in range(25))
    read = reader()
    kubernetes.wait_for(lambda: len(read.lines) >= len(lines))
    ended(kubernetes, job)
    assert read.finish() == lines
    assert kubernetes.asked("GET", "/log$") > 3


def test_equal_lines_of_one_moment_are_all_there_after_a_cut(kubernetes, job, reader) -> None:
    log = kubernetes.container(job, 0, running={})
    log.write(*["same"] * 10, at=START)
    stamped = len(b"2026-09-21T00:00:00Z same\n")
    kubernetes.cut_logs.extend([4 * stamped, 7 * stamped + 3])
    read = reader()
    kubernetes.wait_for(lambda: not kubernetes.cut_logs and len(read.lines) == 10)
    ended(kubernetes, job)
    assert read.finish() == ["same"] * 10


def test_a_slow_stream_is_read_in_its_pieces(kubernetes, job, reader) -> None:
    kubernetes.drip = 0.002
    log = kubernetes.container(job, 0, running={})
    log.write(*numbered(10))
    read = reader()
    kubernetes.wait_for(lambda: len(read.lines) == 10)
    ended(kubernetes, job)
    assert read.finish() == numbered(10)


def test_a_stream_that_falls_silent_is_opened_anew(kubernetes, job, reader) -> None:
    log = kubernetes.container(job, 0, running={})
    log.write("before")
    read = reader(silence=0.1)
    kubernetes.wait_for(lambda: kubernetes.asked("GET", "/log$") >= 3)
    log.write("after")
    kubernetes.wait_for(lambda: len(read.lines) == 2)
    ended(kubernetes, job)
    assert read.finish() == ["before", "after"]


def test_a_failing_api_costs_no_line(kubernetes, job, reader) -> None:
    log = kubernetes.container(job, 0, running={})
    log.write("one")
    kubernetes.fail("GET", "/log", 500, 0, 404, 429, 503)
    kubernetes.fail("GET", "/pods[?]", 500, 0, 503, 500, 500, 500)
    read = reader()
    kubernetes.wait_for(lambda: read.lines)
    log.write("two")
    ended(kubernetes, job)
    assert read.finish() == ["one", "two"]
    assert not kubernetes.failures


def test_a_last_line_without_its_end_is_a_line(kubernetes, job, reader) -> None:
    kubernetes.container(job, 0, running={}).write("whole", "cut short\0")
    read = reader()
    kubernetes.wait_for(lambda: read.lines)
    ended(kubernetes, job)
    assert read.finish() == ["whole", "cut short"]


def test_a_restarted_container_goes_on_where_the_old_one_ended(kubernetes, job, reader) -> None:
    old = kubernetes.container(job, 0, running={})
    old.write("first, 1")
    read = reader()
    kubernetes.wait_for(lambda: read.lines)
    # It restarts while the connection is down.
    kubernetes.fail("GET", "/log", *[500] * 3)
    old.write("first, 2")
    new = kubernetes.container(job, 0, restarts=1, running={}, last={"exitCode": 6})
    old.end()
    new.write("second, 1")
    kubernetes.wait_for(lambda: len(read.lines) == 3)
    ended(kubernetes, job, restarts=1)
    assert read.finish() == ["first, 1", "first, 2", "second, 1"]


def test_a_replaced_pod_is_read_from_its_beginning(kubernetes, job, reader) -> None:
    old = kubernetes.container(job, 0, running={})
    old.write("old", at=time.time_ns() + 60 * SECOND)  # another machine's clock
    read = reader()
    kubernetes.wait_for(lambda: read.lines)
    old.end()
    kubernetes.container(job, 0, name="another", running={}).write("new")
    kubernetes.wait_for(lambda: len(read.lines) == 2)
    ended(kubernetes, job, name="another")
    assert read.finish() == ["old", "new"]


def test_a_pod_that_goes_while_it_is_read_is_no_error(kubernetes, job, reader) -> None:
    log = kubernetes.container(job, 0, running={})
    log.write("line")
    read = reader()
    kubernetes.wait_for(lambda: read.lines)
    kubernetes.pods.clear()
    log.end()
    assert read.finish() == ["line"]


def test_what_is_no_line_of_the_program_is_left_out() -> None:
    lines = [
        b"2026-01-01T00:00:00Z \n",
        b"2026-01-01T00:00:00.123456789+01:00 an offset\r\n",
        b"unable to retrieve container logs for containerd://1234\n",
        "2026-01-01T00:00:00Z caf\u00e9 ".encode() + b"\xff\n",
    ]
    texts = [text for moment, text in map(timed, lines) if moment is not None]
    assert texts == ["", "an offset", "caf\u00e9 \ufffd"]
