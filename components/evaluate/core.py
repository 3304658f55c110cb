"""Answer RACE's test questions with a trained checkpoint, and count the right answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from components.common.asked import Asked, read_asked, read_passages
from components.common.cli import option, require_ranges
from components.common.dataset import (
    LETTERS,
    count_options,
    guessed_among,
    level_of,
    read_counts,
    read_test_sets,
    require_equal,
)
from components.common.device import DEVICE_HELP, Device
from components.common.errors import DataError
from components.common.executor import Outcome
from components.common.files import atomic_folder
from components.common.indexed import read_sizes
from components.common.labels import longest_wins, usual
from components.common.results.metrics import METRICS, Training, digest, write_metrics
from components.common.results.predictions import PREDICTIONS
from components.common.results.scores import Group, Scores
from components.common.vocabulary import read_vocabulary, require_same
from components.evaluate.model import PRECISION_HELP, Model, Precision
from components.evaluate.report import Answers, figures, table, write_absence, write_report
from components.evaluate.statistics import log_probabilities, score
from components.evaluate.trained import MODEL_HELP, as_run, checkpoint_of
from components.train.config import as_dict
from components.train.data import read_ids, read_labels, require_tokens


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate, and how.

    Raises:
        ConfigError: a value is out of its range.
    """

    data: Path = option(help="folder that binarize wrote")
    model: Path = option(help=MODEL_HELP)
    output: Path = option(help="new folder for metrics.json, predictions.jsonl and report.html")
    text: Path | None = option(
        None, help="folder that preprocess wrote, to show questions and passages in the report"
    )
    engine: Literal["packed", "stock"] = option(
        "packed", help="who computes the scores: the packed forward, or fairseq's own; they agree"
    )
    device: Device = option("auto", help=DEVICE_HELP)
    precision: Precision = option("auto", help=PRECISION_HELP)
    batch_tokens: int = option(
        16384,
        least=1,
        help="tokens that are computed at once, with engine stock those of an option and its"
        " padding; memory grows with it",
    )

    def __post_init__(self) -> None:
        require_ranges(self)


