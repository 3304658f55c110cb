"""A full file system: which one it is, and what libraries say instead of it.

torch, safetensors and others have errors of their own for a write that was refused, and some say
no more than that a file is shorter than it should be.
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from components.common.errors import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT)
SHARED_MEMORY = Path("/dev/shm")

_SURE = re.compile(
    r"no space left|disk quota exceeded|\b(errno|os error) (28|122)\b", re.IGNORECASE
)
# These may have other causes, so a file system has to be full as well. Sources: torch's
# caffe2/serialize/inline_container.cc, C++'s iostream, and NumPy's tofile.
_PERHAPS = re.compile(
    r"unexpected pos \d+ vs \d+|PytorchStreamWriter|file write failed|iostream"
    r"|\d+ requested and \d+ written"
)
# What torch, NCCL and Python's multiprocessing call their shared memory.
_SHARED = re.compile(r"/dev/shm|shared memory|</?torch_\d|/psm_|/nccl-", re.IGNORECASE)

_NEARLY = 1 << 16  # bytes: a file system with less is full for who writes more at once


def no_space(error: BaseException | str, *places: Path) -> OutputError | None:
    """The error for a write that a full file system has refused; None where it was not that.

    Args:
        error: what was raised, or a log's last lines.
        places: where it may have been written, in case the error does not tell.
    """
    chain = [] if isinstance(error, str) else list(_chain(error))
    text = "\n".join(map(str, chain)) if chain else str(error)
    refused = next((e for e in chain if isinstance(e, OSError) and e.errno in FULL), None)
    full = [place for place in (*places, SHARED_MEMORY) if _is_full(place)]
    if not refused and not _SURE.search(text) and not (full and _PERHAPS.search(text)):
        return None
    why = os.strerror(refused.errno if refused and refused.errno else errno.ENOSPC).lower()
    named = [Path(os.fsdecode(refused.filename))] if refused and refused.filename else []
    shared = [SHARED_MEMORY] if _SHARED.search(text) else []
    for place in (*shared, *named, *full, *sorted(places, key=_free)):
        return _error(place, why)
    return OutputError(why, hint="Free some space or choose another output folder")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _error(place: Path, why: str) -> OutputError:
    mount = _mount(place)
    size = os.statvfs(mount)
    has, unit = size.f_blocks * size.f_frsize / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if has >= 1024:
            has, unit = has / 1024, larger
    hint = "free some space there or choose another output folder"
    if place == SHARED_MEMORY:
        hint = "give the step more, as by docker run --shm-size"
    return OutputError(
        f"{place}: {why}", hint=f"The file system at {mount} has {has:.0f} {unit}: {hint}"
    )


def _mount(path: Path) -> Path:
    path = Path(os.path.realpath(path))
    while not path.is_mount() and path != path.parent:
        path = path.parent
    return path


def _free(path: Path) -> int:
    try:
        found = os.statvfs(_mount(path))
    except OSError:
        return 1 << 62
    # Without inodes, no file can be made however much room there is.
    return 0 if found.f_files and not found.f_favail else found.f_bavail * found.f_frsize


def _is_full(path: Path) -> bool:
    return _free(path) < _NEARLY
