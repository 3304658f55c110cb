"""What is doubtful about the data, said before training takes its hours.

`race check` looks closer, and at the text; here are those of its checks that binary data allow in a
moment, of the very files that are trained on.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.common.dataset import COUNTS, LETTERS, guessed_among
from components.common.errors import DataError
from components.common.indexed import read_sizes, read_tokens
from components.common.labels import leaning, usual
from components.common.lengths import lengths
from components.common.text import counted
from components.train.config import TrainConfig

logger = logging.getLogger(__name__)

# Above this share of questions that lose text the model is too short for the data; RACE has 0.3.
MUCH = 0.5


def look(config: TrainConfig, labels: Mapping[str, Sequence[int]], options: int) -> dict[str, Any]:
    """Log what training and validation data are worth; it is also what metrics.json has as `data`.

    `shortened` is the share of training questions that lose text, `usual_letter` what is right most
    often in training, `usual_letter_accuracy` how often in validation, in percent: a model that has
    learned nothing but the letters gets this.

    Args:
        labels: of `train` and `valid`.

    Raises:
        DataError: with `on_doubtful_data` fail, there is something to look at.
    """
    letter = usual(labels["train"])
    right = 100 * labels["valid"].count(letter) / len(labels["valid"])
    found = lengths(config.data, "train", config.max_positions, config.max_option_length)
    shortened = float(found.questions_cut.mean())
    doubts = [*_doubts(config.data, labels, options)]
    if shortened > MUCH:
        doubts.append(
            f"{shortened:.1%} of the training questions lose text beyond {found.most} tokens"
        )
    logger.info(
        "always %s would be right in %.1f %% of the %d validation questions (chance is %.4g %%);"
        " %.1f %% of the training questions lose text beyond %d tokens",
        LETTERS[letter],
        right,
        len(labels["valid"]),
        100 / guessed_among(config.data),
        100 * shortened,
        found.most,
    )
    for doubt in doubts:
        logger.warning("data: %s", doubt)
    if doubts and config.on_doubtful_data == "fail":
        raise DataError(
            f"{config.data}: {'; '.join(doubts)}",
            hint="Look with `race check`, or let on_doubtful_data be warn",
        )
    return {
        "usual_letter": LETTERS[letter],
        "usual_letter_accuracy": right,
        "shortened": shortened,
        "doubts": doubts,
    }


def _doubts(data: Path, labels: Mapping[str, Sequence[int]], options: int) -> list[str]:
    # Later letters are rarer where not all questions have them.
    equal = not (data / COUNTS).is_dir()
    doubts = [leaning(split, found, options) for split, found in labels.items() if equal]
    shared = passages(data, "train") & passages(data, "valid")
    if shared:
        number = counted(len(shared), "passage")
        doubts.append(f"{number} of the validation questions also in training")
    return [doubt for doubt in doubts if doubt]


def passages(data: Path, split: str) -> set[bytes]:
    """The distinct passages of a split, by their tokens."""
    tokens = read_tokens(data / "input0" / split)
    ends = np.cumsum(read_sizes(data / "input0" / split)).tolist()
    content = np.ascontiguousarray(tokens, "<i4").data.cast("B")
    return {bytes(content[4 * a : 4 * b]) for a, b in zip([0, *ends], ends, strict=False)}
