"""Checkpoints: the one place where they are read, and what can be told from them before training.

A checkpoint comes from outside, and a pickle can run code. It is always read by torch's
weights-only unpickler, with a short list of plain types allowed besides tensors; what that refuses
is refused for good.
"""

import argparse
import contextlib
import dataclasses
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.common.errors import ConfigError, DataError


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


def allow_safe_types() -> None:
    """Let each later torch.load of this process read fairseq's checkpoints, weights-only still."""
    import torch

    torch.serialization.add_safe_globals(SAFE_TYPES)


@contextlib.contextmanager
def safe_types_allowed() -> Iterator[None]:
    """Within the block, torch.load reads fairseq's checkpoints, weights-only still."""
    import torch

    with torch.serialization.safe_globals(SAFE_TYPES):
        yield


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; its tensors are on the CPU, and mapped where its format can be.

    Raises:
        DataError: the file is missing, is no checkpoint, or holds anything that could run code.
    """
    import torch

    try:
        with safe_types_allowed():
            # Only the format of torch 1.6 and later can be mapped; the published RoBERTa is older.
            state = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except FileNotFoundError:
        raise DataError(f"{path}: no such checkpoint", mend="Check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a checkpoint", mend="Check the path") from None
    except OSError:
        raise
    except Exception as error:  # the unpickler raises anything over bytes that are no pickle
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe:
            raise DataError(
                f"{path}: refused, because reading it would call {unsafe[1]}",
                mend="A checkpoint holds tensors and settings only; get it from a trusted source",
            ) from error
        raise DataError(
            f"{path}: not a checkpoint, or damaged", mend="Fetch the file again"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise DataError(
            f"{path}: no fairseq checkpoint (it has no model)",
            mend="Give a checkpoint that fairseq-train wrote, such as roberta.large's model.pt",
        )
    return state


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
            mend="Give a .pt file, or a folder with one model.pt in it",
        )
    if len(found) > 1:
        raise DataError(
            f"{path}: several model.pt below it ({found[0]}, {found[1]}...)",
            mend="Give the one to start from",
        )
    return found[0]


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of a RoBERTa encoder; 0 where it is not known."""

    layers: int
    embed_dim: int
    ffn_embed_dim: int
    attention_heads: int
    positions: int = 0  # the most tokens of a sequence
    vocabulary: int = 0  # rows of the embedding


def shape_of(state: dict[str, Any], path: Path) -> Shape:
    """The size of the model in a checkpoint; the number of heads cannot be told from the weights.

    Raises:
        DataError: the model is not a RoBERTa.
    """
    sizes = {
        # Checkpoints before fairseq 0.10 call the encoder "decoder".
        re.sub(r"^decoder\.", "encoder.", name): tuple(tensor.shape)
        for name, tensor in state["model"].items()
        if hasattr(tensor, "shape")
    }
    prefix = "encoder.sentence_encoder."
    try:
        vocabulary, embed_dim = sizes[prefix + "embed_tokens.weight"]
        # Position embeddings start after the padding index, 1: two rows are never used.
        positions = sizes[prefix + "embed_positions.weight"][0] - 2
        ffn_embed_dim = sizes[prefix + "layers.0.fc1.weight"][0]
    except (KeyError, ValueError, IndexError):
        raise DataError(
            f"{path}: the model in it is not a fairseq RoBERTa",
            mend="Give a checkpoint such as roberta.large's model.pt",
        ) from None
    layers = {
        name.removeprefix(prefix + "layers.").partition(".")[0]
        for name in sizes
        if name.startswith(prefix + "layers.")
    }
    return Shape(len(layers), embed_dim, ffn_embed_dim, 0, positions, vocabulary)


def require_same_shape(found: Shape, wanted: Shape, path: Path) -> None:
    """Refuse a pretrained model that does not fit the model to be trained.

    Raises:
        ConfigError: naming each size that differs, and the parameter that sets it.
    """
    parameters = {
        "layers": "encoder_layers",
        "embed_dim": "encoder_embed_dim",
        "ffn_embed_dim": "encoder_ffn_embed_dim",
        "positions": "max_positions",
        "vocabulary": "the dictionary of the data",
    }
    differences = [
        f"{parameter} is {getattr(wanted, size)}, the checkpoint has {getattr(found, size)}"
        for size, parameter in parameters.items()
        if getattr(wanted, size) != getattr(found, size)
    ]
    if differences:
        raise ConfigError(
            f"{path}: does not fit the model to train: {'; '.join(differences)}",
            mend="Set arch and the encoder_* parameters to the checkpoint's sizes",
        )


def task_of(state: dict[str, Any]) -> str:
    """The name of fairseq's task that a checkpoint's model was trained for, "" where not known."""
    settings = state.get("cfg")
    task = settings.get("task") if isinstance(settings, dict) else state.get("args")
    name = task.get("_name") if isinstance(task, dict) else getattr(task, "task", "")
    return name if isinstance(name, str) else ""


def require_vocabulary(found: int, wanted: int, path: Path) -> None:
    """Refuse a model that was trained with another dictionary than the data set's.

    Raises:
        DataError: the sizes differ.
    """
    if found != wanted:
        raise DataError(
            f"{path}: knows {found} tokens, but the dictionary of the data set has {wanted}",
            mend="Use a data set binarized with the dictionary that the model was trained with",
        )
