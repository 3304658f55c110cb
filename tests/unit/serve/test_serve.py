"""The server: the same answers as predict's, alone and in company; its start, limits and end."""

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from components.common import cli
from components.common.cli import run_step
from components.serve import core
from components.serve.__main__ import main
from components.serve.config import ServeConfig
from pipeline.docs import ROOT
from tests.shell_blocks import blocks

GOOD = {"article": "Ann has a cat.", "question": "Ann has a _.", "options": ["dog", "cat", "cow"]}
# Of a probability; a batch may be summed in another order than a question alone.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def questions(answering: Path) -> list[dict[str, Any]]:
    """The test questions, with 2 to 4 options, some with an answer, and one that is too long."""
    found = []
    for path in sorted((answering / "race" / "RACE" / "test").rglob("*.txt")):
        passage = json.loads(path.read_text())
        for number, (question, options) in enumerate(
            zip(passage["questions"], passage["options"], strict=True)
        ):
            article = passage["article"] * (60 if len(found) == 5 else 1 + len(found) % 3)
            one = {"article": article, "question": question, "options": options}
            found.append(one | {"id": f"{path.name}#{number}", "answer": number % 2})
            found[-1]["options"] = options[: 2 + len(found) % 3]
    return found


@pytest.fixture(scope="module")
def expected(
    answering: Path, questions: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What predict answers, each question alone."""
    path = tmp_path_factory.mktemp("asked") / "questions.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in questions))
    command = [sys.executable, "-m", "components.predict", "--batch-tokens=1"]
    done = subprocess.run(
        [*command, "--model", str(answering), "--input", str(path)], capture_output=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) > 10
    for one, other in zip(ours, theirs, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=TOLERANCE)
        assert {**one, "probabilities": 0, "line": 0} == {**other, "probabilities": 0, "line": 0}
    assert [one["id"] for one in ours if "shortened" in one] == [ours[5]["id"]]


def test_answers_are_those_of_predict_in_one_request(
    server: Any, questions: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    found = server.ask(questions)
    same(found, expected)
    assert [answer["line"] for answer in found] == [*range(1, len(found) + 1)]


def test_answers_are_those_of_predict_in_kserves_form(
    server: Any, questions: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    found = server.ask({"instances": questions, "other": 1}, "/v1/models/race:predict")
    assert found.keys() == {"predictions"}
    same(found["predictions"], expected)
    assert server.ask({"instances": []}, "/v1/models/race:predict") == {"predictions": []}
    assert server.request("GET", "/v1/models")[:2] == (200, {"models": ["race"]})
    assert server.request("GET", "/v1/models/race")[:2] == (200, {"name": "race", "ready": True})


@pytest.mark.parametrize("clients", [1, 5, 24])
def test_answers_are_those_of_predict_whoever_asks_at_the_same_time(
    server: Any, questions: list[dict[str, Any]], expected: list[dict[str, Any]], clients: int
) -> None:
    with ThreadPoolExecutor(clients) as pool:
        same(list(pool.map(server.ask, questions)), expected)


@pytest.mark.parametrize("times", [1, 400])
def test_the_page_answers_by_hand(server: Any, times: int) -> None:
    fields = {**GOOD, "article": "Ann <b> has a cat. " * times, "options": "dog\r\n\r\n<i>cat"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, page, _ = server.request("POST", "/", urlencode(fields), form)
    assert status == 200
    assert "chosen" in page
    assert "&lt;i&gt;cat" in page
    assert "<b>" not in page
    assert ("longer than the model reads" in page) == (times > 1)
    status, page, _ = server.request("POST", "/", urlencode(fields | {"options": "dog"}), form)
    assert status == 422
    assert "1 options, not 2 to 26" in page
    assert "Ann &lt;b&gt; has" in page, "what was asked is still there"


def test_a_passage_with_several_questions_has_a_list_of_answers(server: Any) -> None:
    race = {"article": "Ann has a cat.", "questions": ["q", "r"], "options": [["a", "b"]] * 2}
    one, two = server.ask([GOOD, race | {"id": "x"}])
    assert one["id"] == "1"
    assert [answer["id"] for answer in two] == ["x#0", "x#1"]
    assert [answer["id"] for answer in server.ask(race)] == ["1#0", "1#1"]
    assert server.ask([]) == []


def test_what_cannot_be_served_ends_in_one_line(
    answering: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def said(*flags: str) -> tuple[int, str]:
        status = run_step(main, ["--port=0", *flags])
        return status, capfd.readouterr().err.splitlines()[-1]

    model = f"--model={answering}"
    assert said("--model=nowhere")[0] == 3
    assert said(model, "--max-queue=0") == (2, "error: max_queue is 0. It must be at least 1")
    assert "port is 65536" in said(model, "--port=65536")[1]
    (tmp_path / "model.pt").write_bytes(b"no model")
    status, line = said(f"--model={tmp_path / 'model.pt'}", f"--bpe={answering / 'bpe'}")
    assert status == 3
    assert "model.pt" in line
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, line = said(model, f"--port={port}")
    assert (status, line.partition(".1:")[0]) == (2, "error: cannot listen at 127.0.0")
    assert "address already in use. Choose another --host or --port" in line
    assert "no.such.host" in said(model, "--host=no.such.host.invalid")[1]


def test_an_answer_is_sent_at_once() -> None:
    """Head and body are two packets: the second waits for nothing."""
    with core._listening(ServeConfig(Path("model"), port=0)) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_inference_service_starts_what_there_is() -> None:
    service = yaml.safe_load((ROOT / "pipeline/manifests/inference-service.yaml").read_text())
    secret = yaml.safe_load(
        (ROOT / "pipeline/manifests/namespace/s3-secret.example.yaml").read_text()
    )
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    assert service["metadata"]["name"] == "race"
    (container,) = service["spec"]["predictor"]["containers"]
    assert container["name"] == "kserve-container"
    assert container["command"] == ["python", "-m", "components.serve"]
    parser = cli.parser(ServeConfig, prog="", description="")
    config = cli.config_of(ServeConfig, parser.parse_args(container["args"]))
    cli.use_log_format("text")
    assert str(config.model).startswith("s3:/")
    assert (config.host, config.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    probe = container["readinessProbe"]["httpGet"]
    assert (probe["path"], probe["port"]) == ("/readyz", config.port)
    assert container["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    assert service["spec"]["predictor"]["timeout"] >= config.timeout


def test_the_commands_of_its_page_run(answering: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to(answering)
    ran = 0
    for block in blocks(ROOT / "docs" / "serving.md"):
        if block.needs or block.commands.startswith("race run "):
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.commands],
            cwd=tmp_path,
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert '"predictions": [{"line": 1, "id": "1", "probabilities": [' in done.stdout
        ran += 1
    assert ran == 1
