"""Where the artifacts of a cluster's run lie, by its workflow, or that of the run it took from."""

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from pipeline.artifacts import LOGS, artifacts_of, read_log
from tests.unit.pipeline.situations import Recording
from tests.unit.pipeline.stored import ENDPOINT, Ran, StoredRun

DATA = ("download-race", "download-bpe", "download-roberta", "preprocess", "binarize")
LATER = ("train", "evaluate", "gate")
FIRST = StoredRun([Ran(step) for step in (*DATA, *LATER)], "first")
SECOND = StoredRun(
    [*(Ran(step, cached_from="first") for step in DATA), *(Ran(step) for step in LATER)], "second"
)


class Server:
    """Hands out the workflows of these runs."""

    def __init__(self, *runs: StoredRun) -> None:
        self.runs = {run.run_id: run for run in runs}

    def manifest(self, run_id: str) -> str:
        return self.runs[run_id].manifest() if run_id in self.runs else ""


def addresses(server: Server, run: str) -> dict[tuple[str, str], str]:
    return {(a.step, a.name): a.uri for a in artifacts_of(server, run)}


@pytest.mark.parametrize("compressed", [False, True])
def test_each_output_has_the_address_that_its_driver_gave(compressed: bool) -> None:
    run = StoredRun(FIRST.steps, "first", compressed=compressed)
    found = {(a.step, a.name): a for a in artifacts_of(Server(run), "first")}
    model = found["train", "model"]
    assert model.uri == f"{run.folder('train')}/model"
    assert model.address == model.uri.replace("minio://", "s3://")
    assert (model.run, model.kind, model.trial) == ("first", "Model", None)
    assert found["binarize", "size"].kind == "Metrics"
    assert {step for step, name in found if name == LOGS} == {*DATA, *LATER}


def test_what_came_from_the_cache_is_found_where_another_run_has_made_it() -> None:
    found = artifacts_of(Server(FIRST, SECOND), "second")
    by_name = {a.name: a for a in found if a.name != LOGS}
    assert {"race", "bpe", "roberta", "text", "data", "data_report", "counts"} <= by_name.keys()
    assert {n: a.run for n, a in by_name.items() if a.run == "first"}.keys() == {
        *("race", "bpe", "roberta", "text", "counts", "data", "size", "data_report")
    }
    assert by_name["bpe"].uri == f"{FIRST.folder('download-bpe')}/bpe"
    assert by_name["data"].endpoint == ENDPOINT


def test_of_a_run_that_was_deleted_only_what_was_read_later_is_known() -> None:
    found = addresses(Server(SECOND), "second")
    assert found["binarize", "data"] == f"{FIRST.folder('binarize')}/data"
    assert found["binarize", "data_report"] == f"{FIRST.folder('binarize')}/data_report"
    assert ("download-bpe", "bpe") not in found


def test_the_trials_of_a_sweep_are_told_apart() -> None:
    steps = [Ran(s, trial=t) for t in (0, 1) for s in ("train", "evaluate")]
    seeds = {"seeds": [1, 2], "learning_rates": [], "seed": 1, "learning_rate": 0.001}
    run = StoredRun([*map(Ran, DATA), *steps, Ran("select"), Ran("gate")], "sweep", seeds)
    found = artifacts_of(Server(run), "sweep")
    models = {(a.step, a.trial): a.uri for a in found if a.name == "model"}
    assert models == {
        (step, trial): f"{run.folder(step, trial)}/model"
        for step, trial in (("train", 0), ("train", 1), ("select", None))
    }


@pytest.mark.parametrize(
    "manifest", ["", "{}", '{"status": {"nodes": {"a": {"name": "x"}}}}', '{"status": []}', "[1]"]
)
def test_a_workflow_that_cannot_be_read_has_none(manifest: str) -> None:
    class Odd:
        def manifest(self, run_id: str) -> str:
            return manifest

    assert artifacts_of(Odd(), "run") == []


def test_the_attempts_at_a_step_have_said_one_after_another(bucket: str) -> None:
    run = StoredRun([Ran("train")], root=f"minio://{bucket}/v2/artifacts/race-roberta")
    client = boto3.client("s3", region_name="us-east-1")
    key = run.folder("train").partition(f"{bucket}/")[2]
    for number in (10, 0, 2):
        client.put_object(
            Bucket=bucket, Key=f"{key}/{LOGS}-{number}", Body=f"attempt {number}\n".encode()
        )
    found = artifacts_of(Server(run), "run-1")
    assert read_log(found, "train") == "attempt 0\nattempt 2\nattempt 10\n"
    assert read_log(found, "evaluate") == ""


def test_a_real_sweep_has_all_outputs_of_all_steps(
    recording: Callable[[str], Recording],
) -> None:
    replay: Any = recording("sweep-two-trials")

    class Recorded:
        def manifest(self, run_id: str) -> str:
            return replay.manifest(float("inf")) if run_id.startswith("7d9") else ""

    run_id = "7d9ad615-3b0b-4e33-a6ff-8582715d0437"
    found = artifacts_of(Recorded(), run_id)
    assert len(found) == 38
    assert {a.run for a in found} == {run_id}
    selected = next(a for a in found if (a.step, a.name) == ("select", "model"))
    assert selected.uri == (
        f"minio://mlpipeline/v2/artifacts/race-roberta-sweep/{run_id}/select/"
        "ff702cbe-f71f-4f27-9320-303beeaf0bd1/model"
    )
    assert json.dumps(sorted({a.trial for a in found if a.step == "train"})) == "[0, 1]"
