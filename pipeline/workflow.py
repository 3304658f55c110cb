"""What a run's Argo workflow says of the run's steps: attempts, reasons, what was cached.

KFP 2.17 makes these nodes of a step, whose names are paths (2.14 to 2.16: without the numbers):

    W(0).root(0).train-driver(0)       Pod    resolves the inputs, asks the cache
    W(0).root(0).train(0).executor     Retry  the step, with all its attempts; Skipped when cached
    W(0).root(0).train(0).executor(0)  Pod    the first attempt

and within a sweep `...iteration-iterations(1:1)(0).iteration-item(0).train(0)...` for the trial of
index 1. Beyond 1 MB of nodes Argo keeps them compressed.
"""

import base64
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from components.common import strict_json
from components.common.errors import LASTING, one_line

LARGEST = 1 << 28  # bytes of nodes; a sweep of 30 trials has 11 MB

State = Literal["pending", "running", "retrying", "succeeded", "cached", "failed"]
_ENDED = ("Succeeded", "Failed", "Error")
_NUMBER = re.compile(r"\(\d+\)")
_TRIAL = re.compile(r"\((\d+):")

# Reasons of Kubernetes that the same pod will meet again: kubelet's for images and for Secrets,
# and the API server's for a pod that it does not take. A quota is different: others may leave.
_HOPELESS = re.compile(
    r"ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull|ImageInspectError"
    r"|CreateContainerConfigError|CreateContainerError|\bis invalid: |\bis forbidden: "
)
_PASSES = re.compile(r"exceeded quota")
# The container's own memory: it will not be enough again.
_OUT_OF_MEMORY = re.compile(r"OOMKilled\b")
# What Argo says where only the log knows more, and where the run was ended from outside.
_SILENT = re.compile(
    r"(main: )?Error \(exit code \d+\)|Step exceeded its deadline"
    r"|retry exceeded workflow deadline.*|No more retries left"
)


@dataclass(frozen=True)
class Pod:
    """An attempt. `node` is the id by which its log is asked for."""

    node: str
    phase: str
    message: str

    @property
    def reason(self) -> str:
        """Why it waits or failed; empty where only its log can say."""
        message = one_line(self.message)
        return "" if _SILENT.fullmatch(message) else message.removeprefix("main: ")


@dataclass(frozen=True)
class StepStatus:
    """How a step stands. `trial` is its index in a sweep; `driver` says that it is KFP's part.

    The state `retrying` is that of a step between two attempts.
    """

    name: str
    state: State
    pods: tuple[Pod, ...] = ()
    seconds: float = 0.0
    trial: int | None = None
    driver: bool = False
    ended: str = ""  # when, in ISO 8601

    @property
    def reason(self) -> str:
        return self.pods[-1].reason if self.pods else ""

    @property
    def hopeless(self) -> bool:
        """Whether what it waits for cannot come by itself."""
        waits = self.state in ("pending", "retrying")
        return waits and _cannot_start(self.reason)

    def may_pass(self, exit_status: int | None) -> bool:
        """Whether a step that has failed may end well when it is run again.

        Args:
            exit_status: of the program in its last pod, as its log tells it.
        """
        reason = self.reason
        if self.driver or not self.pods or _OUT_OF_MEMORY.match(reason) or _cannot_start(reason):
            return False  # a driver looks at the same inputs again
        if exit_status is not None:
            return exit_status not in (1, *LASTING)
        # A pod that was deleted, evicted or lost has its reason in Kubernetes.
        return bool(reason)


@dataclass(frozen=True)
class Workflow:
    """How a run stands. The steps are in the order of their start."""

    ended: bool
    steps: tuple[StepStatus, ...]


def _cannot_start(reason: str) -> bool:
    return bool(_HOPELESS.search(reason)) and not _PASSES.search(reason)


def read_workflow(manifest: str) -> Workflow | None:
    """The workflow as the v1beta1 API hands it out; None if it is none."""
    try:
        status = strict_json.loads(manifest)["status"]
        ended = status.get("phase") in _ENDED
        return Workflow(ended, tuple(_steps(nodes_of(status), ended)))
    except (AttributeError, LookupError, TypeError, ValueError, zlib.error):
        return None


