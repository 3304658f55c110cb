"""Artifacts in both kinds of store: whole or not there, the first writer wins, old ones go."""

import dataclasses
import datetime
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from stores import QUICK, content, keys, pruned, small

from components.common import manifest as manifests
from components.common import storage
from components.common.cli import run_step
from components.common.errors import ConfigError, DataError, OutputError, RaceError, TransferError
from components.common.storage.__main__ import main
from components.common.storage.publication import files_of
from components.common.storage.store import Wanted, open_store, parse_address

PUBLICATION = "20200101T000000-0123456789ab"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a large file (three parts), small and empty ones, and awkward names."""
    folder = tmp_path / "source"
    (folder / "input0" / "deep").mkdir(parents=True)
    (folder / "model.pt").write_bytes(os.urandom((11 << 20) + 17))
    (folder / "input0" / "deep" / "ünïcode #1?%20+&.txt").write_text("a")
    (folder / "input0" / "train.bin").write_bytes(os.urandom(5 << 20))
    (folder / "empty").touch()
    (folder / "manifest.json").write_text("not ours")
    return folder


def overwrite_file(root: str, key: str, data: bytes | None) -> None:
    """Change what is stored behind the back of its manifest; None removes it."""
    address = parse_address(root)
    if address.bucket is None:
        path = Path(root) / key
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        return
    client = boto3.client("s3", region_name="us-east-1")
    place = {"Bucket": address.bucket, "Key": f"{address.path}/{key}"}
    if data is None:
        client.delete_object(**place)
    else:
        client.put_object(**place, Body=data)


def test_what_is_published_is_fetched_byte_by_byte(root: str, source: Path, tmp_path: Path) -> None:
    published = storage.publish(
        source, root + "/model", producer={"step": "train"}, inputs={"race": "00"}, settings=QUICK
    )
    assert published.manifest.producer == {"step": "train"}
    assert published.manifest.inputs == {"race": "00"}
    assert published.manifest.size == sum(map(len, content(source).values()))
    fetched = storage.fetch(root + "/model", tmp_path / "output", settings=QUICK)
    assert fetched == published
    assert content(tmp_path / "output") == content(source)
    assert storage.verify(root + "/model", settings=QUICK) == published
    assert storage.find(root + "/model", settings=QUICK) == published


def test_a_single_file_keeps_its_name(root: str, source: Path, tmp_path: Path) -> None:
    storage.publish(source / "model.pt", root + "/one", settings=QUICK)
    storage.fetch(root + "/one", tmp_path / "output", settings=QUICK)
    assert content(tmp_path / "output") == {"model.pt": (source / "model.pt").read_bytes()}


def test_a_file_address_is_a_folder(tmp_path: Path) -> None:
    storage.publish(small(tmp_path / "in"), f"file://{tmp_path}/a%20b/model")
    assert storage.find(str(tmp_path / "a b" / "model"))


def test_the_same_content_may_be_published_again(root: str, tmp_path: Path) -> None:
    folder = small(tmp_path / "in")
    first = storage.publish(folder, root + "/a", producer={"try": 1}, settings=QUICK)
    before = keys(root)
    again = storage.publish(folder, root + "/a", producer={"try": 2}, settings=QUICK)
    assert again == first
    assert keys(root) == before


def test_another_content_is_refused(root: str, tmp_path: Path) -> None:
    first = storage.publish(small(tmp_path / "in"), root + "/a", settings=QUICK)
    before = keys(root)
    with pytest.raises(OutputError, match="/a: another artifact has been published"):
        storage.publish(small(tmp_path / "in", "TEXT"), root + "/a", settings=QUICK)
    assert storage.find(root + "/a", settings=QUICK) == first
    assert keys(root) == before


def test_overwriting_is_seen_at_once_and_prune_removes_what_was_there(
    root: str, tmp_path: Path
) -> None:
    first = storage.publish(small(tmp_path / "in"), root + "/a", settings=QUICK)
    second = storage.publish(
        small(tmp_path / "in", "TEXT"), root + "/a", overwrite=True, settings=QUICK
    )
    assert second.manifest.digest != first.manifest.digest
    assert storage.find(root + "/a", settings=QUICK) == second
    assert len(keys(root)) == 3
    assert pruned(root, keep=1) == []
    assert len(keys(root)) == 3  # it may be another writer's that is still at it
    pruned(root, keep=1, stale=-60)
    assert keys(root) == [f"a/{second.manifest.folder}/file.txt", "a/manifest.json"]
    assert storage.verify(root + "/a", settings=QUICK) == second


def test_overwriting_mends_what_was_damaged(root: str, tmp_path: Path) -> None:
    folder = small(tmp_path / "in")
    artifact = storage.publish(folder, root + "/a", settings=QUICK)
    overwrite_file(root, f"a/{artifact.manifest.folder}/file.txt", b"TEXT")
    with pytest.raises(DataError, match="Publish it again in its place"):
        storage.verify(root + "/a", settings=QUICK)
    storage.publish(folder, root + "/a", overwrite=True, settings=QUICK)
    storage.verify(root + "/a", settings=QUICK)


def test_of_two_writers_at_once_one_wins_and_the_other_is_told(root: str, tmp_path: Path) -> None:
    writers = 4
    barrier = threading.Barrier(writers)
    outcomes: list[str] = []

    def write(number: int) -> None:
        folder = small(tmp_path / f"in{number}", f"text of {number}")
        barrier.wait()
        try:
            storage.publish(folder, root + "/a", settings=QUICK)
            outcomes.append(f"text of {number}")
        except OutputError:
            outcomes.append("refused")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[:-1] == ["refused"] * (writers - 1)
    storage.fetch(root + "/a", tmp_path / "output", settings=QUICK)
    assert (tmp_path / "output" / "file.txt").read_text() == max(outcomes)
    assert len(keys(root)) == 2  # the others took their files away


def test_writers_of_the_same_content_all_succeed(root: str, tmp_path: Path) -> None:
    folder = small(tmp_path / "in")
    barrier = threading.Barrier(4)
    found: list[storage.Artifact] = []

    def write() -> None:
        barrier.wait()
        found.append(storage.publish(folder, root + "/a", settings=QUICK))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({a.manifest.folder for a in found}) == 1
    assert len(keys(root)) == 2


def test_without_a_manifest_there_is_nothing(root: str, tmp_path: Path) -> None:
    open_store(root + "/a", QUICK).upload(
        [(small(tmp_path / "in") / "file.txt", f"{PUBLICATION}/file.txt")], lambda _: None
    )
    assert storage.find(root + "/a", settings=QUICK) is None
    assert storage.newest(root, settings=QUICK) is None
    with pytest.raises(DataError, match="no complete artifact"):
        storage.fetch(root + "/a", tmp_path / "output", settings=QUICK)
    with pytest.raises(DataError, match="no complete artifact"):
        storage.verify(root + "/a", settings=QUICK)
    assert not (tmp_path / "output").exists()
    storage.publish(tmp_path / "in", root + "/a", settings=QUICK)
    assert len(keys(root)) == 2  # what lay there was of a publisher that is dead


Damage = Callable[[bytes], bytes | None]
DAMAGES: dict[str, Damage] = {
    "flipped": lambda data: data[:9_000_000] + bytes([data[9_000_000] ^ 1]) + data[9_000_001:],
    "short": lambda data: data[:-1],
    "long": lambda data: data + b"x",
    "empty": lambda data: b"",
    "gone": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_never_handed_out(
    root: str, source: Path, tmp_path: Path, damage: Damage
) -> None:
    artifact = storage.publish(source, root + "/a", settings=QUICK)
    key = f"a/{artifact.manifest.folder}/model.pt"
    overwrite_file(root, key, damage((source / "model.pt").read_bytes()))
    for check in (
        lambda: storage.fetch(root + "/a", tmp_path / "output", settings=QUICK),
        lambda: storage.verify(root + "/a", settings=QUICK),
    ):
        with pytest.raises(DataError, match=r"model\.pt"):
            check()
    assert not list(tmp_path.glob("*output*"))


@pytest.mark.parametrize("data", [b"", b"{}", b"<html>", b"[" * 100_000])
def test_a_damaged_manifest_is_a_clear_error(root: str, tmp_path: Path, data: bytes) -> None:
    storage.publish(small(tmp_path / "in"), root + "/a", settings=QUICK)
    overwrite_file(root, "a/manifest.json", data)
    with pytest.raises(DataError, match=r"manifest\.json is not a valid manifest"):
        storage.fetch(root + "/a", tmp_path / "output", settings=QUICK)
    with pytest.raises(DataError, match="not a valid manifest"):
        storage.publish(tmp_path / "in", root + "/a", settings=QUICK)
    storage.publish(tmp_path / "in", root + "/a", overwrite=True, settings=QUICK)
    storage.verify(root + "/a", settings=QUICK)


def test_a_huge_manifest_is_not_read(root: str, tmp_path: Path) -> None:
    storage.publish(small(tmp_path / "in"), root + "/a", settings=QUICK)
    overwrite_file(root, "a/manifest.json", b" " * (manifests.MAX_BYTES + 1))
    with pytest.raises(DataError, match="larger than"):
        storage.find(root + "/a", settings=QUICK)


def test_the_newest_is_the_highest_number(root: str, tmp_path: Path) -> None:
    for name in ("update-9", "update-100", "update-20"):
        storage.publish(small(tmp_path / name, name), f"{root}/{name}", settings=QUICK)
    names = [a.name for a in storage.artifacts(root, settings=QUICK)]
    assert names == ["update-100", "update-20", "update-9"]
    newest = storage.newest(root, settings=QUICK)
    assert newest
    assert newest.name == "update-100"
    assert newest.address.endswith("/update-100")


def test_prune_keeps_the_newest_and_all_that_is_not_ours(root: str, tmp_path: Path) -> None:
    for number in range(5):
        storage.publish(small(tmp_path / str(number)), f"{root}/update-{number}", settings=QUICK)
    store = open_store(root, QUICK)
    mine = tmp_path / "0" / "file.txt"
    store.upload([(mine, "notes/file.txt"), (mine, "update-0/notes/file.txt")], lambda _: None)
    # What a killed publisher leaves.
    store.upload(
        [(mine, f"update-3/{PUBLICATION}/x"), (mine, f"dead/{PUBLICATION}/x")], lambda _: None
    )
    young = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-0123456789ab"
    store.upload([(mine, f"update-5/{young}/x")], lambda _: None)
    assert pruned(root, keep=2) == ["update-2", "update-1", "update-0"]
    assert [a.name for a in storage.artifacts(root, settings=QUICK)] == ["update-4", "update-3"]
    left = {"/".join(k.split("/")[:2]) for k in keys(root) if not k.startswith("update-4")}
    assert left >= {"notes/file.txt", "update-0/notes", f"update-5/{young}"}
    assert not any(PUBLICATION in key for key in left)
    for name in ("update-4", "update-3"):
        storage.verify(f"{root}/{name}", settings=QUICK)


def test_prune_gives_up_multi_part_uploads_that_nobody_ended(bucket: str, tmp_path: Path) -> None:
    client = boto3.client("s3", region_name="us-east-1")
    key = f"runs/update-1/{PUBLICATION}/model.pt"
    client.create_multipart_upload(Bucket=bucket, Key=key)
    client.create_multipart_upload(Bucket=bucket, Key="others/file")
    pruned(f"s3://{bucket}/runs", keep=1)
    left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["others/file"]


def test_the_newest_whole_one_is_fetched(
    root: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert storage.fetch_newest(root, tmp_path / "none", settings=QUICK) is None
    for number in (1, 2, 3):
        folder = small(tmp_path / str(number), f"text {number}")
        storage.publish(folder, f"{root}/update-{number}", settings=QUICK)
    (file,) = [k for k in keys(root) if k.startswith("update-3/") and k.endswith(".txt")]
    overwrite_file(root, file, b"TEXT 3")
    overwrite_file(root, "update-2/manifest.json", b"{")
    found = storage.fetch_newest(root, tmp_path / "output", settings=QUICK)
    assert found
    assert found.name == "update-1"
    assert (tmp_path / "output" / "file.txt").read_text() == "text 1"
    assert "update-3" in caplog.text
    assert "update-2" in caplog.text

    overwrite_file(root, "update-1/manifest.json", b"{")
    with pytest.raises(DataError, match="update-3, update-2, update-1 are damaged"):
        storage.fetch_newest(root, tmp_path / "more", settings=QUICK)
    assert not (tmp_path / "more").exists()


def test_an_artifact_may_stand_for_the_newest(root: str, tmp_path: Path) -> None:
    storage.publish(small(tmp_path / "in"), root + "/a", settings=QUICK)
    found = storage.fetch_newest(root + "/a", tmp_path / "output", settings=QUICK)
    assert found
    assert found.name == "a"


def test_an_output_with_something_in_it_is_refused(root: str, tmp_path: Path) -> None:
    storage.publish(small(tmp_path / "in"), root + "/a", settings=QUICK)
    with pytest.raises(FileExistsError):
        storage.fetch(root + "/a", small(tmp_path / "output"), settings=QUICK)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file or folder"),
        (lambda p: p.mkdir(), "holds no file"),
        (lambda p: (p.mkdir(), (p / "l").symlink_to("/etc/passwd")), "link or special file"),
        (lambda p: (p.mkdir(), (p / "l").symlink_to("/etc")), "link or special file"),
        (lambda p: (p.mkdir(), os.mkfifo(p / "fifo")), "link or special file"),
        (lambda p: (p.mkdir(), (p / "a\nb").touch()), "cannot be published"),
        (lambda p: (p.mkdir(), (p / "a\\b").touch()), "cannot be published"),
        (lambda p: (p.mkdir(), (p / os.fsdecode(b"\xff")).touch()), "cannot be published"),
    ],
)
def test_what_cannot_be_published_is_refused(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "in")
    with pytest.raises(RaceError, match=message):
        storage.publish(tmp_path / "in", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "uri",
    [
        *("", "s3://", "s3:///key", "s3://bucket", "s3://bucket/", "s3://b/key", "s3://bu cket/k"),
        *("s3://bucket/a/../b", "s3://bucket/a//b", "s3://user:secret@bucket/key", "gs://bucket/k"),
        *("https://user:secret@host/key?X-Amz-Signature=secret", "file://host/folder"),
    ],
)
def test_a_wrong_address_is_refused_and_never_shows_a_secret(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        storage.publish(small(tmp_path / "in"), uri)
    assert "secret" not in str(refused.value)


def test_stopping_ends_a_transfer(root: str, source: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    store = open_store(root, QUICK, stop)
    files = list(files_of(source).values())
    store.upload([(path, path.name) for path in files], lambda _: None)
    stop.set()
    with pytest.raises(TransferError, match="stopped"):
        store.upload([(path, f"b/{path.name}") for path in files], lambda _: None)
    wanted = Wanted("model.pt", tmp_path / "output", (source / "model.pt").stat().st_size)
    with pytest.raises(TransferError, match="stopped"):
        store.download([wanted], lambda _: None)


def test_a_file_that_changes_meanwhile_is_refused(bucket: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("small")
    (folder / "large").write_bytes(bytes(6 << 20))
    growing = threading.Event()

    class Growing(threading.Event):
        """Asked between two parts, it is the moment for somebody to write to the file."""

        def is_set(self) -> bool:
            if not growing.is_set():
                growing.set()
                with (folder / "large").open("ab") as file:
                    file.write(b"x")
            return False

    store = open_store(f"s3://{bucket}/x", QUICK, Growing())
    with pytest.raises(DataError, match="changed while it was being published"):
        store.upload([(folder / "a.txt", "a"), (folder / "large", "b")], lambda _: None)


def test_without_conditional_writes_a_conflict_is_still_found(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.common.storage.failures import AnswerError
    from components.common.storage.s3 import S3Store

    ask = S3Store._ask

    def old_service(self: S3Store, operation: str, key: str, **request: object) -> object:
        if "IfNoneMatch" in request:
            raise AnswerError(501, "NotImplemented", "object storage failed", hint="", passes=False)
        return ask(self, operation, key, **request)

    monkeypatch.setattr(S3Store, "_ask", old_service)
    storage.publish(small(tmp_path / "in"), f"s3://{bucket}/a", settings=QUICK)
    store = open_store(f"s3://{bucket}/a", QUICK)
    assert not store.write(manifests.NAME, b"other", exclusive=True)
    assert storage.verify(f"s3://{bucket}/a", settings=QUICK)


def test_without_hard_links_a_conflict_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage.publish(small(tmp_path / "in"), str(tmp_path / "a"))
    assert not open_store(str(tmp_path / "a"), QUICK).write("manifest.json", b"", exclusive=True)
    assert storage.verify(str(tmp_path / "a"))


def test_memory_stays_bounded(bucket: str, tmp_path: Path) -> None:
    """96 MiB go up and come down with two workers and parts of 5 MiB."""
    with (tmp_path / "large").open("wb") as file:
        for _ in range(12):
            file.write(os.urandom(1 << 20) * 8)
    script = f"""
