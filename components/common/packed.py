"""Many files handed on as one: Kubeflow Pipelines moves an artifact's files one after the other.

The folder holds content.zip, which is not compressed, so that each file can be read where it lies,
and beside it, written last, its sha256 as `sha256sum --check` reads it.
"""

import contextlib
import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from components.common.errors import DataError
from components.common.files import plain, sha256_of

CONTENT = "content.zip"
SUMS = "SHA256SUMS"

# Names of files with one question a row, see components.preprocess.tables.
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

_HINT = "Download it again"
_HEADER = 30  # bytes before the name of a file, in front of its content


def is_table(name: str) -> bool:
    return name.lower().endswith(TABLES)


class Packing:
    """What takes folders and files, by paths with "/"; FileExistsError where a name is taken."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names: set[str] = set()

    def folder(self, path: str) -> None:
        self._archive.writestr(self._new(path, "/"), b"")

    def file(self, path: str, size: int) -> IO[bytes]:
        """Where the `size` bytes of a new file are to be written."""
        info = self._new(path)
        info.file_size = size
        return self._archive.open(info, "w")

    def _new(self, path: str, end: str = "") -> zipfile.ZipInfo:
        if path in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._names.add(path)
        return zipfile.ZipInfo(path + end)


@contextlib.contextmanager
def packing(folder: Path) -> Iterator[Packing]:
    """Fill a folder with files that are one; it is whole when the block has ended.

    Raises:
        OSError: it cannot be written.
    """
    with zipfile.ZipFile(folder / CONTENT, "x") as archive:
        yield Packing(archive)
    (folder / SUMS).write_text(_sums(folder), encoding="ascii")


class Packed:
    """The files that are one; `entries` has the names in each folder, and which are folders."""

    def __init__(self, root: Path, content: IO[bytes]) -> None:
        self.root = root
        self.entries: dict[str, dict[str, bool]] = {"": {}}
        self._content = content
        self._files: dict[str, zipfile.ZipInfo] = {}
        try:
            found = zipfile.ZipFile(self._content).infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise self._damaged("no zip archive") from error
        for info in found:
            path = info.filename.rstrip("/")
            folder_of, _, name = path.rpartition("/")
            self.entries.setdefault(folder_of, {})[name] = info.is_dir()
            if info.is_dir():
                self.entries.setdefault(path, {})
            else:
                self._files[path] = info

    def size(self, path: str) -> int:
        """Bytes of a file."""
        return self._files[path].file_size

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            DataError: it is not what was written.
        """
        info = self._files[path]
        start = info.header_offset + _HEADER + len(info.filename.encode())
        # Many times as fast as zipfile, whose files can do more.
        content = os.pread(self._content.fileno(), info.file_size, max(start, 0))
        if zlib.crc32(content) != info.CRC:
            raise self._damaged(f"{path} is damaged")
        return content

    def _damaged(self, how: str) -> DataError:
        return DataError(f"{self.root}: {how}", hint=_HINT)


@contextlib.contextmanager
def unpacked(folder: Path) -> Iterator[Packed]:
    """The files that `packing` has put into a folder, to be read where they lie.

    Raises:
        DataError: the content does not have its sha256, or that is missing.
        OSError: it cannot be read.
    """
    root = folder / CONTENT
    try:
        wanted = plain(folder / SUMS).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{folder}: {SUMS} is missing", hint=_HINT) from None
    if wanted != _sums(folder).encode():
        raise DataError(f"{root}: does not have the sha256 that it was written with", hint=_HINT)
    with root.open("rb") as content:
        yield Packed(root, content)


def _sums(folder: Path) -> str:
    return f"{sha256_of(plain(folder / CONTENT))}  {CONTENT}\n"
