"""What some files must look like: a server's page or message, told with a 200, is none of them.

It is a look at what has no digest, not a reading of it: archives are checked when they are
unpacked, and the vocabulary, with its digests, when it is used.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.common.dictionary import read_dictionary
from components.common.errors import DataError
from components.common.vocabulary import read_merges, read_pieces
from components.download.archive import BLOCK, kind_of

# Text is read as a whole: GPT-2's files have 1 MB.
MOST_TEXT = 64 << 20

_READERS: dict[str, Callable[[Path], Any]] = {
    "encoder.json": read_pieces,
    "vocab.bpe": read_merges,
    "dict.txt": read_dictionary,
}


def check_format(path: Path, name: str, *, archive: bool) -> None:
    """Look whether the file at `path`, which is called `name`, is of the format of that name.

    Args:
        archive: it has to be an archive, whatever its name.

    Raises:
        DataError: it is not.
    """
    if fault := _fault(path, name, archive):
        raise DataError(
            f"{name}: {fault}",
            hint="Check the address: some servers answer with a page that says what is wrong",
        )


def _fault(path: Path, name: str, archive: bool) -> str:
    with path.open("rb") as file:
        start = file.read(BLOCK)
    if archive:
        return "" if kind_of(start) else "not a tar, tar.gz or zip archive"
    if name.endswith((".gz", ".tgz")):
        return "" if start.startswith(b"\x1f\x8b") else "not a gzip file"
    if name not in _READERS:
        return ""
    if path.stat().st_size > MOST_TEXT:
        return f"more than {MOST_TEXT >> 20} MiB"
    try:
        found = _READERS[name](path)
    except DataError as error:
        return error.what.removeprefix(f"{path}: ")
    # Of a page, or a message in JSON, a line may well have two words.
    message = start.lstrip().startswith((b"<", b"{"))
    if name == "vocab.bpe" and (message or not (found or start.startswith(b"#version"))):
        return "not two tokens a line"
    return "" if start else "not a symbol and a count a line"
