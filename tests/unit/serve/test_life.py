"""A server's start, limits and end, with something else in the model's place."""

import contextlib
import http.client
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.common.cli import run_step
from components.evaluate.trained import Trained
from components.export.core import ExportConfig, export
from components.predict.core import Reader as Real
from components.serve import core
from components.serve.__main__ import main

GOOD = {"article": "Ann has a cat.", "question": "Ann has a _.", "options": ["dog", "cat"]}
JSON = {"Content-Type": "application/json"}
Run = Callable[..., list[str]]


@pytest.fixture
def run(
    reader: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Run:
    """Serve while a function asks, then end with SIGTERM; what the server said."""
    caplog.set_level(logging.INFO)
    (tmp_path / "model.pt").touch()
    (tmp_path / "bpe").mkdir()
    files = [f"--model={tmp_path / 'model.pt'}", f"--bpe={tmp_path / 'bpe'}"]

    def call(
        asking: Callable[[int], None],
        *flags: str,
        load: Any = lambda *_: reader,
        model: Path | None = None,
    ) -> list[str]:
        ended = threading.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        monkeypatch.setattr(core, "_listening", lambda config: listener)
        monkeypatch.setattr(core, "Reader", load)
        port = listener.getsockname()[1]

        def ask() -> None:
            try:
                asking(port)
            finally:
                if not ended.is_set():  # by an error: this process is the test's
                    os.kill(os.getpid(), signal.SIGTERM)

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask)
            try:
                status = run_step(main, [*([f"--model={model}"] if model else files), *flags])
            finally:
                ended.set()
            asked.result()
        assert status == 0, caplog.text
        return caplog.messages

    return call


def get(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body if body is None else json.dumps(body), JSON)
        answer = connection.getresponse()
        value = json.loads(answer.read())
        return answer.status, value, {k.lower(): v for k, v in answer.getheaders()}


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_is_alive_before_it_is_ready(run: Run, reader: Any) -> None:
    held = threading.Event()
    pages = [("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/v1/models/race")]

    def load(*_: Any) -> Any:
        assert held.wait(30)
        return reader

    def asking(port: int) -> None:
        before = [get(port, *page) for page in pages]
        assert [(status, value) for status, value, _ in before] == [
            (200, {"status": "alive"}),
            (503, {"name": "race", "ready": False}),
            (503, {"name": "race", "ready": False}),
        ]
        status, value, headers = get(port, "POST", "/predict", GOOD)
        assert (status, headers["retry-after"]) == (503, "1")
        assert value == {"error": "the model is not loaded yet. Try again later"}
        held.set()
        wait_for(lambda: get(port, "GET", "/readyz")[0] == 200)
        assert [get(port, *page)[0] for page in pages] == [200] * 3
        assert get(port, "POST", "/predict", GOOD)[0] == 200

    said = run(asking, load=load)
    assert re.fullmatch(r"ready at http://127\.0\.0\.1:\d+ \(.*model\.pt, fp32 on cpu\)", said[1])
    assert said[-1] == "stopped"


def test_sigterm_ends_it_when_all_is_answered(run: Run, reader: Any) -> None:
    answers: list[Any] = []

    def asking(port: int) -> None:
        wait_for(lambda: get(port, "GET", "/readyz")[0] == 200)
        reader.held.clear()
        for _ in range(3):  # the first is computed, the others wait
            threading.Thread(
                target=lambda: answers.append(get(port, "POST", "/predict", [GOOD] * 3))
            ).start()
        wait_for(lambda: bool(reader.batches))
        threading.Timer(0.5, reader.held.set).start()

    said = run(asking)
    wait_for(lambda: len(answers) == 3)
    assert [(status, len(value)) for status, value, _ in answers] == [(200, 3)] * 3
    assert "POST /predict: 3 questions in " in said[-2]
    assert said[-1] == "stopped"


def test_one_too_many_and_one_too_slow_are_told_to_come_again(
    run: Run, reader: Any, caplog: pytest.LogCaptureFixture
) -> None:
    half = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    half += "Content-Length: 9\r\n\r\n[]"

    def asking(port: int) -> None:
        wait_for(lambda: get(port, "GET", "/readyz")[0] == 200)
        with socket.create_connection(("127.0.0.1", port), 30) as slow:
            slow.sendall(half.encode())
            wait_for(lambda: get(port, "POST", "/predict", [])[0] == 503)
            status, value, headers = get(port, "POST", "/predict", GOOD)
            assert (status, headers["retry-after"]) == (503, "1")
            assert value == {"error": "1 of 1 requests are under way. Try again later"}
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(("127.0.0.1", port), 30) as gone:
            gone.sendall(half.encode())
        wait_for(lambda: get(port, "POST", "/predict", [])[0] == 200)
        reader.held.clear()
        status, value, headers = get(port, "POST", "/predict", GOOD)
        assert (status, headers["retry-after"]) == (503, "1")
        assert value == {"error": "there was no answer within 2 s. Try again later"}
        reader.held.set()
        assert get(port, "POST", "/predict", GOOD)[0] == 200
        assert get(port, "GET", "/%0A%1B[31mforged")[0] == 404

    said = run(asking, "--timeout=2", "--max-queue=1")
    assert "GET /\\x1b[31mforged: 404" in said[-2]
    assert all(line.isprintable() for line in said)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_hugging_face_model_is_served_too(
    run: Run, reader: Any, answering: Path, tmp_path: Path
) -> None:
    export(ExportConfig(answering, tmp_path / "exported"))

    def load(trained: Trained, *_: Any) -> Any:
        Real(trained, "fp32", "cpu")
        return reader

    def asking(port: int) -> None:
        wait_for(lambda: get(port, "GET", "/readyz")[0] == 200)

    assert str(tmp_path / "exported") in run(asking, model=tmp_path / "exported", load=load)[-2]


def test_a_model_that_fails_harms_one_request(run: Run, reader: Any) -> None:
    def asking(port: int) -> None:
        wait_for(lambda: get(port, "GET", "/readyz")[0] == 200)
        status, value, _ = get(port, "POST", "/predict", GOOD | {"id": "bad"})
        assert (status, value) == (500, {"error": "bad has a score that is not a number"})
        assert get(port, "POST", "/predict", GOOD)[0] == 200
        reader.answers = None  # a defect
        status, value, _ = get(port, "POST", "/predict", GOOD)
        assert (status, value["error"].partition(";")[0]) == (500, "the model could not answer")

    assert "TypeError: 'NoneType' object is not callable" in run(asking)
