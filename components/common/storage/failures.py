"""What boto3 raises, as attempts that failed: may the next one succeed, and what can be done."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from components.common.retry import AttemptError

# Error codes and HTTP statuses that pass by themselves, or that sending the same bytes again cures.
_PASSING_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504}

_CREDENTIALS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role"
# Error code or HTTP status (HEAD has no body to hold a code): what happened, and the hint.
_KNOWN = {
    "NoSuchBucket": (
        "the bucket does not exist",
        "Create it, or check its name and the endpoint (AWS_ENDPOINT_URL)",
    ),
    "NoSuchKey": ("no such object", "Check the bucket and the key"),
    "404": ("no such object or bucket", "Check the bucket and the key"),
    "AccessDenied": ("access denied", "Check what these credentials may do with this bucket"),
    "403": ("access denied", "Check the credentials and what they may do with this bucket"),
    "ExpiredToken": ("the AWS session token has expired", "Get new credentials and start again"),
    "InvalidToken": ("the AWS session token is not valid", "Check AWS_SESSION_TOKEN"),
    "InvalidAccessKeyId": (
        "the service does not know this access key",
        "Check AWS_ACCESS_KEY_ID and the endpoint (AWS_ENDPOINT_URL)",
    ),
    "SignatureDoesNotMatch": (
        "the secret key does not fit the access key",
        "Check AWS_SECRET_ACCESS_KEY, and that no proxy changes the requests",
    ),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "Check AWS_REGION"),
    "PermanentRedirect": ("the bucket is in another region", "Check AWS_REGION"),
    "301": ("the bucket is in another region", "Check AWS_REGION"),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "Set the clock"),
    "QuotaExceeded": ("the bucket is full", "Free some space, or raise its quota"),
    "XMinioStorageFull": ("object storage is full", "Free some space"),
}
_UNREACHABLE = "Check the network and the endpoint (AWS_ENDPOINT_URL)"


class AnswerError(AttemptError):
    """Object storage answered, with an error. `status` is HTTP's, `code` S3's or empty."""

    def __init__(self, status: int, code: str, cause: str, *, hint: str, passes: bool) -> None:
        super().__init__(cause, hint=hint, passes=passes, restart=status in (412, 416))
        self.status = status
        self.code = code


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns what boto3 raises into an AttemptError.

    None of its texts is shown: some hold addresses with passwords or signatures in them.
    """
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except boto.ClientError as error:
        raise _answer(error.response) from error
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
        raise AttemptError("no AWS credentials found", passes=False, hint=_CREDENTIALS) from error
    except (boto.CredentialRetrievalError, boto.TokenRetrievalError) as error:
        # A role's credentials come over the network too; its service can be away for a moment.
        raise AttemptError("no AWS credentials could be fetched", hint=_CREDENTIALS) from error
    except boto.SSLError as error:
        raise AttemptError(
            f"no trusted TLS connection to {_host(error)}",
            passes=False,
            hint="Set AWS_CA_BUNDLE to the authority that signed its certificate, "
            "and check AWS_ENDPOINT_URL",
        ) from error
    except (boto.EndpointConnectionError, boto.ConnectTimeoutError) as error:
        raise AttemptError(f"{_host(error)} cannot be reached", hint=_UNREACHABLE) from error
    except boto.ProxyConnectionError as error:
        raise AttemptError(
            "the HTTP proxy cannot be reached", hint="Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        ) from error
    except boto.ReadTimeoutError as error:
        raise AttemptError("no answer in time", hint=_UNREACHABLE) from error
    except (
        boto.HTTPClientError,
        boto.IncompleteReadError,
        HTTPError,  # botocore lets some of these through while a body is read
        ResponseParserError,
    ) as error:
        raise AttemptError("the connection was cut", hint=_UNREACHABLE) from error
    except (boto.BotoCoreError, ValueError) as error:
        # A wrong profile, region, endpoint or CA file: boto3 finds these before it sends anything.
        raise AttemptError(
            f"boto3 refused the request ({type(error).__name__})",
            passes=False,
            hint="Check the AWS variables (endpoint, region, profile, CA bundle), bucket and key",
        ) from error


def _answer(response: dict[str, Any]) -> AnswerError:
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(response.get("Error", {}).get("Code", ""))
    if not re.fullmatch(r"[A-Za-z0-9.]{1,64}", code):
        code = ""
    cause, hint = _KNOWN.get(code) or _KNOWN.get(str(status)) or ("object storage failed", "")
    told = " ".join(dict.fromkeys(part for part in (str(status), code) if part))
    return AnswerError(
        status,
        code,
        f"{cause} ({told})",
        hint=hint,
        passes=code in _PASSING_CODES or status in _PASSING_STATUSES,
    )


def _host(error: Any) -> str:
    """Host and port of the address that an error is about, without any user or password."""
    try:
        parts = urlsplit(str(error.kwargs.get("endpoint_url", "")))
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        return "object storage"
    return f"{host}:{port}" if port else host
