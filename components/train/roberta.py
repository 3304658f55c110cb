"""A RoBERTa as a checkpoint holds it, of which nothing is believed that was not checked.

A checkpoint's own settings never reach fairseq, which evaluates some of them as code, and builds
what they say. Sizes come from the tensors that are in the file. What the tensors do not tell, and
the answers depend on, is read from the settings one by one, by name, type and range; everything
else in them is ignored. The formats are those of fairseq (models/roberta/model.py) since 2019.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.dataset import LETTERS
from components.common.errors import ConfigError, DataError
from components.common.settings import Settings, shown

ENCODER = "encoder.sentence_encoder."
LANGUAGE = "encoder.lm_head."
HEADS = "classification_heads."
HEAD = "sentence_classification_head"  # the one that ranks, as fairseq's task names it

_HINT = "Give a checkpoint that train wrote, or one such as roberta.large's model.pt"


@dataclass(frozen=True)
class Shape:
    """The size of a RoBERTa encoder; 0 where it is not known."""

    layers: int
    embed_dim: int
    ffn_embed_dim: int
    attention_heads: int
    positions: int = 0  # the most tokens of a sequence
    vocabulary: int = 0  # rows of the embedding


# fairseq/models/roberta/model.py, roberta_base_architecture and roberta_large_architecture
ARCHITECTURES = {
    "roberta_base": Shape(layers=12, embed_dim=768, ffn_embed_dim=3072, attention_heads=12),
    "roberta_large": Shape(layers=24, embed_dim=1024, ffn_embed_dim=4096, attention_heads=16),
}

# Settings that change what a model computes and not its tensors, with the only values computed.
COMPUTED: dict[str, Any] = {
    "activation_fn": "gelu",
    "pooler_activation_fn": "tanh",
    "encoder_normalize_before": False,
    "layernorm_embedding": True,
    "no_scale_embedding": True,
    "encoder_learned_pos": True,
    "no_token_positional_embeddings": False,
    "adaptive_input": False,
    "untie_weights_roberta": False,
    "encoder_layerdrop": 0,
    "encoder_layers_to_keep": None,
    "quant_noise_pq": 0,
    "quant_noise_scalar": 0,
    "spectral_norm_classification_head": False,
    "mha_heads_to_keep": -1,
    "ffn_blocks_to_remove": -1,
}


@dataclass(frozen=True)
class Roberta:
    """A model, checked.

    Args:
        shape: of its encoder; `attention_heads` is 0 where the settings do not say.
        tensors: by fairseq's names of today, the ranking head as HEAD, if there is one. Those of
            the language model's head, which takes no part in ranking, are zeros where the file has
            none.
        dropout: as it was trained; for those who train it further.
        attention_dropout: likewise.
    """

    shape: Shape
    tensors: dict[str, Any]
    dropout: float
    attention_dropout: float


@dataclass(frozen=True)
class TaskSettings:
    """How text becomes what a model reads, by the names of fairseq-train's arguments."""

    num_classes: int
    init_token: int | None
    separator_token: int | None
    max_option_length: int | None
    max_positions: int
    shorten_method: str
    seed: int  # of the order, and of random crops


