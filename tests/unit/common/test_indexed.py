from pathlib import Path

import numpy as np
import pytest

from components.binarize.indexed import Writer
from components.common.indexed import read_sizes


def test_sizes_are_read_as_they_were_written(tmp_path: Path) -> None:
    with Writer(tmp_path / "train", np.uint16) as writer:
        writer.write(np.arange(6, dtype=np.uint16), np.array([1, 5], np.int32))
    assert read_sizes(tmp_path / "train").tolist() == [1, 5]


def test_what_is_no_index_or_cut_off_is_refused(tmp_path: Path) -> None:
    with Writer(tmp_path / "train", np.uint16) as writer:
        writer.write(np.arange(6, dtype=np.uint16), np.array([1, 5], np.int32))
    whole = (tmp_path / "train.idx").read_bytes()
    endless = whole[:18] + b"\xff" * 8 + whole[26:]
    for content in (b"", whole[:20], whole[:30], b"x" + whole[1:], endless):
        (tmp_path / "train.idx").write_bytes(content)
        with pytest.raises(ValueError, match=r"not an index|cut off"):
            read_sizes(tmp_path / "train")
