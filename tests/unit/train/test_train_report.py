"""What the training report says of a log."""

from typing import Any

import pytest

from components.train.supervisor.report import stages, write_report

METRICS: dict[str, Any] = {
    "best_valid_accuracy": None,
    "best_valid_update": None,
    "final_valid_loss": None,
    "final_train_loss": None,
    "updates": 0,
    "skipped_updates": 0,
    "questions": 100,
    "options": 4,
    "questions_per_second": None,
    "seconds": 60.0,
    "processes": 1,
    "device": "cpu",
    "update_freq": 4,
    "parameters": {
        "arch": "roberta_base",
        "encoder_layers": 0,
        "encoder_embed_dim": 0,
        "effective_batch_size": 16,
    },
    "versions": {},
}


def record(split: str, update: int, seconds: float, **figures: Any) -> dict[str, Any]:
    return {"split": split, "epoch": 1, "update": update, "seconds": seconds, "loss": 1.0} | figures


def test_the_time_is_shared_out_among_the_stages() -> None:
    records = [
        record("train", 10, 15.0),  # 10 s of start, 10 updates of 0.5 s
        record("train", 20, 20.0),
        record("valid", 24, 25.0),  # 4 updates, 3 s of validation
        record("train_epoch", 24, 25.1),
        record("train", 34, 34.0),  # 4 s of checkpoints, 10 updates
        record("train", 44, 39.0),
        record("valid", 44, 42.0),
    ]
    found = stages({"seconds": 50.0}, records)
    assert found == pytest.approx(
        {"start": 10.0, "training": 22.0, "validation": 6.0, "checkpoints": 12.0}
    )


def test_the_stages_add_up_also_where_updates_take_longer_than_they_can() -> None:
    records = [record("train", 1, 10.0), record("train", 2, 90.0), record("valid", 9, 91.0)]
    assert sum(stages({"seconds": 95.0}, records).values()) == pytest.approx(95)
    assert sum(stages({"seconds": 7.0}, []).values()) == 7


def test_a_log_without_a_record_or_a_finite_value_makes_a_report() -> None:
    assert "The loss is not finite" in write_report(METRICS, [])
    records = [record("train", 1, 1.0, loss=None, loss_scale=0.0, gradient_norm=None)]
    assert "<figure>" not in write_report(METRICS, records)


def test_a_loss_that_stays_at_chance_is_called_by_its_name() -> None:
    made = write_report(METRICS | {"final_train_loss": 1.3862}, [record("train", 1, 1.0)])
    assert "nothing was learned" in made
    made = write_report(METRICS | {"final_train_loss": 0.5}, [record("train", 1, 1.0)])
    assert "nothing was learned" not in made


def test_a_collapse_is_said_plainly_and_its_reason_given() -> None:
    made = write_report(METRICS | {"collapsed": "25 updates in a row were skipped"}, [])
    assert "RoBERTa-base: collapsed, 0 updates" in made
    assert "there is no model: 25 updates in a row were skipped." in made
    assert "collapsed" not in write_report(METRICS | {"collapsed": ""}, [])


def test_a_model_of_another_size_does_not_go_by_its_architectures_name() -> None:
    parameters = METRICS["parameters"] | {"encoder_layers": 2, "encoder_embed_dim": 32}
    page = write_report({**METRICS, "parameters": parameters}, [])
    assert "RoBERTa of 2 layers, width 32" in page
    assert "RoBERTa-base" not in page
