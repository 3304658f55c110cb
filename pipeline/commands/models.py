"""race check, predict, serve, export and import: steps of their own, outside of the pipeline."""

import argparse
import pkgutil
from typing import Any

from components.check.config import CheckConfig
from components.common.cli import add_options, config_of
from components.common.remote import at_hand
from components.export.core import ExportConfig
from components.import_.core import ImportConfig
from components.predict.core import PredictConfig
from components.serve.config import ServeConfig
from pipeline.commands.options import command


def _add(
    commands: Any, name: str, config_class: type, step: str, help: str, text: str, **how: str
) -> None:
    """A command that runs a step, `module:function`, whose parameters are its own."""

    def run(arguments: argparse.Namespace) -> None:
        config: Any = config_of(config_class, arguments)
        function = pkgutil.resolve_name(step)
        with at_hand(config) as local:
            function(local)

    add_options(command(commands, name, run, help, text), config_class, **how)


def add_models(commands: Any) -> None:
    _add(
        commands,
        "check",
        CheckConfig,
        "components.check.core:check",
        "look at a data set before training: leaks, doubtful questions, simple baselines",
        """
        examples:
          race check RACE.tar.gz
          race check text --bpe bpe --strict

        Findings are passages and questions that two splits share, options that repeat, labels that
        lean to one letter, and text beyond what the model reads. The table has the accuracy of
        answers that need no reading: a model is worth what it has above them.
        """,
        positional="data",
    )
    _add(
        commands,
        "predict",
        PredictConfig,
        "components.predict.core:predict",
        "answer questions with a trained model",
        """
        examples:
          race predict --model runs/latest < questions.jsonl > answers.jsonl
          race predict --model runs/latest --passage "Ann has a cat." \\
            --question "Ann has a _." --option dog --option cat --option cow --option hen

        Each line of the input is a JSON object: {"article": "...", "question": "...",
        "options": ["...", ...]}, with "id" and "answer" (a letter) where they are known, or what a
        RACE file holds. Bad lines are reported and left out; the exit status is 3 then.
        """,
    )
    _add(
        commands,
        "serve",
        ServeConfig,
        "components.serve.core:serve",
        "answer questions over HTTP with a trained model",
        """
        example:
          race serve --model runs/latest

        POST /predict takes what `race predict` reads, POST /v1/models/race:predict KServe's form
        of it, and GET / is a page to ask by hand. SIGTERM and Ctrl-C end it.
        """,
    )
    _add(
        commands,
        "export",
        ExportConfig,
        "components.export.core:export",
        "turn a trained model into one that Hugging Face's transformers load",
        """
        examples:
          race export --model runs/latest --output exported
          race export --model runs/latest --output exported --push-to-hub owner/name

        The folder holds a model card too, which says how to ask the model.
        """,
    )
    _add(
        commands,
        "import",
        ImportConfig,
        "components.import_.core:import_model",
        "take a Hugging Face RoBERTa as the pretrained checkpoint",
        """
        example:
          race import --source roberta-large --output roberta

        The folder then serves as --pretrained of train and as --bpe of binarize.
        """,
    )
