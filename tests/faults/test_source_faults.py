"""Sources on S3 without a sha256: what does not agree with what the store says is not believed."""

import base64
import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.common.errors import DataError, RaceError, TransferError
from components.common.storage.stream import checksum_of
from components.common.transfer import Checksum
from components.download.core import DownloadConfig, Downloaded, download

BODY = bytes(range(256)) * 5000
ALWAYS = 1000


@pytest.fixture
def through(proxy: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The proxy with the object `file` behind it, stored without a checksum; nobody waits."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    boto3.client("s3", region_name="us-east-1").put_object(Bucket=bucket, Key="file", Body=BODY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    monkeypatch.setattr("components.common.retry.time.sleep", lambda _: None)
    return proxy


@pytest.fixture
def get(bucket: str, tmp_path: Path) -> Callable[..., Downloaded]:
    def get(sha256: str = "", name: str = "file") -> Downloaded:
        url = f"s3://{bucket}/{name}" + (f"#sha256={sha256}" if sha256 else "")
        try:
            (result,) = download(DownloadConfig((url,), tmp_path / "place" / "out"))
        except RaceError:
            assert os.listdir(tmp_path / "place") == []
            raise
        assert result.path.read_bytes() == BODY
        return result

    return get


def says(**headers: str) -> Callable[[Any], None]:
    """An answer with other headers."""

    def fault(exchange: Any) -> None:
        answer = exchange.forward()
        answer.headers.update({k.replace("_", "-"): v for k, v in headers.items()})
        exchange.reply(answer)

    return fault


FAULTS: dict[str, tuple[str, Callable[[Any], None], type[RaceError], str]] = {
    "flipped byte": ("GET", lambda e: e.flip(500_000), DataError, "damaged where it lies: its md5"),
    "xml": ("GET", lambda e: e.fail_late(), TransferError, "what it answered is not the object"),
    "html": ("GET", lambda e: e.garble(), TransferError, "what it answered is not the object"),
    "empty": ("GET", lambda e: e.shorten(0), TransferError, "0 of the object's 1,280,000 bytes"),
    "short": ("GET", lambda e: e.shorten(9), TransferError, "9 of the object's 1,280,000 bytes"),
    "all empty": (".*", lambda e: e.shorten(0), TransferError, "of the object's"),
    "cut": ("GET", lambda e: e.cut(9), TransferError, "cut"),
    "cut chunks": ("GET", lambda e: e.chunk(9), TransferError, "cut"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_lasting_fault_is_one_error_and_leaves_nothing(
    through: Any, get: Any, fault: str
) -> None:
    method, break_it, kind, says = FAULTS[fault]
    through.break_(method, "/file", break_it, ALWAYS)
    with pytest.raises(kind, match=says) as failure:
        get()
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_overcome(through: Any, get: Any, fault: str) -> None:
    method, break_it, *_ = FAULTS[fault]
    through.break_(method, "/file", break_it, 1)
    assert get().checked == "md5"


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"0123456789abcdef0123456789abcdef-2"'},
        {"ETag": '"an-etag-of-its-own"'},
        *(
            {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": encryption}
            for encryption in ("aws:kms", "aws:kms:dsse", "new")
        ),
        {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption-customer-algorithm": "AES256"},
    ],
)
def test_an_etag_that_is_no_md5_is_not_compared_and_that_is_said(
    through: Any, get: Any, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    through.break_("GET|HEAD", "/file", says(**headers), ALWAYS)
    caplog.set_level("INFO")
    assert get().checked == ""
    assert caplog.messages[-1].endswith("(not pinned, unchecked)")


def test_an_object_in_parts_arrives(through: Any, get: Any, bucket: str) -> None:
    client = boto3.client("s3", region_name="us-east-1")
    where = {"Bucket": bucket, "Key": "parts"}
    upload = {**where, "UploadId": client.create_multipart_upload(**where)["UploadId"]}
    etag = client.upload_part(**upload, PartNumber=1, Body=BODY)["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    client.complete_multipart_upload(**upload, MultipartUpload=parts)
    assert get(name="parts").checked == ""


@pytest.mark.parametrize("name", ["sha256", "sha1", "crc32"])
def test_a_stored_checksum_is_compared_where_the_etag_is_no_md5(
    through: Any, get: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    digest = zlib.crc32(BODY).to_bytes(4, "big") if name == "crc32" else None
    digest = digest or hashlib.new(name, BODY).digest()
    header = {f"x-amz-checksum-{name}": base64.b64encode(digest).decode()}
    through.break_("GET|HEAD", "/file", says(ETag='"0-2"', **header), ALWAYS)
    caplog.set_level("INFO")
    assert get().checked == name
    assert caplog.messages[-1].endswith(f"(not pinned, its {name} agrees)")


def test_a_checksum_is_of_all_that_arrived_after_a_cut(through: Any, get: Any) -> None:
    through.break_("GET", "/file", lambda e: e.cut(700_000), 1)
    through.break_("GET", "/file", lambda e: e.flip(100_000), 1)  # of what is still to come
    assert get().checked == "md5"
    assert sum(request.startswith("GET") for request in through.requests) == 3


def test_a_sha256_that_agrees_is_enough(through: Any, get: Any) -> None:
    through.break_("GET|HEAD", "/file", says(ETag=f'"{"0" * 32}"'), ALWAYS)
    with pytest.raises(DataError, match="damaged where it lies: its md5"):
        get()
    assert get(hashlib.sha256(BODY).hexdigest()).pinned


@pytest.mark.parametrize(
    ("answer", "checksum"),
    [
        ({"ETag": f'"{"a" * 32}"'}, Checksum("md5", "a" * 32)),
        ({"ETag": "a" * 32, "ServerSideEncryption": "AES256"}, Checksum("md5", "a" * 32)),
        ({"ETag": f'"{"A" * 32}"'}, None),
        ({"ETag": f'"{"a" * 32}"', "ChecksumCRC32": "AAAAAA=="}, Checksum("crc32", "0" * 8)),
        ({"ETag": '"a-3"', "ChecksumCRC32": "AAAAAA==-3"}, None),
        ({"ETag": '"a-3"', "ChecksumCRC32": "AAAAAA==", "ChecksumType": "COMPOSITE"}, None),
        (
            {"ETag": '"a-3"', "ChecksumCRC64NVME": "AAAAAAAAAAA=", "ChecksumCRC32C": "AAAAAA=="},
            None,
        ),
        ({"ETag": '"a-3"', "ChecksumSHA256": "AAAAAA=="}, None),
        ({"ETag": '"a-3"', "ChecksumSHA256": "no base64"}, None),
        ({}, None),
    ],
)
def test_which_checksum_counts(answer: dict[str, Any], checksum: Checksum | None) -> None:
    assert checksum_of(answer, "bucket") == checksum


def test_etags_of_directory_buckets_are_no_md5() -> None:
    assert checksum_of({"ETag": f'"{"a" * 32}"'}, "race--use1-az4--x-s3") is None
