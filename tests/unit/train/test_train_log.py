import json
import math

import pytest

from components.train.config import Plan
from components.train.log import Display, TrainLog, duration

PREFIX = "2026-01-31 12:00:00 | INFO | "


def line(tag: str, **values: object) -> str:
    prefix = "" if tag == "train_inner" else f"{tag}_"
    named = {name if name == "epoch" else prefix + name: value for name, value in values.items()}
    return f"{PREFIX}{tag} | {json.dumps(named)}\n"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_records_have_nats_numbers_and_rates() -> None:
    clock = Clock()
    log = TrainLog(clock)
    clock.now += 3
    record = log.read(
        line(
            "train_inner",
            epoch=1,
            num_updates="10",
            loss="2",
            accuracy="25",
            lr="1e-05",
            gnorm="3.5",
            loss_scale="4",
            ups="0.5",
            bsz="16",
        )
    )
    assert record == {
        "split": "train",
        "epoch": 1,
        "update": 10,
        "loss": pytest.approx(2 * math.log(2), abs=1e-6),
        "seconds": 3.0,
        "accuracy": 25.0,
        "learning_rate": 1e-5,
        "gradient_norm": 3.5,
        "loss_scale": 4.0,
        "questions_per_second": 8.0,
    }
    assert log.records == [record]


def test_validation_and_epoch_means_are_told_apart() -> None:
    log = TrainLog()
    log.read(line("valid", epoch=1, num_updates="6", loss="1.5", accuracy="50"))
    log.read(line("train", epoch=1, num_updates="6", loss="1.9", accuracy="30"))
    assert [(r["split"], r["accuracy"]) for r in log.records] == [
        ("valid", 50.0),
        ("train_epoch", 30.0),
    ]
    assert log.of("valid") == log.records[:1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "loading train data for epoch 1",
        PREFIX + "train_inner | {not json}",
        PREFIX + 'train_inner | {"epoch": 1, "loss": "2"}',
        PREFIX + 'fairseq_cli.train | {"common": {"seed": 1}}',
    ],
)
def test_other_lines_are_no_records(text: str) -> None:
    assert TrainLog().read(text) is None


def test_a_loss_that_is_not_finite_is_none() -> None:
    record = TrainLog().read(line("train_inner", epoch=1, num_updates="1", loss="nan"))
    assert record is not None
    assert record["loss"] is None
    json.dumps(record, allow_nan=False)


def test_skipped_updates_are_counted() -> None:
    log = TrainLog()
    overflow = "NOTE: gradient overflow detected, ignoring gradient, setting loss scale to: 2.0"
    log.read(PREFIX + "fairseq.trainer | " + overflow)
    log.read(PREFIX + "fairseq.trainer | " + overflow)
    record = log.read(line("train_inner", epoch=1, num_updates="1", loss="2"))
    assert record is not None
    assert record["skipped_updates"] == 2


def test_the_rate_leaves_validation_and_new_epochs_out() -> None:
    clock = Clock()
    log = TrainLog(clock)

    def at(seconds: float, tag: str, epoch: int, update: int) -> None:
        clock.now = 100 + seconds
        log.read(line(tag, epoch=epoch, num_updates=str(update), loss="1"))

    at(10, "train_inner", 1, 10)
    at(20, "train_inner", 1, 20)
    at(50, "valid", 1, 20)
    at(60, "train_inner", 1, 30)
    at(70, "train_inner", 2, 40)
    at(90, "train_inner", 2, 50)
    assert log.questions_per_second(per_update=16) == round(20 * 16 / 30, 2)
    assert TrainLog().questions_per_second(per_update=16) is None


def test_without_a_terminal_there_is_a_line_every_ten_seconds_and_for_each_epoch() -> None:
    clock, shown = Clock(), list[str]()
    log = TrainLog(clock)
    display = Display(Plan("cpu", 1, 1, 100, 200), 2, shown.append, clock)
    for update in range(1, 31):
        clock.now += 1
        record = log.read(line("train_inner", epoch=1, num_updates=str(update), loss="2"))
        assert record is not None
        display.update(record)
    assert shown == [
        "epoch 1/2, update 10/200: loss 1.386, 3 min left",
        "epoch 1/2, update 20/200: loss 1.386, 3 min left",
        "epoch 1/2, update 30/200: loss 1.386, 3 min left",
    ]
    record = log.read(line("valid", epoch=1, num_updates="30", loss="1", accuracy="61.5"))
    assert record is not None
    display.update(record)
    assert shown[-1] == "epoch 1/2 validated: loss 0.693, accuracy 61.5 %"
    display.close()


def test_durations_read_well() -> None:
    assert [duration(s) for s in (0.4, 59, 61, 3599, 7500)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 0 min",
        "2 h 5 min",
    ]
