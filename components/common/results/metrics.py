"""metrics.json as train, evaluate and select write it, read with types.

None, or what is empty, stands for what was not measured or is not said.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Self, get_type_hints

from components.common import strict_json
from components.common.errors import DataError
from components.common.executor import Outcome
from components.common.results.scores import Scores, count, flat, names, percent

METRICS = "metrics.json"
# What parameters and figures were called in 0.1.0, whose runs and checkpoints are read too.
FORMER = {
    "effective_batch": "effective_batch_size",
    **{f"dev_{what}": f"validation_{what}" for what in ("accuracy", "loss", "questions")},
}


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    strict_json.write(folder / METRICS, metrics)


def digest(folder: Path) -> str:
    """The sha256 of a folder's metrics.json, by which models and evaluations find each other."""
    return hashlib.sha256((folder / METRICS).read_bytes()).hexdigest()


def _is(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"{value!r:.40} is no {kind.__name__}")
        return value

    return read


# A field's type, and what reads it: KeyError, TypeError or ValueError where it is none.
Percent = Annotated[float | None, percent]
Number = Annotated[float | None, strict_json.number]
Count = Annotated[int | None, count]
Text = Annotated[str, _is(str)]
Object = Annotated[Mapping[str, Any], _is(dict)]
Flat = Annotated[Scores, Scores.from_metrics]


def today(named: Any) -> dict[str, Any]:
    """An object's values by the names that they have today."""
    return {FORMER.get(name, name): one for name, one in _is(dict)(named).items()}


# Fields that are spread over flat names.
_FLAT = ("scores", "accuracies")


class Metrics:
    """A record whose fields are those of a metrics.json, or of an object in it."""

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> Self:
        """The record; what else there is is passed over.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: a field is missing, or not of its type.
        """
        known, metrics = {}, today(metrics)
        for name, hint in get_type_hints(cls, include_extras=True).items():
            value = metrics if name in _FLAT else metrics.get(name)
            try:
                if value is not None:
                    known[name] = hint.__metadata__[0](value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return cls(**known)

    def to_metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in (one.name for one in fields(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            if isinstance(value, Scores):
                found |= value.to_metrics()
            elif name == "accuracies":
                found |= {flat("accuracy", test): one for test, one in value.items()}
            elif isinstance(value, tuple):
                found[name] = [one.to_metrics() for one in value]
            else:
                found[name] = value.to_metrics() if isinstance(value, Metrics) else value
        return found

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.to_metrics())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What metrics.json of a folder holds.

        Raises:
            DataError: it is missing or damaged.
        """
        path, hint = folder / METRICS, f"Give the folder that {_WRITERS[cls.__name__]} wrote"
        found = strict_json.read_object(path, hint)
        try:
            return cls.from_metrics(found)
        except KeyError as error:
            raise DataError(f"{path}: has no {error.args[0]}", hint=hint) from None
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{path}: damaged ({error})", hint=hint) from None

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """As `read`, but None where there is no such file."""
        return cls.read(folder) if (folder / METRICS).exists() else None


_WRITERS = {"Training": "train", "Evaluation": "evaluate", "Selection": "select"}


@dataclass(frozen=True)
class Training(Metrics):
    """What others read of what train says; `collapsed` is why it came to nothing.

    `dataset` and `base_model` are names as components.common.dataset.write_origin has them.
    """

    best_valid_accuracy: Percent = None
    best_valid_update: Count = None
    updates: Count = None
    skipped_updates: Count = None
    questions: Count = None
    questions_per_second: Number = None
    processes: Count = None
    device: Annotated[str | None, _is(str)] = None
    collapsed: Text = ""
    dataset: Text = ""
    base_model: Text = ""
    parameters: Annotated[Mapping[str, Any], today] = field(default_factory=dict)


def beside(chance: float, baselines: Mapping[str, float]) -> str:
    """Chance and the other baselines, in percent, as a phrase."""
    others = (f", {name} {value:.4g} %" for name, value in baselines.items())
    return f"chance is {chance:.4g} %{''.join(others)}"


def _numbers(value: Any) -> dict[str, float]:
    return {str(name): percent(one) for name, one in _is(dict)(value).items()}


@dataclass(frozen=True)
class Evaluation(Metrics):
    """What others read of what evaluate says, and select of the model that it selected.

    `chance` is the accuracy of guessing, `baselines` those of other answers that need no reading,
    by name; `absent` says why there is no model; `training` is the
    digest of its metrics.json, and `validation_questions` how many its validation accuracy is of.
    """

    scores: Flat = field(default_factory=Scores)
    chance: Percent = None
    baselines: Annotated[Mapping[str, float], _numbers] = field(default_factory=dict)
    calibration_error: Number = None
    absent: Text = ""
    training: Text = ""
    validation_questions: Count = None


def _accuracies(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    found = {name: metrics[flat("accuracy", name)] for name in names("accuracy", metrics)}
    return {name: None if value is None else percent(value) for name, value in found.items()}


@dataclass(frozen=True)
class Trial(Metrics):
    """One of the trainings that select chose from; accuracies on test by name, in percent."""

    label: Text
    seed: Count = None
    learning_rate: Number = None
    collapsed: Text = ""
    updates: Count = None
    validation_accuracy: Percent = None
    validation_loss: Number = None
    accuracies: Annotated[Mapping[str, float | None], _accuracies] = field(default_factory=dict)
    interval: Object = field(default_factory=dict)


@dataclass(frozen=True)
class Ensemble(Metrics):
    """Trials whose models answer together; `mcnemar` is the p-value beside the selected model."""

    trials: Annotated[list[str], _is(list)]
    scores: Flat
    interval: Object
    mcnemar: Annotated[float, strict_json.number]


def _trials(value: Any) -> tuple[Trial, ...]:
    return tuple(Trial.from_metrics(one) for one in value)


@dataclass(frozen=True, kw_only=True)
class Selection(Metrics):
    """All that select says; the selected model's figures have evaluate's names.

    `spread` has mean, deviation, median, min and max over the trials that did not collapse, in
    validation, on all questions and on each test set.
    """

    scores: Flat
    chance: Percent
    baselines: Annotated[Mapping[str, float], _numbers] = field(default_factory=dict)
    interval: Object
    selected: Text
    validation_accuracy: Percent
    validation_loss: Number = None
    median_accuracy: Annotated[float, percent]
    mean_accuracy: Annotated[float, percent]
    collapsed: Annotated[int, count]
    trials: Annotated[tuple[Trial, ...], _trials]
    spread: Object
    parameters: Object
    ensemble: Annotated[Ensemble, Ensemble.from_metrics]
    ensemble_accuracy: Annotated[float, percent]
