"""fairseq's dictionary of symbols (fairseq/data/dictionary.py): what is needed to read one."""

from dataclasses import dataclass
from pathlib import Path

from components.common.errors import DataError
from components.common.files import text_input

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
END_OF_SENTENCE = 2
UNKNOWN = 3

OVERWRITE = "#fairseq:overwrite"


@dataclass(frozen=True)
class Dictionary:
    """Symbols and their counts in the order of the indices; `indices` takes a symbol to its own."""

    symbols: list[str]
    counts: list[int]
    indices: dict[str, int]

    def __len__(self) -> int:
        return len(self.symbols)

    def text(self) -> str:
        """The file as fairseq writes it: the special symbols are understood."""
        return "".join(
            f"{symbol} {count}\n"
            for symbol, count in zip(
                self.symbols[len(SPECIAL) :], self.counts[len(SPECIAL) :], strict=True
            )
        )


def read_dictionary(path: Path) -> Dictionary:
    """A dictionary file: a symbol, a space and a count on each line, in the order of the indices.

    Raises:
        DataError: a line is not of this form, or a symbol comes twice (without fairseq's flag that
            lets the later one overwrite the earlier).
    """
    symbols = list(SPECIAL)
    counts = [1] * len(SPECIAL)
    indices = {symbol: i for i, symbol in enumerate(symbols)}
    with text_input(path, _HINT) as file:
        for number, line in enumerate(file, start=1):
            row = line.rstrip()
            overwrite = row.endswith(f" {OVERWRITE}")
            try:
                # The last space divides: a symbol may hold spaces itself.
                symbol, count = row.removesuffix(f" {OVERWRITE}").rsplit(" ", 1)
                counts.append(int(count))
            except ValueError:
                raise DataError(
                    f"{path}: line {number} is not a symbol and a count", hint=_HINT
                ) from None
            if symbol in indices and not overwrite:
                raise DataError(f"{path}: line {number} repeats {symbol!r}", hint=_HINT)
            indices[symbol] = len(symbols)
            symbols.append(symbol)
    return Dictionary(symbols, counts, indices)


_HINT = "Use the dict.txt that belongs to the pretrained model"
