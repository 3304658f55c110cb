"""Whether a model is as good as was asked for.

A step of its own in the pipeline, because a step that fails leaves nothing behind on a cluster: the
evaluation's report and predictions are there whatever comes of this.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from components.common.cli import option
from components.common.errors import ConfigError, DataError, GateError
from components.common.results.metrics import METRICS, Evaluation, beside

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateConfig:
    """What is judged, and what counts as good enough.

    Raises:
        ConfigError: a value is out of its range.
    """

    evaluation: Path = option(help="folder that evaluate or select wrote")
    min_accuracy: float = option(
        0.0, help="fail when the accuracy on all test questions is below, in percent"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.min_accuracy <= 100:
            raise ConfigError(
                f"min_accuracy is {self.min_accuracy}", hint="It is in percent, 0 to 100"
            )


def gate(config: GateConfig) -> float:
    """Let a model pass that is good enough; its accuracy on all test questions, in percent.

    Of what select wrote, the selected model counts.

    Raises:
        DataError: the folder has no accuracy.
        GateError: the accuracy is below `min_accuracy`.
    """
    found = Evaluation.read(config.evaluation)
    if not found.scores.groups or found.chance is None:
        raise DataError(
            f"{config.evaluation / METRICS}: has no accuracy",
            hint="Give a folder that evaluate or select wrote",
        )
    accuracy = found.scores.all.accuracy
    without_reading = beside(found.chance, found.baselines)
    if not accuracy >= config.min_accuracy:
        raise GateError(
            f"accuracy {accuracy:.2f} % is below min_accuracy {config.min_accuracy:g} %"
            f" ({without_reading})",
            hint="Train longer or with other settings, or lower min_accuracy",
        )
    logger.info(
        "accuracy %.2f %% is at least %g %% (%s)",
        accuracy,
        config.min_accuracy,
        without_reading,
    )
    return accuracy
