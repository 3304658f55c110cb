"""Checkpoints of the packed engine: stock fairseq reads them, training resumes from them."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from components.train import checkpoints, compat
from components.train.config import TrainConfig, plan
from components.train.core import train
from components.train.flags import Run, fairseq_arguments

HEAD = "sentence_classification_head"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def fairseq_train(
    tiny_race: Any, save_dir: Path, *more: str, fresh: bool = True, **changes: Any
) -> str:
    """Run fairseq-train, from the pretrained model or from what is in `save_dir`; its output."""
    parameters = tiny_race.parameters | {"epochs": 9, "effective_batch_size": 8}
    parameters |= changes
    config = TrainConfig(tiny_race.data, tiny_race.pretrained, save_dir, **parameters)
    run = Run(config, plan(config, gpus=0, questions=96), tiny_race.pretrained, save_dir)
    arguments = fairseq_arguments(run)
    if not fresh:
        resets = ("--reset-optimizer", "--reset-dataloader", "--reset-meters")
        arguments = [a for a in arguments if a not in resets]
        arguments[arguments.index("--restore-file") + 1] = "checkpoint_last.pt"
    done = subprocess.run(
        [sys.executable, "-m", "components.train.rank.worker", *arguments, *more],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def last(save_dir: Path) -> dict[str, Any]:
    return checkpoints.load(save_dir / "checkpoint_last.pt")


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif torch.is_tensor(one):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def packed(tiny_race: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a training by the packed engine through the train step."""
    output = tmp_path_factory.mktemp("packed") / "model"
    parameters = tiny_race.parameters | {"engine": "packed", "epochs": 4}
    train(TrainConfig(tiny_race.data, tiny_race.pretrained, output, **parameters))
    return output


def stock_predictions(data: Path, checkpoint: Path, file: Path) -> dict[int, tuple[int, int]]:
    """What fairseq-validate answers on the questions of `test`, and the right answers."""
    command = ["fairseq-validate", str(data), "--path", str(checkpoint), "--valid-subset", "test"]
    command += ["--task", "sentence_ranking", "--criterion", "sentence_ranking"]
    command += ["--num-classes", "4", "--init-token", "0", "--separator-token", "2"]
    command += ["--batch-size", "3", "--save-predictions", str(file), "--cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "components.train.compat", *command],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[int(value) for value in line.split()] for line in file.read_text().splitlines()]
    return {place: (answer, right) for place, answer, right in rows}


def packed_predictions(data: Path, checkpoint: Path) -> dict[int, tuple[int, int]]:
    """The same by the packed forward."""
    compat.import_fairseq()
    from fairseq import checkpoint_utils

    from components.train.engine.model import PackedRoberta
    from components.train.engine.task import PackedDataset

    with compat.quiet(), checkpoints.safe_types_allowed():
        models, _, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(checkpoint)], arg_overrides={"data": str(data)}
        )
        task.load_dataset("test")
    model = PackedRoberta(models[0], HEAD).eval()
    questions = PackedDataset(task.dataset("test"), 4)
    batch = questions.collater([questions[i] for i in range(len(questions))])
    assert batch is not None
    assert batch.targets is not None
    with torch.no_grad():
        answers = model(batch).argmax(1)
    rows = zip(batch.ids.tolist(), answers.tolist(), batch.targets.tolist(), strict=True)
    return {place: (answer, right) for place, answer, right in rows}


