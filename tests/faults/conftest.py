"""An S3 server with faults: a proxy in front of moto's, which a test tells what to break."""

import hashlib
import http.client
import re
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fuzzing import canary

from components.common.retry import Patience
from components.common.storage import Settings

# Headers that belong to one connection, or that the proxy writes itself.
HOP = {"connection", "content-length", "date", "server", "transfer-encoding"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Exchange:
    """One request on its way. A fault uses these to decide what the client sees of the answer."""

    def __init__(self, handler: BaseHTTPRequestHandler, upstream: str, closing: threading.Event):
        self.handler = handler
        self.upstream = upstream
        self.closing = closing
        self.method = handler.command
        self.path = handler.path
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))

    def forward(self) -> Answer:
        """What the server behind answers; it has then done what was asked."""
        parts = urlsplit(self.upstream)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        headers = {k: v for k, v in self.handler.headers.items() if k.lower() != "expect"}
        connection.request(self.method, self.path, self.body, headers)
        answer = connection.getresponse()
        kept = {k: v for k, v in answer.getheaders() if k.lower() not in HOP}
        length = answer.getheader("Content-Length", "0")
        body = answer.read()
        connection.close()
        if self.method == "HEAD":
            kept["Content-Length"] = length
        return Answer(answer.status, kept, body)

    def reply(self, answer: Answer, *, length: int | None = None, stall: int | None = None) -> None:
        """Send an answer. `length` is a Content-Length that is not the body's; after `stall` bytes
        of the body nothing more comes.
        """
        self.handler.send_response(answer.status)
        for name, value in answer.headers.items():
            self.handler.send_header(name, value)
        if self.method != "HEAD":
            self.handler.send_header("Content-Length", str(length or len(answer.body)))
        elif "Content-Length" not in answer.headers:
            self.handler.send_header("Content-Length", "0")
        self.handler.end_headers()
        if self.method != "HEAD":
            self.handler.wfile.write(answer.body[:stall])
        if length is not None or stall is not None:
            self.handler.wfile.flush()
            self.handler.close_connection = True
        if stall is not None:
            self.closing.wait(20)

    def reset(self) -> None:
        """Break the connection so that the client gets "connection reset by peer"."""
        linger = struct.pack("ii", 1, 0)
        self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.handler.close_connection = True
        self.handler.connection.close()

    # Faults by name.

    def well(self) -> None:
        self.reply(self.forward())

    def error(self, status: int, code: str, message: str = "no") -> None:
        """The server refuses, and has done nothing."""
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.reply(Answer(status, {"Content-Type": "application/xml"}, body))

    def lose_answer(self) -> None:
        """The server does what was asked, but the client never learns it."""
        self.forward()
        self.reset()

    def pretend(self) -> None:
        """The server says that it stored the body, checksum and all, and has done nothing."""
        self.reply(Answer(200, {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}, b""))

    def cut(self, count: int) -> None:
        """The connection closes after `count` bytes of the body that was announced."""
        answer = self.forward()
        whole = len(answer.body)
        self.reply(Answer(answer.status, answer.headers, answer.body[:count]), length=whole)

    def reset_after(self, count: int) -> None:
        """The connection is reset after `count` bytes of the body."""
        answer = self.forward()
        self.handler.send_response(answer.status)
        for name, value in answer.headers.items():
            self.handler.send_header(name, value)
        self.handler.send_header("Content-Length", str(len(answer.body)))
        self.handler.end_headers()
        self.handler.wfile.write(answer.body[:count])
        self.handler.wfile.flush()
        self.reset()

    def shorten(self, count: int) -> None:
        """`count` bytes of the body come, and the headers say that this is all."""
        answer = self.forward()
        self.reply(Answer(answer.status, answer.headers, answer.body[:count]))

    def promise_more(self, count: int) -> None:
        """All of the body comes, and the headers had announced `count` bytes more."""
        answer = self.forward()
        self.reply(answer, length=len(answer.body) + count)

    def stall(self, count: int) -> None:
        """Nothing more comes after `count` bytes of the body."""
        self.reply(self.forward(), stall=count)

    def be_silent(self) -> None:
        """No answer at all."""
        self.closing.wait(20)
        self.handler.close_connection = True

    def flip(self, position: int) -> None:
        """One bit of the body is changed on its way to the client."""
        answer = self.forward()
        if answer.status < 300:
            answer.body = flipped(answer.body, position)
        self.reply(answer)

    def flip_sent(self, position: int) -> None:
        """One bit of the body is changed on its way to the server, which stores it so."""
        self.body = flipped(self.body, position)
        self.reply(self.forward())

    def misplace(self) -> None:
        """A range is asked for, and the beginning of the object comes."""
        wanted = self.handler.headers["Range"]
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
        self.handler.headers.replace_header("Range", f"bytes=0-{last - first}")
        self.reply(self.forward())

    def ignore_range(self) -> None:
        """A range is asked for, and the whole object comes."""
        del self.handler.headers["Range"]
        self.reply(self.forward())

    def fail_late(self) -> None:
        """The status says 200, the body says that it failed; nothing was done."""
        body = b"<Error><Code>InternalError</Code><Message>no</Message></Error>"
        self.reply(Answer(200, {"Content-Type": "application/xml"}, body))

    def chunk(self, count: int | None = None) -> None:
        """The body comes in chunks, without a Content-Length; only `count` bytes of it if given."""
        answer = self.forward()
        self.handler.send_response(answer.status)
        for name, value in answer.headers.items():
            self.handler.send_header(name, value)
        self.handler.send_header("Transfer-Encoding", "chunked")
        self.handler.end_headers()
        body = answer.body[:count]
        self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        if count is None:
            self.handler.wfile.write(b"0\r\n\r\n")
        self.handler.close_connection = True

    def garble(self) -> None:
        """The server does what was asked, and answers with a web page."""
        self.forward()
        page = b"<html><body>proxy error</body>"
        self.reply(Answer(200, {"Content-Type": "text/html"}, page))


