"""docs/cluster.md: its submissions are made, and end as it says, by what a real server answered."""

import contextlib
import copy
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.exceptions import ClientError

from pipeline import cli, docs, registry
from tests.shell_blocks import Block, blocks
from tests.unit.pipeline import situations
from tests.unit.pipeline.situations import SITUATIONS
from tests.unit.pipeline.stored import Ran, StoredRun, upload
from tests.unit.pipeline.test_runs import succeeded

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
    assert len(promises()) == PAGE.read_text().count("\nrace submit ") > 4


ASKED = re.findall(
    r"^ *<!-- asks: ([\w-]+) at (\d+) -->\n *<!-- needs: cluster -->\n"
    r" *```sh\n(.*?)```\n\s*```\n(.*?)```",
    PAGE.read_text(),
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.parametrize(("situation", "now", "commands", "shown"), ASKED, ids=lambda a: a[:20])
def test_what_is_asked_about_runs_is_answered_as_the_page_says(
    situation: str,
    now: str,
    commands: str,
    shown: str,
    here: Path,
    kubeflow: Any,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    with contextlib.suppress(ClientError):  # another test has made it
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
    monkeypatch.setattr(registry, "_lacks", lambda reference: False)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.host)
    known = {"succeeded": succeeded()}
    kubeflow.pipelines = [{"pipeline_id": "pipeline-race", "display_name": "race-roberta"}]
    run = situations.listed("942cff9c-da06-4914-8237-c67f0d3772a4", "nightly", 0, "RUNNING")
    del run["state_history"]  # and so its states are the situation's
    kubeflow.runs = [run]
    kubeflow.replay = copy.deepcopy(known.get(situation, SITUATIONS[situation]))
    kubeflow.clock.now = int(now)
    for command in commands.split("\n"):
        if command.strip():
            program, *arguments = shlex.split(command)
            assert program == "race"
            assert cli.main(arguments) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    said = [" ".join(line.split()) for line in (out + err).splitlines()]
    for line in shown.splitlines():
        wanted = " ".join(line.split())
        assert any(one.startswith(wanted) for one in said), "\n".join([wanted, *said])


# What needs artifacts.
STORED = re.findall(
    r"^race (?:runs fetch|predict|compare|runs delete latest --artifacts) .*$",
    PAGE.read_text(),
    re.MULTILINE,
)


def test_everything_that_the_page_asks_about_runs_is_tried() -> None:
    asked = [line for block in ASKED for line in block[2].splitlines() if line.strip()]
    asked += [line for line in STORED if line.startswith("race runs ")]
    found = re.findall(r"^ *race (runs|doctor) ", PAGE.read_text(), re.MULTILINE)
    assert len(asked) == len(found) > 9


def test_a_run_is_fetched_compared_and_deleted_as_the_page_says(
    here: Path, kubeflow: Any, bucket: str, answering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has the artifacts of a real training."""
    assert len(STORED) == 5
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.host)
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    steps = ("download-bpe", "preprocess", "binarize", "train", "evaluate", "gate")
    run = StoredRun([*map(Ran, steps)], root=f"minio://{bucket}/v2/artifacts/race-roberta")
    client = boto3.client("s3", region_name="us-east-1")
    for step, name in (("download-bpe", "bpe"), ("train", "model"), ("evaluate", "report")):
        upload(client, bucket, answering / name, f"{run.folder(step)}/{name}")
    kubeflow.pipelines = [{"pipeline_id": "pipeline-race", "display_name": "race-roberta"}]
    kubeflow.runs, kubeflow.replay = [run.listed("mine")], run
    for command in STORED:
        assert cli.main(shlex.split(command)[1:]) == 0, command
    assert (here / "runs" / "from-cluster" / "model" / "checkpoint_best.pt").is_file()
    assert not (here / "runs" / "figures" / "model").exists()
    assert "side by side" in (here / "compare.html").read_text()
    assert kubeflow.runs == []
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("block", blocks(PAGE), ids=lambda b: str(b.line))
def test_the_other_commands_of_race_are_known(block: Block) -> None:
    for line in block.commands.replace("\\\n", "").splitlines():
        if line.startswith("race "):
            cli._parser().parse_args(shlex.split(line)[1:])
