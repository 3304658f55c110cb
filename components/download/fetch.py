"""Bring one file from wherever its URL says, whatever happens on the way."""

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.common import progress
from components.common.errors import ConfigError, DataError, TransferError
from components.common.storage.stream import open_s3, split_uri
from components.common.transfer import AttemptError, Patience, Stream, shown_url
from components.download.http import open_http

log = logging.getLogger(__name__)

SCHEMES = ("https", "http", "s3", "file")
CHUNK = 1 << 20

# So many new bytes between two failures show that the source is alive: the count begins anew.
PROGRESS = 1 << 20


@dataclass(frozen=True)
class Fetched:
    bytes: int
    sha256: str  # 64 hexadecimal digits


def check_url(url: str) -> None:
    """Refuse what `fetch` could not even try.

    Raises:
        ConfigError: no scheme that we know, no host or bucket, or no file name at the end.
    """
    mend = f"Give {', '.join(f'{scheme}://' for scheme in SCHEMES)} or a path"
    try:
        parts = urlsplit(url)
        shown = shown_url(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError("the address of a download is not a valid URL", mend=mend) from error
    if "://" in url:
        if parts.scheme not in SCHEMES:
            raise ConfigError(f"{shown}: unknown scheme {parts.scheme!r}", mend=mend)
        if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
            raise ConfigError(f"{shown}: a file on another host", mend="Write file:///path")
        if parts.scheme != "file" and not parts.netloc.rpartition("@")[2]:
            raise ConfigError(f"{shown}: the host or bucket is missing", mend=mend)
    name = file_name(url)
    if name in ("", ".", "..") or "/" in name or not name.isprintable() or len(name) > 200:
        raise ConfigError(f"{shown}: no usable file name at its end", mend="Check the address")


def file_name(url: str) -> str:
    """The last part of the URL's path, as the name of a file.

    >>> file_name("https://example.org/a/RACE.tar.gz?key=1")
    'RACE.tar.gz'
    """
    if "://" not in url:
        return Path(url).name
    if url.startswith("s3://"):
        return split_uri(url)[1].rpartition("/")[2]
    return unquote(urlsplit(url).path.rpartition("/")[2])


def fetch(url: str, path: Path, patience: Patience) -> Fetched:
    """Write what is at `url` to the new file `path`; a cut transfer goes on where it was cut.

    What can pass (no connection, silence, a cut, 408, 429, 5xx) is tried again with growing waits,
    up to `patience.attempts` times in a row without progress. What cannot pass fails at once.

    Raises:
        TransferError: it could not be fetched.
        DataError: a local file is not there, or is no file.
        OSError: `path` cannot be written.
    """
    shown = shown_url(url)
    digest = hashlib.sha256()
    done = farthest = attempts = failures = 0
    version: str | None = None
    with (
        path.open("xb") as file,
        progress.bar(total=None, what=path.name, bytes=True) as bar,
    ):
        while True:
            attempts += 1
            try:
                with _open(url, done if version else 0, version, patience) as stream:
                    if stream.start != done:
                        log.warning("%s: starting over, the source cannot go on", shown)
                        file.seek(0)
                        file.truncate()
                        digest, done = hashlib.sha256(), 0
                    version = stream.version
                    bar.total = stream.total
                    bar.n = bar.initial = done
                    bar.refresh()
                    for chunk in stream.chunks:
                        file.write(chunk)
                        digest.update(chunk)
                        done += len(chunk)
                        bar.update(len(chunk))
                    if stream.total is not None and done != stream.total:
                        raise AttemptError(
                            f"the transfer was cut after {done:,} of {stream.total:,} bytes",
                            restart=done > stream.total,
                        )
                return Fetched(done, digest.hexdigest())
            except AttemptError as failure:
                if failure.restart:
                    version = None
                if done >= farthest + PROGRESS:
                    farthest, failures = done, 0
                failures += 1
                hopeless = not (failure.passes or failure.restart)
                if hopeless or failures >= patience.attempts:
                    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                    raise TransferError(
                        f"{shown}: {failure.cause} ({times})",
                        mend=failure.mend or "Check the address and the network, then run it again",
                    ) from failure
                wait = patience.wait(failures, failure.wait)
                log.warning("%s: %s; trying again in %.1f s", shown, failure.cause, wait)
                time.sleep(wait)


def _open(
    url: str, start: int, version: str | None, patience: Patience
) -> AbstractContextManager[Stream]:
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme in ("http", "https"):
        return open_http(url, start=start, version=version, patience=patience)
    if scheme == "s3":
        return open_s3(url, start=start, version=version, patience=patience)
    return _open_file(Path(unquote(urlsplit(url).path)) if scheme == "file" else Path(url))


@contextlib.contextmanager
def _open_file(path: Path) -> Iterator[Stream]:
    if path.is_dir():
        raise DataError(f"{path}: a folder where a file was expected", mend="Name the file in it")
    if not path.is_file():
        raise DataError(f"{path}: no such file", mend="Check the path")
    with path.open("rb", buffering=0) as file:
        total = path.stat().st_size
        yield Stream(0, total, None, iter(lambda: file.read(CHUNK), b""))
