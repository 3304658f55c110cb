"""What fetch promises for s3://, against moto's server."""

import random
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import TransferError
from components.common.retry import Patience
from components.download.fetch import fetch

BODY = random.Random(1).randbytes(3 << 20)


@pytest.fixture
def client(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="folder/file", Body=BODY)
    yield client
    client.close()


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Cuts the first answers after so many bytes; notes the ranges that were asked for."""
    from botocore.exceptions import ResponseStreamingError
    from botocore.response import StreamingBody

    read = StreamingBody.read
    left: list[int] = []

    def cutting(self: Any, amt: int | None = None) -> bytes:
        if left and self._amount_read >= left[0]:
            left.pop(0)
            raise ResponseStreamingError(error="cut")
        return read(self, amt)

    monkeypatch.setattr(StreamingBody, "read", cutting)
    return left


def test_an_object_arrives(client: Any, tmp_path: Path, patience: Patience) -> None:
    assert fetch("s3://bucket/folder/file", tmp_path / "file", patience).bytes == len(BODY)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_cut_object_goes_on_where_it_was_cut(
    client: Any, tmp_path: Path, patience: Patience, cut: Any, no_waiting: list[float]
) -> None:
    cut += [1 << 20, 1 << 20]
    fetch("s3://bucket/folder/file", tmp_path / "file", patience)
    assert (tmp_path / "file").read_bytes() == BODY
    assert len(no_waiting) == 2
    assert cut == []


def test_an_object_that_changed_meanwhile_is_fetched_anew(
    client: Any,
    tmp_path: Path,
    patience: Patience,
    cut: Any,
    no_waiting: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def change(seconds: float) -> None:
        client.put_object(Bucket="bucket", Key="folder/file", Body=BODY[::-1])

    monkeypatch.setattr("components.common.retry.time.sleep", change)
    cut.append(1 << 20)
    fetch("s3://bucket/folder/file", tmp_path / "file", patience)
    assert (tmp_path / "file").read_bytes() == BODY[::-1]


@pytest.mark.parametrize("uri", ["s3://bucket/absent", "s3://nobucket/file"])
def test_what_is_not_there_fails_at_once(
    client: Any, tmp_path: Path, patience: Patience, no_waiting: list[float], uri: str
) -> None:
    with pytest.raises(TransferError, match=rf"{uri}: .*404.*\(1 attempt\)"):
        fetch(uri, tmp_path / "file", patience)
    assert no_waiting == []


def test_missing_credentials_fail_at_once(
    client: Any, tmp_path: Path, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(TransferError, match=r"no AWS credentials.*\(1 attempt\)"):
        fetch("s3://bucket/folder/file", tmp_path / "file", patience)


def test_a_service_that_is_away_is_tried_again_and_no_secret_is_shown(
    client: Any,
    tmp_path: Path,
    patience: Patience,
    no_waiting: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(TransferError, match=r"\(3 attempts\)") as failure:
        fetch("s3://bucket/folder/file", tmp_path / "file", patience)
    assert "hunter2" not in str(failure.value)
    assert len(no_waiting) == 2
