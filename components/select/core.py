"""Select the best of several trainings, and say what to expect of the next one.

RoBERTa-large does not learn RACE from every seed: the loss may stay at that of guessing (Mosbach et
al. 2021, arXiv 2006.04884, on why fine-tuning fails so). So published figures are made over several
seeds, and one training alone says little.
"""

import dataclasses
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.common import strict_json
from components.common.cli import option, require_ranges
from components.common.errors import ConfigError, DataError, TrainingError
from components.common.files import atomic_folder, link_or_copy, plain
from components.common.report.axes import Dot
from components.common.report.page import render
from components.common.results.metrics import (
    METRICS,
    Ensemble,
    Evaluation,
    Selection,
    Training,
    Trial,
    digest,
    write_metrics,
)
from components.common.results.predictions import Predictions, read_predictions
from components.common.results.scores import ALL, Group, count, wilson
from components.common.vocabulary import read_vocabulary, require_same
from components.evaluate.report import NAMES, published
from components.evaluate.statistics import mcnemar
from components.trials.core import labels

# As components.evaluate.trained has them, which the data image lacks.
MODEL, REPORT = "model", "report"
LOG, ENSEMBLE = "train_log.jsonl", "ensemble.jsonl"
_SAME = "Evaluate all models on the same data"


@dataclass(frozen=True)
class SelectConfig:
    """What to select from.

    Raises:
        ConfigError: a value is out of its range, or there is not an evaluation for each model.
    """

    models: tuple[Path, ...] = option(help="folder that train wrote, one for each trial")
    evaluations: tuple[Path, ...] = option(help="folder that evaluate wrote, one for each model")
    output: Path = option(
        help="new folder for model/ and report/ (the selected trial's), metrics.json,"
        " ensemble.jsonl and report.html"
    )
    ensemble: int = option(
        3,
        least=1,
        help="number of models that answer together, the best in validation; fewer where fewer"
        " are left",
    )

    def __post_init__(self) -> None:
        if len(self.models) != len(self.evaluations):
            raise ConfigError(
                f"{len(self.models)} models, but {len(self.evaluations)} evaluations",
                hint="Give the folder that evaluate wrote for each model",
            )
        require_ranges(self)


@dataclass(frozen=True)
class Trained:
    """One trial: its folders, what metrics.json of the evaluation holds, and what is said of it."""

    model: Path
    evaluation: Path
    evaluated: Evaluation
    trial: Trial

    @property
    def validation_accuracy(self) -> float:
        """In percent, of one that did not collapse."""
        assert self.trial.validation_accuracy is not None
        return self.trial.validation_accuracy

    @property
    def rank(self) -> tuple[float, float]:
        """The lowest is that of the best."""
        loss = self.trial.validation_loss
        return -self.validation_accuracy, np.inf if loss is None else loss

    def group(self, name: str) -> Group:
        """The figures on all test questions or on a test set.

        Raises:
            DataError: there are none.
        """
        if name not in self.evaluated.scores.groups:
            raise DataError(f"{self.evaluation / METRICS}: has no accuracy on {name}", hint=_SAME)
        return self.evaluated.scores.groups[name]


