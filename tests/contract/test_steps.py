"""The table of steps, and the container components that are made of it."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from components.common.cli import options
from components.common.errors import ConfigError
from components.common.executor import Outcome
from components.common.program import as_flags, handed
from pipeline.components import arguments, compiled_flags, component
from pipeline.parameters import inputs_of, parameters
from pipeline.steps import STEPS, Step, on_nodes

ALL = [*STEPS.values(), on_nodes(STEPS["train"])]
each_step = pytest.mark.parametrize("step", ALL, ids=lambda step: f"{step.name} {step.program}")


def filled(step: Step, **values: Any) -> list[str]:
    """A step's arguments with something in place of each placeholder."""
    given = {o.name: o.spelled(values.get(o.name, example(o)))[0] for o in step.parameters}
    text = []
    for argument in arguments(step, ()):
        flag, _, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if name == "executor_input":
            continue
        if name == "settings":
            text.append(f"--settings={json.dumps(values.get('settings', {}))}")
        elif "inputs.parameters" in value:
            text.append(given[name])
        else:
            text.append(f"{flag}=/path" if "artifacts" in value else argument)
    return text


def example(o: Any) -> Any:
    if o.name == "url":
        return ["https://host/file"]
    return o.default if not o.repeated else list(o.default)


@each_step
def test_its_program_takes_the_arguments_of_its_component(step: Step) -> None:
    program = importlib.import_module(f"{step.program}.__main__").main
    assert program.config is step.config
    assert program.name == step.program
    flags = {o.flag for o in options(step.config)} | {"--settings", "--executor-input"}
    for argument in arguments(step, ()):
        assert argument.partition("=")[0] in flags | {"--no-unpack"}, argument


@each_step
def test_each_path_of_its_config_is_an_artifact(step: Step) -> None:
    paths = {o.name for o in options(step.config) if o.is_path}
    assert paths == {*step.inputs, *(["output"] if step.outputs else [])}


@each_step
def test_its_component_is_the_command_that_a_person_types(step: Step) -> None:
    made = component(step, "image:1", ["--x=1"]).pipeline_spec
    container = made.deployment_spec["executors"][f"exec-{step.name}"]["container"]
    assert list(container["command"]) == ["python", "-P", "-m", step.program]
    given = list(container["args"])
    assert given[-1] == "--executor-input={{$}}"
    settings = "--settings={{$.inputs.parameters['settings']}}"
    assert (settings in given) == step.settings
    if step.settings:  # it wins over what is compiled in, and not over inputs
        assert given.index("--x=1") < given.index(settings) < len(given) - 1 - len(step.given)


def test_settings_win_over_flags_before_them_and_refuse_those_after_them() -> None:
    config = STEPS["train"].config
    found, _ = handed(
        ["--dropout=0.3", '--settings={"dropout": 0.2, "batch_size": 2.0}', "--epochs=3"], config
    )
    assert found == ["--dropout=0.3", "--dropout=0.2", "--batch-size=2", "--epochs=3"]
    with pytest.raises(Exception, match="epochs is an input of its own"):
        handed(['--settings={"epochs": 2}', "--epochs=3"], config)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "not a JSON object"),
        ("{", "not a JSON object"),
        ("1", "not a JSON object"),
        ('{"drop": 0.1}', "Did you mean 'dropout'?"),
        ('{"data": "/etc"}', "there is no parameter 'data'"),
        ('{"dropout": "much"}', "dropout: expected a number"),
        ('{"batch_size": 1.5}', "batch_size: expected a whole number"),
        ('{"save_optimizer": 1}', "save_optimizer: expected true or false"),
        ('{"arch": "gpt"}', "arch: 'gpt' is none of"),
        ('{"run_id": "a\\u0000b"}', "run_id: a null character in"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        handed([f"--settings={text}"], STEPS["train"].config)
    assert says in str(raised.value)


def test_an_output_parameter_that_a_step_has_not_is_refused_in_one_line(tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    outputs = {"parameters": {"B": {"outputFile": str(tmp_path / "b")}}, "outputFile": str(answer)}
    _, given = handed(
        [f"--executor-input={json.dumps({'outputs': outputs})}"], STEPS["gate"].config
    )
    assert given is not None
    with pytest.raises(ConfigError, match="this one has no output parameter 'B'"):
        given.write(Outcome(), None)
    assert not list(tmp_path.iterdir())


def test_settings_switch_what_is_on_or_off() -> None:
    assert as_flags({"save_optimizer": False}, STEPS["train"].config) == ["--no-save-optimizer"]


def test_only_what_differs_from_the_program_s_defaults_is_compiled_in() -> None:
    train = STEPS["train"]
    own = {train.own(o): o.default for o in train.configurable}
    assert compiled_flags(train, own) == []
    assert compiled_flags(train, {**own, "train_dropout": 0.2}) == ["--dropout=0.2"]


def test_the_pipeline_has_few_inputs() -> None:
    assert len(inputs_of(False)) + 4 <= 20  # with the settings
    assert inputs_of(True).keys() - inputs_of(False).keys() == {"seeds", "learning_rates"}


def test_each_parameter_has_a_help_text_and_a_default_of_its_type() -> None:
    for name, p in parameters().items():
        assert p.help, name
        assert p.check(p.default) == p.default, name
