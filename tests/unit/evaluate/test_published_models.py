"""--model takes what export writes: a folder, an s3:// address, a repository of the hub."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.common import storage
from components.common.cli import run_step
from components.common.errors import DataError
from components.evaluate.__main__ import main as evaluate_main
from components.evaluate.trained import as_run, find_trained
from components.export.__main__ import main as export_main
from components.export.core import ExportConfig, export
from components.predict.__main__ import main as predict_main
from components.predict.core import Reader

ASKED = {"article": "Ann has a cat.", "question": "Ann has a _.", "options": list("wxyz")}


@pytest.fixture(scope="module")
def exported(answering: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "model"
    export(ExportConfig(answering, output))
    return output


@pytest.fixture(params=["folder", "s3", "hf"])
def address(request: pytest.FixtureRequest, exported: Path) -> str:
    if request.param == "s3":
        uri = f"s3://{request.getfixturevalue('bucket')}/models/one"
        storage.publish(exported, uri)
        return uri
    if request.param == "hf":
        hub = request.getfixturevalue("hub")
        repo = hub.add_folder("models/owner/model", exported)
        repo.refs["v1"] = repo.refs["main"]
        return "hf://owner/model@v1"
    return str(exported)


def predicted(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps(ASKED))
    capsys.readouterr()
    assert run_step(predict_main, ["--model", model, "--input", str(questions)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_predict_answers_as_from_the_run(
    address: str, answering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = predicted(str(answering), tmp_path, capsys)
    assert predicted(address, tmp_path, capsys) == ours


def test_evaluate_gives_the_same_figures(address: str, answering: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(answering / "data"), "--output", str(tmp_path / "again")]
    assert run_step(evaluate_main, ["--model", address, *arguments]) == 0
    ours, theirs = (
        json.loads((folder / "metrics.json").read_text())
        for folder in (answering / "report", tmp_path / "again")
    )
    for name in ("accuracy", "accuracy_middle", "accuracy_high", "chance", "questions"):
        assert theirs[name] == ours[name]
    if "://" not in address:
        assert theirs["parameters"]["model"] == address, "not what it was unpacked to"


def test_export_gives_the_same_files(address: str, exported: Path, tmp_path: Path) -> None:
    assert run_step(export_main, ["--model", address, "--output", str(tmp_path / "again")]) == 0
    for path in (p for p in exported.rglob("*") if p.is_file()):
        name = path.relative_to(exported)
        assert (tmp_path / "again" / name).read_bytes() == path.read_bytes(), name


def test_a_run_s_folder_is_taken_by_evaluate_too(answering: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(answering / "data"), "--output", str(tmp_path / "again")]
    assert run_step(evaluate_main, ["--model", str(answering), *arguments]) == 0


def test_what_is_made_of_it_is_gone_afterwards(exported: Path) -> None:
    with as_run(exported) as run:
        reader = Reader(find_trained(run), "fp32")
        assert find_trained(run).training.updates
        assert find_trained(run).evaluation.scores.groups
    assert not run.exists()
    assert reader.model.options == 4


def test_paths_of_this_machine_are_not_exported(answering: Path, exported: Path) -> None:
    for path in (p for p in exported.rglob("*") if p.suffix in (".json", ".md")):
        assert str(answering.parent) not in path.read_text(), path


def test_a_model_of_another_kind_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match="model_type"), as_run(tmp_path):
        pytest.fail("it was taken")
