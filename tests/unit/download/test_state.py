"""What tells what lies at an address now from what lay there before."""

import os
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from components.download.fetch import state_of

LATE = formatdate(time.time() - 3600, usegmt=True)
LATER = formatdate(time.time() - 1800, usegmt=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"etag": '"1"'}, {"etag": '"2"'}),
        ({"headers": {"Last-Modified": LATE}}, {"headers": {"Last-Modified": LATER}}),
        (
            {"etag": 'W/"1"', "headers": {"Last-Modified": LATE}},
            {"etag": 'W/"1"', "headers": {"Last-Modified": LATER}},
        ),
        (
            {"headers": {"Last-Modified": LATE}},
            {"headers": {"Last-Modified": LATE}, "body": b"longer"},
        ),
    ],
    ids=["etag", "date", "weak etag", "length"],
)
def test_other_content_at_a_server_is_another_state(
    server: Any, before: dict[str, Any], after: dict[str, Any]
) -> None:
    server.knows_head = True
    states = []
    for content in (before, before, after):
        url = server.put("file", **{"body": b"one", "etag": None, **content})
        states.append(state_of(url))
    assert all(states)
    assert states[0] == states[1] != states[2]
    assert server.requests == []  # nothing was fetched


@pytest.mark.parametrize("kind", ["in place", "renamed over", "same size and time"])
def test_another_file_is_another_state(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    before, found = state_of(str(path)), path.stat()
    assert before == state_of(path.as_uri())
    if kind == "in place":
        path.write_text("another")
    else:
        (tmp_path / "new").write_text("two")
        (tmp_path / "new").replace(path)
    if kind == "same size and time":
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert state_of(str(path)) not in ("", before)


def test_another_object_is_another_state(bucket: str) -> None:
    import boto3

    client = boto3.client("s3", region_name="us-east-1")
    states = []
    for body in (b"one", b"two"):
        client.put_object(Bucket=bucket, Key="file", Body=body)
        states += [state_of(f"s3://{bucket}/file"), state_of(f"s3://{bucket}/file")]
    assert all(states)
    assert states[0] == states[1] != states[2] == states[3]
    assert state_of(f"s3://{bucket}/absent") == ""


def _without_head(server: Any, _: Path) -> str:
    server.knows_head = False
    return server.put("file", b"one")


def _without_validators(server: Any, _: Path) -> str:
    return server.put("file", b"one", etag=None)


def _of_this_second(server: Any, _: Path) -> str:
    now = formatdate(time.time() + 1, usegmt=True)
    return server.put("file", b"one", etag=None, headers={"Last-Modified": now})


@pytest.mark.parametrize(
    "address",
    [
        _without_head,
        _without_validators,
        _of_this_second,
        lambda server, _: f"http://{server.address}/absent",
        lambda _, __: "http://127.0.0.1:1/file",
        lambda _, folder: str(folder / "absent"),
        lambda _, folder: str(folder),
    ],
)
def test_what_cannot_be_said_is_no_state(
    server: Any, tmp_path: Path, address: Callable[[Any, Path], str]
) -> None:
    server.knows_head = True
    assert state_of(address(server, tmp_path)) == ""
