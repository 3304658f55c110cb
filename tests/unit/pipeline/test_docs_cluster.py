"""docs/cluster.md: its submissions are made, and end as it says, by what a real server answered."""

import copy
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline import cli, docs, registry
from tests.unit.pipeline.situations import SITUATIONS

PAGE = docs.ROOT / "docs" / "cluster.md"
IMAGE = "registry.example.org/team/race-pipeline-{}@sha256:" + "0" * 64


class Promise(NamedTuple):
    """A submission, what happens to it, how it ends, and lines that are shown of it."""

    command: str
    situation: str
    status: int
    lines: list[str]


def promises() -> list[Promise]:
    pattern = re.compile(
        r"<!-- replays: ([\w-]+) ?(\d*) -->\n<!-- needs: [^\n]* -->\n```sh\n(.*?)```\n"
        r"((?:(?!<!--|#).)*?```\n.*?```)?",
        re.DOTALL,
    )
    return [
        Promise(
            command.replace("\\\n", ""),
            situation,
            int(status or 0),
            re.findall(r"```\n(.*?)```", shown, re.DOTALL)[0].splitlines() if shown else [],
        )
        for situation, status, command, shown in pattern.findall(PAGE.read_text())
    ]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page's reader has."""
    names = {"RACE_DATA_IMAGE": "data", "RACE_TRAIN_IMAGE": "train"}
    images = "".join(f"{name}={IMAGE.format(image)}\n" for name, image in names.items())
    (tmp_path / "images.env").write_text(images)
    (config,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "team.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("promise", promises(), ids=lambda p: p.situation)
def test_a_submission_ends_as_the_page_says(
    promise: Promise, here: Path, kubeflow: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(registry, "require_pullable", asked.append)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.host)
    kubeflow.replay = copy.deepcopy(SITUATIONS[promise.situation])
    program, *arguments = shlex.split(promise.command)
    assert program == "race"
    assert cli.main(arguments) == promise.status
    assert [images.train for images in asked] == [IMAGE.format("train")]
    shown = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    for line in promise.lines:
        wanted = " ".join(line.split())
        assert any(said.startswith(wanted) for said in shown), "\n".join([wanted, *shown])


def test_every_submission_of_the_page_is_tried() -> None:
    assert len(promises()) == PAGE.read_text().count("race submit ") > 4


@pytest.mark.parametrize("block", docs.blocks(PAGE), ids=lambda b: str(b.line))
def test_the_other_commands_of_race_are_known(block: docs.Block) -> None:
    for line in block.commands.replace("\\\n", "").splitlines():
        if line.startswith("race "):
            cli._parser().parse_args(shlex.split(line)[1:])
