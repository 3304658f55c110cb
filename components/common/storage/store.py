"""Where artifacts lie: one interface over object storage and folders, and how an address is read.

A store is a flat space of keys ("update-500/manifest.json") below one address. It moves bytes and
counts attempts; what an artifact is, `components.common.storage.artifact` knows.
"""

import abc
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from components.common.errors import ConfigError, DataError, TransferError
from components.common.retry import AttemptError, Patience, retry
from components.common.transfer import Checksum, shown_url

Result = TypeVar("Result")

CHUNK = 1 << 20  # bytes read at once from a file
DAMAGED = "Publish it again in its place, or use another one"


@dataclass(frozen=True)
class Settings:
    """How bytes are moved. Memory in use is bounded by about (`workers` + 2) * `part` bytes.

    `part` is the size of one part of a multi-part transfer, which S3 wants to be 5 MiB or more.
    """

    patience: Patience = field(default_factory=Patience)
    part: int = 16 << 20
    workers: int = 4


@dataclass(frozen=True)
class Wanted:
    """A stored file to be fetched: `size` bytes at `key`, to be written to `target`."""

    key: str
    target: Path
    size: int


class Stop(Protocol):
    """What ends a transfer: a threading.Event, or the like."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...


class WrongContentError(AttemptError):
    """What is stored is not what should be there; when it stays so, the data is damaged."""

    final = DataError

    def __init__(self, cause: str, *, passes: bool = True) -> None:
        super().__init__(cause, hint=DAMAGED, passes=passes)


class Store(abc.ABC):
    """Keys are relative to `address`. Any method raises TransferError for what it could not do."""

    def __init__(self, address: str, settings: Settings, stop: Stop) -> None:
        self.address, self.settings, self.stop = address, settings, stop

    def require_going(self, where: str) -> None:
        """Raise the error of a transfer that was stopped if `stop` is set."""
        if self.stop.is_set():
            raise TransferError(f"{where}: the transfer was stopped")

    def persist(self, key: str, call: Callable[[], Result], *, most: int = 1000) -> Result:
        """The result of `call`, by `retry`: at most `most` attempts, each about `key`.

        Raises:
            DataError: to the last attempt, what is stored was not what should be there.
            TransferError: it failed in another way, or `stop` was set.
        """
        where = f"{self.address}/{key}"

        def unless_stopped() -> Result:
            self.require_going(where)
            return call()

        patience = self.settings.patience
        patience = replace(patience, attempts=min(patience.attempts, most))
        return retry(unless_stopped, where=where, patience=patience, pause=self.stop.wait)

    @abc.abstractmethod
    def at(self, key: str) -> "Store":
        """The part of this store below `key`."""

    @abc.abstractmethod
    def read(self, key: str, limit: int) -> bytes | None:
        """The content of a small object; None where there is none.

        Raises:
            DataError: it is larger than `limit` bytes.
        """

    @abc.abstractmethod
    def write(self, key: str, data: bytes, *, exclusive: bool, scratch: str = "") -> bool:
        """Store a small object in one step; False: `exclusive`, and there was one already.

        `scratch` is a folder of this store for what a write that is killed may leave.
        """

    @abc.abstractmethod
    def upload(
        self, files: Sequence[tuple[Path, str]], advance: Callable[[int], None]
    ) -> list[tuple[int, str]]:
        """Store files under keys; returns the size (bytes) and sha256 (hex) of what was sent.

        When it returns, each object was seen to be there, with the size and, where the service
        tells, the checksum of what was sent. `advance` is called with bytes done, under a lock.

        Raises:
            OSError: a file cannot be read.
        """

    @abc.abstractmethod
    def download(self, files: Sequence[Wanted], advance: Callable[[int], None]) -> list[str]:
        """Fetch objects to files; returns the sha256 (hex) of what was written, in order.

        Raises:
            DataError: an object is not there, or not of the wanted size.
            OSError: a target cannot be written.
        """

    @abc.abstractmethod
    def chunks(self, key: str, size: int) -> Iterator[bytes]:
        """The content of an object of `size` bytes, in order, in pieces of 1 MiB or less.

        Raises:
            DataError: it is not there, or not of that size.
        """

    @abc.abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders right below the address."""

    @abc.abstractmethod
    def stamps(self, start: str = "") -> dict[str, float]:
        """When the objects whose keys begin with `start` were written, by the store's own clock.

        In seconds; only differences mean something.
        """

    @abc.abstractmethod
    def sizes(self, start: str = "") -> dict[str, int]:
        """Bytes of the objects whose keys begin with `start`; what stands for a folder is none."""

    def checksum(self, key: str) -> Checksum | None:
        """What the service says of an object's whole content; None where it says nothing."""
        return None

    def uploads(self) -> list[str]:
        """Keys of multi-part uploads that were never completed, as far as the store tells."""
        return []

    def touch(self, key: str, data: bytes) -> None:
        """Write a small object so that it has a new stamp; a reader may see a part of it."""
        self.write(key, data, exclusive=False)

    @abc.abstractmethod
    def remove(self, key: str) -> None:
        """Remove one object; it may be gone already."""

    @abc.abstractmethod
    def remove_folder(self, key: str) -> None:
        """Remove all below `key/`, unfinished multi-part uploads too."""


