import argparse
import pickle
from pathlib import Path

import pytest
import torch

from components.common.errors import ConfigError, DataError
from components.train import checkpoints
from components.train.checkpoints import Shape


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
def test_a_checkpoint_that_was_cut_off_is_refused(tmp_path: Path, zip_format: bool) -> None:
    path = tmp_path / "model.pt"
    torch.save(
        {"model": {"weight": torch.zeros(999)}}, path, _use_new_zipfile_serialization=zip_format
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


def state(prefix: str, layers: int) -> dict[str, object]:
    stem = f"{prefix}.sentence_encoder."
    model = {
        stem + "embed_tokens.weight": torch.empty(100, 32),
        stem + "embed_positions.weight": torch.empty(66, 32),
    }
    model |= {f"{stem}layers.{i}.fc1.weight": torch.empty(64, 32) for i in range(layers)}
    return {"model": model}


@pytest.mark.parametrize("prefix", ["encoder", "decoder"])
def test_the_shape_is_read_from_the_weights(prefix: str) -> None:
    found = checkpoints.shape_of(state(prefix, layers=11), Path("model.pt"))
    assert found == Shape(11, 32, 64, attention_heads=0, positions=64, vocabulary=100)


def test_a_shape_that_differs_is_refused_with_every_parameter_to_change() -> None:
    found = checkpoints.shape_of(state("encoder", layers=2), Path("model.pt"))
    wanted = Shape(12, 32, 64, attention_heads=4, positions=512, vocabulary=100)
    with pytest.raises(ConfigError) as error:
        checkpoints.require_same_shape(found, wanted, Path("model.pt"))
    assert "encoder_layers is 12, the checkpoint has 2" in str(error.value)
    assert "max_positions is 512, the checkpoint has 64" in str(error.value)
    assert "embed_dim" not in error.value.what


def test_another_model_is_refused() -> None:
    with pytest.raises(DataError, match="not a fairseq RoBERTa"):
        checkpoints.shape_of({"model": {"weight": torch.zeros(1)}}, Path("model.pt"))
