"""Lines of text to the tokens of a model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.binarize.bpe import Encoder
from components.binarize.indexed import Tokens, token_type
from components.common.dictionary import END_OF_SENTENCE, UNKNOWN, Dictionary

# The white space that Python strips from text, as far as it is ASCII.
ASCII_SPACE = bytes(code for code in range(128) if chr(code).isspace())


@dataclass(frozen=True)
class Items:
    """Binarized lines: all tokens one after the other, and the number of tokens of each line."""

    tokens: Tokens
    sizes: NDArray[np.int32]


class Binarizer:
    """Turns text into the dictionary's indices; without one, into as many of the encoder's ids.

    Threads may share one.
    """

    def __init__(self, encoder: Encoder, dictionary: Dictionary | None = None) -> None:
        self._encoder = encoder
        ids = encoder.pieces.values()
        size = max(ids) + 1
        self.kind = token_type(len(dictionary) if dictionary else size)
        self._table = np.arange(size, dtype=self.kind)
        if dictionary:
            self._table.fill(UNKNOWN)
            for i in ids:
                self._table[i] = dictionary.indices.get(str(i), UNKNOWN)
        # Between lines only: no line holds one.
        self._table[encoder.newline] = END_OF_SENTENCE

    def binarize(self, lines: list[bytes]) -> Items:
        """The tokens of lines of UTF-8, as if they were stripped, and the end of each.

        Raises:
            UnicodeDecodeError: a line is not UTF-8.
        """
        distinct = {line: _strip(line) for line in dict.fromkeys(lines)}
        texts = [text for text in distinct.values() if text]
        ids = self._encoder.encode(texts)
        tokens = self._table.take(ids)
        ends = np.flatnonzero(ids == self._encoder.newline) + 1
        assert len(ends) == len(texts)
        if len(texts) == len(lines):
            return Items(tokens, np.diff(ends, prepend=0).astype(np.int32))
        found = dict(zip(texts, np.split(tokens, ends), strict=False))
        found[b""] = np.array([END_OF_SENTENCE], self.kind)
        repeated = [found[distinct[line]] for line in lines]
        sizes = np.fromiter(map(len, repeated), np.int32, len(repeated))
        return Items(np.concatenate(repeated), sizes)


def _strip(line: bytes) -> bytes:
    """What is left of a line of UTF-8 when Python strips it as text."""
    return line.strip(ASCII_SPACE) if line.isascii() else line.decode().strip().encode()