def flipped(body: bytes, position: int) -> bytes:
    changed = bytearray(body)
    if changed:
        changed[position % len(changed)] ^= 0x10
    return bytes(changed)


Fault = Callable[[Exchange], None]


@dataclass
class Rule:
    method: str
    pattern: str
    fault: Fault
    times: int
    hits: int = 0


@dataclass
class Proxy:
    """Passes requests on, except for those that a rule breaks; `requests` lists all of them."""

    upstream: str
    address: str = ""
    server: Any = None
    rules: list[Rule] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def break_(self, method: str, pattern: str, fault: Fault, times: int = 1000) -> Rule:
        """Break the first `times` requests by this method for a path (and query) like `pattern`."""
        rule = Rule(method, pattern, fault, times)
        self.rules.append(rule)
        return rule

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        exchange = Exchange(handler, self.upstream, self.closing)
        fault: Fault = Exchange.well
        with self.lock:
            self.requests.append(f"{exchange.method} {exchange.path}")
            for rule in self.rules:
                if (
                    rule.hits < rule.times
                    and re.fullmatch(rule.method, exchange.method)
                    and re.search(rule.pattern, exchange.path)
                ):
                    rule.hits += 1
                    fault = rule.fault
                    break
        fault(exchange)


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    made = Proxy(s3_endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            made.handle(self)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *args: object) -> None:
            pass  # clients that go away are what the tests are about

    server = Server(("127.0.0.1", 0), Handler)
    made.server = server
    made.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where readers of fuzzed input may write: in memory, where there is such a place."""
    canary()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="race-fuzz-", dir=memory) as made:
        monkeypatch.setattr(tempfile, "tempdir", made)
        monkeypatch.chdir(made)
        yield Path(made)


@pytest.fixture
def settings() -> Settings:
    """Few attempts, hardly any wait between them, and parts as small as S3 allows."""
    patience = Patience(attempts=4, connect=5, read=10, first_wait=0.01, longest_wait=0.05)
    return Settings(patience, part=5 << 20, workers=3)
