"""What is believed of a checkpoint: tensors that are in it, and a few settings of right types."""

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.common.errors import ConfigError, DataError
from components.train import checkpoints, roberta
from components.train.roberta import ENCODER, HEAD, HEADS, LANGUAGE, Shape

SHAPE = Shape(2, 32, 64, attention_heads=4, positions=62, vocabulary=100)
MODEL = {"encoder_layers": 2, "encoder_attention_heads": 4, "dropout": 0.1}
TASK = {
    "num_classes": 4,
    "init_token": 0,
    "separator_token": 2,
    "max_option_length": 16,
    "max_positions": 62,
    "shorten_method": "truncate",
}
State = dict[str, Any]


def good() -> State:
    """What a checkpoint of today holds."""
    sizes = dict(roberta.encoder_sizes(SHAPE)) | dict(roberta.head_sizes(SHAPE))
    model = {name: torch.randn(size) for name, size in sizes.items()}
    return {"model": model, "cfg": {"model": dict(MODEL), "task": argparse.Namespace(**TASK)}}


def read(
    state: State, folder: Path, *, ranks: bool = True, layers: int = 0
) -> tuple[roberta.Roberta, roberta.TaskSettings]:
    torch.save(state, path := folder / "model.pt")
    return understood(checkpoints.load(path), path, ranks=ranks, layers=layers)


def understood(
    state: State, path: Path, *, ranks: bool = True, layers: int = 0
) -> tuple[roberta.Roberta, roberta.TaskSettings]:
    found = roberta.roberta_of(state, path, ranks=ranks, layers=layers)
    return found, roberta.task_of(state, found.shape, path)


def test_sizes_tensors_and_settings_are_read(tmp_path: Path) -> None:
    state = good()
    found, task = read(state, tmp_path)
    assert found.shape == SHAPE
    assert dataclasses.asdict(task) == TASK | {"seed": 1}
    for name, tensor in state["model"].items():
        assert torch.equal(found.tensors[name], tensor), name
    assert all(not found.tensors[name].any() for name, _ in roberta.language_sizes(SHAPE))


def test_the_published_format_has_the_tensors_that_fairseq_makes_of_it(tiny_race: Any) -> None:
    from fairseq.data import Dictionary
    from fairseq.models.roberta import RobertaModel

    state = checkpoints.load(tiny_race.pretrained)
    found = roberta.roberta_of(state, tiny_race.pretrained, ranks=False)
    dictionary = Dictionary.load(str(tiny_race.data / "input0/dict.txt"))
    dictionary.add_symbol("<mask>")
    task = argparse.Namespace(source_dictionary=dictionary)
    theirs = RobertaModel.build_model(state["args"], task)
    theirs.load_state_dict(state["model"], strict=True)
    for name, tensor in theirs.state_dict().items():
        if name in found.tensors:
            assert torch.equal(found.tensors[name], tensor), name
    assert len(found.tensors) > 40
    assert found.shape == Shape(2, 32, 64, attention_heads=4, positions=64, vocabulary=65)


def in_args(state: State) -> State:
    values = {**state["cfg"]["model"], **vars(state["cfg"]["task"])}
    return {"model": state["model"], "args": argparse.Namespace(**values)}


NASTY: list[Any] = [
    *("[2]", 4.5, math.nan, math.inf, 10**5000, -7, True),
    *([4], [[[[]]]], {"a": 1}, torch.ones(2), argparse.Namespace()),
]


@pytest.mark.parametrize("old", [False, True], ids=["cfg", "args"])
@pytest.mark.parametrize(
    "name",
    [
        *("encoder_attention_heads", "encoder_layers", "dropout", "attention_dropout"),
        *("activation_fn", "encoder_normalize_before", "encoder_layerdrop", "quant_noise_pq"),
        *("encoder_layers_to_keep", *TASK, "seed"),
    ],
)
def test_a_setting_of_another_type_or_range_is_refused(
    tmp_path: Path, name: str, old: bool
) -> None:
    state = good()
    torch.save(state, path := tmp_path / "model.pt")
    part = vars(state["cfg"]["task"]) if name in TASK or name == "seed" else state["cfg"]["model"]
    for value in NASTY:
        part[name] = value
        with pytest.raises(DataError, match=f"{name} is ") as error:
            understood(in_args(state) if old else state, path)
        assert len(str(error.value)) < 400