def roberta_of(state: Mapping[str, Any], path: Path, *, ranks: bool, layers: int = 0) -> Roberta:
    """The model in the content of a checkpoint.

    Args:
        path: the file, which must be as large as the tensors in it.
        ranks: whether the model is to answer as it is: it must have a ranking head then, and its
            number of attention heads must be known.
        layers: how many are wanted, where the settings do not say; 0 is as many as there are.

    Raises:
        DataError: the model is no RoBERTa, a tensor is missing or one too many, or has another
            shape or type, the settings say that something else is computed, there are several
            ranking heads, or what `ranks` wants is not there.
    """
    settings = _settings(state, "model", path)
    for name, value in COMPUTED.items():
        settings.require(name, value)
    named = dict(_by_todays_names(state["model"], path))
    head = _ranking_head(named, path, wanted=ranks)
    found = {
        name.replace(f"{HEADS}{head}.", f"{HEADS}{HEAD}."): tensor
        for name, tensor in named.items()
        if not name.startswith(HEADS) or (head and name.startswith(f"{HEADS}{head}."))
    }
    layers = settings.whole("encoder_layers", 1, len(found), default=layers)
    shape = _shape(found, layers, path)
    _require_tensors(found, shape, bool(head), path)
    heads = settings.whole("encoder_attention_heads", 1, shape.embed_dim, default=0)
    heads = heads or _known_heads(shape)
    if (heads and shape.embed_dim % heads) or (ranks and not heads):
        raise DataError(
            f"{path}: its settings give {heads or 'no'} attention heads for layers that are"
            f" {shape.embed_dim} wide",
            hint=_HINT,
        )
    return Roberta(
        dataclasses.replace(shape, attention_heads=heads),
        _completed(found, shape),
        settings.share("dropout", 0.1),
        settings.share("attention_dropout", 0.1),
    )


def task_of(state: Mapping[str, Any], shape: Shape, path: Path) -> TaskSettings:
    """The task's settings in the content of a checkpoint.

    Raises:
        DataError: one is missing, of another type, or out of its range.
    """
    return task_settings(_settings(state, "task", path), shape)


def task_settings(settings: Settings, shape: Shape) -> TaskSettings:
    """The same from settings anywhere, for a model of this size."""
    return TaskSettings(
        num_classes=settings.whole("num_classes", 1, len(LETTERS)),
        init_token=settings.whole_or_none("init_token", 0, shape.vocabulary - 1),
        separator_token=settings.whole_or_none("separator_token", 0, shape.vocabulary - 1),
        max_option_length=settings.whole_or_none("max_option_length", 1, (1 << 31) - 1),
        max_positions=settings.whole("max_positions", 1, shape.positions, shape.positions),
        shorten_method=settings.choice(
            "shorten_method", ("truncate", "random_crop", "none"), "truncate"
        ),
        seed=settings.whole("seed", 0, (1 << 32) - 1, 1),
    )


def _settings(state: Mapping[str, Any], part: str, path: Path) -> Settings:
    """The settings of the model or the task: in `args` of old checkpoints, else in `cfg`."""
    if state.get("args") is not None:
        return Settings(state["args"], f"{path}: args", _HINT)
    return Settings(state.get("cfg"), f"{path}: cfg", _HINT).below(part)


def _by_todays_names(model: Mapping[Any, Any], path: Path) -> Iterator[tuple[str, Any]]:
    """The tensors by the names that fairseq gives them today, without those that nobody reads."""
    seen: set[str] = set()
    for old, tensor in model.items():
        if type(old) is not str or not is_plain(tensor):
            raise DataError(f"{path}: the model's {shown(old)} is no tensor of numbers", hint=_HINT)
        name = re.sub(r"^decoder\.", "encoder.", old)
        name = name.replace(".emb_layer_norm.", ".layernorm_embedding.")
        if UNUSED.fullmatch(name):
            continue
        # Until 2019 query, key and value were one.
        joint = re.fullmatch(r"(.*\.self_attn\.)in_proj_(weight|bias)", name)
        parts = {name: tensor}
        if joint and tensor.dim():
            thirds = zip("qkv", tensor.tensor_split(3), strict=True)
            parts = {f"{joint[1]}{which}_proj.{joint[2]}": third for which, third in thirds}
        for part, value in parts.items():
            if part in seen:
                raise DataError(f"{path}: the model in it has {part} twice", hint=_HINT)
            seen.add(part)
            yield part, value.detach()


# fairseq registers copies of a layer's parameters for its fast inference, which nobody reads; and
# the language model's matrix is that of the tokens.
UNUSED = re.compile(
    re.escape(ENCODER)
    + r"(version|layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias))|"
    + re.escape(LANGUAGE)
    + "weight"
)


