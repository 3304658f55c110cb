"""metrics.json and predictions.jsonl: written and read back, and refused where damaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.errors import DataError
from components.common.results.metrics import Evaluation, Selection, Training, write_metrics
from components.common.results.predictions import PREDICTIONS, Predictions, read_predictions
from components.common.results.scores import Group, Scores

SCORES = Scores.together([Group("middle", 1, 1, 1.0), Group("high", 3, 0, 2.0)])
FLAT = {
    "accuracy": 25.0,
    "loss": 1.75,
    "questions": 4,
    "correct": 1,
    "accuracy_middle": 100.0,
    "loss_middle": 1.0,
    "questions_middle": 1,
    "correct_middle": 1,
    "accuracy_high": 0.0,
    "loss_high": 2.0,
    "questions_high": 3,
    "correct_high": 0,
}


def test_scores_have_flat_names_in_the_order_of_the_test_sets() -> None:
    assert list(SCORES.to_metrics().items()) == list(FLAT.items())
    assert Scores.from_metrics({"chance": 25.0, **FLAT}) == SCORES
    assert [test.name for test in SCORES.tests] == ["middle", "high"]


def test_a_loss_that_is_not_known_is_left_out() -> None:
    scores = Scores.together([Group("high", 3, 2)])
    assert "loss" not in scores.to_metrics()
    assert Scores.from_metrics(scores.to_metrics()) == scores


@pytest.mark.parametrize(
    "changes",
    [
        {"questions": 5},
        {"correct_high": 1},
        {"correct_high": -1},
        {"correct_high": 4},
        {"questions_high": 3.0},
        {"questions_high": True},
        {"accuracy": 101},
        {"accuracy": 26.0},
        {"accuracy_high": "0"},
        {"loss": "1.75"},
        {"questions_middle": 0, "correct_middle": 0},
        {"correct_high": None},
        {"chance": -1},
        {"validation_questions": 1.5},
        {"training": 1},
    ],
)
def test_figures_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_metrics(tmp_path, FLAT | changes)
    with pytest.raises(DataError, match=r"metrics.json: damaged \(.*\)\. Give the folder"):
        Evaluation.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1, "a": 1}'])
def test_a_damaged_file_is_told_from_one_that_is_missing(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"metrics.json: no such file\. Give the folder that train"):
        Training.read(tmp_path)
    assert Training.find(tmp_path) is None
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(DataError, match=r"metrics.json: not .*Give the folder that train"):
        Training.find(tmp_path)


def test_what_is_not_known_has_no_figure(tmp_path: Path) -> None:
    write_metrics(tmp_path, {"absent": "it collapsed", "updates": None, "of another time": 1})
    assert Evaluation.read(tmp_path) == Evaluation(absent="it collapsed")
    assert Training.read(tmp_path) == Training()
    with pytest.raises(DataError, match="damaged"):
        Selection.read(tmp_path)


def test_figures_of_0_1_0_are_read_by_their_names_of_then(tmp_path: Path) -> None:
    write_metrics(tmp_path, {"dev_questions": 200, "parameters": {"effective_batch": 16}})
    assert Evaluation.read(tmp_path).validation_questions == 200
    assert Training.read(tmp_path).parameters == {"effective_batch_size": 16}


ANSWERS = Predictions(["a", "b", "c"], np.array([0, 1, 1]), np.array([[0.5, 0.5]] * 2 + [[0, 1]]))


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    # The second option is the better one by less than what is written.
    close = np.array([[0.5 - 1e-9, 0.5 + 1e-9], [0.5, 0.5], [0.25, 0.75]])
    written = Predictions(ANSWERS.ids, ANSWERS.gold, close)
    written.write(tmp_path / PREDICTIONS)
    found = read_predictions(tmp_path)
    assert found.ids == ["a", "b", "c"]
    assert found.predicted.tolist() == [1, 0, 1]
    assert found.right.tolist() == [False, False, True]
    assert found.scores({"x": 2, "y": 1}).tests == [Group("x", 2, 0), Group("y", 1, 1)]
    assert json.loads((tmp_path / PREDICTIONS).read_text().splitlines()[2]) == {
        "id": "c",
        "probabilities": [0.25, 0.75],
        "predicted": "B",
        "gold": "B",
    }


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ('"B"', '""'),
        ('"B"', '"AB"'),
        ('"B"', '"C"'),
        ('"B"', "1"),
        ('"predicted": "B"', '"predicted": "A"'),
        ("[0.0, 1.0]", "[0.0, 1.5]"),
        ("[0.0, 1.0]", "[0.0, NaN]"),
        ("[0.0, 1.0]", "[1.0]"),
        ('"id": "c", ', ""),
        ("}\n", "\n"),
    ],
)
def test_damaged_answers_are_refused(tmp_path: Path, was: str, becomes: str) -> None:
    ANSWERS.write(tmp_path / PREDICTIONS)
    text = (tmp_path / PREDICTIONS).read_text()
    assert was in text
    (tmp_path / PREDICTIONS).write_text(text.replace(was, becomes))
    with pytest.raises(DataError, match=r"predictions.jsonl: not what evaluate wrote\. Run"):
        read_predictions(tmp_path)


def test_missing_and_empty_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"predictions.jsonl: no such file"):
        read_predictions(tmp_path)
    (tmp_path / PREDICTIONS).touch()
    with pytest.raises(DataError, match=r"predictions.jsonl: not what evaluate wrote"):
        read_predictions(tmp_path)
