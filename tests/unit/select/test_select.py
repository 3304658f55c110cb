"""What is selected from several trials, and what is said of them."""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError, DataError, OutputError, TrainingError
from components.common.results.predictions import read_predictions
from components.select.core import SelectConfig, select


def selected(sweep: Any, **settings: Any) -> dict[str, Any]:
    return select(SelectConfig(**sweep.arguments(), **settings)).to_metrics()


def test_the_best_on_validation_is_selected_whatever_it_does_on_test(sweep: Any) -> None:
    sweep.add(1, dev=90.0, right=95)
    sweep.add(2, dev=91.0, right=70)
    found = selected(sweep)
    assert found["selected"] == "seed 2"
    assert (found["accuracy"], found["accuracy_middle"]) == (70.0, 100.0)
    output = sweep.folder / "selection"
    assert (output / "model" / "checkpoint_best.pt").read_bytes() == bytes([2])
    assert (output / "model" / "report.html").read_text() == "training"
    assert json.loads((output / "report" / "metrics.json").read_text())["accuracy"] == 70.0
    assert json.loads((output / "metrics.json").read_text()) == found


def test_of_equals_on_validation_the_one_with_the_lower_loss_is_selected_then_the_first(
    sweep: Any,
) -> None:
    sweep.add(1, dev=90.0, validation_loss=0.31)
    sweep.add(2, dev=90.0, validation_loss=0.30)
    sweep.add(3, dev=90.0, validation_loss=0.30)
    assert selected(sweep)["selected"] == "seed 2"


def test_figures_are_over_the_trials_that_did_not_collapse(sweep: Any) -> None:
    for seed, right in ((1, 80), (2, 70), (3, 90), (4, 60)):
        sweep.add(seed, dev=right, right=right)
    sweep.add(5, marked="the loss is still 1.386")
    found = selected(sweep)
    values = [80.0, 70.0, 90.0, 60.0]
    for name in ("all", "validation"):
        assert found["spread"][name] == pytest.approx(
            {
                "mean": 75.0,
                "deviation": statistics.stdev(values),
                "median": 75.0,
                "min": 60.0,
                "max": 90.0,
            }
        )
    assert found["spread"]["high"]["max"] == pytest.approx(100 * 50 / 60)
    assert found["collapsed"] == 1
    assert [trial["collapsed"] for trial in found["trials"]] == [""] * 4 + [
        "the loss is still 1.386"
    ]
    assert found["median_accuracy"] == 75.0


def test_one_trial_alone_has_no_deviation(sweep: Any) -> None:
    sweep.add(1)
    assert selected(sweep)["spread"]["all"]["deviation"] is None


def test_a_trial_that_cannot_be_told_from_guessing_has_collapsed(sweep: Any) -> None:
    sweep.add(1, dev=90.0)
    sweep.add(2, dev=30.5)  # of 200: 24.5 to 37.2 %
    sweep.add(3, dev=32.0)  # of 200: 25.9 to 38.8 %
    found = selected(sweep)
    assert [bool(trial["collapsed"]) for trial in found["trials"]] == [False, True, False]
    assert "cannot be told from guessing (25 %)" in found["trials"][1]["collapsed"]


def test_more_questions_tell_a_small_gain_from_guessing(sweep: Any) -> None:
    sweep.add(1, dev=30.5, validation_questions=5000)
    assert selected(sweep)["collapsed"] == 0


def test_when_all_collapsed_it_says_what_to_change(sweep: Any) -> None:
    sweep.add(1, dev=25.0)
    sweep.add(2, marked="the loss is still 1.386")
    with pytest.raises(TrainingError, match=r"all 2 trials collapsed.*Lower the learning rate"):
        selected(sweep)
    assert not (sweep.folder / "selection").exists()


def test_the_ensemble_answers_by_the_mean_of_the_probabilities(sweep: Any) -> None:
    # Each is right on two thirds of the questions, and two of three on every one.
    for seed in range(3):
        right = [place for place in range(100) if place % 3 != seed]
        sweep.add(seed, dev=70.0, right=right)
    found = selected(sweep)
    assert found["accuracy"] < 70
    assert found["ensemble"]["accuracy"] == 100.0
    assert found["ensemble"]["correct_high"] == 60
    low, high = found["ensemble"]["interval"]["all"]
    assert 90 < low < high == 100
    assert found["ensemble"]["mcnemar"] < 1e-6
    answers = read_predictions_of(sweep.folder / "selection" / "ensemble.jsonl")
    assert answers[0] == pytest.approx([(0.1 + 2 * 0.7) / 3, (0.7 + 2 * 0.1) / 3, 0.1, 0.1])


def read_predictions_of(path: Path) -> list[list[float]]:
    path.rename(path.with_name("predictions.jsonl"))
    return read_predictions(path.parent).probabilities.tolist()


