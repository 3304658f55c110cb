"""Training as a whole, with fairseq in its child processes; each run takes some seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from components.common.errors import (
    CollapseError,
    ConfigError,
    DataError,
    OutputError,
    TrainingError,
)
from components.train import checkpoints
from components.train.config import TrainConfig
from components.train.core import train
from components.train.node import Node
from components.train.supervisor.failure import explain
from components.train.supervisor.log import TrainLog


def records(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]


def test_the_output_holds_the_checkpoints_the_metrics_and_the_logs(trained: Any) -> None:
    assert sorted(path.name for path in trained.together.iterdir()) == [
        "checkpoint_best.pt",
        "checkpoint_last.pt",
        "metrics.json",
        "report.html",
        "tensorboard",
        "train.log",
        "train_log.jsonl",
        "vocabulary.json",
    ]
    metrics = json.loads((trained.together / "metrics.json").read_text())
    assert metrics["processes"] == 2
    assert metrics["updates"] == 12
    assert metrics["questions"] == 96
    assert metrics["questions_per_second"] > 0
    assert metrics["data"]["doubts"] == []
    letter, right = (metrics["data"][f"usual_letter{what}"] for what in ("", "_accuracy"))
    report = (trained.together / "report.html").read_text()
    assert f"Always {letter} would be right in {right:.1f}" in report
    assert metrics["parameters"]["learning_rate"] == 1e-3
    valid = [r["accuracy"] for r in records(trained.together) if r["split"] == "valid"]
    assert metrics["best_valid_accuracy"] == max(valid)
    assert metrics["versions"]["fairseq"] == "0.12.2"


def test_two_ranks_train_as_one_with_twice_the_accumulation(trained: Any) -> None:
    curves = [
        [(r["split"], r["update"], r["loss"], r["accuracy"]) for r in records(output)]
        for output in (trained.alone, trained.together)
    ]
    assert len(curves[0]) == len(curves[1]) == 16  # 12 updates, 2 validations, 2 epochs
    for one, two in zip(*curves, strict=True):
        assert one == pytest.approx(two, abs=2e-3)
    one, two = (
        checkpoints.load(o / "checkpoint_last.pt") for o in (trained.alone, trained.together)
    )
    start = checkpoints.load(trained.pretrained)["model"]
    for name, weight in one["model"].items():
        # fairseq's copies for its fast inference, and the head of the pretraining: without use
        # in training, they only decay, and only where two ranks exchange zeros as their gradients.
        if not name.startswith("encoder.lm_head") and "_weight" not in name and "_bias" not in name:
            difference = (weight - two["model"][name]).abs().max().item()
            assert difference < 2e-5, name
    moved = "encoder.sentence_encoder.layers.1.fc1.weight"
    change = (one["model"][moved] - start[moved.replace("encoder.", "decoder.", 1)]).abs().max()
    assert change > 1e-3


def test_the_packed_engine_trains_as_the_stock_one(
    tiny_race: Any, trained: Any, tmp_path: Path
) -> None:
    packed = config(
        tiny_race, tmp_path / "out", engine="packed", dropout=0.0, attention_dropout=0.0
    )
    train(packed)
    for stock, ours in zip(records(trained.alone), records(packed.output), strict=True):
        for name in ("split", "update", "loss", "accuracy"):
            assert ours[name] == pytest.approx(stock[name], abs=2e-3)


def test_the_pretrained_checkpoint_is_restored_and_everything_else_is_reset(trained: Any) -> None:
    log = (trained.alone / "train.log").read_text()
    assert "Loaded checkpoint restore-file (epoch 1 @ 0 updates)" in log
    state = checkpoints.load(trained.alone / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 12  # not the pretraining's 500000
    assert state["extra_state"]["train_iterator"]["epoch"] == 3
    first = records(trained.alone)[0]
    assert (first["epoch"], first["update"]) == (1, 1)


def test_bf16_trains_on_the_cpu(tiny_race: Any, tmp_path: Path) -> None:
    result = train(config(tiny_race, tmp_path / "out", precision="bf16", max_updates=1))
    assert result.metrics["updates"] == 1
    for name, weight in checkpoints.load(result.checkpoint_last)["model"].items():
        # fairseq widens what it saves.
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weight.bfloat16().float()), name


def test_the_log_is_free_of_warnings(trained: Any) -> None:
    assert "Warning" not in (trained.together / "train.log").read_text()


def config(tiny_race: Any, output: Path, **parameters: object) -> TrainConfig:
    return TrainConfig(
        **{"data": tiny_race.data, "pretrained": tiny_race.pretrained, "output": output}
        | tiny_race.parameters
        | parameters
    )


@pytest.mark.slow
def test_the_last_checkpoint_is_left_out_where_it_is_not_wanted(
    tiny_race: Any, tmp_path: Path
) -> None:
    result = train(config(tiny_race, tmp_path / "out", keep_last=False, epochs=1))
    assert result.checkpoint_best == tmp_path / "out/checkpoint_best.pt"
    assert result.checkpoint_last is None
    assert [path.name for path in (tmp_path / "out").glob("*.pt")] == ["checkpoint_best.pt"]
    assert result.metrics["collapsed"] == ""
    assert checkpoints.load(result.checkpoint_best)["model"]


def assert_nothing_is_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []


def test_an_unsafe_pretrained_checkpoint_is_refused_in_one_line(
    tiny_race: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Canary:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "canary"),)

    path = tmp_path / "model.pt"
    torch.save({"model": {}, "args": Canary()}, path)
    with pytest.raises(DataError, match=r"refused, because reading it would call \w+\.mkdir"):
        train(config(tiny_race, tmp_path / "out", pretrained=path))
    assert capfd.readouterr().err == "", "no traceback of the rank that found out"
    path.unlink()
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"processes": 3},
            "effective_batch_size 16 does not divide over 3 processes of batch_size 1",
        ),
        ({"encoder_layers": 3}, "encoder_layers is 3, the checkpoint has 2"),
        ({"init_token": 999_999}, "init_token is 999999, but .* has 65 tokens"),
        ({"separator_token": 65}, "separator_token is 65, but .* has 65 tokens"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    tiny_race: Any, tmp_path: Path, parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(config(tiny_race, tmp_path / "out", **parameters))
    assert_nothing_is_left(tmp_path)


def test_an_output_that_is_in_use_is_refused_before_fairseq_starts(
    tiny_race: Any, tmp_path: Path
) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(FileExistsError):
        train(config(tiny_race, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_fairseq_failed_of_is_the_message(
    tiny_race: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError) as error:
        train(config(tiny_race, tmp_path / "out", seed=2**32))  # more than numpy takes
    assert error.value.what.startswith("training stopped before the first record, rank 0: ")
    assert "ValueError: Seed must be between" in error.value.what
    assert "ValueError" in capfd.readouterr().err, "the last lines of the log are on the screen"
    assert_nothing_is_left(tmp_path)


class Step:
    """`python -m components.train` on a run that would take hours, and its processes."""

    def __init__(self, tiny_race: Any, folder: Path, processes: int) -> None:
        self.folder = folder
        parameters = tiny_race.parameters | {
            "data": tiny_race.data,
            "pretrained": tiny_race.pretrained,
            "output": folder / "out",
            "epochs": 10000,
            "processes": processes,
            "max_restarts": 0,
        }
        flags = [
            text
            for name, value in parameters.items()
            for text in (f"--{name.replace('_', '-')}", str(value))
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "components.train", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not self._trains():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _trains(self) -> bool:
        return any(
            "| train_inner |" in log.read_text() for log in self.folder.glob(".out.*/train.log")
        )

    def descendants(self, kind: str = "") -> list[int]:
        """Processes that have the output's path among their arguments, but for the step itself."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            pid = int(entry.name)
            if str(self.folder) in command and kind in command and pid != self.process.pid:
                found.append(pid)
        return found

    def end(self) -> tuple[int, str]:
        output = self.process.communicate(timeout=60)[0]
        deadline = time.monotonic() + 15
        while self.descendants() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.descendants() == [], "no process is left behind"
        return self.process.returncode, output


