"""Unpack archives that nobody vouches for: member by member, refusing whatever is not plain data.

Sources: what Python's own tools leave to their user. `tarfile` takes a tar that was cut between two
members, or that is damaged there, for a complete one; its data filter lets links within the folder
and members of the same name pass, and old versions lack it; neither it nor `zipfile` limits sizes.
"""

import contextlib
import errno
import gzip
import io
import os
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from components.common import progress
from components.common.errors import DataError
from components.common.packed import Packing

CHUNK = 1 << 20
BLOCK = 512  # of a tar

# What the headers of one tar member may take: names and pax records, kept in memory as a whole.
HEADERS = 128 << 10

# Bytes in the name of a file, on the usual file systems.
NAME = 255

# What tarfile reads at a time.
BUFFER = 256 << 10

_DISTRUST = "Do not use this archive unless you know why it is so"
_RAISE_LIMIT = "If you know the archive to be good, raise the limit (see --help)"

# What the libraries raise for bytes that are not as the format wants them.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to. RACE has 28,000 members; RoBERTa-large unpacks to 0.8 GiB."""

    members: int = 100_000
    bytes: int = 20 << 30
    ratio: float = 100.0  # unpacked to packed
    ratio_free: int = 64 << 20  # unpacked bytes below which no ratio is harmful
    names: int = 32 << 20  # bytes of all headers that hold a long name or more of a member
    name: int = 1024  # UTF-8 bytes of a member's path
    depth: int = 32  # folders in a member's path


@dataclass(frozen=True)
class Unpacked:
    files: int
    bytes: int


