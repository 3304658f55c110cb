"""Fixtures for the tests of training and of evaluation: models trained on a tiny data set."""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Trained:
    """Outputs of training on TinyRace without dropout, by 1 rank and by 2."""

    pretrained: Path
    alone: Path
    together: Path


@pytest.fixture(scope="session")
def trained(tiny_race: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from components.train.core import TrainConfig, train

    outputs = []
    for processes in (1, 2):
        output = tmp_path_factory.mktemp("trained") / "model"
        parameters = tiny_race.parameters | {
            "processes": processes,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        }
        train(TrainConfig(tiny_race.data, tiny_race.pretrained, output, **parameters))
        outputs.append(output)
    return Trained(tiny_race.pretrained, *outputs)


@pytest.fixture(scope="session")
def answering(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder: a model trained a little on the sample, its scores spread, with its BPE.

    bpe/, roberta/, text/, data/, model/ and report/ as `race run` leaves them, and race/ unpacked.
    """
    from components.binarize.core import BinarizeConfig, binarize
    from components.download.archive import unpack
    from components.evaluate.core import EvaluateConfig, evaluate
    from components.preprocess.core import PreprocessConfig, preprocess
    from components.train.core import TrainConfig, train
    from pipeline.sample import TINY

    run = tmp_path_factory.mktemp("runs") / "answering"
    for name, archive in (("race", "RACE.tar.gz"), ("roberta", "roberta.tiny.tar.gz")):
        (run / name).mkdir(parents=True)
        unpack(sample / archive, run / name)
    shutil.copytree(sample / "bpe", run / "bpe")
    preprocess(PreprocessConfig(race=run / "race", output=run / "text"))
    binarize(BinarizeConfig(text=run / "text", bpe=run / "bpe", output=run / "data"))
    train(
        TrainConfig(
            run / "data",
            run / "roberta",
            run / "model",
            arch="roberta_base",
            precision="fp32",
            processes=1,
            batch_size=32,
            effective_batch_size=32,
            learning_rate=3e-3,
            epochs=4,
            dropout=0.0,
            attention_dropout=0.0,
            **dataclasses.asdict(TINY),
        )
    )
    _spread_scores(run / "model" / "checkpoint_best.pt")
    evaluate(EvaluateConfig(run / "data", run / "model", run / "report"))
    return run


def _spread_scores(path: Path) -> None:
    """Make a model that has learned little tell options apart, so that differences show."""
    import torch

    from components.train import checkpoints

    state = checkpoints.load(path)
    for name in ("dense", "out_proj"):
        weight = f"classification_heads.sentence_classification_head.{name}.weight"
        state["model"][weight] = state["model"][weight] * 8
    torch.save(state, path.with_suffix(".new"))  # the old one is mapped into memory
    path.with_suffix(".new").replace(path)
