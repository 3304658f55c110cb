"""Fixtures that several folders of tests share."""

import argparse
import datetime
import inspect
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture(scope="session", autouse=True)
def a_stack_without_source_lines() -> Iterator[None]:
    """KFP asks for the stack at each setting of a task, only for the name of its caller.

    The source lines that come with it cost seconds a pipeline under pytest-xdist with torch loaded:
    lines that cannot be found are looked for in each module.
    """

    def stack(context: int = 1) -> list[inspect.FrameInfo]:
        frames, frame = [], sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            at = (frame, code.co_filename, frame.f_lineno, code.co_name, None, None)
            frames.append(inspect.FrameInfo(*at))
            frame = frame.f_back
        return frames

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", stack)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real GPT-2 BPE files and real passages, from a folder shared beside the checkout.

    They may not be committed; where they are absent the tests that want them are skipped.
    """
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RACE_SHARED_DATA", beside))
    if not (folder / "race-mini.tar.gz").is_file():
        pytest.skip("no real data: set RACE_SHARED_DATA to a folder with race-mini.tar.gz")
    return folder


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with modules that are called like ours and others that we use; none is to be run.

    Its folder `path` has only those that are called like ours, for PYTHONPATH.
    """
    folder = tmp_path_factory.mktemp("strangers")
    ours = ["components/__init__.py", "components/common/__init__.py", "components/train.py"]
    packages = [f"{name}/__init__.py" for name in ("pipeline", "torch", "numpy", "kfp", "docker")]
    others = [*packages, "json.py", "random.py"]
    for name in (*ours, *others, *(f"path/{name}" for name in ours)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise SystemExit('a module of the user's was run')\n")
    return folder


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one of what `race sample` makes: 140 questions to train on, 21 in dev, 21 in test."""
    from pipeline.sample import make_sample

    folder = tmp_path_factory.mktemp("sample") / "sample"
    make_sample(folder, passages=40)
    return folder


@pytest.fixture(scope="session")
def tiny_bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """encoder.json, vocab.bpe and dict.txt of a byte-level BPE with a few dozen merges."""
    folder = tmp_path_factory.mktemp("tiny_bpe")
    merges = "t h|th e|a n|i n|Ġ th|Ġth e|an d|e r|o u|in g|Ġ a|n d|Ġa nd|r e|s t|l l|Ã ©|â Ģ|âĢ Ļ"
    pairs = [pair.split() for pair in merges.split("|")]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    pieces = [*map(chr, visible), *map(chr, range(256, 512 - len(visible)))]
    pieces += [left + right for left, right in pairs]
    # Neither file is in the order of the other's ids, as in GPT-2's dictionary.
    ids = {piece: (i * 7) % len(pieces) for i, piece in enumerate(pieces)}
    assert len(set(ids.values())) == len(pieces)
    (folder / "encoder.json").write_text(json.dumps(ids))
    vocab = "".join(f"{left} {right}\n" for left, right in pairs)
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + vocab, encoding="utf-8")
    order = sorted(ids.values(), key=lambda i: (i * 11) % len(pieces))
    dictionary = "".join(f"{i} {1000 - n}\n" for n, i in enumerate(order))
    (folder / "dict.txt").write_text(dictionary + "madeupword0000 0\n")
    return folder


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return tmp_path / "cert.pem", tmp_path / "key.pem"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server of our own, for as long as the tests run."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, with the AWS variables set so that boto3 finds it and nothing else."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=name)
    return name


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Hugging Face hub of our own, which huggingface_hub finds here and in processes started."""
    from huggingface_hub import constants

    from tests.hub import serving

    cache = tmp_path / "hf"
    with serving() as found:
        for name, value in (
            ("HF_ENDPOINT", found.url),
            ("HF_HOME", str(cache)),
            ("HF_HUB_DISABLE_XET", "1"),
            ("HF_HUB_OFFLINE", "0"),
            ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # Read once, when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield found


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system; only root may."""
    mounted: list[Path] = []

    def call(options: str) -> Path:
        place = tmp_path / f"mount{len(mounted)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True
        )
        if done.returncode:
            pytest.skip("a small file system can be mounted by root only")
        mounted.append(place)
        return place

    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("a small file system can be mounted by root only")
    yield call
    for place in mounted:
        # Lazily: an error that a test keeps may have a file open there.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(params=["s3", "folder"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for artifacts, in each kind of store."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"s3://{request.getfixturevalue('bucket')}/a folder/ünïcode"


@dataclass(frozen=True)
class TinyRace:
    """A binarized data set of random tokens, and a pretrained model for it of 2 layers of width 32.

    The model is in the format of the published RoBERTa, which predates fairseq 0.12 and torch 1.6.
    """

    data: Path
    pretrained: Path
    # What TrainConfig wants to know of the model, and the rest that a fast run on the CPU needs.
    parameters: dict[str, Any]


@pytest.fixture(scope="session")
def tiny_race(tmp_path_factory: pytest.TempPathFactory) -> TinyRace:
    folder = tmp_path_factory.mktemp("tiny-race")
    _write_tiny_data(folder / "data", {"train": 96, "valid": 24, "test": 20, "test1": 28})
    _write_published_format(folder / "model.pt", folder / "data" / "input0" / "dict.txt")
    parameters = {
        "arch": "roberta_base",
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 4,
        "max_positions": 64,
        "max_option_length": 16,
        "precision": "fp32",
        "engine": "stock",
        "processes": 1,
        "learning_rate": 1e-3,
        "epochs": 2,
        "log_interval": 1,
    }
    return TinyRace(folder / "data", folder / "model.pt", parameters)


def _write_tiny_data(data: Path, questions: dict[str, int]) -> None:
    from components.train import compat

    compat.import_fairseq()
    import torch
    from fairseq.data import Dictionary, indexed_dataset

    rng = random.Random(1)
    dictionary = Dictionary()
    for word in range(60):
        dictionary.add_symbol(f"word{word}", n=100 - word)
    words = range(dictionary.nspecial, len(dictionary))
    for folder in ("label", "id", *(f"input{column}" for column in range(5))):
        (data / folder).mkdir(parents=True)
    for column in range(5):
        dictionary.save(str(data / f"input{column}" / "dict.txt"))
    for split, count in questions.items():
        right = [rng.randrange(4) for _ in range(count)]
        (data / "label" / f"{split}.label").write_text("".join(f"{r}\n" for r in right))
        (data / "id" / f"{split}.id").write_text("".join(f"{split}/{n}#0\n" for n in range(count)))
        for column in range(5):
            length = range(6, 16) if column == 0 else range(1, 4)
            prefix = data / f"input{column}" / split
            builder = indexed_dataset.make_builder(
                f"{prefix}.bin", impl="mmap", vocab_size=len(dictionary)
            )
            for _ in range(count):
                tokens = rng.choices(words, k=rng.choice(length))
                builder.add_item(torch.IntTensor([*tokens, dictionary.eos()]))
            builder.finalize(f"{prefix}.idx")


def _write_published_format(path: Path, dictionary_file: Path) -> None:
    from components.train import compat

    compat.import_fairseq()
    import torch
    from fairseq.data import Dictionary
    from fairseq.logging.meters import AverageMeter
    from fairseq.models.roberta import RobertaModel
    from fairseq.models.roberta.model import roberta_base_architecture

    dictionary = Dictionary.load(str(dictionary_file))
    dictionary.add_symbol("<mask>")
    args = argparse.Namespace(
        arch="roberta_base",
        task="masked_lm",
        criterion="masked_lm",
        encoder_layers=2,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=64,
        encoder_attention_heads=4,
        max_positions=64,
    )
    roberta_base_architecture(args)
    torch.manual_seed(1)
    task = argparse.Namespace(source_dictionary=dictionary)
    model = RobertaModel.build_model(args, task).state_dict()
    old = {}
    for name, tensor in model.items():
        attention = re.fullmatch(r"(.*\.self_attn\.)([qkv])_proj\.(weight|bias)", name)
        if attention and attention[2] == "q":
            stem, _, kind = attention.groups()
            old[f"{stem}in_proj_{kind}"] = torch.cat(
                [model[f"{stem}{which}_proj.{kind}"] for which in "qkv"]
            )
        elif not attention and not re.search(r"\d\.(in_proj|out_proj|fc1|fc2)_", name):
            name = name.replace("encoder.", "decoder.", 1)
            old[name.replace("layernorm_embedding", "emb_layer_norm")] = tensor
    AverageMeter.__module__, module = "fairseq.meters", AverageMeter.__module__
    try:
        torch.save(
            {
                "args": args,
                "model": old,
                "optimizer_history": [
                    {
                        "criterion_name": "MaskedLmLoss",
                        "optimizer_name": "MemoryEfficientFP16Optimizer",
                        "lr_scheduler_state": {"best": None},
                        "num_updates": 500000,
                    }
                ],
                "extra_state": {
                    "train_iterator": {"epoch": 7, "iterations_in_epoch": 0},
                    "val_loss": 1.4,
                    "train_meters": {"train_loss": AverageMeter()},
                },
                "last_optimizer_state": None,
            },
            path,
            _use_new_zipfile_serialization=False,
        )
    finally:
        AverageMeter.__module__ = module
