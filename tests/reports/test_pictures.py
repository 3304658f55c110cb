"""The pictures that README.md and RESULTS.md show are of what is there today."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pictures
from pipeline.steps import STEPS, SWEEP_ONLY

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "docs" / "pictures" / "report.png"
MOST = 150_000  # bytes of a picture
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_drawings_are_fresh_and_shown() -> None:
    results = pictures.RESULTS.read_text(encoding="utf-8")
    for path, content in pictures.pictures():
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run `make pictures`"
        if path.parent == pictures.RESULTS.parent:
            assert f"]({path.name})" in results
    drawn = {path.stem for path in pictures.RESULTS.parent.glob("*.svg")}
    assert drawn == pictures.CHARTS.keys()


@pytest.mark.parametrize("name", pictures.CHARTS)
def test_a_chart_has_the_figures_of_its_table(name: str) -> None:
    rows = pictures.table(pictures.RESULTS.read_text(encoding="utf-8"), name)
    shown = (pictures.RESULTS.parent / f"{name}.svg").read_text(encoding="utf-8")
    for row in rows:
        for column in pictures.CHARTS[name].columns:
            assert f">{row[column]}</text>" in shown
        assert f">{row[0]}</text>" in shown


def test_the_dag_s_picture_has_each_step_and_each_of_its_inputs() -> None:
    shown = pictures.DAG.read_text(encoding="utf-8")
    steps = re.findall(r'font-size="14"[^>]*>([^<]*)<', shown)
    assert sorted(steps) == sorted(name for name in STEPS if name not in SWEEP_ONLY)
    pipeline = (ROOT / "pipeline.yaml").read_text(encoding="utf-8")
    needs = re.findall(r"dependentTasks:\n((?: +- .*\n)+)", pipeline)
    assert shown.count("<path ") == sum(part.count("- ") for part in needs)


def test_the_readme_shows_pictures_of_plausible_size() -> None:
    for path in (REPORT, pictures.DAG):
        assert f"](docs/pictures/{path.name})" in README
    content = REPORT.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert 20_000 < len(content) <= MOST


@pytest.mark.slow
def test_the_report_of_a_real_run_shows_what_its_picture_shows(
    browser: Any, tmp_path: Path
) -> None:
    """With RACE_PICTURES set the picture is taken anew."""
    command = [Path(sys.executable).with_name("race"), "run", "--config", "smoke", "--name", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output", tmp_path], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    page = browser.open(tmp_path / "run" / "report" / "report.html", (1000, 760))
    said = page.evaluate("document.body.innerText")
    for part in ("of the test questions correct", "calibration error", "Where it is right"):
        assert part in said
    taken = base64.b64decode(browser.call("Page.captureScreenshot")["data"])
    assert 20_000 < len(taken) <= MOST
    if os.environ.get("RACE_PICTURES"):
        REPORT.write_bytes(taken)
