"""Runs that can come to nothing end early, with a word on what to change."""

import html
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from components.common.errors import CollapseError, TrainingError
from components.train import checkpoints, compat
from components.train.config import TrainConfig, plan
from components.train.core import train
from components.train.flags import Run, fairseq_arguments
from components.train.rank.worker import FAILED

compat.import_fairseq()

from components.train.engine.guard import Guard  # noqa: E402

GUESS = math.log(4)


def config(tiny_race: Any, output: Path, **changes: Any) -> TrainConfig:
    parameters = tiny_race.parameters | {"engine": "packed", "epochs": 99}
    parameters |= changes
    return TrainConfig(tiny_race.data, tiny_race.pretrained, output, **parameters)


def test_a_run_made_to_collapse_is_stopped(tiny_race: Any, tmp_path: Path) -> None:
    collapsing = config(
        tiny_race,
        tmp_path / "out",
        learning_rate=1e-9,
        dropout=0.0,
        attention_dropout=0.0,
        effective_batch_size=8,
        stop_collapsed_after=100,
    )
    with pytest.raises(CollapseError, match=r"collapsed: after 104 questions.* 1\.386") as error:
        train(collapsing)
    assert "Lower learning_rate" in error.value.hint
    assert not (tmp_path / "out").exists()


def test_a_run_that_blows_up_is_stopped(tiny_race: Any, tmp_path: Path) -> None:
    with pytest.raises(CollapseError, match="no longer numbers") as error:
        train(config(tiny_race, tmp_path / "out", learning_rate=1e30))
    assert "Lower learning_rate" in error.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"learning_rate": 1e-9, "stop_collapsed_after": 150}, "after 160 questions the loss is"),
        ({"learning_rate": 1e30}, "the weights are no longer numbers"),
    ],
)
def test_a_collapse_is_marked_where_that_is_asked_for(
    tiny_race: Any,
    tmp_path: Path,
    changes: dict[str, Any],
    reason: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    result = train(
        config(
            tiny_race,
            tmp_path / "out",
            on_collapse="mark",
            checkpoint_uri=str(tmp_path / "checkpoints"),
            **changes,
        )
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics.json",
        "report.html",
        "tensorboard",
        "train.log",
        "train_log.jsonl",
        "vocabulary.json",
    ]
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert reason in metrics["collapsed"]
    assert metrics.keys() >= {"best_valid_accuracy", "final_valid_loss", "updates", "seconds"}
    assert result.metrics == metrics
    assert (result.checkpoint_best, result.checkpoint_last) == (None, None)
    report = (tmp_path / "out/report.html").read_text()
    assert "collapsed" in report
    assert f"there is no model: {metrics['collapsed']}" in html.unescape(report)
    assert capfd.readouterr().err == "", "a collapse that is marked is no failure to be shown"


def test_marking_lets_every_other_failure_fail(tiny_race: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="rank 0: ValueError") as error:
        train(config(tiny_race, tmp_path / "out", on_collapse="mark", seed=2**32))
    assert not isinstance(error.value, CollapseError)
    assert not (tmp_path / "out").exists()


def failed(tiny_race: Any, save_dir: Path, *more: str) -> tuple[dict[str, Any], str]:
    """Run fairseq-train in fp16, which the train step allows on a GPU only; its report and log."""
    wanted = config(tiny_race, save_dir)
    run = Run(wanted, plan(wanted, gpus=0, questions=96), tiny_race.pretrained, save_dir)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "components.train.rank.worker",
            *fairseq_arguments(run),
            "--fp16",
            *more,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    reports = [line for line in done.stdout.splitlines() if line.startswith(FAILED)]
    report: dict[str, Any] = json.loads(reports[0].removeprefix(FAILED))
    return report, done.stdout


def test_a_run_made_to_overflow_is_stopped(tiny_race: Any, tmp_path: Path) -> None:
    scale = str(2**40)
    report, log = failed(
        tiny_race,
        tmp_path,
        *("--fp16-init-scale", scale, "--threshold-loss-scale", scale, "--stop-overflows", "7"),
    )
    assert report["type"] == "CollapseError"
    assert "7 updates in a row were skipped because the gradient overflowed" in report["message"]
    assert "bf16" in report["hint"]
    assert log.count("gradient overflow detected, ignoring gradient") == 7
    assert '"num_updates": "1"' not in log


def test_fp16_recovers_from_overflow_as_fairseq_does(tiny_race: Any, tmp_path: Path) -> None:
    """The loss scale is halved until the gradient fits, and no update counts before."""
    _, log = failed(
        tiny_race,
        tmp_path,
        *("--fp16-init-scale", str(2**24), "--fp16-scale-window", "4"),
        *("--stop-collapsed-after", "96"),
    )
    before, first = re.split(r"train_inner \| ", log)[:2]
    skipped = before.count("gradient overflow detected, ignoring gradient")
    assert 0 < skipped < 25
    values = json.loads(first.splitlines()[0])
    assert values["num_updates"] == "1"
    assert math.log2(float(values["loss_scale"])) == 24 - skipped


def test_weights_that_are_no_numbers_are_noticed_in_the_first_update(
    tiny_race: Any, tmp_path: Path
) -> None:
    state = checkpoints.load(tiny_race.pretrained)
    del state["extra_state"]["train_meters"]
    name = "decoder.sentence_encoder.layers.0.fc1.bias"
    state["model"][name][3] = math.nan
    torch.save(state, tmp_path / "broken.pt")
    report, _ = failed(tiny_race, tmp_path / "out", "--restore-file", str(tmp_path / "broken.pt"))
    assert report["type"] == "CollapseError"
    assert "the weights are no longer numbers" in report["message"]


def test_a_loss_that_falls_is_let_go_on() -> None:
    guard = Guard(options=4, questions=300, patience=3)
    for update in range(200):
        guard.updated(GUESS * (1 if update < 80 else 0.95), questions=1)
    for _ in range(400):
        guard.updated(GUESS * 0.95, questions=1)


def stopped(guard: Guard, losses: list[float], questions: int) -> str:
    """What the guard says when it ends a run with these losses; "" when it does not."""
    try:
        for loss in losses:
            guard.updated(loss, questions)
    except TrainingError as error:
        return str(error)
    return ""


def test_a_loss_that_comes_back_to_guessing_is_noticed() -> None:
    guard = Guard(options=4, questions=300, patience=3)
    for _ in range(1000):
        guard.updated(0.7, questions=1)
    assert "collapsed" in stopped(guard, [GUESS] * 600, questions=1)


def test_a_noisy_loss_at_guessing_is_noticed() -> None:
    guard = Guard(options=4, questions=3000, patience=3)
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 0.05
    assert "among 4 options" in stopped(guard, (GUESS + noise).tolist(), questions=16)


def test_only_overflows_in_a_row_count() -> None:
    guard = Guard(options=4, questions=0, patience=3)
    for _ in range(5):
        guard.overflowed(1.0)
        guard.overflowed(1.0)
        guard.updated(GUESS, questions=16)
    guard.overflowed(1.0)
    guard.overflowed(1.0)
    with pytest.raises(CollapseError, match="3 updates in a row"):
        guard.overflowed(1.0)


def test_watching_can_be_switched_off() -> None:
    guard = Guard(options=4, questions=0, patience=0)
    for _ in range(100):
        guard.updated(GUESS, questions=10**6)
        guard.overflowed(1.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run(loss: float) -> None:
    with pytest.raises(CollapseError, match="no longer numbers"):
        Guard(options=4, questions=0, patience=0).updated(loss, questions=16)
