"""Paths that other programs would misread: fairseq splits at colons, omegaconf expands "${...}"."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.common.cli import run_step
from components.evaluate.__main__ import main as evaluate
from components.export.__main__ import main as export
from components.import_.__main__ import main as import_model
from components.predict.__main__ import main as predict
from components.publish.__main__ import main as publish
from components.train.__main__ import main as train
from pipeline.sample import INPUTS, make_sample

RACE = str(Path(sys.executable).with_name("race"))
RUNS = Path("runs") / "10:00 ${y} {x}, é=%s[1]"
WORSE = "-10:00 ${y},\n{{$}} %41 é\t'\"\\[0-9]*?#~;&|"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `race run` was called, which made RUNS / latest there."""
    folder = tmp_path_factory.mktemp("paths")
    make_sample(folder / RUNS / "sample", passages=16)
    temporary = folder / "t:${z}"
    temporary.mkdir()
    command = [RACE, "run", "--config", "smoke", "--output", str(RUNS)]
    for name, file in INPUTS.items():
        command += ["-p", f"{name}={RUNS / 'sample' / file}"]
    command += ["-p", "train_max_updates=2", "-p", "min_accuracy=0", "-p", "train_batch_size=8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not list(temporary.iterdir())
    return folder


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run's folder, from where this process works."""
    monkeypatch.chdir(folder)
    return str(RUNS / "latest")


def test_a_whole_run(model: str) -> None:
    assert json.loads((Path(model) / "report" / "metrics.json").read_text())["questions"] > 0
    assert json.loads((Path(model) / "run.json").read_text())["state"] == "succeeded"


def test_its_model_answers(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    question = {"article": "Ann has a cat.", "question": "Ann has a _.", "options": [*"abcd"]}
    (RUNS / "questions:1").write_text(json.dumps(question))
    assert run_step(predict, [f"--model={model}", f"--input={RUNS}/questions:1"]) == 0
    assert json.loads(capsys.readouterr().out)["predicted"] in "ABCD"


def test_its_model_is_exported_and_imported(model: str) -> None:
    exported, imported = RUNS / "exported", RUNS / "imported"
    assert run_step(export, [f"--model={model}", f"--output={exported}"]) == 0
    assert run_step(import_model, [f"--source={exported}", f"--output={imported}"]) == 0
    assert (imported / "model.pt").is_file()
    published = RUNS / "published"
    assert run_step(publish, [f"--model={model}", f"--publish-uri={published}"]) == 0
    assert [*published.rglob("model.safetensors")]


def test_steps_by_hand(tiny_race: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / WORSE
    place.mkdir()
    monkeypatch.chdir(tmp_path)
    (place / "data").symlink_to(tiny_race.data)
    for file in ("model.pt", "vocabulary.json"):
        if (source := tiny_race.pretrained.parent / file).exists():
            (place / file).symlink_to(source)
    parameters = tiny_race.parameters | {"processes": 2, "max_updates": 2, "engine": "packed"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()]
    data, trained = f"--data={WORSE}/data", f"{WORSE}/trained"
    paths = [data, f"--pretrained={WORSE}/model.pt", f"--output={trained}"]
    paths += [f"--checkpoint-uri={WORSE}/checkpoints"]
    assert run_step(train, [*paths, *flags]) == 0
    scores = []
    for engine in ("stock", "packed"):
        output = place / engine
        arguments = [data, f"--model={trained}", f"--output={output}", f"--engine={engine}"]
        assert run_step(evaluate, arguments) == 0
        scores.append(json.loads((output / "metrics.json").read_text())["correct"])
    assert scores[0] == scores[1]