@pytest.mark.parametrize("value", [5, [1], "x", {"model": 3, "task": {}}, {"model": {}, "task": 3}])
@pytest.mark.parametrize("key", ["args", "cfg"])
def test_settings_that_are_none_are_refused(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(DataError, match=r"its settings|is missing|give no attention heads"):
        read({"model": good()["model"], key: value}, tmp_path)


def test_heads_are_those_of_the_settings_or_of_a_published_size(tmp_path: Path) -> None:
    state = good()
    state["cfg"]["model"]["encoder_attention_heads"] = 5
    with pytest.raises(DataError, match="give 5 attention heads for layers that are 32 wide"):
        read(state, tmp_path)
    del state["cfg"]["model"]["encoder_attention_heads"]
    with pytest.raises(DataError, match="give no attention heads"):
        read(state, tmp_path)
    assert read(state, tmp_path, ranks=False)[0].shape.attention_heads == 0
    base = dataclasses.replace(roberta.ARCHITECTURES["roberta_base"], attention_heads=0)
    assert roberta._known_heads(base) == 12


@pytest.mark.parametrize("name", ["num_classes", "init_token", "separator_token"])
def test_a_setting_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    state = good()
    delattr(state["cfg"]["task"], name)
    with pytest.raises(DataError, match=f"cfg: task: {name} is missing"):
        read(state, tmp_path)


def test_settings_that_nobody_needs_are_ignored(tmp_path: Path) -> None:
    state = good()
    nasty = {"user_dir": "/x", "data": [], "bpe": {}, "arch": "fconv", "lr": "eval", "_name": 3}
    state["cfg"] |= {"common": nasty, "optimizer": 1}
    state["cfg"]["model"] |= nasty
    assert read(state, tmp_path)[0].shape == SHAPE


NORM = ENCODER + "layers.1.final_layer_norm.bias"
WORDS = ENCODER + "embed_tokens.weight"


def without(*starts: str) -> Callable[[State], object]:
    def change(model: State) -> None:
        for name in [name for name in model if name.startswith(starts)]:
            del model[name]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(NORM), f"has no {NORM}"),
        (without(ENCODER + "layers.1."), r"has no encoder\.sentence_encoder\.layers\.1\.self_attn"),
        (without(ENCODER + "layers.0."), r"no matrix .*layers\.0\.fc1\.weight"),
        (without(WORDS), "not a fairseq RoBERTa: no matrix"),
        (lambda m: m.update({NORM: torch.ones(33)}), r"bias is \(33,\), not \(32,\)"),
        (lambda m: m.update({NORM: torch.ones(32).int()}), "is no tensor of numbers"),
        (lambda m: m.update({NORM: torch.ones(32, device="meta")}), "is no tensor of numbers"),
        (lambda m: m.update({NORM: torch.ones(32).to_sparse()}), "is no tensor of numbers"),
        (lambda m: m.update({NORM: [1.0] * 32}), "is no tensor of numbers"),
        (lambda m: m.update({10**500: NORM}), "a number of 1661 bits is no tensor"),
        (lambda m: m.update({"encoder.pooler.weight": torch.ones(1)}), r"such as encoder\.pooler"),
        (lambda m: m.update({WORDS.replace("en", "de", 1): m[WORDS]}), "embed_tokens.weight twice"),
        (lambda m: m.update({LANGUAGE + "bias": torch.ones(3)}), r"lm_head.bias is \(3,\)"),
        (without(f"{HEADS}{HEAD}.dense.bias"), "has no classification_heads"),
        (without(HEADS), r"no head that ranks options \(none at all\)"),
        (
            lambda m: m.update({f"{HEADS}{HEAD}.out_proj.weight": torch.ones(3, 32)}),
            "has 3 outputs, not 1",
        ),
        (
            lambda m: m.update({f"{HEADS}b.out_proj.weight": torch.ones(1, 32)}),
            f"several heads could rank: b, {HEAD}",
        ),
        # A matrix of 100 GB from a number, and a thousand layers from one.
        (
            lambda m: m.update({WORDS: torch.ones(1).expand(1 << 30, 32)}),
            "but the model in it claims 13",
        ),
        (
            lambda m: [
                m.update({n.replace("layers.1.", f"layers.{i}."): t})
                for n, t in list(m.items())
                for i in range(2, 300)
                if "layers.1." in n
            ],
            "such as encoder.sentence_encoder.layers.10",
        ),
    ],
)
def test_tensors_that_make_no_whole_model_are_refused(
    tmp_path: Path, change: Callable[[State], object], message: str
) -> None:
    state = good()
    change(state["model"])
    with pytest.raises(DataError, match=message):
        read(state, tmp_path)


def test_one_layer_for_many_takes_no_memory(tmp_path: Path) -> None:
    state = good()
    for name, tensor in list(state["model"].items()):
        for place in range(2, 300):
            state["model"][name.replace("layers.1.", f"layers.{place}.")] = tensor
    del state["cfg"]["model"]["encoder_layers"]
    with pytest.raises(DataError, match="but the model in it claims"):
        read(state, tmp_path)


def test_the_only_head_that_ranks_is_found_whatever_its_name(tmp_path: Path) -> None:
    state = good()
    given = dict(state["model"])
    for name in list(given):
        if name.startswith(HEADS):
            state["model"][name.replace(HEAD, "race")] = state["model"].pop(name)
    state["model"] |= {f"{HEADS}mnli.out_proj.weight": torch.ones(3, 32)}
    found, _ = read(state, tmp_path)
    for name, tensor in given.items():
        assert torch.equal(found.tensors[name], tensor), name
    assert not any("mnli" in name for name in found.tensors)


def test_layers_that_are_wanted_and_not_there_are_named(tmp_path: Path) -> None:
    """Where no settings say how many there are."""
    state = {"model": good()["model"]}
    path = tmp_path / "model.pt"
    torch.save(state, path)
    with pytest.raises(DataError, match=r"has no encoder\.sentence_encoder\.layers\.2\."):
        roberta.roberta_of(state, path, ranks=False, layers=3)
    assert roberta.roberta_of(state, path, ranks=False).shape.layers == 2


def test_a_shape_that_differs_is_refused_with_every_parameter_to_change() -> None:
    wanted = Shape(12, 32, 64, attention_heads=8, positions=512, vocabulary=100)
    with pytest.raises(ConfigError) as error:
        roberta.require_same_shape(SHAPE, wanted, Path("model.pt"))
    assert "encoder_layers is 12, the checkpoint has 2" in str(error.value)
    assert "encoder_attention_heads is 8, the checkpoint has 4" in str(error.value)
    assert "max_positions is 512, the checkpoint has 62" in str(error.value)
    assert "embed_dim" not in error.value.what


def test_all_that_is_read_of_the_settings_is_written_down() -> None:
    text = (Path(__file__).parents[3] / "SECURITY.md").read_text()
    names = {*roberta.COMPUTED, *MODEL, *TASK, "attention_dropout", "seed"}
    assert [name for name in names if f"`{name}`" not in text] == []
