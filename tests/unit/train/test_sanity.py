"""What training says of its data before it starts."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.binarize.indexed import Writer
from components.common.dataset import count_options
from components.common.errors import DataError
from components.train.config import TrainConfig
from components.train.data import read_labels
from components.train.supervisor.sanity import look


@pytest.fixture
def data(tiny_race: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_race.data, tmp_path / "data"))


def looked(data: Path, **settings: Any) -> dict[str, Any]:
    config = TrainConfig(data, Path("none"), Path("none"), **settings)
    options = count_options(data)
    labels = {split: read_labels(data, split, options) for split in ("train", "valid")}
    return look(config, labels, options)


def lean(data: Path) -> None:
    """A thousand questions, and D is right in most."""
    for column in range(5):
        with Writer(data / f"input{column}" / "train", np.uint16) as writer:
            sizes = np.full(1000, 3, np.int32)
            tokens = np.arange(3000, dtype=np.uint16) % 50 + 4
            writer.write(tokens, sizes)
    (data / "label" / "train.label").write_text("3\n" * 700 + "0\n1\n2\n" * 100)


def test_good_data_are_said_to_be_worth_what_the_usual_letter_gives(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = looked(data, on_doubtful_data="fail")
    labels = [int(n) for n in (data / "label" / "valid.label").read_text().split()]
    train = [int(n) for n in (data / "label" / "train.label").read_text().split()]
    usual = max(range(4), key=train.count)
    right = 100 * labels.count(usual) / len(labels)
    assert found["usual_letter"] == "ABCD"[usual]
    assert found["usual_letter_accuracy"] == pytest.approx(right)
    assert found["doubts"] == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"always {'ABCD'[usual]} would be right in {right:.1f} %")
    assert json.dumps(found)


@pytest.mark.parametrize(
    ("harm", "settings", "says"),
    [
        (lean, {}, "in train D is right in 70.0% of the questions, A in 10.0%"),
        (lambda data: None, {"max_positions": 8}, "100.0% of the training questions lose text"),
    ],
)
def test_doubtful_data_are_warned_of_and_refused_only_when_asked_for(
    data: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], None],
    settings: dict[str, Any],
    says: str,
) -> None:
    harm(data)
    (doubt,) = looked(data, **settings)["doubts"]
    assert doubt.startswith(says)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        f"data: {doubt}"
    ]
    with pytest.raises(DataError, match=r"on_doubtful_data|data: "):
        looked(data, on_doubtful_data="fail", **settings)


def test_passages_of_validation_in_training_are_found(data: Path) -> None:
    questions = len((data / "label" / "train.label").read_text().split())
    for column in range(5):
        for suffix in ("bin", "idx"):
            shutil.copyfile(
                data / f"input{column}" / f"train.{suffix}",
                data / f"input{column}" / f"valid.{suffix}",
            )
    shutil.copyfile(data / "label" / "train.label", data / "label" / "valid.label")
    (doubt,) = looked(data)["doubts"]
    number = int(doubt.split()[0])
    assert 0 < number <= questions
    assert doubt.endswith("of the validation questions also in training")
