"""What is computed together."""

import threading
import time
from typing import Any

import pytest

from components.common.errors import DataError
from components.predict.questions import Question
from components.serve.batcher import Batcher


def asked(name: str, options: int = 2) -> Question:
    return Question(1, name, [str(i) for i in range(options)], [], None)


def started(reader: Any, **limits: Any) -> Batcher:
    batcher = Batcher(lambda: reader, **{"max_tokens": 1000, "max_wait": 0.0} | limits)  # type: ignore[arg-type, return-value]
    batcher.start()
    return batcher


def test_what_gathers_while_a_batch_is_computed_is_the_next_batch(reader: Any) -> None:
    batcher = started(reader)
    reader.held.clear()
    first = batcher.ask([asked("a")])
    while not reader.batches:
        time.sleep(0.001)
    others = [batcher.ask([asked(name), asked(name, 3)]) for name in "bcd"]
    reader.held.set()
    assert first.result(30)[0]["id"] == "a"
    for name, answer in zip("bcd", others, strict=True):
        assert [(a["id"], len(a["probabilities"])) for a in answer.result(30)] == [
            (name, 2),
            (name, 3),
        ]
    batcher.stop()
    assert reader.batches == [["a"], [*"bbccdd"]]


def test_a_batch_ends_at_its_tokens_and_a_request_is_never_cut(reader: Any) -> None:
    batcher = started(reader, max_tokens=60)
    reader.held.clear()
    answers = [batcher.ask([asked("first")])]
    while not reader.batches:
        time.sleep(0.001)
    answers += [batcher.ask([asked(name)]) for name in "abcd"]
    answers.append(batcher.ask([asked("e")] * 9))
    answers.append(batcher.ask([asked("f")]))
    reader.held.set()
    assert [len(a.result(30)) for a in answers] == [1, 1, 1, 1, 1, 9, 1]
    batcher.stop()
    assert reader.batches == [["first"], [*"abc"], ["d", *"eeeeeeeee"], ["f"]]


def test_a_lone_client_does_not_wait_and_one_of_two_waits_for_the_other(reader: Any) -> None:
    batcher = started(reader, max_wait=5.0)
    begun = time.monotonic()
    for _ in range(3):
        batcher.ask([asked("alone")]).result(30)
    assert time.monotonic() - begun < 4
    reader.held.clear()
    batcher.ask([asked("x")])
    while len(reader.batches) < 4:
        time.sleep(0.001)
    pair = [batcher.ask([asked(name)]) for name in "ab"]
    reader.held.set()
    for answer in pair:
        answer.result(30)
    one = batcher.ask([asked("a")])
    time.sleep(0.2)
    assert not one.done()
    batcher.ask([asked("b")]).result(30)
    one.result(30)
    batcher.stop()
    assert reader.batches[-2:] == [["a", "b"], ["a", "b"]]


def test_what_fails_or_is_given_up_harms_no_other(reader: Any) -> None:
    batcher = started(reader)
    reader.held.clear()
    first = batcher.ask([asked("first")])
    while not reader.batches:
        time.sleep(0.001)
    names = ("a", "bad", "unreadable", "gone", "b")
    a, bad, unreadable, gone, b = (batcher.ask([asked(name)]) for name in names)
    assert gone.cancel()
    reader.held.set()
    assert [one.result(30)[0]["id"] for one in (first, a, b)] == ["first", "a", "b"]
    for failed in (bad, unreadable):
        assert isinstance(failed.exception(30), DataError)
    batcher.stop()
    assert not any("gone" in batch for batch in reader.batches)


def test_all_that_was_asked_is_answered_before_it_stops(reader: Any) -> None:
    batcher = started(reader, max_tokens=20)
    answers = [batcher.ask([asked(str(n))]) for n in range(50)]
    batcher.stop()
    assert [a.result(0)[0]["id"] for a in answers] == [str(n) for n in range(50)]


def test_a_model_that_cannot_be_loaded_ends_it() -> None:
    ended = threading.Event()

    def load() -> Any:
        raise DataError("no model")

    batcher = Batcher(load, 1, 0.0, failed=ended.set)
    batcher.start()
    assert ended.wait(30)
    with pytest.raises(DataError, match="no model"):
        batcher.stop()
