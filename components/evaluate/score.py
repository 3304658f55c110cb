"""The arithmetic of the evaluation; numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.common.errors import DataError


@dataclass(frozen=True)
class Score:
    """How well a set of questions was answered.

    `accuracy` is in percent, `loss` the mean negative log-likelihood of the right option in nats.
    """

    questions: int
    correct: int
    loss: float

    @property
    def accuracy(self) -> float:
        return 100.0 * self.correct / self.questions


def require_numbers(logits: NDArray[np.float64], names: Sequence[str], model: str) -> None:
    """Refuse scores of which one is NaN or infinite: the first option would pass for the answer.

    Args:
        logits: (questions, options)
        names: of the questions.
        model: what gave the scores, as errors name it.

    Raises:
        DataError: naming the first such question.
    """
    wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if wrong.size:
        raise DataError(
            f"{model}: its scores are not numbers (NaN or infinity) for {wrong.size} of"
            f" {len(names)} questions, the first is {names[wrong[0]]}",
            mend="Its weights are damaged or too large: use another checkpoint, or precision fp32",
        )


def log_probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of the options' probabilities.

    Args:
        logits: (questions, options)
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def score(logits: NDArray[np.float64], gold: NDArray[np.int64]) -> Score:
    """Compare the best option of each question with the right one.

    Of equal logits the first counts, as torch.argmax and so fairseq has it.

    Args:
        logits: (questions, options)
        gold: (questions,), 0-based
    """
    right = log_probabilities(logits)[np.arange(len(gold)), gold]
    return Score(len(gold), int((logits.argmax(axis=1) == gold).sum()), float(-right.mean()))


def together(scores: list[Score]) -> Score:
    """The score of all the sets' questions as one set."""
    questions = sum(s.questions for s in scores)
    loss = sum(s.loss * s.questions for s in scores) / questions
    return Score(questions, sum(s.correct for s in scores), loss)


def table(scores: Mapping[str, Score], options: int) -> str:
    """The scores for the screen, a line for each set of questions."""
    lines = [f"{'':<8}{'questions':>10}{'correct':>10}{'accuracy':>11}{'loss':>9}"]
    lines += [
        f"{name:<8}{s.questions:>10,}{s.correct:>10,}{s.accuracy:>9.2f} %{s.loss:>9.4f}"
        for name, s in scores.items()
    ]
    lines.append(f"chance is {100 / options:.4g} %; loss is in nats per question")
    return "\n".join(lines)
