"""The server's page to ask by hand, in a browser: answers, errors, and what strangers wrote."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from components.common.errors import DataError
from components.predict.questions import Question
from components.serve.app import JsonErrors, make_app
from components.serve.config import ServeConfig

DESK, PHONE = (1200, 900), (360, 740)
HOSTILE = "</textarea><script>document.title='owned'</script><img src=x onerror=alert(1)>&amp;"


class Batcher:
    """In place of a model: the second option, with 80 %; a passage of nothing is an error."""

    reader = SimpleNamespace(model=SimpleNamespace(options=4))

    def ask(self, questions: list[Question]) -> "Future[list[dict[str, Any]]]":
        answered: Future[list[dict[str, Any]]] = Future()
        (question,) = questions
        shares = [0.2 / (len(question.options) - 1)] * len(question.options)
        shares[1] = 0.8
        answer = {"probabilities": shares, "predicted": "B", "text": question.options[1]}
        if question.inputs[0] == b"fail":
            answered.set_exception(DataError("a score is not a number"))
        else:
            answered.set_result([answer | {"shortened": len(question.inputs[0]) > 1000}])
        return answered


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    app = make_app(ServeConfig(Path("model")), Batcher())  # type: ignore[arg-type]
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=JsonErrors, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def ask(page: Any, **fields: str) -> str:
    """Fill in and send; what the page then says."""
    for name, text in fields.items():
        page.evaluate(f"document.forms[0].elements[{name!r}].value = {json.dumps(text)}")
    page.evaluate("window.before = true, document.querySelector('button').click()")
    deadline = time.monotonic() + 30
    while page.evaluate("window.before || document.readyState !== 'complete'"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return str(page.evaluate("document.body.innerText")).replace("\xa0", " ")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_question_is_answered_with_its_probabilities(
    browser: Any, address: str, size: tuple[int, int], dark: bool, tmp_path: Path
) -> None:
    page = browser.open(address, size, dark=dark)
    assert page.errors == page.requests == []
    said = ask(page, article="Ann has a cat.", question="Ann has a _.", options="dog\n cat \n\ncow")
    assert "B: cat" in said
    assert re.findall(r"\d+\.\d %", said) == ["10.0 %", "80.0 %", "10.0 %"]
    assert said.count("chosen") == 1
    assert "longer than the model reads" not in said
    bars = page.evaluate(
        "[...document.querySelectorAll('.share')].map(e =>"
        " parseFloat(getComputedStyle(e, '::after').width) / e.offsetWidth)"
    )
    assert bars == pytest.approx([0.1, 0.8, 0.1], abs=0.02)
    # What was asked is still there, to be changed and asked again.
    assert page.evaluate("document.forms[0].elements.article.value") == "Ann has a cat."
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert "longer than the model reads" in ask(page, article="cat " * 500)


def test_what_is_wrong_is_said_in_the_page(browser: Any, address: str) -> None:
    page = browser.open(address)
    said = ask(page, article="Ann has a cat.", question="Who?", options="only one")
    assert "No answer" in said
    assert "question 0 has 1 options, not 2 to 26" in said
    assert page.evaluate("document.querySelector('[role=alert]').innerText") in said
    assert "a score is not a number" in ask(page, article="fail", options="a\nb")
    assert "the body has more than 1,048,576 bytes" in ask(page, article="a" * 1_100_000)
    assert page.evaluate("document.forms[0].elements.question.value") == ""
    # Without a passage or an answer the browser itself does not send.
    page.evaluate("document.forms[0].elements.options.value = ''")
    assert page.evaluate("document.forms[0].checkValidity()") is False


def test_what_strangers_wrote_is_text(browser: Any, address: str) -> None:
    page = browser.open(address)
    ask(page, article=f"\n{HOSTILE}", question=f'"{HOSTILE}', options=f"a\n{HOSTILE}\n'\">")
    for name, text in (("article", f"\n{HOSTILE}"), ("question", f'"{HOSTILE}')):
        assert page.evaluate(f"document.forms[0].elements.{name}.value") == text
    assert page.evaluate("document.querySelector('h2 .said').textContent") == HOSTILE
    assert page.evaluate("document.querySelectorAll('script, img').length") == 0
    assert "owned" not in page.evaluate("document.title")
