"""A full file system is named, whatever the library says that has met it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.binarize.__main__ import main as binarize
from components.common.cli import run_step
from components.common.disk import no_space
from components.common.errors import OutputError
from components.common.files import atomic_file, atomic_folder
from components.export.__main__ import main as export

Mount = Callable[[str], Path]


def fails(capsys: pytest.CaptureFixture[str], step: Callable[..., None], *argv: object) -> str:
    """The one line that a user sees of a step that finds no space."""
    capsys.readouterr()
    assert run_step(step, [str(word) for word in argv]) == OutputError.exit_status
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line


def test_export(
    answering: Path, tmp_path: Path, mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    place = mount("size=64k")
    line = fails(capsys, export, "--model", answering, "--output", place / "out")
    assert line == (
        f"error: {place}: no space left on device. The file system at {place} has 64 KiB: free some"
        " space there or choose another output folder"
    )
    assert os.listdir(place) == []


def test_binarize(answering: Path, mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    place = mount("size=64k")
    inputs = ("--text", answering / "text", "--bpe", answering / "bpe")
    line = fails(capsys, binarize, *inputs, "--output", place / "out")
    assert line.startswith(f"error: {place}/out: no space left on device. The file system at")
    assert os.listdir(place) == []


def test_what_torch_says_of_a_full_disk_is_understood(mount: Mount) -> None:
    place = mount("size=1m")
    state = {str(i): torch.rand(10_000) for i in range(100)}
    with (
        pytest.raises(OutputError, match=f"no space left on device. The file system at {place}"),
        atomic_file(place / "model.pt") as partial,
    ):
        torch.save(state, partial)
    assert os.listdir(place) == []


def test_a_file_system_without_inodes_is_full(mount: Mount) -> None:
    place = mount("size=1m,nr_inodes=3")
    (place / "a").touch()
    (place / "b").touch()
    found = no_space("unexpected pos 64 vs 0", place)
    assert found
    assert found.what == f"{place}: no space left on device"


def test_what_failed_for_another_reason_is_left_as_it_is(tmp_path: Path) -> None:
    vague = RuntimeError("unexpected pos 327552 vs 327444")
    with pytest.raises(RuntimeError, match="unexpected pos"), atomic_folder(tmp_path / "out"):
        raise vague
    assert no_space(vague, tmp_path) is None
    assert no_space(OSError(errno.EACCES, "no", "/out"), tmp_path) is None


@pytest.mark.parametrize(
    "said",
    [
        "unable to write to file </torch_7_1_0>: No space left on device (28)",
        "Error while creating shared memory segment /dev/shm/nccl-x (size 9637888), error: No space"
        " left on device (28)",
    ],
)
def test_shared_memory_is_not_called_a_disk(tmp_path: Path, said: str) -> None:
    found = no_space(RuntimeError(said), tmp_path)
    assert found
    assert found.what == "/dev/shm: no space left on device"
    assert "The file system at /dev/shm has" in found.hint


def test_the_cause_of_an_error_is_looked_at(tmp_path: Path) -> None:
    try:
        try:
            raise OSError(errno.EDQUOT, "quota", str(tmp_path / "x"))
        except OSError:
            raise RuntimeError("writing failed") from None
    except RuntimeError as error:
        found = no_space(error)
    assert found
    assert found.what == f"{tmp_path}/x: disk quota exceeded"
