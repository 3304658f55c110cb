"""Checkpoints: the one place where their files are read; `roberta` says what may be in them.

A checkpoint comes from outside, and a pickle can run code. It is always read by torch's
weights-only unpickler, with a short list of plain types allowed besides tensors; what that refuses
is refused for good.
"""

import argparse
import contextlib
import errno
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.common.errors import DataError
from components.common.files import plain


class Meter:
    """Stands in for the meters in checkpoints of fairseq before 0.9; nothing reads their values."""


# What fairseq's checkpoints hold besides tensors and Python's own plain types.
# Namespace: the model's and the task's arguments (`args`, or in `cfg`).
# Meters: the trainer's `train_meters` in the format that the published RoBERTa was saved in.
SAFE_TYPES: list[Any] = [
    argparse.Namespace,
    (Meter, "fairseq.meters.AverageMeter"),
    (Meter, "fairseq.meters.StopwatchMeter"),
    (Meter, "fairseq.meters.TimeMeter"),
]


@contextlib.contextmanager
def safe_types_allowed() -> Iterator[None]:
    """Within the block, torch.load reads fairseq's checkpoints, weights-only still."""
    import torch

    with torch.serialization.safe_globals(SAFE_TYPES):
        yield


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, which has a dict `model`; of all else in it nothing is known.

    Raises:
        DataError: the file is missing, is no checkpoint, or holds anything that could run code.
    """
    state = unpickled(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise DataError(
            f"{path}: no fairseq checkpoint (it has no model)",
            hint="Give a checkpoint that fairseq-train wrote, such as roberta.large's model.pt",
        )
    return state


def unpickled(path: Path) -> object:
    """What torch.save wrote; tensors are on the CPU, and mapped where the format can be.

    Raises:
        DataError: the file is missing, was not written by torch.save, or holds anything that could
            run code.
    """
    import torch

    plain(path)
    try:
        with safe_types_allowed():
            # Only the format of torch 1.6 and later can be mapped; the published RoBERTa is older.
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except FileNotFoundError:
        raise DataError(f"{path}: no such checkpoint", hint="Check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a checkpoint", hint="Check the path") from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch seeks before the start of a zip that was cut off
            raise _damaged(path) from error
        raise
    except Exception as error:  # the unpickler raises anything over bytes that are no pickle
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe:
            raise DataError(
                f"{path}: refused, because reading it would call {unsafe[1]}",
                hint="A checkpoint holds tensors and settings only; get it from a trusted source",
            ) from error
        raise _damaged(path) from error


def _damaged(path: Path) -> DataError:
    return DataError(f"{path}: not a checkpoint, or damaged", hint="Fetch the file again")


def find_pretrained(path: Path) -> Path:
    """The checkpoint file that `path` is, or the only model.pt below the folder that it is.

    Raises:
        DataError: there is no such file, or there are several.
    """
    if path.is_file():
        return path
    found = sorted(path.rglob("model.pt")) if path.is_dir() else []
    if not found:
        raise DataError(
            f"{path}: no pretrained checkpoint there",
            hint="Give a .pt file, or a folder with one model.pt in it",
        )
    if len(found) > 1:
        raise DataError(
            f"{path}: several model.pt below it ({found[0]}, {found[1]}...)",
            hint="Give the one to start from",
        )
    return plain(found[0])
