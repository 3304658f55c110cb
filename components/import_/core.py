"""A Hugging Face RoBERTa as the pretrained checkpoint that the train step starts from.

The output has fairseq's files: model.pt and dict.txt as in the published roberta.large, and
encoder.json and vocab.bpe of its BPE, so that it serves as `--pretrained` and as `--bpe`.
"""

import argparse
import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common import strict_json
from components.common.cli import option
from components.common.errors import DataError
from components.common.files import atomic_folder
from components.common.hub import PICKLE, SAFETENSORS, SETTINGS
from components.common.settings import Settings
from components.common.vocabulary import read_vocabulary, require_same
from components.huggingface import tokenizer, weights
from components.train import checkpoints
from components.train.roberta import (
    ARCHITECTURES,
    ENCODER,
    HEAD,
    Roberta,
    Shape,
    roberta_of,
    task_settings,
    tied,
)

logger = logging.getLogger(__name__)

# config.json's settings that change what is computed, with fairseq's RoBERTa's values, which are
# also what transformers assume where a file does not say.
COMPUTED = {
    "hidden_act": "gelu",
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "position_embedding_type": "absolute",
    "is_decoder": False,
}

# fairseq/tasks/sentence_ranking.py; for a model that answers, where config.json does not say.
TASK_SETTINGS = {
    "num_classes": 4,
    "init_token": 0,
    "separator_token": 2,
    "max_option_length": 128,
}


@dataclass(frozen=True)
class ImportConfig:
    """What becomes the pretrained checkpoint."""

    source: Path = option(help="folder of a Hugging Face RoBERTa: config, weights and tokenizer")
    output: Path = option(help="new folder for model.pt, dict.txt, encoder.json and vocab.bpe")


def import_model(config: ImportConfig, *, announce: bool = True) -> Path:
    """Write the checkpoint and its BPE; the path of model.pt. `announce` logs where that is.

    A RobertaModel or RobertaForMaskedLM becomes a model to fine-tune. A RobertaForMultipleChoice
    keeps its head, so that evaluate and predict take it as it is, and training goes on from it.

    Raises:
        DataError: a file is missing, damaged or not safe to read, or the model computes something
            that fairseq's RoBERTa does not.
        OSError: the output cannot be written, or is there already.
    """
    import torch

    settings, task = _settings(config.source)
    bpe = tokenizer.from_huggingface(config.source)
    found, path = _tensors(config.source)
    tensors = weights.with_prefix(found)
    layers = settings.whole("num_hidden_layers", 1, len(tensors))
    state, ignored = weights.from_huggingface(tensors, layers, path)
    if ignored:
        logger.info("left out %d tensors: %s", len(ignored), ", ".join(ignored[:4]))
    model = _checked(settings, state, path)
    args = _arguments(model, task if weights.is_multiple_choice(tensors) else None)
    symbols = bpe["dict.txt"].count("\n") + 5  # <s>, <pad>, </s>, <unk>, and <mask> at the end
    if symbols != model.shape.vocabulary:
        raise DataError(
            f"{config.source}: the tokenizer knows {symbols} tokens, the model"
            f" {model.shape.vocabulary}",
            hint=_HINT,
        )
    state = {name: tensor.float() for name, tensor in model.tensors.items()}
    name = ENCODER + "embed_positions.weight"
    state[name] = weights.with_types(state[name], tensors, path)
    weights.require_numbers(state, path)
    state |= tied(state)
    with atomic_folder(config.output) as folder:
        made = tokenizer.write_bpe(bpe, config.source, folder)
        require_same(made, read_vocabulary(config.source))
        torch.save(
            {
                "args": args,
                "model": state,
                # What fairseq wants to find in a checkpoint, though training resets it.
                "optimizer_history": [
                    {
                        "criterion_name": args.criterion,
                        "optimizer_name": "FairseqAdam",
                        "lr_scheduler_state": {},
                        "num_updates": 0,
                    }
                ],
                "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
                "last_optimizer_state": None,
            },
            folder / "model.pt",
        )
    if announce:
        logger.info("wrote %s; to train it: %s", config.output, _flags(args, config.output))
    return config.output / "model.pt"


