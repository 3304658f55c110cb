"""Parameters and configs: names, types, and errors that help."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from components.common.errors import ConfigError
from pipeline.images import images
from pipeline.parameters import (
    config_names,
    folded,
    load_config,
    parameters,
    require_store,
    resolve,
    run_inputs,
)
from pipeline.pipeline import compiled


def test_each_field_of_training_is_a_parameter() -> None:
    from components.train.core import TrainConfig

    fields = {f.name for f in dataclasses.fields(TrainConfig)} - {"data", "pretrained", "output"}
    of_train = {p.name.removeprefix("train_") for p in parameters().values() if p.step == "train"}
    # What trials has too counts as of either; the DAG gives the last two.
    assert fields - of_train <= {"seed", "learning_rate", "run_id", "trial"}


def test_values_are_read_in_the_parameter_s_type() -> None:
    given = folded(
        {
            "epochs": "3",
            "learning_rate": "1e-4",
            "min_accuracy": "70",
            "train_save_optimizer": "False",
            "train_arch": "roberta_base",
            "cluster_gpu_node_selector": '{"pool": "a100"}',
            "cluster_gpu_tolerations": "[]",
            "race_url": "https://host/a?x=1&y=2",
        }
    )
    assert given == {
        "epochs": 3,
        "learning_rate": 1e-4,
        "min_accuracy": 70.0,
        "train_save_optimizer": False,
        "train_arch": "roberta_base",
        "cluster_gpu_node_selector": {"pool": "a100"},
        "cluster_gpu_tolerations": [],
        "race_url": "https://host/a?x=1&y=2",
    }
    assert type(given["min_accuracy"]) is float


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("train_lr=1", "there is no parameter 'train_lr'"),
        ("lerning_rate=1", "Did you mean 'learning_rate'?"),
        ("dropout=1", "Did you mean 'train_dropout'?"),
        ("lr=1", "It is called 'learning_rate' here"),
        ("num_train_epochs=1", "It is called 'epochs' here"),
        ("per_device_train_batch_size=1", "It is called 'train_batch_size' here"),
        ("gradient_accumulation_steps=1", "It is called 'effective_batch_size' here"),
        ("fp16=true", "It is called 'precision' here"),
        ("train_epochs=1", "It is called 'epochs' here"),
        ("evaluate_min_accuracy=1", "It is called 'min_accuracy' here"),
        ("download_vocab_bpe_url=1", "It is called 'bpe_url' here"),
        ("train_settings=[]", "not a JSON object"),
        ('train_settings={"epochs": 2}', "It is called 'epochs' here"),
        ('train_settings={"num_nodes": 2}', "num_nodes is fixed when the pipeline is compiled"),
        ('train_settings={"dropout": "x"}', "train_dropout: expected a number"),
        ("epochs=3.5", "epochs: expected a whole number, got 3.5"),
        ("epochs=true", "expected a whole number"),
        ("epochs=", "expected a whole number"),
        ("learning_rate=fast", "learning_rate: expected a number, got 'fast'"),
        ("train_save_optimizer=1", "expected true or false"),
        ("train_arch=gpt", "'gpt' is none of 'roberta_large', 'roberta_base'"),
        ("cluster_gpu_node_selector=pool", "expected a JSON object"),
        ("cluster_gpu_tolerations={}", "expected a JSON list"),
    ],
)
def test_a_wrong_assignment_says_what_is_wrong(assignment: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        folded(dict([assignment.split("=", 1)]))
    assert says.lower() in str(raised.value).lower()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("learning_rate", -1.0, "train: learning_rate"),
        ("min_accuracy", 101.0, "gate: min_accuracy"),
        ("binarize_max_unknown", 2.0, "binarize: max_unknown"),
        ("race_url", "gopher://host/RACE.tar.gz", "download-race: "),
    ],
)
def test_what_a_step_would_refuse_is_refused_at_once(name: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve(load_config("smoke"), {name: value})
    assert str(raised.value).startswith(says)


@pytest.mark.parametrize("name", config_names())
def test_the_configs_hold_only_what_differs_from_the_defaults(name: str) -> None:
    config = load_config(name)
    assert config.description
    resolve(config, {})
    same = [n for n, value in config.values.items() if value == parameters()[n].default]
    assert not same


def test_overrides_win_over_the_config_and_the_config_over_defaults() -> None:
    config = load_config("roberta-base")
    values = resolve(config, {"learning_rate": 3e-5})
    assert values["learning_rate"] == 3e-5
    assert values["train_arch"] == "roberta_base"
    assert values["train_dropout"] == parameters()["train_dropout"].default


def test_roberta_large_trains_with_the_seed_s_settings() -> None:
    values = resolve(load_config("roberta-large"), {})
    defaults = {n: p.default for n, p in parameters().items() if p.step in ("train", "trials")}
    assert {n: values[n] for n in defaults} == defaults


def test_smoke_needs_no_gpu_and_has_a_gate_far_above_chance() -> None:
    values = resolve(load_config("smoke"), {})
    assert values["precision"] == "fp32"
    assert values["min_accuracy"] >= 60


def test_a_config_may_be_any_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    # YAML itself takes 1e-4 for text.
    path.write_text("parameters: {epochs: 7, learning_rate: 1e-4}\n")
    config = load_config(str(path))
    assert config.name == "mine"
    assert config.values == {"epochs": 7, "learning_rate": 1e-4}


@pytest.mark.parametrize(
    "content",
    [
        "parameters: {train_epoch: 7}",
        "parameters: {epochs: many}",
        "parameter: {epochs: 7}",
        "parameters: [1]",
        "- 1",
        "{",
        "",
    ],
)
def test_a_malformed_config_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config(str(path))


def test_an_unknown_config_names_the_others() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config("smoek")
    assert "Did you mean 'smoke'?" in str(raised.value)


NODES = {
    "train_num_nodes": 2,
    "train_gpus": 0,
    "checkpoint_uri": "s3://bucket/race",
}


def test_several_nodes_fit_each_other() -> None:
    assert resolve(load_config("roberta-large"), NODES)["train_num_nodes"] == 2


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"train_gpus": 2}, "only waits for the nodes, and its 2 GPUs would be idle"),
        (
            {"cluster_node_gpus": 3},
            "train: effective_batch_size 16 does not divide over 2 nodes of 3",
        ),
        ({"train_processes": 9}, "train: processes is 9, but 8 GPUs"),
        ({"cluster_node_gpus": 0}, "train: precision fp16 needs a GPU"),
        ({"cluster_node_memory": "many"}, "cluster_node_memory is 'many'"),
        ({"s3_secret": "My Secret"}, "s3_secret is 'My Secret'"),
    ],
)
def test_several_nodes_that_do_not_fit_are_refused_at_once(
    values: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve(load_config("roberta-large"), {**NODES, **values})
    assert says in str(raised.value)


def test_the_config_for_nodes_lacks_nothing_but_the_store() -> None:
    values = resolve(load_config("roberta-large-nodes"), {})
    with pytest.raises(ConfigError, match=r"Give -p checkpoint_uri=s3://"):
        require_store(values)
    require_store({**values, "checkpoint_uri": "s3://bucket/race"})
    ranks = values["train_num_nodes"] * values["cluster_node_gpus"]
    assert values["effective_batch_size"] == ranks * values["train_batch_size"] == 16
    text = compiled(values, images({}))
    executors = yaml.safe_load(text.partition("---")[0])["deploymentSpec"]["executors"]
    train = executors["exec-train"]["container"]
    assert train["command"][-1] == "components.train.cluster"
    assert "--num-nodes=2" in train["args"]
    assert "--image-pull-secret=race-registry" in train["args"]


def test_what_a_run_changes_is_an_input_or_a_setting_of_the_compiled_pipeline() -> None:
    compiled_in = resolve(load_config("roberta-base"), {})
    given = folded(
        {"epochs": "3", "train_dropout": "0.2", "train_settings": '{"warmup_updates": 5}'}
    )
    inputs = run_inputs(resolve(load_config("roberta-base"), given), compiled_in, sweep=False)
    assert inputs["epochs"] == 3
    assert inputs["train_settings"] == {"dropout": 0.2, "warmup_updates": 5}
    assert inputs["evaluate_settings"] == {}
