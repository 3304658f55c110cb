"""Where a trained model lies, with the files that belong to it."""

from dataclasses import dataclass
from pathlib import Path

from components.common.errors import ConfigError, DataError
from components.common.results.metrics import Evaluation, Training

# Of a folder that `race run` or a copy of a cluster's artifacts made: a folder for each output.
MODEL, BPE, REPORT = "model", "bpe", "report"
CHECKPOINT = "checkpoint_best.pt"


@dataclass(frozen=True)
class Trained:
    """A checkpoint, its BPE, and what training and evaluation said of it, as far as known."""

    checkpoint: Path
    bpe: Path
    training: Training
    evaluation: Evaluation


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
            hint="Give a run's folder, the folder that train wrote, or a checkpoint",
        )
    if bpe is None:
        bpe = model / BPE
        if not bpe.is_dir():
            raise ConfigError(
                f"{model}: the BPE of this model is not beside it",
                hint="Say with --bpe where its encoder.json, vocab.bpe and dict.txt lie",
            )
    if evaluation is None and run:
        evaluation = model / REPORT
    return Trained(
        checkpoint,
        bpe,
        Training.find(checkpoint.parent) or Training(),
        (evaluation and Evaluation.find(evaluation)) or Evaluation(),
    )
