"""Select the best of several trainings, and say what to expect of the next one.

RoBERTa-large does not learn RACE from every seed: the loss may stay at that of guessing (Mosbach et
al. 2021, arXiv 2006.04884, on why fine-tuning fails so). So published figures are made over several
seeds, and one training alone says little.
"""

import dataclasses
import hashlib
import logging
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.common import strict_json
from components.common.errors import DataError, TrainingError
from components.common.executor import Outcome
from components.common.files import atomic_folder, link_or_copy, plain
from components.common.vocabulary import read_vocabulary, require_same
from components.evaluate.predictions import Predictions, read_predictions
from components.evaluate.statistics import Group, mcnemar, wilson
from components.gate.core import percent
from components.select.config import SelectConfig
from components.select.report import write_report
from components.trials.core import labels

__all__ = ["SelectConfig", "Selection", "select"]

logger = logging.getLogger(__name__)

MODEL, REPORT = "model", "report"
METRICS, LOG = "metrics.json", "train_log.jsonl"
ENSEMBLE = "ensemble.jsonl"


@dataclass(frozen=True)
class Trained:
    """One trial: its folders, what their metrics.json hold, and why it came to nothing, or ""."""

    label: str
    model: Path
    evaluation: Path
    training: Mapping[str, Any]
    evaluated: Mapping[str, Any]
    collapsed: str

    @property
    def dev_accuracy(self) -> float | None:
        """In percent."""
        return self.training.get("best_valid_accuracy")


@dataclass(frozen=True)
class Selection:
    """What metrics.json holds."""

    metrics: dict[str, Any]

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.metrics)


def select(config: SelectConfig) -> Selection:
    """Take the trial that is the best on dev, and measure the ensemble of the best few on test.

    A trial has collapsed if train marked it so, or if its accuracy on dev cannot be told from that
    of guessing: the 95 % interval holds the latter. The best is the one with the highest accuracy
    on dev; of equal ones that with the lower loss there, then the first.

    `output` then holds model/ and report/, the selected trial's as train and evaluate wrote them;
    metrics.json; report.html; and ensemble.jsonl, the answers of the ensemble, whose probabilities
    are the means of its models', in the form of evaluate's predictions.jsonl.

    Raises:
        DataError: a folder is not what train or evaluate wrote, models and evaluations do not
            belong together, or two trials answered different questions, or read them with
            another BPE or dictionary.
        TrainingError: all trials collapsed.
        OSError: `output` is in use or cannot be written.
    """
    trials = _read_trials(config)
    first, *others = (read_vocabulary(trial.model) for trial in trials)
    for other in others:
        require_same(first, other)
    left = [trial for trial in trials if not trial.collapsed]
    if not left:
        raise TrainingError(
            f"all {len(trials)} trials collapsed, the first because {trials[0].collapsed}"
            if len(trials) > 1
            else f"the only trial collapsed: {trials[0].collapsed}",
            mend="Lower the learning rate, set train_warmup_updates (say, to 6 % of the updates),"
            " or try other seeds",
        )
    for trial in trials:
        if not trial.collapsed or "interval" in trial.evaluated:
            _require_figures(trial.evaluated, trial.evaluation)
    ranked = sorted(left, key=_rank)
    best, together = ranked[0], ranked[: config.ensemble]
    answers = [_read_answers(trial) for trial in together]
    ensemble = _mean(answers, together)

    with atomic_folder(config.output) as folder:
        for source, name in ((best.model, MODEL), (best.evaluation, REPORT)):
            shutil.copytree(source, folder / name, copy_function=link_or_copy)
        with (folder / ENSEMBLE).open("w") as file:
            file.writelines(ensemble.lines())
        metrics = _metrics(config, trials, left, best)
        metrics["ensemble"] = {
            "trials": [trial.label for trial in together],
            **_scores(best.evaluated, ensemble),
            "mcnemar": _compared(answers[0], ensemble),
        }
        metrics["ensemble_accuracy"] = metrics["ensemble"]["accuracy"]
        strict_json.write(folder / METRICS, metrics)
        (folder / "report.html").write_text(write_report(metrics), encoding="utf-8")

    print(table(metrics), flush=True)
    return Selection(metrics)


