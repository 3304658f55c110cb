"""What parts share: the device, data, sizes, and the file for what they find."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.race_data import make_data
from components.common.files import atomic_folder
from components.train.config import TrainConfig

QUESTIONS_PER_UPDATE = 16


class Check(Exception):
    """A figure is not what it has to be."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Check(what)


def _card() -> str:
    """The name of the first GPU, without the seconds that CUDA takes to start if possible."""
    query = ["nvidia-smi", "--id=0", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


class Setting:
    """What a part runs on: one GPU at full size, or in a rehearsal the CPU with little."""

    def __init__(self, out: Path, name: str, rehearse: bool) -> None:
        self.out, self.name, self.rehearse = out, name, rehearse
        self._told: dict[str, Any] = {}
        if rehearse:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def gpus(self) -> int:
        """How many the train step is to plan for."""
        return 0 if self.rehearse else 1

    @functools.cached_property
    def work(self) -> Path:
        """A folder of what parts make for each other; they make it again where it is gone."""
        folder = self.out / "work"
        folder.mkdir(exist_ok=True)
        return folder

    def precision(self, wanted: str) -> str:
        """On the CPU, fairseq has no fp16."""
        return "fp32" if self.rehearse and wanted == "fp16" else wanted

    def tell(self, **figures: Any) -> None:
        """Keep figures, whatever happens after."""
        self._told |= figures
        file = self.out / "logs" / f"{self.name}.told"
        file.with_suffix(".new").write_text(json.dumps(self._told))
        file.with_suffix(".new").replace(file)

    def require_one_card(self) -> None:
        """Note card and torch; figures of several cards, or torches, are not to be mixed.

        Raises:
            Check: there is no GPU, or another one than that of the other parts.
        """
        card = "none (CPU)" if self.rehearse else _card()
        require(bool(card), "no GPU; --rehearse runs on the CPU")
        mine = {"card": card, "torch": metadata.version("torch")}
        self.tell(**mine)
        for record in self.records(self.out):
            theirs = {name: record[name] for name in mine}
            if record["ok"] and theirs != mine:
                raise Check(f"this is {mine}, {record['part']} is of {theirs}: use another --out")

    @staticmethod
    def records(out: Path) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]

    def found(self, part: str) -> dict[str, Any]:
        """What another part has found; {} if it has not run."""
        file = self.out / f"{part}.json"
        return json.loads(file.read_text())["result"] if file.exists() else {}

    def large(self, engine: str, precision: str, batch_size: int, **more: Any) -> TrainConfig:
        """roberta_large with random weights on random tokens of RACE's lengths."""
        longest = 48 if self.rehearse else 512
        data = self.work / "random"
        if not data.exists():
            with atomic_folder(data) as folder:
                questions = QUESTIONS_PER_UPDATE * (4 if self.rehearse else 80)
                from components.train import compat

                compat.import_fairseq()
                make_data(folder, {"train": questions, "valid": 8}, longest=longest)
        shape = {
            "encoder_layers": 2,
            "encoder_embed_dim": 32,
            "encoder_ffn_embed_dim": 128,
            "encoder_attention_heads": 2,
            "max_positions": longest,
            "max_option_length": 16,
        }
        return TrainConfig(
            data=data,
            pretrained=self.work / "none.pt",  # fairseq starts from random weights without it
            output=self.work / "output",
            engine=engine,  # type: ignore[arg-type]
            precision=self.precision(precision),  # type: ignore[arg-type]
            batch_size=batch_size,
            effective_batch_size=QUESTIONS_PER_UPDATE,
            log_interval=1,
            **({"processes": 1} | (shape if self.rehearse else {}) | more),
        )

    def sample(self) -> Path:
        """A folder with data/ and roberta/: text from which a small model learns within minutes."""
        made = self.work / "sample"
        if not made.exists():
            from components.binarize.core import BinarizeConfig, binarize
            from components.download.archive import unpack
            from components.preprocess.core import PreprocessConfig, preprocess
            from pipeline.sample import make_sample

            with atomic_folder(made) as folder:
                make_sample(folder / "raw", passages=200 if self.rehearse else 2000)
                for name, archive in (("race", "RACE.tar.gz"), ("roberta", "roberta.tiny.tar.gz")):
                    (folder / name).mkdir()
                    unpack(folder / "raw" / archive, folder / name)
                preprocess(PreprocessConfig(race=folder / "race", output=folder / "text"))
                bpe = folder / "raw" / "bpe"
                binarize(BinarizeConfig(text=folder / "text", bpe=bpe, output=folder / "data"))
                for leftover in ("raw", "race", "text"):
                    shutil.rmtree(folder / leftover)
        return made

    def small(self, engine: str, precision: str, **more: Any) -> TrainConfig:
        """The sample's model, with settings that need few updates to learn it."""
        from pipeline.sample import TINY

        settings: dict[str, Any] = dataclasses.asdict(TINY) | {
            "arch": "roberta_base",
            "engine": engine,
            "precision": self.precision(precision),
            "processes": 1,
            "effective_batch_size": 128,
            "batch_size": 128,
            "learning_rate": 5e-3,
            "warmup_updates": 10,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "log_interval": 1,
        }
        sample = self.sample()
        return TrainConfig(
            data=sample / "data",
            pretrained=sample / "roberta" / "roberta.tiny" / "model.pt",
            output=self.work / "output",
            **(settings | more),
        )
