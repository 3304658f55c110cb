"""A server as a user starts it, and what asks it."""

import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.common.errors import DataError
from components.predict.core import Answer, Read
from components.predict.questions import Question

GOOD = {"article": "Ann has a cat.", "question": "Ann has a _.", "options": ["dog", "cat", "cow"]}
JSON = {"Content-Type": "application/json"}


@dataclass
class Server:
    process: "subprocess.Popen[bytes]"
    log: Path
    port: int = 0

    def said(self) -> str:
        return self.log.read_text()

    def wait(self, what: str) -> "re.Match[str]":
        """Until the log has it."""
        deadline = time.monotonic() + 60
        while not (found := re.search(what, self.said())):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)
        return found

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON or text, and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            kind = answer.getheader("content-type", "")
            value = json.loads(content) if kind == "application/json" else content.decode()
            return answer.status, value, {k.lower(): v for k, v in answer.getheaders()}

    def ask(self, value: Any, path: str = "/predict") -> Any:
        status, answer, _ = self.request("POST", path, json.dumps(value), JSON)
        assert status == 200, answer
        return answer


@contextlib.contextmanager
def serving(model: Path, log: Path, *flags: str) -> Iterator[Server]:
    with log.open("wb") as stderr:
        command = [sys.executable, "-m", "components.serve", "--port=0", f"--model={model}", *flags]
        process = subprocess.Popen(command, stderr=stderr)
    try:
        server = Server(process, log)
        server.port = int(server.wait(r"ready at http://127\.0\.0\.1:(\d+)")[1])
        yield server
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


@pytest.fixture(scope="session")
def server(answering: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(answering, log, "--log-format=json") as found:
        yield found


class Reader:
    """In place of a model: ten tokens an option; while `held` is not set it does not answer."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.held.set()
        self.batches: list[list[str]] = []
        self.model = SimpleNamespace(options=4, precision="fp32", device="cpu")

    def read(self, questions: list[Question]) -> list[Read]:
        if questions[0].name == "unreadable":
            raise DataError("unreadable")
        return [Read(q, [range(10)] * len(q.options), False) for q in questions]

    def answers(self, read: list[Read], batch_tokens: int) -> list[Answer]:
        names = [one.question.name for one in read]
        self.batches.append(names)
        assert self.held.wait(30)
        if "bad" in names:
            raise DataError("bad has a score that is not a number")
        return [Answer(one.question, [1.0] * len(one.sequences), 0, False) for one in read]


@pytest.fixture
def reader() -> Reader:
    return Reader()
