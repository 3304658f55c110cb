"""When rank 0 hands a checkpoint over: as soon as the one before is published, not sooner."""

import json
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.train import compat
from components.train.rank import hooks


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("rank", "expected"),
    [(0, [(5, False), (7, True), (9, True), (10, False)]), (1, [(5, False), (10, False)])],
)
def test_a_checkpoint_by_the_clock_is_rank_0s_alone_and_holds_all_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, expected: list[tuple[int, bool]]
) -> None:
    compat.import_fairseq()
    from fairseq import checkpoint_utils

    clock, written = Clock(), []
    monkeypatch.setattr(hooks, "time", clock)
    ranks = hooks.Boundaries(tmp_path, 5, rank, longest=60)
    trainer: Any = SimpleNamespace()

    def save(*_: object) -> None:
        written.append((trainer.get_num_updates(), trainer.exact))
        ranks.saved_at, ranks.saved_when = trainer.get_num_updates(), clock.now

    monkeypatch.setattr(checkpoint_utils, "save_checkpoint", save)
    for update in range(1, 11):
        clock.now += 40
        trainer.get_num_updates = lambda update=update: update
        if update < 6:  # fairseq has saved by itself
            ranks.saved_when = clock.now
        ranks.reached(SimpleNamespace(checkpoint=None), trainer, None, last=False)
    assert written == expected


@pytest.fixture
def ranks(tmp_path: Path) -> Any:
    """Rank 0, and a folder `saved` with its checkpoint; `update-000005` is being published."""
    compat.import_fairseq()
    (tmp_path / "control/update-000005").mkdir(parents=True)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/checkpoint_last.pt").write_text("10")
    return hooks.Boundaries(tmp_path / "control", 5, 0)


def hand_over(ranks: Any, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Hand update 10 over; what the supervisor is told."""
    iterator = SimpleNamespace(state_dict=lambda: {"epoch": 1})
    ranks._hand_over(ranks.control.parent / "saved", 10, iterator, False)
    assert (ranks.control / "update-000010/checkpoint.pt").read_text() == "10"
    told: dict[str, Any] = json.loads(capsys.readouterr().out.removeprefix(hooks.SAVED))
    return told


def test_it_waits_for_the_publication_before_and_lives(
    ranks: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def publish() -> None:
        assert not (ranks.control / "update-000010").exists()
        before = (ranks.control / hooks.ALIVE).stat().st_mtime_ns
        time.sleep(0.3)
        assert (ranks.control / hooks.ALIVE).stat().st_mtime_ns > before
        shutil.rmtree(ranks.control / "update-000005")

    publication = threading.Timer(0.5, publish)
    publication.start()
    told = hand_over(ranks, capsys)
    publication.join()
    assert not (ranks.control / "update-000005").exists()
    assert told["waited"] > 0.7
    assert not told["late"]


def test_a_stop_ends_the_wait(ranks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    threading.Timer(0.3, (ranks.control / hooks.STOP).touch).start()
    assert hand_over(ranks, capsys)["waited"] < 10


def test_a_store_that_is_down_holds_it_up_for_so_long_only(
    ranks: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks.patience = 0.2
    told = hand_over(ranks, capsys)
    assert 0.2 <= told["waited"] < 10
    assert told["late"]


def test_nothing_is_waited_for_when_all_is_published(
    ranks: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(ranks.control / "update-000005")
    assert hand_over(ranks, capsys)["waited"] < 0.05
