"""What a run goes on from, and what it refuses."""

import contextlib
import json
import os
import shutil
import signal
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.common import storage
from components.common.cli import arguments_of
from components.common.errors import ConfigError, DataError
from components.train import __main__, checkpoints, core
from components.train.config import TrainConfig
from components.train.core import train
from components.train.supervisor import curve
from components.train.supervisor.resume import Checkpoints


def config(tiny_race: Any, output: Path, **parameters: object) -> TrainConfig:
    values = tiny_race.parameters | {"engine": "packed"} | parameters
    return TrainConfig(tiny_race.data, tiny_race.pretrained, output, **values)


@pytest.fixture(scope="module")
def finished(tiny_race: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended: `out`, and what it put at `checkpoints`."""
    folder = tmp_path_factory.mktemp("finished")
    train(config(tiny_race, folder / "out", checkpoint_uri=str(folder / "checkpoints")))
    return folder


@pytest.fixture
def no_fairseq(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("fairseq was started")

    monkeypatch.setattr(core, "train_with_restarts", refuse)


def test_the_newest_checkpoints_are_kept(finished: Path) -> None:
    found = [artifact.name for artifact in storage.artifacts(str(finished / "checkpoints"))]
    assert found == ["update-000012", "update-000006"]


@pytest.mark.usefixtures("no_fairseq")
def test_a_run_that_had_ended_only_writes_its_output_again(
    tiny_race: Any, finished: Path, tmp_path: Path
) -> None:
    again = config(tiny_race, tmp_path / "out", checkpoint_uri=str(finished / "checkpoints"))
    result = train(again)
    metrics = json.loads((finished / "out/metrics.json").read_text())
    for name in metrics.keys() - {"seconds", "parameters"}:
        assert result.metrics[name] == metrics[name], name
    log = (finished / "out/train_log.jsonl").read_text()
    assert (tmp_path / "out/train_log.jsonl").read_text() == log
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        assert (tmp_path / "out" / name).read_bytes() == (finished / "out" / name).read_bytes()


def test_a_rank_that_is_killed_is_started_again_and_the_end_is_the_same(
    tiny_race: Any,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on, killed, saved = Checkpoints._submit, [], []

    def then_kill(self: Checkpoints, about: Any) -> None:
        go_on(self, about)
        saved.append(about["update"])
        ranks = [] if killed else _processes("components.train.rank.worker", str(tmp_path))
        for pid in ranks:
            os.kill(pid, signal.SIGKILL)
        killed.extend(ranks)

    monkeypatch.setattr(Checkpoints, "_submit", then_kill)
    result = train(config(tiny_race, tmp_path / "out", checkpoint_minutes=1e-6))
    assert len(killed) == 1
    assert saved[0] == 1, "by the clock, within an epoch"
    assert result.metrics["restarts"] == 1
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        found, expected = (checkpoints.load(p / "out" / name) for p in (tmp_path, finished))
        assert found["model"].keys() == expected["model"].keys()
        for parameter, value in expected["model"].items():
            assert torch.equal(found["model"][parameter], value), parameter
    told, theirs = ((p / "out/train_log.jsonl").read_text() for p in (tmp_path, finished))
    losses = [[json.loads(line)["loss"] for line in log.splitlines()] for log in (told, theirs)]
    assert losses[0] == losses[1]
    assert "started again 1 time." in (tmp_path / "out/report.html").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        path.name for path in (finished / "out").iterdir()
    }


def _processes(*words: str) -> list[int]:
    """Those with all the words in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if all(word in path.read_text() for word in words):
                found.append(int(path.parent.name))
    return found


@pytest.fixture
def ended(tiny_race: Any, finished: Path, tmp_path: Path) -> list[str]:
    """The command of a run that had ended; beside its checkpoints lie others."""
    there = tmp_path / "checkpoints"
    shutil.copytree(finished / "checkpoints", there)
    storage.publish(finished / "out", str(there / "model"))
    shutil.copytree(finished / "checkpoints", there / "other")
    (there / curve.NAME).write_text("{}\n")  # it was killed before it had removed that
    again = config(tiny_race, tmp_path / "out", checkpoint_uri=str(there))
    return arguments_of(again)


@pytest.mark.usefixtures("no_fairseq")
def test_the_checkpoints_of_a_run_go_when_it_has_ended_and_no_others(
    ended: list[str], tmp_path: Path
) -> None:
    __main__.main(ended)
    assert storage.newest(str(tmp_path / "checkpoints/other")).name == "update-000012"
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"model", "other"}


@pytest.mark.usefixtures("no_fairseq")
def test_checkpoints_stay_when_they_are_to(ended: list[str], tmp_path: Path) -> None:
    __main__.main([*ended, "--keep-checkpoints-after-end"])
    assert storage.newest(str(tmp_path / "checkpoints")).name == "update-000012"


