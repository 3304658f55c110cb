"""The evaluation's arithmetic, held against scipy and scikit-learn."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.calibration import calibration_curve

from components.common.results.scores import Group, wilson
from components.evaluate import statistics
from components.evaluate.statistics import CLOZE, OTHER, kind_of


@pytest.mark.parametrize("questions", [1, 2, 7, 40, 1436, 4934])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.25, 0.5, 0.832, 0.999, 1.0])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_intervals_are_scipy_s_wilson_intervals(
    questions: int, share: float, confidence: float
) -> None:
    correct = round(share * questions)
    theirs = stats.binomtest(correct, questions).proportion_ci(confidence, method="wilson")
    low, high = wilson(correct, questions, confidence)
    assert (low, high) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-9)
    assert 0 <= low <= 100 * correct / questions <= high <= 100


def test_an_interval_holds_the_truth_as_often_as_it_promises() -> None:
    n, truth = 1436, 0.865
    chances = stats.binom.pmf(np.arange(n + 1), n, truth)
    covered = sum(
        chance
        for correct, chance in enumerate(chances)
        if chance > 1e-12 and wilson(correct, n)[0] <= 100 * truth <= wilson(correct, n)[1]
    )
    assert covered == pytest.approx(0.95, abs=0.01)


@pytest.fixture(scope="module", params=[3, 4])
def answers(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that knows something, (2000, options), and the right options."""
    rng = np.random.default_rng(request.param)
    gold = rng.integers(0, request.param, 2000)
    logits = rng.normal(size=(2000, request.param))
    logits[np.arange(2000), gold] += rng.normal(1.5, 1, 2000)
    exp = np.exp(2 * logits)
    return exp / exp.sum(axis=1, keepdims=True), gold


def test_the_confusion_matrix_is_scikit_learn_s(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, gold = answers
    predicted = probabilities.argmax(axis=1)
    options = probabilities.shape[1]
    ours = statistics.confusion(gold, predicted, options)
    assert (ours == metrics.confusion_matrix(gold, predicted)).all()
    # An option that is never right and never chosen keeps its row and column.
    assert statistics.confusion(gold, predicted, options + 1).shape == (options + 1, options + 1)


def test_the_calibration_curve_is_scikit_learn_s(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, gold = answers
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    curve = statistics.calibration(confidence, right, bins=10)
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    filled = curve.questions > 0
    np.testing.assert_allclose(curve.accuracy[filled], accuracy)
    np.testing.assert_allclose(curve.confidence[filled], mean)
    assert curve.questions.sum() == 2000


def test_the_calibration_error_is_that_of_bins_by_scipy(
    answers: tuple[np.ndarray, np.ndarray],
) -> None:
    probabilities, gold = answers
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    gap, _, _ = stats.binned_statistic(confidence, right - confidence, "sum", 15, (0, 1))
    expected = np.abs(gap).sum() / len(right)
    assert statistics.calibration(confidence, right).error == pytest.approx(expected)
    assert expected > 0.01


def test_bins_hold_their_upper_edge_and_certainty_is_in_the_last_one() -> None:
    curve = statistics.calibration(np.array([0.0, 0.5, 0.51, 1.0]), np.ones(4, bool), bins=2)
    assert curve.questions.tolist() == [2, 2]
    assert statistics.calibration(np.array([1.0]), np.array([True])).error == 0


def test_the_brier_score_is_scikit_learn_s(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, gold = answers
    theirs = metrics.brier_score_loss(gold, probabilities, scale_by_half=False)
    assert statistics.brier(probabilities, gold) == pytest.approx(theirs)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (3, 3), (0, 5), (12, 3), (70, 110), (400, 500)])
def test_mcnemar_is_scipy_s_exact_sign_test(one: int, other: int) -> None:
    theirs = stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert statistics.mcnemar(one, other) == pytest.approx(theirs)
    assert statistics.mcnemar(other, one) == statistics.mcnemar(one, other)


def test_groups_hold_every_question_once() -> None:
    rng = np.random.default_rng(1)
    lengths, right = rng.integers(100, 600, 999), rng.random(999) < 0.7
    groups = statistics.by_quantile(lengths, right)
    assert [abs(group.questions - 200) < 10 for group in groups] == [True] * 5
    assert sum(group.correct for group in groups) == right.sum()
    ends = [tuple(map(int, group.name.split("–"))) for group in groups]
    for group, (low, high) in zip(groups, ends, strict=True):
        inside = (lengths >= low) & (lengths <= high)
        assert group == Group(group.name, int(inside.sum()), int(right[inside].sum()))


def test_equal_values_stay_in_one_group() -> None:
    values, right = np.array([5] * 90 + [6] * 9 + [7000]), np.ones(100, bool)
    groups = statistics.by_quantile(values, right)
    assert [(g.name, g.questions) for g in groups] == [("5", 90), ("6–7,000", 10)]
    assert statistics.by_quantile(np.array([3, 3]), right[:2])[0].name == "3"


def test_groups_by_edges_hold_their_lower_edge_and_the_last_one_both() -> None:
    groups = statistics.by_edges(
        np.array([0.0, 0.4, 0.39, 1.0]), np.array([True, True, False, True]), (0, 0.4, 1), "ab"
    )
    assert groups == [Group("a", 2, 1), Group("b", 2, 2)]


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("The author thinks _ .", CLOZE),
        ("What does _ mean?", CLOZE),
        ("What's the best title?", "what"),
        ("According to the text, which of these is TRUE?", "which"),
        ("With whom did she live?", "who"),
        ("Whose bag is it?", "who"),
        ("WHERE was he when it rained?", "where"),
        ("How many words can Mary spell?", "how"),
        ("Somehow it is true, isn't it?", OTHER),
        ("", OTHER),
    ],
)
def test_the_kind_of_a_question(question: str, kind: str) -> None:
    assert kind_of(question) == kind
