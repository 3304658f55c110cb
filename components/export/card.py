"""The model card: a README.md as Hugging Face's hub shows it."""

import functools
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.errors import ConfigError
from components.common.results.metrics import Evaluation, Training

# Of the settings of training, those that say what was done to the weights.
SETTINGS = (
    "arch",
    "epochs",
    "max_updates",
    "effective_batch_size",
    "optimizer",
    "learning_rate",
    "lr_scheduler",
    "warmup_updates",
    "adam_beta1",
    "adam_beta2",
    "adam_eps",
    "weight_decay",
    "clip_norm",
    "dropout",
    "attention_dropout",
    "precision",
    "seed",
)

_RACE, _RACE_PAGE = "ehovy/race", "https://www.cs.cmu.edu/~glai1/data/race/"
_ON_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def model_card(
    task: Mapping[str, Any], parameters: int, training: Training, evaluation: Evaluation
) -> str:
    """The card in Markdown, with the settings for the hub at its head.

    Args:
        task: the task's settings, by the names of fairseq-train's arguments.
        parameters: their number.
        training, evaluation: as far as they are known.

    Raises:
        ConfigError: huggingface_hub is not installed.
    """
    race = training.dataset == _RACE
    name = "RACE" if race else training.dataset or "multiple-choice questions"
    known = {**training.parameters, "updates": training.updates}
    settings = [(name, known.get(name)) for name in (*SETTINGS, "updates")]
    text: str = _template().render(
        settings=_settings_for_the_hub(name, training, evaluation),
        name=name,
        base=training.base_model,
        task=task,
        parameters=parameters,
        training=training,
        trained=[(name, value) for name, value in settings if value is not None],
        scores=evaluation.scores,
        race=race,
        race_page=_RACE_PAGE,
    )
    return text


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"paragraph": _paragraph, "thousands": "{:,}".format}
    return made.get_template("card.md.jinja")


def _paragraph(text: str) -> str:
    lines = textwrap.fill(text.strip(), 100, break_long_words=False, break_on_hyphens=False)
    return f"{lines}\n"


def _settings_for_the_hub(name: str, training: Training, evaluation: Evaluation) -> str:
    """As huggingface_hub writes them, in YAML."""
    try:
        from huggingface_hub import EvalResult, ModelCardData
    except ImportError:
        raise ConfigError(
            "the card needs huggingface_hub, which this Python lacks",
            hint="pip install huggingface_hub",
        ) from None
    dataset = _on_hub(training.dataset)
    licence: dict[str, Any] = {"license": "unknown"}
    if dataset == _RACE:
        licence = {
            "language": "en",
            "license": "other",
            "license_name": "race-research-only",
            "license_link": _RACE_PAGE,
        }
    results = [
        EvalResult(
            task_type="multiple-choice",
            dataset_type=dataset or "other",
            dataset_name=name,
            dataset_config=config,
            dataset_split="test",
            metric_type="accuracy",
            metric_name="accuracy in percent",
            metric_value=round(group.accuracy, 2),
        )
        for config, group in evaluation.scores.groups.items()
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="multiple-choice",
        base_model=_on_hub(training.base_model),
        datasets=[dataset] if dataset else None,
        tags=["roberta", "multiple-choice"],
        metrics=["accuracy"] if results else None,
        model_name=f"RoBERTa on {name}",
        eval_results=results or None,
        **licence,
    )
    return str(data.to_yaml())


def _on_hub(name: str) -> str | None:
    return name if _ON_HUB.fullmatch(name) else None
