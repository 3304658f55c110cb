"""What steps read of fairseq's memory-mapped data (see components.binarize.indexed)."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The codes of integers in fairseq/data/indexed_dataset.py.
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}


def read_sizes(prefix: Path) -> NDArray[np.int64]:
    """The size of each item in PREFIX.idx, in tokens, (items,).

    Raises:
        ValueError: the file is not such an index, or was cut off.
    """
    content = prefix.with_name(prefix.name + ".idx").read_bytes()
    if content[:9] != b"MMIDIDX\x00\x00" or len(content) < 26:
        raise ValueError(f"{prefix}.idx: not an index of fairseq's mmap format")
    (items,) = struct.unpack_from("<Q", content, 18)
    if items > (len(content) - 26) // 4:
        raise ValueError(f"{prefix}.idx: cut off")
    return np.frombuffer(content, np.dtype("<i4"), items, 26).astype(np.int64)


def read_tokens(prefix: Path) -> NDArray[np.integer]:
    """The tokens of PREFIX.bin, mapped into memory, one item after the other, (tokens,).

    Raises:
        ValueError: the file is empty or does not fit PREFIX.idx, or the latter is no such index.
    """
    index, path = (prefix.with_name(prefix.name + suffix) for suffix in (".idx", ".bin"))
    count = int(read_sizes(prefix).sum())
    with index.open("rb") as file:
        kind = np.dtype(_TYPES.get(file.read(18)[17], "V1"))
    if kind.kind not in "iu" or not count or path.stat().st_size != count * kind.itemsize:
        raise ValueError(f"{path}: does not fit its index")
    return np.memmap(path, kind, "r")
