"""A server that plays as much of a Kubernetes cluster as a training on several nodes needs."""

import datetime
import json
import re
import shutil
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from components.common.retry import Patience
from components.common.storage import artifact, publication
from components.train.cluster.api import Api
from components.train.cluster.config import ClusterConfig
from components.train.cluster.core import Timing
from components.train.cluster.manifest import API_VERSION, CONTAINER, JOB_LABEL
from components.train.config import TrainConfig

SECOND = 1_000_000_000  # nanoseconds
WAIT = 10.0  # seconds after which a test has gone wrong


class Log:
    """What a container has written so far: lines with the times (ns) at which it did."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []
        self.ended = False
        self.changed = threading.Condition()

    def write(self, *lines: str, at: int | None = None) -> None:
        """Lines without their ends; the last one stays without if it ends with "\\0"."""
        with self.changed:
            for line in lines:
                now = at if at is not None else time.time_ns()
                text = line.encode() + b"\n" if not line.endswith("\0") else line[:-1].encode()
                self.lines.append((now, text))
            self.changed.notify_all()

    def end(self) -> None:
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def taken(self, start: int, *, wait: float) -> tuple[list[tuple[int, bytes]], bool]:
        """The lines from number `start` on, and whether no more will come."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.lines) > start or self.ended, wait)
            return self.lines[start:], self.ended


