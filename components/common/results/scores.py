"""How well questions were answered, as numbers and as the flat names of metrics.json.

`accuracy` is of all questions, `accuracy_high` of a test set: Kubeflow Pipelines shows them as they
are. They are spelled here and nowhere else.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Self

from components.common import strict_json

ALL = "all"
# The test set of data without levels.
LONE = "test"


@dataclass(frozen=True)
class Group:
    """Some of the questions, and how many of them were answered correctly.

    `loss` is the mean negative log-likelihood of the right option, in nats per question.
    """

    name: str
    questions: int
    correct: int
    loss: float | None = None

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100.0 * self.correct / self.questions

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.correct, self.questions)


def wilson(correct: int, questions: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval, in percent, that holds the true accuracy with this confidence.

    Wilson's score interval (Wilson 1927, JASA 22), which keeps its promise also for few questions
    and for accuracies near 0 and 100 %, without a correction for continuity.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / questions
    scale = 1 + z * z / questions
    middle = (share + z * z / (2 * questions)) / scale
    half = z / scale * (share * (1 - share) / questions + (z / (2 * questions)) ** 2) ** 0.5
    # Rounding must not put an end past 0, 100 or the accuracy itself.
    return 100 * max(0.0, min(middle - half, share)), 100 * min(1.0, max(middle + half, share))


@dataclass(frozen=True)
class Scores:
    """All test questions, then each test set in the order of the answers; or nothing, by name."""

    groups: Mapping[str, Group] = field(default_factory=dict)

    @classmethod
    def together(cls, tests: Sequence[Group]) -> Self:
        """Those of some test sets, and of their questions as one set."""
        questions = sum(test.questions for test in tests)
        losses = [test.loss * test.questions for test in tests if test.loss is not None]
        loss = sum(losses) / questions if len(losses) == len(tests) else None
        every = Group(ALL, questions, sum(test.correct for test in tests), loss)
        return cls({group.name: group for group in (every, *tests)})

    @property
    def all(self) -> Group:
        return self.groups[ALL]

    @property
    def tests(self) -> list[Group]:
        return [group for name, group in self.groups.items() if name != ALL]

    @property
    def shown(self) -> Mapping[str, Group]:
        """The groups as reports have them: of data without levels the one set, not it twice."""
        lone = [test.name for test in self.tests] == [LONE]
        return {ALL: self.all} if lone else self.groups

    @property
    def interval(self) -> dict[str, list[float]]:
        """In percent, by name."""
        return {name: list(group.interval) for name, group in self.groups.items()}

    def to_metrics(self) -> dict[str, Any]:
        return {
            flat(figure, name): value
            for name, group in self.groups.items()
            for figure in ("accuracy", "loss", "questions", "correct")
            if (value := getattr(group, figure)) is not None
        }

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> Self:
        """What `to_metrics` wrote.

        Raises:
            KeyError, ValueError: a figure is missing, is none, or does not fit the others.
        """
        if "accuracy" not in metrics:
            return cls()
        found = cls({name: _group(metrics, name) for name in names("questions", metrics)})
        for figure in ("questions", "correct"):
            if sum(getattr(test, figure) for test in found.tests) != getattr(found.all, figure):
                raise ValueError(f"{figure} of the test sets do not add up")
        return found


def flat(figure: str, name: str) -> str:
    return figure if name == ALL else f"{figure}_{name}"


def names(figure: str, metrics: Mapping[str, Any]) -> list[str]:
    """Whose figures there are: of all questions and of which test sets."""
    return [ALL, *(key[len(figure) + 1 :] for key in metrics if key.startswith(f"{figure}_"))]


def percent(value: Any) -> float:
    """The percentage that a field holds.

    Raises:
        ValueError: it holds none.
    """
    found = strict_json.number(value)
    if not 0 <= found <= 100:
        raise ValueError(f"{found:.4g} is not in percent")
    return found


def count(value: Any) -> int:
    """The number of things that a field holds.

    Raises:
        ValueError: it holds none.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is not a whole number")
    return value


def _group(metrics: Mapping[str, Any], name: str) -> Group:
    loss = metrics.get(flat("loss", name))
    questions, correct = (count(metrics[flat(key, name)]) for key in ("questions", "correct"))
    group = Group(name, questions, correct, None if loss is None else strict_json.number(loss))
    accuracy = percent(metrics[flat("accuracy", name)])
    if not questions or not math.isclose(accuracy, group.accuracy, abs_tol=1e-9):
        raise ValueError(f"{accuracy:g} % is not {correct} of {questions} ({name})")
    return group
