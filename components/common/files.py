"""Inputs that are plain files, and outputs that are there whole or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from components.common.disk import no_space
from components.common.errors import DataError, OutputError, RaceError


def plain(path: Path) -> Path:
    """The path of an input, before it is opened: of a pipe or a device there may be no end.

    Raises:
        DataError: a pipe, a socket or a device is there.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path}: a pipe, socket or device", hint="Give a plain file")
    return path


@contextlib.contextmanager
def text_input(path: Path, hint: str, *, newline: str | None = None) -> Iterator[TextIO]:
    """An input of UTF-8, open to be read.

    Raises:
        DataError: it is missing, or what the block reads of it is not UTF-8; says `hint`.
        OSError: it cannot be read.
    """
    try:
        with plain(path).open(encoding="utf-8", newline=newline) as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", hint=hint) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason})", hint=hint) from None


def sha256_of(path: Path) -> str:
    """The sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """A new folder to fill; it becomes `output` when the block ends, and is removed when it raises.

    `output` may exist as an empty folder (KFP makes some of its output paths beforehand). What
    cannot become the output is refused before the work starts, so that no work is lost to it.

    Raises:
        FileExistsError: `output` is a file or a folder with something in it, before the block or
            at its end.
        OSError: `output` cannot be written. An OSError of the block that names no path (a full
            disk does not) leaves it with `output`.
        OutputError: `output` is a mount point, which cannot be replaced in one step; or a library
            has said in its own way that the disk is full.
    """
    output = Path(os.path.realpath(output))  # a rename would replace a link, not what it leads to
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output))
    if output.is_mount():
        raise OutputError(f"{output} is a mount point", hint="Choose a folder inside it as output")
    with named(output), _beside(output, Path.mkdir) as partial:
        yield partial
        try:
            os.replace(partial, output)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            # Another process was faster.
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output)) from None


@contextlib.contextmanager
def atomic_file(output: Path) -> Iterator[Path]:
    """A new path to write; it becomes `output` when the block ends, and is removed when it raises.

    Raises:
        OSError: `output` is a folder or cannot be written; see `atomic_folder`.
    """
    output = Path(os.path.realpath(output))
    if output.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(output))
    with named(output), _beside(output, lambda path: path.touch(exist_ok=False)) as partial:
        yield partial
        os.replace(partial, output)


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder that is removed when the block ends, in `parent` or where temporary files go.

    Raises:
        OSError: it cannot be made.
    """
    place = (parent or Path(tempfile.gettempdir())) / "race"
    with _beside(place, lambda path: path.mkdir(0o700)) as folder:
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, which is free; where a file system has no links, a copy.

    For files that are never changed in place, as outputs are not.
    """
    source = os.path.realpath(source)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # no links here, or not to another file system, or not to another user's files
        shutil.copyfile(source, target)


def link_tree(source: Path, target: Path) -> None:
    """A file, or the files of a folder, in a new place as well; see `link_or_copy`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        with atomic_folder(target) as partial:
            shutil.copytree(source, partial, copy_function=link_or_copy, dirs_exist_ok=True)
    else:
        link_or_copy(source, target)


@contextlib.contextmanager
def _beside(output: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """A new path in the same folder, where a rename is atomic; it is removed when the block raises.

    This process holds its lock. What a process that was killed left there has none, and is removed.
    What is made gets the permissions that any new file gets, unlike with `tempfile`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    _clear(output)
    while True:
        path = output.parent / f".{output.name}.partial-{secrets.token_hex(4)}"
        make(path)
        try:
            lock = _locked(path)
            break
        except (BlockingIOError, FileNotFoundError):
            continue  # somebody who clears found it before it was locked
        except OSError:  # a file system without locks, where nobody clears
            lock = os.open(os.devnull, os.O_RDONLY)
            break
    try:
        with removed_if_raised(path):
            yield path
    finally:
        os.close(lock)


def _clear(output: Path) -> None:
    """Remove what killed processes left of their work on `output`."""
    left = re.compile(rf"\.{re.escape(output.name)}\.partial-[0-9a-f]{{8}}")
    with contextlib.suppress(OSError), os.scandir(output.parent) as entries:
        for path in [Path(entry.path) for entry in entries if left.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                lock = _locked(path)
                _remove(path)
                os.close(lock)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock of a file or folder.

    Raises:
        BlockingIOError: another process holds it.
        FileNotFoundError: it is gone.
        OSError: it cannot be locked.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(path)  # whoever had the lock may have removed it meanwhile
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def removed_if_raised(path: Path) -> Iterator[None]:
    """What the block makes at `path`, a file or a folder, is gone if it raises."""
    try:
        yield
    except BaseException as error:
        # Now, for when it is removed there is space again. What has a number is told as it is.
        strange = isinstance(error, Exception) and not isinstance(error, RaceError)
        numbered = getattr(error, "errno", None)
        full = no_space(error, path.parent) if strange and not numbered else None
        _remove(path)
        if full:
            raise full from error
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Gives an OSError the path that it is about; writing to an open file raises it without."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
