"""Where a data set's files are read from: a folder, or the one file that download packs."""

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from components.common.errors import DataError
from components.common.files import plain
from components.common.packed import CONTENT, Packed, is_table, unpacked
from components.preprocess.passage import InvalidPassage

# RACE's own files have at most 10 kB.
MAX_FILE_BYTES = 4 << 20


class FolderSource:
    """Folders and files, by paths with "/" below `root`; the path of `root` itself is empty.

    The one file that `root` may be is alone in its folder.
    """

    def __init__(self, root: Path) -> None:
        self._only = root.name if root.is_file() else ""
        self.root = root.parent if self._only else root

    def entries(self, folder: str) -> dict[str, bool]:
        """The names in a folder, with which are folders; none where there is no such folder."""
        if self._only:
            return {} if folder else {self._only: False}
        try:
            with os.scandir(self.root / folder) as found:
                return {entry.name: entry.is_dir() for entry in found}
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def read(self, path: str) -> bytes:
        """The content of a file; InvalidPassage where it can be none of a passage."""
        # Plain calls: opening as a Python file takes several times as long as reading these few
        # bytes.
        try:
            # A pipe must not keep us waiting.
            handle = os.open(os.path.join(self.root, path), os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            raise InvalidPassage("a socket where a file is wanted") from None
        try:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
                raise InvalidPassage(f"{kind} where a file is wanted")
            content = b""
            while piece := os.read(handle, 64 << 10):
                content += piece
                _limit(len(content))
        finally:
            os.close(handle)
        return content

    def open(self, path: str) -> IO[bytes]:
        """A file of any size, to be read from its start."""
        return plain(self.root / path).open("rb")


class PackedSource:
    """The same, of files that are packed in one."""

    def __init__(self, packed: Packed) -> None:
        self._packed = packed
        self.root = packed.root

    def entries(self, folder: str) -> dict[str, bool]:
        return self._packed.entries.get(folder, {})

    def read(self, path: str) -> bytes:
        if path in self._packed.entries:
            raise InvalidPassage("a folder where a file is wanted")
        _limit(self._packed.size(path))
        return self._packed.read(path)

    def open(self, path: str) -> IO[bytes]:
        return io.BytesIO(self._packed.read(path))


Source = FolderSource | PackedSource


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """The files below a folder, or packed in it.

    Raises:
        DataError: a file is there, or what was packed is not whole.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", hint="Check the path")
    if path.is_file() and not is_table(path.name):
        raise DataError(
            f"{path}: a file where a folder or a table (.jsonl, .csv, .parquet) is wanted",
            hint="Save a spreadsheet as CSV; of an archive give the folder that"
            " `python -m components.download --pack` makes",
        )
    if not (path / CONTENT).exists():
        yield FolderSource(path)
        return
    with unpacked(path) as packed:
        yield PackedSource(packed)


def _limit(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise InvalidPassage(f"more than {MAX_FILE_BYTES >> 20} MiB")
