"""The evaluation as a page: how good, how sure, and where and how the model is wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.asked import Asked
from components.common.exam import LETTERS
from components.common.report import chart
from components.common.report.html import (
    Content,
    Markup,
    definitions,
    hidden,
    key_figures,
    page,
    section,
    table,
    tag,
)
from components.evaluate import statistics
from components.evaluate.statistics import Group

# RoBERTa-large on RACE's test sets, in percent (Liu et al. 2019, arXiv 1907.11692, table 7).
PUBLISHED = {"all": 83.2, "middle": 86.5, "high": 81.3}
# Their questions (Lai et al. 2017, table 2).
OFFICIAL = {"all": 4_934, "middle": 1_436, "high": 3_498}

NAMES = {"all": "all questions", "middle": "middle school", "high": "high school"}
MISTAKES = 12
PASSAGE_CHARACTERS = 6_000

# The bins of the table by confidence are narrow where a trained model's answers are.
CONFIDENCE_EDGES = (0.0, 0.4, 0.6, 0.8, 0.9, 0.99, 1.0)
CONFIDENCE_NAMES = ("below 40 %", "40–60 %", "60–80 %", "80–90 %", "90–99 %", "99–100 %")


@dataclass(frozen=True)
class Answers:
    """All questions of both test sets, in one order, with the model's answers.

    `asked` is empty where the text was not given.
    """

    ids: list[str]
    levels: list[str]
    gold: NDArray[np.int64]  # (questions,), 0-based
    probabilities: NDArray[np.float64]  # (questions, options)
    passage_tokens: NDArray[np.int64]  # (questions,)
    asked: Sequence[Asked] = ()

    @classmethod
    def together(cls, parts: Sequence["Answers"]) -> "Answers":
        return cls(
            [name for part in parts for name in part.ids],
            [level for part in parts for level in part.levels],
            np.concatenate([part.gold for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.passage_tokens for part in parts]),
            [asked for part in parts for asked in part.asked],
        )

    @property
    def predicted(self) -> NDArray[np.int64]:
        best: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of each predicted option."""
        highest: NDArray[np.float64] = self.probabilities.max(axis=1)
        return highest

    @property
    def right(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = self.predicted == self.gold
        return right

    @property
    def options(self) -> int:
        return int(self.probabilities.shape[1])

    def groups(self) -> dict[str, Group]:
        """All questions, and those of each level."""
        right, levels = self.right, np.array(self.levels)
        found = {"all": Group("all", len(right), int(right.sum()))}
        for level in dict.fromkeys(self.levels):
            mask = levels == level
            found[level] = Group(level, int(mask.sum()), int(right[mask].sum()))
        return found

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
    groups = answers.groups()
    curve = statistics.calibration(answers.confidence, answers.right)
    return {
        "interval": {name: list(group.interval) for name, group in groups.items()},
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
    groups = answers.groups()
    everything = groups["all"]
    low, high = everything.interval
    whole = {name: group.questions for name, group in groups.items()} == OFFICIAL
    lead: list[Content] = [
        f"{everything.correct:,} of {everything.questions:,} test questions were answered"
        f" correctly: {everything.accuracy:.1f} %, and with 95 % confidence the true accuracy is"
        f" between {low:.1f} and {high:.1f} %."
    ]
    gate = metrics["parameters"]["min_accuracy"]
    if gate:
        verdict = "below" if everything.accuracy < gate else "at least"
        lead.append(f" That is {verdict} the {gate:g} % that were asked for.")
    if comparable(groups) and not whole:
        lead.append(
            " These are not RACE’s official test sets, so the published figures are a landmark"
            " only, no measure."
        )
    return page(
        f"{everything.accuracy:.1f} % of the test questions correct",
        _key(answers, groups, metrics),
        accuracies(groups, metrics["chance"]),
        _breakdowns(answers),
        _confusion(answers),
        _calibration(answers, metrics),
        _mistakes(answers, passages),
        _settings(metrics),
        kind="Evaluation report",
        lead=lead,
    )


def write_absence(metrics: Mapping[str, Any]) -> str:
    """The page for a training that left no model to evaluate.

    Args:
        metrics: what metrics.json holds; `absent` is the reason.
    """
    return page(
        "Nothing to evaluate",
        _settings(metrics),
        kind="Evaluation report",
        lead=f"Training was marked as collapsed, and left no model: {metrics['absent']}.",
    )


def comparable(groups: Mapping[str, Group]) -> bool:
    """Whether the test sets have RACE's levels, so that the published figures mean something."""
    return groups.keys() == PUBLISHED.keys()


def _key(answers: Answers, groups: Mapping[str, Group], metrics: Mapping[str, Any]) -> Markup:
    shown: list[tuple[str, Content, Content]] = [
        (
            NAMES.get(name, name),
            f"{group.accuracy:.1f} %",
            f"{group.interval[0]:.1f}–{group.interval[1]:.1f} %",
        )
        for name, group in groups.items()
    ]
    shown.append(("calibration error", f"{100 * metrics['calibration_error']:.1f} %", "0 is best"))
    shown.append(("loss", f"{metrics['loss']:.3f}", "nats a question"))
    return key_figures(shown)


def accuracies(groups: Mapping[str, Group], chance: float, heading: str = "Accuracy") -> Markup:
    """The accuracies on the test sets, with their intervals and the published ones.

    Args:
        groups: all questions, and those of each level.
        chance: the accuracy of guessing, in percent.
    """
    rows = []
    for name, group in groups.items():
        published = PUBLISHED[name] if comparable(groups) else None
        shown, difference, title = "–", "–", None
        if published is not None:
            shown = f"{published:.1f}"
            difference = f"{group.accuracy - published:+.1f}".replace("-", "−")
            within = group.interval[0] <= published <= group.interval[1]
            title = "inside the interval" if within else "outside the interval"
        rows.append(
            tag(
                "tr",
                tag("th", NAMES.get(name, name), scope="row"),
                _number(f"{group.questions:,}", wide_only=True),
                _number(f"{group.correct:,}", wide_only=True),
                _number(f"{group.accuracy:.1f}"),
                _number(f"{group.interval[0]:.1f}–{group.interval[1]:.1f}"),
                _strip(group, published),
                _number(shown),
                _number(difference, wide_only=True, title=title),
                class_="sum" if name == "all" else None,
            )
        )
    head = tag(
        "tr",
        tag("th", "", scope="col"),
        tag("th", "questions", class_="n wide-only", scope="col"),
        tag("th", "correct", class_="n wide-only", scope="col"),
        tag("th", "accuracy", class_="n", scope="col"),
        tag("th", "95 % interval", class_="n", scope="col"),
        chart.strip_axis("accuracy, percent"),
        tag("th", "published", class_="n", scope="col"),
        tag("th", "difference", class_="n wide-only", scope="col"),
    )
    return section(
        heading,
        tag(
            "div",
            tag("table", tag("thead", head), tag("tbody", rows), class_="scores"),
            class_="scroll",
            tabindex="0",
        ),
        note=[
            "In percent. ",
            tag("span", "Dots are this model, diamonds the published one. ", class_="wide-only"),
            "Published: RoBERTa-large (Liu et al. 2019)."
            f" Intervals are Wilson’s. Chance is {chance:.4g} %.",
        ],
    )


def _number(value: str, *, wide_only: bool = False, title: str | None = None) -> Markup:
    return tag("td", value, class_="n wide-only" if wide_only else "n", title=title)


def _strip(group: Group, mark: float | None = None) -> Markup:
    low, high = group.interval
    said = f"{group.accuracy:.1f} %, interval {low:.1f} to {high:.1f} %"
    if mark is not None:
        said += f", published {mark:.1f} %"
    return chart.strip(low, group.accuracy, high, mark, said)


def _grouped(title: str, first: str, groups: Sequence[Group]) -> Markup:
    head = [first, "questions", "accuracy", "95 % interval", chart.strip_axis("accuracy, percent")]
    rows: list[list[Content]] = [
        [
            group.name,
            f"{group.questions:,}",
            f"{group.accuracy:.1f}",
            f"{group.interval[0]:.1f}–{group.interval[1]:.1f}",
            _strip(group),
        ]
        for group in groups
    ]
    return Markup(tag("h3", title) + table(head, rows, class_="grouped"))


def _breakdowns(answers: Answers) -> Markup:
    right = answers.right
    parts = []
    if answers.asked:
        kinds = [statistics.kind_of(asked.question) for asked in answers.asked]
        groups = statistics.by_name(kinds, right, statistics.KINDS)
        parts.append(_grouped("By what is asked", "question", groups))
    lengths = statistics.by_quantile(answers.passage_tokens, right)
    parts.append(_grouped("By length of the passage", "tokens", lengths))
    confidence = statistics.by_edges(answers.confidence, right, CONFIDENCE_EDGES, CONFIDENCE_NAMES)
    parts.append(_grouped("By confidence, the probability of the answer", "confidence", confidence))
    return section(
        "Where it is right",
        *parts,
        note="In percent. Each group’s interval says how far its accuracy can be trusted; intervals"
        " that overlap widely are no difference to speak of.",
    )


def _confusion(answers: Answers) -> Markup:
    counts = statistics.confusion(answers.gold, answers.predicted, answers.options)
    letters = LETTERS[: answers.options]
    of_row = counts.sum(axis=1)
    rows = []
    for i, letter in enumerate(letters):
        cells = []
        for j in range(answers.options):
            share = counts[i, j] / of_row[i] if of_row[i] else 0.0
            cells.append(
                tag(
                    "td",
                    f"{counts[i, j]:,} ",
                    tag("small", f"{100 * share:.0f} %"),
                    class_="cell diagonal" if i == j else "cell",
                    style=f"--share:{share:.3f}",
                )
            )
        rows.append(
            tag(
                "tr",
                tag("th", f"{letter} is right", scope="row"),
                *cells,
                _number(f"{of_row[i]:,}", wide_only=True),
            )
        )
    rows.append(
        tag(
            "tr",
            tag("th", "chosen", scope="row"),
            *(_number(f"{count:,}") for count in counts.sum(axis=0)),
            _number(f"{counts.sum():,}", wide_only=True),
        )
    )
    head = [tag("th", "", scope="col")]
    head += [tag("th", f"chose {letter}", class_="n", scope="col") for letter in letters]
    head.append(tag("th", "questions", class_="n wide-only", scope="col"))
    made = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="matrix")
    return section(
        "Which option it chose",
        tag("div", made, class_="scroll", tabindex="0"),
        note="Questions, and their share of those with the same right option. A model that prefers"
        " a place in the list shows as a dark column.",
    )


def _calibration(answers: Answers, metrics: Mapping[str, Any]) -> Markup:
    curve = statistics.calibration(answers.confidence, answers.right)
    edges = curve.edges.tolist()
    mean, accuracy = metrics["mean_confidence"], metrics["accuracy"] / 100
    if abs(mean - accuracy) < 0.005:
        word = "about as sure as it is right"
    else:
        word = "surer than it is right" if mean > accuracy else "less sure than it is right"
    charts = tag(
        "div",
        chart.reliability(
            "Accuracy by confidence",
            edges,
            curve.confidence.tolist(),
            curve.accuracy.tolist(),
            curve.questions.tolist(),
        ),
        chart.histogram(
            "Questions by confidence",
            [100 * edge for edge in edges],
            curve.questions.tolist(),
            x="confidence, %",
            unit="questions",
            cut=100 * mean,
            cut_name="mean",
            split=False,
        ),
        class_="charts",
    )
    return section(
        "Does it know when it is right?",
        charts,
        note=f"On average the model is {word}: mean confidence {100 * mean:.1f} %, accuracy"
        f" {100 * accuracy:.1f} %. Expected calibration error over {len(edges) - 1} bins"
        f" {100 * metrics['calibration_error']:.1f} %, Brier score {metrics['brier']:.3f}. On the"
        " dashed line, confidence and accuracy agree.",
    )


def _mistakes(answers: Answers, passages: Mapping[int, str]) -> Markup | None:
    worst = answers.worst()
    if not worst:
        return section("Surest mistakes", tag("p", "Every question was answered correctly."))
    if answers.asked:
        shown: Iterator[Content] = (_mistake(answers, passages, place) for place in worst)
        return section(
            "Surest mistakes",
            *shown,
            note="Wrong answers by the model’s confidence in them. Some of them may be the"
            " exam’s own mistakes.",
        )
    head = ["question", "chose", "right", "confidence, %", "right option’s, %"]
    rows = [
        [
            answers.ids[place],
            LETTERS[answers.predicted[place]],
            LETTERS[answers.gold[place]],
            f"{100 * answers.confidence[place]:.1f}",
            f"{100 * answers.probabilities[place, answers.gold[place]]:.1f}",
        ]
        for place in worst
    ]
    return section(
        "Surest mistakes",
        table(head, rows),
        note="Wrong answers by the model’s confidence in them. With --text the questions and"
        " passages are shown here.",
    )


def _mistake(answers: Answers, passages: Mapping[int, str], place: int) -> Markup:
    asked = answers.asked[place]
    predicted, gold = int(answers.predicted[place]), int(answers.gold[place])
    options = []
    for i, said in enumerate(asked.options):
        share = float(answers.probabilities[place, i])
        verdict = None
        if i == gold:
            verdict = tag("span", "✓ right", class_="verdict good")
        elif i == predicted:
            verdict = tag("span", "✗ chosen", class_="verdict bad")
        options.append(
            tag(
                "li",
                tag("span", LETTERS[i], class_="letter"),
                tag("span", tag("span", said, class_="said", dir="auto"), verdict),
                tag("span", f"{100 * share:.1f} %", class_="share", style=f"--share:{share:.4f}"),
            )
        )
    return tag(
        "article",
        tag("p", f"{answers.levels[place]} · {asked.id}", class_="where"),
        tag("p", asked.question, class_="ask", dir="auto"),
        tag("ol", options, class_="options"),
        hidden("passage", passage(passages[place])) if place in passages else None,
    )


def passage(content: str) -> Markup:
    """A passage as it is read; a very long one is cut."""
    rest = len(content) - PASSAGE_CHARACTERS
    if rest > 0:
        content = f"{content[:PASSAGE_CHARACTERS]}… ({rest:,} more characters)"
    return tag("p", content, class_="passage", dir="auto")


def _settings(metrics: Mapping[str, Any]) -> Markup:
    used = {name: metrics[name] for name in ("device", "precision") if name in metrics}
    pairs = {**metrics["parameters"], **used}
    return section("Settings", definitions([(k, str(v)) for k, v in pairs.items()]))
