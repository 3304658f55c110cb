"""Which BPE and dictionary something was made with, and whether two things share them.

encoder.json, vocab.bpe and dict.txt take text to a model's indices. Another one of the same size
gives other indices, which no size tells: so data and models keep digests of the three, in
vocabulary.json, and where two of them meet these are compared.

A digest is of what a file means. The counts in dict.txt, or the order of the names in encoder.json,
change no index, and differ between the published files and those that `race import` writes.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from components.common import strict_json
from components.common.dictionary import read_dictionary
from components.common.errors import DataError
from components.common.files import text_input

logger = logging.getLogger(__name__)

RECORD = "vocabulary.json"
# Bounds the tables that are indexed by id; GPT-2 has 50,257 ids.
MAX_ID = 1 << 24


@dataclass(frozen=True)
class Vocabulary:
    """Digests (sha256, hex) of encoder.json, vocab.bpe and dict.txt, by these names, where known.

    `where` says in errors whose they are.
    """

    where: Path
    digests: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Record it in a folder of data or of a model."""
        strict_json.write(folder / RECORD, dict(self.digests))


def read_pieces(path: Path) -> dict[str, int]:
    """encoder.json: token to id, in GPT-2's spelling of bytes as printable characters.

    Raises:
        DataError: it is missing or not of this form, or two tokens have the same id.
    """
    pieces = strict_json.read_object(path, hint=_HINT)
    if not pieces or not all(type(i) is int and 0 <= i < MAX_ID for i in pieces.values()):
        raise DataError(f"{path}: not a JSON object of tokens to ids", hint=_HINT)
    if len(set(pieces.values())) < len(pieces):
        raise DataError(f"{path}: two tokens have the same id", hint=_HINT)
    return pieces


def read_merges(path: Path) -> list[tuple[str, str]]:
    """vocab.bpe: the pairs of tokens to join, the first one first; one a line, after a header.

    Raises:
        DataError: it is missing or not of this form.
    """
    with text_input(path, _HINT) as file:
        # As fairseq reads it: neither what precedes the first newline nor what follows the last.
        rows = file.read().split("\n")[1:-1]
    merges = []
    for number, row in enumerate(rows, start=2):
        match row.split():
            case [left, right]:
                merges.append((left, right))
            case _:
                raise DataError(f"{path}: line {number} is not two tokens", hint=_HINT)
    return merges


_HINT = "Use the encoder.json and vocab.bpe that belong to the pretrained model"

_READERS: Mapping[str, Callable[[Path], object]] = {
    "encoder.json": read_pieces,
    "vocab.bpe": read_merges,
    "dict.txt": lambda path: read_dictionary(path).symbols,
}


def vocabulary_of(where: Path, contents: Iterable[tuple[str, object]]) -> Vocabulary:
    """Of files that were read, by their names."""
    return Vocabulary(where, {name: _digest(content) for name, content in contents})


def read_vocabulary(folder: Path) -> Vocabulary:
    """Of a folder with a BPE, with data, or with a model: by its own files and what it records.

    A model has the three files beside it where `race import` wrote it, the published one dict.txt
    alone, and what train wrote none.

    Raises:
        DataError: a file is damaged, or another one than was recorded.
    """
    paths = {name: folder / name for name in _READERS}
    if (columns := folder / "input0").is_dir():
        paths["dict.txt"] = columns / "dict.txt"
    held = vocabulary_of(
        folder, ((name, _READERS[name](path)) for name, path in paths.items() if path.is_file())
    )
    recorded = Vocabulary(folder / RECORD, _recorded(folder / RECORD))
    _refuse_others(held, recorded)
    return replace(
        held if held.digests or not recorded.digests else recorded,
        digests={**recorded.digests, **held.digests},
    )


def _digest(content: object) -> str:
    if isinstance(content, dict):
        content = sorted(content.items(), key=itemgetter(1))
    return hashlib.sha256(strict_json.dumps(content).encode()).hexdigest()


def _recorded(path: Path) -> dict[str, str]:
    hint = "Make its folder again"
    found = strict_json.read_object(path, hint) if path.exists() else {}
    if not all(
        isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
        for digest in found.values()
    ):
        raise DataError(f"{path}: damaged", hint=hint)
    return {name: digest for name, digest in found.items() if name in _READERS}


def require_same(one: Vocabulary, other: Vocabulary) -> bool:
    """Refuse what was made with different files; log which ones could not be compared.

    Returns:
        Whether all three were compared.

    Raises:
        DataError: a file differs; names both sides.
    """
    _refuse_others(one, other)
    for side, rest in ((one, other), (other, one)):
        if unknown := [name for name in _READERS if name not in side.digests]:
            logger.info(
                "%s: has no digests of its %s; not checked whether %s has the same",
                side.where,
                ", ".join(unknown),
                rest.where,
            )
            return False
    return True


def _refuse_others(one: Vocabulary, other: Vocabulary) -> None:
    for name, digest in one.digests.items():
        if (theirs := other.digests.get(name, digest)) != digest:
            raise DataError(
                f"{one.where} and {other.where}: were made with different {name}"
                f" (digests {digest:.12} and {theirs:.12})",
                hint="Use a BPE, data and a model that belong together: binarize with the model's",
            )
