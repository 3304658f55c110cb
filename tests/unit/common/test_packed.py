import hashlib
import random
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from components.common.errors import DataError
from components.common.packed import CONTENT, SUMS, packing, unpacked

FILES = {"RACE/1.txt": b"one", "RACE/größe/日本語.txt": b"", "RACE/größe/x": bytes(range(256)) * 99}
FOLDERS = ("RACE", "RACE/größe", "RACE/empty")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    folder.mkdir()
    with packing(folder) as into:
        for path in FOLDERS:
            into.folder(path)
        for path, content in FILES.items():
            with into.file(path, len(content)) as out:
                out.write(content)
    return folder


def seal(folder: Path, content: bytes) -> None:
    """Another content, with its sha256, as whoever may write there can make it."""
    (folder / CONTENT).write_bytes(content)
    (folder / SUMS).write_text(f"{hashlib.sha256(content).hexdigest()}  {CONTENT}\n")


def assert_refused(folder: Path, why: str) -> None:
    with pytest.raises(DataError, match=why), unpacked(folder):
        pass


def test_what_was_packed_is_read_again(packed: Path) -> None:
    with unpacked(packed) as found:
        assert {path: found.read(path) for path in FILES} == FILES
        assert found.entries == {
            "": {"RACE": True},
            "RACE": {"1.txt": False, "größe": True, "empty": True},
            "RACE/größe": {"日本語.txt": False, "x": False},
            "RACE/empty": {},
        }
        assert found.size("RACE/1.txt") == 3


def test_the_same_files_make_the_same_bytes_which_common_tools_read(
    packed: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(packed / CONTENT) as archive:
        assert {name: archive.read(name) for name in FILES} == FILES
    subprocess.run(["sha256sum", "--check", "--status", SUMS], cwd=packed, check=True)
    (tmp_path / "again").mkdir()
    with packing(tmp_path / "again") as into:
        for path in FOLDERS:
            into.folder(path)
        for path, content in FILES.items():
            with into.file(path, len(content)) as out:
                out.write(content)
    for name in (CONTENT, SUMS):
        assert (packed / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_name_is_taken_once(packed: Path, tmp_path: Path) -> None:
    with packing(tmp_path) as into:
        into.folder("a")
        for taken in (into.folder, lambda path: into.file(path, 1)):
            with pytest.raises(FileExistsError):
                taken("a")


def test_what_was_not_finished_has_no_sha256_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), packing(tmp_path) as into:
        [into.folder("a") for _ in range(2)]
    assert (tmp_path / CONTENT).exists()
    assert_refused(tmp_path, "SHA256SUMS is missing")


@pytest.mark.parametrize("change", ["flip", "cut", "longer"])
def test_another_content_than_was_written_is_refused(packed: Path, change: str) -> None:
    content = bytearray((packed / CONTENT).read_bytes())
    content[60] ^= 1
    changed = {"flip": content, "cut": content[:-1], "longer": content + b"\0"}[change]
    (packed / CONTENT).write_bytes(changed)
    assert_refused(packed, r"content\.zip: does not have the sha256")


def test_lies_about_its_content_are_refused(packed: Path, tmp_path: Path) -> None:
    """A byte here and there is changed, and the sha256 made to agree."""
    whole = (packed / CONTENT).read_bytes()
    chance, refused = random.Random(1), 0
    listed = whole.index(b"PK\x01\x02")
    for _ in range(500):
        content = bytearray(whole)
        content[chance.randrange(listed, len(whole))] = chance.randrange(256)
        seal(packed, bytes(content))
        try:
            with unpacked(packed) as found:
                for folder, names in found.entries.items():
                    for name, is_folder in names.items():
                        if not is_folder:
                            found.read(f"{folder}/{name}".lstrip("/"))
        except DataError:
            refused += 1
    assert refused > 100


def test_a_compressed_zip_is_refused(packed: Path) -> None:
    shutil.rmtree(packed)
    packed.mkdir()
    with zipfile.ZipFile(packed / CONTENT, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"a" * 100)
    seal(packed, (packed / CONTENT).read_bytes())
    with unpacked(packed) as found, pytest.raises(DataError, match="a is damaged"):
        found.read("a")
