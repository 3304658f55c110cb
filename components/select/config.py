"""The parameters of the selection."""

from dataclasses import dataclass
from pathlib import Path

from components.common.cli import option, require_ranges
from components.common.errors import ConfigError


@dataclass(frozen=True)
class SelectConfig:
    """What to select from.

    Raises:
        ConfigError: a value is out of its range, or there is not an evaluation for each model.
    """

    models: tuple[Path, ...] = option(help="folder that train wrote, one for each trial")
    evaluations: tuple[Path, ...] = option(help="folder that evaluate wrote, one for each model")
    output: Path = option(
        help="new folder for model/ and report/ (the selected trial's), metrics.json,"
        " ensemble.jsonl and report.html"
    )
    ensemble: int = option(
        3,
        least=1,
        help="number of models that answer together, the best in validation; fewer where fewer"
        " are left",
    )

    def __post_init__(self) -> None:
        if len(self.models) != len(self.evaluations):
            raise ConfigError(
                f"{len(self.models)} models, but {len(self.evaluations)} evaluations",
                hint="Give the folder that evaluate wrote for each model",
            )
        require_ranges(self)
