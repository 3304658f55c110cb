"""What holds for both Dockerfiles, and between them and the locked requirements."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.parameters import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["data", "train"])
def dockerfile(request: pytest.FixtureRequest) -> str:
    return (ROOT / "docker" / f"{request.param}.Dockerfile").read_text()


def final_stage(dockerfile: str) -> str:
    return dockerfile[dockerfile.rindex("\nFROM ") :]


def test_both_have_the_same_base_by_exact_tag() -> None:
    bases = {
        re.findall(r"^ARG BASE_IMAGE=(.+)$", (ROOT / "docker" / name).read_text(), re.MULTILINE)[0]
        for name in ("data.Dockerfile", "train.Dockerfile")
    }
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.1[12]\.\d+-slim-bookworm", bases.pop())


def test_every_stage_starts_from_it(dockerfile: str) -> None:
    starts = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert set(starts) == {"${BASE_IMAGE}"}


def test_the_final_stage_only_copies(dockerfile: str) -> None:
    stage = final_stage(dockerfile)
    assert not re.search(r"^(RUN|ADD|ENTRYPOINT) ?", stage, re.MULTILINE)
    assert not re.search(r"^COPY (?!--from)", stage, re.MULTILINE)
    assert re.search(r"^USER \d+$", stage, re.MULTILINE)
    # Our code changes most often, so it is the last that adds to the image.
    assert stage.index("COPY --from=code") > stage.index("COPY --from=packages")


def test_no_argument_of_pip_is_known_to_the_final_stage(dockerfile: str) -> None:
    assert "PIP_" not in final_stage(dockerfile)


def test_any_builder_will_do(dockerfile: str) -> None:
    """Neither a frontend to be pulled nor what only BuildKit understands."""
    assert not re.search(r"#\s*syntax=|--mount|--chmod|<<", dockerfile)


def test_no_image_installs_kfp(dockerfile: str) -> None:
    assert "kfp" not in dockerfile
    for name in ("data", "train"):
        assert "kfp" not in (ROOT / "requirements" / f"{name}.txt").read_text()


def test_what_serves_is_in_the_image_that_computes_alone() -> None:
    for name, has_it in (("train", True), ("data", False)):
        locked = (ROOT / "requirements" / f"{name}.txt").read_text()
        for package in ("starlette", "uvicorn"):
            assert bool(re.search(rf"^{package}==", locked, re.MULTILINE)) == has_it
    copied = (ROOT / "docker" / "train.Dockerfile").read_text()
    assert "\nCOPY components/ /app/components/\n" in copied  # with serve and its page


def test_everything_that_is_copied_exists_and_reaches_the_engine(dockerfile: str) -> None:
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.startswith(("components/", "requirements/")), source


def test_what_the_data_image_holds_is_enough_for_its_steps(tmp_path: Path, strangers: Path) -> None:
    dockerfile = (ROOT / "docker" / "data.Dockerfile").read_text()
    environment = dict(re.findall(r"^[ENV ]+(PYTHON\w+)=(\S+)", dockerfile, re.MULTILINE))
    for *sources, target in map(
        str.split, re.findall(r"^COPY (comp.+)$", dockerfile, re.MULTILINE)
    ):
        place = tmp_path / target.lstrip("/")
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    steps = ("download", "preprocess", "binarize", "gate", "select")
    for command in [*(["-m", f"components.{step}", "--help"] for step in steps), ["-c", TEMPLATES]]:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=strangers,  # as a folder of the user's may be that is mounted there
            env=environment | {"PYTHONPATH": str(tmp_path / "app")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "components/select/templates/sweep.html" in done.stdout.split()


# Prints the names of all templates, and fails if one needs another that is not there.
TEMPLATES = """
from components.common.report.page import environment
from jinja2 import meta
every = environment()
for name in every.list_templates(extensions=["html"]):
    source, _, _ = every.loader.get_source(every, name)
    for needed in meta.find_referenced_templates(every.parse(source)):
        every.get_template(needed)
    print(name)
"""


def test_the_walk_by_hand_trains_the_model_of_the_sample() -> None:
    text = (ROOT / "docs" / "containers.md").read_text()
    values = load_config("smoke").values
    for name, value in values.items():
        if name.startswith("train_encoder_"):
            flag = name.removeprefix("train_").replace("_", "-")
            assert f"--{flag} {value} " in text
