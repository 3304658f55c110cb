"""Checkpoints of fairseq under several names, as one file."""

import contextlib
import os

from fairseq.file_io import PathManager

from components.common.files import link_or_copy


class LinkingPathManager(PathManager):  # type: ignore[misc]
    """fairseq's, except that a copy of a checkpoint is a second name of the same file.

    fairseq writes one checkpoint and copies it to the other names that it should have. A checkpoint
    is never changed once it is written, so a link does as well; it takes no time and no space, and
    there is no moment at which half a file has the name.
    """

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        link(src_path, dst_path)
        return True


def link(source: str, target: str) -> None:
    """Give a file a second name, in place of what has it; a copy where there are no links."""
    partial = f"{target}.partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    link_or_copy(source, partial)
    os.replace(partial, target)
