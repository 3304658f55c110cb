"""Processes: whether one lives; groups of them, their start and their certain end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# How long (seconds) the kernel may take over processes that were killed. A container whose first
# process does not collect orphans leaves them as zombies, which are gone in every way that matters:
# so this is a bound and no condition.
BURIAL = 5.0

START = Path(__file__).with_name("start.py")

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this Python and this package, wherever it is called."""
    return [sys.executable, "-P", str(START), module, *arguments]


@contextlib.contextmanager
def running(
    command: Sequence[str], *, grace: float, **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a command in a group of its own; however the block is left, no process of it runs.

    The command is told to end if it still runs, and killed after `grace` seconds; what it started
    is killed as well, also when it has ended itself. Being a group of its own also means that
    Ctrl-C reaches only the process that calls this. `options` are those of Popen.
    """
    process = None
    try:
        # An exception out of a signal handler within Popen would leave a process that nobody knows.
        with _held(ENDING):
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, start_new_session=True, **options
            )
        yield process
    finally:
        if process is not None:
            _end(process, grace)
            if process.stdout is not None:
                process.stdout.close()


def _end(process: "subprocess.Popen[bytes]", grace: float) -> None:
    try:
        if process.poll() is None:
            _signal(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
    finally:
        _signal(process.pid, signal.SIGKILL)
        process.wait()
        # A kill is only a request: its process may still write a file when the call returns.
        deadline = time.monotonic() + BURIAL
        while _signal(process.pid, 0) and time.monotonic() < deadline:
            time.sleep(0.005)


def _signal(group: int, signum: int) -> bool:
    """Send a signal to a group; whether it has a process left."""
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def _held(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Signals that arrive within the block are handled at its end.

    They are not blocked, for a process that is started within would inherit that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    arrived: list[int] = []
    before = {s: signal.getsignal(s) for s in signals}
    # What is ignored stays so, for the process that is started too.
    held = {s: handler for s, handler in before.items() if handler is not signal.SIG_IGN}
    for s in held:
        signal.signal(s, lambda signum, _: arrived.append(signum))
    try:
        yield
    finally:
        for s, handler in held.items():
            signal.signal(s, handler)
        for signum in arrived:
            os.kill(os.getpid(), signum)


def identity() -> str:
    """What tells this process from every other one of any machine; "" where it cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getpid()} {_started(os.getpid())}"
    except OSError:
        return ""


def lives(process: str) -> bool | None:
    """Whether the process with that `identity` runs; None where it is of another machine."""
    try:
        machine, pid, started = process.rsplit(" ", 2)
        if machine != identity().rsplit(" ", 2)[0]:
            return None
        return _started(int(pid)) == started
    except ValueError:
        return None
    except OSError:
        return False


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks since the machine was."""
    state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]  # proc(5): field 22; what has ended may wait there
