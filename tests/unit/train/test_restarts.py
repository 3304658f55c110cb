"""When a training is started again in place, and when it gives up."""

import dataclasses
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.common.errors import RaceError, TrainingError
from components.train.config import TrainConfig, plan
from components.train.flags import Run
from components.train.node import Node
from components.train.rank import worker
from components.train.supervisor import restarts, supervise
from components.train.supervisor.failure import is_transient, out_of_memory_kills
from components.train.supervisor.launch import ENDED
from components.train.supervisor.log import TrainLog


def told(kind: str, *, transient: bool = False) -> dict[str, Any]:
    return {"type": kind, "message": "", "hint": "", "rank": 0, "transient": transient}


FOLLOWER = told("RuntimeError")  # what gloo raises in a rank that has lost another


@pytest.mark.parametrize(
    ("failures", "statuses", "passes"),
    [
        ([], [-9], True),
        ([FOLLOWER], [1, -11], True),
        ([told("DistBackendError", transient=True)], [1], True),
        ([FOLLOWER, told("AcceleratorError", transient=True)], [1, 1], True),
        ([told("TransferError", transient=True)], [1], True),
        ([], [1], False),
        ([FOLLOWER], [1], False),
        *(
            ([told(kind), FOLLOWER], [1, -6], False)
            for kind in ("ConfigError", "DataError", "CollapseError", "OutOfMemoryError")
        ),
        ([told("FloatingPointError")], [1], False),  # fairseq's for too many overflows
    ],
)
def test_what_may_pass_is_known_by_types_statuses_and_signals(
    failures: list[dict[str, Any]], statuses: list[int], passes: bool
) -> None:
    assert is_transient(failures, statuses) is passes


def test_a_rank_says_by_the_type_of_what_it_met_whether_it_may_pass() -> None:
    import torch

    assert worker._transient(torch.distributed.DistBackendError("NCCL"))
    assert worker._transient(torch.AcceleratorError("CUDA"))
    assert not worker._transient(torch.OutOfMemoryError("NCCL, CUDA error"))
    assert not worker._transient(RuntimeError("NCCL, CUDA error"))


@pytest.mark.parametrize(
    "text", ["low 0\noom 3\noom_kill 2\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"]
)
def test_the_kernel_tells_how_many_were_killed_for_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "events").write_text(text)
    missing, events = str(tmp_path / "missing"), str(tmp_path / "events")
    assert out_of_memory_kills([missing, events]) == 2
    assert out_of_memory_kills([missing]) == 0


def test_torchrun_tells_the_statuses_of_its_ranks(tmp_path: Path) -> None:
    code = (
        "import os, time; os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else time.sleep(60)"
    )
    lines: list[str] = []
    supervise.run(
        supervise.command(2, [sys.executable, "-c", code]),
        env=supervise.environment(2, "cpu", os.environ),
        log=tmp_path / "log",
        on_line=lines.append,
    )
    assert f'{ENDED}{{"statuses": [-9]}}' in lines


class Failing:
    """Stands for the ranks and their checkpoints: tries that end at these updates, and how."""

    def __init__(self, *tries: tuple[int, RaceError | None]) -> None:
        self.tries = list(tries)
        self.started: list[tuple[bool, int]] = []
        self.at = 0

    def run(self, run: Run, log: TrainLog, folder: Path, checkpoints: Any) -> None:
        self.started.append((run.resumes, self.at))
        update, error = self.tries.pop(0)
        log.records.append({"split": "train", "update": update})
        if error:
            raise error

    def kept(self) -> int:
        return self.at

    def go_back(self) -> Any:
        self.at += 10
        return SimpleNamespace(update=self.at, ends=lambda config: False)


def passing() -> RaceError:
    error = TrainingError("training stopped: a process was killed (signal 9)")
    error.transient = True
    return error


@pytest.fixture
def wanted(tiny_race: Any, tmp_path: Path) -> Run:
    config = TrainConfig(
        tiny_race.data, tiny_race.pretrained, tmp_path / "out", **tiny_race.parameters
    )
    the_plan = plan(config, gpus=0, questions=96)
    return Run(config, the_plan, tiny_race.pretrained, tmp_path / "checkpoints")


def train_on(
    monkeypatch: pytest.MonkeyPatch, run: Run, *tries: tuple[int, RaceError | None]
) -> tuple[Failing, TrainLog, RaceError | None]:
    ranks, log = Failing(*tries), TrainLog()
    monkeypatch.setattr(restarts, "run_fairseq", ranks.run)
    try:
        restarts.train_with_restarts(run, log, Path(), ranks)  # type: ignore[arg-type]
    except RaceError as error:
        return ranks, log, error
    return ranks, log, None


def test_it_goes_on_from_the_newest_checkpoint_to_the_end(
    monkeypatch: pytest.MonkeyPatch, wanted: Run
) -> None:
    tries = [(15, passing()), (25, passing()), (96, None)]
    ranks, log, error = train_on(monkeypatch, wanted, *tries)
    assert error is None
    assert ranks.started == [(False, 0), (True, 10), (True, 20)]
    assert log.restarts == 2


def test_it_gives_up_after_so_many(monkeypatch: pytest.MonkeyPatch, wanted: Run) -> None:
    tries = [(10 * n, passing()) for n in range(1, 9)]
    ranks, _, error = train_on(monkeypatch, wanted, *tries)
    assert isinstance(error, TrainingError)
    assert len(ranks.started) == 1 + wanted.config.max_restarts == 4


def test_it_gives_up_when_it_comes_no_further(
    monkeypatch: pytest.MonkeyPatch, wanted: Run, caplog: pytest.LogCaptureFixture
) -> None:
    tries = [(15, passing()), (15, passing()), (96, None)]
    ranks, _, error = train_on(monkeypatch, wanted, *tries)
    assert error is not None
    assert len(ranks.started) == 2
    assert "started again once, and came no further than before" in caplog.text


@pytest.mark.parametrize("change", [{"max_restarts": 0}, {"num_nodes": 2}, None])
def test_what_lasts_and_what_others_restart_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, wanted: Run, change: dict[str, int] | None
) -> None:
    error = passing() if change else TrainingError("training has collapsed")
    config = dataclasses.replace(wanted.config, **(change or {}))
    node = Node(0, config.num_nodes, "first.example", 29400)
    wanted = dataclasses.replace(wanted, config=config, node=node)
    ranks, _, raised = train_on(monkeypatch, wanted, (15, error), (96, None))
    assert raised is error
    assert len(ranks.started) == 1
