"""predictions.jsonl: a model's answer to each test question, a line each.

{"id", "probabilities" of the options, "predicted", "gold" as letters}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common import strict_json
from components.common.dataset import LETTERS
from components.common.errors import DataError
from components.common.files import plain
from components.common.results.scores import Group, Scores

PREDICTIONS = "predictions.jsonl"
_PLACES = {letter: place for place, letter in enumerate(LETTERS)}


@dataclass(frozen=True)
class Predictions:
    """In the order of the data set."""

    ids: Sequence[str]
    gold: NDArray[np.int64]  # (questions,), 0-based
    probabilities: NDArray[np.float64]  # (questions, options)
    # As a file tells it, for rounding may have made the best two probabilities equal.
    chosen: NDArray[np.int64] | None = field(default=None, kw_only=True)
    # Options of each question, where they differ; what it lacks has the probability 0.
    counts: Sequence[int] | None = field(default=None, kw_only=True)

    @property
    def chance(self) -> float:
        """The accuracy of guessing, in percent."""
        if self.counts is None:
            return 100 / int(self.probabilities.shape[1])
        return 100 * sum(1 / count for count in self.counts) / len(self.counts)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(questions,), 0-based; of equal probabilities the first counts."""
        best: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best if self.chosen is None else self.chosen

    @property
    def right(self) -> NDArray[np.bool_]:
        """(questions,)"""
        right: NDArray[np.bool_] = self.predicted == self.gold
        return right

    def scores(self, questions: Mapping[str, int]) -> Scores:
        """How well the test sets, by name and number of questions, were answered."""
        right, tests = self.right, []
        for name, number in questions.items():
            tests.append(Group(name, number, int(right[:number].sum())))
            right = right[number:]
        return Scores.together(tests)

    def write(self, path: Path) -> None:
        """A line each; probabilities are rounded to 6 digits."""
        counts = self.counts or [self.probabilities.shape[1]] * len(self.ids)
        columns = (self.ids, self.probabilities, self.predicted, self.gold, counts)
        with path.open("w", encoding="utf-8") as file:
            for name, values, best, right, count in zip(*columns, strict=True):
                line = {
                    "id": name,
                    "probabilities": [round(float(p), 6) for p in values[:count]],
                    "predicted": LETTERS[best],
                    "gold": LETTERS[right],
                }
                file.write(strict_json.dumps(line) + "\n")


def read_predictions(folder: Path) -> Predictions:
    """What lies in a folder that evaluate wrote.

    Raises:
        DataError: it is missing or damaged.
    """
    path, hint = folder / PREDICTIONS, "Run the evaluation again"
    ids, places, probabilities = [], [], []
    try:
        for line in plain(path).read_text(encoding="utf-8").splitlines():
            found = strict_json.loads(line)
            ids.append(str(found["id"]))
            places.append((_PLACES[found["gold"]], _PLACES[found["predicted"]]))
            probabilities.append([strict_json.number(p) for p in found["probabilities"]])
        counts = [len(row) for row in probabilities]
        rows = [[*row, *[0.0] * (max(counts) - len(row))] for row in probabilities]
        values = np.array(rows, dtype=np.float64)
        gold, chosen = np.array(places, dtype=np.int64).T
        if not ((values >= 0) & (values <= 1)).all() or (np.maximum(gold, chosen) >= counts).any():
            raise ValueError("not a table of probabilities")
        if (values[np.arange(len(ids)), chosen] < values.max(axis=1)).any():
            raise ValueError("not the best option")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", hint=hint) from None
    except (IndexError, KeyError, TypeError, ValueError):
        raise DataError(f"{path}: not what evaluate wrote", hint=hint) from None
    equal = len(set(counts)) == 1
    return Predictions(ids, gold, values, chosen=chosen, counts=None if equal else counts)
