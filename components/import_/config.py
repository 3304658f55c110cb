"""The parameters of import."""

from dataclasses import dataclass
from pathlib import Path

from components.common.cli import option


@dataclass(frozen=True)
class ImportConfig:
    source: Path = option(help="folder of a Hugging Face RoBERTa: config, weights and tokenizer")
    output: Path = option(help="new folder for model.pt, dict.txt, encoder.json and vocab.bpe")
