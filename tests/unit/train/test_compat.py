import subprocess
import sys

import pytest

from components.common.errors import ConfigError
from components.train import compat


def python(code: str) -> str:
    """What a fresh interpreter prints; warnings are errors there, as they are here."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_fairseq_is_imported_and_nothing_else_is_changed() -> None:
    printed = python(
        """
import dataclasses, logging, warnings
before = dataclasses.dataclass, list(logging.getLogger().handlers), list(warnings.filters)
level, disabled = logging.getLogger().level, logging.root.manager.disable
from components.train import compat
fairseq = compat.import_fairseq()
assert dataclasses.dataclass is before[0]
assert logging.getLogger().handlers == before[1]
assert warnings.filters == before[2]
assert (logging.getLogger().level, logging.root.manager.disable) == (level, disabled)

@dataclasses.dataclass
class Mine: pass
assert Mine.__hash__ is None, "only fairseq's own dataclasses are made hashable"

import sys
compat.import_fairseq("fairseq_cli.train")
assert "tensorboardX" in sys.modules
assert not sys.modules.keys() & {"boto3", "google.cloud.storage"}, "they take half a second"
import boto3
print(fairseq.__version__)
"""
    )
    assert printed.split() == ["0.12.2"]


def test_every_command_is_there() -> None:
    for command in compat.COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "components.train.compat", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"usage: {command}" in done.stdout


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of fairseq-preprocess"):
        compat.main(["fairseq-fly"])
