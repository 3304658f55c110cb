"""A new step and a new parameter of training: extension.patch has all the edits that they take.

The patch adds a step's folder, its row and its edge in the DAG, a field of TrainConfig, and that
field's row in the table of flags.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PATCH = Path(__file__).with_name("extension.patch")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our packages with the patch."""
    folder = tmp_path_factory.mktemp("extended")
    for package in ("components", "pipeline"):
        shutil.copytree(ROOT / package, folder / package)
    subprocess.run(["git", "apply", str(PATCH)], cwd=folder, check=True)
    return folder


def run(folder: Path, *arguments: str, **options: Any) -> str:
    """What a module of the copy prints."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", "-m", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, **options)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def test_both_are_compiled_into_the_pipeline(extended: Path, tmp_path: Path) -> None:
    output = tmp_path / "pipeline.yaml"
    given = ("-p", "train_patience=3", "-p", "tally_split=test-high")
    run(extended, "pipeline", "compile", "--output", str(output), *given)
    spec = next(yaml.safe_load_all(output.read_text()))
    executors = spec["deploymentSpec"]["executors"]
    assert "--patience=3" in executors["exec-train"]["container"]["args"]
    tally = executors["exec-tally"]["container"]
    assert tally["command"] == ["python", "-P", "-m", "components.tally"]
    assert "--split=test-high" in tally["args"]
    assert "tally_settings" in spec["root"]["inputDefinitions"]["parameters"]


def test_both_are_listed_among_the_parameters_and_explained(extended: Path) -> None:
    listed = run(extended, "pipeline", "parameters")
    assert "train_patience = -1" in listed
    assert "tally_split = dev" in listed
    assert "--patience N" in run(extended, "components.train", "--help")
    assert "--split TEXT" in run(extended, "components.tally", "--help")


@pytest.mark.slow
def test_both_take_part_in_a_run_on_this_machine(extended: Path, tmp_path: Path) -> None:
    small = ("-p", "train_max_updates=2", "-p", "min_accuracy=0", "-p", "train_patience=7")
    arguments = ("run", "--config", "smoke", "--output", str(tmp_path), "--name", "mine", *small)
    shown = run(extended, "pipeline", *arguments, timeout=600)
    assert [line.split()[-2:] for line in shown.splitlines() if line.startswith("tally")]
    assert (tmp_path / "mine" / "tally" / "tally.json").is_file()
    assert '"patience": 7' in (tmp_path / "mine" / "model" / "metrics.json").read_text()
