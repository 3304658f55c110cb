"""Levels, splits and options: what the steps agree on."""

from pathlib import Path

import pytest

from components.common.dataset import count_options, fairseq_splits, in_order, read_test_sets
from components.common.errors import DataError


def test_races_levels_come_first_and_others_by_the_numbers_in_their_names() -> None:
    assert in_order({"grade10", "high", "grade9", "middle"}) == [
        "middle",
        "high",
        "grade9",
        "grade10",
    ]


@pytest.mark.parametrize(
    ("levels", "tests"),
    [
        (["high", "middle"], {"test-middle": "test", "test-high": "test1"}),
        ([""], {"test": "test"}),
        (["c", "a", "b"], {"test-a": "test", "test-b": "test1", "test-c": "test2"}),
    ],
)
def test_test_sets_are_numbered_in_the_order_of_the_levels(
    levels: list[str], tests: dict[str, str]
) -> None:
    assert fairseq_splits(levels) == {"train": "train", "dev": "valid"} | tests


def test_data_of_fairseqs_own_scripts_are_taken_for_race(tmp_path: Path) -> None:
    assert read_test_sets(tmp_path) == {"test": "test-middle", "test1": "test-high"}


@pytest.mark.parametrize("content", ["[]", "{", '"text"'])
def test_damaged_splits_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(DataError, match="not what binarize writes"):
        read_test_sets(tmp_path)


@pytest.mark.parametrize("inputs", [[], [0, 1], [0, 1, 3], [1, 2, 3]])
def test_inputs_with_a_gap_or_of_one_option_are_refused(tmp_path: Path, inputs: list[int]) -> None:
    for number in inputs:
        (tmp_path / f"input{number}").mkdir()
    with pytest.raises(DataError, match="not input0"):
        count_options(tmp_path)


def test_options_are_counted(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"input{number}").mkdir()
    assert count_options(tmp_path) == 11
