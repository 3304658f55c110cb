"""components/<step>/component.yaml: the steps for pipelines of other people."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, components, dsl

from pipeline import cli
from pipeline.steps import STEPS

ROOT = Path(__file__).parents[2]
NAMES = sorted({step.group for step in STEPS.values()})


def load(name: str) -> Any:
    return components.load_component_from_file(str(ROOT / "components" / name / "component.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_has_the_steps_inputs(name: str) -> None:
    step = next(step for step in STEPS.values() if step.group == name)
    inputs = load(name).component_spec.inputs or {}
    assert set(inputs) == {*step.inputs, *step.given, "settings"}
    required = {n for n, found in inputs.items() if not found.optional}
    assert required == {*step.inputs, *(o.name for o in step.parameters if o.required)}


def test_the_page_of_the_steps_shows_a_pipeline_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "components.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page.partition("## In your own pipeline")[2], re.S)
    space: dict[str, Any] = {}
    exec(code, space)
    compiler.Compiler().compile(space["mine"], str(tmp_path / "mine.yaml"))
    made = yaml.safe_load((tmp_path / "mine.yaml").read_text(encoding="utf-8"))
    assert isinstance(space["mine"], dsl.base_component.BaseComponent)
    assert {"train", "evaluate"} <= set(made["root"]["dag"]["tasks"])


def test_images_are_chosen_as_for_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compile", "--train-image", "registry.example.org/t:1"]) == 0
    for name, image in (("train", "registry.example.org/t:1"), ("gate", "localhost/race-pip")):
        text = (tmp_path / "components" / name / "component.yaml").read_text(encoding="utf-8")
        assert f"image: {image}" in text
    assert cli.main(["compile", "--check"]) == 3  # those with the default images are others


def test_a_component_of_the_user_s_own_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "components" / "train" / "component.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: train\n")
    assert cli.main(["compile"]) == 2
    assert "component.yaml is another's component" in capsys.readouterr().err
    assert (own.read_text(), list(tmp_path.iterdir())) == (
        "name: train\n",
        [tmp_path / "components"],
    )
