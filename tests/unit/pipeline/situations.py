"""What a server of Kubeflow Pipelines answers while a run goes on, in 16 situations.

They have the fields, states, times and messages that a real server (KFP 2.17.0, Argo 4.0) gave when
the smoke config's run met each of them: a step's nodes in the workflow, and the tasks of the
v2beta1 API, which are those nodes without their messages. Where RACE_KFP_RECORDINGS has that
server's own answers, they are replayed too.
"""

import base64
import datetime
import gzip
import json
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
NEVER = float("inf")
NAME = "race-roberta-abcde"
PHASES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Skipped": "SKIPPED",
    "Failed": "FAILED",
    "Error": "FAILED",
}
ENDS = {"SUCCEEDED": "Succeeded", "FAILED": "Failed"}
PLAIN = "main: Error (exit code 1)"
STOPPED = "Step exceeded its deadline"
DEADLINE = "retry exceeded workflow deadline 2026-01-01 00:00:00 +0000 UTC"


def at(seconds: float) -> str:
    return f"{START + datetime.timedelta(seconds=int(seconds)):%Y-%m-%dT%H:%M:%SZ}"


def launcher_log(own: str, status: int) -> str:
    """The end of an executor's log: its JSON, what the program wrote, and the launcher's words."""
    return (
        'I0101 00:00:10.174783      17 launcher_v2.go:125] input ExecutorInput:{\n    "inputs": {\n'
        '    "outputFile": "/minio/output_metadata.json"\n    }\n}\n'
        f"{own}\n"
        "E0101 00:00:15.377143      17 launcher_v2.go:449] Component failed to execute"
        f" successfully: exit status {status}\n"
        "I0101 00:00:15.395171      17 launcher_v2.go:206] publish success.\n"
        "F0101 00:00:15.398887      17 main.go:59] failed to execute component: exit status"
        f" {status}\n"
    )


NO_LOG = (
    '{"error_message":"BadRequestError: Failed to read logs for run r: InternalServerError: Failed'
    ' to read logs from archive n due to error fetching the log file","error_details":"NoSuchKey"}'
)


NO_RUN = "Failed to get a run: Failed to fetch run {0}: ResourceNotFoundError: Run {0} not found"
NO_VERSION = (
    "Failed to create a run: InternalServerError: Failed to create a run due to error fetching"
    " manifest: Failed to fetch a template due to error retrieving pipeline version"
)
NOT_FAILED = (
    "Failed to retry a run: Failed to retry run {}: BadRequestError: Workflow must be Failed/Error"
    " to retry: workflow cannot be retried"
)
ENDED = (
    "Failed to terminate a run: Failed to terminate run {0}: Invalid input error: Failed to"
    " terminate a run {0}. Row not found"
)


def listed(
    run_id: str, name: str, minute: int, *states: str, pipeline: str = "race", took: int = 444
) -> dict[str, Any]:
    """A run as lists of runs have it, which began at that minute and has had these states."""
    began = START + datetime.timedelta(minutes=minute)
    going = states[-1] in ("PENDING", "RUNNING", "CANCELING")
    end = f"{began + datetime.timedelta(seconds=took):%Y-%m-%dT%H:%M:%SZ}"
    return {
        "experiment_id": "experiment-1",
        "run_id": run_id,
        "display_name": name,
        "storage_state": "AVAILABLE",
        "pipeline_version_reference": {
            "pipeline_id": f"pipeline-{pipeline}",
            "pipeline_version_id": "version-1",
        },
        "runtime_config": {},
        "created_at": f"{began:%Y-%m-%dT%H:%M:%SZ}",
        "finished_at": "1970-01-01T00:00:00Z" if going else end,
        "state": states[-1],
        "state_history": [{"update_time": at(60 * minute), "state": state} for state in states],
    }


@dataclass(frozen=True)
class Attempt:
    """A pod: when it is made, runs and ends, and what is said of it meanwhile and at its end."""

    start: float
    end: float = NEVER
    phase: str = "Succeeded"
    message: str = ""
    log: str = NO_LOG
    pending: float = 8
    waits: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Step:
    """A step; without attempts it was cached."""

    name: str
    start: float
    end: float = NEVER
    attempts: Sequence[Attempt] = ()
    phase: str = "Succeeded"
    message: str = ""
    trial: int | None = None
    driver_log: str = ""  # its driver failed with it: the step itself never starts