def is_plain(value: Any) -> bool:
    """Whether this is a tensor of numbers that lie one by one in memory."""
    import torch

    return (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout == torch.strided
        and not value.is_nested
        and value.device.type == "cpu"
        and value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    )


def _ranking_head(named: Mapping[str, Any], path: Path, *, wanted: bool) -> str:
    """The name of the only head that gives a sequence one score; "" if there is none."""
    found = {}
    for name, tensor in named.items():
        match = re.fullmatch(re.escape(HEADS) + r"([^.]+)\.out_proj\.weight", name)
        if match:
            found[match[1]] = len(tensor) if tensor.dim() else 0
    ranking = sorted(name for name, outputs in found.items() if outputs == 1)
    if len(ranking) > 1:
        raise DataError(
            f"{path}: several heads could rank: {', '.join(ranking[:4])}",
            hint="Leave the one in that is meant",
        )
    if wanted and not ranking:
        others = [f"{name} has {outputs} outputs, not 1" for name, outputs in found.items()]
        raise DataError(
            f"{path}: has no head that ranks options ({', '.join(others[:4]) or 'none at all'})",
            hint="Give a checkpoint that train wrote",
        )
    return ranking[0] if ranking else ""


def _shape(found: Mapping[str, Any], layers: int, path: Path) -> Shape:
    """The size that the tensors tell; the number of attention heads they do not.

    Args:
        layers: 0 is as many as there are.
    """
    sizes = []
    # Position embeddings start after the padding index, 1: two rows are never used.
    for name, least in (("embed_tokens", 1), ("embed_positions", 3), ("layers.0.fc1", 1)):
        tensor = found.get(f"{ENCODER}{name}.weight")
        if tensor is None or tensor.dim() != 2 or len(tensor) < least:
            raise DataError(
                f"{path}: the model in it is not a fairseq RoBERTa: no matrix"
                f" {ENCODER}{name}.weight",
                hint="Give a checkpoint such as roberta.large's model.pt",
            )
        sizes.append(len(tensor))
    vocabulary, positions, ffn_embed_dim = sizes
    if not layers:
        stem = ENCODER + "layers."
        numbers = {n.removeprefix(stem).partition(".")[0] for n in found if n.startswith(stem)}
        layers = len(numbers)
    embed_dim = found[ENCODER + "embed_tokens.weight"].shape[1]
    return Shape(layers, embed_dim, ffn_embed_dim, 0, positions - 2, vocabulary)


def encoder_sizes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """fairseq's name and the size of each tensor of an encoder."""
    width, inner = shape.embed_dim, shape.ffn_embed_dim
    yield ENCODER + "embed_tokens.weight", (shape.vocabulary, width)
    yield ENCODER + "embed_positions.weight", (shape.positions + 2, width)
    yield from _with_bias(ENCODER + "layernorm_embedding", width)
    for layer in range(shape.layers):
        prefix = f"{ENCODER}layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _with_bias(f"{prefix}self_attn.{name}", width, width)
        yield from _with_bias(prefix + "self_attn_layer_norm", width)
        yield from _with_bias(prefix + "fc1", inner, width)
        yield from _with_bias(prefix + "fc2", width, inner)
        yield from _with_bias(prefix + "final_layer_norm", width)


def head_sizes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Likewise of the head that ranks."""
    yield from _with_bias(f"{HEADS}{HEAD}.dense", shape.embed_dim, shape.embed_dim)
    yield from _with_bias(f"{HEADS}{HEAD}.out_proj", 1, shape.embed_dim)


def language_sizes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Likewise of the language model's head, but for the matrix that it has of the tokens."""
    yield from _with_bias(LANGUAGE + "dense", shape.embed_dim, shape.embed_dim)
    yield from _with_bias(LANGUAGE + "layer_norm", shape.embed_dim)
    yield LANGUAGE + "bias", (shape.vocabulary,)


