"""What an installed package has beside its Python."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_wheel_holds_the_templates_and_the_profiles(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("components", "pipeline"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    wanted = {
        path.relative_to(source).as_posix()
        for pattern in ("*/templates/*", "*/profiles/*")
        for path in source.rglob(pattern)
    }
    assert len(wanted) > 10
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wanted <= set(zipfile.ZipFile(wheel).namelist())
