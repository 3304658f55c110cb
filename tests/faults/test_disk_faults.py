"""The disk is full, or may not be written: one clear line, and nothing half-made is left."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from steps import Step

from components.common import storage
from components.common.cli import run_step
from components.common.errors import OutputError
from components.common.storage.__main__ import main

Mount = Callable[[str], Path]


@pytest.fixture(params=["s3", "folder"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An artifact of two files, 3 and 6 MiB, in each kind of store."""
    address = f"{tmp_path}/store/model"
    if request.param == "s3":
        address = f"s3://{request.getfixturevalue('bucket')}/model"
    source = tmp_path / "source"
    source.mkdir()
    (source / "small.bin").write_bytes(os.urandom(3 << 20))
    (source / "large.bin").write_bytes(os.urandom(6 << 20))
    storage.publish(source, address, settings=storage.Settings(part=5 << 20))
    return address


def fails(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """The one line that a user sees of a failure to write."""
    capsys.readouterr()
    assert run_step(main, [str(word) for word in argv]) == 5
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    return errors


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    uri: str, mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    place = mount("size=4m")
    line = fails(capsys, "fetch", "--uri", uri, "--output", place / "model")
    assert f"{place}/model: no space left on device. The file system at {place} has 4 MiB" in line
    assert not list(place.iterdir())


def test_a_disk_that_fills_up_while_fetching(
    uri: str, mount: Mount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = mount("size=5m")
    usage = shutil.disk_usage("/")
    # There was room when we looked; others have taken it since.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 40))
    line = fails(capsys, "fetch", "--uri", uri, "--output", place / "model")
    assert f"no space left on device. The file system at {place} has" in line
    assert str(place) in line
    assert not list(place.iterdir())


def test_a_store_that_fills_up_while_publishing(
    tmp_path: Path, mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    place = mount("size=4m")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(bytes(1 << 20))
    (tmp_path / "in" / "b").write_bytes(bytes(5 << 20))
    line = fails(
        capsys, "publish", "--source", tmp_path / "in", "--uri", f"file://{place}/runs/model"
    )
    assert f"no space left on device. The file system at {place} has" in line
    assert storage.find(str(place / "runs" / "model")) is None
    assert not [p for p in place.rglob("*") if p.is_file()]


def test_an_output_that_may_not_be_written(
    uri: str, mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    place = mount("ro,size=1m")
    line = fails(capsys, "fetch", "--uri", uri, "--output", place / "model")
    assert "read-only file system. Choose a path on a file system that is mounted writable" in line


def test_a_store_that_may_not_be_written(
    tmp_path: Path, mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    place = mount("ro,size=1m")
    (tmp_path / "file").touch()
    line = fails(capsys, "publish", "--source", tmp_path / "file", "--uri", place / "model")
    assert "read-only file system" in line


def test_an_output_in_the_way(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "output").write_text("precious")
    line = fails(capsys, "fetch", "--uri", uri, "--output", tmp_path / "output")
    assert "output: file exists" in line
    assert (tmp_path / "output").read_text() == "precious"


@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_a_disk_that_fills_up_while_training(
    tiny_race: Any, tmp_path: Path, mount: Mount, engine: str
) -> None:
    place = mount("size=640k")
    step = Step(tiny_race, tmp_path / "pod", output=place / "out", engine=engine, epochs=4)
    assert step.end() == OutputError.exit_status, step.screen.read_text()
    (line,) = [x for x in step.screen.read_text().splitlines() if x.startswith("error: ")]
    assert f"no space left on device. The file system at {place} has 640 KiB" in line
    assert os.listdir(place) == []


def test_shared_memory_that_is_too_small_for_training(tiny_race: Any, tmp_path: Path) -> None:
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("a small /dev/shm can be mounted by root only")
    small = 'mount -t tmpfs -o size=4k tmpfs /dev/shm && exec "$@"'
    before = ("unshare", "--mount", "sh", "-c", small, "sh")
    step = Step(tiny_race, tmp_path / "pod", before=before, num_workers=1)
    assert step.end() == OutputError.exit_status, step.screen.read_text()
    (line,) = [x for x in step.screen.read_text().splitlines() if x.startswith("error: ")]
    assert "/dev/shm: no space left on device. The file system at /dev/shm has 4 KiB" in line
