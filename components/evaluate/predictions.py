"""predictions.jsonl: a model's answer to each test question, a line each.

{"id", "probabilities" of the options, "predicted", "gold" as letters}
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common import strict_json
from components.common.errors import DataError
from components.common.exam import LETTERS
from components.common.files import plain

PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class Predictions:
    """In the order of the data set."""

    ids: Sequence[str]
    gold: NDArray[np.int64]  # (questions,), 0-based
    probabilities: NDArray[np.float64]  # (questions, options)

    @property
    def right(self) -> NDArray[np.bool_]:
        """(questions,); of equal probabilities the first counts."""
        right: NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.gold
        return right

    def lines(self) -> Iterator[str]:
        """The lines of the file; probabilities are rounded to 6 digits."""
        for name, values, best, right in zip(
            self.ids,
            self.probabilities,
            self.probabilities.argmax(axis=1),
            self.gold,
            strict=True,
        ):
            line = {
                "id": name,
                "probabilities": [round(float(p), 6) for p in values],
                "predicted": LETTERS[best],
                "gold": LETTERS[right],
            }
            yield strict_json.dumps(line) + "\n"


def read_predictions(folder: Path) -> Predictions:
    """What lies in a folder that evaluate wrote.

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / PREDICTIONS
    ids, gold, probabilities = [], [], []
    try:
        for line in plain(path).read_text(encoding="utf-8").splitlines():
            found = strict_json.loads(line)
            ids.append(str(found["id"]))
            gold.append([*LETTERS].index(found["gold"]))
            probabilities.append([strict_json.number(p) for p in found["probabilities"]])
        values = np.array(probabilities, dtype=np.float64)
        if values.ndim != 2 or (values < 0).any() or (values > 1).any():
            raise ValueError("not a table of probabilities")
    except (OSError, KeyError, TypeError, ValueError):
        raise DataError(
            f"{path}: missing or not what evaluate wrote", mend="Run the evaluation again"
        ) from None
    return Predictions(ids, np.array(gold, dtype=np.int64), values)