@dataclass(frozen=True)
class Address:
    """`path` is a folder where `bucket` is None, else a key prefix without slashes around it."""

    bucket: str | None
    path: str


# General purpose buckets; other services also allow capital letters and underscores.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]\Z")


def parse_address(uri: str) -> Address:
    """Read `s3://bucket/key`, `file:///folder` or a plain path.

    Raises:
        ConfigError: it is none of these.
    """
    hint = "Give s3://bucket/key, file:///folder or a path"
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if not uri or "\0" in uri:
            raise ConfigError("the address of an artifact is empty or not a path", hint=hint)
        return Address(None, uri)
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise ConfigError(f"{shown_url(uri)} is not an address of a local folder", hint=hint)
        return Address(None, unquote(parts.path))
    if scheme != "s3":
        raise ConfigError(f"{shown_url(uri)}: {scheme}:// is not supported here", hint=hint)
    bucket, _, key = rest.partition("/")
    if not _BUCKET.match(bucket):
        raise ConfigError(f"{shown_url(uri)} does not name a valid bucket", hint=hint)
    path = key.strip("/")
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise ConfigError(f"{shown_url(uri)} has an empty part, . or .. in its key", hint=hint)
    if not path:
        raise ConfigError(
            f"s3://{bucket} names a whole bucket", hint="Add a folder: s3://bucket/folder"
        )
    return Address(bucket, path)


def require_supported(name: str, uri: str) -> None:
    """See that a place for artifacts, the parameter `name`, can be one; "" is none.

    Raises:
        ConfigError: artifacts cannot lie there.
    """
    if uri:
        try:
            parse_address(f"{uri.rstrip('/')}/run")
        except ConfigError as error:
            raise ConfigError(f"{name}: {error.what}", hint=error.hint) from error


def open_store(uri: str, settings: Settings | None = None, stop: Stop | None = None) -> Store:
    """The store at an address; setting `stop` ends whatever it is doing with a TransferError.

    Raises:
        ConfigError: the address, or the AWS settings for it, cannot be right.
    """
    address = parse_address(uri)
    settings, stop = settings or Settings(), stop or threading.Event()
    if address.bucket is None:
        from components.common.storage.folder import FolderStore

        return FolderStore(Path(address.path), settings, stop)
    from components.common.storage.s3 import S3Store

    return S3Store(address.bucket, address.path, settings, stop)


def brief(store: Store) -> Store:
    """The same place for what may fail, and must not hold anything up for minutes."""
    patience = store.settings.patience
    few, connect, read = min(2, patience.attempts), min(5, patience.connect), min(10, patience.read)
    patience = replace(patience, attempts=few, connect=connect, read=read)
    return open_store(store.address, replace(store.settings, patience=patience))
