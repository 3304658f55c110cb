"""A server that speaks as much of Kubeflow Pipelines' APIs as submissions and runs need."""

import contextlib
import email
import itertools
import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline import client, follow
from tests.unit.pipeline import situations
from tests.unit.pipeline.situations import Recording, Situation


class Clock:
    """Time that only sleeping takes, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def recording() -> Callable[[str], Recording]:
    """Finds the real server's answers in a situation; they may not be committed."""
    beside = Path(__file__).parents[4] / "shared" / "kfp-recordings"
    folder = Path(os.environ.get("RACE_KFP_RECORDINGS", beside))
    if not folder.is_dir():
        pytest.skip("no recordings: set RACE_KFP_RECORDINGS to a folder with gate-failed.json.gz")
    return lambda name: Recording(folder / f"{name}.json.gz")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "sleep", made.sleep)
    monkeypatch.setattr(follow, "time", made)
    return made


Served = TypeVar("Served", bound="KubeflowPipelines")


class KubeflowPipelines:
    """What the server holds, what it was asked, and how it shall misbehave."""

    def __init__(self) -> None:
        self.host = ""
        self.server: Any = None
        self.multi_user = False
        self.tag = "unknown"  # the version, where a server tells it
        self.token = ""  # refuse requests without it
        self.pipelines: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.recurring_runs: list[dict[str, Any]] = []
        self.packages: list[str] = []
        # What a run looks like each time it is asked for; the last one stays.
        self.states: deque[dict[str, Any]] = deque([{"state": "SUCCEEDED"}])
        # What happens to the run instead, by the time that the test's clock has.
        self.replay: Situation | Recording | None = None
        self.clock = Clock()
        self.retried: list[str] = []
        self.requests: list[tuple[str, str, dict[str, list[str]]]] = []
        # (method, pattern of the path, status, whether the request has its effect all the same)
        self.failures: list[tuple[str, str, int, bool]] = []
        self.on_request: Callable[[], None] = lambda: None
        self.page = ""  # answer everything with this HTML
        self.headers: dict[str, str] = {}  # of all answers
        # (method, pattern of the path): what a gateway answers, with status 200
        self.gateway: dict[tuple[str, str], Any] = {}
        self._ids = itertools.count(1)

    def fail(self, method: str, pattern: str, *statuses: int, lost_reply: bool = False) -> None:
        """Answer the next requests of this kind with these statuses."""
        self.failures += [(method, pattern, status, lost_reply) for status in statuses]

    def handle(self, method: str, address: str, headers: Any, body: bytes) -> tuple[int, Any]:
        path, query = urlsplit(address).path, parse_qs(urlsplit(address).query)
        self.requests.append((method, path, query))
        self.on_request()
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"code": 16, "message": "Request header error: token is expired"}
        for (wanted, pattern), said in self.gateway.items():
            if wanted == method and re.search(pattern, path):
                return 200, said
        for failure in self.failures:
            if failure[0] == method and re.search(failure[1], path):
                self.failures.remove(failure)
                if failure[3]:
                    self.answer(method, path, query, headers, body)
                return failure[2], {"code": 13, "message": "Internal Server Error: it hurts"}
        return self.answer(method, path, query, headers, body)

    def answer(
        self, method: str, path: str, query: dict[str, list[str]], headers: Any, body: bytes
    ) -> tuple[int, Any]:
        match method, path.removeprefix("/apis/v2beta1").split("/")[1:]:
            case "GET", ["healthz"]:
                return 200, {"multi_user": self.multi_user, "tag_name": self.tag}
            case "GET", ["pipelines"]:
                return 200, {"pipelines": _chosen(self.pipelines, query)}
            case "GET", ["pipelines", _, "versions"]:
                return 200, {"pipeline_versions": _chosen(self.versions, query)}
            case "POST", ["pipelines", "upload"]:
                self.packages.append(_package(headers, body))
                made = {"pipeline_id": self._id("pipeline"), "display_name": query["name"][0]}
                self.pipelines.append(made)
                return 200, made
            case "POST", ["pipelines", "upload_version"]:
                self.packages.append(_package(headers, body))
                made = {
                    "pipeline_id": query["pipelineid"][0],
                    "pipeline_version_id": self._id("version"),
                    "display_name": query["name"][0],
                }
                self.versions.append(made)
                return 200, made
            case "GET", ["experiments"]:
                return 200, {"experiments": _chosen(self.experiments, query)}
            case "POST", ["experiments"]:
                made = json.loads(body) | {"experiment_id": self._id("experiment")}
                self.experiments.append(made)
                return 200, made
            case "GET", ["runs"]:
                return 200, _page([*map(self._in_list, _chosen(self.runs, query))], query)
            case "POST", ["runs"] if client.NOWHERE in body.decode():
                return 500, {"code": 13, "message": situations.NO_VERSION}
            case "POST", ["runs"]:
                made = json.loads(body) | {"run_id": self._id("run"), "state": "PENDING"}
                self.runs.append(made)
                return 200, made
            case "GET", ["runs", run_id]:
                found = [run for run in self.runs if run["run_id"] == run_id]
                if not found:
                    return 404, {"code": 5, "message": situations.NO_RUN.format(run_id)}
                if "state_history" in found[0]:
                    return 200, self._going_on(found[0])
                if self.replay:
                    return 200, found[0] | self.replay.run(self.clock.now)
                state = self.states.popleft() if len(self.states) > 1 else self.states[0]
                return 200, found[0] | state
            case "POST", ["runs", call] if stateful := self._stateful(call):
                return self._changed(stateful, call.rpartition(":")[2])
            case "POST", ["runs", call] if call.endswith(":retry"):
                self.retried.append(call.removesuffix(":retry"))
                return 200, {}
            case "POST", ["runs", call] if call.endswith(":terminate") and self.replay:
                self.replay.terminated = self.clock.now
                return 200, {}
            case "GET", ["apis", "v1beta1", "runs", _] if self.replay:
                manifest = self.replay.manifest(self.clock.now)
                if manifest:
                    return 200, {"pipeline_runtime": {"workflow_manifest": manifest}}
            case "GET", ["apis", "v1alpha1", "runs", _, "nodes", node, "log"] if self.replay:
                return 200, self.replay.log(node, self.clock.now)
            case "DELETE", [*_, kind, identity]:
                left = [one for one in getattr(self, kind) if identity not in one.values()]
                setattr(self, kind, left)
                return 200, {}
            case "GET", ["recurringruns"]:
                return 200, {"recurringRuns": _chosen(self.recurring_runs, query)}
            case "POST", ["recurringruns"]:
                made = json.loads(body) | {"recurring_run_id": self._id("schedule")}
                self.recurring_runs.append(made)
                return 200, made
        return 404, {"code": 5, "message": "Not Found"}

    def _in_list(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run without its inputs and steps."""
        if not self.replay or "state_history" in run:
            return run
        return run | self.replay.run(self.clock.now) | {"runtime_config": {}, "run_details": None}

    def _stateful(self, call: str) -> dict[str, Any] | None:
        """The run of a call, where it has states of its own."""
        called = [run for run in self.runs if run.get("run_id") == call.partition(":")[0]]
        return called[0] if called and "state_history" in called[0] else None

    def _changed(self, run: dict[str, Any], verb: str) -> tuple[int, Any]:
        """What a real server answers to these calls."""
        wanted, state, refusal = {
            "retry": (("FAILED",), "RUNNING", (409, 10, situations.NOT_FAILED)),
            "terminate": (("PENDING", "RUNNING"), "CANCELING", (400, 3, situations.ENDED)),
        }[verb]
        if run["state"] not in wanted:
            status, code, message = refusal
            return status, {"code": code, "message": message.format(run["run_id"])}
        self._enter(run, state)
        return 200, {}

    def _enter(self, run: dict[str, Any], state: str) -> None:
        run["state"] = state
        run["state_history"].append({"update_time": situations.at(0), "state": state})

    def _going_on(self, run: dict[str, Any]) -> dict[str, Any]:
        """The run as it stands; one that is being cancelled has ended when it is next asked for."""
        answer = json.loads(json.dumps(run))
        if run["state"] == "CANCELING":
            self._enter(run, "FAILED")
        return answer

    def _id(self, kind: str) -> str:
        return f"{kind}-{next(self._ids)}"


def _chosen(things: list[dict[str, Any]], query: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The things that the API's filter asks for."""
    if "filter" not in query:
        return things
    predicates = json.loads(query["filter"][0])["predicates"]
    return [t for t in things if all(t[p["key"]] == p["stringValue"] for p in predicates)]


def _page(runs: list[dict[str, Any]], query: dict[str, list[str]]) -> dict[str, Any]:
    """A page of a list of runs, the newest first."""
    runs = sorted(runs, key=lambda run: run.get("created_at", ""), reverse=True)
    start, size = int(query.get("page_token", "0")[0]), int(query.get("page_size", ["100"])[0])
    following = {"next_page_token": str(start + size)} if start + size < len(runs) else {}
    return {"runs": runs[start : start + size], "total_size": len(runs), **following}


def _package(headers: Any, body: bytes) -> str:
    """The file in a multipart upload."""
    head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
    part = email.message_from_bytes(head + body).get_payload()[0]
    return part.get_payload(decode=True).decode()


@pytest.fixture
def kubeflow(clock: Clock) -> Iterator[KubeflowPipelines]:
    state = KubeflowPipelines()
    state.clock = clock
    with serving(state):
        yield state


@contextlib.contextmanager
def serving(state: Served) -> Iterator[Served]:
    """It answers at `host` for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if state.page:
                status, kind, content = 200, "text/html", state.page.encode()
            else:
                status, answer = state.handle(self.command, self.path, self.headers, body)
                kind, content = "application/json", json.dumps(answer).encode()
                if isinstance(answer, str) and self.path.endswith("/log"):
                    kind, content = "text/plain; charset=utf-8", answer.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = respond

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    state.server = server
    state.host = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
