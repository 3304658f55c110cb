"""What dead publishers left goes, at once or after a long silence; what lives stays."""

import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from stores import QUICK, keys, pruned, small

from components.common import processes, storage
from components.common.errors import TransferError
from components.common.storage import liveness, publication, retention
from components.common.storage.folder import FolderStore
from components.common.storage.store import open_store, parse_address

ELSEWHERE = "another-machine pid:[1] 1 1"


@pytest.fixture(scope="module")
def dead() -> str:
    """The identity of a process of this machine that has ended."""
    code = "from components.common.processes import identity; print(identity())"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    ).stdout.strip()


def abandon(address: str, process: str, name: str = "update-5") -> str:
    """Leave what a killed publisher leaves: files, parts of an upload, its sign of life."""
    owner = secrets.token_hex(4)
    store = open_store(address, QUICK)
    store.touch(f"alive-{owner}", process.encode())
    key = f"{name}/20990101T000000-{owner}0000"
    store.touch(f"{key}/checkpoint.pt", b"half")
    place = parse_address(address)
    if place.bucket:
        boto3.client("s3", region_name="us-east-1").create_multipart_upload(
            Bucket=place.bucket, Key=f"{place.path}/{key}/checkpoint_best.pt"
        )
    return owner


def left(address: str, owner: str) -> list[str]:
    """All that is still there of a publisher."""
    return [k for k in [*keys(address), *open_store(address, QUICK).uploads()] if owner in k]


def publish_one(address: str, folder: Path, keep: int = 2) -> None:
    publisher = storage.Publisher(address, keep=keep, settings=QUICK)
    publisher.submit(small(folder), "update-6")
    publisher.close()


def test_a_killed_attempt_at_the_same_run_is_cleared_at_once(
    root: str,
    tmp_path: Path,
    dead: str,
) -> None:
    owners = [abandon(root + "/run", dead) for _ in range(2)]
    # One that had got as far as its manifest is an artifact, and stays.
    storage.publish(small(tmp_path / "whole"), root + "/run/update-4", settings=QUICK)
    publish_one(root + "/run", tmp_path / "in")
    assert not [key for owner in owners for key in left(root + "/run", owner)]
    assert [a.name for a in storage.artifacts(root + "/run", settings=QUICK)] == [
        "update-6",
        "update-4",
    ]
    assert len(keys(root)) == 4  # nobody's sign of life either


@pytest.mark.parametrize(
    "remove", [storage.remove_all, lambda uri, **more: pruned(uri, keep=1, **more)]
)
def test_what_a_removal_leaves_that_is_killed_halfway_goes_with_the_next(
    root: str, tmp_path: Path, dead: str, remove: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for update in (4, 5, 6):
        storage.publish(small(tmp_path / "in"), f"{root}/update-{update}", settings=QUICK)
    before = keys(root)
    with monkeypatch.context() as killed:
        killed.setattr(liveness, "identity", lambda: dead)
        kind = type(open_store(root, QUICK))
        killed.setattr(kind, "remove_folder", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            remove(root, settings=QUICK)
    assert [key for key in before if key not in keys(root)] == ["update-4/manifest.json"]
    storage.remove_all(root, settings=QUICK)
    assert keys(root) == []


def test_an_attempt_of_another_machine_is_dead_when_it_stays_silent(
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = abandon(root, ELSEWHERE)
    publish_one(root, tmp_path / "in")
    assert left(root, owner)
    monkeypatch.setattr(liveness, "WATCHED", 1.0)
    monkeypatch.setattr(retention, "WATCHED", 1.0)
    storage.remove_all(root, settings=QUICK)
    assert keys(root) == []


def test_a_slow_store_does_not_keep_a_dead_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandon(str(tmp_path), ELSEWHERE)
    stamps = FolderStore.stamps

    def slow(store: FolderStore, start: str = "") -> dict[str, float]:
        time.sleep(0.6)
        return stamps(store, start)

    for module in (liveness, retention):
        monkeypatch.setattr(module, "WATCHED", 1.0)
    monkeypatch.setattr(FolderStore, "stamps", slow)
    storage.remove_all(str(tmp_path), settings=QUICK)
    assert keys(str(tmp_path)) == []


def test_an_attempt_of_another_machine_that_gives_signs_of_life_is_not_touched(
    root: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (liveness, retention):
        monkeypatch.setattr(module, "WATCHED", 3.0)
    owner = abandon(root, ELSEWHERE)
    before = left(root, owner)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.5):
            open_store(root, QUICK).touch(f"alive-{owner}", ELSEWHERE.encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        storage.remove_all(root, settings=QUICK)
        assert left(root, owner) == before
    finally:
        ended.set()
        thread.join()


def test_what_another_run_left_goes_only_when_it_is_stale(
    root: str,
    tmp_path: Path,
    dead: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = abandon(root + "/other", dead)
    publish_one(root + "/run", tmp_path / "1")
    assert left(root, owner)
    monkeypatch.setattr(liveness, "STALE", 1.0)
    time.sleep(2.1)  # the stamps of S3 are whole seconds
    publish_one(root + "/run", tmp_path / "2")
    assert not left(root, owner)


def test_of_two_publishers_at_once_neither_touches_what_the_other_is_at(
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = publication._commit
    reached, go = threading.Event(), threading.Event()

    def slow(store: Any, *arguments: Any) -> Any:
        if store.address.endswith("update-1"):
            reached.set()
            go.wait(60)
        return commit(store, *arguments)

    monkeypatch.setattr(publication, "_commit", slow)
    first = storage.Publisher(root, keep=2, settings=QUICK)
    first.submit(small(tmp_path / "1"), "update-1")
    assert reached.wait(30)
    publish_one(root, tmp_path / "2", keep=1)
    pruned(root, keep=1)
    storage.remove_all(root, settings=QUICK)
    go.set()
    first.close()
    assert [a.name for a in storage.artifacts(root, settings=QUICK)] == ["update-1"]
    storage.verify(root + "/update-1", settings=QUICK)
    assert len(keys(root)) == 2


def test_a_publisher_that_was_taken_for_dead_notices(
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = publication._commit

    def cleared(store: Any, data: bytes, folder: str, *arguments: Any) -> Any:
        store.remove_folder(folder)
        return commit(store, data, folder, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(publication, "_commit", cleared)
        with pytest.raises(TransferError, match="were removed while"):
            storage.publish(small(tmp_path / "in"), root + "/a", settings=QUICK)
    assert storage.find(root + "/a", settings=QUICK) is None
    storage.publish(tmp_path / "in", root + "/a", settings=QUICK)


def test_processes_know_each_other(dead: str) -> None:
    assert processes.lives(processes.identity()) is True
    assert processes.lives(dead) is False
    for unknown in ("", ELSEWHERE, "nonsense", "a b c"):
        assert processes.lives(unknown) is None
