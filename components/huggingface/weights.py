"""A RoBERTa's tensors by fairseq's names and by those of Hugging Face's transformers.

fairseq: models/roberta/model.py and modules/transformer_layer.py. transformers:
models/roberta/modeling_roberta.py. Both count positions from the padding's index on and have the
same shapes, so that a tensor only changes its name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.errors import DataError
from components.train import roberta
from components.train.roberta import ENCODER, HEADS, LANGUAGE

_HINT = "Give a folder with a RoBERTa, such as roberta-large, its tokenizer included"
_LARGEST = 65504.0  # of fp16, in which RoBERTa was trained

HEAD = f"{HEADS}{roberta.HEAD}."

_LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}

WORDS = "roberta.embeddings.word_embeddings.weight"
POSITIONS = "roberta.embeddings.position_embeddings.weight"
TYPES = "roberta.embeddings.token_type_embeddings.weight"


def _with_bias(modules: Mapping[str, str]) -> dict[str, str]:
    """The two tensors of each module."""
    kinds = ("weight", "bias")
    return {f"{ours}.{k}": f"{theirs}.{k}" for ours, theirs in modules.items() for k in kinds}


# Of the head that ranks options: in transformers its first half is the encoder's pooler.
HEAD_NAMES = _with_bias({HEAD + "dense": "roberta.pooler.dense", HEAD + "out_proj": "classifier"})

# Of the head of the masked language model, whose matrix is that of the tokens.
LANGUAGE_NAMES = _with_bias(
    {LANGUAGE + "dense": "lm_head.dense", LANGUAGE + "layer_norm": "lm_head.layer_norm"}
) | {LANGUAGE + "bias": "lm_head.bias"}

# Of transformers' tensors those that hold nothing of their own.
_EMPTY = {
    "roberta.embeddings.position_ids",
    "roberta.embeddings.token_type_ids",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
}


def encoder_names(layers: int) -> dict[str, str]:
    """transformers' name for each of fairseq's tensors of an encoder."""
    modules = {ENCODER + "layernorm_embedding": "roberta.embeddings.LayerNorm"} | {
        f"{ENCODER}layers.{layer}.{ours}": f"roberta.encoder.layer.{layer}.{theirs}"
        for layer in range(layers)
        for ours, theirs in _LAYER.items()
    }
    return {
        ENCODER + "embed_tokens.weight": WORDS,
        ENCODER + "embed_positions.weight": POSITIONS,
        **_with_bias(modules),
    }


def to_multiple_choice(state: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The state dict of transformers' RobertaForMultipleChoice for fairseq's with a ranking head.

    Raises:
        KeyError: a tensor is missing.
    """
    names = encoder_names(layers) | HEAD_NAMES
    tensors = {theirs: state[ours] for ours, theirs in names.items()}
    # fairseq's RoBERTa has no types of tokens.
    tensors[TYPES] = tensors[WORDS].new_zeros(1, tensors[WORDS].shape[1])
    return tensors


def with_prefix(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors named as in a model with a head, also those of a bare RobertaModel."""
    if any(name.startswith("roberta.") for name in tensors):
        return tensors
    return {f"roberta.{name}": tensor for name, tensor in tensors.items()}


def from_huggingface(
    tensors: Mapping[str, Any], layers: int, path: Path
) -> tuple[dict[str, Any], list[str]]:
    """Tensors of transformers' RoBERTa, with or without a head on it, by fairseq's names.

    The head of RobertaForMultipleChoice becomes the head that ranks.

    Args:
        tensors: as `with_prefix` gives them.

    Returns:
        The tensors, and the names of those of other heads, which are left out.

    Raises:
        DataError: a tensor is missing, or one too many in the encoder.
    """
    names = encoder_names(layers)
    if "lm_head.bias" in tensors:
        names |= LANGUAGE_NAMES
    if is_multiple_choice(tensors):
        names |= HEAD_NAMES
    if missing := [name for name in names.values() if name not in tensors]:
        raise DataError(f"{path}: the weights have no {missing[0]}", hint=_HINT)
    unused = sorted(tensors.keys() - {*names.values(), *LANGUAGE_NAMES.values(), TYPES, *_EMPTY})
    own = [name for name in unused if name.startswith("roberta.") and ".pooler." not in name]
    if own:
        raise DataError(
            f"{path}: config.json leaves no place for {len(own)} tensors, such as {own[0]}",
            hint=_HINT,
        )
    return {ours: tensors[theirs] for ours, theirs in names.items()}, unused


def with_types(positions: Any, tensors: Mapping[str, Any], path: Path) -> Any:
    """The embedding of positions with that of the types of tokens added, which fairseq lacks.

    All tokens are of the first type, and all have a position.

    Raises:
        DataError: the types do not have the width of the model.
    """
    types = tensors.get(TYPES)
    if types is None:
        return positions
    if not roberta.is_plain(types) or types[:1].shape != (1, positions.shape[1]):
        raise DataError(f"{path}: {TYPES} does not fit the model", hint=_HINT)
    return positions + types[0].float()


def is_multiple_choice(tensors: Mapping[str, Any]) -> bool:
    """Whether there is a head that gives each sequence one score."""
    classifier = tensors.get("classifier.weight")
    if classifier is None or "roberta.pooler.dense.weight" not in tensors:
        return False
    return classifier.dim() > 0 and len(classifier) == 1


def require_numbers(tensors: Mapping[str, Any], path: Path) -> None:
    """Refuse weights that no training makes, before another program computes with them.

    Raises:
        DataError: NaN, infinity or more than fp16 can hold; names the first such tensor.
    """
    for name, tensor in tensors.items():
        largest = float(tensor.float().abs().max()) if tensor.numel() else 0.0  # nan wins
        if not largest <= _LARGEST:
            raise DataError(
                f"{path}: {name} holds {largest:g}, which is not a weight",
                hint="It is damaged, or its training diverged: use another",
            )
