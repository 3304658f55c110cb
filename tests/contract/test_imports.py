"""What a light component must not load: its image has neither torch nor fairseq nor kfp."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import components.binarize
import components.check
import components.common
import components.download
import components.gate
import components.preprocess
import components.select

MODULES = sorted(
    module.name
    for package in (
        components.common,
        components.download,
        components.preprocess,
        components.binarize,
        components.check,
        components.gate,
        components.select,
    )
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)
ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "fairseq", "kfp")
# Loaded only by what needs them, because they take a large part of a second.
LAZY = ("boto3", "botocore", "jinja2")


def test_every_step_is_looked_at() -> None:
    for step in ("download", "preprocess", "binarize", "gate", "select"):
        assert {f"components.{step}.core", f"components.{step}.__main__"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_light_module_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    unwanted = HEAVY + LAZY if not module.startswith("components.common.storage.") else HEAVY
    assert module in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(unwanted)


def test_what_the_training_image_lacks_is_not_imported_by_its_steps() -> None:
    steps = "components.train.__main__, components.evaluate.__main__"
    code = f"import sys, {steps}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    absent = ("components.download", "components.preprocess", "components.binarize", "pipeline")
    assert [name for name in loaded if name.startswith(absent)] == []


def test_a_python_without_the_packages_is_told_in_one_line() -> None:
    bare = [sys.executable, "-I", "-S", "-c"]
    code = "import sys, runpy; sys.path[:0] = [{!r}]; sys.argv = {!r}; {}"
    start = "runpy._run_module_as_main('components.download')"
    run = code.format(str(ROOT), ["-m"], start)
    done = subprocess.run([*bare, run], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: this Python lacks the packages")
    assert done.stderr.count("\n") == 1
    done = subprocess.run(
        [*bare, code.format(str(ROOT), [""], "import components")], capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1].startswith("ImportError: this Python lacks the packages")
