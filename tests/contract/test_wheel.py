"""What an installed package has beside its Python, and what it does without torch and fairseq."""

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("wheel") / "source"
    for name in ("components", "pipeline"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (made,) = source.parent.glob("*.whl")
    return made


def test_a_wheel_holds_the_templates_and_the_configs(wheel: Path) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("components", "pipeline")
        for pattern in ("*/templates/*", "configs/*.yaml", "sample.yaml")
        for path in (ROOT / folder).rglob(pattern)
    }
    assert len(wanted) > 15
    assert wanted <= set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder of packages like that of `pipx install`: the wheel and what it requires, no more."""
    site = wheel.parent / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (found,) = metadata.distributions(path=[str(site)])
    seen: set[str] = set()
    waiting = [(line, "") for line in found.requires or ()]
    while waiting:
        line, extra = waiting.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        needed = metadata.distribution(requirement.name)
        if line in seen:
            continue
        seen.add(line)
        waiting += [(r, e) for r in needed.requires or () for e in ("", *requirement.extras)]
        for top in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(str(needed.locate_file(top)))
    assert not (site / "torch").exists()
    return site


def race(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with these packages alone."""
    return subprocess.run(
        [sys.executable, "-S", "-P", "-m", "pipeline", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "HOME": str(folder)},
        capture_output=True,
        text=True,
    )


class Closed(http.server.BaseHTTPRequestHandler):
    """A server that lets nobody in."""

    def do_GET(self) -> None:
        self.send_error(403)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_it_compiles_submits_and_looks_after_runs(installed: Path, tmp_path: Path) -> None:
    assert "config smoke" in race(installed, tmp_path, "parameters", "--config", "smoke").stdout
    assert race(installed, tmp_path, "compile").returncode == 0
    assert (tmp_path / "pipeline.yaml").read_text() == (ROOT / "pipeline.yaml").read_text()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        host = f"http://127.0.0.1:{server.server_port}"
        for command in (["submit", "--local-images"], ["runs", "list"]):
            done = race(installed, tmp_path, *command, "--host", host)
            assert re.fullmatch(rf"error: {host}.* 403.*\n", done.stderr), done.stderr
        server.shutdown()


@pytest.mark.parametrize(
    "command", ["run --config smoke", "sample --output sample", "images build data"]
)
def test_it_says_in_one_line_what_the_rest_needs(
    command: str, installed: Path, tmp_path: Path
) -> None:
    done = race(installed, tmp_path, *command.split())
    assert done.returncode == 2
    assert re.fullmatch(r"error: .* a checkout of the code.*\n", done.stderr)
    assert not list(tmp_path.iterdir())
