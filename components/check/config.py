"""Parameters of components.check, apart so that `race check --help` needs no numpy."""

from dataclasses import dataclass
from pathlib import Path

from components.common.cli import option, require_ranges
from components.preprocess.columns import HELP_COLUMNS
from components.preprocess.rows import HELP_ANSWERS, HELP_SPLIT, Answers


@dataclass(frozen=True)
class CheckConfig:
    """Which data set, and what comes of findings.

    Raises:
        ConfigError: a value is out of its range.
    """

    data: Path = option(
        help="RACE's archive or folder, a table of questions or a folder of such, or the"
        " folder that preprocess wrote"
    )
    bpe: Path | None = option(
        None, help="folder with encoder.json and vocab.bpe, to count what is cut off"
    )
    options: int = option(0, help="options of each question; 0 is as many as there are")
    columns: str = option("", help=HELP_COLUMNS)
    answers: Answers = option("auto", help=HELP_ANSWERS)
    split: str = option("", help=HELP_SPLIT)
    strict: bool = option(False, help="end with status 3 when there is a finding")
    output: Path | None = option(None, help="new file for all figures and findings, in JSON")

    def __post_init__(self) -> None:
        require_ranges(self)
