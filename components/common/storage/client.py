"""The one place that makes a boto3 client, and what every user of one needs."""

import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.common.errors import ConfigError
from components.common.retry import AttemptError, Patience
from components.common.storage.failures import explained

CHUNK = 1 << 20  # bytes read at once from a connection

_MD5 = re.compile(r"[0-9a-f]{32}\Z")

# What a container needs to reach a store, by the same name in a Kubernetes Secret.
S3_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
)


def connect(patience: Patience, connections: int = 1) -> Any:
    """A boto3 client for S3, set up by the usual AWS variables.

    With an endpoint of one's own (AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL) buckets are part of the
    path, since such services seldom have a host name for each; AWS_S3_ADDRESSING_STYLE (path,
    virtual, auto) overrides it.

    Raises:
        ConfigError: a variable cannot be right.
    """
    import boto3
    import botocore.session
    from botocore.config import Config

    endpoint = _endpoint()
    style = os.environ.get("AWS_S3_ADDRESSING_STYLE") or ("path" if endpoint else None)
    if style not in (None, "path", "virtual", "auto"):
        raise ConfigError(
            "AWS_S3_ADDRESSING_STYLE is not path, virtual or auto", hint="Correct or unset it"
        )
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and not Path(bundle).exists():
        raise ConfigError(f"AWS_CA_BUNDLE names {bundle}, which does not exist")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    config = Config(
        connect_timeout=patience.connect,
        read_timeout=patience.read,
        # Attempts are counted in one place, `persist`: boto3 does not try again when a body breaks
        # off, and counts that multiply would hide for many minutes that nothing works.
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=connections,
        tcp_keepalive=True,
        # Checksums are given by hand (in s3.py): boto3 sends its own as a trailer, which many
        # services do not know, and checks none on a part of an object.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": style} if style else None,
    )
    try:
        with explained():
            # A session of its own: boto3's default one is not safe to share between threads.
            session = botocore.session.Session()
            session.register_component("data_loader", _service_models())
            return boto3.session.Session(botocore_session=session).client(
                "s3", region_name=region or ("us-east-1" if endpoint else None), config=config
            )
    except AttemptError as error:
        raise ConfigError(error.cause, hint=error.hint) from error


@functools.cache
def _service_models() -> Any:
    """boto3's description of S3, read once: it is most of the time that a client takes to make."""
    import botocore.loaders

    return botocore.loaders.create_loader()


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def sends_sha256() -> bool:
    """Whether the service is known to check SHA-256 checksums: AWS is, others by AWS's variable."""
    asked = os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "").lower()
    return asked == "when_supported" or (asked == "" and not _endpoint())


def etag_of(answer: Mapping[str, Any]) -> str:
    """The ETag without the quotes, which not all services write."""
    return str(answer.get("ETag") or "").strip('"')


def md5_of(answer: Mapping[str, Any], bucket: str) -> str:
    """The MD5 (hex) of the object that an answer is about, "" where its ETag is none.

    It is one unless the object has several parts, is encrypted with a key of the customer's, or
    lies in a directory bucket (S3 User Guide, "Checking object integrity"). Some services have
    ETags of their own, which do not look like an MD5.
    """
    etag = etag_of(answer)
    own_key = (
        answer.get("ServerSideEncryption") not in (None, "", "AES256")
        or answer.get("SSECustomerAlgorithm")
        or bucket.endswith("--x-s3")
    )
    return etag if _MD5.match(etag) and not own_key else ""


def chunks_of(body: Any) -> Iterator[bytes]:
    """The pieces of a GetObject body, 1 MiB or less each.

    Raises:
        AttemptError: it breaks off, or nothing comes in time.
    """
    while True:
        with explained():
            chunk = body.read(CHUNK)
        if not chunk:
            return
        yield chunk
