"""Malformed and oversized requests: each is refused with one line, and harms no other."""

import json
import random
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

KINDS: dict[str, tuple[int, Callable[[random.Random], Any]]] = {}
GOOD = {"article": "Ann has a cat.", "question": "Ann has a _.", "options": ["dog", "cat", "cow"]}
JSON = {"Content-Type": "application/json"}
REQUESTS = 1000


def kind(name: str, status: int) -> Callable[[Any], Any]:
    """A kind of request: makes (method, path, body, headers), the body of POST /predict, or bytes
    that are sent as they are."""

    def add(make: Callable[[random.Random], Any]) -> Any:
        KINDS[name] = status, make
        return make

    return add


def word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz _é漢\n", k=rng.randrange(1, 30)))


def good(rng: random.Random, **fields: Any) -> bytes:
    options = [word(rng) for _ in range(rng.randrange(2, 27))]
    value = {"article": word(rng), "question": word(rng), "options": options} | fields
    return json.dumps({name: v for name, v in value.items() if v is not ...}).encode()


NOT_TEXT = (None, 1, 2.5, True, [], ["a"], {}, {"a": "b"})
NOT_LISTS = (None, 1, 2.5, True, "abcd", {}, {"A": "a", "B": "b"})


def no_object(rng: random.Random) -> Any:
    return rng.choice([None, 1, "text", 2.5, True, [1], []])


