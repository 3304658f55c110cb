"""What steps read of fairseq's memory-mapped data (see components.binarize.indexed)."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_sizes(prefix: Path) -> NDArray[np.int64]:
    """The size of each item in PREFIX.idx, in tokens, (items,).

    Raises:
        ValueError: the file is not such an index, or was cut off.
    """
    content = prefix.with_name(prefix.name + ".idx").read_bytes()
    if content[:9] != b"MMIDIDX\x00\x00" or len(content) < 26:
        raise ValueError(f"{prefix}.idx: not an index of fairseq's mmap format")
    (items,) = struct.unpack_from("<Q", content, 18)
    return np.frombuffer(content, np.dtype("<i4"), items, 26).astype(np.int64)
