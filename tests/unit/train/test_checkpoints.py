import argparse
import pickle
from pathlib import Path

import pytest
import torch

from components.common.errors import DataError
from components.train import checkpoints


class Canary:
    """Runs code when it is unpickled by an unpickler that may."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("place", ["model", "extra_state", "args"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run_it(
    tmp_path: Path, zip_format: bool, place: str
) -> None:
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    state = {"model": {"weight": torch.zeros(2)}, "args": argparse.Namespace(arch="roberta_base")}
    hidden: dict[str, object] = {**state, place: {"x": Canary(canary)}}
    torch.save(hidden, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(DataError, match="refused, because reading it would call"):
        checkpoints.load(path)
    assert not canary.exists()
    # The test itself: such a file does run code where nothing stops it.
    torch.load(path, weights_only=False)
    assert canary.exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    path.write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(DataError):
        checkpoints.load(path)
    assert not canary.exists()


def test_no_type_is_allowed_outside_the_block() -> None:
    before = set(torch.serialization.get_safe_globals())  # torch keeps them in no order
    with checkpoints.safe_types_allowed():
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a checkpoint, or damaged"),
        (b"PK\x03\x04 and then nothing", "not a checkpoint, or damaged"),
        (b"some text", "not a checkpoint, or damaged"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        checkpoints.load(path)


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("size", [999, 9999])
def test_a_checkpoint_that_was_cut_off_is_refused(
    tmp_path: Path, zip_format: bool, size: int
) -> None:
    path = tmp_path / "model.pt"
    torch.save(
        {"model": {"weight": torch.zeros(size)}}, path, _use_new_zipfile_serialization=zip_format
    )
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="not a checkpoint, or damaged"):
        checkpoints.load(path)


def test_a_checkpoint_without_a_model_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "model.pt")
    with pytest.raises(DataError, match="no fairseq checkpoint"):
        checkpoints.load(tmp_path / "model.pt")
    with pytest.raises(DataError, match="no such checkpoint"):
        checkpoints.load(tmp_path / "absent.pt")
    with pytest.raises(DataError, match="is a folder"):
        checkpoints.load(tmp_path)


def test_the_pretrained_checkpoint_is_a_file_or_the_only_one_below_a_folder(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match="no pretrained checkpoint there"):
        checkpoints.find_pretrained(tmp_path)
    model = tmp_path / "roberta.large" / "model.pt"
    model.parent.mkdir()
    model.touch()
    assert checkpoints.find_pretrained(tmp_path) == model
    assert checkpoints.find_pretrained(model) == model
    (tmp_path / "model.pt").touch()
    with pytest.raises(DataError, match=r"several model\.pt"):
        checkpoints.find_pretrained(tmp_path)