def _read_trials(config: SelectConfig) -> list[Trained]:
    """The trials in the order of the models, each with the evaluation that was made of it."""
    models = [_json(path / METRICS, "train") for path in config.models]
    evaluations = [_json(path / METRICS, "evaluate") for path in config.evaluations]
    order = _pairs(config, evaluations)
    settings = [_settings(found, path) for found, path in zip(models, config.models, strict=True)]
    names = labels(settings)
    if len(set(names)) < len(names):  # what else differs is not known
        names = [f"trial {number}" for number, _ in enumerate(names, start=1)]
    return [
        Trained(
            name,
            model,
            config.evaluations[place],
            training,
            evaluations[place],
            _collapse(training, evaluations[place], model),
        )
        for name, model, training, place in zip(names, config.models, models, order, strict=True)
    ]


def _pairs(config: SelectConfig, evaluations: Sequence[Mapping[str, Any]]) -> list[int]:
    """For each model the place of its evaluation.

    An evaluation knows the digest of its model's metrics.json, so that the order, which a cluster
    does not promise, does not matter. One that does not know it stands in its model's place.

    Raises:
        DataError: they do not belong together.
    """
    places = {
        digest if isinstance(digest := found.get("training"), str) else place: place
        for place, found in enumerate(evaluations)
    }
    order = []
    for place, model in enumerate(config.models):
        digest = hashlib.sha256((model / METRICS).read_bytes()).hexdigest()
        found = places.get(digest, places.get(place))
        if found is None or found in order:
            raise DataError(
                f"{model}: no evaluation is of this model"
                if found is None
                else f"{model}: given twice",
                mend="Give each model once, and the folder that evaluate wrote for it",
            )
        order.append(found)
    return order


def _settings(training: Mapping[str, Any], model: Path) -> tuple[int, float]:
    try:
        parameters = training["parameters"]
        if training.get("updates") is not None:
            _whole(training["updates"], least=0)
        if training.get("best_valid_accuracy") is not None:
            percent(training["best_valid_accuracy"])
        return int(parameters["seed"]), strict_json.number(parameters["learning_rate"])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{model / METRICS}: does not say what it was trained with",
            mend="Give the folder that train wrote",
        ) from None


def _require_figures(found: Mapping[str, Any], folder: Path) -> None:
    """Refuse an evaluation of which the report could not be made.

    Raises:
        DataError: it has another form than evaluate's.
    """
    try:
        if "all" not in found["interval"]:
            raise ValueError("no interval")
        for name, ends in found["interval"].items():
            low, high = map(percent, ends)
            suffix = "" if name == "all" else f"_{name}"
            questions = _whole(found[f"questions{suffix}"], least=1)
            if not (low <= high and _whole(found[f"correct{suffix}"], least=0) <= questions):
                raise ValueError("more than all")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(
            f"{folder / METRICS}: its figures are not what evaluate writes",
            mend="Run the evaluation again",
        ) from None


def _whole(value: Any, least: int) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r:.40} is no whole number from {least} on")
    return value


def _collapse(training: Mapping[str, Any], evaluated: Mapping[str, Any], model: Path) -> str:
    """Why a trial came to nothing, or ""."""
    if marked := training.get("collapsed") or evaluated.get("absent"):
        return str(marked)
    try:
        accuracy, chance = training["best_valid_accuracy"], percent(evaluated["chance"])
        questions = _whole(evaluated["dev_questions"], least=1)
        if accuracy is None:
            return "it was never validated, or its accuracy on dev was no number"
        # fairseq rounds the accuracy to 0.1 %.
        low, high = wilson(round(percent(accuracy) / 100 * questions), questions)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{model}: too little is known of its training",
            mend="Evaluate it again, with the folder that train wrote as --model",
        ) from None
    if low > chance:
        return ""
    return (
        f"its accuracy on dev, {accuracy:.1f} % (95 % interval {low:.1f} to {high:.1f} %), cannot"
        f" be told from guessing ({chance:.4g} %)"
    )


