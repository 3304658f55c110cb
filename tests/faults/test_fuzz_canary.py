"""The canary of the fuzz tests itself: it hears what no input may do."""

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import Alarm, canary

ACTIONS: list[Callable[[Path], object]] = [
    lambda folder: eval("1 + 1"),
    lambda folder: os.system("true"),
    lambda folder: subprocess.run(["true"]),
    lambda folder: __import__("components.nothing"),
    lambda folder: pickle.loads(b"cos\ngetcwd\n."),
    lambda folder: (folder.parent / "outside").write_text(""),
    lambda folder: os.open(folder.parent / "outside", os.O_RDWR),
    lambda folder: (folder / ".." / "outside").mkdir(),
    lambda folder: (folder / "file").rename(folder.parent / "outside"),
    lambda folder: (folder / "link").symlink_to("file"),
    lambda folder: shutil.rmtree(folder.parent),
]


@pytest.mark.parametrize("action", ACTIONS)
def test_it_hears_what_no_input_may_do(tmp_path: Path, action: Callable[[Path], object]) -> None:
    (folder := tmp_path / "sandbox").mkdir()
    (folder / "file").touch()
    watch = canary()
    with pytest.raises(Alarm), watch.watching(folder):
        action(folder)
    watch.heard.clear()
    assert [path.name for path in tmp_path.rglob("*")] == ["sandbox", "file"]


def test_it_is_silent_where_a_folder_is_filled_and_emptied(tmp_path: Path) -> None:
    (folder := tmp_path / "sandbox").mkdir()
    with canary().watching(folder):
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "file").write_text("text")
        (folder / "a").rename(folder / "c")
        assert (folder / "c" / "file").read_text() == "text"
        shutil.rmtree(folder / "c")