@pytest.mark.parametrize(("asked", "members"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_the_ensemble_is_of_the_best_on_validation_that_are_left(
    sweep: Any, asked: int, members: int
) -> None:
    sweep.add(1, dev=70.0)
    sweep.add(2, dev=90.0)
    sweep.add(3, dev=20.0)
    sweep.add(4, dev=80.0)
    found = selected(sweep, ensemble=asked)
    assert found["ensemble"]["trials"] == ["seed 2", "seed 4", "seed 1"][:members]


def test_an_ensemble_of_one_is_the_selected_model(sweep: Any) -> None:
    sweep.add(1)
    found = selected(sweep)
    for key in ("accuracy", "accuracy_middle", "accuracy_high", "correct", "questions"):
        assert found["ensemble"][key] == found[key], key


def test_models_and_evaluations_find_each_other_in_any_order(sweep: Any) -> None:
    sweep.add(1, dev=80.0, right=10)
    sweep.add(2, dev=90.0, right=20)
    sweep.add(3, dev=70.0, right=30)
    arguments = sweep.arguments()
    arguments["evaluations"] = arguments["evaluations"][::-1]
    found = select(SelectConfig(**arguments)).to_metrics()
    assert [trial["accuracy"] for trial in found["trials"]] == [10.0, 20.0, 30.0]


def test_an_evaluation_of_another_model_is_refused(sweep: Any, change: Any) -> None:
    sweep.add(1)
    trial = sweep.add(2)
    change(trial / "report" / "metrics.json", {"training": "0" * 64})
    with pytest.raises(DataError, match=r"trial1/model: no evaluation is of this model"):
        selected(sweep)


def test_a_model_that_is_given_twice_is_refused(sweep: Any) -> None:
    sweep.add(1)
    arguments = sweep.arguments()
    arguments |= {"models": arguments["models"] * 2, "evaluations": arguments["evaluations"] * 2}
    with pytest.raises(DataError, match="trial0/model: given twice"):
        select(SelectConfig(**arguments))


def test_trials_whose_data_have_another_dictionary_are_refused(sweep: Any) -> None:
    for seed in range(3):
        record = {"dict.txt": f"{seed // 2:064}"}
        (sweep.add(seed) / "model" / "vocabulary.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"trial0/\S+ and .*trial2/\S+: .* different dict.txt"):
        selected(sweep)


def test_trials_are_called_by_what_differs(sweep: Any) -> None:
    sweep.add(1, learning_rate=1e-5)
    sweep.add(1, learning_rate=2e-5)
    assert [trial["label"] for trial in selected(sweep)["trials"]] == ["lr 1e-05", "lr 2e-05"]


def test_trials_that_differ_otherwise_have_numbers(sweep: Any) -> None:
    sweep.add(1)
    sweep.add(1)
    assert [trial["label"] for trial in selected(sweep)["trials"]] == ["trial 1", "trial 2"]


Break = Callable[[Path], None]


def lose_a_line(report: Path) -> None:
    lines = (report / "predictions.jsonl").read_text().splitlines(keepends=True)
    (report / "predictions.jsonl").write_text("".join(lines[1:]))


def swap_questions(report: Path) -> None:
    lines = (report / "predictions.jsonl").read_text().splitlines(keepends=True)
    lines[0], lines[1] = lines[1], lines[0]
    (report / "predictions.jsonl").write_text("".join(lines))


def answer_otherwise(report: Path) -> None:
    text = (report / "predictions.jsonl").read_text()
    (report / "predictions.jsonl").write_text(text.replace('"gold": "A"', '"gold": "C"'))


def spell_badly(report: Path) -> None:
    (report / "predictions.jsonl").write_text('{"id": 1}\n')


def leave_out_an_answer(report: Path) -> None:
    text = (report / "predictions.jsonl").read_text()
    (report / "predictions.jsonl").write_text(text.replace('"gold": "A"', '"gold": ""', 1))


def forget(report: Path) -> None:
    (report / "predictions.jsonl").unlink()


def more_options(report: Path) -> None:
    text = (report / "predictions.jsonl").read_text()
    (report / "predictions.jsonl").write_text(text.replace("]", ", 0.0]"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lose_a_line, "its answers are not what its figures are about"),
        (swap_questions, "its questions are not those of"),
        (answer_otherwise, "its questions are not those of"),
        (more_options, "another number of options"),
        (spell_badly, "predictions.jsonl: not what evaluate wrote. Run the evaluation again"),
        (leave_out_an_answer, "predictions.jsonl: not what evaluate wrote"),
        (forget, "predictions.jsonl: no such file. Run the evaluation again"),
    ],
)
def test_answers_that_cannot_be_averaged_are_refused(sweep: Any, damage: Break, says: str) -> None:
    sweep.add(1)
    damage(sweep.add(2) / "report")
    with pytest.raises(DataError, match=says):
        selected(sweep)
    assert not (sweep.folder / "selection").exists()


@pytest.mark.parametrize(
    ("file", "entries", "says"),
    [
        ("model", {"updates": "many"}, "damaged (updates: 'many' is not a whole number)"),
        (
            "model",
            {"collapsed": "loss", "best_valid_accuracy": []},
            "(best_valid_accuracy: [] is not a",
        ),
        ("model", {"parameters": {"seed": "1"}}, "does not say what it was trained with"),
        ("report", {"training": []}, "damaged (training: [] is no str)"),
        ("report", {"validation_questions": 0}, "too little is known of its training"),
        ("report", {"correct": 101}, "damaged (scores: 80 % is not 101 of 100 (all))"),
        ("report", {"questions": 0, "correct": 0}, "damaged (scores: 80 % is not 0 of 0 (all))"),
        ("report", {"questions_high": 59}, "damaged ("),
    ],
)
def test_figures_of_another_form_are_refused(
    sweep: Any, change: Any, file: str, entries: dict[str, Any], says: str
) -> None:
    trial = sweep.add(1)
    change(trial / "report" / "metrics.json", {"training": None})
    change(trial / file / "metrics.json", entries)
    with pytest.raises(DataError, match=re.escape(says)):
        selected(sweep)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("model/metrics.json", "[]", "not a JSON object. Give the folder that train wrote"),
        ("report/metrics.json", None, "no such file. Give the folder that evaluate wrote"),
        ("report/metrics.json", '{"chance": 101}', "damaged (chance: 101 is not in percent). Give"),
        ("model/metrics.json", "{}", "no evaluation is of this model"),
        ("report/metrics.json", '{"chance": 25}', "too little is known of its training"),
        ("model/train_log.jsonl", "no", "damaged"),
    ],
)
def test_damaged_folders_are_refused(sweep: Any, file: str, content: str | None, says: str) -> None:
    path = sweep.add(1) / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=re.escape(says)):
        selected(sweep)