@pytest.mark.usefixtures("no_fairseq")
def test_checkpoints_stay_when_an_output_cannot_be_written(
    ended: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    answer = {"outputs": {"outputFile": f"{tmp_path}/file/answer.json"}}
    with pytest.raises(OSError, match="file"):
        __main__.main([*ended, f"--executor-input={json.dumps(answer)}"])
    assert (tmp_path / "out/metrics.json").is_file()
    assert storage.newest(str(tmp_path / "checkpoints")).name == "update-000012"


@pytest.mark.usefixtures("no_fairseq")
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"learning_rate": 2e-3}, "learning_rate is 0.002, the checkpoint's is 0.001"),
        ({"seed": 2}, "seed is 2, the checkpoint's is 1"),
        ({"processes": 2}, "split.processes is 2, the checkpoint's is 1"),
        ({"engine": "stock"}, "engine is stock, the checkpoint's is packed"),
    ],
)
@pytest.mark.parametrize("way", ["checkpoint_uri", "resume_from"])
def test_checkpoints_of_another_training_are_refused(
    tiny_race: Any,
    finished: Path,
    tmp_path: Path,
    way: str,
    parameters: dict[str, object],
    message: str,
) -> None:
    other = {way: str(finished / "checkpoints"), **parameters}
    with pytest.raises(ConfigError, match=f"is of another training: .*{message}"):
        train(config(tiny_race, tmp_path / "out", **other))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_fairseq")
def test_checkpoints_from_other_data_are_refused(
    tiny_race: Any, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_race.data, tmp_path / "data")
    labels = tmp_path / "data/label/train.label"
    lines = labels.read_text().splitlines()
    lines[5] = str((int(lines[5]) + 1) % 4)
    labels.write_text("\n".join(lines) + "\n")
    values = tiny_race.parameters | {"engine": "packed"}
    changed = TrainConfig(
        tmp_path / "data",
        tiny_race.pretrained,
        tmp_path / "out",
        resume_from=str(finished / "checkpoints"),
        **values,
    )
    with pytest.raises(ConfigError, match="another training: data is "):
        train(changed)


@pytest.mark.usefixtures("no_fairseq")
def test_nothing_to_resume_from_is_an_error(tiny_race: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint is there to resume from"):
        train(config(tiny_race, tmp_path / "out", resume_from=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match="checkpoint_uri wants the optimizer's state"):
        config(tiny_race, tmp_path, checkpoint_uri="s3://bucket/runs", save_optimizer=False)


class Canary:
    """Runs code when it is unpickled by an unpickler that may."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


WORDS = "encoder.sentence_encoder.embed_tokens.weight"
POSITIONS = "encoder.sentence_encoder.embed_positions.weight"


@pytest.mark.usefixtures("no_fairseq")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, c: s.update(x=Canary(c)), "refused, because reading it would call"),
        (
            lambda s, c: s.update(args=Namespace(arch="fconv", encoder_layers=f"open({str(c)!r})")),
            "encoder_layers is ",
        ),
        (
            lambda s, c: s["model"].pop(WORDS),
            "update-000012/checkpoint.pt: .* not a fairseq RoBERTa",
        ),
        (
            lambda s, c: [s["model"].pop(n) for n in list(s["model"]) if "classification" in n],
            "no head that ranks",
        ),
        (
            lambda s, c: s["model"].update({POSITIONS: s["model"][POSITIONS][1:]}),
            "update-000012.*: max_positions is 64, the checkpoint has 63",
        ),
        (lambda s, c: s.update(optimizer_history={}), "is not of update 12"),
        (
            lambda s, c: s["optimizer_history"][-1].update(num_updates=torch.ones(3).to_sparse()),
            "is not of update 12",
        ),
        (lambda s, c: s.update(extra_state=None), "has no extra_state"),
        (
            lambda s, c: s["extra_state"].update(train_iterator={"epoch": "exit()"}),
            "epoch is 'exit",
        ),
        (
            lambda s, c: s["extra_state"]["metrics"].update(x=[(0, "x", "bisect", {})]),
            "its meters",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_or_would_run_code_is_refused(
    tiny_race: Any, finished: Path, tmp_path: Path, change: Any, message: str
) -> None:
    artifact = storage.newest(str(finished / "checkpoints"))
    assert artifact is not None
    hostile, canary = tmp_path / "hostile", tmp_path / "canary"
    storage.fetch(artifact.address, hostile)
    state = checkpoints.load(hostile / "checkpoint.pt")
    change(state, canary)
    torch.save(state, hostile / "new.pt")
    (hostile / "new.pt").replace(hostile / "checkpoint.pt")
    # Whoever can write there can also write a manifest that fits.
    storage.publish(
        hostile,
        str(tmp_path / "store/update-000012"),
        producer=artifact.manifest.producer,
        inputs=artifact.manifest.inputs,
    )
    with pytest.raises(DataError, match=message):
        train(config(tiny_race, tmp_path / "out", resume_from=str(tmp_path / "store")))
    assert not canary.exists()
    assert not (tmp_path / "out").exists()
