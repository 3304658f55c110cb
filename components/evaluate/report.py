"""The evaluation as a page: how good, how sure, and where and how the model is wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.asked import Asked
from components.common.report.page import render
from components.common.results.metrics import beside
from components.common.results.predictions import Predictions
from components.common.results.scores import Group, Scores
from components.evaluate import statistics

# RoBERTa-large on RACE's test sets, in percent (Liu et al. 2019, arXiv 1907.11692, table 7).
PUBLISHED = {"all": 83.2, "middle": 86.5, "high": 81.3}
# Their questions (Lai et al. 2017, table 2).
OFFICIAL = {"all": 4_934, "middle": 1_436, "high": 3_498}

NAMES = {"all": "all questions", "middle": "middle school", "high": "high school"}
MISTAKES = 12

# The bins of the table by confidence are narrow where a trained model's answers are.
CONFIDENCE_EDGES = (0.0, 0.4, 0.6, 0.8, 0.9, 0.99, 1.0)
CONFIDENCE_NAMES = ("below 40 %", "40–60 %", "60–80 %", "80–90 %", "90–99 %", "99–100 %")


@dataclass(frozen=True)
class Answers(Predictions):
    """All questions of all test sets, one set after the other, with the model's answers.

    `asked` is empty where the text was not given.
    """

    levels: list[str]
    passage_tokens: NDArray[np.int64]  # (questions,)
    asked: Sequence[Asked] = ()

    @classmethod
    def together(cls, parts: Sequence["Answers"]) -> "Answers":
        columns = [part.counts for part in parts if part.counts is not None]
        return cls(
            [name for part in parts for name in part.ids],
            np.concatenate([part.gold for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            [level for part in parts for level in part.levels],
            np.concatenate([part.passage_tokens for part in parts]),
            [asked for part in parts for asked in part.asked],
            counts=[count for counts in columns for count in counts] or None,
        )

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of each predicted option."""
        highest: NDArray[np.float64] = self.probabilities.max(axis=1)
        return highest

    @property
    def options(self) -> int:
        return int(self.probabilities.shape[1])

    def worst(self, most: int = MISTAKES) -> list[int]:
        """The places of the wrong answers that the model was surest of."""
        wrong = np.flatnonzero(~self.right)
        order = np.argsort(-self.confidence[wrong], kind="stable")
        return [int(place) for place in wrong[order][:most]]


def figures(answers: Answers) -> dict[str, Any]:
    """What the report says in numbers, for metrics.json.

    `interval` in percent by set; `confusion` with a row for each right option and a column for each
    predicted one; `calibration_error` from 0 to 1; `brier` from 0 to 2.
    """
    curve = statistics.calibration(answers.confidence, answers.right)
    return {
        "interval": answers.scores(Counter(answers.levels)).interval,
        "confusion": statistics.confusion(
            answers.gold, answers.predicted, answers.options
        ).tolist(),
        "calibration_error": curve.error,
        "mean_confidence": float(answers.confidence.mean()),
        "brier": statistics.brier(answers.probabilities, answers.gold),
    }


def write_report(answers: Answers, passages: Mapping[int, str], metrics: Mapping[str, Any]) -> str:
    """The page.

    Args:
        passages: those of `answers.worst()`, where the text was given.
        metrics: what metrics.json holds.
    """
    groups = answers.scores(Counter(answers.levels)).shown
    curve = statistics.calibration(answers.confidence, answers.right)
    percent = [
        100 * x for x in (curve.edges[:-1], curve.edges[1:], curve.confidence, curve.accuracy)
    ]
    return render(
        "components/evaluate/templates/evaluation.html",
        metrics=metrics,
        settings=_settings(metrics),
        groups=groups,
        names=NAMES,
        published=published(groups),
        breakdowns=_breakdowns(answers),
        edges=(100 * curve.edges).tolist(),
        counts=curve.questions.tolist(),
        bins=[b for b in zip(*percent, curve.questions.tolist(), strict=True) if b[-1]],
        answers=answers,
        worst=answers.worst(),
        passages=passages,
    )


def write_absence(metrics: Mapping[str, Any]) -> str:
    """The page for a training that left no model to evaluate.

    Args:
        metrics: what metrics.json holds; `absent` is the reason.
    """
    return render(
        "components/evaluate/templates/absence.html", metrics=metrics, settings=_settings(metrics)
    )


def published(groups: Mapping[str, Group]) -> Mapping[str, float]:
    """The published accuracies where they mean something: the test sets are RACE's own."""
    questions = {name: group.questions for name, group in groups.items()}
    return PUBLISHED if questions == OFFICIAL else {}


def _settings(metrics: Mapping[str, Any]) -> dict[str, Any]:
    used = {name: metrics[name] for name in ("device", "precision") if name in metrics}
    return {**metrics["parameters"], **used}


def _breakdowns(answers: Answers) -> list[tuple[str, str, list[Group]]]:
    """The questions in groups: title, what tells the groups apart, groups."""
    right = answers.right
    kinds = [statistics.kind_of(asked.question) for asked in answers.asked]
    lengths = statistics.by_quantile(answers.passage_tokens, right)
    confidence = statistics.by_edges(answers.confidence, right, CONFIDENCE_EDGES, CONFIDENCE_NAMES)
    found = [
        ("By length of the passage", "tokens", lengths),
        ("By confidence, the probability of the answer", "confidence", confidence),
    ]
    if kinds:
        groups = statistics.by_name(kinds, right, statistics.KINDS)
        found.insert(0, ("By what is asked", "question", groups))
    return found


def table(scores: Scores, chance: float, baselines: Mapping[str, float]) -> str:
    """The scores for the screen, a line for each set of questions; `chance` is in percent."""
    lines = [f"{'':<8}{'questions':>10}{'correct':>10}{'accuracy':>11}{'loss':>9}"]
    lines += [
        f"{name:<8}{s.questions:>10,}{s.correct:>10,}{s.accuracy:>9.2f} %{s.loss:>9.4f}"
        for name, s in scores.shown.items()
    ]
    lines.append(f"{beside(chance, baselines)}; loss is in nats per question")
    return "\n".join(lines)
