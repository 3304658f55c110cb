"""`race estimate`: its formula in cases that can be worked out by hand, and what it reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError, DataError
from pipeline import cli
from pipeline.estimate import Estimate, EstimateConfig, estimate

# 4 updates an epoch of 16 questions, a second each on one GPU; gradients as large as the links.
BY_HAND = {
    "questions_per_second": 16.0,
    "questions": 64,
    "epochs": 2,
    "validation_questions": 48,
    "gradients": 1.0,
    "link": 10.0,
    "network": 2.0,
}


def reckoned(run: Path | None = None, **given: Any) -> list[Estimate]:
    return estimate(EstimateConfig(**{**BY_HAND, **given}), run)


@pytest.mark.parametrize(
    ("gpus", "update", "reduce"),
    [
        (1, 1.0, 0.0),
        (2, 0.5 + 0.1, 0.1),  # 2 (2 - 1) / 2 x 1 / 10
        (8, 1 / 8 + 0.175, 0.175),  # 2 (8 - 1) / 8 x 1 / 10
        (16, 1 / 16 + 0.175 + 0.5, 0.675),  # and 2 (2 - 1) / 2 x 1 / 2 between two nodes
    ],
)
def test_the_formula(gpus: int, update: float, reduce: float) -> None:
    (one,) = reckoned(gpus=(gpus,), start=7.0, checkpoint=3.0)
    assert one.update == pytest.approx(update)
    # Two epochs of 4 updates, and of 48 questions at a third of an update's work for each 16.
    training = 2 * (4 * (1 / gpus + reduce) + 1 / gpus)
    assert one.seconds == pytest.approx(7 + training + 2 * 3)
    assert one.gpu_hours == pytest.approx(gpus * one.seconds / 3600)


def test_a_slow_machine_writes_checkpoints_by_the_clock() -> None:
    # 2 epochs of 64 minutes of training, without validation.
    slow = {"questions_per_second": 1 / 60, "validation_questions": 0, "gpus": (1,)}
    with_, without = (reckoned(**slow, checkpoint=c)[0].seconds for c in (1.0, 0.0))
    assert with_ - without == pytest.approx(2 + 12)


def test_on_the_gpus_that_were_measured_bandwidth_cancels_out() -> None:
    times = [
        reckoned(measured_gpus=8, gpus=(8,), link=link, validation_questions=0)[0].seconds
        for link in (10.0, 100.0)
    ]
    assert times == pytest.approx([8.0, 8.0])  # 8 updates of 16 questions, at 16 a second


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, of which train measured 32 questions a second on two GPUs."""
    (tmp_path / "model").mkdir()
    parameters = {"epochs": 3, "effective_batch_size": 32, "precision": "fp32", "encoder_layers": 1}
    parameters |= {"encoder_embed_dim": 100, "encoder_ffn_embed_dim": 400}
    parameters |= {"arch": "roberta_base", "encoder_attention_heads": 2}
    metrics = {"questions_per_second": 32.0, "questions": 320, "processes": 2}
    (tmp_path / "model" / "metrics.json").write_text(
        json.dumps(metrics | {"parameters": parameters})
    )
    return tmp_path


@pytest.mark.parametrize("folder", [".", "model"])
def test_a_run_says_what_is_not_given(run: Path, folder: str) -> None:
    (found,) = estimate(EstimateConfig(gpus=(2,), validation_questions=0), run / folder)
    assert found.update == pytest.approx(1.0)
    assert found.seconds == pytest.approx(3 * 320 / 32)
    # A layer of 12 x 100 x 100 and 50,265 embeddings, of 4 bytes: 20.6 MB over 1 GB/s.
    (alone,) = estimate(EstimateConfig(gpus=(1,), link=1.0), run / folder)
    assert alone.update == pytest.approx(2 * (1 - 0.0205860))
    (other,) = estimate(EstimateConfig(gpus=(2,), epochs=1, validation_questions=0), run)
    assert other.seconds == pytest.approx(320 / 32)


def test_the_command_shows_time_efficiency_and_cost(capsys) -> None:
    assert (
        cli.main(["estimate", "--questions-per-second=128", "--gpus", "1", "8", "--price=3"]) == 0
    )
    head, one, eight = capsys.readouterr().out.splitlines()
    assert head.split("  ")[-1] == "cost"
    assert one.split() == ["1", "125", "ms", "58", "min", "16", "s", "0.97", "100", "%", "2.91"]
    assert eight.split()[0] == "8"


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"questions_per_second": 0.0}, ConfigError, "Give a run, or --questions-per-second"),
        ({"questions_per_second": -1.0}, ConfigError, "questions_per_second is -1.0"),
        ({"gpus": (0,)}, ConfigError, "gpus is 0"),
        ({"gpus": (3,)}, ConfigError, "The nearest that does: 15 or 18"),
        ({"gpus": (9,)}, ConfigError, "9 GPUs do not divide over 2 nodes"),
        ({"link": 0.0}, ConfigError, "link is 0.0"),
        ({"measured_gpus": 2, "link": 1.0}, ConfigError, "faster than the all-reduce"),
    ],
)
def test_what_cannot_be_reckoned_is_refused(given: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        reckoned(**given)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no such file"), ("{}", "too short"), ('{"questions": 3}', "too short")],
)
def test_a_run_without_a_speed_is_refused(content: str | None, says: str, tmp_path: Path) -> None:
    if content:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DataError, match=says):
        estimate(EstimateConfig(), tmp_path)


def test_a_run_of_0_1_0_says_the_same(run: Path) -> None:
    today = estimate(EstimateConfig(gpus=(2,)), run)
    path = run / "model" / "metrics.json"
    path.write_text(path.read_text().replace("effective_batch_size", "effective_batch"))
    assert estimate(EstimateConfig(gpus=(2,)), run) == today
