"""Inputs changed at random, and a canary that must stay silent while they are read."""

import argparse
import contextlib
import encodings
import functools
import importlib
import json
import math
import os
import pkgutil
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from components.binarize.bpe import byte_characters
from components.common.errors import RaceError

# Another one makes other inputs; hypothesis shrinks what fails, and the same seed fails again.
SEED = int(os.environ.get("FUZZ_SEED", "1"))

# With -m slow; the ten thousand take six minutes of two cores.
MANY = int(os.environ.get("FUZZ_INPUTS", "10000"))
INPUTS = pytest.mark.parametrize("inputs", [100, pytest.param(MANY, marks=pytest.mark.slow)])

MARK = "fuzz_canary"
EXPRESSIONS = [
    f"__import__('os').system('touch {MARK}')",
    f"[open({MARK!r}, 'w')] * 4",
    f"${{oc.env:{MARK}}}",
    f"!!python/object/apply:os.system ['touch {MARK}']",
    f"{{{{ cycler.__init__.__globals__.os.popen('touch {MARK}') }}}}",
]
DEEP: Any = functools.reduce(lambda inner, _: [inner], range(900), 1)
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**70, 10**299, 0.5, -0.0, 1e308, "", "x"),
    *([], {}, [[]], ["a", 1], {"a": {}}, {"": 1}, DEEP, "A" * 3000, "../../up", "/etc/passwd"),
    *("\udc80", "\ud800x", "\0", "a\nb", "\x1b[2J", "\u2028", "é" * 200, "1", "nan", "１"),
    *EXPRESSIONS,
]
BYTES = [
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"-Infinity", b'""', b"[]", b"{}", b'"\\ud800"'),
    *(b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"\0", b"9" * 5000, b'"\\u0000"', b"\xf0"),
    *(b"\n", b"\r\n", b"\xe2\x80\xa8", b" " * 3000, b'"id":', b",", b"\xef\xbb\xbf"),
]


PASSAGE = {
    "article": "Tom has a dog. The dog's name is «Rex».",
    "questions": ["What is it called?", "Tom has a _ ."],
    "options": [["Rex", "Tom", "dog", "cat"], ["dog", "cat", "cow", "car"]],
    "answers": ["A", "A"],
    "id": "high1.txt",
}
PROGRESS = {"update": 12, "epoch": 3, "best": "", "skipped_updates": 0, "seconds": 1.5}
RECORD = {"split": "train", "epoch": 1, "update": 2, "loss": 1.4, "seconds": 0.3}
ENCODER = {piece: number for number, piece in enumerate([*byte_characters(), "ab"])}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in a value with each of its keys; of a Namespace its dict."""
    value = vars(value) if isinstance(value, argparse.Namespace) else value
    if isinstance(value, dict | list):
        for key, below in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from places(below)


def change(value: Any, chance: Random, values: list[Any]) -> Any:
    """Replace, move, remove or rename something in a value, in place; none of `values` changes."""
    found = list(places(value)) or [({0: value}, 0)]
    for _ in range(chance.choice((1, 1, 2, 3))):
        container, key = chance.choice(found)
        other, place = chance.choice(found)
        with contextlib.suppress(LookupError):  # it is gone already
            kind = chance.randrange(8)
            if kind == 0:
                del container[key]
            elif kind == 1 and isinstance(container, dict):
                container[str(chance.choice(VALUES))] = container.pop(key)
            elif kind == 2 and not isinstance(other[place], dict | list):
                container[key] = other[place]
            else:
                container[key] = chance.choice(values)
    return value


def damage(data: bytes, chance: Random, pieces: list[bytes] = BYTES) -> bytes:
    """Overwrite, insert, remove or repeat bytes, or cut the end off."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        start = chance.randrange(len(found) + 1)
        end = start + chance.choice((0, 1, 1, 2, 8, len(found)))
        found[start:end] = chance.choice(
            (b"", bytes([chance.randrange(256)]), chance.choice(pieces), bytes(found[:end][-64:]))
        )
    return bytes(found)


def encoded(value: Any, chance: Random) -> bytes:
    """JSON in which something is another value, or some bytes are."""
    if chance.random() < 0.6:
        value = change(json.loads(json.dumps(value)), chance, VALUES)
        text = json.dumps(value, ensure_ascii=chance.random() < 0.5)
        return text.encode("utf-8", "surrogatepass")
    return damage(json.dumps(value, ensure_ascii=False).encode(), chance)


