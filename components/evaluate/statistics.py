"""How good the answers are, how sure that is, and where the model is wrong; numpy only."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from components.common.results.scores import Group

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def log_probabilities(logits: Floats) -> Floats:
    """Logarithms of the options' probabilities.

    Args:
        logits: (questions, options)
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def score(name: str, logits: Floats, gold: Integers) -> Group:
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


def confusion(gold: Integers, predicted: Integers, options: int) -> Integers:
    """How often each option was predicted where each was right: (options right, options predicted).

    Args:
        gold: (questions,), 0-based
        predicted: (questions,), 0-based
    """
    counts: Integers = np.bincount(gold * options + predicted, minlength=options * options)
    return counts.reshape(options, options).astype(np.int64)


@dataclass(frozen=True)
class Calibration:
    """The model's confidence in its answers, beside how often they are right.

    The bins divide 0 to 1 evenly; each holds the confidences above its lower edge up to and with
    its upper one. Means are nan in an empty bin.
    """

    edges: Floats  # (bins + 1,)
    questions: Integers  # (bins,)
    confidence: Floats  # (bins,), mean of the probability of the predicted option
    accuracy: Floats  # (bins,), share that is right

    @property
    def error(self) -> float:
        """The expected calibration error, from 0 to 1 (Guo et al. 2017, equation 3)."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gaps * self.questions) / self.questions.sum())


def calibration(confidence: Floats, right: NDArray[np.bool_], bins: int = 15) -> Calibration:
    """Questions by confidence.

    Args:
        confidence: (questions,), probability of the predicted option, from 0 to 1
        right: (questions,), whether that is the right one
        bins: 15 as in Guo et al. 2017
    """
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    questions = np.bincount(where, minlength=bins).astype(np.int64)
    with np.errstate(invalid="ignore"):
        means = np.bincount(where, confidence, bins) / questions
        accuracy = np.bincount(where, right.astype(float), bins) / questions
    return Calibration(edges, questions, means, accuracy)


def brier(probabilities: Floats, gold: Integers) -> float:
    """The mean squared distance from the right answer, from 0 to 2 (Brier 1950).

    Args:
        probabilities: (questions, options)
        gold: (questions,), 0-based
    """
    wanted = np.eye(probabilities.shape[1])[gold]
    return float(((probabilities - wanted) ** 2).sum(axis=1).mean())


def by_name(names: Sequence[str], right: NDArray[np.bool_], order: Sequence[str]) -> list[Group]:
    """The questions by a name that each has, in the given order of names; empty groups left out."""
    of = np.array(names, dtype=object)
    chosen = [(name, of == name) for name in order]
    return [
        Group(name, int(mask.sum()), int(right[mask].sum())) for name, mask in chosen if mask.any()
    ]


def by_quantile(values: Integers, right: NDArray[np.bool_], parts: int = 5) -> list[Group]:
    """The questions by a whole number that each has, in parts of about the same size.

    Equal values stay together, so that there may be fewer parts.
    """
    inner = np.quantile(values, np.linspace(0, 1, parts + 1)[1:-1], method="inverted_cdf")
    where = np.searchsorted(np.unique(inner), values, side="left")
    groups = []
    for part in np.unique(where):
        mask = where == part
        low, high = int(values[mask].min()), int(values[mask].max())
        name = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        groups.append(Group(name, int(mask.sum()), int(right[mask].sum())))
    return groups


def by_edges(
    values: Floats, right: NDArray[np.bool_], edges: Sequence[float], names: Sequence[str]
) -> list[Group]:
    """The questions by a number that each has; names[i] is for edges[i] <= value < edges[i + 1].

    The last one takes in the last edge. Empty groups are left out.
    """
    where = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(names) - 1)
    return by_name([names[i] for i in where], right, names)


CLOZE = "fill the blank"
OTHER = "other"
# In the order of the report. "Who" is whom and whose too.
KINDS = (CLOZE, "what", "which", "who", "when", "where", "why", "how", OTHER)

_WH = re.compile(r"\b(what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)


def kind_of(question: str) -> str:
    """What a question asks for: one of KINDS.

    RACE marks a blank to fill by an underscore. Otherwise the first wh-word counts, wherever it
    stands ("According to the text, what ...").
    """
    if "_" in question:
        return CLOZE
    found = _WH.search(question)
    if found is None:
        return OTHER
    word = found[1].lower()
    return "who" if word in ("whom", "whose") else word


def mcnemar(only_one: int, only_other: int) -> float:
    """How likely two models of the same skill differ at least so much; exact and two-sided.

    McNemar's test as a sign test: a question that just one of two models has right is as likely the
    one's as the other's (McNemar 1947, Psychometrika 12).

    Args:
        only_one, only_other: questions that only the one, only the other has right.
    """
    n = only_one + only_other
    tail = sum(math.comb(n, k) for k in range(min(only_one, only_other) + 1))
    return min(1.0, float(2 * Fraction(tail, 2**n)))
