"""GPT-2's byte-level BPE (Radford et al. 2019), with the ids that fairseq's own encoder gives.

fairseq/data/encoders/gpt2_bpe_utils.py is the reference, in pure Python. Here gigatoken does the
work, hundreds of times faster. Tests hold the two against each other on every Unicode code point,
on arbitrary text, and for arbitrary trained vocabularies.
"""

import threading
from pathlib import Path
from typing import NamedTuple

import gigatoken
import numpy as np
from numpy.typing import NDArray

from components.common import strict_json
from components.common.dictionary import SPECIAL, Dictionary, read_dictionary
from components.common.errors import DataError
from components.common.vocabulary import Vocabulary, read_merges, read_pieces, vocabulary_of


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
        self.pieces, self.merges = pieces, merges
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
    """The encoder in GPT-2's two files.

    Raises:
        DataError: a file is missing or not of its form, the two do not fit together, or the first
            is a Hugging Face vocab.json, whose ids are another model's.
    """
    pieces, merges = read_pieces(encoder_json), read_merges(vocab_bpe)
    made = {left + right for left, right in merges}
    if theirs := [name for name in (*SPECIAL, "<mask>") if name in pieces and name not in made]:
        raise DataError(
            f"{encoder_json}: is a Hugging Face vocab.json, for it has {' '.join(theirs)}",
            hint="Use GPT-2's encoder.json, or what `race import` makes of the Hugging Face model",
        )
    try:
        return Encoder(pieces, merges)
    except ValueError as error:
        raise DataError(
            f"{encoder_json} and {vocab_bpe} do not fit together: {error}",
            hint="Use the encoder.json and vocab.bpe that belong to the pretrained model",
        ) from None


class Bpe(NamedTuple):
    """What takes text to a model's indices."""

    encoder: Encoder
    dictionary: Dictionary
    vocabulary: Vocabulary

    def require_complete(self) -> None:
        """Refuse a dictionary that lacks ids of the encoder, or has others.

        Raises:
            DataError: it does.
        """
        ids = set(map(str, self.encoder.pieces.values()))
        numbers = set(filter(str.isdecimal, self.dictionary.symbols))
        for some, holder, other in (
            (ids - numbers, "encoder.json", "dict.txt"),
            (numbers - ids, "dict.txt", "encoder.json"),
        ):
            if some:
                raise DataError(
                    f"{self.vocabulary.where}: {len(some)} ids of {holder}, such as {min(some)},"
                    f" are not in {other}",
                    hint="Use the encoder.json, vocab.bpe and dict.txt that belong together; with"
                    " --max-unknown binarize takes a dictionary that lacks some",
                )


def read_bpe(folder: Path) -> Bpe:
    """encoder.json and vocab.bpe, and dict.txt, whose symbols are the encoder's ids.

    Raises:
        DataError: a file is missing or damaged, or as `read_encoder` raises it.
    """
    dictionary = read_dictionary(folder / "dict.txt")
    encoder = read_encoder(folder / "encoder.json", folder / "vocab.bpe")
    files = {
        "encoder.json": encoder.pieces,
        "vocab.bpe": encoder.merges,
        "dict.txt": dictionary.symbols,
    }
    return Bpe(encoder, dictionary, vocabulary_of(folder, files.items()))


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
    return strict_json.dumps(
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
