"""hf:// addresses, against a hub of our own."""

import logging
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError, DataError, TransferError
from components.common.hub import Repository, commit_of, fetch, parse
from tests.hub import TOKEN

FILES = {"README.md": b"# a card\n", "data/train.jsonl": b"{}\n", "data/test.parquet": b"PAR1"}


@pytest.mark.parametrize(
    ("address", "repository"),
    [
        ("hf://owner/model", Repository("owner/model")),
        ("hf://owner/model@v1.0", Repository("owner/model", "v1.0")),
        ("hf://owner/model@refs/pr/1", Repository("owner/model", "refs/pr/1")),
        ("hf://datasets/ehovy/race", Repository("ehovy/race", dataset=True)),
        ("hf://datasets/ehovy/race@main", Repository("ehovy/race", "main", True)),
    ],
)
def test_an_address_names_a_repository(address: str, repository: Repository) -> None:
    assert parse(address) == repository
    assert str(repository) == address


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://model",
        "hf://a/b/c",
        "hf://a/b@",
        "hf://a/b@-x",
        "hf://../b",
        "hf://datasets/x",
        "hf://a/b c",
        "hf://a--b/c",
        "hf://a/b\n",
        "hf://datasets/a/b/c",
        "https://a/b",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"not an address of the Hugging Face hub"):
        parse(address)


def test_a_data_set_is_no_model() -> None:
    with pytest.raises(ConfigError, match=r"a model is wanted here"):
        parse("hf://datasets/a/b", dataset=False)
    with pytest.raises(ConfigError, match=r"a data set is wanted here"):
        parse("hf://a/b", dataset=True)


def test_a_data_set_comes_whole_and_once(hub: Any) -> None:
    repo = hub.add("datasets/owner/exam", FILES)
    one = Repository("owner/exam", dataset=True)
    folder = fetch(one)
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == FILES
    assert commit_of(one) == folder.name == repo.refs["main"]
    hub.asked.clear()
    assert fetch(one) == folder
    assert not [line for line in hub.asked if "/storage/" in line or "GET /datasets" in line]


def test_requests_are_not_told_of_one_by_one(hub: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hub.add("datasets/owner/exam", FILES)
    fetch(Repository("owner/exam", dataset=True))
    assert hub.asked
    assert "HTTP Request" not in caplog.text


@pytest.mark.usefixtures("hub")
def test_large_files_storage_that_cannot_be_reached_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreached(*_: Any, **__: Any) -> None:
        raise ConnectionError("Network error: error sending request")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreached)
    with pytest.raises(TransferError, match=r"hf://owner/x: the hub cannot be reached.*Network"):
        fetch(Repository("owner/x"))


def test_a_revision_is_what_it_was(hub: Any) -> None:
    repo = hub.add("datasets/owner/exam", FILES)
    repo.refs["v1"] = repo.refs["main"]
    repo.commit({"other": b"x"})
    assert (fetch(Repository("owner/exam", "v1", True)) / "README.md").is_file()
    assert not (fetch(Repository("owner/exam", "", True)) / "README.md").exists()


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_of_a_model_one_form_comes(hub: Any, weights: str) -> None:
    files = {"config.json": b"{}", weights: b"w", "pytorch_model.bin": b"p", "flax_model.bin": b"f"}
    hub.add("models/owner/model", files)
    folder = fetch(Repository("owner/model"))
    assert {p.name for p in folder.iterdir()} == {"config.json", weights}


def test_a_private_repository_wants_the_token(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("datasets/owner/secret", FILES, private=True)
    one = Repository("owner/secret", dataset=True)
    with pytest.raises(DataError, match=r"no such repository, or a private one.*HF_TOKEN"):
        fetch(one)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (fetch(one) / "README.md").is_file()


def test_what_cannot_be_fetched_is_said_in_one_line(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = hub.add("models/owner/gated", {"config.json": b"{}"}, gated=True)
    with pytest.raises(DataError, match=r"hf://owner/gated: is gated. Accept its terms"):
        fetch(Repository("owner/gated"))
    repo.gated = False
    with pytest.raises(DataError, match=r"hf://owner/gated@v9: has no such revision"):
        fetch(Repository("owner/gated", "v9"))
    with pytest.raises(DataError, match=r"hf://owner/none: no such repository"):
        fetch(Repository("owner/none"))
    hub.fail["GET /api/models"] = 500
    with pytest.raises(TransferError, match=r"the hub cannot be reached.*500"):
        fetch(Repository("owner/gated"))


def test_offline_the_cache_answers_alone(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.add("datasets/owner/exam", FILES)
    one = Repository("owner/exam", dataset=True)
    folder = fetch(one)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(one) == folder
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set, and it is not in the cache"):
        fetch(Repository("owner/other", dataset=True))
    assert hub.asked == []


def test_nobody_there_is_no_traceback(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TransferError, match=r"the hub cannot be reached"):
        fetch(Repository("owner/exam", dataset=True))
    with pytest.raises(TransferError, match=r"the hub cannot be reached"):
        commit_of(Repository("owner/exam", dataset=True))


def test_a_path_keeps_the_address(hub: Any, tmp_path: Path) -> None:
    from components.common.remote import address

    assert address(Path("hf://owner/model@v1")) == "hf://owner/model@v1"
