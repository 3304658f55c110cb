"""What is wrong with KFP's generated client: it takes no for an answer, waits, and talks."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from components.common import strict_json
from components.common.errors import TransferError
from components.common.transfer import told

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds


class AnswerError(TransferError):
    """The server's answer is no answer of Kubeflow Pipelines, though its status is 200."""


def no_answer(host: str, how: str) -> AnswerError:
    return AnswerError(
        f"{host} answered {how}",
        hint="Check --host, and what stands between it and Kubeflow Pipelines",
    )


def refuse_errors(client: Any) -> None:
    """Let a generated client raise AnswerError for an answer of status 200 that tells an error.

    It would make a thing without content of it, or an empty list. What failed tells an error too,
    beside its id.
    """
    deserialize = client.deserialize

    def checked(response: Any, kind: Any) -> Any:
        with contextlib.suppress(ValueError):
            content = strict_json.loads(response.data)
            named = isinstance(content, dict) and any(name.endswith("_id") for name in content)
            if isinstance(content, dict) and "error" in content and not named:
                raise no_answer(client.configuration.host, f"with an error: {told(response.data)}")
        return deserialize(response, kind)

    client.deserialize = checked


def limit_time(client: Any) -> None:
    """Give each request of a generated client a time limit; without one it may wait without end."""
    call = client.call_api

    def limited(*arguments: Any, **named: Any) -> Any:
        named["_request_timeout"] = named.get("_request_timeout") or (CONNECT_TIMEOUT, READ_TIMEOUT)
        return call(*arguments, **named)

    client.call_api = limited


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what the client prints, warns and logs; its errors say all that matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