class Folder:
    """Where files and folders come to lie; in `Packing` they become parts of one file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, path: str) -> None:
        (self.root / path).mkdir()

    def file(self, path: str, size: int) -> IO[bytes]:
        return (self.root / path).open("xb")


Target = Folder | Packing


def unpack(archive: Path, into: Path | Target, limits: Limits | None = None) -> Unpacked:
    """Unpack a tar, tar.gz or zip into the folder `into`; its content tells which of them it is.

    Only plain files and folders come out, with the permissions that new files have here. Memory
    does not grow with the size of the archive or of its members, only with their names.
    What was written stays when this raises: unpack into a folder that is thrown away then.

    Raises:
        DataError: it is no archive of these kinds, damaged or cut off, passes one of the limits, or
            has a member that is no plain data; names the archive and the member.
        OSError: `into` cannot be written.
    """
    target = Folder(into) if isinstance(into, Path) else into
    sink = _Sink(archive, target, limits or Limits())
    with (
        archive.open("rb") as file,
        progress.bar(total=sink.packed, what=f"unpacking {archive.name}", bytes=True) as bar,
    ):
        kind = kind_of(file.read(BLOCK))
        file.seek(0)
        if kind == "zip":
            with _ZipBytes(file.raw) as source:
                _unpack_zip(source, sink, bar)
        elif kind == "tar.gz":
            with gzip.GzipFile(fileobj=file) as unzipped:
                _foresee_tar(unzipped, sink)
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as unzipped:
                _unpack_tar(_TarBytes(unzipped, file, sink, bar), sink)
        elif kind == "tar":
            _foresee_tar(file, sink)
            file.seek(0)
            _unpack_tar(_TarBytes(file, file, sink, bar), sink)
        else:
            raise sink.refuse(
                "not a tar, tar.gz or zip archive",
                hint="Check the address: some servers answer with a page that says what is wrong",
            )
    if not sink.files:
        raise sink.refuse("no file is in it")
    return Unpacked(sink.files, sink.bytes)


def kind_of(start: bytes) -> str:
    """zip, tar.gz or tar, by the first BLOCK bytes of a file; "" for any other."""
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if start.startswith(b"\x1f\x8b"):
        return "tar.gz"
    return "tar" if start[257:262] == b"ustar" else ""


class _Sink:
    """Where members go, with every check of a name, a number or a size that all formats need."""

    def __init__(self, archive: Path, into: Target, limits: Limits) -> None:
        self.into = into
        self.limits = limits
        self.packed = archive.stat().st_size
        self.files = 0
        self.bytes = 0
        self._archive = archive.name
        self._members = 0
        self._foreseen = 0
        self._foreseen_folders: set[str] = set()
        self._folders = {""}
        self._names: set[str] = set()

    def refuse(self, why: str, member: str = "", *, hint: str = _DISTRUST) -> DataError:
        if len(member) > 200:
            member = member[:200] + "..."
        return DataError(
            f"{self._archive}: {member}: {why}" if member else f"{self._archive}: {why}", hint=hint
        )

    def damaged(self, member: str = "") -> DataError:
        return self.refuse("the archive is damaged or cut off", member, hint="Download it again")

    def foresee(self, member: str) -> None:
        """Count a member, and the folders that its path implies, before anything is written."""
        folder, _, file = member.rpartition("/")
        while folder and folder not in self._foreseen_folders:
            self._foreseen_folders.add(folder)
            folder = folder.rpartition("/")[0]
        self._foreseen += bool(file)
        self.check_members(self._foreseen + len(self._foreseen_folders), member)

    def folder(self, name: str) -> None:
        path = "/".join(self.check_name(name))
        if path in self._folders:
            self._count(name)
        self._make_folder(path, name)

    def file(self, name: str, content: IO[bytes], size: int) -> None:
        parts = self.check_name(name)
        path = "/".join(parts)
        if not parts:
            raise self.refuse("a file without a name", name)
        if path in self._names:
            raise self.refuse("a second member of the same name", name)
        if path in self._folders:
            raise self.refuse("both a file and a folder", name)
        self._make_folder("/".join(parts[:-1]), name)
        self._count(name)
        self._names.add(path)
        self.files += 1
        with self._new(name), self.into.file(path, size) as out:
            left = size
            while left:
                try:
                    chunk = content.read(min(left, CHUNK))
                except _DAMAGE as error:
                    raise self.damaged(name) from error
                if not chunk:
                    raise self.damaged(name)
                left -= len(chunk)
                self.bytes += len(chunk)
                self.check_size(self.bytes, name)
                out.write(chunk)

    def check_name(self, name: str) -> list[str]:
        """The parts of a member's path; DataError for one that is not safely below `into`."""
        if name.startswith("/"):
            raise self.refuse("an absolute path", name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self.refuse("climbs out of the output folder", name)
        if "\\" in name:
            raise self.refuse("a path of another system", name)
        # Cc: control characters, which terminals obey. Cs: bytes that are not UTF-8.
        plain = name.isascii() and name.isprintable()
        if not plain and any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise self.refuse("control characters, or bytes that are no text, in a name", name)
        if (
            len(parts) > self.limits.depth
            or len(name.encode()) > self.limits.name
            or any(len(part.encode()) > NAME for part in parts)
        ):
            raise self.refuse("a path that is too long or too deep", name)
        return parts

    def check_size(self, unpacked: int, member: str = "") -> None:
        if unpacked > self.limits.bytes:
            raise self.refuse(
                f"unpacks to more than {self.limits.bytes:,} bytes", member, hint=_RAISE_LIMIT
            )
        if unpacked > max(self.limits.ratio_free, self.limits.ratio * self.packed):
            raise self.refuse(
                f"unpacks to more than {self.limits.ratio:g} times its size",
                member,
                hint=_RAISE_LIMIT,
            )

    def _make_folder(self, path: str, member: str) -> None:
        if path in self._folders:
            return
        if path in self._names:
            raise self.refuse("both a file and a folder", member)
        self._make_folder(path.rpartition("/")[0], member)
        self._count(member)
        with self._new(member):
            self.into.folder(path)
        self._folders.add(path)

    @contextlib.contextmanager
    def _new(self, member: str) -> Iterator[None]:
        """Around what makes a file or a folder: what is there already is never written to."""
        try:
            yield
        except FileExistsError as error:
            raise self.refuse("its name is taken already", member) from error

    def _count(self, member: str) -> None:
        self._members += 1
        self.check_members(self._members, member)

    def check_members(self, count: int, member: str = "") -> None:
        if count > self.limits.members:
            raise self.refuse(
                f"more than {self.limits.members:,} members", member, hint=_RAISE_LIMIT
            )


class _TarBytes:
    """A tar as tarfile reads it: bounded, and watched for where its data really end."""

    def __init__(
        self, unpacked: IO[bytes] | gzip.GzipFile, packed: IO[bytes], sink: _Sink, bar: Any
    ) -> None:
        self.position = 0
        self.data_end = 0  # behind the last byte that is not zero
        self._unpacked = unpacked
        self._packed = packed
        self._sink = sink
        self._bar = bar
        self._limit: int | None = None

    def read(self, size: int) -> bytes:
        chunk = self._unpacked.read(size)
        if data := len(chunk.rstrip(b"\0")):
            self.data_end = self.position + data
        self.position += len(chunk)
        self._sink.check_size(self.position)
        if self._limit is not None and self.position > self._limit:
            raise self._sink.refuse(f"a member's headers take more than {HEADERS:,} bytes")
        self._bar.update(self._packed.tell() - self._bar.n)
        return chunk

    @contextlib.contextmanager
    def headers(self) -> Iterator[None]:
        """Limits what is read meanwhile: tarfile keeps headers in memory, of whatever length."""
        self._limit = self.position + HEADERS + BUFFER
        try:
            yield
        finally:
            self._limit = None


_TAR_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


def _foresee_tar(source: IO[bytes] | gzip.GzipFile, sink: _Sink) -> None:
    """Count the members of a tar, and what their names take, which costs a glance at each header.

    tarfile and the file system need a hundred times longer for a member. What it cannot read it
    leaves to tarfile, which says what is wrong.

    Raises:
        DataError: it passes one of the limits.
    """
    position = extended = 0
    size_in_header: int | None = None  # of the next member, where an extended header says it
    with contextlib.suppress(*_DAMAGE, ValueError):
        while len(header := source.read(BLOCK)) == BLOCK and header != _ZEROS:
            kind = header[156:157]
            size = _number(header[124:136]) if size_in_header is None else size_in_header
            size_in_header = None
            position += BLOCK
            if kind in (b"x", b"g", b"L", b"K", b"X"):
                if size > HEADERS:
                    return
                extended += size
                if extended > sink.limits.names:
                    raise sink.refuse(
                        f"the names of its members take more than {sink.limits.names:,} bytes"
                    )
                records = source.read(size)
                if kind in (b"x", b"X") and (found := _PAX_SIZE.search(records)):
                    size_in_header = int(found[1])
                left, position = -size % BLOCK, position + size
            else:
                sink.foresee(header[:100].partition(b"\0")[0].decode("utf-8", "replace"))
                left = -(-size // BLOCK) * BLOCK if kind not in b"123456" else 0
            position += left
            sink.check_size(position)
            while left > 0 and (chunk := source.read(min(left, BUFFER))):
                left -= len(chunk)


_ZEROS = bytes(BLOCK)
_PAX_SIZE = re.compile(rb"(?:^|\n)[0-9]+ size=([0-9]{1,18})\n")


def _number(field: bytes) -> int:
    """A number in a tar's header: octal digits, or binary where it is large."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else 0
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _unpack_tar(source: _TarBytes, sink: _Sink) -> None:
    end = 0  # of the last member
    try:
        with source.headers(), _parsing(sink):
            tar = tarfile.open(fileobj=source, mode="r|", bufsize=BUFFER)  # type: ignore[call-overload]  # noqa: SIM115
        while True:
            with source.headers(), _parsing(sink):
                member = tar.next()
            if member is None:
                break
            tar.members.clear()  # it would keep them all
            if member.size < 0:
                raise sink.damaged(member.name)
            if member.issparse():
                raise sink.refuse("a sparse file", member.name)
            if not (member.isdir() or member.isreg()):
                kind = _TAR_KINDS.get(member.type, "neither a file nor a folder")
                raise sink.refuse(kind, member.name)
            end = member.offset_data
            if member.isdir():
                sink.folder(member.name)
            else:
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                sink.file(member.name, content, member.size)
                end += -(-member.size // BLOCK) * BLOCK
        # To the very end, because a gzip's checksum and length stand there.
        while source.read(BUFFER):
            pass
    except _DAMAGE as error:
        raise sink.damaged() from error
    # A whole tar ends with two blocks of zeros, of which some writers leave out one. tarfile would
    # take a cut between two members, or a block that is no header, for the end.
    if source.data_end > end or source.position < end + BLOCK:
        raise sink.damaged()


class _ZipBytes(io.BufferedReader):
    """A zip file; zipfile would read a list of members of any length into memory in one go."""

    longest_read: int
    sink: _Sink | None  # while the list is read

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > self.longest_read:
            raise zipfile.BadZipFile("list of members too long")
        data = super().read(size)
        if self.sink:  # a signature for each member, which zipfile would make an object of
            self.sink.check_members(data.count(b"PK\x01\x02"))
        return data


def _unpack_zip(source: _ZipBytes, sink: _Sink, bar: Any) -> None:
    # A record of the list is 46 bytes and the name, and sometimes a few dozen bytes more.
    source.longest_read = (1 << 20) + 160 * sink.limits.members
    with _parsing(sink):
        source.sink = sink
        archive = zipfile.ZipFile(source)
        source.sink = None
    for member in archive.infolist():
        sink.foresee(member.filename)
    for member in archive.infolist():
        name = member.filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind == stat.S_IFLNK:
            raise sink.refuse("a symbolic link", name)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise sink.refuse("neither a file nor a folder", name)
        if member.flag_bits & 1:
            raise sink.refuse("encrypted", name, hint="Give an archive without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise sink.refuse("compressed in an unusual way", name, hint="Use deflate")
        if name.endswith("/"):
            sink.folder(name)
        else:
            with _parsing(sink, name):
                content = archive.open(member)
            with content:
                sink.file(name, content, member.file_size)
        bar.update(member.compress_size)


@contextlib.contextmanager
def _parsing(sink: _Sink, member: str = "") -> Iterator[None]:
    """Around the libraries' parsing of headers, where a hostile byte may raise nearly anything."""
    try:
        yield
    except (
        *_DAMAGE,
        ArithmeticError,
        LookupError,
        ValueError,
        RuntimeError,  # RecursionError, NotImplementedError
        struct.error,
    ) as error:
        raise sink.damaged(member) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # an offset before the beginning of the file
            raise sink.damaged(member) from error
        raise
