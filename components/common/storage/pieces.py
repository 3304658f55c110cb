"""The pieces of a transfer: digests, where they go, and whether they arrived as they were sent."""

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from pathlib import Path
from typing import Any, TypeVar

from components.common.errors import DataError
from components.common.retry import AttemptError
from components.common.storage.client import etag_of, md5_of, sends_sha256
from components.common.storage.store import Stop, WrongContentError

Result = TypeVar("Result")

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")


class Halt:
    """Set when its owner sets it, or the outer one is set."""

    def __init__(self, outer: Stop) -> None:
        self._outer = outer
        self._own = threading.Event()

    def set(self) -> None:
        self._own.set()

    def is_set(self) -> bool:
        return self._own.is_set() or self._outer.is_set()

    def wait(self, timeout: float) -> bool:
        slices = max(1, round(timeout / 0.1))
        return any(self._own.wait(timeout / slices) or self.is_set() for _ in range(slices))


def checksum_of(body: bytes, md5: bytes) -> dict[str, str]:
    """What lets the service refuse a body that was changed on its way.

    AWS checks and keeps SHA-256. Other services do not all know it; all know MD5, and
    AWS_REQUEST_CHECKSUM_CALCULATION=when_supported says that one knows SHA-256 too.
    """
    if sends_sha256():
        return {"ChecksumSHA256": base64.b64encode(hashlib.sha256(body).digest()).decode()}
    return {"ContentMD5": base64.b64encode(md5).decode()}


def require_range(answer: dict[str, Any], start: int, end: int, size: int) -> None:
    """See that an answer announces the bytes from `start` to `end` of an object of `size` bytes."""
    total = answer.get("ContentLength", size)  # absent where the answer comes in chunks
    begin, stop = 0, total
    if match := _CONTENT_RANGE.match(answer.get("ContentRange") or ""):
        begin, stop, total = int(match[1]), int(match[2]) + 1, int(match[3])
    if total != size:
        raise WrongContentError(f"the object has {total} bytes instead of {size}")
    if (begin, stop) != (start, end):
        raise AttemptError(f"the answer has bytes {begin} to {stop} instead of {start} to {end}")


def require_arrived(answer: dict[str, Any], md5: bytes, bucket: str) -> None:
    """Compare what the service says it received with what was sent."""
    if not etag_of(answer):
        raise AttemptError("it was accepted, but without an ETag")
    if md5_of(answer, bucket) not in ("", md5.hex()):
        raise AttemptError("what arrived is not what was sent")


def results_of(futures: Sequence[Future[Result]]) -> list[Result]:
    """All results in order; the first failure as soon as there is one."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    return [future.result() for future in futures]


def locked(advance: Callable[[int], None]) -> Callable[[int], None]:
    lock = threading.Lock()

    def call(count: int) -> None:
        with lock:
            advance(count)

    return call


def require_same_size(source: Path, size: int, read: int) -> None:
    if read != size:
        raise DataError(
            f"{source} changed while it was being published", hint="Publish files that are complete"
        )


def md5_digest(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