def nodes_of(status: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The nodes in a workflow's status; raises what `read_workflow` takes for none."""
    packed = status.get("compressedNodes")
    nodes = _unpacked(packed) if packed else status.get("nodes") or {}
    return list(nodes.values())


def _unpacked(packed: str) -> Any:
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    text = inflate.decompress(base64.b64decode(packed), LARGEST)
    if inflate.unconsumed_tail:
        raise ValueError("more nodes than any run of ours has")
    return strict_json.loads(text)


def _steps(nodes: Iterable[Mapping[str, Any]], ended: bool) -> list[StepStatus]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for node in nodes:
        path = _NUMBER.sub("", node["name"])
        part = path.rpartition(".")[2]
        if (part == "executor" or part.endswith("-driver")) and node["phase"] != "Omitted":
            groups[path].append(node)
    found = []
    for path, group in groups.items():
        group.sort(key=lambda node: (node.get("startedAt") or "", node["type"] == "Pod"))
        status = _status(path, group, ended)
        if not (status.driver and status.state in ("running", "succeeded")):
            found.append((group[0].get("startedAt") or "", status))
    return [status for _, status in sorted(found, key=lambda pair: pair[0])]


def trial_of(path: str) -> int | None:
    """The index of a sweep's trial, by the name of a node."""
    found = _TRIAL.search(path)
    return int(found[1]) if found else None


def _status(path: str, group: list[Mapping[str, Any]], ended: bool) -> StepStatus:
    pods = [node for node in group if node["type"] == "Pod"]
    whole = next((node for node in reversed(group) if node["type"] != "Pod"), group[-1])
    state = _state(whole["phase"], pods[-1]["phase"] if pods else "")
    if ended and state in ("pending", "running", "retrying"):
        state = "failed"
    *_, parent, part = path.split(".")
    return StepStatus(
        name=parent if part == "executor" else part.removesuffix("-driver"),
        state=state,
        pods=tuple(Pod(n["id"], n["phase"], n.get("message") or "") for n in pods),
        seconds=_seconds(whole),
        trial=trial_of(path),
        driver=part != "executor",
        ended=whole.get("finishedAt") or "",
    )


def _state(whole: str, pod: str) -> State:
    """The state by the phases of the step and of its last pod."""
    states: Mapping[str, State] = {
        "Succeeded": "succeeded",
        "Skipped": "cached",
        "Failed": "failed",
        "Error": "failed",
    }
    if whole in states:
        return states[whole]
    if pod in ("", "Pending"):
        return "pending"
    return "retrying" if pod in ("Failed", "Error") else "running"


def _seconds(node: Mapping[str, Any]) -> float:
    start, end = node.get("startedAt"), node.get("finishedAt")
    if not start or not end:
        return 0.0
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def steps_of_tasks(tasks: Sequence[Mapping[str, Any]], names: Iterable[str]) -> list[StepStatus]:
    """What the v2beta1 API has of these steps, for a server that hands out no workflow.

    It knows neither reasons nor attempts, and of a sweep only the order in which tasks were made.
    Which pod failed is known where just one did.
    """
    found: list[StepStatus] = []
    for name in names:
        of_step = [task for task in tasks if task.get("display_name") == name]
        of_step.sort(key=lambda task: str(task.get("create_time")))
        for number, task in enumerate(of_step):
            trial = number if len(of_step) > 1 else None
            found.append(replace(_of_task(name, task), trial=trial))
    failed = [status for status in found if status.state == "failed"]
    pods = [
        task["child_tasks"][-1]["pod_name"]
        for task in tasks
        if (task.get("display_name"), task.get("state")) == ("executor", "FAILED")
        and task.get("child_tasks")
    ]
    if len(failed) == len(pods) == 1:
        known = replace(failed[0], pods=(Pod(pods[0], "Failed", ""),))
        found[found.index(failed[0])] = known
    return found


def _of_task(name: str, task: Mapping[str, Any]) -> StepStatus:
    times = {"startedAt": task.get("start_time"), "finishedAt": task.get("end_time")}
    state = task.get("state")
    spent = _seconds(times) if state in ("SUCCEEDED", "FAILED") else 0.0
    states: Mapping[str | None, State] = {
        "RUNNING": "running",
        "SUCCEEDED": "succeeded" if spent else "cached",
        "FAILED": "failed",
    }
    return StepStatus(name, states.get(state, "pending"), seconds=spent)
