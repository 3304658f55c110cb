"""The parameters of export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.common import hub
from components.common.cli import option
from components.evaluate.trained import MODEL_HELP


@dataclass(frozen=True)
class ExportConfig:
    model: Path = option(help=MODEL_HELP)
    output: Path = option(help="new folder for the Hugging Face model")
    bpe: Path | None = option(
        None, help="folder with encoder.json, vocab.bpe and dict.txt; a run's folder has its own"
    )
    evaluation: Path | None = option(
        None,
        help="folder that evaluate wrote, for the figures on the card; a run's folder has its own",
    )
    precision: Literal["fp32", "fp16"] = option("fp32", help="of the weights in the file")
    push_to_hub: str = option(
        "",
        help="repository of the Hugging Face hub that gets the folder too, as one commit; a private"
        " one is made where there is none",
        metavar="OWNER/NAME",
    )

    def __post_init__(self) -> None:
        if self.push_to_hub:
            where = f"push_to_hub: {self.push_to_hub}"
            hub.require_unchosen(where, self.repository, "Give OWNER/NAME")

    @property
    def repository(self) -> hub.Repository:
        return hub.parse(hub.SCHEME + self.push_to_hub.removeprefix(hub.SCHEME), dataset=False)
