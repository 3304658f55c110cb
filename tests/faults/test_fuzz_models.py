"""Models, and questions for them, changed at random; see test_fuzz."""

import argparse
import contextlib
import importlib
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from fuzzing import (
    BYTES,
    DEEP,
    ENCODER,
    INPUTS,
    MARK,
    PASSAGE,
    PROGRESS,
    RECORD,
    VALUES,
    change,
    damage,
    encoded,
    fuzz,
)

from components.common import strict_json
from components.evaluate.model import Model
from components.evaluate.trained import find_trained
from components.export.core import ExportConfig, export
from components.import_.core import ImportConfig, import_model
from components.predict import core as predict
from components.train import checkpoints, roberta
from components.train.core import TrainConfig
from components.train.rank import hooks
from components.train.supervisor import resume
from components.train.supervisor.log import TrainLog

pytestmark = INPUTS

# Checkpoints


SHAPE = roberta.Shape(1, 8, 16, attention_heads=2, positions=12, vocabulary=len(ENCODER) + 5)
MODEL = {"encoder_layers": 1, "encoder_attention_heads": 2, "dropout": 0.1, "arch": "roberta"}
TASK = {
    "num_classes": 4,
    "init_token": 0,
    "separator_token": 2,
    "max_option_length": 6,
    "max_positions": 12,
    "shorten_method": "truncate",
    "seed": 1,
    "data": "data",
    "user_dir": None,
}


def checkpoint(old: bool) -> dict[str, Any]:
    """What a checkpoint of today holds, or one of 2019."""
    sizes = dict(roberta.encoder_sizes(SHAPE)) | dict(roberta.head_sizes(SHAPE))
    state = {
        "model": {name: torch.randn(size) for name, size in sizes.items()},
        "optimizer_history": [{"num_updates": 12, "lr_scheduler_state": {"best": None}}],
        "extra_state": {
            "train_iterator": {"epoch": 3, "iterations_in_epoch": 0},
            "metrics": {"train_inner": [(1, "loss", "AverageMeter", {"val": 1})]},
        },
        "last_optimizer_state": {"state": {0: {"step": 3}}},
    }
    if old:
        return state | {"args": argparse.Namespace(**MODEL, **TASK)}
    return state | {"cfg": {"model": dict(MODEL), "task": argparse.Namespace(**TASK)}}


CYCLE: list[Any] = []
CYCLE.append({"self": CYCLE})
OBJECTS: list[Any] = [
    *(value for value in VALUES if value is not DEEP),  # too deep for torch to write; see PICKLES
    *(CYCLE, 10**5000, math.nan, math.inf, b"x" * 99, (1, 2), {1, 2}, 1 + 2j),
    *(argparse.Namespace(a=1), torch.Size([3]), torch.float16, torch.device("cpu")),
    *(torch.zeros(()), torch.zeros(0), torch.zeros(0, 8), torch.full((8,), math.nan)),
    *(torch.ones(8).int(), torch.ones(8, dtype=torch.complex64), torch.ones(8).half()),
    *(torch.ones(1).expand(1 << 40), torch.ones(8).to_sparse(), torch.ones(8, device="meta")),
    *(torch.ones(8, 8), torch.ones(1, 8), torch.ones(16, 8), torch.full((8,), 1e38)),
    torch.nn.Parameter(torch.ones(8)),
]


class Stranger:
    """Runs code where an unpickler lets it."""

    def __reduce__(self) -> object:
        return os.system, (f"touch {MARK}",)


def torch_saved(state: object, *, zip_format: bool) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=zip_format)
    return file.getvalue()


STATES = [checkpoint(old) for old in (False, True)]
FILES = [torch_saved(state, zip_format=kind) for state in STATES for kind in (True, False)]


def copied(value: Any) -> Any:
    """With containers of its own, and the same tensors."""
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**copied(vars(value)))
    if isinstance(value, dict):
        return {key: copied(below) for key, below in value.items()}
    return [copied(below) for below in value] if isinstance(value, list) else value


