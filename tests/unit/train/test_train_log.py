from components.train.config import Plan
from components.train.records import Record
from components.train.supervisor.log import Display, TrainLog, duration


def record_of(split: str, epoch: int, update: int, loss: float | None, **values: object) -> Record:
    return {"split": split, "epoch": epoch, "update": update, "loss": loss, **values}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_record_is_what_was_told_and_when() -> None:
    clock = Clock()
    log = TrainLog(clock)
    clock.now += 3
    record = log.add(record_of("train", 1, 10, 1.25, accuracy=25.0, learning_rate=1e-5))
    told = {"split": "train", "epoch": 1, "update": 10, "loss": 1.25}
    assert record == {**told, "accuracy": 25.0, "learning_rate": 1e-5, "seconds": 3.0}
    assert log.records == [record]


def test_validation_and_epoch_means_are_told_apart() -> None:
    log = TrainLog()
    log.add(record_of("valid", 1, 6, 1.0, accuracy=50.0))
    log.add(record_of("train_epoch", 1, 6, 1.3, accuracy=30.0))
    assert [(r["split"], r["accuracy"]) for r in log.records] == [
        ("valid", 50.0),
        ("train_epoch", 30.0),
    ]
    assert log.of("valid") == log.records[:1]


def test_skipped_updates_are_counted() -> None:
    log = TrainLog()
    for _ in range(2):
        assert log.add({"skipped": 1}) is None
    record = log.add(record_of("train", 1, 1, 1.3))
    assert record is not None
    assert record["skipped_updates"] == 2


def test_the_rate_leaves_validation_and_new_epochs_out() -> None:
    clock = Clock()
    log = TrainLog(clock)

    def at(seconds: float, split: str, epoch: int, update: int) -> None:
        clock.now = 100 + seconds
        log.add(record_of(split, epoch, update, 1.0))

    at(10, "train", 1, 10)
    at(20, "train", 1, 20)
    at(50, "valid", 1, 20)
    at(60, "train", 1, 30)
    at(70, "train", 2, 40)
    at(90, "train", 2, 50)
    assert log.questions_per_second(per_update=16) == round(20 * 16 / 30, 2)
    assert TrainLog().questions_per_second(per_update=16) is None


def test_without_a_terminal_there_is_a_line_every_ten_seconds_and_for_each_epoch() -> None:
    clock, shown = Clock(), list[str]()
    log = TrainLog(clock)
    display = Display(Plan("cpu", 1, 1, 100, 200), 2, shown.append, clock)
    for update in range(1, 31):
        clock.now += 1
        record = log.add(record_of("train", 1, update, 1.386))
        assert record is not None
        display.update(record)
    assert shown == [
        "epoch 1/2, update 10/200: loss 1.386, 3 min left",
        "epoch 1/2, update 20/200: loss 1.386, 3 min left",
        "epoch 1/2, update 30/200: loss 1.386, 3 min left",
    ]
    record = log.add(record_of("valid", 1, 30, 0.693, accuracy=61.5))
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
