"""A checkpoint chooses neither what code runs nor what is computed, whichever step reads it."""

import argparse
import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.common.cli import run_step
from components.common.errors import DataError
from components.evaluate.__main__ import main as evaluate
from components.evaluate.model import Model
from components.export.__main__ import main as export
from components.predict.__main__ import main as predict
from components.train import checkpoints, compat
from components.train.__main__ import main as train
from components.train.rank import hooks

State = dict[str, Any]
QUESTION = ["--passage", "Ann has a cat.", "--question", "Ann has a _."]
QUESTION += [word for option in ("dog", "cat", "cow", "hen") for word in ("--option", option)]


def steps(run: Path, folder: Path) -> dict[str, int]:
    """What the steps end with that answer with a run's model."""
    model = ["--model", str(run / "model" / "checkpoint_best.pt"), "--bpe", str(run / "bpe")]
    data = ["--data", str(run / "data"), "--output", str(folder / "evaluated")]
    return {
        "evaluate": run_step(evaluate, [*model[:2], *data]),
        "predict": run_step(predict, [*model, *QUESTION]),
        "export": run_step(export, [*model, "--output", str(folder / "exported")]),
    }


def training(run: Path, folder: Path) -> int:
    from pipeline.sample import TINY

    values = dataclasses.asdict(TINY) | {"arch": "roberta_base", "precision": "fp32"}
    values |= {"pretrained": run / "model" / "checkpoint_best.pt", "data": run / "data"}
    values |= {"output": folder / "trained", "max_updates": 1, "processes": 1}
    flags = [
        text
        for name, value in values.items()
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    return run_step(train, flags)


@pytest.fixture
def changed(answering: Path, tmp_path: Path) -> Callable[[Callable[[State], object]], Path]:
    """Makes a run's folder whose model's checkpoint was changed."""

    def make(change: Callable[[State], object]) -> Path:
        run = tmp_path / "run"
        (run / "model").mkdir(parents=True)
        for name in ("bpe", "data"):
            shutil.copytree(answering / name, run / name)
        state = checkpoints.load(answering / "model" / "checkpoint_best.pt")
        change(state)
        torch.save(state, run / "model" / "checkpoint_best.pt")
        return run

    return make


def settings(state: State) -> dict[str, Any]:
    return {**vars(state["cfg"]["model"]), **vars(state["cfg"]["task"])}


@pytest.mark.parametrize("old", [False, True], ids=["cfg", "args"])
@pytest.mark.parametrize("layers", [False, True], ids=["unread", "read"])
def test_an_expression_in_the_settings_is_not_evaluated(
    changed: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], *, old: bool, layers: bool
) -> None:
    """fairseq's fconv evaluates what the file says of its layers."""
    canary = tmp_path / "canary"
    expression = f"__import__('pathlib').Path({str(canary)!r}).touch() or [(8, 3)]"

    def harm(state: State) -> None:
        values = settings(state) | {"arch": "fconv", "_name": "fconv", "user_dir": str(tmp_path)}
        values |= {"decoder_layers": expression, "encoder_convs": "${oc.env:HOME}"}
        values |= {"encoder_layers": expression} if layers else {}
        if old:
            state["args"] = argparse.Namespace(**values)
        state["cfg"]["model"] = values

    run = changed(harm)
    wanted = DataError.exit_status if layers else 0
    assert steps(run, tmp_path) == dict.fromkeys(("evaluate", "predict", "export"), wanted)
    if layers or not old:  # one training is enough
        assert training(run, tmp_path) == wanted
    assert not canary.exists()
    assert "Traceback" not in capfd.readouterr().err
    if layers:  # the test itself: fairseq alone does evaluate it
        compat.import_fairseq()
        from fairseq import checkpoint_utils

        with compat.quiet(), checkpoints.safe_types_allowed(), contextlib.suppress(Exception):
            checkpoint_utils.load_model_ensemble_and_task(
                [str(run / "model" / "checkpoint_best.pt")],
                arg_overrides={"data": str(run / "data")},
            )
        assert canary.exists()


