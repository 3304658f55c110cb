"""The standard streams, whatever the caller closed and whatever his terminal cannot spell."""

import contextlib
import io
import os
import sys


def make_usable() -> None:
    """Take the null device for a stream that is closed, and escape what an encoding lacks.

    The stream's number is taken as well: else the next file to be opened would get it, and with it
    whatever a library or a child process prints.
    """
    names = ("stdin", "stdout", "stderr")
    for number, name in enumerate(names):
        if getattr(sys, name) is None and not _is_open(number):
            _to_null(number)
    for name in names:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_unwritable() -> None:
    """Give up what a stream still holds and cannot write.

    Python would try again when it ends, and then print a traceback and change the exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                _to_null(stream.fileno())


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null == number:
        os.set_inheritable(number, True)  # as standard streams are
    else:
        os.dup2(null, number)
        os.close(null)