@dataclass
class Situation:
    """A run. `states` are its own, with their times; the history has entries without one (None).

    Steps are written `lag` seconds after the run's own state.
    """

    states: Sequence[tuple[float, str | None]]
    steps: Sequence[Step]
    parameters: dict[str, Any] = field(default_factory=dict)
    older: bool = False  # KFP 2.14 to 2.16: drivers and DAGs are not tried again
    compressed: float = NEVER  # from when on the nodes are, and the v2beta1 API stands still
    lag: float = 0
    terminated: float = NEVER  # by who follows it

    def _states(self, now: float) -> list[tuple[float, str | None]]:
        states = [s for s in self.states if s[0] <= min(now, self.terminated)]
        ends = [(self.terminated, "CANCELING"), (self.terminated + 15, "FAILED")]
        return states + [end for end in ends if end[0] <= now]

    def run(self, now: float) -> dict[str, Any]:
        """What the v2beta1 API says of it."""
        states = self._states(now)
        history = [
            {"update_time": at(time)} | ({"state": state} if state else {})
            for time, state in states
        ]
        nodes = self._nodes(min(max(now - self.lag, 0), self.compressed))
        tasks = [_task(node, nodes) for node in nodes]
        tasks += [_execution(node) for node in nodes if "executor(" in node["displayName"]]
        answer = {
            "state_history": history,
            "runtime_config": {"parameters": self.parameters},
            "run_details": {"task_details": tasks},
        }
        return answer | ({"state": states[-1][1]} if states[-1][1] else {})

    def manifest(self, now: float) -> str:
        """The workflow that the v1beta1 API hands out."""
        now = max(now - self.lag, 0)
        nodes = {node["id"]: node for node in self._nodes(now)}
        status: dict[str, Any] = {"phase": ENDS.get(self._states(now)[-1][1] or "", "Running")}
        if now < self.compressed:
            status["nodes"] = nodes
        else:
            packed = gzip.compress(json.dumps(nodes).encode())
            status["compressedNodes"] = base64.b64encode(packed).decode()
        return json.dumps({"metadata": {"name": NAME}, "spec": {}, "status": status})

    def log(self, node: str, now: float) -> str:
        found = [log for name, log in self._logs(now) if _identity(name) == node]
        return found[-1] if found else NO_LOG

    def _logs(self, now: float) -> Iterator[tuple[str, str]]:
        for step in self._begun(now):
            yield f"{self._path(step)}-driver(0)", step.driver_log
            for number, attempt in enumerate(step.attempts):
                yield f"{self._path(step)}{self._again}.executor({number})", attempt.log

    @property
    def _again(self) -> str:
        return "" if self.older else "(0)"

    def _path(self, step: Step) -> str:
        parts = [NAME, "root"]
        if step.trial is not None:
            number = step.trial
            parts += ["for-loop-1", f"iteration-iterations({number}:{number})", "iteration-item"]
        return "".join(f"{part}{self._again}." for part in parts) + step.name

    def _begun(self, now: float) -> list[Step]:
        """Each step as it stands: of one that KFP's retry call ran again, its newest turn."""
        begun = [step for step in self.steps if step.start <= now + 10]
        newest = {(step.name, step.trial): step for step in begun if step.start <= now}
        return [s for s in begun if newest.get((s.name, s.trial), s) is s]

    def _nodes(self, now: float) -> list[dict[str, Any]]:
        ended = self._states(now)[-1]
        end = ended[0] if ended[1] in ENDS else NEVER
        phase = ENDS.get(ended[1] or "", "Running")
        spans: list[tuple[str, str, float, float, str, str]] = [
            (NAME + self._again, "DAG", 0, end, phase, ""),
            (f"{NAME}{self._again}.root-driver{self._again}", "Pod", 0, 5, "Succeeded", ""),
            (f"{NAME}{self._again}.root{self._again}", "DAG", 10, end, phase, ""),
        ]
        for step in self._begun(now):
            spans += self._spans(step, now)
        found = [_node(now, *span) for span in spans if span[2] <= now]
        if phase == "Failed":
            done = {step.name for step in self._begun(now)}
            for name in ("train", "evaluate", "gate"):
                if name not in done:
                    path = f"{NAME}{self._again}.root{self._again}.{name}"
                    why = "omitted: depends condition not met"
                    found.append(_node(now, path, "Skipped", end, end, "Omitted", why))
        return found

    def _spans(self, step: Step, now: float) -> Iterator[tuple[str, str, float, float, str, str]]:
        path, again = self._path(step), self._again
        first = min(s.start for s in self.steps if (s.name, s.trial) == (step.name, step.trial))
        if step.driver_log:
            yield f"{path}-driver", "Retry", first, step.end, "Failed", PLAIN
            yield f"{path}-driver(0)", "Pod", first, step.end - 10, "Failed", PLAIN
            return
        if not self.older:
            yield f"{path}-driver", "Retry", first - 10, first, "Succeeded", ""
        yield f"{path}-driver{again}", "Pod", first - 10, first - 5, "Succeeded", ""
        if not self.older:
            yield path, "Retry", step.start, step.end, step.phase, step.message
        yield path + again, "DAG", step.start, step.end, step.phase, ""
        executor = f"{path}{again}.executor"
        if not step.attempts:
            why = "when 'true != true' evaluated false"
            yield executor, "Skipped", step.start, step.start, "Skipped", why
            return
        message = step.message or step.attempts[-1].message
        yield executor, "Retry", step.start, step.end, step.phase, message
        for number, pod in enumerate(step.attempts):
            phase, message = pod.phase, pod.message
            if now < pod.end:
                phase = "Pending" if now < pod.start + pod.pending else "Running"
                turn = bisect_right([time for time, _ in pod.waits], now)
                message = pod.waits[turn - 1][1] if turn and phase == "Pending" else ""
            end = min(pod.end, self.terminated) if now >= self.terminated else pod.end
            if end < pod.end:
                phase, message = "Failed", STOPPED
            yield f"{executor}({number})", "Pod", pod.start, end, phase, message