def select(config: SelectConfig) -> Selection:
    """Take the trial that is the best in validation, and measure the ensemble of the best few.

    A trial has collapsed if train marked it so, or if its validation accuracy cannot be told from
    that of guessing: the 95 % interval holds the latter. The best is the one with the highest
    validation accuracy; of equal ones that with the lower loss there, then the first.

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
    first, *others = (read_vocabulary(trained.model) for trained in trials)
    for other in others:
        require_same(first, other)
    ranked = sorted((t for t in trials if not t.trial.collapsed), key=lambda trained: trained.rank)
    if not ranked:
        collapsed = trials[0].trial.collapsed
        raise TrainingError(
            f"all {len(trials)} trials collapsed, the first because {collapsed}"
            if len(trials) > 1
            else f"the only trial collapsed: {collapsed}",
            hint="Lower the learning rate, set train_warmup_updates (say, to 6 % of the updates),"
            " or try other seeds",
        )
    best, together = ranked[0], ranked[: config.ensemble]
    answers = [_read_answers(trained) for trained in together]
    mean = _mean(answers, together)
    scores = mean.scores({t.name: t.questions for t in best.evaluated.scores.tests})
    only_best, only_mean = (answers[0].right & ~mean.right), (mean.right & ~answers[0].right)
    ensemble = Ensemble(
        [trained.trial.label for trained in together],
        scores,
        scores.interval,
        mcnemar(int(only_best.sum()), int(only_mean.sum())),
    )
    selection = _selection(config, trials, ranked, ensemble)
    with atomic_folder(config.output) as folder:
        for source, name in ((best.model, MODEL), (best.evaluation, REPORT)):
            shutil.copytree(source, folder / name, copy_function=link_or_copy)
        mean.write(folder / ENSEMBLE)
        write_metrics(folder, selection.to_metrics())
        (folder / "report.html").write_text(write_report(selection), encoding="utf-8")
    print(table(selection), flush=True)
    return selection


def _read_trials(config: SelectConfig) -> list[Trained]:
    """The trials in the order of the models, each with the evaluation that was made of it."""
    models = [Training.read(path) for path in config.models]
    evaluations = [Evaluation.read(path) for path in config.evaluations]
    order = _pairs(config, evaluations)
    settings = [_settings(found, path) for found, path in zip(models, config.models, strict=True)]
    names = labels(settings)
    if len(set(names)) < len(names):  # what else differs is not known
        names = [f"trial {number}" for number, _ in enumerate(names, start=1)]
    return [
        Trained(
            model,
            config.evaluations[place],
            evaluations[place],
            Trial(
                label=name,
                seed=seed,
                learning_rate=learning_rate,
                collapsed=_collapse(training, evaluations[place], model),
                updates=training.updates,
                validation_accuracy=training.best_valid_accuracy,
                validation_loss=_validation_loss(training, model),
                interval=evaluations[place].scores.interval,
            ),
        )
        for name, (seed, learning_rate), model, training, place in zip(
            names, settings, config.models, models, order, strict=True
        )
    ]


def _pairs(config: SelectConfig, evaluations: Sequence[Evaluation]) -> list[int]:
    """For each model the place of its evaluation.

    An evaluation knows the digest of its model's metrics.json, so that the order, which a cluster
    does not promise, does not matter. One that does not know it stands in its model's place.

    Raises:
        DataError: they do not belong together.
    """
    places = {found.training or place: place for place, found in enumerate(evaluations)}
    order = []
    for place, model in enumerate(config.models):
        found = places.get(digest(model), places.get(place))
        if found is None or found in order:
            raise DataError(
                f"{model}: no evaluation is of this model"
                if found is None
                else f"{model}: given twice",
                hint="Give each model once, and the folder that evaluate wrote for it",
            )
        order.append(found)
    return order


def _settings(training: Training, model: Path) -> tuple[int, float]:
    parameters = training.parameters
    try:
        return count(parameters["seed"]), strict_json.number(parameters["learning_rate"])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{model / METRICS}: does not say what it was trained with",
            hint="Give the folder that train wrote",
        ) from None


def _collapse(training: Training, evaluated: Evaluation, model: Path) -> str:
    """Why a trial came to nothing, or ""."""
    if marked := training.collapsed or evaluated.absent:
        return marked
    accuracy, chance = training.best_valid_accuracy, evaluated.chance
    questions = evaluated.validation_questions
    if chance is None or not questions:
        raise DataError(
            f"{model}: too little is known of its training",
            hint="Evaluate it again, with the folder that train wrote as --model",
        )
    if accuracy is None:
        return "it was never validated, or its validation accuracy was no number"
    # fairseq rounds the accuracy to 0.1 %.
    low, high = wilson(round(accuracy / 100 * questions), questions)
    if low > chance:
        return ""
    return (
        f"its validation accuracy, {accuracy:.1f} % (95 % interval {low:.1f} to {high:.1f} %),"
        f" cannot be told from guessing ({chance:.4g} %)"
    )


def _validation_loss(training: Training, model: Path) -> float | None:
    """The validation loss, in nats per question, of the checkpoint that is the best there."""
    path = model / LOG
    try:
        records = map(strict_json.loads, plain(path).read_text(encoding="utf-8").splitlines())
        found = [
            strict_json.number(record["loss"])
            for record in records
            if (record["split"], record["update"]) == ("valid", training.best_valid_update)
            and record["loss"] is not None
        ]
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: damaged", hint="Give the folder that train wrote") from None
    return found[-1] if found else None


def _read_answers(trained: Trained) -> Predictions:
    found = read_predictions(trained.evaluation)
    if len(found.ids) != trained.group(ALL).questions:
        raise DataError(
            f"{trained.evaluation}: its answers are not what its figures are about",
            hint="Run the evaluation again",
        )
    return found


def _mean(answers: Sequence[Predictions], together: Sequence[Trained]) -> Predictions:
    """The answers of all together: the mean of the probabilities."""
    first = answers[0]
    for other, trained in zip(answers[1:], together[1:], strict=True):
        if other.ids != first.ids or not np.array_equal(other.gold, first.gold):
            raise DataError(
                f"{trained.evaluation}: its questions are not those of {together[0].evaluation}",
                hint=_SAME,
            )
        if other.probabilities.shape != first.probabilities.shape:
            raise DataError(
                f"{trained.evaluation}: its questions have another number of options than those of"
                f" {together[0].evaluation}",
                hint=_SAME,
            )
    mean = np.mean([one.probabilities for one in answers], axis=0)
    return Predictions(first.ids, first.gold, mean, counts=first.counts)


def _selection(
    config: SelectConfig, trials: Sequence[Trained], ranked: Sequence[Trained], ensemble: Ensemble
) -> Selection:
    best, scores = ranked[0], ranked[0].evaluated.scores
    spread = {"validation": _spread([trained.validation_accuracy for trained in ranked])}
    for name in scores.groups:
        spread[name] = _spread([trained.group(name).accuracy for trained in ranked])

    def accuracies(trained: Trained) -> dict[str, float | None]:
        found = trained.evaluated.scores.groups
        return {name: found[name].accuracy if name in found else None for name in scores.groups}

    return Selection(
        scores=scores,
        chance=best.evaluated.chance,
        baselines=best.evaluated.baselines,
        interval=scores.interval,
        selected=best.trial.label,
        validation_accuracy=best.validation_accuracy,
        validation_loss=best.trial.validation_loss,
        median_accuracy=spread[ALL]["median"],
        mean_accuracy=spread[ALL]["mean"],
        collapsed=len(trials) - len(ranked),
        trials=tuple(dataclasses.replace(t.trial, accuracies=accuracies(t)) for t in trials),
        spread=spread,
        parameters={
            "models": [str(path) for path in config.models],
            "evaluations": [str(path) for path in config.evaluations],
            "ensemble": config.ensemble,
        },
        ensemble=ensemble,
        ensemble_accuracy=ensemble.scores.all.accuracy,
    )


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Where the values lie; the standard deviation is that of a sample (n - 1)."""
    return {
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def write_report(selection: Selection) -> str:
    """The page."""
    groups, trials = selection.scores.shown, selection.trials
    tests = [test.name for test in selection.scores.tests]
    return render(
        "components/select/templates/sweep.html",
        selection=selection,
        groups=groups,
        names=NAMES,
        published=published(groups),
        tests=tests if len(tests) > 1 else [],
        on_validation=[_dot(trial, trial.validation_accuracy) for trial in trials],
        on_test=[_dot(t, t.accuracies["all"], t.interval.get("all", ())) for t in trials],
    )


def _dot(trial: Trial, accuracy: float | None, interval: Sequence[float] = ()) -> Dot:
    return Dot(trial.label, accuracy, interval, hollow=bool(trial.collapsed))


def table(selection: Selection) -> str:
    """The trials for the screen, a line for each, then their median, the best, the ensemble."""
    tests = [test.name for test in selection.scores.tests]
    names = [*tests, ALL] if len(tests) > 1 else [ALL]
    heads = [*tests, "both" if len(tests) == 2 else "all"] if len(tests) > 1 else ["test"]
    best, ensemble = selection.scores.groups, selection.ensemble

    def of(dev: float | None, groups: Mapping[str, Group]) -> list[float | None]:
        return [dev, *(groups[name].accuracy for name in names)]

    rows = [
        (
            trial.label,
            [trial.validation_accuracy, *(trial.accuracies[name] for name in names)],
            "collapsed" if trial.collapsed else "",
        )
        for trial in selection.trials
    ]
    rows += [
        ("median", [selection.spread[name]["median"] for name in ("validation", *names)], ""),
        (f"best: {selection.selected}", of(selection.validation_accuracy, best), ""),
        (f"ensemble of {len(ensemble.trials)}", of(None, ensemble.scores.groups), ""),
    ]
    width = max(len(name) for name, _, _ in rows) + 2
    lines = [f"{'':<{width}}" + "".join(f"{head:>10}" for head in ("validation", *heads))]
    for place, (name, values, note) in enumerate(rows):
        if place == len(selection.trials):
            lines.append("")
        shown = "".join(f"{'–' if v is None else f'{v:.2f} %':>10}" for v in values)
        lines.append(f"{name:<{width}}{shown}  {note}".rstrip())
    return "\n".join(lines)
