"""What `race submit --wait` shows of a run, and how it ends, by what a real server answered."""

import base64
import copy
import gzip
import json
from typing import Any

import pytest

from components.common.errors import RaceError
from pipeline import outcome, workflow
from pipeline.client import Api, Server
from pipeline.follow import Follower
from pipeline.outcome import read_failure
from pipeline.workflow import read_workflow
from tests.unit.pipeline import situations
from tests.unit.pipeline.situations import SITUATIONS, Attempt, Recording, Situation, Step

GATE = (
    "accuracy 97.37 % is below min_accuracy 100 % (chance is 25 %). Train longer or with other"
    " settings, or lower min_accuracy"
)
PULL, CPU = situations.PULL, situations.CPU
MAN = "the run was cancelled"

# How --wait ends: its exit status, the beginning of its error, and lines that it has shown.
ENDS: dict[str, tuple[int, str, list[str]]] = {
    "succeeded": (0, "", ["train 2 min 04 s succeeded", "gate 11.0 s succeeded"]),
    "gate-failed": (7, f"the run failed in gate: {GATE}", ["binarize cached"]),
    "pod-deleted-retried": (
        0,
        "",
        ["train attempt 1 failed: pod deleted", "train 4 min 02 s succeeded (attempt 2)"],
    ),
    "pod-deleted-not-retried-older-kfp": (1, "the run failed in train: pod deleted", []),
    "unschedulable-then-terminated": (130, MAN, [f"train waiting: {CPU}"]),
    "image-pull": (1, f"train cannot start: {PULL}", [f"train waiting: {PULL}"]),
    "limit-range": (1, f"train cannot start: {situations.LIMIT}", []),
    "bad-secret-name": (
        1,
        f"train cannot start: {situations.SECRET}",
        [f"train attempt 1 failed: {situations.SECRET}"],
    ),
    "bad-quantity": (
        1,
        "the run failed in download-race-driver: KFP's driver: failed to init podSpecPatch:"
        " quantities must match the regular expression",
        [],
    ),
    "oom": (1, "the run failed in train: OOMKilled (exit status 137)", []),
    "sweep-two-trials": (
        0,
        "",
        ["train (seed 1) 1 min 23 s succeeded", "evaluate (seed 2) 22.0 s succeeded"],
    ),
    "trainjob-no-rights": (130, MAN, []),
    "trainjob-terminated": (130, MAN, []),
    "retry-resumed": (6, "the run failed in train: ", []),
    "retry-of-oom": (1, "the run failed in train: OOMKilled (exit status 137)", []),
    "retry-of-gate": (7, f"the run failed in gate: {GATE}", []),
}


@pytest.fixture
def followed(kubeflow: Any) -> Any:
    """Makes what follows a run to which a situation happens."""

    def made(situation: Situation | Recording, **how: Any) -> Follower:
        kubeflow.runs = [{"run_id": "run-1"}]
        kubeflow.replay = copy.deepcopy(situation)
        kubeflow.clock.now = 0.0
        return Follower(Api(Server(kubeflow.host)), "run-1", 20.0, **how)

    return made


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda: [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]


def ending(follower: Follower) -> tuple[int, str]:
    """The exit status and the error."""
    try:
        follower.follow()
    except RaceError as error:
        return error.exit_status, str(error)
    return 0, ""


@pytest.mark.parametrize("name", SITUATIONS)
def test_each_situation_ends_with_its_reason_and_its_status(followed, shown, name: str) -> None:
    status, says, lines = ENDS[name]
    found = ending(followed(SITUATIONS[name]))
    assert found[0] == status
    assert found[1].startswith(says)
    seen = shown()
    assert len(seen) == len(set(seen))
    assert set(lines) <= set(seen)


# Their user ended these sooner than --wait would have; and of these the first log is not kept.
REAL = {name: (130, MAN) for name in ("image-pull", "limit-range", "bad-secret-name")}
REAL["retry-resumed"] = (1, "the run failed in train")


@pytest.mark.parametrize("name", SITUATIONS)
def test_so_do_the_real_server_s_answers(followed, recording, name: str) -> None:
    status, says = REAL.get(name, ENDS[name][:2])
    found = ending(followed(recording(name)))
    assert found[0] == status
    # Of a first end, without its workflow, the log is all that there is.
    assert found[1].startswith("the run failed in train" if name == "retry-of-oom" else says[:60])


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_situations_are_those_of_the_real_server(recording, name: str) -> None:
    real, ours = recording(name), SITUATIONS[name]

    def steps(manifest: str) -> Any:
        found = read_workflow(manifest)
        assert found
        assert found.ended
        return sorted(
            (s.name, s.trial or 0, s.driver, s.state, len(s.pods), [p.phase for p in s.pods])
            for s in found.steps
            if s.name != "root"
        )

    assert steps(ours.manifest(9999)) == steps(real.manifest(9999))
    states = [[entry.get("state") for entry in s.run(9999)["state_history"]] for s in (ours, real)]
    assert states[0] == states[1]
    fields = [set().union(*s.run(9999)["run_details"]["task_details"]) for s in (ours, real)]
    assert fields[0] <= fields[1]


