"""Bring one file from wherever its URL says, whatever happens on the way."""

import contextlib
import hashlib
import logging
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from components.common import hub, progress
from components.common.errors import ConfigError, DataError, RaceError
from components.common.files import plain
from components.common.retry import AttemptError, Patience, retry
from components.common.storage.stream import open_s3, split_uri, state_of_s3
from components.common.transfer import Checksum, Stream, shown_url
from components.download.http import open_http, state_of_http

log = logging.getLogger(__name__)

SCHEMES = ("https", "http", "s3", "file")
CHUNK = 1 << 20

# This many new bytes between two failures show that the source is alive: the count begins again.
PROGRESS = 1 << 20


@dataclass(frozen=True)
class Fetched:
    """What has arrived; `checked` names the source's checksum that it agreed with, or is empty."""

    bytes: int
    sha256: str  # 64 hexadecimal digits
    checked: str = ""


def check_url(url: str) -> None:
    """Refuse what `fetch` could not even try.

    Raises:
        ConfigError: no scheme that we know, no host or bucket, or no file name at the end.
    """
    if url.startswith(hub.SCHEME):
        hub.parse(url)
        return
    hint = f"Give {', '.join(f'{scheme}://' for scheme in SCHEMES)}, {hub.SCHEME} or a path"
    try:
        parts = urlsplit(url)
        shown = shown_url(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError("the address of a download is not a valid URL", hint=hint) from error
    if "://" in url:
        if parts.scheme not in SCHEMES:
            raise ConfigError(f"{shown}: unknown scheme {parts.scheme!r}", hint=hint)
        if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
            raise ConfigError(f"{shown}: a file on another host", hint="Write file:///path")
        if parts.scheme != "file" and not parts.netloc.rpartition("@")[2]:
            raise ConfigError(f"{shown}: the host or bucket is missing", hint=hint)
    name = file_name(url)
    if name in ("", ".", "..") or "/" in name or not name.isprintable() or len(name) > 200:
        raise ConfigError(f"{shown}: no usable file name at its end", hint="Check the address")


def file_name(url: str) -> str:
    """The last part of the URL's path, as the name of a file.

    >>> file_name("https://example.org/a/RACE.tar.gz?key=1")
    'RACE.tar.gz'
    """
    if url.startswith(hub.SCHEME):
        return hub.parse(url).name.rpartition("/")[2]
    if "://" not in url:
        return Path(url).name
    if url.startswith("s3://"):
        return split_uri(url)[1].rpartition("/")[2]
    return unquote(urlsplit(url).path.rpartition("/")[2])


def local_folder(url: str) -> Path | None:
    """The folder of this machine that an address is, if it is one."""
    return _path(url) if _scheme(url) in ("", "file") and _path(url).is_dir() else None


def fetch(url: str, path: Path, patience: Patience, expected: str = "") -> Fetched:
    """Write what is at `url` to the new file `path`; a cut transfer goes on where it was cut.

    What can pass (no connection, silence, a cut, 408, 429, 5xx) is tried again with growing waits,
    up to `patience.attempts` times in a row without progress. What cannot pass fails at once.
    What does not agree with the checksum that its source tells is fetched again: if the same comes
    twice, then the source has nothing else. A file with the `expected` sha256 needs no other.

    Raises:
        TransferError: it could not be fetched.
        DataError: it does not agree with the source's checksum; or a local file is not there, or is
            no file.
        OSError: `path` cannot be written.
    """
    shown = shown_url(url)
    version: str | None = None
    with (
        path.open("xb") as file,
        progress.bar(total=None, what=path.name, bytes=True) as bar,
    ):
        arriving = _Arriving(file, shown, expected)

        def attempt() -> Fetched:
            nonlocal version
            try:
                with _open(url, arriving.done if version else 0, version, patience) as stream:
                    arriving.go_on(stream)
                    version = stream.version
                    bar.total = stream.total
                    bar.n = bar.initial = arriving.done
                    bar.refresh()
                    for chunk in stream.chunks:
                        arriving.write(chunk)
                        bar.update(len(chunk))
                    return arriving.whole(stream.total)
            except AttemptError as failure:
                if failure.restart:
                    version, failure.passes = None, True
                raise

        return retry(
            attempt,
            where=shown,
            patience=patience,
            hint="Check the address and the network, then run it again",
            progressed=arriving.progressed,
            warn_from=1,
        )


class _Arriving:
    """A file as far as it has come, with its digests."""

    def __init__(self, file: IO[bytes], shown: str, expected: str) -> None:
        self.done = 0
        self._file = file
        self._shown = shown
        self._expected = expected
        self._sha256 = hashlib.sha256()
        self._checksum: Checksum | None = None
        self._second: Any = None  # computes the checksum
        self._refused = ""  # sha256 of what did not agree with it
        self._farthest = 0  # when an attempt failed

    def progressed(self) -> bool:
        """Whether the source has sent more than it had when this was asked before."""
        if self.done < self._farthest + PROGRESS:
            return False
        self._farthest = self.done
        return True

    def go_on(self, stream: Stream) -> None:
        """Get ready for what an attempt brings, which may begin at 0."""
        if self.done and stream.start != self.done:
            log.warning("%s: starting over, the source cannot go on", self._shown)
            self._file.seek(0)
            self._file.truncate()
            self.done, self._sha256 = 0, hashlib.sha256()
        if not self.done:
            self._checksum = stream.checksum
            self._second = stream.checksum.hasher() if stream.checksum else None

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._sha256.update(chunk)
        if self._second:
            self._second.update(chunk)
        self.done += len(chunk)

    def whole(self, total: int | None) -> Fetched:
        """The file, if it is as long as announced and agrees with its checksum."""
        if total is not None and self.done != total:
            raise AttemptError(
                f"the transfer was cut after {self.done:,} of {total:,} bytes",
                restart=self.done > total,
            )
        sha256 = self._sha256.hexdigest()
        if not self._checksum or sha256 == self._expected:
            return Fetched(self.done, sha256)
        name, value = self._checksum.name, self._checksum.value
        if self._second.hexdigest() == value:
            return Fetched(self.done, sha256, name)
        if self._refused == sha256:
            raise DataError(
                f"{self._shown}: damaged where it lies: its {name} should be {value}, and is"
                f" {self._second.hexdigest()}",
                hint="Put it there again; if it is right, give its sha256",
            )
        self._refused = sha256
        raise AttemptError(f"what arrived does not have the object's {name}", restart=True)


# A question whose answer is only a convenience.
BRIEF = Patience(attempts=1, connect=5.0, read=10.0)


def state_of(url: str) -> str:
    """Text that is another one once other bytes lie at `url`; "" where that cannot be said.

    Of an address its validators (ETag, Last-Modified) and length, of the Hugging Face hub the
    commit, of a file what the file system knows of it. Nothing is fetched.
    """
    scheme = _scheme(url)
    with contextlib.suppress(AttemptError, RaceError):
        if scheme == "hf":
            return hub.commit_of(hub.parse(url))
        if scheme in ("http", "https"):
            return state_of_http(url, BRIEF)
        if scheme == "s3":
            return state_of_s3(url, BRIEF)
    if scheme not in ("", "file") or not (path := _path(url)).is_file():
        return ""
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_dev} {found.st_ino}"


def _open(
    url: str, start: int, version: str | None, patience: Patience
) -> AbstractContextManager[Stream]:
    scheme = _scheme(url)
    if scheme in ("http", "https"):
        return open_http(url, start=start, version=version, patience=patience)
    if scheme == "s3":
        return open_s3(url, start=start, version=version, patience=patience)
    return _open_file(_path(url))


def _scheme(url: str) -> str:
    return urlsplit(url).scheme if "://" in url else ""


def _path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path)) if _scheme(url) == "file" else Path(url)


@contextlib.contextmanager
def _open_file(path: Path) -> Iterator[Stream]:
    if path.is_dir():
        raise DataError(
            f"{path}: a folder where a file was expected",
            hint="Name the file in it, or pack it: tar -czf data.tar.gz -C"
            f" {shlex.quote(str(path))} .",
        )
    if not plain(path).is_file():
        raise DataError(f"{path}: no such file", hint="Check the path")
    with path.open("rb", buffering=0) as file:
        total = path.stat().st_size
        yield Stream(0, total, None, iter(lambda: file.read(CHUNK), b""))
