"""A server's page or message, told with a 200, is not taken for a file of a known format."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import DataError
from components.download import formats
from components.download.core import DownloadConfig, download

XML = b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>\n"
HTML = b"<html>\n<title>Sign in</title>\n</html>\n"
MESSAGE = json.dumps({"error": "denied"}).encode()
PRETTY = json.dumps({"error": "denied"}, indent=1).encode()
TEXT = b"not found"
BODIES = (XML, HTML, MESSAGE, PRETTY, TEXT, b"", b"\xff\xfe")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe", "dict.txt", "RACE.tar.gz"])
def test_what_is_not_of_its_format_is_refused(
    server: Any, tmp_path: Path, name: str, body: bytes
) -> None:
    for unpack in {name == "RACE.tar.gz", False}:
        with pytest.raises(DataError, match=rf"{name}: .*not .*\. Check the address"):
            download(
                DownloadConfig((server.put(name, body),), tmp_path / "place" / "out", unpack=unpack)
            )
        assert list((tmp_path / "place").iterdir()) == []


def test_what_is_read_whole_has_a_bound(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MOST_TEXT", 1 << 20)
    url = server.put("vocab.bpe", b"a b\n" * (1 << 19))
    with pytest.raises(DataError, match=r"vocab.bpe: more than 1 MiB"):
        download(DownloadConfig((url,), tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("vocab.bpe", b"#version: 0.2\n"),
        ("vocab.bpe", "#version: 0.2\r\nĠ t\r\n< {\r\n".encode()),
        ("dict.txt", b"13 850314647\n"),
        ("dict.txt", "a b\u2028c 5 #fairseq:overwrite\r\n{ 4".encode()),
        ("encoder.json", b'{"a": 0}'),
        ("other.json", b"not JSON"),
        ("page.html", HTML),
    ],
)
def test_what_may_be_of_its_format_is_taken(
    server: Any, tmp_path: Path, name: str, body: bytes
) -> None:
    (result,) = download(DownloadConfig((server.put(name, body),), tmp_path / "out"))
    assert result.path.read_bytes() == body


def test_real_vocabulary_files_are_taken(tiny_bpe: Path, tmp_path: Path) -> None:
    paths = tuple(map(str, sorted(tiny_bpe.iterdir())))
    assert len(download(DownloadConfig(paths, tmp_path / "out"))) == 3


def test_with_a_sha256_that_agrees_nothing_else_is_asked_of_it(server: Any, tmp_path: Path) -> None:
    import hashlib

    url, digest = server.put("dict.txt", HTML), hashlib.sha256(HTML).hexdigest()
    download(DownloadConfig((f"{url}#sha256={digest}",), tmp_path / "out"))
