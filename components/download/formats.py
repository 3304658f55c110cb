"""What some files must look like: a server's page or message, told with a 200, is none of them.

It is a look at what has no digest, not a reading of it: archives are checked when they are
unpacked, and the vocabulary when it is used.
"""

from collections.abc import Callable
from pathlib import Path

from components.common import strict_json
from components.common.errors import DataError
from components.download.archive import BLOCK, kind_of

# Text is read as a whole: GPT-2's files have 1 MB.
MOST_TEXT = 64 << 20


def check_format(path: Path, name: str, *, archive: bool) -> None:
    """Look whether the file at `path`, which is called `name`, is of the format of that name.

    Args:
        archive: it has to be an archive, whatever its name.

    Raises:
        DataError: it is not.
    """
    with path.open("rb") as file:
        start = file.read(BLOCK)
        fault = ""
        if archive:
            fault = "" if kind_of(start) else "not a tar, tar.gz or zip archive"
        elif name.endswith((".gz", ".tgz")):
            fault = "" if start.startswith(b"\x1f\x8b") else "not a gzip file"
        elif name in _TEXTS:
            try:
                fault = _TEXTS[name]((start + file.read(MOST_TEXT)).decode("utf-8"))
            except UnicodeDecodeError:
                fault = "not text in UTF-8"
    if fault:
        raise DataError(
            f"{name}: {fault}",
            hint="Check the address: some servers answer with a page that says what is wrong",
        )


def _encoder_json(text: str) -> str:
    try:
        ids = strict_json.loads(text)
    except ValueError:
        return "not JSON"
    if type(ids) is dict and ids and all(type(number) is int for number in ids.values()):
        return ""
    return "not a JSON object of tokens to ids"


def _vocab_bpe(text: str) -> str:
    merges = text.split("\n")[1:-1]  # as fairseq reads it
    pairs = all(len(line.split()) == 2 for line in merges)
    # Of a page, or a message in JSON, a line may well have two words.
    message = text.lstrip().startswith(("<", "{")) or not (merges or text.startswith("#version"))
    return "" if pairs and not message else "not two tokens a line"


def _dict_txt(text: str) -> str:
    try:
        for line in text.removesuffix("\n").split("\n"):
            int(line.rstrip().removesuffix(" #fairseq:overwrite").rsplit(" ", 1)[1])
    except (ValueError, IndexError):
        return "not a symbol and a count a line"
    return ""


_TEXTS: dict[str, Callable[[str], str]] = {
    "encoder.json": _encoder_json,
    "vocab.bpe": _vocab_bpe,
    "dict.txt": _dict_txt,
}
