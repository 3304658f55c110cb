"""A headless Chromium, driven through its DevTools protocol."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # root cannot use it, and the pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)
DESK, PHONE = (1200, 900), (360, 740)
SECONDS = 60.0


@dataclass
class Page:
    """An opened page, and what the browser had to say about it."""

    browser: "Browser"
    errors: list[str] = field(default_factory=list)  # of the console, of scripts, of the policy
    requests: list[str] = field(default_factory=list)  # everything but the page itself

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression (DevTools' own scripts are not under the policy)."""
        answer = self.browser.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def show(self, size: tuple[int, int] = DESK, *, dark: bool = False) -> None:
        """Set the window's size and the preferred colours."""
        self.browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.browser.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """The whole page, as a PNG."""
        data = self.browser.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


class Browser:
    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=SECONDS)
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._events.append(message)

    def open(self, place: Path | str, size: tuple[int, int] = DESK, *, dark: bool = False) -> Page:
        """Open a file or an address and wait until it is loaded."""
        page = Page(self)
        address = place if isinstance(place, str) else place.absolute().as_uri()
        page.show(size, dark=dark)
        self.call("Page.navigate", url="about:blank")
        self._events.clear()
        self.call("Page.navigate", url=address)
        deadline = time.monotonic() + SECONDS
        while page.evaluate("[document.readyState, location.href].join()") != f"complete,{address}":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.1)
        page.evaluate("0")  # takes what the browser has said until now
        for event in self._events:
            name, told = event.get("method"), event.get("params", {})
            if name == "Network.requestWillBeSent":
                url = told["request"]["url"]
                if url != address and not url.startswith("data:"):
                    page.requests.append(url)
            elif name == "Log.entryAdded":
                page.errors.append(told["entry"]["text"])
            elif name in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                page.errors.append(json.dumps(told))
            elif name == "Audits.issueAdded":
                page.errors.append(json.dumps(told["issue"]))
        return page

    def close(self) -> None:
        self._socket.close()


def find() -> str | None:
    """The path of a Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def started(executable: str) -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            browser = Browser(_address(Path(profile), process))
            try:
                yield browser
            finally:
                browser.close()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """The address of the first tab's DevTools."""
    import urllib.request

    deadline = time.monotonic() + SECONDS
    while True:
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        assert time.monotonic() < deadline, "Chromium did not start"
        with contextlib.suppress(OSError, ValueError, IndexError):
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = find()
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with started(executable) as found:
        yield found
