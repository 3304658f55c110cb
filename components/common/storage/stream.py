"""One object as a stream of bytes, for those who fetch a file from anywhere."""

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from components.common.storage.client import chunks_of, connect
from components.common.storage.failures import explained
from components.common.transfer import Patience, Stream


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`; either is empty where `uri` has none."""
    parts = urlsplit(uri, allow_fragments=False)
    key = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return parts.netloc, key.removeprefix("/")


@contextlib.contextmanager
def open_s3(uri: str, *, start: int, version: str | None, patience: Patience) -> Iterator[Stream]:
    """The object at `uri` from byte `start` on; `version` is the one an earlier Stream gave (ETag).

    Raises:
        ConfigError: an AWS variable cannot be right.
        AttemptError: also by the stream's chunks.
    """
    bucket, key = split_uri(uri)
    request: dict[str, Any] = {"Bucket": bucket, "Key": key}
    if start:
        request |= {"Range": f"bytes={start}-", "IfMatch": version}
    with contextlib.closing(connect(patience)) as client:
        with explained():
            answer = client.get_object(**request)
        with contextlib.closing(answer["Body"]) as body:
            length = answer.get("ContentLength")  # absent where the answer comes in chunks
            yield Stream(
                start=start,
                total=None if length is None else start + length,
                version=answer.get("ETag"),
                chunks=chunks_of(body),
            )
