import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import DataError
from components.train.data import read_ids, read_labels, require_tokens, vocabulary_size


@pytest.fixture
def data(tiny_race: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_race.data, tmp_path / "data"))


def test_labels_ids_and_vocabulary_are_read(data: Path) -> None:
    assert len(read_labels(data, "train", 4)) == 96
    assert set(read_labels(data, "train", 4)) == {0, 1, 2, 3}
    assert read_ids(data, "test", 20)[3] == "test/3#0"
    assert vocabulary_size(data) == 65
    (data / "id" / "test.id").unlink()
    assert read_ids(data, "test", 20)[3] == "test#3"


def replace(path: str, content: str) -> Callable[[Path], object]:
    return lambda data: (data / path).write_text(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: (data / "label" / "train.label").unlink(), "train.label: missing"),
        (lambda data: (data / "input3" / "train.idx").unlink(), "train.idx: missing"),
        (lambda data: (data / "input3" / "train.bin").unlink(), "train.bin: missing"),
        (replace("label/train.label", "0\n4\n"), r"line 2: '4' is not one of the 4 options"),
        (replace("label/train.label", "0\nA\n"), r"line 2: 'A' is not one of the 4 options"),
        (replace("label/train.label", "0\n1\n"), "holds 96 sequences, but .* holds 2 labels"),
        (replace("label/train.label", ""), "holds no question"),
        (replace("input2/train.idx", "short"), "not an index"),
        (replace("input2/train.idx", "something else, and long enough"), "not an index"),
    ],
)
def test_a_damaged_data_set_is_refused(
    data: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(data)
    with pytest.raises(DataError, match=message):
        read_labels(data, "train", 4)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("dict.txt", b"word0 1\n", r"index 6\d, but .*/dict.txt makes 6 tokens"),
        ("train.bin", lambda old: b"\xff\x7f" + old[2:], "index 32767, but .* makes 65 tokens"),
        ("train.bin", lambda old: old[:-2], "train.bin: damaged"),
        ("train.idx", lambda old: old[:30], "train.bin: damaged"),
        ("train.idx", lambda old: old[:17] + b"\6" + old[18:], "train.bin: damaged"),
    ],
)
def test_an_index_that_the_dictionary_has_not_is_refused(
    data: Path, file: str, content: Any, message: str
) -> None:
    require_tokens(data, "train")
    path = data / "input0" / file
    path.write_bytes(content(path.read_bytes()) if callable(content) else content)
    with pytest.raises(DataError, match=message):
        require_tokens(data, "train")


def test_names_must_be_as_many_as_questions(data: Path) -> None:
    with pytest.raises(DataError, match="holds 20 names for 21 questions"):
        read_ids(data, "test", 21)


def test_a_data_set_without_dictionary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dict\.txt: missing"):
        vocabulary_size(tmp_path)