class Alarm(BaseException):
    """Something was done that no input may have done."""


_WRITES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.chmod", "os.utime"}
_NEVER = {
    *("compile", "exec", "import", "pickle.find_class", "marshal.loads", "ctypes.dlopen"),
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen"),
    *("os.symlink", "os.chown", "os.kill", "socket.connect", "socket.bind", "sys.setprofile"),
}


@dataclass
class Canary:
    """Hears of what this process does, from Python's audit events.

    Within `watching` no code is compiled or run, no module imported that was not asked for before,
    no process started, no link made, and nothing is written outside the folder. An audit hook stays
    for good: there is one.
    """

    folder: str = ""
    heard: list[str] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import" and not self.folder:
            self.modules.add(arguments[0])
        if not self.folder or (event == "import" and self._is_known(arguments[0])):
            return
        if event in _NEVER or self._outside(event, arguments):
            folder, self.folder = self.folder, ""  # what follows is the test's own
            self.heard.append(f"{event} {arguments!r:.300}")
            self.folder = folder
            raise Alarm(self.heard[-1])

    def _is_known(self, module: str) -> bool:
        # A pickle may name any codec; Python's own are all there is.
        return module in self.modules or module.startswith("encodings.")

    def _outside(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or set(mode or "") & set("wax+")
            return bool(writes) and not self._inside(path)
        if event in ("os.rename", "os.link"):
            return not (self._inside(arguments[0]) and self._inside(arguments[1]))
        # rmtree removes by names in a folder that is open; it said which before.
        below = event in _WRITES and arguments[-1] == -1
        return (below or event.startswith("shutil.rmtree")) and not self._inside(arguments[0])

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int):
            return True  # was opened before
        # No link leads out: none is made.
        return f"{os.path.abspath(os.fsdecode(path))}/".startswith(f"{self.folder}/")

    @contextlib.contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        self.folder = os.path.realpath(folder)
        try:
            yield
        finally:
            self.folder = ""
        assert not self.heard, self.heard


@functools.cache
def canary() -> Canary:
    found = Canary()
    for codec in pkgutil.iter_modules(encodings.__path__, "encodings."):
        with contextlib.suppress(ImportError):  # those of another system
            importlib.import_module(codec.name)
    sys.addaudithook(found.hear)
    return found


@dataclass
class Tally:
    """What became of the inputs."""

    read: int = 0
    refused: int = 0
    longest: float = 0.0  # seconds of the processor

    def __str__(self) -> str:
        return f"{self.read} read, {self.refused} refused, the slowest in {self.longest:.2f} s"


def fuzz(
    make: Callable[[Random], Any],
    read: Callable[[Any], None],
    folder: Path,
    inputs: int,
    refusals: tuple[type[Exception], ...] = (RaceError,),
) -> Tally:
    """Read so many inputs; whatever is wrong with one fails the test, with the input beside it.

    Args:
        make: an input; the canary does not listen.
        read: ends well, or with one of `refusals` in one line.
        folder: where `read` may write.
    """
    tally, watch = Tally(), canary()

    def attempt(value: Any) -> None:
        started = time.process_time()
        try:
            with watch.watching(folder):
                read(value)
            tally.read += 1
        except refusals as error:
            line = str(error)
            assert line.isprintable(), line[:999]
            assert len(line) < 2500, line[:999]
            tally.refused += 1
        except BaseException as error:
            error.add_note(f"input (FUZZ_SEED={SEED}): {value!r:.900}")
            raise
        took = time.process_time() - started
        tally.longest = max(tally.longest, took)
        assert took < 10, f"{value!r:.2000}"
        assert not watch.heard, watch.heard

    @seed(SEED)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )
    @given(st.randoms(use_true_random=False))
    def attempts(chance: Random) -> None:
        attempt(make(chance))

    for number in range(20):  # what is imported at its first use is no alarm
        with contextlib.suppress(Exception):
            read(make(Random(number)))
    watch.heard.clear()
    before = _peak()
    started = time.monotonic()
    attempts()
    grown = _peak() - before
    print(f"{inputs} inputs in {time.monotonic() - started:.0f} s: {tally}; {grown} MiB more")
    assert grown < 300
    return tally


def _peak() -> int:
    """The most memory that this process had, in MiB."""
    return math.ceil(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
