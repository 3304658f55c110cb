"""What trainings and evaluations say of themselves, changed at random; see test_fuzz."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzzing import INPUTS, encoded, fuzz

from components.common.results.metrics import Evaluation, Training
from components.export.card import model_card
from components.export.core import TASK_SETTINGS
from components.gate.core import GateConfig, gate
from components.select.core import SelectConfig, select

pytestmark = INPUTS

TRAINING = {
    "best_valid_accuracy": 90.0,
    "best_valid_update": 20,
    "updates": 30,
    "collapsed": "",
    "parameters": {"seed": 1, "learning_rate": 1e-5, "arch": "roberta_base", "epochs": 2},
    "questions": 100,
    "device": "cpu",
    "seconds": 1.5,
}
LOG = [{"split": "valid", "update": 20, "loss": 0.5}, {"split": "train", "update": 20, "loss": 0.0}]
ANSWERS = [
    {"id": f"q{place}", "probabilities": [0.7, 0.1, 0.1, 0.1], "predicted": "A", "gold": "A"}
    for place in range(4)
]
EVALUATED = {
    "chance": 25.0,
    "validation_questions": 200,
    "loss": 0.4,
    "interval": {"all": [0.0, 100.0]},
    "accuracy": 100.0,
    "questions": 4,
    "correct": 4,
    "accuracy_middle": 100.0,
    "questions_middle": 1,
    "correct_middle": 1,
    "accuracy_high": 100.0,
    "questions_high": 3,
    "correct_high": 3,
}
WHOLE: Mapping[str, list[Any]] = {
    "model/metrics.json": [TRAINING],
    "model/train_log.jsonl": LOG,
    "report/metrics.json": [EVALUATED],
    "report/predictions.jsonl": ANSWERS,
}


def lines(values: list[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def test_results(sandbox: Path, inputs: int, capsys: pytest.CaptureFixture[str]) -> None:
    for trial in ("a", "b"):
        for name, values in WHOLE.items():
            (sandbox / trial / name).parent.mkdir(parents=True, exist_ok=True)
            (sandbox / trial / name).write_bytes(lines(values))
    training = {**TRAINING, "parameters": {"seed": 2, "learning_rate": 1e-5}}
    (sandbox / "b/model/metrics.json").write_text(json.dumps(training))
    models, evaluations = (
        tuple(sandbox / trial / part for trial in ("a", "b")) for part in ("model", "report")
    )
    config = SelectConfig(models, evaluations, sandbox / "selection")

    def make(chance: Random) -> tuple[str, bytes]:
        name = chance.choice(list(WHOLE))
        whole = [lines([value]) for value in WHOLE[name]]
        place = chance.randrange(len(whole))
        whole[place] = encoded(WHOLE[name][place], chance) + b"\n"
        return name, b"".join(whole)

    def read(given: tuple[str, bytes]) -> None:
        name, data = given
        path = sandbox / "a" / name
        path.write_bytes(data)
        try:
            select(config)
            gate(GateConfig(sandbox / "selection"))
            figures = Training.read(sandbox / "a/model"), Evaluation.read(sandbox / "a/report")
            model_card(dict.fromkeys(TASK_SETTINGS, 4), 3, *figures)
        finally:
            shutil.rmtree(sandbox / "selection", ignore_errors=True)
            path.unlink()  # the selection may share it
            path.write_bytes(lines(WHOLE[name]))
            capsys.readouterr()

    tally = fuzz(make, read, sandbox, inputs)
    assert min(tally.read, tally.refused) > inputs // 20
