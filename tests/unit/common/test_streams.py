"""Steps and `race` end as they should whatever has become of the standard streams."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GATE = "-m components.gate --evaluation ."
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"]
FULL = [">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full"]
COMMANDS = [
    (GATE, 0),
    (f"{GATE} --min-accuracy 60", 7),
    ("-m components.gate --evaluation nowhere", 3),
    ("-m components.gate", 2),
    ("-m pipeline.cli parameters", 0),
]
SAYS = """
import sys; from components.common.cli import run_step
raise SystemExit(run_step(lambda argv: print({text!r}, file=sys.{stream})))
"""


def run(folder: Path, line: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    figures = {"accuracy": 50.0, "questions": 4, "correct": 2, "loss": 1.0}
    of_test = {f"{name}_test": value for name, value in figures.items()}
    (folder / "metrics.json").write_text(json.dumps({**figures, **of_test, "chance": 25.0}))
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)} | variables
    command = ["bash", "-c", f"exec {sys.executable} {line}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("redirection", "command", "status"),
    [
        (redirection, *command)
        for redirection, command in itertools.product(CLOSED + FULL, COMMANDS)
        if "pipeline" not in command[0] or redirection in CLOSED
    ],
)
def test_a_closed_or_full_stream_changes_no_status(
    tmp_path: Path, redirection: str, command: str, status: int
) -> None:
    done = run(tmp_path, f"{command} {redirection}")
    assert done.returncode == status
    assert b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "-m pipeline.cli parameters >/dev/full")
    assert done.returncode == 5
    assert done.stderr.startswith(b"error: no space left on device. ")
    assert len(done.stderr.splitlines()) == 1


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = f"""
import os, subprocess; from components.common.cli import run_step
def main(argv):
    with open({str(tmp_path / "output")!r}, "w") as file:
        os.write(1, b"printed by a library")
        subprocess.run(["echo", "and by a child"], check=True)
        file.write("ours")
raise SystemExit(run_step(main))
"""
    (tmp_path / "code.py").write_text(code)
    for redirection in CLOSED:
        assert run(tmp_path, f"code.py {redirection}").returncode == 0
        assert (tmp_path / "output").read_text() == "ours"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_what_an_encoding_lacks_is_escaped(
    tmp_path: Path, variables: dict[str, str], stream: str
) -> None:
    (tmp_path / "code.py").write_text(
        SAYS.format(text="a – ⠋ 5 %", stream=stream), encoding="utf-8"
    )
    done = run(tmp_path, "code.py", **variables)
    assert done.returncode == 0
    assert getattr(done, stream) == b"a \\u2013 \\u280b 5 %\n"