def repacked(whole: bytes, chance: Random) -> bytes:
    """torch's zip with damage that its checksums do not show."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl") or chance.random() < 0.01:
                data = damage(data, chance, PICKLES)
            new.writestr(name, data)
    return made.getvalue()


# Of pickle's machine: calls, globals, tuples, persistent ids, large sizes and numbers.
CODES = b"R \x85 \x86 Q \x8a\xff X\xff\xff\xff\x7f K\xff h\x00 q\x01 . ( t } ] s u b N"
GLOBALS = [b"os\nsystem", b"builtins\neval", b"torch\nload", b"torch._utils\n_rebuild_tensor_v2"]
PICKLES = [
    *CODES.split(b" "),
    *(b"c" + name + b"\n" for name in GLOBALS),
    b"]" * 3000 + b"a" * 2999,
]


@pytest.fixture
def trained(sandbox: Path) -> dict[str, Callable[[Path], object]]:
    """What reads a checkpoint, by the step that does."""
    (sandbox / "data" / "input0").mkdir(parents=True)
    (sandbox / "bpe").mkdir()
    (sandbox / "bpe" / "encoder.json").write_text(json.dumps(ENCODER))
    (sandbox / "bpe" / "vocab.bpe").write_text("#version: 0.2\na b\n", encoding="utf-8")
    dictionary = "".join(f"{number} 1\n" for number in ENCODER.values())
    for path in ("bpe/dict.txt", "data/input0/dict.txt"):
        (sandbox / path).write_text(dictionary)
    (sandbox / "output").mkdir()
    sizes = {
        "encoder_layers": 1,
        "encoder_embed_dim": 8,
        "encoder_ffn_embed_dim": 16,
        "encoder_attention_heads": 2,
        "max_positions": 12,
    }

    def config(path: Path) -> TrainConfig:
        return TrainConfig(sandbox / "data", path, sandbox / "output", arch="roberta_base", **sizes)

    def evaluate(path: Path) -> None:
        model = Model(path, sandbox / "data", "fp32")
        question = [torch.tensor([0, 4, 2])] * model.options
        model.answer([question], ["a question"], batch_tokens=1)

    def resumed(path: Path) -> None:
        (fetched := sandbox / "output" / resume.KEPT).mkdir()
        shutil.copyfile(path, fetched / "checkpoint.pt")
        (fetched / "progress.json").write_text(json.dumps(PROGRESS))
        (fetched / "train_log.jsonl").write_text(json.dumps(RECORD))
        try:
            resume.require_usable(config(path), fetched, "s3://bucket/run")
            resume.place(sandbox / "output", "s3://bucket/run", TrainLog())
        finally:
            shutil.rmtree(fetched, ignore_errors=True)

    return {
        "evaluate": evaluate,
        "export": lambda path: export(
            ExportConfig(path, sandbox / "output" / "e", sandbox / "bpe")
        ),
        "pretrained": lambda path: hooks.require_fitting(
            path, config(path).shape(SHAPE.vocabulary)
        ),
        "start": lambda path: hooks._checked(str(path), resumes=False),
        "restart": lambda path: hooks._checked(str(path), resumes=True),
        "resume": resumed,
    }


def test_checkpoints(
    sandbox: Path, inputs: int, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sandbox / "checkpoint.pt"
    unpickled = checkpoints.unpickled

    def make(chance: Random) -> tuple[str, Any]:
        """A step, and a damaged file or, which is faster, what would be in one."""
        step, kind = chance.choice(list(trained)), chance.randrange(8)
        if kind == 0:
            return step, repacked(FILES[chance.choice((0, 2))], chance)
        if kind == 1:
            return step, damage(chance.choice(FILES), chance, PICKLES)
        objects = [Stranger()] if chance.random() < 0.02 else OBJECTS
        state = change(copied(chance.choice(STATES)), chance, objects)
        if kind in (2, 3):
            return step, torch_saved(state, zip_format=kind == 2)
        return step, state

    def read(given: tuple[str, Any]) -> None:
        step, state = given
        path.unlink(missing_ok=True)  # the last one may be mapped
        path.write_bytes(state if isinstance(state, bytes) else FILES[0])
        monkeypatch.setattr(
            checkpoints,
            "unpickled",
            unpickled if isinstance(state, bytes) else lambda _: state,
        )
        try:
            trained[step](path)
        finally:
            shutil.rmtree(sandbox / "output")
            (sandbox / "output").mkdir()

    for step in trained:
        for file in FILES:
            read((step, file))  # what is imported at its first use is no alarm
    # Where a pickle calls a tensor, torch compares that with all that may be called, and prints it
    # in its error. Both take modules of its own that it imports only then.
    importlib.import_module("torch.nested._internal.ops")
    repr(torch.ones(1))
    tally = fuzz(make, read, sandbox, inputs)
    assert min(tally.read, tally.refused) > inputs // 10


# Questions


QUESTION = {
    "article": "Ann has a cat. It is «old».",
    "question": "Ann has a _ .",
    "options": ["dog", "cat", "cow", "hen"],
    "answer": "cat",
    "id": "q1",
}


def test_questions(
    sandbox: Path, inputs: int, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sandbox / "questions.jsonl"
    (sandbox / "model.pt").write_bytes(FILES[0])
    config = predict.PredictConfig(sandbox / "model.pt", sandbox / "bpe", path)
    reader = predict.Reader(find_trained(config.model, config.bpe))
    monkeypatch.setattr(predict, "Reader", lambda *_: reader)

    def make(chance: Random) -> bytes:
        kinds = chance.choices((QUESTION, PASSAGE), k=chance.randrange(1, 4))
        whole = [json.dumps(kind, indent=chance.choice((None, None, 1))).encode() for kind in kinds]
        whole[0] = encoded(kinds[0], chance)
        return chance.choice((b"\n", b"\n", b"\r\n", b"")).join(whole)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()) as answers:
            predict.predict(config)
        found = [strict_json.loads(line) for line in answers.getvalue().split("\n")[:-1]]
        assert all(0.99 < sum(one["probabilities"]) < 1.01 for one in found)

    tally = fuzz(make, read, sandbox, inputs)
    assert min(tally.read, tally.refused) > inputs // 20


# Models from Hugging Face


def test_a_model_from_hugging_face(sandbox: Path, inputs: int, trained: Any) -> None:
    (sandbox / "checkpoint.pt").write_bytes(FILES[0])
    source, output = sandbox / "source", sandbox / "output" / "model"
    export(ExportConfig(sandbox / "checkpoint.pt", source, sandbox / "bpe"))
    names = ("config.json", "vocab.json", "merges.txt", "tokenizer.json", "model.safetensors")
    whole = {name: (source / name).read_bytes() for name in names}

    def make(chance: Random) -> tuple[str, bytes]:
        name = chance.choice(names)
        data = whole[name]
        if name.endswith(".json") and chance.random() < 0.7:
            return name, encoded(json.loads(data), chance)
        if name == "model.safetensors":
            size = int.from_bytes(data[:8], "little")
            head = encoded(json.loads(data[8 : 8 + size]), chance)
            size = len(head) if chance.random() < 0.9 else chance.choice((0, 2**40, 2**64 - 1))
            return name, size.to_bytes(8, "little") + head + data[8 + size :]
        return name, damage(data, chance, [*BYTES, b"a b\n", b" ", b"\xc4\xa0 a\n"])

    def read(given: tuple[str, bytes]) -> None:
        name, data = given
        (source / name).write_bytes(data)
        if name == "tokenizer.json":
            (source / "vocab.json").unlink()
        try:
            import_model(ImportConfig(source, output))
        finally:
            (source / name).write_bytes(whole[name])
            (source / "vocab.json").write_bytes(whole["vocab.json"])
            shutil.rmtree(output, ignore_errors=True)

    tally = fuzz(make, read, sandbox, inputs)
    assert min(tally.read, tally.refused) > inputs // 20
