"""What training tells of itself at its checkpoint URI while it runs; it never waits for that."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from components.common import storage
from components.common.errors import DataError, TransferError
from components.train.config import Plan
from components.train.core import TrainConfig, train
from components.train.supervisor import curve
from components.train.supervisor.curve import LiveCurve, compose, read
from pipeline.curve import BLOCKS, drawn, figures, seconds_left, sparkline

PLAN = Plan("cpu", 1, 1, 500, 1000)


def record(update: int, split: str = "train", **more: Any) -> dict[str, Any]:
    told = {"split": split, "epoch": 1, "update": update, "loss": 1.3, "seconds": update * 0.5}
    return told | {"accuracy": 25.0, "gradient_norm": 1.25} | more


def lines(path: Path) -> int:
    return len(path.read_bytes().splitlines())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_long_training_stays_small_and_keeps_each_validation_and_the_newest() -> None:
    records = [record(n, accuracy=25.123456789, loss=1.0123456789) for n in range(10, 27460, 10)]
    for epoch in range(1, 6):
        records.insert(-1, record(epoch * 5491, "valid", epoch=epoch))
    data = compose(records, 27455, 5)
    assert len(data) < 100_000
    found = read(data, "log")
    assert (found.updates, found.epochs) == (27455, 5)
    assert len(found.of("valid")) == 5
    assert found.of("train")[-1]["update"] == 27450
    assert compose([], 10, 1) == b'{"updates": 10, "epochs": 1}\n'
    assert len(read(compose(records[:300], 1, 1), "log").records) == 300


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"\xff", b"{}\n", b'{"updates": 1, "epochs": 1}\n{"split": "x"}'),
        b'{"updates": 1, "epochs": 1}\n{"split": "train", "update": "<b>"}',
    ],
)
def test_what_others_wrote_there_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="where: no log of training"):
        read(data, "where")


def test_it_is_written_at_most_so_often(tmp_path: Path) -> None:
    clock = Clock()
    live = LiveCurve(str(tmp_path), PLAN, 2, clock)
    for number in range(1, 100):
        clock.now = number * 1.0
        live.logged([record(n) for n in range(number)])
        live._thread.join()
        if number == 14:
            assert lines(tmp_path / curve.NAME) == 2  # the first, and the head
    assert lines(tmp_path / curve.NAME) == 92
    live.close([record(n) for n in range(120)])
    assert lines(tmp_path / curve.NAME) == 121


def test_a_store_that_fails_or_hangs_disturbs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, hang = [], threading.Event()

    def failing(uri: str, *_: Any) -> None:
        asked.append(uri)
        if len(asked) > 1:
            hang.wait(60)
        raise TransferError("it cannot be reached")

    monkeypatch.setattr(storage, "write_small", failing)
    monkeypatch.setattr(curve, "LAST", 0.1)
    clock = Clock()
    live = LiveCurve("s3://bucket/run", PLAN, 2, clock)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            clock.now += 20
            live.logged([record(1)])
            live._thread.join(0.2)
        live.close([record(2)])
    assert asked == ["s3://bucket/run/train_log.jsonl"] * 2
    assert not caplog.records
    hang.set()


def test_a_training_tells_of_itself_until_it_has_ended(
    tiny_race: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    whole = storage.write_small

    def seen(uri: str, data: bytes, *more: Any) -> None:
        written.append(data)
        whole(uri, data, *more)

    monkeypatch.setattr(storage, "write_small", seen)
    monkeypatch.setattr(curve, "EVERY", 0.0)
    uri = str(tmp_path / "checkpoints")
    values = tiny_race.parameters | {"engine": "packed", "checkpoint_uri": uri, "run_id": "run-1"}
    config = TrainConfig(tiny_race.data, tiny_race.pretrained, tmp_path / "out", **values)
    result = train(config)
    found = read(written[-1], uri)
    assert found.of("valid")[-1]["accuracy"] == result.metrics["final_valid_accuracy"]
    assert found.updates == result.metrics["updates"] == found.records[-1]["update"]
    assert storage.read_small(f"{uri}/run-1/{curve.NAME}", curve.MAX_BYTES) is None


def test_the_curves_are_drawn() -> None:
    records = [
        record(n, loss=1.4 - n / 1000, accuracy=25 + n / 20, seconds=n * 2.0)
        for n in range(0, 1000, 10)
    ]
    records.append(record(990, "valid", accuracy=81.25))
    found = {"seed 2": read(compose(records, 2000, 2), "log")}
    told = drawn(found)
    _, name, loss, accuracy, valid, at = [" ".join(line.split()) for line in told]
    assert name == "train (seed 2)"
    assert loss.startswith("loss █")
    assert loss.endswith("▁ 1.400 → 0.410")
    assert accuracy.endswith("█ 25.0 % → 74.5 %")
    assert valid == "validation ▁ 81.2 % → 81.2 %"
    assert at == "epoch 1/2, update 990/2,000, 33 min 40 s left"
    assert max(map(len, told)) <= 100
    (line,) = drawn(found, plot=False)
    assert line == (
        "train (seed 2): epoch 1/2, update 990/2,000, loss 0.410, accuracy 74.5 %,"
        " validation 81.2 %, 33 min 40 s left"
    )
    assert line.isascii()
    (newest,) = figures(found)
    assert (newest["trial"], newest["update"], newest["seconds_left"]) == ("seed 2", 990, 2020.0)


def test_little_is_drawn_of_little() -> None:
    def of(*records: dict[str, Any]) -> curve.Curve:
        return read(compose(records, 100, 1), "log")

    assert drawn({"": of()}, plot=False) == figures({"": of()}) == []
    one = of(record(1, loss=None, accuracy=None))
    assert drawn({"": one}) == ["", "train", "  epoch 1/1, update 1/100"]
    assert seconds_left(one) is None
    assert sparkline([3.0]) == BLOCKS[0]
    assert sparkline([1.0, 1.0]) == BLOCKS[0] * 2
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█" or sparkline([0.0, 0.5, 1.0]) == "▁▄█"