import resource
from pathlib import Path
from components.common import storage
settings = storage.Settings(part=5 << 20, workers=2)
here = Path({str(tmp_path)!r})
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
storage.publish(here / "small", "s3://{bucket}/small", settings=settings)
before = peak()
storage.publish(here / "large", "s3://{bucket}/large", settings=settings)
storage.fetch("s3://{bucket}/large", here / "output", settings=settings)
print((peak() - before) / 1024)
"""
    (tmp_path / "small").write_text("x")
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert float(done.stdout) < 50  # MiB
    assert (tmp_path / "output" / "large").read_bytes() == (tmp_path / "large").read_bytes()


# The publisher


def test_the_publisher_publishes_prunes_and_removes_its_sources(root: str, tmp_path: Path) -> None:
    publisher = storage.Publisher(root, keep=2, settings=QUICK)
    for number in (8, 9, 10):
        folder = small(tmp_path / str(number), f"text {number}")
        publisher.submit(folder, f"update-{number}", producer={"updates": number})
        assert publisher.wait(30)
        assert not folder.exists()
    publisher.close()
    assert [a.name for a in storage.artifacts(root, settings=QUICK)] == ["update-10", "update-9"]
    published = storage.verify(root + "/update-10", settings=QUICK)
    assert published.manifest.producer == {"updates": 10}


class Slow(threading.Event):
    """A publisher's stop that makes the first transfer wait until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go = threading.Event()

    def is_set(self) -> bool:
        self.reached.set()
        self.go.wait(30)
        return super().is_set()


