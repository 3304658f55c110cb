"""Where a trained model lies, with the files that belong to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common import strict_json
from components.common.errors import ConfigError, DataError

# Of a folder that `race run` or a copy of a cluster's artifacts made: a folder for each output.
MODEL, BPE, REPORT = "model", "bpe", "report"
CHECKPOINT = "checkpoint_best.pt"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Trained:
    """A checkpoint, its BPE, and what training and evaluation said of it ({} where not known)."""

    checkpoint: Path
    bpe: Path
    training: dict[str, Any]
    evaluation: dict[str, Any]


def find_trained(model: Path, bpe: Path | None = None, evaluation: Path | None = None) -> Trained:
    """The files of a trained model.

    Args:
        model: a run's folder, which has all that follows; the folder that train wrote; or a
            checkpoint.
        bpe: folder with encoder.json, vocab.bpe and dict.txt.
        evaluation: folder that evaluate wrote.

    Raises:
        ConfigError: `bpe` is not given, and `model` is no run's folder with one.
        DataError: there is no checkpoint at `model`, or metrics.json of a folder is damaged.
    """
    run = (model / MODEL).is_dir()
    folder = model / MODEL if run else model
    checkpoint = folder / CHECKPOINT if folder.is_dir() else folder
    if not checkpoint.is_file():
        raise DataError(
            f"{checkpoint}: no such checkpoint",
            mend="Give a run's folder, the folder that train wrote, or a checkpoint",
        )
    if bpe is None:
        bpe = model / BPE
        if not bpe.is_dir():
            raise ConfigError(
                f"{model}: the BPE of this model is not beside it",
                mend="Say with --bpe where its encoder.json, vocab.bpe and dict.txt lie",
            )
    if evaluation is None and run:
        evaluation = model / REPORT
    return Trained(
        checkpoint,
        bpe,
        read_metrics(checkpoint.parent),
        {} if evaluation is None else read_metrics(evaluation),
    )


def read_metrics(folder: Path) -> dict[str, Any]:
    """What metrics.json of a folder holds; {} where there is none.

    Raises:
        DataError: it is damaged.
    """
    path = folder / METRICS
    try:
        found = strict_json.read(path)
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{path}: damaged", mend="Write it anew, or take it away")
    return found