kind("not JSON", 400)(lambda r: b"?" + r.randbytes(r.randrange(1, 80)).hex().encode())
kind("JSON that breaks off", 400)(lambda r: good(r)[: -r.randrange(1, 20)])
kind("more after the JSON", 400)(lambda r: good(r) + good(r))
kind("an empty body", 400)(lambda r: b" " * r.randrange(4))
kind("not UTF-8", 400)(lambda r: good(r)[:-2] + b"\xff" + r.randbytes(3))
kind("UTF-16", 400)(lambda r: good(r).decode().encode("utf-16"))
kind("nested too deeply", 400)(lambda r: b"[" * (n := r.randrange(200, 90_000)) + b"]" * n)
kind("a number that is none", 400)(
    lambda r: good(r)[:-1] + b', "x": ' + r.choice([b"NaN", b"-Infinity", b"1e999"]) + b"}"
)
kind("a number too long", 400)(lambda r: good(r)[:-1] + b', "x": ' + b"9" * 5000 + b"}")
kind("a name twice", 400)(lambda r: good(r)[:-1] + b', "article": "b"}')
kind("half of a surrogate pair", 400)(
    lambda r: good(r)[:-1] + b', "id": "\\ud8%02x"}' % r.randrange(99)
)
kind("no object", 422)(lambda r: json.dumps(r.choice([None, 1, "text", 2.5, True])).encode())
kind("a list with no object", 422)(
    lambda r: b"[%s, %s]" % (good(r), json.dumps(no_object(r)).encode())
)
kind("no article", 422)(lambda r: good(r, article=...))
kind("an article that is no text", 422)(lambda r: good(r, article=r.choice(NOT_TEXT)))
kind("no question", 422)(lambda r: good(r, question=...))
kind("a question that is no text", 422)(lambda r: good(r, question=r.choice(NOT_TEXT)))
kind("no options", 422)(lambda r: good(r, options=...))
kind("options that are no list", 422)(lambda r: good(r, options=r.choice(NOT_LISTS)))
kind("an option that is no text", 422)(lambda r: good(r, options=["a", r.choice(NOT_TEXT)]))
kind("too few options", 422)(lambda r: good(r, options=["a"] * r.randrange(2)))
kind("too many options", 422)(lambda r: good(r, options=["a"] * r.randrange(27, 300)))
kind("an answer that is none", 422)(lambda r: good(r, answer=r.choice([-1, 26, "?", [], {}, 1.5])))
kind("a RACE file whose numbers differ", 422)(
    lambda r: json.dumps({"article": "a", "questions": ["q"] * 3, "options": [["a", "b"]]}).encode()
)
kind("text that grows", 422)(
    lambda r: good(r, question="_" * r.randrange(9_000, 20_000), options=["a" * 9_000] * 2)
)
kind("too many questions", 413)(lambda r: b"[" + b",".join([good(r)] * r.randrange(65, 90)) + b"]")
kind("too many questions of a passage", 413)(
    lambda r: json.dumps(
        {
            "article": "a",
            "questions": ["q"] * (n := r.randrange(65, 99)),
            "options": [["a", "b"]] * n,
        }
    ).encode()
)
kind("a body that is too large", 413)(
    lambda r: good(r, article="a " * (600_000 + r.randrange(9_999)))
)
kind("too large in pieces", 413)(
    lambda r: ("POST", "/predict", iter([b"a" * 99_999] * r.randrange(11, 20)), JSON)
)
kind("another type", 415)(
    lambda r: (
        *("POST", "/predict", good(r)),
        {"Content-Type": r.choice(["text/plain", "application/xml", "multipart/form-data", "x"])},
    )
)
kind("no type", 415)(lambda r: ("POST", "/predict", good(r), {}))
kind("another charset", 415)(
    lambda r: ("POST", "/predict", good(r), {"Content-Type": "application/json; charset=latin-1"})
)
kind("a coded body", 415)(
    lambda r: ("POST", "/predict", good(r), JSON | {"Content-Encoding": r.choice(["gzip", "br"])})
)
kind("another method", 405)(
    lambda r: (r.choice(["GET", "PUT", "DELETE", "PATCH"]), "/predict", good(r), JSON)
)
kind("no such page", 404)(lambda r: ("POST", f"/{r.randbytes(9).hex()}/../é"[:20], good(r), JSON))
kind("another model", 404)(
    lambda r: ("POST", f"/v1/models/{r.randbytes(4).hex()}:predict", good(r), JSON)
)
kind("KServe without instances", 422)(lambda r: ("POST", "/v1/models/race:predict", good(r), JSON))
kind("instances that are no questions", 422)(
    lambda r: (
        *("POST", "/v1/models/race:predict"),
        json.dumps({"instances": r.choice([1, "a", {}, [1], [[GOOD]]])}),
        JSON,
    )
)
kind("no HTTP", 400)(lambda r: r.randbytes(30).hex().encode() + b"\r\n\r\n")
kind("a length that is none", 400)(
    lambda r: (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %s\r\n\r\n"
        % r.choice([b"-1", b"a", b"1, 2"])
    )
)
kind("endless headers", 400)(
    lambda r: b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (70_000 + r.randrange(9_999))
)


def sent(port: int, content: bytes) -> tuple[int, Any]:
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(content)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_wrong_is_refused_in_one_line(server: Any, name: str) -> None:
    expected, make = KINDS[name]
    for number in range(-(-REQUESTS // len(KINDS))):
        made = make(random.Random(f"{name} {number}"))
        if name in ("no HTTP", "a length that is none", "endless headers"):
            status, answer = sent(server.port, made)
        else:
            request = made if isinstance(made, tuple) else ("POST", "/predict", made, JSON)
            status, answer, _ = server.request(*request)
        assert status == expected, (made, answer)
        assert answer.keys() == {"error"}
        assert re.fullmatch(r"[^\n]{10,2500}\.? [A-Z][^\n]+", answer["error"]), answer
    assert server.ask(GOOD)["text"] in GOOD["options"]
    assert "Traceback" not in server.said()
    for line in server.said().splitlines():
        assert {"time", "level", "message"} <= json.loads(line).keys()


def test_there_are_a_thousand_of_them() -> None:
    assert len(KINDS) >= 20
    assert -(-REQUESTS // len(KINDS)) * len(KINDS) >= REQUESTS
