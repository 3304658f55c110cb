"""What transfers of bytes have in common, whatever they speak: streams, checksums, shown names."""

import hashlib
import ssl
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from components.common import strict_json


@dataclass(frozen=True)
class Checksum:
    """What a source says of its whole content: sha256, sha1, md5 or crc32, in hex digits."""

    name: str
    value: str

    def hasher(self) -> Any:
        """What computes it, with `update` and `hexdigest`."""
        return Crc32() if self.name == "crc32" else hashlib.new(self.name, usedforsecurity=False)


class Crc32:
    """CRC-32 as hashlib would have it."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


@dataclass(frozen=True)
class Stream:
    """An open source of bytes.

    `start` is the offset of its first byte: what was asked for, or 0 where the source cannot go on
    from there. `total` is the size of the whole, None if the source does not say. `version` is
    given back to the source to go on later; None if it has nothing that surely tells two versions
    apart. Taking `chunks` raises AttemptError where the source fails. `checksum` is of the whole,
    None where the source says none, or where this stream does not begin at 0.
    """

    start: int
    total: int | None
    version: str | None
    chunks: Iterator[bytes]
    checksum: Checksum | None = None


def shown_url(url: str) -> str:
    """The URL as logs and errors may show it: user, password and query values are masked.

    The query goes too, because it is where signed URLs carry their signature.
    """
    parts = urlsplit(url)
    netloc = parts.netloc
    if "@" in netloc:
        netloc = "***@" + netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, netloc, parts.path, "***" if parts.query else "", ""))


def told(body: bytes | str | None, reason: str | None = None) -> str:
    """What an API says of an error in the body of its answer, in one line; else the reason."""
    try:
        content = strict_json.loads(body or "")
        if isinstance(content.get("error"), dict):
            content = content["error"]
        text = str(content.get("message") or content.get("error") or "")
    except (TypeError, ValueError, AttributeError):
        text = ""
    text = " ".join(text.split()) or str(reason or "")
    return text if len(text) <= 300 else f"{text[:300]}..."


def root_of(error: BaseException) -> str:
    """The root of a connection's error, without the layers of libraries that carried it."""
    while isinstance(inner := getattr(error, "reason", None), BaseException):
        error = inner
    text = str(error).rpartition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all beneath it; urllib3 keeps causes in `reason` and in arguments too."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        cause = pending.pop()
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        pending += [*cause.args, getattr(cause, "reason", None), cause.__context__, cause.__cause__]


def untrusted(error: BaseException) -> str:
    """That a server's certificate is not trusted, and why; "" where that is not what failed."""
    for cause in causes_of(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted ({cause.verify_message})"
    return ""
