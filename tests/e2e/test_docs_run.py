"""The commands of README.md and docs/ run, as far as they need no more than this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.docs import pages
from tests.shell_blocks import blocks

PAGES = [page for page in pages() if any(not block.needs for block in blocks(page))]

# What a page expects a reader to have.
QUESTIONS = [
    {"article": "It was cold.", "question": "It was _.", "options": ["hot", "cold", "wet", "dry"]},
    {"id": "2", "article": "Ann ran.", "question": "Who?", "options": ["Ann", "Bob", "Cy", "Di"]},
]

# What a page says that it leaves, apart from `runs`.
LEFT: dict[str, tuple[str, ...]] = {"tutorial.md": (), "your-questions.md": ("published",)}

# README's runs are whole; those of the other pages train for one epoch, which is half the time.
SHORT = """#!/bin/sh
[ "$1" = run ] && set -- "$@" -p epochs=1 -p min_accuracy=0
exec {race} "$@"
"""


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    (tmp_path / ".venv").symlink_to(scripts.parent)
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    short = tmp_path / "bin" / "race"
    short.parent.mkdir()
    short.write_text(SHORT.format(race=scripts / "race"))
    short.chmod(0o755)
    path = f"{short.parent}:{scripts}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    for block in blocks(page):
        if block.needs:
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.commands],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        where = f"{page.name}:{block.line}"
        assert done.returncode == 0, f"{where}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    if page.name in LEFT:
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {".venv", "bin", "questions.jsonl", "runs", *LEFT[page.name]}
