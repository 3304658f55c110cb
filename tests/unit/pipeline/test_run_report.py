"""`race report` and `race compare` on folders that look like runs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.results.metrics import write_metrics
from components.common.results.predictions import PREDICTIONS, Predictions
from pipeline.cli import main


def make_run(folder: Path, right: str, **parameters: Any) -> Path:
    """A run that answered the questions 0, 1, 2...: "1" for each that it had right, else "0"."""
    sure = [[0.7, 0.3] if mark == "1" else [0.3, 0.7] for mark in right]
    ids, gold = [str(i) for i in range(len(right))], np.zeros(len(right), np.int64)
    predictions = Predictions(ids, gold, np.array(sure))
    scores = predictions.scores({"middle": 1, "high": len(right) - 1})
    (folder / "report").mkdir(parents=True)
    write_metrics(folder / "report", {**scores.to_metrics(), "loss": 0.5})
    predictions.write(folder / "report" / PREDICTIONS)
    steps = [{"name": "train", "seconds": 75.0, "cached": False, "exit_status": 0}]
    record = {"state": "succeeded", "runner": "subprocess", "parameters": parameters}
    (folder / "run.json").write_text(json.dumps({**record, "steps": steps}))
    return folder


def test_report_prints_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = make_run(tmp_path / "one", "1110", epochs=5)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'index.html'}\n"
    made = (run / "index.html").read_text()
    assert "75.0\xa0%" in made
    assert "1\xa0min 15\xa0s" in made
    assert "epochs" in made


def test_compare_shows_what_differs_and_whether_by_chance(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one = make_run(tmp_path / "one", "1" * 10 + "0" * 10, epochs=5, seed=1)
    two = make_run(tmp_path / "two", "1" * 9 + "0" + "1" * 10, epochs=6, seed=1)
    other = make_run(tmp_path / "other", "11", seed=1)
    assert main(["compare", *map(str, (one, two, other))]) == 0
    said = capsys.readouterr()
    cells = (re.split(r"\s{2,}", line.strip()) for line in said.out.splitlines())
    rows = {name: values for name, *values in cells}
    assert rows["epochs"] == ["5", "6", "–"]
    assert "seed" not in rows
    assert rows["all test questions, %"] == ["50.00", "95.00", "100.00"]
    assert rows["right in the first only"][:2] == ["–", "1"]
    assert rows["right in this only"][:2] == ["–", "10"]
    assert rows["p-value (McNemar)"] == ["–", "0.012", "other questions"]
    page = (tmp_path / "compare.html").read_text()
    assert "3 runs side by side" in page
    assert "95.00" in page
    assert said.err == f"wrote {tmp_path / 'compare.html'}\n"


def test_compare_writes_where_it_is_told_to(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", "10")
    assert main(["compare", str(run), str(run), "--output", str(tmp_path / "a" / "b.html")]) == 0
    assert "None." in (tmp_path / "a" / "b.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["report", "{}/nothing"], 2, "not the folder of a run. Give one, such as runs/latest"),
        (["compare", "{}/one"], 2, "one run alone cannot be compared"),
        (["report", "{}/damaged"], 3, "run.json: not JSON"),
        (["report", "{}/foreign"], 3, "run.json: not written by `race run`"),
        (["compare", "{}/one", "{}/answers"], 3, "predictions.jsonl: not what evaluate wrote. Run"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    make_run(tmp_path / "one", "10")
    answers = make_run(tmp_path / "answers", "10")
    (answers / "report" / "predictions.jsonl").write_text('{"id": 1}\n')
    for name, content in {"damaged": "{", "foreign": "{}"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content)
    assert main([argument.format(tmp_path) for argument in arguments]) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
