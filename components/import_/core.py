"""A Hugging Face RoBERTa as the pretrained checkpoint that the train step starts from.

The output has fairseq's files: model.pt and dict.txt as in the published roberta.large, and
encoder.json and vocab.bpe of its BPE, so that it serves as `--pretrained` and as `--bpe`.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from components.common import strict_json
from components.common.errors import DataError
from components.common.files import atomic_folder
from components.common.vocabulary import read_vocabulary, require_same
from components.huggingface import tokenizer, weights
from components.import_.config import ImportConfig

logger = logging.getLogger(__name__)

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"

# fairseq/tasks/sentence_ranking.py; for a model that answers, where config.json does not say.
TASK_SETTINGS = {
    "num_classes": 4,
    "init_token": 0,
    "separator_token": 2,
    "max_option_length": 128,
}


def import_model(config: ImportConfig) -> Path:
    """Write the checkpoint and its BPE; the path of model.pt.

    A RobertaModel or RobertaForMaskedLM becomes a model to fine-tune. A RobertaForMultipleChoice
    keeps its head, so that evaluate and predict take it as it is, and training goes on from it.

    Raises:
        DataError: a file is missing, damaged or not safe to read, or the model computes something
            that fairseq's RoBERTa does not.
        OSError: the output cannot be written, or is there already.
    """
    import torch

    settings = _settings(config.source)
    layers = _number(settings, "num_hidden_layers", config.source)
    bpe = tokenizer.from_huggingface(config.source)
    tensors = _tensors(config.source)
    try:
        state = weights.from_huggingface(tensors, layers)
    except KeyError as error:
        raise DataError(
            f"{config.source}: the weights have no {error.args[0]}", mend=_MEND
        ) from None
    ignored = sorted(weights.left_out(tensors, layers))
    weights.require_numbers({n: t for n, t in tensors.items() if n not in ignored}, config.source)
    if ignored:
        logger.info("left out %d tensors: %s", len(ignored), ", ".join(ignored[:4]))
    args = _arguments(settings, state, config.source, answers=weights.is_multiple_choice(tensors))
    symbols = bpe["dict.txt"].count("\n") + 5  # <s>, <pad>, </s>, <unk>, and <mask> at the end
    if symbols != len(state[weights.ENCODER + "embed_tokens.weight"]):
        raise DataError(
            f"{config.source}: the tokenizer knows {symbols} tokens, the model"
            f" {len(state[weights.ENCODER + 'embed_tokens.weight'])}",
            mend=_MEND,
        )
    with atomic_folder(config.output) as folder:
        require_same(tokenizer.write_bpe(config.source, folder), read_vocabulary(config.source))
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
    logger.info("wrote %s; to train it: %s", config.output, _flags(args, config.output))
    return config.output / "model.pt"


_MEND = "Give a folder with a RoBERTa, such as roberta-large, its tokenizer included"


def _settings(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    try:
        found = strict_json.read(path)
    except FileNotFoundError:
        raise DataError(f"{path}: missing", mend=_MEND) from None
    except ValueError:
        found = None
    if type(found) is not dict:
        raise DataError(f"{path}: damaged", mend="Fetch the model again")
    # What transformers assume where a file does not say.
    given = {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "position_embedding_type": "absolute",
        "is_decoder": False,
        **found,
    }
    wanted = {
        "model_type": "roberta",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "position_embedding_type": "absolute",
        "is_decoder": False,
    }
    for name, value in wanted.items():
        if given.get(name) != value:
            raise DataError(
                f"{path}: {name} is {given.get(name)!r}, which fairseq's RoBERTa does not compute;"
                f" it has {value!r}",
                mend=_MEND,
            )
    return given


def _number(settings: dict[str, Any], name: str, source: Path) -> int:
    value = settings.get(name)
    if type(value) is not int or value < 1:
        raise DataError(f"{source / 'config.json'}: {name} is {value!r}", mend=_MEND)
    return value


def _tensors(source: Path) -> dict[str, Any]:
    """The weights; a pickle is read by torch's weights-only unpickler or not at all."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = source / SAFETENSORS
    try:
        if path.is_file():
            return load_file(path)
        path = source / PICKLE
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not all(torch.is_tensor(t) for t in found.values()):
            raise DataError(f"{path}: holds no weights", mend=_MEND)
        return found
    except FileNotFoundError:
        raise DataError(
            f"{source}: holds neither {SAFETENSORS} nor {PICKLE} in one piece", mend=_MEND
        ) from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(
            f"{path}: damaged, or not safe to read", mend=f"Fetch it again, best as {SAFETENSORS}"
        ) from error


def _arguments(
    settings: dict[str, Any], state: dict[str, Any], source: Path, *, answers: bool
) -> argparse.Namespace:
    """fairseq's arguments for the model, and for a model that answers, for the task."""
    width, inner, heads = (
        _number(settings, name, source)
        for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    positions = len(state[weights.ENCODER + "embed_positions.weight"]) - 2
    layers = _number(settings, "num_hidden_layers", source)
    shapes = {
        "embed_tokens.weight": (len(state[weights.ENCODER + "embed_tokens.weight"]), width),
        "embed_positions.weight": (positions + 2, width),
        "layers.0.fc1.weight": (inner, width),
        "layers.0.self_attn.q_proj.weight": (width, width),
    }
    for name, shape in shapes.items():
        if state[weights.ENCODER + name].shape != shape or width % heads:
            raise DataError(f"{source}: the weights do not fit config.json", mend=_MEND)
    large = (layers, width, inner, heads) == (24, 1024, 4096, 16)
    args: dict[str, Any] = {
        "arch": "roberta_large" if large else "roberta_base",
        "task": "masked_lm",
        "criterion": "masked_lm",
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": inner,
        "encoder_attention_heads": heads,
        "max_positions": positions,
        "tokens_per_sample": positions,
        "dropout": float(settings.get("hidden_dropout_prob", 0.1)),
        "attention_dropout": float(settings.get("attention_probs_dropout_prob", 0.1)),
    }
    if answers:
        task = settings.get("sentence_ranking")
        given = task if isinstance(task, dict) else {}
        args |= {
            "task": "sentence_ranking",
            "criterion": "sentence_ranking",
            "ranking_head_name": "sentence_classification_head",
            "data": "",
            "dataset_impl": None,
            "no_shuffle": False,
            "shorten_method": "truncate",
            "shorten_data_split_list": "",
            "seed": 1,
            **{name: int(given.get(name, value)) for name, value in TASK_SETTINGS.items()},
        }
    return argparse.Namespace(**args)


def _flags(args: argparse.Namespace, output: Path) -> str:
    """What the train step has to be told of the model."""
    flags = f"--pretrained {output} --arch {args.arch}"
    base = {"layers": 12, "embed-dim": 768, "ffn-embed-dim": 3072, "attention-heads": 12}
    shape = {name: getattr(args, f"encoder_{name.replace('-', '_')}") for name in base}
    if args.arch == "roberta_base" and shape != base:
        flags += "".join(f" --encoder-{name} {size}" for name, size in shape.items())
    if args.max_positions != 512:
        flags += f" --max-positions {args.max_positions}"
    return flags
