"""One object as a stream of bytes, for those who fetch a file from anywhere."""

import base64
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from components.common.retry import AttemptError, Patience
from components.common.storage.client import chunks_of, connect, etag_of, md5_of
from components.common.storage.failures import explained
from components.common.transfer import Checksum, Stream


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`; either is empty where `uri` has none."""
    parts = urlsplit(uri, allow_fragments=False)
    key = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return parts.netloc, key.removeprefix("/")


@contextlib.contextmanager
def open_s3(uri: str, *, start: int, version: str | None, patience: Patience) -> Iterator[Stream]:
    """The object at `uri` from byte `start` on; `version` is the one an earlier Stream gave (ETag).

    What the answer says of the object is compared with what HEAD says: a proxy's page, or an empty
    answer, is not taken for it.

    Raises:
        ConfigError: an AWS variable cannot be right.
        AttemptError: also by the stream's chunks.
    """
    bucket, key = split_uri(uri)
    request: dict[str, Any] = {"Bucket": bucket, "Key": key}
    if start:
        request |= {"Range": f"bytes={start}-", "IfMatch": version}
    with contextlib.closing(connect(patience, connections=2)) as client:
        with explained():
            answer = client.get_object(**request)
        with contextlib.closing(answer["Body"]) as body:
            length = answer.get("ContentLength")  # absent where the answer comes in chunks
            total = None if length is None else start + length
            with explained():
                about = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            size = about.get("ContentLength")
            if not etag_of(answer) or etag_of(answer) != etag_of(about):
                raise AttemptError("what it answered is not the object", restart=True)
            if None not in (total, size) and total != size:
                raise AttemptError(f"the answer has {total:,} of the object's {size:,} bytes")
            yield Stream(
                start=start,
                total=size if total is None else total,
                version=answer["ETag"],
                chunks=chunks_of(body),
                checksum=None if start else checksum_of(about, bucket),
            )


def checksum_of(answer: Mapping[str, Any], bucket: str) -> Checksum | None:
    """The checksum of the whole object that HEAD told, if it is one that Python can compute."""
    for name, size in (("sha256", 32), ("sha1", 20), ("crc32", 4)):
        value = str(answer.get(f"Checksum{name.upper()}") or "")
        # That of an object in parts is of their checksums, and has their number after a dash.
        if value and "-" not in value and answer.get("ChecksumType") != "COMPOSITE":
            with contextlib.suppress(ValueError):
                digest = base64.b64decode(value, validate=True)
                if len(digest) == size:
                    return Checksum(name, digest.hex())
    md5 = md5_of(answer, bucket)
    return Checksum("md5", md5) if md5 else None


def state_of_s3(uri: str, patience: Patience) -> str:
    """What tells the object that is at `uri` now from any other.

    Raises:
        ConfigError, AttemptError: see `open_s3`.
    """
    bucket, key = split_uri(uri)
    with contextlib.closing(connect(patience)) as client, explained():
        about = client.head_object(Bucket=bucket, Key=key)
    return f"{etag_of(about)} {about.get('LastModified')} {about.get('ContentLength')}"
