"""Training and its kernels on a GPU: the parts of gpu_first.py that say right or wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.runner import run_parts
from benchmarks.gpu_first import PARTS

CHECKS = (
    *("kernels", "agreement", "learning_fp16", "learning_bf16"),
    *("steps", "full_memory", "nccl", "ranks"),
)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name: str, tmp_path: Path) -> None:
    (part,) = (part for part in PARTS if part.name == name)
    missing = run_parts([part], tmp_path, part.limit + 60, rehearse=False)
    assert not missing, json.loads((tmp_path / f"{name}.json").read_text())["error"]


def test_without_a_gpu_its_tests_are_skipped_visibly() -> None:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*command, "-k", "kernels"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={"PATH": "", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert "SKIPPED [1]" in done.stdout, done.stdout
    assert "needs a GPU" in done.stdout