class FakeKubernetes:
    """What the cluster holds, what it was asked, and how it shall misbehave."""

    def __init__(self) -> None:
        self.address = ""
        self.token = "good-token"
        self.known = {API_VERSION}
        self.runtimes = {"race-torch"}
        self.denied: set[str] = set()  # such as "create trainjobs" or "get pods/log"
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[tuple[str, int], Log] = {}  # by the pod's name, and its restarts
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.reviews: list[dict[str, str]] = []  # rights that somebody asked for
        # (method, pattern of the path and query, status, whether it has its effect all the same)
        self.failures: list[tuple[str, str, int, bool]] = []
        self.lingering = 0  # times that a deleted job is asked for before it is gone
        self.cut_logs: deque[int] = deque()  # bytes after which the next streams break off
        self.drip = 0.0  # seconds between two pieces of a log
        self.controller: Callable[[FakeKubernetes, dict[str, Any]], None] = lambda *_: None
        self.failed: list[BaseException] = []  # what the controller raised
        self.changed = threading.Condition()
        self.closing = False
        self._uids = 0

    # What a controller does

    def state(self, name: str, **status: Any) -> None:
        """Change a job's status."""
        with self.changed:
            self.jobs[name]["status"] = status

    def true(self, name: str, type: str, reason: str = "", message: str = "") -> None:
        """Add a condition to a job."""
        job = self.jobs[name]
        condition = {"type": type, "status": "True", "reason": reason, "message": message}
        status = job.get("status", {})
        self.state(name, **{**status, "conditions": [*status.get("conditions", []), condition]})

    def pod(self, job: str, rank: int, name: str = "", **status: Any) -> str:
        """Make a node's pod, or change its status; gives its name."""
        name = name or f"{job}-{rank}"
        with self.changed:
            if name not in self.pods:
                self._uids += 1
                made = f"2026-01-01T00:00:{self._uids % 60:02}Z"
                index = {"batch.kubernetes.io/job-completion-index": str(rank)}
                self.pods[name] = {
                    "metadata": {
                        "name": name,
                        "uid": f"uid-{self._uids}",
                        "creationTimestamp": made,
                        "labels": {JOB_LABEL: job, **index},
                    }
                }
            self.pods[name]["status"] = status
        return name

    def container(
        self, job: str, rank: int, name: str = "", restarts: int = 0, **state: Any
    ) -> Log:
        """Make a node's pod with a container in a state, such as running={}; gives its log."""
        last = state.pop("last", None)
        status = {
            "name": CONTAINER,
            "restartCount": restarts,
            "state": state,
        }
        if last:
            status["lastState"] = {"terminated": last}
        phase = "Pending" if "waiting" in state else "Running"
        made = self.pod(job, rank, name, phase=phase, containerStatuses=[status])
        return self.logs.setdefault((made, restarts), Log())

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.002)

    def asked(self, method: str, pattern: str) -> int:
        """How many requests there were of a kind."""
        return sum(m == method and bool(re.search(pattern, p)) for m, p, _ in self.requests)

    def fail(self, method: str, pattern: str, *statuses: int, lost_reply: bool = False) -> None:
        """Answer the next requests of this kind with these statuses; 0 resets the connection."""
        self.failures += [(method, pattern, status, lost_reply) for status in statuses]

    # What it answers

    def handle(self, handler: Any, method: str, body: bytes) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.requests.append((method, parts.path, query))
        if handler.headers.get("authorization") != f"Bearer {self.token}":
            return _reply(handler, 401, _status("Unauthorized"))
        for failure in list(self.failures):
            if failure[0] == method and re.search(failure[1], handler.path):
                self.failures.remove(failure)
                if failure[3]:
                    self.answer(method, parts.path, query, body)
                if not failure[2]:
                    return _reset(handler)
                return _reply(handler, failure[2], _status("it hurts"))
        if log := re.search(r"/pods/([^/]+)/log$", parts.path):
            return self.log(handler, log[1], query)
        return _reply(handler, *self.answer(method, parts.path, query, body))

    def answer(
        self, method: str, path: str, query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, Any]]:
        content = json.loads(body) if body else {}
        with self.changed:
            match method, path.strip("/").split("/"):
                case "POST", [*_, "selfsubjectaccessreviews"]:
                    asked = content["spec"]["resourceAttributes"]
                    self.reviews.append(asked)
                    return 201, {"status": {"allowed": not self._denied(asked)}}
                case "POST", [*_, "selfsubjectreviews"]:
                    name = "system:serviceaccount:team:pipeline-runner"
                    return 201, {"status": {"userInfo": {"username": name}}}
                case "GET", ["apis", group, version]:
                    if f"{group}/{version}" in self.known:
                        return 200, {"kind": "APIResourceList", "resources": []}
                case "GET", ["apis", _, _, "clustertrainingruntimes", name]:
                    if name in self.runtimes:
                        return 200, {"metadata": {"name": name}}
                case "POST", ["apis", _, _, "namespaces", "team", plural]:
                    if f"create {plural}" in self.denied:
                        return 403, _status(f"User cannot create resource {plural}")
                    return self._created(content)
                case "GET", ["apis", _, _, "namespaces", "team", _, name]:
                    if name in self.jobs:
                        job = self.jobs[name]
                        if "deletionTimestamp" in job["metadata"]:
                            self.lingering -= 1
                            if self.lingering < 0:
                                del self.jobs[name]
                                return 404, _status("not found")
                        return 200, job
                case "DELETE", ["apis", _, _, "namespaces", "team", _, name]:
                    if name in self.jobs:
                        assert content["propagationPolicy"] == "Foreground"
                        self.jobs[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                        if not self.lingering:
                            del self.jobs[name]
                        return 200, {"status": "Success"}
                case "GET", ["api", "v1", "namespaces", "team", "pods"]:
                    label, _, value = query["labelSelector"].partition("=")
                    found = self.pods.values()
                    return 200, {"items": [p for p in found if _labels(p).get(label) == value]}
                case "GET", ["api", "v1", "namespaces", "team", "pods", name]:
                    if name in self.pods:
                        return 200, self.pods[name]
        return 404, _status(f"{path} not found")

    def _denied(self, asked: dict[str, str]) -> bool:
        below = f"/{asked['subresource']}" if asked.get("subresource") else ""
        return f"{asked['verb']} {asked['resource']}{below}" in self.denied

    def _created(self, job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = job["metadata"]["name"]
        if name in self.jobs:
            return 409, _status(f'"{name}" already exists')
        self.jobs[name] = job
        job["metadata"]["creationTimestamp"] = datetime.datetime.now(datetime.UTC).isoformat()

        def control() -> None:
            try:
                self.controller(self, job)
            except BaseException as error:
                self.failed.append(error)
                raise

        threading.Thread(target=control, daemon=True).start()
        return 201, job

    def log(self, handler: Any, pod: str, query: dict[str, str]) -> None:
        if pod not in self.pods:
            return _reply(handler, 404, _status(f"pods {pod} not found"))
        (status,) = self.pods[pod]["status"]["containerStatuses"]
        assert query["container"] == status["name"]
        if "waiting" in status["state"]:
            return _reply(handler, 400, _status("container is waiting to start"))
        restarts = status["restartCount"] - (query.get("previous") == "true")
        if (pod, restarts) not in self.logs:
            return _reply(handler, 400, _status("previous terminated container not found"))
        log = self.logs[pod, restarts]
        since = 0
        if "sinceTime" in query:
            moment = datetime.datetime.fromisoformat(query["sinceTime"])
            assert not moment.microsecond
            since = int(moment.timestamp()) * SECOND
        cut = self.cut_logs.popleft() if self.cut_logs else None
        _head(handler)
        place, sent = 0, 0
        while True:
            lines, ended = log.taken(place, wait=0.05)
            place += len(lines)
            for moment, text in lines:
                if moment < since:
                    continue
                data = _stamped(moment, text)
                for piece in (
                    [data[i : i + 7] for i in range(0, len(data), 7)] if self.drip else [data]
                ):
                    if cut is not None and sent + len(piece) > cut:
                        _chunk(handler, piece[: cut - sent])
                        return _reset(handler)
                    sent += len(piece)
                    _chunk(handler, piece)
                    time.sleep(self.drip)
            if ended or query.get("follow") != "true" or self.closing:
                return _chunk(handler, b"")


def _stamped(moment: int, text: bytes) -> bytes:
    """A line as the API sends it: RFC 3339, without the zeros at the end of the fraction."""
    second = datetime.datetime.fromtimestamp(moment // SECOND, datetime.UTC)
    fraction = f".{moment % SECOND:09}".rstrip("0").rstrip(".")
    return f"{second:%Y-%m-%dT%H:%M:%S}{fraction}Z ".encode() + text


def _labels(pod: dict[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = pod["metadata"]["labels"]
    return labels


def _status(message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "message": message}


def _reply(handler: Any, status: int, content: dict[str, Any]) -> None:
    data = json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def _head(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/plain")
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()


def _chunk(handler: Any, data: bytes) -> None:
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
    handler.wfile.flush()


def _reset(handler: Any) -> None:
    """Break the connection off."""
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster, whose kubeconfig the client finds."""
    state = FakeKubernetes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            try:
                state.handle(self, self.command, body)
            except OSError:  # the client is gone
                self.close_connection = True

        do_GET = do_POST = do_DELETE = respond

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    write_kubeconfig(tmp_path / "kubeconfig", state.address, state.token)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield state
    state.closing = True
    server.shutdown()
    server.server_close()
    thread.join()
    assert not state.failed


def write_kubeconfig(path: Path, address: str, token: str) -> None:
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "fake", "cluster": {"server": address}}],
                "users": [{"name": "me", "user": {"token": token}}],
                "contexts": [
                    {
                        "name": "it",
                        "context": {"cluster": "fake", "user": "me", "namespace": "team"},
                    }
                ],
                "current-context": "it",
            }
        )
    )


PATIENCE = Patience(attempts=4, connect=5.0, read=5.0, first_wait=0.001, longest_wait=0.01)


@pytest.fixture
def timing() -> Timing:
    """Everything as in earnest, but fast."""
    return Timing(look=0.005, pause=0.005, pending=0.0, removal=5.0, drain=5.0, patience=PATIENCE)


@pytest.fixture
def api(kubernetes: FakeKubernetes) -> Api:
    return Api(patience=PATIENCE)


@pytest.fixture
def cluster() -> ClusterConfig:
    """Two GPUs on each node, and everything else that can be asked for."""
    return ClusterConfig(
        node_runtime="race-torch",
        node_cpu="8",
        node_memory="64Gi",
        node_gpus=2,
        node_service_account="race-nodes",
        gpu_type="nvidia.com/gpu",
        gpu_node_selector={"pool": "a100"},
        gpu_tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        s3_secret="race-s3",
        image_pull_secret="race-registry",
        image="registry.example.org/team/train@sha256:" + "0" * 64,
    )


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders in place of buckets, which makes for fast tests; artifacts are what they are."""
    real = artifact.open_store

    def open_store(uri: str, *arguments: Any) -> Any:
        return real(uri.replace("s3://", f"{tmp_path}/buckets/"), *arguments)

    for module in (artifact, publication):
        monkeypatch.setattr(module, "open_store", open_store)


@pytest.fixture(scope="session")
def questions(tiny_race: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As few files of a data set as the step looks at that trains elsewhere."""
    folder = tmp_path_factory.mktemp("questions")
    for part in ("label/train.label", *(f"input{n}/train.{e}" for n in range(5) for e in ENDS)):
        (folder / part).parent.mkdir(exist_ok=True)
        shutil.copyfile(tiny_race.data / part, folder / part)
    return folder


ENDS = ("bin", "idx")


@pytest.fixture
def config(questions: Path, tmp_path: Path) -> TrainConfig:
    """A training on three nodes, of which nobody trains here."""
    (tmp_path / "roberta").mkdir()
    (tmp_path / "roberta" / "model.pt").write_bytes(b"weights")
    return TrainConfig(
        data=questions,
        pretrained=tmp_path / "roberta",
        output=tmp_path / "model",
        num_nodes=3,
        effective_batch_size=12,
        precision="fp32",
        checkpoint_uri="s3://bucket/race/0c5e3a41",
    )