def test_a_server_without_workflows_and_logs_is_followed_all_the_same(
    followed, kubeflow, shown
) -> None:
    without = {("GET", "apis/v1"): {"code": 5, "message": "Not Found"}}
    follower = followed(SITUATIONS["gate-failed"])
    kubeflow.gateway = without
    assert ending(follower)[0] == 1
    assert {"train 2 min 02 s succeeded", "binarize cached", "gate 10.0 s failed"} <= set(shown())
    follower = followed(SITUATIONS["sweep-two-trials"])
    kubeflow.gateway = without
    assert ending(follower) == (0, "")


def test_without_workflows_the_log_still_has_the_status(followed, kubeflow) -> None:
    follower = followed(SITUATIONS["gate-failed"])
    kubeflow.gateway = {("GET", "apis/v1beta1"): {}}
    status, error = ending(follower)
    assert status == 7
    assert GATE in error


@pytest.mark.parametrize("manifest", ["", "{", "[]", "{}", '{"status": {"compressedNodes": "AA"}}'])
def test_what_is_no_workflow_is_none(manifest: str) -> None:
    assert read_workflow(manifest) is None or manifest == "{}"


def test_nodes_that_never_end_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "LARGEST", 1000)
    packed = base64.b64encode(gzip.compress(b" " * 1001 + b"{}")).decode()
    status = {"phase": "Running", "compressedNodes": packed}
    assert read_workflow(json.dumps({"status": status})) is None


def waiting(*reasons: tuple[float, str], runs: float = 2000) -> Situation:
    """A run whose training waits for these from these times on, and trains for 50 s."""
    pod = Attempt(21, runs + 40, pending=runs - 21, waits=reasons)
    step = Step("train", 21, runs + 50, attempts=[pod])
    return Situation(situations.going(runs + 60, "SUCCEEDED"), [step])


def test_a_pod_that_waits_says_why_once_and_again_when_that_changes(followed, shown) -> None:
    more = CPU.replace("0/1", "0/2").replace(": 1 ", ": 2 ")
    quota = 'pods "x" is forbidden: exceeded quota: team'
    found = waiting((30, CPU), (200, more), (400, "Unschedulable: taint"), (600, quota), runs=1000)
    assert ending(followed(found)) == (0, "")
    lines = [f"train waiting: {why}" for why in (CPU, "Unschedulable: taint", quota)]
    assert shown()[:-1] == [*lines, "train running"]


def test_a_pod_that_waits_shortly_says_nothing(followed, shown) -> None:
    assert ending(followed(waiting((22, CPU), runs=40))) == (0, "")
    assert shown()[0] == "train running"


def test_pending_timeout_ends_the_wait_and_goes_on_with_the_run(followed, kubeflow) -> None:
    follower = followed(waiting((30, CPU)), pending_timeout=600)
    status, error = ending(follower)
    assert status == 1
    assert error.startswith(f"train has waited for 10 min 00 s: {CPU}. The run goes on: http")
    assert kubeflow.replay.terminated == situations.NEVER


def test_what_cannot_heal_ends_the_wait_after_five_minutes_and_the_run_if_asked(
    followed, kubeflow, shown
) -> None:
    follower = followed(waiting((30, PULL)), terminate=True)
    error = ending(follower)[1]
    assert error.startswith(f"train cannot start: {PULL}. The run was terminated: http")
    assert kubeflow.replay.terminated == kubeflow.clock.now
    assert 300 <= kubeflow.clock.now - 30 <= 340
    assert ending(follower) == (130, f"{MAN}. Its logs: {kubeflow.host}/#/runs/details/run-1")


def test_what_heals_within_five_minutes_does_not_end_it(followed, shown) -> None:
    assert ending(followed(waiting((30, PULL), runs=300))) == (0, "")
    assert shown()[:2] == [f"train waiting: {PULL}", "train running"]


def test_a_run_that_was_retried_after_it_was_cancelled_is_not_cancelled(followed) -> None:
    states = [*situations.canceled(5, 9), (15, "RUNNING"), (30, "FAILED")]
    assert ending(followed(Situation(states, [])))[0] == 1


@pytest.mark.parametrize(
    ("log", "error", "status"),
    [
        (situations.GATE_LOG, GATE, 7),
        (situations.launcher_log('{"level": "ERROR", "message": "full"}', 5), "full", 5),
        (situations.launcher_log("Traceback:\nValueError: boom", 1), "ValueError: boom", 1),
        (situations.launcher_log("error: one\nerror: \x1b[31mtwo", 3), "\\x1b[31mtwo", 3),
        ("F0101 00:00:01.000000      17 main.go:59] failed to fetch", "failed to fetch", None),
        ("a program's own word: exit status 5\n", "", None),
        ("", "", None),
    ],
)
def test_the_log_says_what_failed(log: str, error: str, status: int | None) -> None:
    assert read_failure(log) == outcome.Failure(error, status)


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [
        (PULL, True),
        ("InvalidImageName: couldn't parse image reference", True),
        ('CreateContainerConfigError: secret "race-s3" not found', True),
        (situations.SECRET, True),
        (situations.LIMIT, True),
        ('pods "x" is forbidden: exceeded quota: team, requested: cpu=8', False),
        (CPU, False),
        ("PodInitializing", False),
        ("pod deleted", False),
    ],
)
def test_what_cannot_heal_is_told_from_what_a_queue_does(reason: str, hopeless: bool) -> None:
    pod = workflow.Pod("node", "Pending", reason)
    assert workflow.StepStatus("train", "pending", (pod,)).hopeless is hopeless
    assert not workflow.StepStatus("train", "running", (pod,)).hopeless
