"""fairseq's memory-mapped data set (MMapIndexedDataset in fairseq/data/indexed_dataset.py).

PREFIX.bin holds the items' tokens, one item after the other, in little-endian integers. PREFIX.idx:

    9 bytes        "MMIDIDX" and two zero bytes
    uint64         version, 1
    uint8          code of the integers' type
    uint64         n, the number of items
    n x int32      size of each item, in tokens
    n x int64      where each item starts, in bytes
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.unsignedinteger]

# As fairseq chooses and numbers them: (largest vocabulary that it takes, type, code).
TYPES: Sequence[tuple[int, type[np.unsignedinteger], int]] = (
    (65_499, np.uint16, 8),
    (4_294_967_294, np.uint32, 9),
)


def token_type(vocabulary: int) -> type[np.unsignedinteger]:
    """The integer type for the tokens of a vocabulary of this size."""
    return next(kind for largest, kind, _ in TYPES if vocabulary <= largest)


class Writer:
    """Writes PREFIX.bin as items arrive, and PREFIX.idx at the end of the block."""

    def __init__(self, prefix: Path, kind: type[np.unsignedinteger]) -> None:
        self._index = prefix.with_name(prefix.name + ".idx")
        self._data = prefix.with_name(prefix.name + ".bin").open("wb")
        self._kind = kind
        self._sizes: list[NDArray[np.int32]] = [np.empty(0, np.int32)]

    def __enter__(self) -> "Writer":
        return self

    def write(self, tokens: Tokens, sizes: NDArray[np.int32]) -> None:
        """Add items: their tokens one after the other, and how many tokens each has."""
        assert tokens.dtype == self._kind
        assert len(tokens) == sizes.sum()
        self._data.write(tokens.data)
        self._sizes.append(sizes)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.close()
        if kind is not None:
            return
        sizes = np.concatenate(self._sizes)
        ends = np.cumsum(sizes, dtype=np.int64) * np.dtype(self._kind).itemsize
        starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(sizes)]
        code = next(code for _, kind, code in TYPES if kind is self._kind)
        with self._index.open("wb") as file:
            file.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, code, len(sizes)))
            file.write(sizes.tobytes())
            file.write(starts.tobytes())
