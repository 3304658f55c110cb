"""Rank and benchmark start fairseq in one way, for both engines and every precision."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.train.config import TrainConfig, plan
from components.train.flags import Run, fairseq_arguments

CASES = [
    case
    for case in itertools.product(
        ("rank", "benchmark"), ("packed", "stock"), ("fp32", "fp16", "bf16")
    )
    if case[1:] != ("stock", "fp16")  # of which fairseq's loss scaler needs CUDA
]


def arguments(tiny_race: Any, save_dir: Path, engine: str, precision: str) -> list[str]:
    """Of two updates on the CPU; the train step has the 16-bit types on a GPU only."""
    changes = {
        "engine": engine,
        "precision": precision,
        "max_updates": 2,
        "effective_batch_size": 2,
    }
    config = TrainConfig(
        tiny_race.data, tiny_race.pretrained, save_dir, **(tiny_race.parameters | changes)
    )
    run = Run(config, plan(config, gpus=1, questions=96), tiny_race.pretrained, save_dir)
    return [*fairseq_arguments(run), "--cpu", "--no-save", "--disable-validation"]


@pytest.fixture(scope="module")
def logs(tiny_race: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each start wrote."""
    folder = tmp_path_factory.mktemp("starts")
    starts = {
        "-".join(case): (case[0], arguments(tiny_race, folder / "unused", *case[1:]))
        for case in CASES
    }
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("start_worker.py")), str(folder)],
        input=json.dumps(starts),
        text=True,
        check=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.getcwd()},
    )
    return folder


@pytest.mark.parametrize(("side", "engine", "precision"), CASES)
def test_two_updates_are_made(logs: Path, side: str, engine: str, precision: str) -> None:
    log = (logs / f"{side}-{engine}-{precision}").read_text()
    assert "due to num_updates: 2 >= max_update: 2" in log, log[-4000:]
    assert f"'fp16': {precision == 'fp16'}" in log
    assert f"'bf16': {precision == 'bf16'}" in log
    if side == "benchmark":
        assert "RESULT {" in log, log[-4000:]


def test_the_supervisor_works_without_torch(tiny_race: Any, tmp_path: Path) -> None:
    """Which takes seconds to import, before the ranks import it too."""
    parameters = tiny_race.parameters | {"max_updates": 1, "output": tmp_path / "out"}
    parameters |= {"data": tiny_race.data, "pretrained": tiny_race.pretrained}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()]
    code = """
import sys
from components.train.__main__ import main
main()
print(sorted({"torch", "fairseq", "boto3"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *flags],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "out" / "checkpoint_best.pt").is_file()
