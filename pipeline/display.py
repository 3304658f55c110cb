"""What a run shows while it goes on: one line a step, and on a terminal what the step is doing."""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from components.common.cli import json_line, log_format
from components.common.progress import duration

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
NAME_WIDTH = 17
_TIME_WIDTH = 9


def last_line(path: Path) -> str:
    """The last line of a file that says something, or an empty string."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def say(line: str, stream: TextIO | None = None) -> None:
    """Show a line, in the format that `--log-format` asked for."""
    if log_format() == "json":
        line = json_line("INFO", line, "race")
    print(line, file=stream or sys.stderr, flush=True)


def step_line(name: str, spent: str, result: str, width: int = NAME_WIDTH) -> str:
    return f"{name:<{width}} {spent:>{_TIME_WIDTH}}  {result}".rstrip()


@contextlib.contextmanager
def working(name: str, log: Path | None = None) -> Iterator[None]:
    """On a terminal, a line that shows the time spent so far and the last line of `log`."""
    stream = sys.stderr
    if not stream.isatty():
        yield
        return
    done = threading.Event()
    started = time.monotonic()

    def draw() -> None:
        turn = 0
        while not done.wait(0.2):
            spent = duration(time.monotonic() - started)
            line = step_line(name, spent, last_line(log) if log else "")
            width = shutil.get_terminal_size().columns - 3
            stream.write(f"\r\x1b[2K{_SPINNER[turn % len(_SPINNER)]} {line[:width]}")
            stream.flush()
            turn += 1

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        stream.write("\r\x1b[2K")
        stream.flush()
