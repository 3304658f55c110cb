"""All steps by hand in hardened containers: on a mounted folder, and on s3:// addresses."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.cli import main
from pipeline.images import Images
from pipeline.parameters import load_config
from pipeline.steps import STEPS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("by-hand") / "sample"
    assert main(["sample", "--output", str(folder), "--passages", "64"]) == 0
    return folder


@pytest.fixture
def user(tmp_path: Path) -> str:
    """Who may write to `tmp_path` from inside a container: the images' own user where possible."""
    if os.getuid() == 0:
        os.chown(tmp_path, 10001, 0)
        return "10001"
    return str(os.getuid())


def training_flags() -> list[str]:
    """The smoke config's, for a few updates only."""
    values, train = load_config("smoke").values, STEPS["train"]
    names = {o.name: train.own(o) for o in train.configurable} | dict(train.given)
    found = [(o, values[names[o.name]]) for o in train.parameters if names[o.name] in values]
    return [flag for o, value in found for flag in o.spelled(value)] + ["--max-updates=4"]


def steps(source: str, place: str) -> dict[str, list[str]]:
    """Name to command line of each step; inputs below `source`, outputs below `place`."""
    bpe = [f"--url={source}/bpe/{name}" for name in ("encoder.json", "vocab.bpe", "dict.txt")]
    return {
        "download race": [f"--url={source}/RACE.tar.gz", "--pack", f"--output={place}race"],
        "download bpe": [*bpe, f"--output={place}bpe"],
        "download roberta": [
            f"--url={source}/roberta.tiny.tar.gz",
            "--unpack",
            f"--output={place}roberta",
        ],
        "preprocess": [f"--race={place}race", f"--output={place}text"],
        "binarize": [f"--text={place}text", f"--bpe={place}bpe", f"--output={place}data"],
        "train": [
            f"--data={place}data",
            f"--pretrained={place}roberta",
            f"--output={place}model",
            *training_flags(),
        ],
        "evaluate": [f"--data={place}data", f"--model={place}model", f"--output={place}report"],
        "export": [f"--model={place}model", f"--bpe={place}bpe", f"--output={place}exported"],
        "import_": [f"--source={place}exported", f"--output={place}imported"],
    }


def image_of(built: Images, step: str) -> str:
    return built.data if step in ("download", "preprocess", "binarize") else built.train


def test_with_a_mounted_folder(
    sample: Path, user: str, tmp_path: Path, built: Images, run_in: Callable[..., Any]
) -> None:
    for path in sorted(sample.rglob("*")):
        target = tmp_path / "sample" / path.relative_to(sample)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    for name, arguments in steps("sample", "").items():
        step = name.partition(" ")[0]
        ended = run_in(
            image_of(built, step),
            *("python", "-m", f"components.{step}", *arguments),
            data=tmp_path,
            user=user,
        )
        assert ended.status == 0, f"{name}: {ended.stderr}"
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["questions"] > 0
    assert (tmp_path / "model" / "checkpoint_best.pt").stat().st_uid == int(user)
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    assert (tmp_path / "imported" / "model.pt").is_file()
    assert not list(tmp_path.glob(".*"))


def test_with_object_storage_and_a_canary(
    sample: Path,
    tmp_path: Path,
    bucket: str,
    built: Images,
    run_in: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The secret that the steps are given shows up in nothing that they leave behind."""
    import boto3

    from components.common import storage

    s3 = boto3.client("s3", region_name="us-east-1")
    for path in sample.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), bucket, f"sample/{path.relative_to(sample)}")
    canary = f"canary-{secrets.token_hex(12)}"
    environment = {
        "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": canary,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    assert urlsplit(environment["AWS_ENDPOINT_URL"]).hostname == "127.0.0.1"
    for name, arguments in steps(f"s3://{bucket}/sample", f"s3://{bucket}/run/").items():
        step = name.partition(" ")[0]
        ended = run_in(
            image_of(built, step),
            *("python", "-m", f"components.{step}", *arguments),
            environment=environment,
            network_mode="host",  # the server listens on this machine's loopback
        )
        assert ended.status == 0, f"{name}: {ended.stderr}"
        assert canary not in ended.stdout + ended.stderr
        known = dict(ended.inspected)
        known["Config"] = {k: v for k, v in known["Config"].items() if k != "Env"}
        assert canary not in json.dumps(known)  # the command line among it
    storage.fetch(f"s3://{bucket}/run/report", tmp_path / "report")
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["questions"] > 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page["Contents"]:
            assert canary not in entry["Key"]
            body = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"]
            assert canary.encode() not in body.read(), entry["Key"]


def test_a_secret_that_is_refused_is_not_shown(
    sample: Path, bucket: str, built: Images, run_in: Callable[..., Any]
) -> None:
    canary = f"canary-{secrets.token_hex(12)}"
    ended = run_in(
        built.data,
        *("python", "-m", "components.preprocess", "--output=/tmp/text"),
        f"--race=s3://{bucket}/nothing-here",
        environment={
            "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": canary,
        },
        network_mode="host",
    )
    assert ended.status == 3
    assert ended.stderr.startswith("error: ")
    assert canary not in ended.stderr
