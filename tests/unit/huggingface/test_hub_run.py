"""Data and the pretrained model from a Hugging Face hub."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.export.core import ExportConfig, export

SETTINGS = ("epochs=1", "min_accuracy=0", "preprocess_options=4", "train_max_updates=2")


@pytest.mark.slow
def test_a_run_takes_both_from_the_hub(
    hub: Any, sample: Path, answering: Path, tmp_path: Path
) -> None:
    for split in ("train", "dev", "test"):
        rows = [
            {"article": f["article"], "question": q, "options": o, "answer": a}
            for path in sorted((answering / "race" / "RACE" / split).rglob("*.txt"))
            for f in [json.loads(path.read_text())]
            for q, o, a in zip(f["questions"], f["options"], f["answers"], strict=True)
        ]
        (tmp_path / "exam").mkdir(exist_ok=True)
        (tmp_path / "exam" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    export(ExportConfig(answering, tmp_path / "exported"))
    hub.add_folder("datasets/ann/exam", tmp_path / "exam")
    hub.add_folder("models/ann/roberta", tmp_path / "exported")
    values = {
        "race_url": "hf://datasets/ann/exam",
        "roberta_url": "hf://ann/roberta",
        "bpe_url": str(sample / "bpe"),
    }
    command = [sys.executable, "-m", "pipeline", "run", "--config", "smoke", "--no-cache"]
    command += ["--name", "own", "--output", str(tmp_path / "runs")]
    for given in (*(f"{name}={value}" for name, value in values.items()), *SETTINGS):
        command += ["-p", given]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "runs" / "own" / "model" / "metrics.json").read_text())
    assert found["dataset"] == "ann/exam"
    assert found["base_model"] == "ann/roberta"
