"""A RoBERTa's tensors by fairseq's names and by those of Hugging Face's transformers.

fairseq: models/roberta/model.py and modules/transformer_layer.py. transformers:
models/roberta/modeling_roberta.py. Both count positions from the padding's index on and have the
same shapes, so that a tensor only changes its name.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.common.errors import DataError

_LARGEST = 65504.0  # of fp16, in which RoBERTa was trained

ENCODER = "encoder.sentence_encoder."
HEAD = "classification_heads.sentence_classification_head."

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


def encoder_names(layers: int) -> dict[str, str]:
    """transformers' name for each of fairseq's tensors of an encoder."""
    return {
        ENCODER + "embed_tokens.weight": WORDS,
        ENCODER + "embed_positions.weight": POSITIONS,
        **_with_bias(ENCODER + "layernorm_embedding", "roberta.embeddings.LayerNorm"),
        **{
            ours: theirs
            for layer in range(layers)
            for ours_part, theirs_part in _LAYER.items()
            for ours, theirs in _with_bias(
                f"{ENCODER}layers.{layer}.{ours_part}",
                f"roberta.encoder.layer.{layer}.{theirs_part}",
            ).items()
        },
    }


def head_names() -> dict[str, str]:
    """Of the head that ranks options: in transformers its first half is the encoder's pooler."""
    return {
        **_with_bias(HEAD + "dense", "roberta.pooler.dense"),
        **_with_bias(HEAD + "out_proj", "classifier"),
    }


def language_names() -> dict[str, str]:
    """Of the head of the masked language model, whose matrix is that of the tokens."""
    return {
        **_with_bias("encoder.lm_head.dense", "lm_head.dense"),
        **_with_bias("encoder.lm_head.layer_norm", "lm_head.layer_norm"),
        "encoder.lm_head.bias": "lm_head.bias",
    }


def _with_bias(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}


def to_multiple_choice(state: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The state dict of transformers' RobertaForMultipleChoice for fairseq's with a ranking head.

    Raises:
        KeyError: a tensor is missing.
    """
    names = encoder_names(layers) | head_names()
    tensors = {theirs: state[ours] for ours, theirs in names.items()}
    # fairseq's RoBERTa has no types of tokens.
    tensors[TYPES] = tensors[WORDS].new_zeros(1, tensors[WORDS].shape[1])
    return tensors


def from_huggingface(tensors: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """fairseq's state dict for that of transformers' RoBERTa, with or without a head on it.

    The head of RobertaForMultipleChoice becomes the head that ranks. Where there is no language
    model's head, which takes no part in ranking but fairseq wants, it has no effect: all zeros.

    Raises:
        KeyError: a tensor is missing; with its name in transformers.
    """
    import torch

    if not any(name.startswith("roberta.") for name in tensors):  # a bare RobertaModel
        tensors = {f"roberta.{name}": tensor for name, tensor in tensors.items()}
    names = encoder_names(layers)
    language, head = language_names(), head_names()
    if "lm_head.bias" in tensors:
        names |= language
    if is_multiple_choice(tensors):
        names |= head
    state = {ours: tensors[theirs].float() for ours, theirs in names.items()}
    width = state[ENCODER + "embed_tokens.weight"].shape[1]
    for name in language.keys() - names.keys():
        shape: tuple[int, ...] = (width,)
        if name == "encoder.lm_head.dense.weight":
            shape = (width, width)
        elif name == "encoder.lm_head.bias":
            shape = (len(state[ENCODER + "embed_tokens.weight"]),)
        state[name] = torch.zeros(shape)
    if TYPES in tensors:
        # All tokens are of the first type, and all have a position.
        state[ENCODER + "embed_positions.weight"] = (
            state[ENCODER + "embed_positions.weight"] + tensors[TYPES][0].float()
        )
    state["encoder.lm_head.weight"] = state[ENCODER + "embed_tokens.weight"]
    state[ENCODER + "version"] = torch.tensor([3.0])
    return state


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
                mend="It is damaged, or its training diverged: use another",
            )


def is_multiple_choice(tensors: Mapping[str, Any]) -> bool:
    """Whether there is a head that gives each sequence one score."""
    classifier = tensors.get("classifier.weight")
    return classifier is not None and len(classifier) == 1 and _has_pooler(tensors)


def _has_pooler(tensors: Mapping[str, Any]) -> bool:
    return "roberta.pooler.dense.weight" in tensors


def left_out(tensors: Mapping[str, Any], layers: int) -> Iterator[str]:
    """Names of tensors that `from_huggingface` has no use for."""
    used = set(encoder_names(layers).values()) | set(language_names().values())
    used |= {TYPES, "roberta.embeddings.position_ids", "lm_head.decoder.weight"}
    used |= {"lm_head.decoder.bias"}
    if is_multiple_choice(tensors):
        used |= set(head_names().values())
    bare = not any(name.startswith("roberta.") for name in tensors)
    yield from (name for name in tensors if (f"roberta.{name}" if bare else name) not in used)