def test_a_rank_that_is_killed_ends_the_step(tiny_race: Any, tmp_path: Path) -> None:
    step = Step(tiny_race, tmp_path, processes=2)
    ranks = step.descendants("components.train.rank.worker")
    workers = [pid for pid in ranks if os.getsid(pid) == pid and "launch" not in _command(pid)]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    status, output = step.end()
    assert status == TrainingError.exit_status
    assert "error: training stopped after update" in output
    assert "a process was killed (signal 9)" in output
    assert_nothing_is_left(tmp_path)


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_sigterm_to_the_step_ends_every_process(tiny_race: Any, tmp_path: Path) -> None:
    step = Step(tiny_race, tmp_path, processes=1)
    assert step.descendants()
    step.process.terminate()
    status, output = step.end()
    assert status == 143
    assert "terminated by SIGTERM" in output
    assert_nothing_is_left(tmp_path)


def test_no_process_outlives_a_step_that_is_killed(tiny_race: Any, tmp_path: Path) -> None:
    step = Step(tiny_race, tmp_path, processes=2)
    assert len(step.descendants()) >= 3  # torchrun and two ranks
    step.process.kill()
    assert step.end()[0] == -signal.SIGKILL


def failure(kind: str, message: str, rank: int = 0) -> dict[str, Any]:
    return {"rank": rank, "type": kind, "message": message, "hint": ""}


