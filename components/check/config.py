"""Parameters of components.check, apart so that `race check --help` needs no numpy."""

from dataclasses import dataclass
from pathlib import Path

from components.common.cli import option, require_ranges
from components.common.dataset import OPTIONS


@dataclass(frozen=True)
class CheckConfig:
    """Which data set, and what comes of findings.

    Raises:
        ConfigError: a value is out of its range.
    """

    data: Path = option(help="RACE's archive or folder, or the folder that preprocess wrote")
    bpe: Path | None = option(
        None, help="folder with encoder.json and vocab.bpe, to count what is cut off"
    )
    options: int = option(OPTIONS, least=2, help="options of each question, of RACE's files")
    strict: bool = option(False, help="end with status 3 when there is a finding")
    output: Path | None = option(None, help="new file for all figures and findings, in JSON")

    def __post_init__(self) -> None:
        require_ranges(self)
