"""What is no JSON is neither written nor read, though Python's own module does both."""

import math
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.common import strict_json
from components.common.errors import DataError


@pytest.mark.parametrize("value", [math.nan, math.inf, [{"a": -math.inf}]])
def test_what_is_not_finite_is_not_written(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json.write(tmp_path / "file", value)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "not a number") for text in ("NaN", '{"a": [Infinity]}', "-Infinity")),
        *((text, "too large") for text in ("1e999", "[-1e400]", "9" * 400, "9" * 5000)),
        *((text, "nested too deeply") for text in ("[" * 100_000, '{"a":' * 100_000)),
        *(("[" * n + "1" + "]" * n, "nested too deeply") for n in (102, 992)),
        ('{"a": 1, "a": 2}', "a name is there twice"),
        ('["\\ud800"]', r"half of a surrogate pair \(.ud800\)"),
        ('{"\\uDC00\\uD83D": 1}', "half of a surrogate pair"),
        (b'"\xff"', "codec can't decode"),
    ],
)
def test_what_is_none_is_not_read(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        strict_json.loads(text)


def test_all_else_is_read() -> None:
    text = '{"a": [1.5, -2e30, 12345678901234567890, "\\ud83d\\ude00 \\\\ud800", null, true]}'
    found = {"a": [1.5, -2e30, 12345678901234567890, "\U0001f600 \\ud800", None, True]}
    assert strict_json.loads(text) == found
    assert strict_json.loads(strict_json.dumps(found).encode()) == found


@pytest.mark.parametrize("value", [True, None, "1", math.nan, math.inf, [], 10**400])
def test_a_figure_is_a_finite_number(value: Any) -> None:
    with pytest.raises((ValueError, OverflowError)):
        strict_json.number(value)


def test_a_pipe_a_socket_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name in ("pipe", "device", "socket"):
            with pytest.raises(DataError, match=f"{name}: a pipe, socket or device"):
                strict_json.read(tmp_path / name)


def test_no_other_module_writes_or_reads_json() -> None:
    root = Path(__file__).parents[3]
    named = ["git", "ls-files", "components/*.py", "pipeline/*.py"]
    listed = subprocess.run(named, cwd=root, capture_output=True, text=True, check=True).stdout
    users = {
        path
        for path in listed.split()
        if re.search(r"(?m)^\s*(import json\b|from json )", (root / path).read_text())
    }
    assert users == {
        "components/common/strict_json.py",
        "components/preprocess/passage.py",  # reads what fairseq's own script does
    }
