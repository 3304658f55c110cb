"""Where a trained model lies, with the files that belong to it.

It is a run's folder, the folder that train wrote, a checkpoint, or a Hugging Face model such as
export and publish write. The last becomes a run's folder for as long as it is used:

    with as_run(model) as run:
        trained = find_trained(run)
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.common import hub
from components.common.errors import ConfigError, DataError
from components.common.files import scratch_folder
from components.common.results.metrics import METRICS, Evaluation, Training

# Of a folder that `race run` or a copy of a cluster's artifacts made: a folder for each output.
MODEL, BPE, REPORT = "model", "bpe", "report"
CHECKPOINT = "checkpoint_best.pt"
# What export adds to a Hugging Face model.
TRAINING, EVALUATION = "training", "evaluation"

MODEL_HELP = (
    "a run's folder, the folder that train wrote, a checkpoint, or a Hugging Face model that"
    " answers multiple choice: a folder, s3:// or hf://"
)

BPE_HELP = "folder with encoder.json, vocab.bpe and dict.txt; a run's folder has its own"


@dataclass(frozen=True)
class Trained:
    """A checkpoint, its BPE, and what training and evaluation said of it, as far as known."""

    checkpoint: Path
    bpe: Path
    training: Training
    evaluation: Evaluation


@contextlib.contextmanager
def as_run(model: Path) -> Iterator[Path]:
    """`model`, or where that is a Hugging Face model, a run's folder made of it.

    Raises:
        DataError, OSError: as `import_model` raises them.
    """
    if not (model / hub.SETTINGS).is_file():
        yield model
        return
    from components.import_.core import ImportConfig, import_model

    with scratch_folder() as run:
        imported = import_model(ImportConfig(model, run / MODEL), announce=False)
        imported.rename(run / MODEL / CHECKPOINT)
        (run / BPE).symlink_to(MODEL)
        for source, target in ((TRAINING, MODEL), (EVALUATION, REPORT)):
            if (metrics := model / source / METRICS).is_file():
                (run / target).mkdir(exist_ok=True)
                shutil.copyfile(metrics, run / target / METRICS)
        yield run


def checkpoint_of(model: Path) -> Path:
    """The checkpoint of a run's folder, or of the one that train wrote; of a file, itself."""
    folder = model / MODEL if (model / MODEL).is_dir() else model
    return folder / CHECKPOINT if folder.is_dir() else folder


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
    checkpoint = checkpoint_of(model)
    if not checkpoint.is_file():
        raise DataError(
            f"{checkpoint}: no such checkpoint",
            hint="Give a run's folder, the folder that train wrote, a checkpoint, or a Hugging Face"
            " model",
        )
    if bpe is None:
        bpe = model / BPE
        if not bpe.is_dir():
            raise ConfigError(
                f"{model}: the BPE of this model is not beside it",
                hint="Say with --bpe where its encoder.json, vocab.bpe and dict.txt lie",
            )
    if evaluation is None and (model / REPORT).is_dir():
        evaluation = model / REPORT
    return Trained(
        checkpoint,
        bpe,
        Training.find(checkpoint.parent) or Training(),
        (evaluation and Evaluation.find(evaluation)) or Evaluation(),
    )
