"""Which trials a sweep has."""

import pytest

from components.common.errors import ConfigError
from components.trials.core import TrialsConfig, plan_trials


def plan(seeds: list[object], rates: list[object] | None = None) -> list[tuple[int, float, str]]:
    trials = plan_trials(TrialsConfig(seeds, rates or [], seed=7, learning_rate=0.5))
    return [(trial.seed, trial.learning_rate, trial.name) for trial in trials]


def test_each_seed_is_a_trial_with_the_one_learning_rate() -> None:
    assert plan([1, 2]) == [(1, 0.5, "seed-1"), (2, 0.5, "seed-2")]


def test_each_learning_rate_is_a_trial_with_the_one_seed() -> None:
    assert plan([], [1e-5, 0]) == [(7, 1e-5, "lr-1e-05"), (7, 0.0, "lr-0.0")]


def test_all_pairs_are_trials() -> None:
    assert plan([1, 2], [0.1, 0.2]) == [
        (1, 0.1, "seed-1-lr-0.1"),
        (2, 0.1, "seed-2-lr-0.1"),
        (1, 0.2, "seed-1-lr-0.2"),
        (2, 0.2, "seed-2-lr-0.2"),
    ]


def test_without_both_there_is_the_one_trial() -> None:
    assert plan([]) == [(7, 0.5, "seed-7")]


def test_whole_numbers_may_look_like_kubeflow_s() -> None:
    ((seed, _, name),) = plan([3.0])
    assert type(seed) is int
    assert name == "seed-3"


def test_names_tell_learning_rates_apart_to_the_last_digit() -> None:
    names = [name for *_, name in plan([], [0.1, 0.1 + 1e-16 * 2])]
    assert len(set(names)) == 2


@pytest.mark.parametrize(
    ("seeds", "rates", "says"),
    [
        ([1, 2, 1], [], "seeds: 1 is given twice"),
        ([1, 1.0], [], "seeds: 1 is given twice"),
        ([], [1e-5, 2e-5, 0.00001], "learning_rates: 1e-05 is given twice"),
        ([1.5], [], "seeds: 1.5 is not a whole number"),
        (["1"], [], "seeds: '1' is not a whole number"),
        ([True], [], "seeds: True is not a whole number"),
        ([-1], [], "seeds: -1 is not a whole number"),
        ([[1]], [], r"seeds: \[1\] is not a whole number"),
        ([], ["1e-5"], "learning_rates: '1e-5' is not a number"),
        ([], [-0.1], "learning_rates: -0.1 is not a number from 0 on"),
        ([], [float("nan")], "learning_rates: nan is not a number"),
        ([float("inf")], [], "seeds: inf is not a whole number"),
    ],
)
def test_what_is_no_list_of_different_numbers_is_refused(
    seeds: list[object], rates: list[object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        plan(seeds, rates)
