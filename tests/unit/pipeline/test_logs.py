"""`race runs logs`: what steps have said, by the server's log endpoint and by the artifacts."""

import copy
import dataclasses
import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.common.errors import TransferError
from pipeline import cli
from pipeline.commands import runs
from pipeline.outcome import own_lines
from tests.unit.pipeline import situations
from tests.unit.pipeline.situations import SITUATIONS, Situation
from tests.unit.pipeline.stored import Ran, StoredRun


@pytest.fixture
def logs(kubeflow: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `race runs logs run-1`; its exit status, the lines that it prints and what it says."""
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.host)
    kubeflow.runs = [{"run_id": "run-1", "created_at": situations.at(0)}]

    def call(*arguments: str) -> tuple[int, list[str], str]:
        status = cli.main(["runs", "logs", "run-1", *arguments])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return call


def saying(name: str, said: Mapping[str, Any]) -> Situation:
    """A situation whose steps have said something, each attempt its own."""
    found = copy.deepcopy(SITUATIONS[name])
    found.steps = [
        dataclasses.replace(
            step,
            attempts=[
                dataclasses.replace(pod, log=f"{said[step.name]} {number} of {step.trial}\nlast")
                for number, pod in enumerate(step.attempts, 1)
            ],
        )
        if step.name in said
        else step
        for step in found.steps
    ]
    return found


def test_one_step_s_log_is_its_own_words(kubeflow: Any, logs: Any) -> None:
    kubeflow.replay, kubeflow.clock.now = copy.deepcopy(SITUATIONS["gate-failed"]), 9999
    status, lines, err = logs("gate")
    assert (status, err) == (0, "")
    assert [line[:30] for line in lines] == [
        "error: accuracy 97.37 % is bel",
        "E0101 00:00:15.377143      17 ",
        "F0101 00:00:15.398887      17 ",
    ]
    raw = logs("gate", "--raw")[1]
    assert len(raw) == 9
    assert raw[0].endswith("input ExecutorInput:{")


def test_all_steps_are_told_apart_with_attempts_and_trials(kubeflow: Any, logs: Any) -> None:
    kubeflow.replay = saying("pod-deleted-retried", {"train": "t", "gate": "g"})
    kubeflow.clock.now = 9999
    lines = logs()[1]
    assert lines == [
        *("==> train <==", "t 1 of None", "last"),
        *("==> train, attempt 2 <==", "t 2 of None", "last"),
        *("==> gate <==", "g 1 of None", "last"),
    ]
    kubeflow.replay = saying("sweep-two-trials", {"train": "t"})
    assert logs("train")[1] == [
        *("==> train (seed 1) <==", "t 1 of 0", "last"),
        *("==> train (seed 2) <==", "t 1 of 1", "last"),
    ]
    assert logs("train (seed 2)")[1] == ["t 1 of 1", "last"]
    told = [json.loads(line) for line in logs("train (seed 2)", "--output", "json")[1]]
    assert told[0] == {"source": "train (seed 2)", "line": "t 1 of 1"}


def test_follow_prints_each_line_once_as_it_is_whole(kubeflow: Any, logs: Any) -> None:
    said = [f"update {number}" for number in range(12)]

    class Growing(Situation):
        def log(self, node: str, now: float) -> str:
            """Ten characters of it a second, from when the training pod is made."""
            known = super().log(node, now)
            return "\n".join(said)[: max(int(now - 206), 0)] if known == "train" else known

    found = SITUATIONS["succeeded"]
    steps = [
        dataclasses.replace(s, attempts=[dataclasses.replace(s.attempts[0], log="train")])
        if s.name == "train"
        else s
        for s in found.steps
    ]
    kubeflow.replay = Growing(found.states, steps)
    status, lines, err = logs("train", "--follow", "--poll", "7")
    assert (status, lines, err) == (0, said, "")
    assert kubeflow.clock.now >= 424


def test_what_a_terminal_would_obey_is_shown(kubeflow: Any, logs: Any) -> None:
    kubeflow.replay = saying("gate-failed", {"gate": "\x1b[2Jgone\tnot"})
    kubeflow.clock.now = 9999
    assert logs("gate")[1][0] == "\\x1b[2Jgone\tnot 1 of None"


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("trian", "the run has no step 'trian'. It has download-race, download-bpe"),
        ("select", "the run has no step 'select'. It has"),
    ],
)
def test_a_step_that_is_not_there_is_one_line(
    kubeflow: Any, logs: Any, step: str, says: str
) -> None:
    kubeflow.replay, kubeflow.clock.now = copy.deepcopy(SITUATIONS["succeeded"]), 9999
    status, lines, err = logs(step)
    assert (status, lines) == (2, [])
    assert err.startswith(f"error: {says}")


def test_a_run_that_has_begun_no_step_says_so(kubeflow: Any, logs: Any) -> None:
    kubeflow.replay = copy.deepcopy(SITUATIONS["succeeded"])
    assert logs() == (2, [], "error: no step has run\n")


def test_a_pod_that_waits_has_said_nothing_yet(kubeflow: Any, logs: Any) -> None:
    kubeflow.replay, kubeflow.clock.now = copy.deepcopy(SITUATIONS["image-pull"]), 150
    error = "error: nothing has been said yet. --follow waits for it\n"
    assert logs() == logs("train") == (3, [], error)


@pytest.fixture
def archive(kubeflow: Any, bucket: str) -> Callable[[str, str, str], None]:
    """Puts what a step's attempt has said where the launcher puts it, of a run without pods."""
    root = f"minio://{bucket}/v2/artifacts/race-roberta"
    run = StoredRun(
        [Ran("download-race", cached_from="first"), Ran("train"), Ran("gate")], root=root
    )
    kubeflow.replay, kubeflow.clock.now = run, 9999

    def put(step: str, name: str, text: str) -> None:
        key = run.folder(step).removeprefix(f"minio://{bucket}/")
        boto3.client("s3", region_name="us-east-1").put_object(
            Bucket=bucket, Key=f"{key}/{name}", Body=text.encode()
        )

    return put


def test_once_the_pods_are_gone_the_artifacts_have_the_logs(archive: Any, logs: Any) -> None:
    archive("train", "executor-logs-0", "killed\n")
    archive("train", "executor-logs-1", "trained\n")
    archive("download-race", "executor-logs-0", "fetched\n")
    assert logs() == (0, ["==> train <==", "killed", "trained"], "")
    assert logs("train") == (0, ["killed", "trained"], "")


def test_nothing_is_kept_where_neither_has_it(archive: Any, logs: Any, kubeflow: Any) -> None:
    status, lines, err = logs("gate")
    assert (status, lines) == (3, [])
    assert err == (
        "error: no log of gate is kept: the pods are gone, and the store has none. Its page:"
        f" {kubeflow.host}/#/runs/details/run-1\n"
    )


def test_a_store_that_refuses_is_told_of_where_nothing_else_is_known(
    archive: Any, logs: Any, kubeflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> str:
        raise TransferError("s3://bucket: access denied", hint="Check the keys")

    monkeypatch.setattr(runs, "read_log", refuse)
    error = "error: s3://bucket: access denied. Check the keys\n"
    assert logs("gate") == (4, [], error)
    answers = iter(["here", situations.NO_LOG])
    kubeflow.replay.log = lambda node, now: next(answers)
    assert logs() == (0, ["==> train <==", "here"], "")


def test_a_real_executor_s_log_has_the_step_s_words_left(recording: Any) -> None:
    said = json.loads(gzip.decompress(Path(recording("oom").path).read_bytes()))
    (log,) = (entry["body"] for entry in said["logs_v1alpha1"].values())
    lines = own_lines("I1125 17:03:00.000000      15 main.go:67] input ExecutorInput:{\n" + log)
    assert lines[0].startswith("training roberta_base (packed, fp32) on 1 CPU process")
    assert [line[0] for line in lines[1:]] == ["K", "E", "F"]


def test_the_refusals_are_those_of_a_real_server(recording: Any) -> None:
    path = recording("calls").path
    for call in json.loads(gzip.decompress(path.read_bytes())):
        method, address = call["request"].split(" ")
        run_id = address.rpartition("/")[2].partition(":")[0]
        message = {
            ("GET", 404): situations.NO_RUN,
            ("POST", 409): situations.NOT_FAILED,
            ("POST", 400): situations.ENDED,
        }.get((method, call["status"]))
        if message and "/runs/" in address:
            assert call["body"]["message"] == message.format(run_id)
