"""Parameters and profiles: names, types, and errors that help."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from components.common.errors import ConfigError
from pipeline.images import images
from pipeline.parameters import (
    load_profile,
    parameters,
    parse_assignments,
    profile_names,
    require_store,
    resolve,
)
from pipeline.pipeline import compiled


def test_each_field_of_training_is_a_parameter() -> None:
    from components.train.core import TrainConfig

    fields = {f.name for f in dataclasses.fields(TrainConfig)} - {"data", "pretrained", "output"}
    assert {name for name in parameters() if name.startswith("train_")} == {
        f"train_{name}" for name in fields
    }


def test_values_are_read_in_the_parameter_s_type() -> None:
    given = parse_assignments(
        [
            "train_epochs=3",
            "train_learning_rate=1e-4",
            "evaluate_min_accuracy=70",
            "train_save_optimizer=False",
            "train_arch=roberta_base",
            'cluster_gpu_node_selector={"pool": "a100"}',
            "cluster_gpu_tolerations=[]",
            "download_race_url=https://host/a?x=1&y=2",
        ]
    )
    assert given == {
        "train_epochs": 3,
        "train_learning_rate": 1e-4,
        "evaluate_min_accuracy": 70.0,
        "train_save_optimizer": False,
        "train_arch": "roberta_base",
        "cluster_gpu_node_selector": {"pool": "a100"},
        "cluster_gpu_tolerations": [],
        "download_race_url": "https://host/a?x=1&y=2",
    }
    assert type(given["evaluate_min_accuracy"]) is float


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("train_lr=1", "there is no parameter 'train_lr'"),
        ("train_lerning_rate=1", "Did you mean 'train_learning_rate'?"),
        ("learning_rate=1", "Did you mean 'train_learning_rate'?"),
        ("train_epochs=3.5", "train_epochs: expected a whole number, got 3.5"),
        ("train_epochs=true", "expected a whole number"),
        ("train_epochs=", "expected a whole number"),
        ("train_learning_rate=fast", "train_learning_rate: expected a number, got 'fast'"),
        ("train_save_optimizer=1", "expected true or false"),
        ("train_arch=gpt", "'gpt' is none of 'roberta_large', 'roberta_base'"),
        ("cluster_gpu_node_selector=pool", "expected a JSON object"),
        ("cluster_gpu_tolerations={}", "expected a JSON list"),
        ("train_epochs", "write it as -p name=value"),
    ],
)
def test_a_wrong_assignment_says_what_is_wrong(assignment: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_assignments([assignment])
    assert says.lower() in str(raised.value).lower()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("train_learning_rate", -1.0, "train: learning_rate"),
        ("evaluate_min_accuracy", 101.0, "evaluate: min_accuracy"),
        ("binarize_max_unknown", 2.0, "binarize: max_unknown"),
        ("download_race_url", "gopher://host/RACE.tar.gz", "download-race: "),
        ("download_dict_sha256", "abc", "download-bpe: 'abc' is not a sha256"),
    ],
)
def test_what_a_step_would_refuse_is_refused_at_once(name: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve(load_profile("smoke"), {name: value})
    assert str(raised.value).startswith(says)


@pytest.mark.parametrize("name", profile_names())
def test_the_profiles_hold_only_what_differs_from_the_defaults(name: str) -> None:
    profile = load_profile(name)
    assert profile.description
    resolve(profile, {})
    same = [n for n, value in profile.values.items() if value == parameters()[n].default]
    assert not same


def test_overrides_win_over_the_profile_and_the_profile_over_defaults() -> None:
    profile = load_profile("roberta-base")
    values = resolve(profile, {"train_learning_rate": 3e-5})
    assert values["train_learning_rate"] == 3e-5
    assert values["train_arch"] == "roberta_base"
    assert values["train_dropout"] == parameters()["train_dropout"].default


def test_roberta_large_trains_with_the_seed_s_settings() -> None:
    values = resolve(load_profile("roberta-large"), {})
    defaults = {n: p.default for n, p in parameters().items() if p.group == "train"}
    assert {n: values[n] for n in defaults} == defaults


def test_smoke_needs_no_gpu_and_has_a_gate_far_above_chance() -> None:
    values = resolve(load_profile("smoke"), {})
    assert values["train_precision"] == "fp32"
    assert values["evaluate_min_accuracy"] >= 60


def test_a_profile_may_be_any_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    # YAML itself takes 1e-4 for text.
    path.write_text("parameters: {train_epochs: 7, train_learning_rate: 1e-4}\n")
    profile = load_profile(str(path))
    assert profile.name == "mine"
    assert profile.values == {"train_epochs": 7, "train_learning_rate": 1e-4}


@pytest.mark.parametrize(
    "content",
    [
        "parameters: {train_epoch: 7}",
        "parameters: {train_epochs: many}",
        "parameter: {train_epochs: 7}",
        "parameters: [1]",
        "- 1",
        "{",
        "",
    ],
)
def test_a_malformed_profile_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_profile(str(path))


def test_an_unknown_profile_names_the_others() -> None:
    with pytest.raises(ConfigError) as raised:
        load_profile("smoek")
    assert "Did you mean 'smoke'?" in str(raised.value)


NODES = {
    "train_nodes": 2,
    "cluster_train_gpus": 0,
    "train_checkpoint_uri": "s3://bucket/race",
}


def test_several_nodes_fit_each_other() -> None:
    assert resolve(load_profile("roberta-large"), NODES)["train_nodes"] == 2


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"cluster_train_gpus": 2}, "only waits for the nodes, and its 2 GPUs would be idle"),
        ({"cluster_node_gpus": 3}, "train: effective_batch 16 does not divide over 2 nodes of 3"),
        ({"train_processes": 9}, "train: processes is 9, but 8 GPUs"),
        ({"cluster_node_gpus": 0}, "train: precision fp16 needs a GPU"),
        ({"cluster_node_memory": "many"}, "cluster_node_memory is 'many'"),
        ({"cluster_s3_secret": "My Secret"}, "cluster_s3_secret is 'My Secret'"),
    ],
)
def test_several_nodes_that_do_not_fit_are_refused_at_once(
    values: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve(load_profile("roberta-large"), {**NODES, **values})
    assert says in str(raised.value)


def test_the_profile_for_nodes_lacks_nothing_but_the_store() -> None:
    values = resolve(load_profile("roberta-large-nodes"), {})
    with pytest.raises(ConfigError, match=r"Give -p train_checkpoint_uri=s3://"):
        require_store(values)
    require_store({**values, "train_checkpoint_uri": "s3://bucket/race"})
    ranks = values["train_nodes"] * values["cluster_node_gpus"]
    assert values["train_effective_batch"] == ranks * values["train_batch_size"] == 16
    text = compiled(values, images({}))
    train = yaml.safe_load(text.partition("---")[0])["root"]["dag"]["tasks"]["train"]
    inputs = {n: p.get("componentInputParameter") for n, p in train["inputs"]["parameters"].items()}
    assert inputs["nodes"] == "train_nodes"
    assert inputs["cluster_node_gpus"] == "cluster_node_gpus"