def _rank(trial: Trained) -> tuple[float, float]:
    assert trial.dev_accuracy is not None  # it would have collapsed
    loss = _dev_loss(trial)
    return -trial.dev_accuracy, np.inf if loss is None else loss


def _dev_loss(trial: Trained) -> float | None:
    """The loss on dev, in nats per question, of the checkpoint that is the best there."""
    update = trial.training.get("best_valid_update")
    try:
        lines = plain(trial.model / LOG).read_text(encoding="utf-8").splitlines()
        records = [strict_json.loads(line) for line in lines]
        valid = [r for r in records if r["split"] == "valid" and r["update"] == update]
        found = [strict_json.number(r["loss"]) for r in valid if r["loss"] is not None]
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{trial.model / LOG}: damaged", mend="Give the folder that train wrote"
        ) from None
    return found[-1] if found else None


def _read_answers(trial: Trained) -> Predictions:
    found = read_predictions(trial.evaluation)
    total = trial.evaluated.get("questions")
    parts = [trial.evaluated[f"questions_{name}"] for name in levels(trial.evaluated)]
    if not all(type(part) is int for part in parts) or not len(found.ids) == total == sum(parts):
        raise DataError(
            f"{trial.evaluation}: its answers are not what its figures are about",
            mend="Run the evaluation again",
        )
    return found


def _mean(answers: Sequence[Predictions], trials: Sequence[Trained]) -> Predictions:
    """The answers of all together: the mean of the probabilities."""
    first = answers[0]
    for other, trial in zip(answers[1:], trials[1:], strict=True):
        if other.ids != first.ids or not np.array_equal(other.gold, first.gold):
            raise DataError(
                f"{trial.evaluation}: its questions are not those of {trials[0].evaluation}",
                mend="Evaluate all models on the same data",
            )
        if other.probabilities.shape != first.probabilities.shape:
            raise DataError(
                f"{trial.evaluation}: its questions have another number of options than those of"
                f" {trials[0].evaluation}",
                mend="Evaluate all models on the same data",
            )
    mean = np.mean([one.probabilities for one in answers], axis=0)
    return Predictions(first.ids, first.gold, mean)


def levels(figures: Mapping[str, Any]) -> list[str]:
    """The test sets that evaluate's figures are about, in the order of its predictions."""
    return [name.removeprefix("questions_") for name in figures if name.startswith("questions_")]


def _scores(figures: Mapping[str, Any], answers: Predictions) -> dict[str, Any]:
    """Accuracy and its interval on all questions and on each test set.

    Args:
        figures: evaluate's, which say how many questions each test set has.
    """
    right, start = answers.right, 0
    groups = {"": Group("all", len(right), int(right.sum()))}
    for level in levels(figures):
        end = start + int(figures[f"questions_{level}"])
        groups[f"_{level}"] = Group(level, end - start, int(right[start:end].sum()))
        start = end
    found: dict[str, Any] = {}
    for suffix, group in groups.items():
        found[f"accuracy{suffix}"] = group.accuracy
        found[f"questions{suffix}"] = group.questions
        found[f"correct{suffix}"] = group.correct
    return found | {"interval": {group.name: list(group.interval) for group in groups.values()}}


def _compared(one: Predictions, other: Predictions) -> float:
    only_one = int((one.right & ~other.right).sum())
    only_other = int((other.right & ~one.right).sum())
    return mcnemar(only_one, only_other)