def test_the_train_step_learns_with_the_packed_engine(packed: Path) -> None:
    names = sorted(path.name for path in packed.iterdir())
    assert {"checkpoint_best.pt", "checkpoint_last.pt", "metrics.json"} <= set(names)
    assert last(packed)["optimizer_history"][-1]["num_updates"] == 24
    lines = (packed / "train_log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    train_records = [record for record in records if record["split"] == "train"]
    assert len(train_records) == 24
    assert all(record["tokens_per_second"] > 0 for record in train_records[1:])
    assert train_records[-1]["loss"] < train_records[0]["loss"]
    (events,) = (packed / "tensorboard" / "train_inner").glob("events.*")
    assert events.read_bytes().count(b"tokens_per_second") == 24


def test_fairseq_validate_gives_the_packed_models_answers(
    tiny_race: Any, packed: Path, tmp_path: Path
) -> None:
    checkpoint = packed / "checkpoint_last.pt"
    answers = stock_predictions(tiny_race.data, checkpoint, tmp_path / "predictions")
    assert len(answers) == 20
    assert len({answer for answer, _ in answers.values()}) > 1
    assert packed_predictions(tiny_race.data, checkpoint) == answers


def test_the_packed_forward_gives_a_stock_checkpoints_answers(
    tiny_race: Any, trained: Any, tmp_path: Path
) -> None:
    checkpoint = trained.alone / "checkpoint_last.pt"
    answers = stock_predictions(tiny_race.data, checkpoint, tmp_path / "predictions")
    assert packed_predictions(tiny_race.data, checkpoint) == answers


def test_fairseq_train_goes_on_from_a_packed_checkpoint(tiny_race: Any, tmp_path: Path) -> None:
    fairseq_train(tiny_race, tmp_path, engine="packed", max_updates=12)
    before = last(tmp_path)
    log = fairseq_train(tiny_race, tmp_path, fresh=False, engine="stock", epochs=2)
    assert "Loaded checkpoint" in log
    assert "begin training epoch 2" in log
    assert "begin training epoch 1" not in log
    after = last(tmp_path)
    name = "encoder.sentence_encoder.layers.0.fc1.weight"
    change = (after["model"][name] - before["model"][name]).abs().max()
    assert 0 < change < 0.1


def test_the_packed_engine_starts_from_a_stock_checkpoint(
    tiny_race: Any, trained: Any, tmp_path: Path
) -> None:
    start = trained.alone / "checkpoint_last.pt"
    log = fairseq_train(
        tiny_race,
        tmp_path,
        *("--restore-file", str(start)),
        engine="packed",
        learning_rate=0.0,
        max_updates=1,
    )
    assert f"Loaded checkpoint {start}" in log
    theirs, ours = checkpoints.load(start)["model"], last(tmp_path)["model"]
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(
    "stop_after",
    [pytest.param(12, marks=pytest.mark.slow, id="after an epoch"), pytest.param(7, id="in one")],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    tiny_race: Any, tmp_path: Path, stop_after: int
) -> None:
    kwargs = {"engine": "packed", "lr_scheduler": "inverse_sqrt", "warmup_updates": 10}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fairseq_train(tiny_race, whole, max_updates=18, **kwargs)
    fairseq_train(tiny_race, parts, max_updates=stop_after, **kwargs)
    assert last(parts)["optimizer_history"][-1]["num_updates"] == stop_after
    fairseq_train(tiny_race, parts, fresh=False, max_updates=18, **kwargs)
    for key in ("model", "packed_optimizer"):
        assert_equal(last(parts)[key], last(whole)[key], key)


@pytest.mark.slow
def test_a_run_in_16_bits_resumes_with_rounded_moments(tiny_race: Any, tmp_path: Path) -> None:
    kwargs = {"engine": "packed", "precision": "bf16"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fairseq_train(tiny_race, whole, max_updates=24, **kwargs)
    fairseq_train(tiny_race, parts, max_updates=18, **kwargs)
    at_stop = last(parts)
    assert at_stop["packed_optimizer"]["exp_avg"].dtype == torch.bfloat16
    name = "encoder.sentence_encoder.layers.0.fc1.weight"
    master = at_stop["model"][name]
    assert master.dtype == torch.float32
    assert not torch.equal(master, master.bfloat16().float())  # it is not rounded
    fairseq_train(tiny_race, parts, fresh=False, max_updates=24, **kwargs)
    moved = (last(whole)["model"][name] - master).abs().mean()
    apart = (last(whole)["model"][name] - last(parts)["model"][name]).abs().mean()
    assert apart < 0.05 * moved


def test_best_and_last_are_whole_files_and_one_file_when_they_are_equal(
    tiny_race: Any, tmp_path: Path
) -> None:
    fairseq_train(tiny_race, tmp_path, engine="packed", max_updates=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint_best.pt",
        "checkpoint_last.pt",
    ]
    best, newest = (tmp_path / f"checkpoint_{which}.pt" for which in ("best", "last"))
    assert best.stat().st_ino == newest.stat().st_ino


def test_a_failed_write_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compat.import_fairseq()
    from components.train.engine import trainer

    class Stub(trainer.PackedTrainer):
        def __init__(self) -> None:
            pass

        def state_dict(self) -> dict[str, Any]:
            return {"extra_state": {}}

    def full(state: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "checkpoint_last.pt"
    path.write_bytes(b"the one before")
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        Stub().save_checkpoint(str(path), {})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_last.pt"]
    assert path.read_bytes() == b"the one before"


def distinct(tensors: Any) -> int:
    """Numbers in tensors, those that share their memory counted once."""
    return sum({id(t.untyped_storage()): t.numel() for t in tensors}.values())


def test_sizes_with_roberta_large(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compat.import_fairseq()
    import fairseq.models.roberta.model

    from components.train.engine.model import PackedRoberta

    # What a file holds, on this tiny run.
    state = checkpoints.load(packed / "checkpoint_last.pt")
    trained = sum(math.prod(shape) for shape in state["packed_optimizer"]["shapes"])
    untrained = 60 + 4 + 32 * 32 + 3 * 32  # about: the head of the pretraining
    expected = 3 * 4 * trained + 4 * untrained
    overhead = 64 * 1024  # the configuration, names, and the alignment of parameters
    size = (packed / "checkpoint_last.pt").stat().st_size
    assert expected < size < expected * 1.02 + overhead

    # The same sums for roberta_large, whose shapes need no memory.
    monkeypatch.setattr(fairseq.models.roberta.model, "init_bert_params", lambda module: None)
    with torch.device("meta"):
        stock = large()
    theirs = sum(parameter.numel() for parameter in stock.parameters())
    model = PackedRoberta(stock, HEAD)
    ours = sum(parameter.numel() for parameter in model.parameters())
    rest = sum(value.numel() for value in model.untrained.values())
    assert theirs == pytest.approx(658.7e6, rel=1e-3)
    assert ours + rest == pytest.approx(356.5e6, rel=1e-3)
    # fairseq: the model and two moments in float32, duplicates included. Here, with fp16 or bf16:
    # the model in float32 and two moments in bfloat16.
    stock_bytes = 3 * 4 * theirs
    assert stock_bytes / ((4 + 2 + 2) * ours + 4 * rest) > 2.5
    assert stock_bytes / (2 * (ours + rest)) > 10


def large() -> Any:
    import argparse
    import types

    from fairseq.data import Dictionary
    from fairseq.models.roberta import RobertaModel
    from fairseq.models.roberta.model import roberta_large_architecture

    dictionary = Dictionary()
    for word in range(50265 - dictionary.nspecial):
        dictionary.add_symbol(str(word))
    args = argparse.Namespace(max_positions=512)
    roberta_large_architecture(args)
    model = RobertaModel.build_model(args, types.SimpleNamespace(source_dictionary=dictionary))
    model.register_classification_head(HEAD, num_classes=1)
    return model
