"""Whether what evaluate or select wrote is good enough."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.common.errors import ConfigError, DataError, GateError
from components.common.results.scores import Group, Scores
from components.gate.core import GateConfig, gate


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    figures = Scores.together([Group("high", 1000, 799)]).to_metrics()
    (tmp_path / "metrics.json").write_text(
        json.dumps(
            figures | {"chance": 25.0, "baselines": {"always C": 28.34, "longest option": 37}}
        )
    )
    return tmp_path


@pytest.mark.parametrize("least", [0, 60.0, 79.9])
def test_a_model_that_is_good_enough_passes(evaluation: Path, least: float) -> None:
    assert gate(GateConfig(evaluation, least)) == 79.9


def test_one_that_is_not_is_refused(evaluation: Path) -> None:
    says = "accuracy 79.90 % is below min_accuracy 80 % (chance is 25 %, always C 28.34 %, longest"
    says = re.escape(f"{says} option 37 %). Train longer")
    with pytest.raises(GateError, match=says):
        gate(GateConfig(evaluation, 80))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file. Give the folder that evaluate wrote"),
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"chance": 25}', "has no accuracy. Give a folder that evaluate or select wrote"),
        (
            '{"accuracy": "x", "questions": 1, "correct": 1}',
            "damaged (scores: 'x' is not a number)",
        ),
    ],
)
def test_a_folder_without_an_accuracy_is_refused(
    evaluation: Path, content: str | None, says: str
) -> None:
    path = evaluation / "metrics.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=re.escape(f"{path}: {says}")):
        gate(GateConfig(evaluation, 80))


def test_what_is_no_accuracy_is_refused(evaluation: Path) -> None:
    with pytest.raises(ConfigError, match=r"min_accuracy is 101\. It is in percent"):
        GateConfig(evaluation, 101)


def test_by_hand_the_exit_status_tells(evaluation: Path) -> None:
    command = [sys.executable, "-m", "components.gate", "--evaluation", str(evaluation)]
    assert subprocess.run([*command, "--min-accuracy", "70"]).returncode == 0
    assert subprocess.run([*command, "--min-accuracy", "80"]).returncode == 7