HEAD = "classification_heads.sentence_classification_head."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: [s["model"].pop(n) for n in list(s["model"]) if HEAD in n], "no head that"),
        (
            lambda s: s["model"].update({HEAD + "out_proj.weight": torch.ones(3, 32)}),
            "has 3 outputs, not 1",
        ),
        (lambda s: s["model"].pop("encoder.sentence_encoder.layers.1.fc1.bias"), "layers.1.fc1"),
        (lambda s: delattr(s["cfg"]["task"], "separator_token"), "separator_token is missing"),
        (lambda s: vars(s["cfg"]["model"]).update(encoder_attention_heads=7), "7 attention heads"),
        (lambda s: vars(s["cfg"]["model"]).update(activation_fn="relu"), "activation_fn is 'relu'"),
        (lambda s: s.update(cfg=[3]), "its settings are of type list"),
    ],
    ids=["headless", "3 outputs", "tensor", "separator", "heads", "relu", "list"],
)
def test_what_does_not_fit_is_one_line(
    changed: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    change: Callable[[State], object],
    message: str,
) -> None:
    run = changed(change)
    assert set(steps(run, tmp_path).values()) == {DataError.exit_status}
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 3
    assert all(message in line for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    "kept", [("model",), pytest.param(("model", "args"), marks=pytest.mark.slow)]
)
def test_training_starts_from_a_file_with_only_a_model(
    changed: Any, tmp_path: Path, kept: tuple[str, ...]
) -> None:
    def strip(state: State) -> None:
        state["args"] = argparse.Namespace(**settings(state))
        for name in state.keys() - set(kept):
            del state[name]

    assert training(changed(strip), tmp_path) == 0


def test_a_missing_layer_is_named_before_training(
    changed: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def strip(state: State) -> None:
        layer = "encoder.sentence_encoder.layers.1."
        kept = {name: tensor for name, tensor in state["model"].items() if layer not in name}
        state.clear()
        state["model"] = kept

    assert training(changed(strip), tmp_path) == DataError.exit_status
    assert "has no encoder.sentence_encoder.layers.1." in capfd.readouterr().err


def test_a_head_of_another_name_answers_alike(
    changed: Any, answering: Path, tmp_path: Path
) -> None:
    def rename(state: State) -> None:
        state["model"] = {
            name.replace(HEAD, "classification_heads.race."): tensor
            for name, tensor in state["model"].items()
        }

    run = changed(rename)
    assert steps(run, tmp_path)["evaluate"] == 0
    theirs = (answering / "report" / "predictions.jsonl").read_bytes()
    assert (tmp_path / "evaluated" / "predictions.jsonl").read_bytes() == theirs


@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_the_scores_are_those_of_fairseqs_own_loader_bit_by_bit(
    answering: Path, engine: str
) -> None:
    path, data = answering / "model" / "checkpoint_best.pt", answering / "data"
    ours = Model(path, data, "fp32", engine)
    compat.import_fairseq()
    from fairseq import checkpoint_utils

    from components.train.engine.model import PackedRoberta

    with compat.quiet(), checkpoints.safe_types_allowed():
        (theirs,), _, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(path)], arg_overrides={"data": str(data)}
        )
    other = Model(path, data, "fp32", engine)
    other._task = task
    other._model = (
        PackedRoberta(theirs, HEAD.split(".")[1]) if engine == "packed" else theirs
    ).eval()
    names = [str(place) for place in range(1000)]
    assert (ours.logits("test", names, 999) == other.logits("test", names, 999)).all()


@pytest.mark.parametrize("resumes", [False, True])
def test_fairseq_gets_no_settings_of_a_checkpoint(answering: Path, *, resumes: bool) -> None:
    path = answering / "model" / "checkpoint_best.pt"
    state = hooks._checked(str(path), resumes=resumes)
    kept = {"model", "optimizer_history", "extra_state"}
    assert state.keys() == (kept | {"last_optimizer_state"} if resumes else kept)