@pytest.mark.parametrize(
    ("failures", "error", "message"),
    [
        (
            [failure("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB.")],
            TrainingError,
            "rank 0: OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.. Lower batch",
        ),
        (
            [failure("FloatingPointError", "Minimum loss scale reached (0.0001).")],
            CollapseError,
            "Lower learning_rate, set warmup_updates",
        ),
        (
            [
                failure("RuntimeError", "gloo: Connection closed by peer [127.0.0.1]:1"),
                failure("ValueError", "the cause", rank=1),
            ],
            TrainingError,
            "rank 1: ValueError: the cause",
        ),
        (
            [failure("OSError", "[Errno 28] No space left on device")],
            OutputError,
            "no space left on device. The file system at /",
        ),
    ],
)
def test_known_causes_have_a_mend(
    failures: list[dict[str, Any]], error: type[Exception], message: str
) -> None:
    explained = explain([1], failures, [], TrainLog())
    assert type(explained) is error
    assert message in str(explained)


@pytest.mark.parametrize(
    "message",
    [
        "[gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:1: Connection reset by peer",
        "NCCL error: remote process exited or there was a network error, ncclRemoteError",
        "failed to recv, got 0 bytes. Connection was likely closed.",
    ],
)
def test_on_several_nodes_what_only_tells_of_another_ones_end_is_told_so(message: str) -> None:
    lost = failure("RuntimeError", message)
    for rank, where in ((0, "before the first record"), (1, "on node 1 of 2")):
        explained = explain([1], [lost], [], TrainLog(), Node(rank, 2))
        assert explained.what.startswith(
            f"training stopped {where}: another node failed or was lost ("
        )
        assert explained.exit_status == TrainingError.exit_status
    both = [lost, failure("ValueError", "the cause", rank=1)]
    assert "rank 1: ValueError: the cause" in explain([1], both, [], TrainLog(), Node(1, 2)).what


def test_a_node_that_is_not_told_which_one_it_is_is_refused(tiny_race: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nodes is 2, but the environment does not say which"):
        train(config(tiny_race, tmp_path / "out", num_nodes=2))
    assert_nothing_is_left(tmp_path)


def test_an_error_of_ours_comes_through_as_it_is() -> None:
    collapsed = failure("ConfigError", "token_budget is 10") | {"hint": "Set it to 512 or more"}
    explained = explain([1], [collapsed], [], TrainLog())
    assert type(explained) is ConfigError
    assert str(explained) == "token_budget is 10. Set it to 512 or more"


def test_a_death_by_signal_is_told_by_the_exit_statuses() -> None:
    assert "killed (signal 9)" in explain([-9], [], [], TrainLog()).what
    lost = failure("RuntimeError", "gloo: Connection closed by peer [127.0.0.1]:1")
    assert "killed (signal 9)" in explain([1, -9], [lost], [], TrainLog()).what
    assert "rank 0: RuntimeError: gloo" in explain([1], [lost], [], TrainLog()).what
    assert "exit status 2" in explain([2], [], [], TrainLog()).what
    assert "memory was not enough" in explain([-9], [], [], TrainLog(), out_of_memory=True).what
