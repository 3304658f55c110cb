"""What a rank tells of training."""

import logging
import math
from typing import Any

import pytest

from components.train import compat, records

compat.import_fairseq()
from fairseq import checkpoint_utils  # noqa: E402
from fairseq.logging import meters, progress_bar  # noqa: E402


class Trainer:
    """fairseq's, as far as it is asked; makes no update of "overflow", has no memory for "big"."""

    updates = 0

    def get_num_updates(self) -> int:
        return self.updates

    def train_step(self, samples: str, raise_oom: bool = False) -> object:
        if samples == "big":
            if not raise_oom:
                return None  # fairseq goes on without this update
            raise RuntimeError("CUDA out of memory")
        self.updates += samples != "overflow"
        return {}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is told, with fairseq wrapped until the test ends."""
    found: list[dict[str, Any]] = []
    bar = progress_bar.JsonProgressBar
    for place, name in ((meters.MetersDict, "get_smoothed_values"), (bar, "log"), (bar, "print")):
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setattr(checkpoint_utils, "load_checkpoint", lambda cfg, trainer: None)
    records.install(found.append)
    return found


def means(**values: float) -> meters.MetersDict:
    """Means with the digits that fairseq rounds them to."""
    digits = {"loss": 3, "accuracy": 1, "gnorm": 3, "bsz": 1}
    found = meters.MetersDict()
    for name, value in values.items():
        found.add_meter(name, meters.AverageMeter(round=digits.get(name)), 1)
        found[name].update(value)
    return found


def log(found: meters.MetersDict, tag: str) -> Any:
    """Logs them as fairseq-train does; what it has logged."""
    bar = progress_bar.JsonProgressBar([1, 2], epoch=3, log_interval=10)
    bar.i, bar.size = 0, 2
    stats = found.get_smoothed_values()
    stats["num_updates"] = 20
    (bar.log if tag == "train_inner" else bar.print)(stats, tag=tag, step=20)
    return stats


def test_a_record_has_nats_and_all_digits(
    told: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        stats = log(means(loss=2.00051, accuracy=33.3333, lr=1e-5, gnorm=0.12345), "train_inner")
    assert told == [
        {
            "split": "train",
            "epoch": 3,
            "update": 20,
            "loss": 2.00051 * math.log(2),
            "accuracy": 33.3333,
            "learning_rate": 1e-5,
            "gradient_norm": 0.12345,
        }
    ]
    # fairseq compares and logs what it always did.
    assert (stats["loss"], stats["accuracy"]) == (2.001, 33.3)
    assert '"loss": "2.001"' in caplog.text


def test_the_rate_is_that_of_questions(told: list[dict[str, Any]]) -> None:
    log(means(loss=2.0, ups=0.5, bsz=16.0), "train_inner")
    assert told[0]["questions_per_second"] == 8.0


@pytest.mark.parametrize(("tag", "split"), [("train", "train_epoch"), ("valid", "valid")])
def test_epochs_and_validation_have_names_of_their_own(
    told: list[dict[str, Any]], tag: str, split: str
) -> None:
    log(means(loss=2.0, ups=0.5, bsz=16.0), tag)
    assert told[0]["split"] == split
    assert "questions_per_second" not in told[0]


def test_a_loss_that_is_no_number_is_none(
    told: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    log(means(loss=math.nan), "train_inner")
    assert told[0]["loss"] is None
    records.write(records.RECORD, told[0])
    assert capsys.readouterr().out.startswith(f'{records.RECORD}{{"split": "train"')


def test_skipped_updates_are_told_and_a_full_memory_ends_training(
    told: list[dict[str, Any]],
) -> None:
    trainer: Any = Trainer()
    checkpoint_utils.load_checkpoint(None, trainer)
    for samples in ("one", "overflow", "one", "overflow"):
        trainer.train_step(samples)
    assert told == [{"skipped": 1}] * 2
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train_step("big")
