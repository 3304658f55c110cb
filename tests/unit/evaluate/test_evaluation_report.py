"""What the evaluation report says, with the text and without it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.asked import Asked
from components.common.errors import DataError
from components.evaluate.core import EvaluateConfig, _passages, evaluate
from components.evaluate.report import OFFICIAL, Answers, figures, published, write_report


@pytest.fixture
def answers() -> Answers:
    probabilities = np.array(
        [[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.0, 0.0, 0.0, 1.0], [0.3, 0.3, 0.2, 0.2]]
    )
    asked = [Asked(str(i), f"Why {i}?", tuple("wxyz")) for i in range(4)]
    return Answers(
        list("0123"),
        np.array([0, 2, 1, 0]),
        probabilities,
        ["middle", "middle", "high", "high"],
        np.array([10, 20, 30, 40]),
        asked,
    )


def metrics(answers: Answers, **changes: Any) -> dict[str, Any]:
    return {
        "accuracy": 50.0,
        "loss": 0.5,
        "chance": 25.0,
        "device": "cpu",
        "precision": "fp32",
        "parameters": {},
        **figures(answers),
        **changes,
    }


def test_mistakes_are_those_that_the_model_was_surest_of(answers: Answers) -> None:
    assert answers.worst() == [2, 1]
    assert answers.worst(1) == [2]
    groups = answers.scores({"middle": 2, "high": 2}).groups
    assert groups["high"].questions == 2
    assert groups["all"].accuracy == 50


def test_the_parts_that_need_the_text_are_left_out_without_it(answers: Answers) -> None:
    whole = write_report(answers, {2: "The passage."}, metrics(answers))
    assert "By what is asked" in whole
    assert "The passage." in whole
    without = dataclasses.replace(answers, asked=())
    made = write_report(without, {}, metrics(answers))
    assert "By what is asked" not in made
    assert "With --text" in made
    for title in ("Accuracy", "By length of the passage", "Which option it chose"):
        assert title in made


def test_the_published_figures_stand_beside_race_s_own_test_sets_alone(answers: Answers) -> None:
    groups = answers.scores({"middle": 2, "high": 2}).groups
    assert "Liu et al" not in write_report(answers, {}, metrics(answers))
    assert not published(groups)
    official = {
        name: dataclasses.replace(group, questions=OFFICIAL[name]) for name, group in groups.items()
    }
    assert published(official)["all"] == 83.2


def test_a_model_that_is_always_right_has_no_mistakes(answers: Answers) -> None:
    perfect = dataclasses.replace(answers, gold=answers.predicted)
    assert "Every question was answered correctly" in write_report(perfect, {}, metrics(perfect))


def write_text(folder: Path, questions: dict[str, int]) -> Path:
    folder.mkdir()
    for (split, name), count in zip(
        {"test-middle": "test", "test-high": "test1"}.items(), questions.values(), strict=True
    ):
        line = json.dumps(["Where is it?", "here", "there", "nowhere", "gone"])
        (folder / f"{split}.question").write_text(f"{line}\n" * count)
        (folder / f"{split}.id").write_text("".join(f"{name}/{n}#0\n" for n in range(count)))
        (folder / f"{split}.input0").write_text(
            "".join(f"passage {name}/{n}\n" for n in range(count))
        )
    return folder


def test_each_mistake_is_shown_with_its_own_passage(
    tiny_race: Any, trained: Any, tmp_path: Path
) -> None:
    text = write_text(tmp_path / "text", {"test": 20, "test1": 28})
    result = evaluate(EvaluateConfig(tiny_race.data, trained.together, tmp_path / "out", text=text))
    made = (tmp_path / "out" / "report.html").read_text()
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    wrong = [p for p in predictions if p["predicted"] != p["gold"]]
    surest = sorted(wrong, key=lambda p: -max(p["probabilities"]))[:5]
    for prediction in surest:
        where = made.index(f"· {prediction['id']}")
        assert f"passage {prediction['id'].partition('#')[0]}" in made[where : where + 3000]
    assert np.trace(result.metrics["confusion"]) == result.metrics["correct"]
    assert result.metrics["interval"]["all"][0] < result.metrics["accuracy"]
    assert 0 <= result.metrics["calibration_error"] <= 1


def test_the_text_of_other_data_is_refused_before_the_work(
    tiny_race: Any, trained: Any, tmp_path: Path
) -> None:
    text = write_text(tmp_path / "text", {"test": 20, "test1": 28})
    (text / "test-high.id").write_text("".join(f"other/{n}#0\n" for n in range(28)))
    with pytest.raises(DataError, match="its questions are not those of"):
        evaluate(EvaluateConfig(tiny_race.data, trained.together, tmp_path / "out", text=text))
    assert not (tmp_path / "out").exists()


def test_without_a_text_there_are_no_passages(answers: Answers) -> None:
    assert _passages(None, answers, {}) == {}
