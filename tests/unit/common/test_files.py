"""What atomic outputs promise: whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from components.common.errors import OutputError
from components.common.files import atomic_file, atomic_folder, scratch_folder


def test_a_folder_appears_with_its_content_when_the_block_ends(tmp_path: Path) -> None:
    output = tmp_path / "new" / "parents" / "out"
    with atomic_folder(output) as folder:
        (folder / "a").write_text("x")
        assert not output.exists()
    assert (output / "a").read_text() == "x"
    assert os.listdir(output.parent) == ["out"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_when_the_block_raises(tmp_path: Path, kind: type[BaseException]) -> None:
    def folder() -> None:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "a").write_text("x")
            raise kind

    def file() -> None:
        with atomic_file(tmp_path / "out") as file:
            file.write_text("x")
            raise kind

    for work in (folder, file):
        with pytest.raises(kind):
            work()
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_may_be_there_already(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert os.listdir(tmp_path / "out") == ["a"]


def test_a_folder_with_something_in_it_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(FileExistsError, match="out"), atomic_folder(tmp_path / "out"):
        pytest.fail("the work began")
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_is_refused_as_an_output_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(FileExistsError, match="out"), atomic_folder(tmp_path / "out"):
        pytest.fail("the work began")


def test_a_folder_is_refused_as_an_output_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), atomic_file(tmp_path):
        pytest.fail("the work began")


def test_a_mount_point_is_refused_before_the_work() -> None:
    empty = [path for path in ("/dev/mqueue", "/sys/fs/bpf", "/dev/shm") if is_empty_mount(path)]
    if not empty:
        pytest.skip("no empty mount point on this machine")
    with pytest.raises(OutputError, match="mount point"), atomic_folder(Path(empty[0])):
        pytest.fail("the work began")


def is_empty_mount(path: str) -> bool:
    return os.path.ismount(path) and os.listdir(path) == []


def test_what_fills_the_output_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def work() -> None:
        with atomic_folder(output) as folder:
            (folder / "mine").touch()
            output.mkdir()
            (output / "theirs").touch()

    with pytest.raises(FileExistsError, match="out'"):
        work()
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(output) == ["theirs"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_leads_to_the_output_and_stays(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "a").touch()
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "real") == ["a"]


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("old")
    with atomic_file(output) as file:
        file.write_text("new")
        assert output.read_text() == "old"
    assert output.read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_outputs_have_the_permissions_that_new_files_have(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_folder(tmp_path / "folder") as folder, atomic_file(tmp_path / "file") as file:
            (folder / "a").touch()
            file.write_text("x")
    finally:
        os.umask(before)
    for name, mode in (("folder", 0o777), ("folder/a", 0o666), ("file", 0o666)):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode & ~mask


def test_an_error_without_a_path_gets_the_output_s(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(OSError, match="space") as failure, atomic_folder(output):
        raise OSError(errno.ENOSPC, "no space")
    assert failure.value.filename == str(output)
    with pytest.raises(OSError, match="space") as failure, atomic_file(output):
        raise OSError(errno.ENOSPC, "no space", "other")
    assert failure.value.filename == "other"


# Begins an output folder, an output file and a scratch folder below a path, and waits.
BEGIN = """
import sys, time
from pathlib import Path
from components.common.files import atomic_file, atomic_folder, scratch_folder
place = Path(sys.argv[1])
folder, file = atomic_folder(place / "folder"), atomic_file(place / "f")
with folder as a, file as b, scratch_folder(place) as c:
    for path in (a / "half", b, c / "half"):
        path.write_text("half")
    print("begun", flush=True)
    time.sleep(600)
"""


def begin(place: Path) -> "subprocess.Popen[bytes]":
    """A process that is half through; what processes that were killed left there is gone then."""
    process = subprocess.Popen([sys.executable, "-c", BEGIN, place], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"begun\n"
    return process


def kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def test_what_a_killed_process_left_goes_and_what_a_living_one_makes_stays(tmp_path: Path) -> None:
    living = begin(tmp_path)
    its = set(os.listdir(tmp_path))
    killed = begin(tmp_path)
    kill(killed)
    (tmp_path / ".folder.partial-notours").mkdir()
    assert len(os.listdir(tmp_path)) == 7
    kill(begin(tmp_path))
    assert len(os.listdir(tmp_path)) == 7, "the second killed one's, in place of the first one's"
    assert its < set(os.listdir(tmp_path))
    kill(living)
    with atomic_folder(tmp_path / "folder"), atomic_file(tmp_path / "f"), scratch_folder(tmp_path):
        assert len(os.listdir(tmp_path)) == 4
    assert sorted(os.listdir(tmp_path)) == [".folder.partial-notours", "f", "folder"]


def test_a_file_system_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(2):
        with atomic_file(tmp_path / "out") as file:
            file.write_text("x")
    assert os.listdir(tmp_path) == ["out"]
