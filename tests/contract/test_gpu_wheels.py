"""`make gpu-wheels` collects all that training and its data steps import besides torch."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Torch's own machine has these, with torch.
WITH_TORCH = {
    *("torch", "numpy", "filelock", "fsspec", "mpmath", "networkx", "setuptools", "sympy"),
    *("typing_extensions", "fairseq", "race_pipeline"),
}

MODULES = (
    *("components.train.core", "components.train.engine", "components.train.rank.worker"),
    *("components.evaluate.core", "components.binarize.core", "components.preprocess.core"),
    *("components.download.archive", "pipeline.sample", "tensorboardX", "fairseq_cli.train"),
    *("components.common.report.page", "safetensors.torch"),
)

PROGRAM = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
absent = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Refuse())
from components.train import compat
compat.import_fairseq("fairseq_cli.train")
for module in sys.argv[2].split(","):
    importlib.import_module(module)
"""


@pytest.mark.slow
def test_the_wheels_are_all_that_training_imports() -> None:
    lines = (ROOT / "requirements" / "gpu-wheels.txt").read_text().splitlines()
    collected = {_plain(line) for line in lines if not line.startswith("#")} | WITH_TORCH
    absent = [
        name
        for name, packages in metadata.packages_distributions().items()
        if not collected.intersection(map(_plain, packages)) and name not in sys.stdlib_module_names
    ]
    assert {"boto3", "kfp", "requests"} <= set(absent)
    subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(absent), ",".join(MODULES)], check=True, cwd=ROOT
    )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