def _identity(name: str) -> str:
    return f"{NAME}-{zlib.crc32(name.encode())}"


def _node(
    now: float, name: str, kind: str, start: float, end: float, phase: str, message: str
) -> dict[str, Any]:
    going = now < end
    node = {
        "id": _identity(name),
        "name": name,
        "displayName": name.rpartition(".")[2],
        "type": kind,
        "phase": "Running" if going and phase not in ("Pending", "Running") else phase,
        "startedAt": at(start),
        "finishedAt": None if going else at(end),
    }
    if message and (not going or kind == "Pod"):
        node["message"] = message
    return node


def _task(node: dict[str, Any], nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """The node as the v2beta1 API shows it, with the nodes that are its attempts."""
    attempts = [n for n in nodes if n["name"].startswith(f"{node['name']}(")]
    children = [
        {"pod_name": n["id"]} for n in attempts if "." not in n["name"][len(node["name"]) :]
    ]
    state = {"state": PHASES[node["phase"]]} if node["phase"] in PHASES else {}
    return _execution(node) | {
        "display_name": node["displayName"],
        "state_history": [{"update_time": node["startedAt"], **state}],
        **state,
        **({"child_tasks": children} if children else {}),
    }


def _execution(node: dict[str, Any]) -> dict[str, Any]:
    """What the metadata store has of a pod: no name, no state."""
    return {
        "task_id": node["id"],
        "create_time": at(0),
        "start_time": node["startedAt"],
        "end_time": node["finishedAt"] or "0001-01-01T00:00:00Z",
    }


@dataclass
class Recording:
    """The answers of the real server, at their times."""

    path: Path
    terminated: float = NEVER

    @cached_property
    def said(self) -> dict[str, Any]:
        return json.loads(gzip.decompress(self.path.read_bytes()))

    def run(self, now: float) -> dict[str, Any]:
        answers = self.said["get_run_v2beta1"]
        found = [a["answer"] for a in answers if a["after_s"] <= now] or [answers[0]["answer"]]
        return {name: value for name, value in found[-1].items() if name != "run_id"}

    def manifest(self, now: float) -> str:
        turns = [
            (turn["after_s"], turn["workflow_status"])
            for turn in self.said.get("workflow_status_while_running", [])
        ]
        last = self.said["get_run_v2beta1"][-1]["after_s"]
        turns.append((last, self.said["get_run_v1beta1_at_the_end"]["workflow_status"]))
        found = [status for time, status in turns if time <= now]
        return json.dumps({"status": found[-1]}) if found else ""

    def log(self, node: str, now: float) -> str:
        body = self.said["logs_v1alpha1"].get(node, {"body": NO_LOG})["body"]
        return body if isinstance(body, str) else json.dumps(body)


def cached(*starts: float) -> list[Step]:
    """The data steps, as an earlier run made them."""
    names = ("download-race", "download-bpe", "download-roberta", "preprocess", "binarize")
    return [Step(name, start, start) for name, start in zip(names, starts, strict=True)]


def ran(name: str, start: float, pod_end: float, end: float, trial: int | None = None) -> Step:
    return Step(name, start, end, [Attempt(start, pod_end)], trial=trial)


def going(end: float, state: str = "FAILED") -> list[tuple[float, str | None]]:
    return [(0, "PENDING"), (1, "RUNNING"), (end, state)]


def canceled(when: float, end: float) -> list[tuple[float, str | None]]:
    return [(0, "PENDING"), (1, "RUNNING"), (when, "CANCELING"), (end, "FAILED")]


DATA = cached(21, 21, 21, 31, 41)
GATE_LOG = launcher_log(
    "error: accuracy 97.37 % is below min_accuracy 100 % (chance is 25 %). Train longer or with"
    " other settings, or lower min_accuracy",
    7,
)
KILLED = launcher_log("training roberta_base (packed, fp32) on 1 CPU process\nKilled", 137)
RANK = launcher_log("error: training: rank 0 was killed by SIGKILL. See the log above", 6)
RIGHTS = launcher_log(
    "error: service account kubeflow:pipeline-runner lacks rights in namespace kubeflow: create"
    " trainjobs.trainer.kubeflow.org. Bind the Role of pipeline/manifests to it",
    2,
)
QUANTITY = (
    '    "outputFile": "/minio/output_metadata.json"\n  }\n}\n'
    "F0101 00:00:49.174783      19 main.go:127] KFP driver: driver.Container(pipelineName="
    'race-roberta, runID=r, taskName="download-race", component="comp-download-race") failed:'
    " failed to init podSpecPatch: quantities must match the regular expression '^([+-]?[0-9.]+)$'"
)
SECRET = (
    'Pod "race-roberta-abcde-retry-system-container-impl-1" is invalid: [spec.containers[1].env[1]'
    '.valueFrom.secretKeyRef.name: Invalid value: "Not_A_Name": a lowercase RFC 1123 subdomain'
)
LIMIT = (
    'pods "race-roberta-abcde-retry-system-container-impl-1" is forbidden: maximum memory usage per'
    " Container is 4Gi, but limit is 5Gi"
)
CPU = "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes"
PULL = 'ImagePullBackOff: Back-off pulling image "registry.example.org/race-train:none"'
PULL_ERROR = 'ErrImagePull: failed to pull and unpack image "registry.example.org/race-train:none"'


def _oom(start: float, pod_end: float, end: float) -> Step:
    pod = Attempt(start, pod_end, "Failed", "main: OOMKilled (exit code 1)", KILLED, 1)
    return Step("train", start, end, [pod], "Failed")


def _gate(start: float, pod_end: float, end: float) -> Step:
    pod = Attempt(start, pod_end, "Failed", PLAIN, GATE_LOG, 1)
    return Step("gate", start, end, [pod], "Failed")


def _stopped(pod: Attempt, end: float) -> Step:
    return Step("train", pod.start, end, [pod], "Failed", DEADLINE)


def _refused(message: str, *times: float) -> Step:
    pods = [Attempt(time, time, "Error", message) for time in times]
    return Step("train", times[0], 1012, pods, "Error", DEADLINE)


TRAINED = [ran("train", 51, 163, 173), ran("evaluate", 183, 200, 204)]
DELETED = Attempt(51, 124, "Error", "pod deleted", "published update-000080: 0.9 MiB in 0.2 s\n")
SITUATIONS = {
    "succeeded": Situation(
        going(424, "SUCCEEDED"),
        [
            ran("download-race", 21, 95, 105),
            ran("download-bpe", 21, 31, 41),
            ran("download-roberta", 21, 31, 41),
            ran("preprocess", 115, 147, 157),
            ran("binarize", 167, 177, 187),
            ran("train", 198, 312, 322),
            ran("evaluate", 332, 397, 403),
            ran("gate", 413, 421, 424),
        ],
    ),
    "gate-failed": Situation(going(224), [*DATA, *TRAINED, _gate(214, 219, 224)]),
    "pod-deleted-retried": Situation(
        going(361, "SUCCEEDED"),
        [
            *DATA,
            Step("train", 51, 293, [DELETED, Attempt(196, 283)]),
            ran("evaluate", 304, 329, 340),
            ran("gate", 350, 357, 361),
        ],
    ),
    "pod-deleted-not-retried-older-kfp": Situation(
        going(162), [*DATA, Step("train", 51, 162, [DELETED], "Error")], older=True
    ),
    "unschedulable-then-terminated": Situation(
        canceled(186, 206),
        [
            *DATA,
            _stopped(Attempt(61, 195, "Failed", STOPPED, pending=200, waits=[(70, CPU)]), 206),
        ],
        older=True,
    ),
    "image-pull": Situation(
        [(0, "PENDING"), (1, None), (2, "RUNNING"), (1000, "CANCELING"), (1012, "FAILED")],
        [
            *DATA,
            _stopped(
                Attempt(
                    85,
                    1012,
                    "Failed",
                    STOPPED,
                    pending=1012,
                    waits=[
                        (time, PULL if turn % 3 else PULL_ERROR)
                        for turn, time in enumerate(range(90, 1000, 10))
                    ],
                ),
                1012,
            ),
        ],
    ),
    "limit-range": Situation(canceled(1000, 1012), [*DATA, _refused(LIMIT, 51, 122)]),
    "bad-secret-name": Situation(canceled(1000, 1012), [*DATA, _refused(SECRET, 61, 132, 264)]),
    "bad-quantity": Situation(
        [(0, "PENDING"), (1, None), (2, "RUNNING"), (42, "FAILED")],
        [
            Step("download-race", 11, 31, driver_log=QUANTITY),
            Step("download-bpe", 11, 31, driver_log=QUANTITY),
            Step("download-roberta", 11, 42, driver_log=QUANTITY),
        ],
    ),
    "oom": Situation(going(141), [*DATA, _oom(51, 61, 141)], lag=3),
    "sweep-two-trials": Situation(
        going(500, "SUCCEEDED"),
        [
            ran("download-race", 20, 104, 115),
            ran("download-bpe", 20, 33, 41),
            ran("download-roberta", 20, 32, 41),
            ran("trials", 20, 31, 41),
            ran("preprocess", 146, 171, 181),
            ran("binarize", 192, 205, 214),
            ran("train", 245, 318, 328, trial=0),
            ran("train", 245, 405, 415, trial=1),
            ran("evaluate", 339, 429, 437, trial=0),
            ran("evaluate", 426, 446, 448, trial=1),
            ran("select", 458, 468, 480),
            ran("gate", 490, 498, 500),
        ],
        {"seeds": [1, 2], "learning_rates": [], "seed": 1, "learning_rate": 1e-5},
        compressed=239,
    ),
    "trainjob-no-rights": Situation(
        canceled(140, 150), [*DATA, _stopped(Attempt(60, 77, "Failed", PLAIN, RIGHTS), 150)]
    ),
    "trainjob-terminated": Situation(
        canceled(122, 133),
        [
            *DATA,
            _stopped(Attempt(62, 124, "Failed", "main: Error (exit code 143)", "epoch 1/2\n"), 133),
        ],
    ),
    "retry-resumed": Situation(
        [*going(236), (243, "RUNNING"), (360, "SUCCEEDED")],
        [
            *DATA,
            Step("train", 51, 236, [Attempt(51, 164, "Failed", PLAIN, RANK)], "Failed"),
            ran("train", 243, 276, 287),
            ran("evaluate", 297, 329, 339),
            ran("gate", 349, 356, 360),
        ],
    ),
    "retry-of-oom": Situation(
        [*going(141), (2240, "RUNNING"), (2334, "FAILED")],
        [*DATA, _oom(51, 61, 141), _oom(2241, 2255, 2334)],
    ),
    "retry-of-gate": Situation(
        [*going(224), (3115, "RUNNING"), (3139, "FAILED")],
        [*DATA, *TRAINED, _gate(214, 219, 224), _gate(3117, 3126, 3139)],
    ),
}