@dataclass(frozen=True)
class Evaluation:
    """The scores, none of a model that train marked as collapsed; and what metrics.json holds."""

    scores: Scores
    metrics: dict[str, Any]

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.metrics, confusion=self.metrics.get("confusion", ()))


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate on each test set (RACE has middle and high), and print a table of the scores.

    `output` then holds metrics.json and predictions.jsonl, a line for each question in the order of
    the data set: {"id", "probabilities" of the options, "predicted", "gold" as letters}; and
    report.html, where questions and passages are shown if `text` is given.

    Of a training that was marked as collapsed there is no model: metrics.json then says so as
    `absent`, without figures, and there are no predictions.

    Raises:
        ConfigError: fp16 was asked for without a GPU.
        DataError: the data set, the text or the checkpoint is missing, damaged, or does not fit the
            others; or a score is not a number.
        OSError: `output` is in use or cannot be written.
    """
    tests = read_test_sets(config.data)
    asked = _asked(config, tests)  # what is missing shows before the work
    with as_run(config.model) as model:
        metrics = _origin(config.data, model)
        if metrics.get("absent"):
            return _absence(config, metrics)
        checkpoint = checkpoint_of(model)
        if config.engine == "stock":
            require_equal(config.data)
        require_same(read_vocabulary(config.data), read_vocabulary(checkpoint.parent))
        with atomic_folder(config.output) as folder:
            scores, answers, computed = _answered(config, checkpoint, tests, asked)
            answers.write(folder / PREDICTIONS)
            metrics |= {
                **scores.to_metrics(),
                "chance": answers.chance,
                "baselines": _baselines(config.data, answers),
                **computed,
                "parameters": as_dict(config),
                **figures(answers),
            }
            write_metrics(folder, metrics)
            report = write_report(answers, _passages(config.text, answers, tests), metrics)
            (folder / "report.html").write_text(report, encoding="utf-8")
    print(table(scores, answers.chance, metrics["baselines"]), flush=True)
    return Evaluation(scores, metrics)


def _answered(
    config: EvaluateConfig,
    checkpoint: Path,
    tests: Mapping[str, str],
    asked: Mapping[str, list[Asked]],
) -> tuple[Scores, Answers, dict[str, str]]:
    """The scores, the answers, and what metrics.json says of how they were computed."""
    data = config.data
    options = count_options(data)
    model = Model(
        checkpoint, data, config.precision, config.engine, options=options, device=config.device
    )
    sets: list[Group] = []
    parts: list[Answers] = []
    for split, name in tests.items():
        level, gold = level_of(name), np.array(read_labels(data, split, options))
        require_tokens(data, split)
        ids = read_ids(data, split, len(gold))
        counts = read_counts(data, split, len(gold))
        logits = model.logits(split, ids, config.batch_tokens, counts)
        sets.append(score(level, logits, gold))
        part = Answers(
            ids,
            gold,
            np.exp(log_probabilities(logits)),
            [level] * len(ids),
            # Each item ends with a token of its own, which is no part of the passage.
            read_sizes(data / "input0" / split) - 1,
            asked[split],
            counts=counts,
        )
        parts.append(part)
    computed = {"device": model.device, "precision": model.precision}
    return Scores.together(sets), Answers.together(parts), computed


def _baselines(data: Path, answers: Answers) -> dict[str, float]:
    """Accuracies of answers that need no reading, in percent, as far as there is what they need."""
    found = {}
    labels = data / "label" / "train.label"
    if labels.is_file():
        letter = usual(read_labels(data, "train", count_options(data)))
        found[f"always {LETTERS[letter]}"] = 100 * float((answers.gold == letter).mean())
    if answers.asked:
        right = zip(answers.asked, answers.gold.tolist(), strict=True)
        wins = [longest_wins(asked.options, label) for asked, label in right]
        found["longest option"] = 100 * sum(wins) / len(wins)
    return found


def _origin(data: Path, model: Path) -> dict[str, Any]:
    """What metrics.json says of the training, where the model is in the folder that train wrote.

    See components.common.results.metrics.Evaluation.
    """
    if not model.is_dir():
        return {}
    found: dict[str, Any] = {}
    checkpoint = checkpoint_of(model)
    folder = checkpoint.parent
    if (folder / METRICS).is_file():
        found["training"] = digest(folder)
    labels = data / "label" / "valid.label"
    if labels.is_file():
        found["validation_questions"] = labels.read_bytes().count(b"\n")
    training = Training.find(folder)
    if training and training.collapsed and not checkpoint.is_file():
        found["absent"] = training.collapsed
    return found


def _absence(config: EvaluateConfig, metrics: dict[str, Any]) -> Evaluation:
    """Write that there is no model to evaluate."""
    metrics |= {"chance": 100 / guessed_among(config.data), "parameters": as_dict(config)}
    with atomic_folder(config.output) as folder:
        write_metrics(folder, metrics)
        (folder / "report.html").write_text(write_absence(metrics), encoding="utf-8")
    print(f"nothing to evaluate: {metrics['absent']}", flush=True)
    return Evaluation(Scores(), metrics)


def _asked(config: EvaluateConfig, tests: Mapping[str, str]) -> dict[str, list[Asked]]:
    """The questions as they were asked, by split; nothing for a split whose text is not given."""
    if config.text is None:
        return {split: [] for split in tests}
    asked = {split: read_asked(config.text, name) for split, name in tests.items()}
    for split, found in asked.items():
        ids = read_ids(config.data, split, len(found))
        if ids != [question.id for question in found]:
            raise DataError(
                f"{config.text}: its questions are not those of {config.data}",
                hint="Give the folder that the data were binarized from",
            )
    return asked


def _passages(text: Path | None, answers: Answers, tests: Mapping[str, str]) -> dict[int, str]:
    """The passages of the questions that the report shows, by place among all answers."""
    if text is None:
        return {}
    found: dict[int, str] = {}
    start = 0
    for split in tests.values():
        questions = answers.levels.count(level_of(split))
        wanted = {p - start for p in answers.worst() if start <= p < start + questions}
        passages = read_passages(text, split, wanted)
        found.update({start + place: passage for place, passage in passages.items()})
        start += questions
    return found
