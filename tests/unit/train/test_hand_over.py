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
