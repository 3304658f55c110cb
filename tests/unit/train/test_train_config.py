import dataclasses
import re
import shlex
from importlib.metadata import distribution
from pathlib import Path

import pytest

from components.common.cli import options
from components.common.errors import ConfigError
from components.train.config import TrainConfig, plan
from components.train.flags import FLAGS, OURS, Run, fairseq_arguments, table


def config(**parameters: object) -> TrainConfig:
    return TrainConfig(Path("data"), Path("model.pt"), Path("out"), **parameters)  # type: ignore[arg-type]


def seed_command() -> dict[str, str]:
    """The flags of the seed's command with their values, its shell variables filled in."""
    fairseq = distribution("fairseq").locate_file("fairseq")
    readme = Path(str(fairseq)) / "examples" / "roberta" / "README.race.md"
    section = readme.read_text().split("### 3)")[1].split("```")[1].removeprefix("bash")
    variables = dict(re.findall(r"^(\w+)=(\S+)", section, flags=re.MULTILINE))
    del variables["ROBERTA_PATH"], variables["DATA_DIR"]
    command = section[section.index("fairseq-train") :].replace("\\\n", " ")
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    words = shlex.split(command.replace("--ddp-backend=", "--ddp-backend "))[2:]
    flags: dict[str, str] = {}
    for word in words:
        if word.startswith("--"):
            flags[word] = ""
        else:
            flags[list(flags)[-1]] = word
    return flags


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set's folder, as far as it tells the number of options."""
    for column in range(5):
        (tmp_path / f"input{column}").mkdir()
    return tmp_path


def test_defaults_on_two_gpus_are_the_seeds_command(data: Path) -> None:
    defaults = dataclasses.replace(config(engine="stock"), data=data)
    run = Run(defaults, plan(defaults, gpus=2, questions=87866), Path("model.pt"), Path("save"))
    ours = fairseq_arguments(run)
    given = {
        name: "" if following.startswith("--") else following
        for name, following in zip(ours, [*ours[1:], "--"], strict=True)
        if name.startswith("--")
    }
    expected = seed_command()
    assert len(expected) == 33
    assert given.pop("--restore-file") == "model.pt"
    assert expected.pop("--restore-file") == "$ROBERTA_PATH"
    assert {name: given[name] for name in expected} == expected


def test_every_flag_of_the_seed_is_in_the_table_with_its_value_and_a_parameter() -> None:
    documented = {flag.name: flag.seed for flag in FLAGS if flag.seed is not None}
    assert documented == seed_command()
    parameters = {option.name for option in options(TrainConfig)}
    for flag in FLAGS:
        assert set(flag.parameter.split(", ")) <= parameters
    assert ("learning_rate", "--lr", "1e-05") in table()
    # Each other parameter ends up in a flag: these may differ when a run goes on.
    assert set(OURS) == {
        *("checkpoint_uri", "run_id", "trial", "resume_from", "max_restarts", "keep_last"),
        *("checkpoint_interval", "checkpoint_minutes", "keep_checkpoints", "stall_timeout"),
        *("keep_checkpoints_after_end", "on_collapse", "on_doubtful_data", "stop_timeout"),
    }


@pytest.mark.parametrize(
    ("parameters", "gpus", "processes", "update_freq", "updates"),
    [
        ({}, 2, 2, 8, 5 * 5492),
        ({}, 8, 8, 2, 5 * 5492),
        ({"processes": 1}, 8, 1, 16, 5 * 5492),
        ({"batch_size": 4, "epochs": 1}, 1, 1, 4, 5492),
        ({"precision": "fp32"}, 0, 1, 16, 5 * 5492),
        ({"precision": "fp32", "processes": 4}, 0, 4, 4, 5 * 5492),
        ({"max_updates": 100}, 1, 1, 16, 100),
        ({"num_nodes": 2}, 2, 2, 4, 5 * 5492),
        ({"num_nodes": 4, "processes": 1, "precision": "fp32"}, 0, 1, 4, 5 * 5492),
    ],
)
def test_split_of_the_effective_batch(
    parameters: dict[str, object], gpus: int, processes: int, update_freq: int, updates: int
) -> None:
    result = plan(config(**parameters), gpus=gpus, questions=87866)
    assert (result.processes, result.update_freq, result.updates) == (
        processes,
        update_freq,
        updates,
    )
    assert result.device == ("cuda" if gpus else "cpu")


@pytest.mark.parametrize(
    ("parameters", "gpus", "message"),
    [
        (
            {},
            3,
            "effective_batch_size 16 does not divide over 3 processes of batch_size 1."
            " The nearest that does: 15 or 18",
        ),
        (
            {"batch_size": 32},
            1,
            "effective_batch_size 16 does not divide over 1 process of batch_size 32."
            " The nearest that does: 32",
        ),
        (
            {"num_nodes": 3},
            2,
            "effective_batch_size 16 does not divide over 3 nodes of 2 processes of batch_size 1."
            " The nearest that does: 12 or 18",
        ),
        ({}, 0, "precision fp16 needs a GPU, and none is visible. Use precision fp32 or bf16"),
        ({"processes": 2}, 1, "processes is 2, but 1 GPU is visible. Set it to 1 or less"),
        (
            {"lr_scheduler": "polynomial_decay", "warmup_updates": 10, "max_updates": 10},
            1,
            "warmup_updates is 10, but the run has 10 updates",
        ),
    ],
)
def test_what_does_not_fit_the_machine_is_refused(
    parameters: dict[str, object], gpus: int, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        plan(config(**parameters), gpus=gpus, questions=100)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epochs": 0}, "epochs is 0. It must be at least 1"),
        ({"num_nodes": 0}, "num_nodes is 0. It must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"dropout": 1.0}, "dropout is 1.0. It must be at least 0 and below 1"),
        ({"lr_scheduler": "inverse_sqrt"}, "lr_scheduler inverse_sqrt needs a warm-up"),
        ({"encoder_attention_heads": 7}, "1024 wide layers do not divide into 7 heads"),
    ],
)
def test_what_cannot_be_right_is_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(**parameters)


def test_the_ranks_of_all_nodes_are_counted() -> None:
    alone, together = (
        plan(config(**parameters), gpus=2, questions=87867)
        for parameters in ({"num_nodes": 4, "batch_size": 2}, {"batch_size": 2})
    )
    assert (alone.ranks, together.ranks) == (8, 2)
    assert alone.updates == together.updates


def test_only_polynomial_decay_is_told_the_number_of_updates(data: Path) -> None:
    decaying = config(lr_scheduler="polynomial_decay", warmup_updates=5, epochs=2)
    decaying = dataclasses.replace(decaying, data=data)
    run = Run(decaying, plan(decaying, gpus=1, questions=160), Path("model.pt"), Path("save"))
    arguments = fairseq_arguments(run)
    assert arguments[arguments.index("--total-num-update") + 1] == "20"
