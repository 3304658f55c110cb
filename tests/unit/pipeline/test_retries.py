"""Which runs `race submit --wait --retries` tries again, and how often."""

import dataclasses
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import cli, follow
from pipeline.follow import Follower, RunError
from pipeline.workflow import Pod, StepStatus

PLAIN = "main: Error (exit code 1)"


def failed(message: str, phase: str = "Failed") -> StepStatus:
    return StepStatus("train", "failed", (Pod("pod-1", phase, message),))


@pytest.mark.parametrize(
    ("step", "exit_status", "passes"),
    [
        *((failed(PLAIN), status, True) for status in (4, 6, 137, 143)),
        *((failed(PLAIN), status, False) for status in (1, 2, 3, 5, 7, 8)),
        (failed(PLAIN), None, False),
        (failed("pod deleted", "Error"), None, True),
        (failed("The node was low on resource: memory. Threshold quantity: 100Mi"), None, True),
        (failed("main: OOMKilled (exit code 137)"), 137, False),
        (failed("OOMKilled (exit code 137)"), None, False),
        (failed("ErrImagePull: not found", "Error"), None, False),
        (failed('pods "x" is forbidden: maximum memory is 4Gi', "Error"), None, False),
        (dataclasses.replace(failed("pod deleted"), driver=True), None, False),
        (StepStatus("train", "failed"), None, False),
    ],
)
def test_what_may_pass(step: StepStatus, exit_status: int | None, passes: bool) -> None:
    assert step.may_pass(exit_status) is passes


class Run:
    """A run that ends like this each time that it is tried: the exit statuses of train, 0 last."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.retried: list[str] = []
        self.server = SimpleNamespace(address=lambda kind, identity: f"https://{kind}/{identity}")

    def run(self, run_id: str) -> Any:
        state = "FAILED" if self.statuses[0] else "SUCCEEDED"
        return SimpleNamespace(
            state=state, state_history=[], runtime_config=None, history=(), parameters={}, tasks=()
        )

    def manifest(self, run_id: str) -> str:
        phase = "Failed" if self.statuses[0] else "Succeeded"
        nodes = {
            "pod-1": {
                "id": "pod-1",
                "name": "race-roberta-abcde(0).root(0).train(0).executor(0)",
                "type": "Pod",
                "phase": phase,
                "message": PLAIN,
            }
        }
        return json.dumps({"status": {"phase": phase, "nodes": nodes}})

    def log(self, run_id: str, node: str) -> str:
        said = f"failed to execute component: exit status {self.statuses[0]}"
        return f"F1125 17:40:41.503138      16 main.go:59] {said}\n"

    def retry(self, run_id: str) -> None:
        self.retried.append(run_id)
        self.statuses.pop(0)


@pytest.mark.parametrize(
    ("statuses", "retries", "made", "ends"),
    [
        ([6, 0], 3, 1, 0),
        ([6, 4, 0], 2, 2, 0),
        ([6, 6, 6, 0], 2, 2, 6),
        ([6, 0], 0, 0, 6),
        ([8, 0], 3, 0, 8),
        ([6, 3, 0], 3, 1, 3),
    ],
)
def test_a_run_is_retried_while_that_may_help(
    monkeypatch: pytest.MonkeyPatch, statuses: Sequence[int], retries: int, made: int, ends: int
) -> None:
    monkeypatch.setattr(follow.time, "sleep", lambda seconds: None)
    api: Any = Run(*statuses)
    ended = 0
    try:
        Follower(api, "run-1", 10.0).follow_on(retries)
    except RunError as error:
        ended = error.exit_status
    assert ended == ends
    assert api.retried == ["run-1"] * made


def test_only_a_run_that_is_followed_can_be_retried(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "--host", "https://example.org", "--retries", "2"]) == 2
    assert "--retries wants --wait" in capsys.readouterr().err
