"""The way of a parameter, from `-p learning_rate=...` to fairseq-train's --lr."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.common.program import Program
from components.train.config import TrainConfig, plan
from components.train.flags import Run, fairseq_arguments
from pipeline.images import images
from pipeline.parameters import folded, load_config, resolve
from pipeline.pipeline import build

ROOT = Path(__file__).parents[2]
RATE = 3.25e-05

# Steps' configs, built so that what they would refuse is refused here; nobody keeps them.
CHECKS = ("TrialsConfig.pairs", "step_config")


def holds(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return any(map(holds, value.values() if isinstance(value, dict) else value))
    return value == RATE or "3.25e-05" in str(value) or getattr(value, "learning_rate", 0) == RATE


@contextmanager
def calls() -> Iterator[list[str]]:
    """Names of our functions that give a value on, in the order of their returns."""
    found: list[str] = []

    def watch(frame: Any, event: str, result: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "return" and path.is_relative_to(ROOT / "pipeline") | path.is_relative_to(
            ROOT / "components"
        ):
            name = frame.f_code.co_qualname
            if "<" not in name and name not in found and holds(result):
                found.append(name)

    sys.setprofile(watch)
    try:
        yield found
    finally:
        sys.setprofile(None)


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """The configs of training that were built."""
    built: list[TrainConfig] = []
    check: Callable[[TrainConfig], None] = TrainConfig.__post_init__

    def count(config: TrainConfig) -> None:
        built.append(config)
        check(config)

    monkeypatch.setattr(TrainConfig, "__post_init__", count)
    return built


def test_few_calls_give_it_on_and_each_process_builds_the_config_once(
    configs: list[TrainConfig], tmp_path: Path
) -> None:
    with calls() as here:
        values = resolve(load_config("smoke"), folded({"learning_rate": str(RATE)}))
    assert [config.learning_rate for config in configs] == [RATE]
    assert [name for name in here if name not in CHECKS] == [
        "Option.check",
        "Parameter.parse",
        "folded",
        "resolve",
    ]
    made = build(values, images(), lambda *_: None)  # hands the default to KFP
    inputs = made.pipeline_spec.root.input_definitions.parameters
    assert inputs["learning_rate"].default_value.number_value == RATE

    configs.clear()
    folders = {name: tmp_path / name for name in ("data", "pretrained", "output")}
    for n in range(5):
        (folders["data"] / f"input{n}").mkdir(parents=True)
    arguments = [f"--{name}={path}" for name, path in folders.items()]
    arguments += ["--settings=" + json.dumps({"dropout": 0.2}), f"--learning-rate={RATE}"]
    arguments += ["--run-id=run-7", "--checkpoint-uri=s3://bucket/race", "--precision=fp32"]

    def train(config: TrainConfig) -> None:
        given = plan(config, gpus=0, questions=64)
        assert str(RATE) in fairseq_arguments(Run(config, given, tmp_path, tmp_path))

    with calls() as there:
        Program(TrainConfig, train, None)(arguments)
    assert len(configs) == 1
    assert there == ["handed", "config_of", "at_hand", "fairseq_arguments"]
