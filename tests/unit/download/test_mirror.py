"""What the mirror promises: each public file is fetched once, and never the wrong one."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from components.common import storage
from components.common.errors import DataError, TransferError
from components.download.core import DownloadConfig, Downloaded, download
from components.download.fetch import Fetched
from components.download.mirror import Mirror

BODY = bytes(range(256)) * 100
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(params=["s3", "folder"])
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "mirror")
    return f"s3://{request.getfixturevalue('bucket')}/mirror"


def get(url: str, output: Path, mirror: str, sha256: str = "") -> Downloaded:
    address = f"{url}#sha256={sha256}" if sha256 else url
    config = DownloadConfig((address,), output, mirror_uri=mirror, attempts=1)
    (result,) = download(config)
    assert result.path.read_bytes() == BODY
    return result


@pytest.mark.parametrize("known", [DIGEST, ""], ids=["known", "unknown"])
def test_a_file_is_fetched_from_its_source_once(
    server: Any, tmp_path: Path, mirror: str, known: str
) -> None:
    url = server.put("file.bin", BODY)
    first = get(url, tmp_path / "1", mirror, known)
    second = get(url, tmp_path / "2", mirror, known)
    assert len(server.requests) == 1
    assert (first.sha256, first.bytes, first.pinned) == (second.sha256, second.bytes, bool(known))


def test_another_digest_is_not_taken_from_the_mirror(
    server: Any, tmp_path: Path, mirror: str
) -> None:
    url = server.put("file.bin", b"an older version")
    download(DownloadConfig((url,), tmp_path / "1", mirror_uri=mirror))
    server.put("file.bin", BODY)
    assert get(url, tmp_path / "2", mirror, DIGEST).sha256 == DIGEST


def test_a_mirror_that_was_tampered_with_is_not_used(server: Any, tmp_path: Path) -> None:
    url = server.put("file.bin", BODY)
    mirror = tmp_path / "mirror"
    (tmp_path / "other.bin").write_bytes(b"something else")
    storage.publish(tmp_path / "other.bin", str(mirror / "files" / DIGEST))
    assert get(url, tmp_path / "1", str(mirror), DIGEST).sha256 == DIGEST
    assert len(server.requests) == 1


def test_a_damaged_file_is_fetched_from_its_source_and_replaced(
    server: Any, tmp_path: Path
) -> None:
    url = server.put("file.bin", BODY)
    mirror = tmp_path / "mirror"
    get(url, tmp_path / "1", str(mirror))
    (stored,) = (mirror / "files" / DIGEST).glob("*/file.bin")
    stored.chmod(0o644)
    stored.write_bytes(BODY[:-1] + b"?")
    get(url, tmp_path / "2", str(mirror))
    assert len(server.requests) == 2
    get(url, tmp_path / "3", str(mirror))
    assert len(server.requests) == 2


def test_a_mirror_that_cannot_be_used_does_not_stop_the_download(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mirror").write_text("a file where a folder should be")
    get(server.put("file.bin", BODY), tmp_path / "1", str(tmp_path / "mirror"))
    assert "mirror" in caplog.text


def test_a_source_that_is_gone_is_served_from_the_mirror(
    server: Any, tmp_path: Path, mirror: str
) -> None:
    url = server.put("file.bin", BODY)
    get(url, tmp_path / "1", mirror, DIGEST)
    server.files.clear()
    get(url, tmp_path / "2", mirror, DIGEST)
    with pytest.raises(TransferError, match="404"):
        get(url, tmp_path / "3", "", DIGEST)


def test_files_that_are_near_are_not_mirrored(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(BODY)
    get(str(tmp_path / "file.bin"), tmp_path / "1", str(tmp_path / "mirror"))
    assert not (tmp_path / "mirror").exists()


def test_what_its_source_replaced_is_not_taken_from_the_mirror(
    server: Any, tmp_path: Path, mirror: str
) -> None:
    server.knows_head = True
    url = server.put("file.bin", b"an older version")
    download(DownloadConfig((url,), tmp_path / "1", mirror_uri=mirror))
    server.put("file.bin", BODY, etag='"2"')
    get(url, tmp_path / "2", mirror)
    get(url, tmp_path / "3", mirror)
    assert len(server.requests) == 2
    server.knows_head = False  # it cannot be asked: the mirror is as good as its note
    get(url, tmp_path / "4", mirror)
    assert len(server.requests) == 2


def test_a_page_in_the_mirror_is_not_taken(server: Any, tmp_path: Path) -> None:
    url, page = server.put("dict.txt", b"a 1\n"), tmp_path / "dict.txt"
    page.write_bytes(b"<html></html>")
    digest = hashlib.sha256(page.read_bytes()).hexdigest()
    Mirror(str(tmp_path / "mirror")).keep(url, page, Fetched(13, digest))
    config = DownloadConfig((url,), tmp_path / "out", mirror_uri=str(tmp_path / "mirror"))
    assert download(config)[0].path.read_bytes() == b"a 1\n"


def test_an_archive_that_does_not_unpack_is_not_kept(server: Any, tmp_path: Path) -> None:
    url = server.put("RACE.tar.gz", b"\x1f\x8bdamaged")
    config = DownloadConfig(
        (url,), tmp_path / "out", mirror_uri=str(tmp_path / "mirror"), unpack=True
    )
    with pytest.raises(DataError):
        download(config)
    assert not (tmp_path / "mirror").exists()