def _metrics(
    config: SelectConfig, trials: Sequence[Trained], left: Sequence[Trained], best: Trained
) -> dict[str, Any]:
    """The content of metrics.json without the ensemble; accuracies in percent.

    The selected model's figures have evaluate's names, so that it is read like an evaluation.
    """
    tests = {"all": "accuracy"} | {level: f"accuracy_{level}" for level in levels(best.evaluated)}
    kept = ("accuracy", "loss", "questions", "correct", "interval", "chance")
    figures = {k: v for k, v in best.evaluated.items() if k.partition("_")[0] in kept}
    spread = {"dev": _spread([t.training["best_valid_accuracy"] for t in left])}
    for name, key in tests.items():
        spread[name] = _spread([_figure(trial, key) for trial in left])
    return {
        **figures,
        "selected": best.label,
        "dev_accuracy": best.dev_accuracy,
        "dev_loss": _dev_loss(best),
        "median_accuracy": spread["all"]["median"],
        "mean_accuracy": spread["all"]["mean"],
        "collapsed": len(trials) - len(left),
        "trials": [
            {
                "label": trial.label,
                "seed": trial.training["parameters"]["seed"],
                "learning_rate": trial.training["parameters"]["learning_rate"],
                "collapsed": trial.collapsed,
                "updates": trial.training.get("updates"),
                "dev_accuracy": trial.dev_accuracy,
                "dev_loss": _dev_loss(trial),
                **{k: _figure(trial, k) if k in trial.evaluated else None for k in tests.values()},
                "interval": trial.evaluated.get("interval", {}),
            }
            for trial in trials
        ],
        "spread": spread,
        "parameters": {
            name: [str(path) for path in value] if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(config).items()
            if name != "output"
        },
    }


def _figure(trial: Trained, key: str) -> float:
    try:
        return percent(trial.evaluated[key])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{trial.evaluation / METRICS}: has no {key}",
            mend="Evaluate all models on the same data",
        ) from None


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Where the values lie; the standard deviation is that of a sample (n - 1)."""
    return {
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def _json(path: Path, writer: str) -> dict[str, Any]:
    try:
        found = strict_json.read(path)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise DataError(
            f"{path}: missing or damaged", mend=f"Give the folder that {writer} wrote"
        ) from None
    return found


def table(metrics: Mapping[str, Any]) -> str:
    """The trials for the screen, a line for each, then their median, the best, the ensemble."""
    tests = levels(metrics)
    keys = [*(f"accuracy_{name}" for name in tests), "accuracy"] if len(tests) > 1 else ["accuracy"]
    heads = [*tests, "both" if len(tests) == 2 else "all"] if len(tests) > 1 else ["test"]
    best, ensemble, spread = metrics["selected"], metrics["ensemble"], metrics["spread"]
    rows: list[tuple[str, list[float | None], str]] = [
        (
            trial["label"],
            [trial["dev_accuracy"], *(trial[key] for key in keys)],
            "collapsed" if trial["collapsed"] else "",
        )
        for trial in metrics["trials"]
    ]
    names = [*tests, "all"] if len(tests) > 1 else ["all"]
    rows.append(("median", [spread[name]["median"] for name in ("dev", *names)], ""))
    rows.append((f"best: {best}", [metrics["dev_accuracy"], *(metrics[k] for k in keys)], ""))
    rows.append(
        (f"ensemble of {len(ensemble['trials'])}", [None, *(ensemble[k] for k in keys)], "")
    )
    width = max(len(name) for name, _, _ in rows) + 2
    lines = [f"{'':<{width}}" + "".join(f"{head:>10}" for head in ("dev", *heads))]
    for place, (name, values, note) in enumerate(rows):
        if place == len(metrics["trials"]):
            lines.append("")
        shown = "".join(f"{'–' if v is None else f'{v:.2f} %':>10}" for v in values)
        lines.append(f"{name:<{width}}{shown}  {note}".rstrip())
    return "\n".join(lines)
