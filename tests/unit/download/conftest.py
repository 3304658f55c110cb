"""A real HTTP server, with the faults that real servers have."""

import io
import re
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.common import retry
from components.common.retry import Patience


class Server:
    """Serves files at URLs, and remembers the headers of every request.

    `steps` are what befalls the first requests for a file, in order:
        {"status": 503, "headers": {...}}   an answer without the file
        {"cut": n}                          the connection closes after n bytes of the body
        {"stall": n}                        nothing more comes after n bytes
        {"body": b"...", "etag": '"2"'}     the file changes first
        {"blind": True}                     If-Range is ignored
    They combine where that makes sense.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        self.requests: list[dict[str, str]] = []
        self.knows_head = False
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def do_HEAD(self) -> None:
                server.answer_head(self)

            def log_message(self, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # clients that go away are what some tests are about

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def put(
        self,
        name: str,
        body: bytes = b"",
        *,
        steps: list[dict[str, Any]] | None = None,
        ranges: bool = True,
        etag: str | None = '"1"',
        headers: dict[str, str] | None = None,
        length: int | None = None,
        chunked: bool = False,
    ) -> str:
        """Serve `body` at the URL that is returned. `length` is a Content-Length that is a lie."""
        self.files["/" + name] = {
            "body": body,
            "steps": list(steps or []),
            "ranges": ranges,
            "etag": etag,
            "headers": headers or {},
            "length": length,
            "chunked": chunked,
        }
        return f"http://{self.address}/{name}"

    def answer_head(self, request: BaseHTTPRequestHandler) -> None:
        file = self.files.get(request.path)
        if not self.knows_head or file is None:
            request.send_error(404 if self.knows_head else 501)
            return
        request.send_response(200)
        for key, value in {"ETag": file["etag"], **file["headers"]}.items():
            if value:
                request.send_header(key, value)
        request.send_header("Content-Length", str(len(file["body"])))
        request.end_headers()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(dict(request.headers.items()))
        file = self.files.get(request.path.partition("?")[0])
        if file is None:
            request.send_error(404)
            return
        step = file["steps"].pop(0) if file["steps"] else {}
        file.update({key: step[key] for key in ("body", "etag") if key in step})
        if "status" in step:
            request.send_response(step["status"])
            for key, value in step.get("headers", {}).items():
                request.send_header(key, value)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body, start = file["body"], 0
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        validators = {file["etag"], file["headers"].get("Last-Modified")}
        fresh = request.headers.get("If-Range") in validators or "blind" in step
        if wanted and file["ranges"] and fresh:
            start = int(wanted[1])
            if start >= len(body):
                request.send_error(416)
                return
            request.send_response(206)
            where = step.get("content_range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            request.send_header("Content-Range", where)
        else:
            request.send_response(200)
        if file["etag"]:
            request.send_header("ETag", file["etag"])
        for key, value in file["headers"].items():
            request.send_header(key, value)
        part = body[start:]
        if file["chunked"]:
            request.send_header("Transfer-Encoding", "chunked")
            sent = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (part[:9], part[9:]) if p)
            sent += b"0\r\n\r\n"
        else:
            request.send_header("Content-Length", str(file["length"] or len(part)))
            sent = part
        request.end_headers()
        count = step.get("cut", step.get("stall", len(sent)))
        request.wfile.write(sent[:count])
        request.wfile.flush()
        if "stall" in step:
            self.closing.wait(10)
        if count < len(sent) or file["length"]:
            request.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, in seconds, which are noted and not waited."""
    waits: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    return waits


@pytest.fixture
def patience() -> Patience:
    return Patience(attempts=3, connect=2.0, read=0.5)


@pytest.fixture
def old_date() -> str:
    return formatdate(time.time() - 3600, usegmt=True)


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[..., Path]:
    """Makes an archive: each member is (name, content) or a TarInfo, or (TarInfo, content)."""

    def make(*members: Any, name: str = "evil.tar.gz", format: int = tarfile.PAX_FORMAT) -> Path:
        path = tmp_path / name
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w", format=format) as tar:
            for member in members:
                info, content = member if isinstance(member, tuple) else (member, b"")
                if isinstance(info, str):
                    info = tarfile.TarInfo(info)
                if info.isreg():
                    info.size = len(content)
                tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
        return path

    return make
