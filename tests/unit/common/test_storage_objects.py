"""Objects that others have written: found by their address, fetched whole, removed alone."""

import os
from pathlib import Path

import pytest

from components.common import storage
from components.common.errors import DataError
from components.common.storage.store import Settings, open_store

FILES = {"model/best.pt": b"weights", "model/deep/log": b"", "model-1": b"one", "counts": b"{}"}


@pytest.fixture
def run(root: str) -> str:
    store = open_store(root, Settings())
    for key, data in FILES.items():
        store.write(key, data, exclusive=False)
    return root


def fetched(uri: str, folder: Path) -> dict[str, bytes]:
    storage.fetch_objects(uri, storage.sizes(uri), folder, lambda _: None)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_an_address_is_one_object_or_a_folder_of_them(run: str, tmp_path: Path) -> None:
    assert storage.sizes(f"{run}/model") == {"model/best.pt": 7, "model/deep/log": 0}
    assert storage.sizes(f"{run}/counts") == {"counts": 2}
    assert storage.sizes(f"{run}/none") == {}
    assert set(storage.sizes(f"{run}/model", siblings=True)) == {n for n in FILES if "m" in n}
    assert storage.read_small(f"{run}/counts", 10) == b"{}"
    assert storage.read_small(f"{run}/none", 10) is None
    wanted = {name: data for name, data in FILES.items() if name.startswith("model/")}
    assert fetched(f"{run}/model", tmp_path / "a") == wanted
    assert fetched(f"{run}/counts", tmp_path / "b") == {"counts": b"{}"}


def test_what_is_there_in_its_size_is_not_fetched_again(run: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "best.pt").write_bytes(b"earlier")
    (tmp_path / "model" / ".best.pt.partial").write_bytes(b"ear")
    found = fetched(f"{run}/model", tmp_path)
    assert found["model/best.pt"] == b"earlier"
    assert found["model/deep/log"] == b""


def test_an_object_that_changed_is_not_taken(run: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        storage.fetch_objects(f"{run}/counts", {"counts": 3}, tmp_path, lambda _: None)
    assert not (tmp_path / "counts").exists()


@pytest.mark.parametrize("key", ["model/../../up", "model//x", "model/a\nb"])
def test_a_key_leads_nowhere_else(root: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="model"):
        storage.fetch_objects(f"{root}/model", {key: 1}, tmp_path / "here", lambda _: None)
    assert os.listdir(tmp_path) in ([], ["store"])


def test_only_what_lies_at_the_address_is_removed(run: str) -> None:
    storage.remove_objects(f"{run}/model")
    assert set(open_store(run, Settings()).sizes()) == {"model-1", "counts"}
