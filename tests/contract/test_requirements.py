"""The locked requirements: exact versions, and the hashes of their files."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HASHED = ("build", "data", "dev", "fairseq", "parquet", "pipeline", "train")


def locked(name: str) -> dict[str, list[str]]:
    """Each requirement (name, version, marker) of a file and its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.sub(r" \\\n *", " ", text).splitlines()
    return {entry.partition(" --")[0]: entry.split("--hash=")[1:] for entry in entries}


@pytest.mark.parametrize("name", HASHED)
def test_every_requirement_is_exact_and_has_hashes(name: str) -> None:
    assert locked(name)
    for requirement, hashes in locked(name).items():
        assert re.match(r"[a-z0-9-]+==[\w.]+( ;|$)", requirement), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64} ?", digest) for digest in hashes), requirement
        assert "://" not in requirement


def test_torch_alone_has_none_since_its_builds_are_other_files() -> None:
    assert locked("torch") == {"torch==2.13.0": []}
    assert not [r for name in HASHED for r in locked(name) if r.startswith("torch==")]


def test_what_is_asked_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    asked = {"pipeline": project["project"]["dependencies"], **groups}
    for name, requirements in asked.items():
        names = {requirement.partition("==")[0] for requirement in locked(name)} | {"torch"}
        for requirement in requirements:
            if isinstance(requirement, str):
                wanted = re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")
                assert wanted in names, f"{name}: {requirement}"
    assert project["project"]["optional-dependencies"]["parquet"] == groups["parquet"]


def test_another_file_than_the_locked_one_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "tqdm-4.70.1-py3-none-any.whl"
    source.write_bytes(b"not what was locked")
    entry = next(
        e for e in (ROOT / "requirements" / "data.txt").read_text().split("\n") if "tqdm" in e
    )
    hashes = next(h for r, h in locked("data").items() if r.startswith("tqdm=="))
    asked = tmp_path / "asked.txt"
    asked.write_text(entry.rstrip(" \\") + "".join(f" --hash={h.strip()}" for h in hashes))
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path)]
    done = subprocess.run(
        [*command, "--no-deps", "--target", str(tmp_path / "to"), "--requirement", str(asked)],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "HASHES" in done.stderr.upper()
