"""Folders as train and evaluate write them, without a training."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

LEVELS = {"middle": 40, "high": 60}
OPTIONS = 4


@dataclass
class Sweep:
    """A place for trials; each is a folder with model/ and report/."""

    folder: Path
    trials: list[Path] = field(default_factory=list)

    def add(
        self,
        seed: int,
        dev: float | None = 90.0,
        right: Sequence[int] | int = 80,
        *,
        learning_rate: float = 1e-5,
        validation_loss: float = 0.5,
        marked: str = "",
        sure: float = 0.7,
        validation_questions: int = 200,
    ) -> Path:
        """A trial that has these questions right (the first so many, or those given) of 100."""
        places = set(range(right) if isinstance(right, int) else right)
        trial = self.folder / f"trial{len(self.trials)}"
        model, report = trial / "model", trial / "report"
        model.mkdir(parents=True)
        report.mkdir()
        training = {
            "best_valid_accuracy": None if marked else dev,
            "best_valid_update": 20,
            "updates": 30,
            "collapsed": marked,
            "parameters": {"seed": seed, "learning_rate": learning_rate},
            "trial": len(self.trials),  # no two are the same to the last byte
        }
        write(model / "metrics.json", training)
        log = [
            {"split": "valid", "update": 10, "loss": 9.0},
            {"split": "valid", "update": 20, "loss": validation_loss},
            {"split": "train", "update": 20, "loss": 0.0},
        ]
        (model / "train_log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in log))
        (model / "report.html").write_text("training")
        (report / "report.html").write_text("evaluation")
        digest = hashlib.sha256((model / "metrics.json").read_bytes()).hexdigest()
        evaluated: dict[str, Any] = {"training": digest}
        evaluated["validation_questions"] = validation_questions
        evaluated["chance"] = 100 / OPTIONS
        if marked:
            evaluated["absent"] = marked
        else:
            (model / "checkpoint_best.pt").write_bytes(bytes([seed % 256]))
            evaluated |= _figures(places)
            (report / "predictions.jsonl").write_text("".join(_lines(places, sure)))
        write(report / "metrics.json", evaluated)
        self.trials.append(trial)
        return trial

    def arguments(self) -> dict[str, Any]:
        return {
            "models": tuple(trial / "model" for trial in self.trials),
            "evaluations": tuple(trial / "report" for trial in self.trials),
            "output": self.folder / "selection",
        }


def _figures(right: set[int]) -> dict[str, Any]:
    found: dict[str, Any] = {"loss": 0.4, "interval": {"all": [0.0, 100.0]}}
    start = 0
    for level, count in [("", 100), *LEVELS.items()]:
        begin, end = (0, 100) if not level else (start, start + count)
        start = 0 if not level else end
        correct = sum(begin <= place < end for place in right)
        suffix = level and f"_{level}"
        found[f"accuracy{suffix}"] = 100 * correct / count
        found[f"questions{suffix}"] = count
        found[f"correct{suffix}"] = correct
        found["interval"][level or "all"] = [0.0, 100.0]
    return found


def _lines(right: set[int], sure: float) -> list[str]:
    lines = []
    for place in range(100):
        rest = (1 - sure) / (OPTIONS - 1)
        chosen = 0 if place in right else 1
        values = [sure if option == chosen else rest for option in range(OPTIONS)]
        line = {"id": f"q{place}", "probabilities": values, "gold": "A"}
        lines.append(json.dumps(line | {"predicted": "AB"[chosen]}) + "\n")
    return lines


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


@pytest.fixture
def change() -> Callable[[Path, dict[str, Any]], None]:
    """Change entries of a JSON file."""

    def changed(path: Path, entries: dict[str, Any]) -> None:
        write(path, json.loads(path.read_text()) | entries)

    return changed