def test_only_the_newest_waits(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    publisher = storage.Publisher(root, keep=9, settings=QUICK)
    publisher._stop = slow = Slow()
    publisher.submit(small(tmp_path / "1"), "update-1")
    assert slow.reached.wait(30)
    for number in (2, 3, 4):
        publisher.submit(small(tmp_path / str(number)), f"update-{number}")
    slow.go.set()
    publisher.close()
    assert [a.name for a in storage.artifacts(root)] == ["update-4", "update-1"]
    assert not any((tmp_path / str(number)).exists() for number in (1, 2, 3, 4))


def test_a_failed_publication_is_told_and_does_not_stop_the_next(tmp_path: Path) -> None:
    (tmp_path / "store" / "update-1").parent.mkdir()
    (tmp_path / "store" / "update-1").write_text("a file in the way")
    publisher = storage.Publisher(str(tmp_path / "store"), keep=2)
    publisher.submit(small(tmp_path / "1"), "update-1")
    assert publisher.wait(30)
    assert isinstance(publisher.failure, OSError)
    publisher.submit(small(tmp_path / "2"), "update-2")
    publisher.close()
    assert [a.name for a in storage.artifacts(str(tmp_path / "store"))] == ["update-2"]


def test_a_store_that_cannot_be_opened_for_once_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = storage.Publisher(str(tmp_path / "store"), keep=2)
    opened = publisher._store

    def fails(uri: str) -> None:
        raise ConfigError("no credentials for a moment")

    monkeypatch.setattr(publisher, "_store", fails)
    publisher.submit(small(tmp_path / "1"), "update-1")
    assert publisher.wait(30)
    assert isinstance(publisher.failure, ConfigError)
    monkeypatch.setattr(publisher, "_store", opened)
    publisher.submit(small(tmp_path / "2"), "update-2")
    publisher.close()
    assert [a.name for a in storage.artifacts(str(tmp_path / "store"))] == ["update-2"]


def test_closing_raises_when_the_last_one_failed(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in the way")
    publisher = storage.Publisher(str(tmp_path / "store"), keep=2)
    publisher.submit(small(tmp_path / "1"), "update-1")
    with pytest.raises(OSError, match="store"):
        publisher.close()


def test_stopping_does_not_wait(tmp_path: Path) -> None:
    publisher = storage.Publisher(str(tmp_path / "store"), keep=2)
    publisher._stop = slow = Slow()
    publisher.submit(small(tmp_path / "1"), "update-1")
    assert slow.reached.wait(30)
    threading.Timer(0.2, slow.go.set).start()
    publisher.stop()
    assert storage.newest(str(tmp_path / "store")) is None


def test_a_wrong_address_is_found_before_anything_is_submitted() -> None:
    with pytest.raises(ConfigError):
        storage.Publisher("gs://bucket/key", keep=2)


# By hand


def test_the_command_line(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small(tmp_path / "in")
    assert run_step(main, ["publish", "--source", str(folder), "--uri", root + "/a"]) == 0
    assert run_step(main, ["verify", "--uri", root + "/a"]) == 0
    assert run_step(main, ["list", "--uri", root]) == 0
    output = ["--output", str(tmp_path / "output")]
    assert run_step(main, ["fetch", "--uri", root + "/a", *output]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all("/a  " in line and "1 file, 0.0 MiB" in line for line in lines)
    assert content(tmp_path / "output") == content(folder)
    assert run_step(main, ["fetch", "--uri", root + "/b", "--output", str(tmp_path / "o")]) == 3
    assert run_step(main, ["fetch", "--uri", root + "/a", *output]) == 5
    assert run_step(main, ["burn"]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 3
    assert all(line.startswith("error: ") for line in shown)


def test_the_manifest_is_readable_by_people(tmp_path: Path) -> None:
    artifact = storage.publish(small(tmp_path / "in"), str(tmp_path / "a"), inputs={"race": "00"})
    shown = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert shown["files"] == [dataclasses.asdict(f) for f in artifact.manifest.files]
    assert shown["inputs"] == {"race": "00"}


def test_storage_loads_boto3_only_for_s3(tmp_path: Path) -> None:
    script = (
        "import sys; from components.common import storage; storage.newest('.'); "
        "assert 'boto3' not in sys.modules and 'botocore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
