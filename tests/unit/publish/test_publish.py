"""The step after the gate: a model in object storage or on the hub, whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.common import storage
from components.common.cli import run_step
from components.common.errors import ConfigError, OutputError, RaceError
from components.export.core import ExportConfig, export
from components.predict.__main__ import main as predict_main
from components.publish.__main__ import main as publish_main
from components.publish.core import PublishConfig, publish
from tests.hub import TOKEN

# huggingface_hub's own, of the HTTP library that it uses.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

HF = "hf://owner/name"
ASKED = {"article": "Ann has a cat.", "question": "Ann has a _.", "options": list("wxyz")}


def config(run: Path, uri: str, run_id: str = "run-1") -> PublishConfig:
    """As the pipeline has it: each input a folder of its own."""
    parts = {name: run / name for name in ("model", "bpe")}
    return PublishConfig(**parts, evaluation=run / "report", publish_uri=uri, run_id=run_id)


def answers(model: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    asked = [f"--{name}" for name in ("passage", "question")]
    words = [*zip(asked, (ASKED["article"], ASKED["question"]), strict=True)]
    options = [("--option", one) for one in ASKED["options"]]
    flat = [word for pair in [*words, *options] for word in pair]
    capsys.readouterr()
    assert run_step(predict_main, ["--model", model, *flat]) == 0
    return {"table": capsys.readouterr().out}


@pytest.fixture
def token(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def other(answering: Path, tmp_path: Path) -> Path:
    """A run with another model."""
    run = tmp_path / "other"
    for name in ("model", "bpe", "report"):
        shutil.copytree(answering / name, run / name)
    path = run / "model" / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "questions": 7}))
    return run


def test_in_object_storage_each_run_is_an_artifact_that_predict_reads(
    answering: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = publish(config(answering, f"s3://{bucket}/models/"))
    assert done.address == f"s3://{bucket}/models/run-1"
    assert answers(done.address, capsys) == answers(str(answering), capsys)
    found = storage.find(done.address)
    assert found is not None
    assert found.manifest.size == done.bytes
    names = {file.path for file in found.manifest.files}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert {"training/metrics.json", "evaluation/metrics.json", "vocabulary.json"} <= names
    assert found.manifest.producer["parameters.learning_rate"] == 0.003
    assert {len(str(found.manifest.inputs[name])) for name in ("encoder.json", "dict.txt")} == {64}


def test_the_same_again_changes_nothing_and_another_is_refused(
    answering: Path, other: Path, bucket: str
) -> None:
    uri = f"s3://{bucket}/models"
    publish(config(answering, uri))
    before = storage.find(f"{uri}/run-1")
    assert publish(config(answering, uri)).address == f"{uri}/run-1"
    with pytest.raises(OutputError, match="another artifact has been published here"):
        publish(config(other, uri))
    assert storage.find(f"{uri}/run-1") == before
    publish(config(other, uri, "run-2"))
    assert storage.find(f"{uri}/run-1") == before


@pytest.mark.usefixtures("token")
def test_on_the_hub_each_run_is_a_commit_with_its_tag(
    answering: Path, other: Path, hub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    done = publish(config(answering, HF))
    assert done.address == f"{HF}@run-1"
    repo = hub.repos["models/owner/name"]
    assert repo.private
    first = repo.files("run-1")
    assert first == repo.files()
    assert {"README.md", "model.safetensors", ".gitattributes"} <= first.keys()
    assert "POST /api/validate-yaml" in hub.asked, "the card has been validated"
    assert answers(done.address, capsys) == answers(str(answering), capsys)

    commits = len(repo.commits)
    assert publish(config(answering, HF)) == done
    assert len(repo.commits) == commits
    with pytest.raises(OutputError, match="run-1: something else has been published here"):
        publish(config(other, HF))
    assert repo.files() == first

    repo.commit({**first, "left over": b"x"})
    assert publish(config(other, HF, "run-2")).address == f"{HF}@run-2"
    assert "left over" not in repo.files("run-2")
    assert repo.files("run-1") == first != repo.files("run-2") == repo.files()


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(
    "broken", ["preupload", "objects/batch", "PUT /storage", "/commit/", "/tag/"]
)
def test_what_fails_on_the_way_leaves_no_half_version(
    answering: Path, other: Path, hub: Any, broken: str
) -> None:
    publish(config(answering, HF))
    repo = hub.repos["models/owner/name"]
    first = repo.files()
    hub.blobs.clear()
    hub.fail[broken] = 403
    with pytest.raises(RaceError, match=r"hf://owner/name: the hub answered 403") as raised:
        publish(config(other, HF, "run-2"))
    assert "\n" not in str(raised.value)
    assert "run-2" not in repo.refs
    assert repo.files("run-1") == first
    assert (repo.files() == first) == (broken != "/tag/"), "a commit is whole, or is not there"
    hub.fail.clear()
    assert publish(config(other, HF, "run-2")).address == f"{HF}@run-2"
    assert repo.files("run-2") == repo.files()


def test_without_a_token_nothing_is_published(answering: Path, hub: Any) -> None:
    with pytest.raises(RaceError, match=r"the hub answered 401") as raised:
        publish(config(answering, HF))
    assert "Set HF_TOKEN" in raised.value.hint
    assert hub.repos == {}


def test_without_an_address_it_does_nothing(answering: Path) -> None:
    assert publish(config(answering, "")).address == ""


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("gs://bucket/x", "publish_uri: gs://"),
        ("hf://owner", "not an address of the Hugging Face hub"),
        ("hf://datasets/owner/name", "a model is wanted here"),
        ("hf://owner/name@main", "the revision is not yours to choose"),
    ],
)
def test_an_address_that_cannot_be_is_refused_at_once(uri: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PublishConfig(Path("model"), publish_uri=uri)


def test_half_precision_is_that_of_the_training(other: Path, tmp_path: Path) -> None:
    sizes = []
    for precision in ("fp32", "fp16"):
        path = other / "model" / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["parameters"]["precision"] = precision
        path.write_text(json.dumps(metrics))
        publish(config(other, str(tmp_path / "models"), precision))
        storage.fetch(str(tmp_path / "models" / precision), tmp_path / precision)
        sizes.append((tmp_path / precision / "model.safetensors").stat().st_size)
    assert 0.45 < sizes[1] / sizes[0] < 0.55


def test_by_hand_a_run_s_folder_is_enough(answering: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(answering), "--publish-uri", str(tmp_path / "models" / "one")]
    assert run_step(publish_main, arguments) == 0
    assert storage.find(str(tmp_path / "models" / "one"))


def test_the_address_in_a_folder_is_what_predict_takes(
    answering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = publish(config(answering, str(tmp_path / "models"))).address
    assert answers(address, capsys) == answers(str(answering), capsys)
    assert run_step(predict_main, ["--model", address, "--input", os.devnull]) == 0
    assert "to train it" not in capsys.readouterr().err, "of a folder that is gone by then"


@pytest.mark.usefixtures("token")
def test_export_pushes_to_the_hub_what_it_writes(answering: Path, hub: Any, tmp_path: Path) -> None:
    export(ExportConfig(answering, tmp_path / "out", push_to_hub="owner/name"))
    files = hub.repos["models/owner/name"].files()
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert files.keys() - {".gitattributes"} == written
    assert files["README.md"] == (tmp_path / "out" / "README.md").read_bytes()


def test_a_push_that_fails_says_what_to_do_with_the_folder(
    answering: Path, hub: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RaceError, match="the hub answered 401"):
        export(ExportConfig(answering, tmp_path / "out", push_to_hub="hf://owner/name"))
    assert hub.repos == {}
    assert (tmp_path / "out" / "model.safetensors").exists()
    again = f"hf upload --private owner/name {tmp_path}/out"
    assert caplog.messages[-1].endswith(f"whole; to push it without exporting again: {again}")


def test_what_is_no_repository_to_write_to_is_refused(tmp_path: Path) -> None:
    for wrong in ("name", "owner/name@main", "datasets/owner/name"):
        with pytest.raises(ConfigError):
            ExportConfig(tmp_path, tmp_path / "x", push_to_hub=wrong)
