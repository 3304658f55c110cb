import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.common.processes import python, running

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupts() -> Iterator[None]:
    def handler(signum: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, handler)
    yield
    signal.signal(signal.SIGTERM, before)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.usefixtures("interrupts")
def test_a_signal_while_a_process_starts_does_not_leave_it_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        started.append(real(*arguments, **options))
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):  # a handler would run in here
            time.sleep(0)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(Interrupted), running(SLEEP, grace=5):
        raise AssertionError("the signal was lost")
    assert started[0].returncode == -signal.SIGTERM


@pytest.mark.usefixtures("interrupts")
def test_signals_do_as_before_when_the_process_runs() -> None:
    processes = []

    def sleep() -> None:
        with running(SLEEP, grace=5) as process:
            processes.append(process)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(Interrupted):
        sleep()
    assert processes[0].returncode == -signal.SIGTERM


def test_a_started_process_can_be_told_to_end() -> None:
    with running(SLEEP, grace=5) as process:
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM


def test_nothing_of_the_group_runs_afterwards() -> None:
    family = """
import subprocess, sys
children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            for _ in range(8)]
print(*(child.pid for child in children), flush=True)
"""
    for _ in range(5):
        with running([sys.executable, "-c", family], grace=5, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            children = [int(pid) for pid in process.stdout.readline().split()]
            assert len(children) == 8
        assert [pid for pid in children if state(pid) not in ("", "Z", "X")] == []


@pytest.mark.parametrize("module", ["components.gate", "components.train.supervisor.launch"])
def test_our_modules_are_run_whatever_lies_where_they_are_called(
    strangers: Path, module: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(strangers / "path")}
    done = subprocess.run(
        python(module, "--help"), cwd=strangers, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout
