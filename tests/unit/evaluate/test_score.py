import numpy as np
import pytest
import torch

from components.common.results.scores import Group, Scores
from components.evaluate.report import table
from components.evaluate.statistics import log_probabilities, score


def test_log_probabilities_equal_torchs_also_where_exp_overflows() -> None:
    logits = np.random.default_rng(1).normal(size=(50, 4)) * 1000
    expected = torch.log_softmax(torch.from_numpy(logits), dim=1).numpy()
    np.testing.assert_allclose(log_probabilities(logits), expected, rtol=1e-12, atol=1e-12)


def test_the_best_option_counts_and_of_equals_the_first() -> None:
    logits = np.array([[0.0, 2, 1, 1], [3, 3, 3, 3], [3, 3, 3, 3], [0, 0, 0, 9]])
    result = score("high", logits, np.array([1, 0, 1, 2]))
    assert (result.questions, result.correct, result.accuracy) == (4, 2, 50.0)


def test_loss_is_the_mean_of_the_right_options_in_nats() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]))
    result = score("high", logits, np.array([1, 3]))
    assert result.loss == pytest.approx(-(np.log(0.25) + np.log(0.4)) / 2)


def test_the_table_names_each_set_and_chance() -> None:
    groups = [Group("all", 4934, 4105, 0.5), Group("high", 3498, 2844, 0.6)]
    scores = Scores({group.name: group for group in groups})
    lines = table(scores, 25, {"always C": 28.34}).splitlines()
    assert lines[1].split() == ["all", "4,934", "4,105", "83.20", "%", "0.5000"]
    assert lines[2].split() == ["high", "3,498", "2,844", "81.30", "%", "0.6000"]
    assert lines[-1].startswith("chance is 25 %, always C 28.34 %;")
