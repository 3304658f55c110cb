"""Pipes, sockets and devices among the inputs: no step waits for them; each says so in a line."""

import importlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.common.cli import run_step


def make_special(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as listening, pytest.MonkeyPatch.context() as patch:
            patch.chdir(path.parent)  # the address of a socket is short
            listening.bind(path.name)


@pytest.fixture(autouse=True)
def _nothing_waits() -> Iterator[None]:
    signal.alarm(60)  # ends the tests
    yield
    signal.alarm(0)


TRAIN = "train --data data --output out --precision fp32"
# What stands in the place of a file, and the command.
CASES = [
    ("race/RACE/train/middle/1.txt", "preprocess --race race --output out"),
    ("text/dev.input1", "binarize --text text --bpe bpe --output out"),
    ("text/dev.label", "binarize --text text --bpe bpe --output out"),
    ("bpe/encoder.json", "binarize --text text --bpe bpe --output out"),
    ("bpe/vocab.bpe", "binarize --text text --bpe bpe --output out"),
    ("bpe/dict.txt", "binarize --text text --bpe bpe --output out"),
    ("data/splits.json", "evaluate --data data --model model --output out"),
    ("data/label/test.label", "evaluate --data data --model model --output out"),
    ("data/input0/dict.txt", "evaluate --data data --model model --output out"),
    ("data/input1/test.idx", "evaluate --data data --model model --output out"),
    ("data/input2/test.bin", "evaluate --data data --model model --output out"),
    ("text/test-high.question", "evaluate --data data --model model --text text --output out"),
    ("special", "evaluate --data data --model special --output out"),
    ("model/metrics.json", "evaluate --data data --model model --output out"),
    ("model/checkpoint_best.pt", "predict --model model --bpe bpe --input bpe/dict.txt"),
    ("model/checkpoint_best.pt", "export --model model --bpe bpe --output out"),
    ("roberta/roberta.tiny/model.pt", f"{TRAIN} --pretrained roberta"),
    ("data/label/valid.label", f"{TRAIN} --pretrained roberta"),
    ("hf/config.json", "import_ --source hf --output out"),
    ("report/metrics.json", "gate --evaluation report"),
    ("report/metrics.json", "select --models model --evaluations report --output out"),
    ("model/train_log.jsonl", "select --models model --evaluations report --output out"),
    ("report/predictions.jsonl", "select --models model --evaluations report --output out"),
    ("file", "download --url file --output out"),
    ("data/id/test.id", "common.storage publish --source data --uri store/data"),
    ("store/manifest.json", "common.storage fetch --uri store --output out"),
]


TRAINED = {"best_valid_accuracy": 90.0}  # which is not guessing


@pytest.mark.parametrize(
    ("path", "command", "kind"),
    [(*case, "pipe") for case in CASES]
    + [(*case, kind) for case in CASES[::6] for kind in ("socket", "device")],
)
def test_a_special_file_is_refused_at_once(
    answering: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    command: str,
    kind: str,
) -> None:
    step, *arguments = command.split()
    for name in {path.partition("/")[0], *arguments}:
        if (answering / name).is_dir():
            shutil.copytree(answering / name, tmp_path / name)
    if step == "select":
        training = tmp_path / "model" / "metrics.json"
        training.write_text(json.dumps(json.loads(training.read_text()) | TRAINED))
        evaluated = tmp_path / "report" / "metrics.json"
        evaluated.write_text(evaluated.read_text().replace('"training": ', '"was": '))
    make_special(tmp_path / path, kind)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    main = importlib.import_module(f"components.{step}.__main__").main
    assert run_step(main, arguments) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert path.rpartition("/")[2].partition(".")[0] in error
    assert {entry for entry in tmp_path.iterdir() if entry.name != "store"} <= before
