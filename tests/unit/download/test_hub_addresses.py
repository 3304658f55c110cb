"""hf:// addresses: a data set is packed, a model copied, each with its commit and its name."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from components.common.cli import run_step
from components.common.dataset import read_origin
from components.common.errors import ConfigError, DataError
from components.download.core import DownloadConfig, download
from components.download.fetch import state_of
from components.preprocess.__main__ import main as preprocess
from pipeline.caching import unpinned

TABLES = {
    "data/train.csv": b"article,question,A,B,answer\nOne.,Which?,one,two,A\n",
    "data/test.jsonl": b"{}\n",
    "README.md": b"---\n---\n",
}


def test_a_data_set_is_packed(hub: Any, tmp_path: Path) -> None:
    repo = hub.add("datasets/ann/exam", TABLES)
    (found,) = download(
        DownloadConfig(url=("hf://datasets/ann/exam",), output=tmp_path / "race", pack=True)
    )
    with zipfile.ZipFile(tmp_path / "race" / "content.zip") as content:
        assert {n: content.read(n) for n in content.namelist() if not n.endswith("/")} == TABLES
    assert read_origin(tmp_path / "race") == "ann/exam"
    assert found.checked == f"commit {repo.refs['main'][:12]}"


def test_a_model_is_copied(hub: Any, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights", "flax_model.msgpack": b"other"}
    files[".ipynb_checkpoints/config.json"] = b"hidden"
    hub.add("models/ann/roberta", files)
    download(DownloadConfig(url=("hf://ann/roberta",), output=tmp_path / "roberta", unpack=True))
    found = {path.name for path in (tmp_path / "roberta").iterdir()}
    assert found == {"config.json", "model.safetensors", "origin.json"}
    assert not any(path.is_symlink() for path in (tmp_path / "roberta").iterdir())
    assert read_origin(tmp_path / "roberta") == "ann/roberta"


def test_what_is_no_data_set_is_not_packed(hub: Any, tmp_path: Path) -> None:
    config = DownloadConfig(url=("hf://ann/roberta",), output=tmp_path / "race", pack=True)
    with pytest.raises(ConfigError, match="a data set is wanted here"):
        download(config)
    with pytest.raises(DataError, match="no such repository"):
        download(DownloadConfig(url=("hf://datasets/a/b",), output=tmp_path / "race", pack=True))
    with pytest.raises(ConfigError, match="not an address of the Hugging Face hub"):
        DownloadConfig(url=("hf://bert",), output=tmp_path / "race")
    assert not (tmp_path / "race").exists()


def test_the_cache_asks_for_the_commit(hub: Any) -> None:
    repo = hub.add("datasets/ann/exam", TABLES)
    before = state_of("hf://datasets/ann/exam")
    assert before == repo.refs["main"]
    repo.commit({"data/train.csv": b"other"})
    assert state_of("hf://datasets/ann/exam") not in ("", before)
    assert state_of("hf://datasets/ann/nothing") == ""

    def open_questions(address: str) -> list[str]:
        return unpinned({"race_url": address, "mirror_uri": ""}, "download-race")

    assert open_questions("hf://datasets/ann/exam@v1") == ["hf://datasets/ann/exam@v1"]
    assert open_questions(f"hf://datasets/ann/exam@{before}") == []


def test_preprocess_by_hand_reads_one(hub: Any, tmp_path: Path) -> None:
    rows = "".join(f"Passage {n}.,Which?,one,two,{'AB'[n % 2]}\n" for n in range(4))
    table = f"article,question,A,B,answer\n{rows}".encode()
    hub.add("datasets/ann/exam", {f"{split}.csv": table for split in ("train", "dev", "test")})
    arguments = ["--race=hf://datasets/ann/exam@main", f"--output={tmp_path / 'text'}"]
    assert run_step(preprocess, arguments) == 0
    assert (tmp_path / "text" / "train.label").read_text() == "0\n1\n0\n1\n"
