"""The arithmetic of the evaluation; numpy only."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from components.common.results.metrics import beside
from components.common.results.scores import Group, Scores


def log_probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of the options' probabilities.

    Args:
        logits: (questions, options)
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def score(name: str, logits: NDArray[np.float64], gold: NDArray[np.int64]) -> Group:
    """Compare the best option of each question with the right one.

    Of equal logits the first counts, as torch.argmax and so fairseq has it.

    Args:
        name: of the questions.
        logits: (questions, options)
        gold: (questions,), 0-based
    """
    right = log_probabilities(logits)[np.arange(len(gold)), gold]
    correct = int((logits.argmax(axis=1) == gold).sum())
    return Group(name, len(gold), correct, float(-right.mean()))


def table(scores: Scores, chance: float, baselines: Mapping[str, float]) -> str:
    """The scores for the screen, a line for each set of questions; `chance` is in percent."""
    lines = [f"{'':<8}{'questions':>10}{'correct':>10}{'accuracy':>11}{'loss':>9}"]
    lines += [
        f"{name:<8}{s.questions:>10,}{s.correct:>10,}{s.accuracy:>9.2f} %{s.loss:>9.4f}"
        for name, s in scores.shown.items()
    ]
    lines.append(f"{beside(chance, baselines)}; loss is in nats per question")
    return "\n".join(lines)