def _with_bias(name: str, *size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", size
    yield f"{name}.bias", size[:1]


def _require_tensors(found: Mapping[str, Any], shape: Shape, head: bool, path: Path) -> None:
    """Refuse a model in which a tensor is missing, one too many, or of another size."""
    needed = dict(encoder_sizes(shape)) | (dict(head_sizes(shape)) if head else {})
    wanted = needed | dict(language_sizes(shape))
    bytes_ = 0
    for name, size in wanted.items():
        if name not in found:
            if name in needed:
                raise DataError(f"{path}: the model in it has no {name}", hint=_HINT)
            continue
        if tuple(found[name].shape) != size:
            raise DataError(f"{path}: {name} is {tuple(found[name].shape)}, not {size}", hint=_HINT)
        bytes_ += found[name].numel() * found[name].element_size()
    if unknown := sorted(found.keys() - wanted.keys()):
        raise DataError(
            f"{path}: the model in it has {len(unknown)} tensors that a RoBERTa has not, such as"
            f" {unknown[0][:80]}",
            hint=_HINT,
        )
    # One tensor may stand for many in a file, or a number for a matrix.
    if bytes_ > (held := path.stat().st_size):
        raise DataError(
            f"{path}: has {held} bytes, but the model in it claims {bytes_}", hint=_HINT
        )


def _known_heads(shape: Shape) -> int:
    """The attention heads of the published architecture that has this size, else 0."""
    size = (shape.layers, shape.embed_dim, shape.ffn_embed_dim)
    published = {(s.layers, s.embed_dim, s.ffn_embed_dim): s for s in ARCHITECTURES.values()}
    return published[size].attention_heads if size in published else 0


def _completed(found: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The tensors with those that fairseq wants besides and no answer depends on."""
    import torch

    blank = {n: torch.zeros(s) for n, s in language_sizes(shape) if n not in found}
    return found | blank | tied(found)


def tied(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What fairseq's state dict has besides an encoder's tensors and those of its heads."""
    import torch

    return {
        LANGUAGE + "weight": tensors[ENCODER + "embed_tokens.weight"],
        ENCODER + "version": torch.tensor([3.0]),
    }


def differences(found: Shape, wanted: Shape) -> list[str]:
    """Each size that differs, with the parameter that sets it; what is not known does not."""
    parameters = {
        "layers": "encoder_layers",
        "embed_dim": "encoder_embed_dim",
        "ffn_embed_dim": "encoder_ffn_embed_dim",
        "attention_heads": "encoder_attention_heads",
        "positions": "max_positions",
        "vocabulary": "the dictionary of the data",
    }
    return [
        f"{parameter} is {getattr(wanted, size)}, the checkpoint has {getattr(found, size)}"
        for size, parameter in parameters.items()
        if getattr(found, size) and getattr(wanted, size) != getattr(found, size)
    ]


def require_same_shape(found: Shape, wanted: Shape, path: Path) -> None:
    """Refuse a pretrained model that does not fit the model to be trained.

    Raises:
        ConfigError: naming each size that differs, and the parameter that sets it.
    """
    if differing := differences(found, wanted):
        hint = "Set arch and the encoder_* parameters to the checkpoint's sizes"
        if len(differing) == 1 and found.vocabulary not in (0, wanted.vocabulary):
            hint = "Binarize with the dict.txt, encoder.json and vocab.bpe that belong to it"
        raise ConfigError(
            f"{path}: does not fit the model to train: {'; '.join(differing)}", hint=hint
        )


def require_vocabulary(found: int, wanted: int, path: Path) -> None:
    """Refuse a model that was trained with another dictionary than the data set's.

    Raises:
        DataError: the sizes differ.
    """
    if found != wanted:
        raise DataError(
            f"{path}: knows {found} tokens, but the dictionary of the data set has {wanted}",
            hint="Use a data set binarized with the dictionary that the model was trained with",
        )