def test_a_log_that_is_not_there_only_costs_the_loss(sweep: Any) -> None:
    (sweep.add(1) / "model" / "train_log.jsonl").unlink()
    assert selected(sweep)["validation_loss"] is None


def test_what_is_selected_takes_no_second_place_on_the_disk(sweep: Any) -> None:
    trial = sweep.add(1)
    selected(sweep)
    path = sweep.folder / "selection" / "model" / "checkpoint_best.pt"
    assert path.samefile(trial / "model" / "checkpoint_best.pt")


def test_an_output_in_use_is_refused(sweep: Any) -> None:
    sweep.add(1)
    (sweep.folder / "selection").mkdir()
    (sweep.folder / "selection" / "mine").touch()
    with pytest.raises((OSError, OutputError)):
        selected(sweep)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"evaluations": ()}, "1 models, but 0 evaluations"),
        ({"ensemble": 0}, "ensemble is 0. It must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    sweep: Any, settings: dict[str, Any], says: str
) -> None:
    sweep.add(1)
    with pytest.raises(ConfigError, match=says):
        SelectConfig(**sweep.arguments() | settings)


def test_by_hand_several_folders_follow_one_flag(sweep: Any) -> None:
    for seed, dev in ((1, 80.0), (2, 90.0), (3, 25.0)):
        sweep.add(seed, dev=dev)
    given = sweep.arguments()
    command = [sys.executable, "-m", "components.select", "--ensemble", "2"]
    command += ["--models", *map(str, given["models"]), "--output", str(given["output"])]
    command += ["--evaluations", *map(str, given["evaluations"])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["validation", "middle", "high", "both"]
    assert lines[3].endswith("collapsed")
    assert lines[6].startswith("best: seed 2 ")
    assert lines[7].split()[:4] == ["ensemble", "of", "2", "–"]


# The page


def test_the_page_shows_the_headline_the_trials_and_the_reason(sweep: Any) -> None:
    sweep.add(1, dev=90.0, right=80)
    sweep.add(2, dev=85.0, right=90)
    sweep.add(3, marked="the <loss> is still 1.386")
    selected(sweep)
    page = (sweep.folder / "selection" / "report.html").read_text()
    assert "The best of 3 trials: 80.0 % of the test questions correct" in text(page)
    assert "Selected for being the best in validation: seed 1, with 90.0 %" in text(page)
    assert "1 of 3 trials collapsed, and was left out of all figures" in text(page)
    assert "seed 3: the <loss> is still 1.386." in text(page)
    assert "<loss>" not in page
    assert page.count('class="hollow"') == 0  # it has no figure to draw
    assert page.count("<title>seed 3: none, collapsed</title>") == 2
    assert "Liu et al" not in text(page)  # these are not RACE's test sets


def test_a_collapsed_trial_with_figures_is_a_hollow_dot(sweep: Any) -> None:
    sweep.add(1)
    sweep.add(2, dev=25.0, right=25)
    selected(sweep)
    page = (sweep.folder / "selection" / "report.html").read_text()
    assert page.count('class="hollow"') == 2  # in validation and on test


def test_the_page_of_one_trial_speaks_of_no_ensemble(sweep: Any) -> None:
    sweep.add(1)
    selected(sweep)
    assert "ensemble of" not in (sweep.folder / "selection" / "report.html").read_text()


def text(page: str) -> str:
    import html

    plain = html.unescape(re.sub(r"<[^>]*>", "", page))
    return " ".join(plain.replace("\xa0", " ").split())