_HINT = "Give a folder with a RoBERTa, such as roberta-large, its tokenizer included"


def _settings(source: Path) -> tuple[Settings, Settings]:
    """What config.json says of the model, and what export wrote there of the task."""
    path = source / SETTINGS
    settings = Settings(strict_json.read_object(path, hint=_HINT), str(path), _HINT)
    settings.require("model_type", "roberta", None)
    settings.require("layer_norm_eps", 1e-5, 1e-12)  # what transformers assume by default
    for name, value in COMPUTED.items():
        settings.require(name, value)
    return settings, settings.below("sentence_ranking", TASK_SETTINGS)


def _tensors(source: Path) -> tuple[dict[str, Any], Path]:
    """The weights, and the file that they are in."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = source / SAFETENSORS
    if path.is_file():
        try:
            return load_file(path), path
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise DataError(f"{path}: damaged", hint="Fetch it again") from error
    path = source / PICKLE
    if not path.is_file():
        raise DataError(
            f"{source}: holds neither {SAFETENSORS} nor {PICKLE} in one piece", hint=_HINT
        )
    found = checkpoints.unpickled(path)
    if not isinstance(found, dict) or not all(
        type(name) is str and torch.is_tensor(tensor) for name, tensor in found.items()
    ):
        raise DataError(f"{path}: holds no weights", hint=_HINT)
    return found, path


def _checked(settings: Settings, state: dict[str, Any], path: Path) -> Roberta:
    """The model, if the weights are what config.json says."""
    width, inner, heads = (
        settings.whole(name, 1, 1 << 30)
        for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    args = {
        "dropout": settings.share("hidden_dropout_prob", 0.1),
        "attention_dropout": settings.share("attention_probs_dropout_prob", 0.1),
    }
    model = roberta_of({"model": state, "args": args}, path, ranks=False)
    if (width, inner) != (model.shape.embed_dim, model.shape.ffn_embed_dim) or width % heads:
        raise DataError(f"{path}: the weights do not fit config.json", hint=_HINT)
    return dataclasses.replace(model, shape=dataclasses.replace(model.shape, attention_heads=heads))


def _arguments(model: Roberta, task: Settings | None) -> argparse.Namespace:
    """fairseq's arguments for the model, and for a model that answers, for the task."""
    shape = model.shape
    large = dataclasses.replace(shape, positions=0, vocabulary=0) == ARCHITECTURES["roberta_large"]
    args: dict[str, Any] = {
        "arch": "roberta_large" if large else "roberta_base",
        "task": "masked_lm",
        "criterion": "masked_lm",
        "encoder_layers": shape.layers,
        "encoder_embed_dim": shape.embed_dim,
        "encoder_ffn_embed_dim": shape.ffn_embed_dim,
        "encoder_attention_heads": shape.attention_heads,
        "max_positions": shape.positions,
        "tokens_per_sample": shape.positions,
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
    }
    if task:
        args |= {
            "task": "sentence_ranking",
            "criterion": "sentence_ranking",
            "ranking_head_name": HEAD,
            "data": "",
            "dataset_impl": None,
            "no_shuffle": False,
            "shorten_data_split_list": "",
            **dataclasses.asdict(task_settings(task, shape)),
            "max_positions": shape.positions,
        }
    return argparse.Namespace(**args)


def _flags(args: argparse.Namespace, output: Path) -> str:
    """What the train step has to be told of the model."""
    flags = f"--pretrained {output} --arch {args.arch}"
    names = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
    sizes = {name: getattr(args, f"encoder_{name}") for name in names}
    if Shape(**sizes) != ARCHITECTURES[args.arch]:
        flags += "".join(f" --encoder-{n.replace('_', '-')} {size}" for n, size in sizes.items())
    if args.max_positions != 512:
        flags += f" --max-positions {args.max_positions}"
    return flags
