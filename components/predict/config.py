"""The parameters of predict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.common import cli
from components.common.device import DEVICE_HELP, Device
from components.common.errors import ConfigError
from components.evaluate.trained import MODEL_HELP

STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class PredictConfig:
    """Which model answers, and what.

    Raises:
        ConfigError: a question is given in part, or besides an input.
    """

    model: Path = cli.option(help=MODEL_HELP)
    bpe: Path | None = cli.option(
        None, help="folder with encoder.json, vocab.bpe and dict.txt; a run's folder has its own"
    )
    input: Path = cli.option(
        STANDARD_INPUT,
        help="file with a JSON object on each line, or a RACE file; - is standard input",
    )
    passage: str | None = cli.option(None, help="text that the one question is about")
    question: str | None = cli.option(
        None, help="one question; an underscore in it is the place of the option"
    )
    option: tuple[str, ...] = cli.option((), help="one of the answers to choose from")
    device: Device = cli.option("auto", help=DEVICE_HELP)
    precision: Literal["auto", "fp32", "fp16"] = cli.option(
        "auto", help="of the weights; auto is fp16 on a GPU and fp32 on the CPU"
    )
    batch_tokens: int = cli.option(
        16384, least=1, help="tokens that are computed at once; memory grows with it"
    )

    def __post_init__(self) -> None:
        given = [self.passage is not None, self.question is not None, bool(self.option)]
        if any(given) and not all(given):
            raise ConfigError(
                "a question needs --passage, --question and --option together",
                hint="Give --option once for each answer to choose from",
            )
        if any(given) and self.input != STANDARD_INPUT:
            raise ConfigError("--question and --input exclude each other", hint="Leave one out")
        cli.require_ranges(self)
