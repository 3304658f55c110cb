"""A store in a folder of this machine, or of a volume that is mounted into it."""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from components.common.errors import DataError
from components.common.files import named, plain
from components.common.storage.store import CHUNK, DAMAGED, Settings, Stop, Store, Wanted

# What link() says on file systems that have no hard links (FUSE mounts of buckets, SMB).
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class FolderStore(Store):
    """See `Store`. What it writes is flushed to the disk: a manifest must not outlive its files."""

    def __init__(self, root: Path, settings: Settings, stop: Stop) -> None:
        self.root = Path(os.path.abspath(root))
        super().__init__(str(self.root), settings, stop)

    def at(self, key: str) -> "FolderStore":
        return FolderStore(self.root / key, self.settings, self.stop)

    def read(self, key: str, limit: int) -> bytes | None:
        try:
            with plain(self.root / key).open("rb") as file:
                data = file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if len(data) > limit:
            raise DataError(f"{self.root / key} is larger than {limit} bytes")
        return data

    def write(self, key: str, data: bytes, *, exclusive: bool, scratch: str = "") -> bool:
        path = self.root / key
        partial = self.root / scratch / f".{path.name}.partial-{secrets.token_hex(6)}"
        for folder in (path.parent, partial.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            _write_flushed(partial, data)
            if exclusive:
                # A link, unlike a rename, fails when the name is taken.
                try:
                    os.link(partial, path)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    # A reader may see it half-written here, and will refuse it by its own sha256.
                    _write_flushed(path, data)
            else:
                os.replace(partial, path)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        _flush_folder(path.parent)
        return True

    def upload(
        self, files: Sequence[tuple[Path, str]], advance: Callable[[int], None]
    ) -> list[tuple[int, str]]:
        results, folders = [], {self.root.parent}
        for source, key in files:
            target = self.root / key
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.update(p for p in target.parents if p.is_relative_to(self.root))
            with source.open("rb") as reading, named(target):
                results.append(self._copy(_chunks(reading), target, advance))
        for folder in folders:
            _flush_folder(folder)
        return results

    def download(self, files: Sequence[Wanted], advance: Callable[[int], None]) -> list[str]:
        return [self._copy(self.chunks(f.key, f.size), f.target, advance)[1] for f in files]

    def chunks(self, key: str, size: int) -> Iterator[bytes]:
        path = self.root / key
        try:
            file = plain(path).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(f"{path} is missing", hint=DAMAGED) from None
        with file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise DataError(f"{path} has {found} bytes instead of {size}", hint=DAMAGED)
            yield from _chunks(file)

    def folders(self) -> list[str]:
        try:
            return [entry.name for entry in os.scandir(self.root) if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def stamps(self, start: str = "") -> dict[str, float]:
        base, _, first = start.rpartition("/")
        found = {}
        for folder, below, names in os.walk(self.root / base):
            # An empty folder is one whose publication was killed before its first file.
            for name in names or ([] if below or folder == str(self.root) else [""]):
                key = str(Path(folder, name).relative_to(self.root)) + "/" * (not name)
                with contextlib.suppress(FileNotFoundError):
                    if key.startswith(start):
                        found[key] = os.lstat(Path(folder, name)).st_mtime
            if folder == str(self.root / base):
                below[:] = [name for name in below if name.startswith(first)]
        return found

    def sizes(self, start: str = "") -> dict[str, int]:
        keys = [key for key in self.stamps(start) if not key.endswith("/")]
        return {key: os.lstat(self.root / key).st_size for key in keys}

    def touch(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def remove(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)
        self._remove_empty((self.root / key).parent)

    def remove_folder(self, key: str) -> None:
        folder = self.root / key
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        self._remove_empty(folder.parent)

    def _remove_empty(self, folder: Path) -> None:
        """Object storage has no empty folders; nor has this."""
        with contextlib.suppress(OSError):
            folder.rmdir()

    def _copy(
        self, chunks: Iterable[bytes], target: Path, advance: Callable[[int], None]
    ) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        with target.open("wb") as writing:
            for chunk in chunks:
                self.require_going(str(target))
                writing.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                advance(len(chunk))
            writing.flush()
            os.fsync(writing.fileno())
        return size, digest.hexdigest()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _write_flushed(path: Path, data: bytes) -> None:
    with named(path), path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Not every file system can do this; those keep their folders in their own way.
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
