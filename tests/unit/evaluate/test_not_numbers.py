"""What is not a number never passes for an answer or an accuracy, wherever it comes from."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.common.cli import run_step
from components.common.errors import DataError
from components.evaluate.__main__ import main as evaluate
from components.export.__main__ import main as export
from components.gate.__main__ import main as gate
from components.predict.__main__ import main as predict
from components.select.__main__ import main as select

HEAD = "classification_heads.sentence_classification_head.out_proj.weight"
POSITIONS = "encoder.sentence_encoder.embed_positions.weight"
DAMAGE: dict[str, Callable[[dict[str, Any]], None]] = {
    "nan": lambda w: w["encoder.sentence_encoder.layers.0.fc1.weight"].fill_(float("nan")),
    "infinity": lambda w: w["encoder.sentence_encoder.layers.1.fc2.bias"].fill_(float("inf")),
    "overflow": lambda w: w[HEAD].fill_(3e38),
    # The questions of middle are shorter.
    "far": lambda w: w[POSITIONS][62:].fill_(float("nan")),
}


@pytest.fixture
def broken(answering: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A run's folder whose model has weights that are not numbers."""
    import torch

    from components.train import checkpoints

    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    shutil.copytree(answering / "bpe", run / "bpe")
    state = checkpoints.load(answering / "model" / "checkpoint_best.pt")
    state["model"] = {name: tensor.clone() for name, tensor in state["model"].items()}
    DAMAGE[request.param](state["model"])
    torch.save(state, run / "model" / "checkpoint_best.pt")
    return run


@pytest.mark.parametrize("broken", DAMAGE, indirect=True)
def test_a_score_that_is_not_a_number_is_refused_with_its_question(
    broken: Path,
    answering: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    first = "high" if "far" in request.node.name else "middle"
    shared = ["--data", str(answering / "data"), "--model", str(broken / "model")]
    for engine in ("packed", "stock"):
        output = tmp_path / engine
        assert run_step(evaluate, [*shared, "--output", str(output), "--engine", engine]) == 3
        line = capsys.readouterr().err.splitlines()[-1]
        assert "its scores are not numbers" in line
        assert f"the first is {first}/" in line
        assert not output.exists()
    questions = tmp_path / "questions.jsonl"
    files = sorted((answering / "race" / "RACE" / "test").rglob("*.txt"))
    questions.write_text("".join(path.read_text() + "\n" for path in files))
    assert run_step(predict, ["--model", str(broken), "--input", str(questions)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "the first is" in err
    assert "(line " in err
    assert run_step(export, ["--model", str(broken), "--output", str(tmp_path / "out")]) == 3
    assert "which is not a weight" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


FIGURES = ["NaN", "Infinity", "1e999", '"NaN"', "true", "1e300", "-1", "9" * 400, "null", "[]"]


@pytest.mark.parametrize("figure", FIGURES)
def test_an_accuracy_that_is_none_passes_no_gate(tmp_path: Path, figure: str) -> None:
    (tmp_path / "metrics.json").write_text(f'{{"accuracy": {figure}, "chance": 25}}')
    assert run_step(gate, ["--evaluation", str(tmp_path)]) == DataError.exit_status


def sweep(answering: Path, folder: Path) -> list[str]:
    """Arguments of select for two trials, copies of one."""
    arguments = ["--output", str(folder / "selection")]
    for number in (1, 2):
        for part in ("model", "report"):
            shutil.copytree(answering / part, folder / f"{part}-{number}")
        metrics = folder / f"model-{number}" / "metrics.json"
        content = json.loads(metrics.read_text())
        content["parameters"]["seed"] = number
        content["best_valid_accuracy"] = 90.0
        metrics.write_text(json.dumps(content))
        for part in ("model", "report"):
            for path in (folder / f"{part}-{number}").iterdir():
                path.chmod(0o644)
    for number in (1, 2):
        evaluation = folder / f"report-{number}" / "metrics.json"
        content = json.loads(evaluation.read_text())
        del content["training"]  # they stand in their models' places
        evaluation.write_text(json.dumps(content))
    arguments += ["--models", *(str(folder / f"model-{n}") for n in (1, 2))]
    return [*arguments, "--evaluations", *(str(folder / f"report-{n}") for n in (1, 2))]


def spoil(path: Path, key: str, figure: str) -> None:
    """Put a figure in place of those of a key."""
    value = r"\[[^]]*\]|[^,}\s]+"
    text, count = re.subn(f'("{key}": )({value})', rf"\g<1>{figure}", path.read_text())
    assert count
    path.write_text(text)


@pytest.mark.parametrize("figure", ["NaN", "1e999", '"90"', "[true, 0, 0, 0]"])
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("model-2/metrics.json", "best_valid_accuracy"),
        ("model-2/train_log.jsonl", "loss"),
        ("report-2/metrics.json", "accuracy"),
        ("report-2/metrics.json", "questions_high"),
        ("report-2/predictions.jsonl", "probabilities"),
    ],
)
def test_a_figure_that_is_none_is_not_selected_by(
    answering: Path, tmp_path: Path, file: str, key: str, figure: str
) -> None:
    arguments = sweep(answering, tmp_path)
    spoil(tmp_path / file, key, figure)
    assert run_step(select, arguments) == DataError.exit_status
    assert not (tmp_path / "selection").exists()


def test_what_is_not_spoiled_is_selected(answering: Path, tmp_path: Path) -> None:
    assert run_step(select, sweep(answering, tmp_path)) == 0
