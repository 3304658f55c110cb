"""GPT-2's byte-level BPE (Radford et al. 2019), with the ids that fairseq's own encoder gives.

fairseq/data/encoders/gpt2_bpe_utils.py is the reference, in pure Python. Here gigatoken does the
work, hundreds of times faster. Tests hold the two against each other on every Unicode code point,
on arbitrary text, and for arbitrary trained vocabularies.
"""

import json
import threading
from pathlib import Path

import gigatoken
import numpy as np
from numpy.typing import NDArray

from components.common.errors import DataError

# Bounds the tables that are indexed by id; GPT-2 has 50,257 ids.
MAX_ID = 1 << 24


class Encoder:
    """Encodes lines of text. Threads may share one; while it encodes it lets other threads run.

    The lines of a text are encoded together, which is much faster than one by one. They stay apart,
    because a newline that follows and precedes something other than white space is a token of its
    own, and a line's first word is split the same after a newline as at the start of a text.
    """

    def __init__(self, pieces: dict[str, int], merges: list[tuple[str, str]]) -> None:
        """
        Args:
            pieces: token to id, in GPT-2's spelling of bytes as printable characters.
            merges: the pairs of tokens to join, the first one first.

        Raises:
            ValueError: the two do not fit together; says why in a phrase.
        """
        alphabet = byte_characters()
        if len(set(pieces.values())) != len(pieces):
            raise ValueError("two tokens have the same id")
        # gigatoken relies on the order in which training finds merges, and on a token for each.
        made = set(alphabet)
        for number, (left, right) in enumerate(merges, start=1):
            if left not in made or right not in made:
                raise ValueError(f"merge {number} joins {left!r} and {right!r} before both exist")
            made.add(left + right)
        if missing := made - pieces.keys():
            raise ValueError(f"{len(missing)} tokens, such as {min(missing)!r}, have no id")
        if len(set(merges)) != len(merges):
            raise ValueError("a merge is there twice")
        self.ids = sorted(pieces.values())
        self.newline = pieces[alphabet[ord("\n")]]
        self._tokenizer = gigatoken.Tokenizer.from_json(_tokenizer_json(pieces, merges))
        self._lock = threading.Lock()

    def encode(self, lines: list[bytes]) -> NDArray[np.uint32]:
        """The ids of all lines, the newline's id after each.

        A line must be UTF-8, must not be empty, and must neither start nor end with white space or
        hold a newline.
        """
        text = b"\n".join([*lines, b""])
        with self._lock:  # a tokenizer has one cache, and refuses to be entered twice
            return self._tokenizer.encode(text)


def read_encoder(encoder_json: Path, vocab_bpe: Path) -> Encoder:
    """The encoder in GPT-2's two files: token to id as JSON, and one merge a line after a header.

    Raises:
        DataError: a file is missing or not of this form, or the two do not fit together.
    """
    try:
        pieces = json.loads(encoder_json.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{encoder_json}: no such file", mend=_MEND) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{encoder_json}: not JSON in UTF-8 ({error})", mend=_MEND) from None
    if type(pieces) is not dict or not all(
        type(i) is int and 0 <= i < MAX_ID for i in pieces.values()
    ):
        raise DataError(f"{encoder_json}: not a JSON object of tokens to ids", mend=_MEND)
    try:
        # As fairseq reads it: neither what precedes the first newline nor what follows the last.
        rows = vocab_bpe.read_text(encoding="utf-8").split("\n")[1:-1]
    except FileNotFoundError:
        raise DataError(f"{vocab_bpe}: no such file", mend=_MEND) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{vocab_bpe}: not UTF-8 ({error.reason})", mend=_MEND) from None
    merges = []
    for number, row in enumerate(rows, start=2):
        match row.split():
            case [left, right]:
                merges.append((left, right))
            case _:
                raise DataError(f"{vocab_bpe}: line {number} is not two tokens", mend=_MEND)
    try:
        return Encoder(pieces, merges)
    except ValueError as error:
        raise DataError(
            f"{encoder_json} and {vocab_bpe} do not fit together: {error}", mend=_MEND
        ) from None


_MEND = "Use the encoder.json and vocab.bpe that belong to the pretrained model"


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in GPT-2's files, by the byte's value."""
    # A byte that is a visible character in Latin-1 is spelt as that, the others, in order, as the
    # code points from 256 on.
    plain = [chr(b) if chr(b).isprintable() and chr(b) != " " else "" for b in range(256)]
    others = (chr(code) for code in range(256, 512))
    return [character or next(others) for character in plain]


def _tokenizer_json(pieces: dict[str, int], merges: list[tuple[str, str]]) -> str:
    # The format of Hugging Face's tokenizers. No added tokens: text that looks like a special token
    # is text.
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {**split, "use_regex": True},
            "post_processor": None,
            "decoder": None,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": pieces,
                "merges": merges,
            },
        }
    )
