"""A trained checkpoint as a folder that Hugging Face's transformers load.

AutoModelForMultipleChoice and AutoTokenizer read it; transformers are not needed to write it.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.common import hub, strict_json
from components.common.cli import option
from components.common.errors import RaceError
from components.common.files import atomic_folder, scratch_folder
from components.common.results.metrics import Evaluation, Training, write_metrics
from components.evaluate.model import Model
from components.evaluate.trained import (
    BPE_HELP,
    EVALUATION,
    MODEL_HELP,
    TRAINING,
    Trained,
    as_run,
    find_trained,
)
from components.export.card import SETTINGS, model_card
from components.huggingface import tokenizer, weights
from components.predict.core import Reader
from components.train.roberta import Roberta

logger = logging.getLogger(__name__)

# What the task does with text, kept in config.json; transformers have no use for it.
TASK_KEY = "sentence_ranking"
TASK_SETTINGS = (
    "num_classes",
    "init_token",
    "separator_token",
    "max_option_length",
    "max_positions",
)


@dataclass(frozen=True)
class ExportConfig:
    """Which model is exported, and where to.

    Raises:
        ConfigError: `push_to_hub` is no repository of the hub.
    """

    model: Path = option(help=MODEL_HELP)
    output: Path = option(help="new folder for the Hugging Face model")
    bpe: Path | None = option(None, help=BPE_HELP)
    evaluation: Path | None = option(
        None,
        help="folder that evaluate wrote, for the figures on the card; a run's folder has its own",
    )
    precision: Literal["fp32", "fp16"] = option("fp32", help="of the weights in the file")
    push_to_hub: str = option(
        "",
        help="repository of the Hugging Face hub that gets the folder too, as one commit; a private"
        " one is made where there is none",
        metavar="OWNER/NAME",
    )

    def __post_init__(self) -> None:
        if self.push_to_hub:
            where = f"push_to_hub: {self.push_to_hub}"
            hub.require_unchosen(where, self.repository, "Give OWNER/NAME")

    @property
    def repository(self) -> hub.Repository:
        return hub.parse(hub.SCHEME + self.push_to_hub.removeprefix(hub.SCHEME), dataset=False)


def export(config: ExportConfig) -> None:
    """Write model.safetensors, config.json, the tokenizer's files and a model card.

    Raises:
        ConfigError: there is no BPE.
        DataError: the checkpoint, its BPE or its metrics are missing, damaged, or do not fit each
            other.
        OSError: the output cannot be written, or is there already.
        DataError, TransferError: the hub refuses, or cannot be reached; the output is whole then.
    """
    with as_run(config.model) as model:
        trained = find_trained(model, config.bpe, config.evaluation)
        parameters = export_trained(trained, config.output, config.precision)
    logger.info("wrote %s: %.1f million parameters", config.output, parameters / 1e6)
    if config.push_to_hub:
        _push(config)


def _push(config: ExportConfig) -> None:
    try:
        logger.info("pushed to %s", hub.upload(config.output, config.repository))
    except RaceError:
        again = f"hf upload --private {config.repository.name} {config.output}"
        logger.warning("%s is whole; to push it without exporting again: %s", config.output, again)
        raise


def export_trained(trained: Trained, output: Path, precision: Literal["fp32", "fp16"]) -> int:
    """As `export`, of a model that was found already; the number of its parameters."""
    import torch
    from safetensors.torch import save_file

    with atomic_folder(output) as folder:
        model = Reader(trained, "fp32").model
        checked, settings = model.checked, model.settings
        weights.require_numbers(checked.tensors, trained.checkpoint)
        _try_out(model)
        state = weights.to_multiple_choice(checked.tensors, checked.shape.layers)
        kind = torch.float16 if precision == "fp16" else torch.float32
        # safetensors refuses tensors that share memory, as those of a checkpoint may.
        tensors = {name: t.to(kind, copy=True).contiguous() for name, t in state.items()}
        save_file(tensors, folder / hub.SAFETENSORS, metadata={"format": "pt"})
        task = {name: getattr(settings, name) for name in TASK_SETTINGS}
        content = model_config(checked, tensors) | {TASK_KEY: task}
        strict_json.write(folder / hub.SETTINGS, content)
        files = tokenizer.to_huggingface(trained.bpe, settings.max_positions)
        parameters: int = sum(tensor.numel() for tensor in tensors.values())
        files["README.md"] = model_card(task, parameters, trained.training, trained.evaluation)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        with scratch_folder() as scratch:  # for who imports it
            again = tokenizer.from_huggingface(folder)
            tokenizer.write_bpe(again, folder, scratch).write(folder)
        _write_metrics(folder / TRAINING, trained.training)
        _write_metrics(folder / EVALUATION, trained.evaluation)
        # safetensors lets only the owner read it.
        (folder / hub.SAFETENSORS).chmod((folder / hub.SETTINGS).stat().st_mode)
    return parameters


def _try_out(model: Model) -> None:
    """Raises DataError where scores are not numbers though weights are."""
    import torch

    question = [torch.tensor([0, 4, 2])] * model.options
    model.answer([question], ["a trial question"], batch_tokens=1)


def model_config(checked: Roberta, tensors: dict[str, Any]) -> dict[str, Any]:
    """transformers' RobertaConfig for a model and the tensors that are exported of it."""
    vocabulary, width = tensors[weights.WORDS].shape
    return {
        "architectures": ["RobertaForMultipleChoice"],
        "model_type": "roberta",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": checked.shape.layers,
        "num_attention_heads": checked.shape.attention_heads,
        "intermediate_size": checked.shape.ffn_embed_dim,
        # Positions count from the padding's index, 1, on.
        "max_position_embeddings": len(tensors[weights.POSITIONS]),
        "type_vocab_size": 1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": checked.dropout,
        "attention_probs_dropout_prob": checked.attention_dropout,
        "layer_norm_eps": 1e-5,  # torch's default, which fairseq leaves as it is
        "initializer_range": 0.02,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "dtype": str(tensors[weights.WORDS].dtype).removeprefix("torch."),
    }


def _write_metrics(folder: Path, found: Training | Evaluation) -> None:
    """What is known, but for paths: they are of the machine that it was made on."""
    if found != type(found)():
        folder.mkdir()
        metrics = found.to_metrics()
        if isinstance(found, Training):
            metrics["parameters"] = {n: v for n, v in found.parameters.items() if n in SETTINGS}
        write_metrics(folder, {n: value for n, value in metrics.items() if value is not None})
