"""Which runs `race submit --wait --retries` tries again, and how often."""

import copy
import dataclasses
from typing import Any

import pytest

from pipeline import cli
from pipeline.client import Api, Server
from pipeline.follow import Follower, RunError
from pipeline.workflow import Pod, StepStatus
from tests.unit.pipeline.situations import SITUATIONS

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


# How often a run to which this happens is retried, and how it ends then.
RETRIED = {
    "retry-resumed": (1, 0),
    "retry-of-oom": (0, 1),
    "retry-of-gate": (0, 7),
    "pod-deleted-not-retried-older-kfp": (3, 1),  # and nothing but a retry helps
    "trainjob-no-rights": (0, 130),
}


@pytest.mark.parametrize("name", RETRIED)
def test_a_run_is_retried_where_that_may_help(
    kubeflow: Any, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    kubeflow.runs = [{"run_id": "run-1"}]
    kubeflow.replay = copy.deepcopy(SITUATIONS[name])
    ended = 0
    try:
        Follower(Api(Server(kubeflow.host)), "run-1", 20.0).follow_on(3)
    except RunError as error:
        ended = error.exit_status
    assert (len(kubeflow.retried), ended) == RETRIED[name]
    assert set(kubeflow.retried) <= {"run-1"}
    said = capsys.readouterr().err
    assert said.count("retrying the run") == len(kubeflow.retried)
    if name == "retry-resumed":
        assert "retrying the run (1 of at most 3)" in said
        assert "gate" in said.partition("retrying")[2], "what comes after is shown"


def test_a_run_is_not_retried_unless_that_was_asked_for(kubeflow: Any) -> None:
    kubeflow.runs = [{"run_id": "run-1"}]
    kubeflow.replay = copy.deepcopy(SITUATIONS["retry-resumed"])
    with pytest.raises(RunError) as error:
        Follower(Api(Server(kubeflow.host)), "run-1", 20.0).follow_on(0)
    assert error.value.exit_status == 6
    assert kubeflow.retried == []


def test_only_a_run_that_is_followed_can_be_retried(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "--host", "https://example.org", "--retries", "2"]) == 2
    assert "--retries wants --wait" in capsys.readouterr().err
