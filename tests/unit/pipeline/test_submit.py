"""`race submit` against a server on this machine."""

import datetime
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.common.retry import Patience
from components.download import known
from pipeline import cli, client, follow


@pytest.fixture(autouse=True)
def slept(clock: Any, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been slept."""
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    return clock.slept


def race(*arguments: str) -> int:
    return cli.main(["submit", "--local-images", *arguments])


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, but for what is said of the cache and of further attempts."""
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if not line.startswith("not cached: ")]
    lines = [line for line in lines if "; trying again in " not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def task(name: str, state: str, seconds: int = 0, **more: Any) -> dict[str, Any]:
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    end = start + datetime.timedelta(seconds=seconds)
    return {
        "display_name": name,
        "state": state,
        "start_time": start.isoformat(),
        "end_time": end.isoformat(),
        **more,
    }


def test_uploads_the_pipeline_and_starts_a_run(kubeflow, capsys) -> None:
    assert race("--host", kubeflow.host, "-p", "epochs=3", "--experiment", "mine") == 0
    run = kubeflow.runs[0]
    assert capsys.readouterr().out == f"{kubeflow.host}/#/runs/details/{run['run_id']}\n"
    assert run["pipeline_version_reference"] == {
        "pipeline_id": kubeflow.pipelines[0]["pipeline_id"],
        "pipeline_version_id": kubeflow.versions[0]["pipeline_version_id"],
    }
    assert run["experiment_id"] == kubeflow.experiments[0]["experiment_id"]
    assert kubeflow.experiments[0]["display_name"] == "mine"
    parameters = run["runtime_config"]["parameters"]
    assert parameters["epochs"] == 3
    assert parameters["learning_rate"] == 1e-5
    spec, platform = yaml.safe_load_all(kubeflow.packages[0])
    assert spec["pipelineInfo"]["name"] == "race-roberta"
    assert "kubernetes" in platform["platforms"]
    assert parameters.keys() == spec["root"]["inputDefinitions"]["parameters"].keys()


def cached_steps(package: str) -> set[str]:
    """The steps that KFP may take from its cache, in a compiled pipeline."""
    tasks = next(yaml.safe_load_all(package))["root"]["dag"]["tasks"]
    return {n for n, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}


OTHER = "race_url=https://example.org/RACE.tar.gz"
BPE = "&".join(f"{name}={'0' * 64}" for name in known.BPE_FILES)
PINNED = [
    f"{OTHER}#sha256={'0' * 64}",
    f"roberta_url={known.ROBERTA_LARGE}#sha256={'0' * 64}",
    f"bpe_url={known.BPE}#{BPE}",
]
UNPINNED = f"{known.BPE}/dict.txt, {known.ROBERTA_LARGE}"


@pytest.mark.parametrize(
    ("given", "cached", "note"),
    [
        (
            [],
            {"download-race", "preprocess"},
            "not cached: download-bpe, download-roberta, binarize, for lack of the sha256 of"
            f" {UNPINNED}",
        ),
        (
            ["-p", OTHER],
            set(),
            "not cached: download-race, download-bpe, download-roberta, preprocess, binarize, for"
            f" lack of the sha256 of https://example.org/RACE.tar.gz, {UNPINNED}",
        ),
        (
            [word for setting in PINNED for word in ("-p", setting)],
            {"download-race", "download-roberta", "download-bpe", "preprocess", "binarize"},
            "",
        ),
        (["--no-cache"], set(), ""),
    ],
)
def test_what_has_no_sha256_is_not_cached_and_that_is_said(
    kubeflow, capsys, given: list[str], cached: set[str], note: str
) -> None:
    assert race("--host", kubeflow.host, *given) == 0
    assert cached_steps(kubeflow.packages[0]) == cached
    assert capsys.readouterr().err.strip() == note


def test_submitting_again_makes_another_run_of_the_same_version(kubeflow) -> None:
    for _ in range(2):
        assert race("--host", kubeflow.host) == 0
    assert len(kubeflow.pipelines) == len(kubeflow.versions) == len(kubeflow.experiments) == 1
    first, second = kubeflow.runs
    assert first["pipeline_version_reference"] == second["pipeline_version_reference"]
    assert first["runtime_config"] == second["runtime_config"]
    assert first["display_name"] != second["display_name"]


def test_another_config_is_another_version_of_the_same_pipeline(kubeflow) -> None:
    assert race("--host", kubeflow.host) == 0
    assert race("--host", kubeflow.host, "--config", "roberta-base") == 0
    assert len(kubeflow.pipelines) == 1
    assert len(kubeflow.versions) == 2
    assert kubeflow.runs[1]["runtime_config"]["parameters"]["learning_rate"] == 2e-5
    assert "--arch=roberta_base" in kubeflow.packages[-1]


def test_a_setting_makes_no_new_version_and_what_the_platform_gives_does(kubeflow) -> None:
    for more in ([], ["-p", "train_dropout=0.2"], ["-p", "cluster_train_memory=80Gi"]):
        assert race("--host", kubeflow.host, *more) == 0
    settings = [run["runtime_config"]["parameters"]["train_settings"] for run in kubeflow.runs]
    assert settings == [{}, {"dropout": 0.2}, {}]
    assert len(kubeflow.versions) == 2


def test_schedules_recurring_runs(kubeflow, capsys) -> None:
    assert race("--host", kubeflow.host, "--cron", "0 0 3 * * 1", "--name", "weekly") == 0
    (made,) = kubeflow.recurring_runs
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert made["mode"] == "ENABLE"
    assert not kubeflow.runs
    assert f"/#/recurringrun/details/{made['recurring_run_id']}" in capsys.readouterr().out


def test_pipeline_root_is_handed_on(kubeflow) -> None:
    assert race("--host", kubeflow.host, "--pipeline-root", "s3://bucket/runs") == 0
    assert kubeflow.runs[0]["runtime_config"]["pipeline_root"] == "s3://bucket/runs"


def test_wait_follows_each_step_until_the_run_succeeds(kubeflow, capsys, slept) -> None:
    kubeflow.states = deque(
        [
            {"state": "PENDING"},
            {"state": "RUNNING", "run_details": {"task_details": [task("train", "RUNNING")]}},
            {"state": "RUNNING", "run_details": {"task_details": [task("train", "RUNNING")]}},
            {
                "state": "SUCCEEDED",
                "run_details": {
                    "task_details": [
                        task("root-driver", "SUCCEEDED"),
                        task("train", "SUCCEEDED", 3723),
                        task("evaluate", "SUCCEEDED", 61),
                    ]
                },
            },
        ]
    )
    assert race("--host", kubeflow.host, "--wait", "--poll", "7") == 0
    note, *lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert note[:2] == ["not", "cached:"]
    assert lines == [
        ["train", "running"],
        ["train", "1", "h", "02", "min", "succeeded"],
        ["evaluate", "1", "min", "01", "s", "succeeded"],
        ["the", "run", "succeeded"],
    ]
    assert slept == [7.0, 7.0, 7.0]


def test_wait_fails_when_the_run_does_and_says_where(kubeflow, capsys) -> None:
    failed = task("evaluate", "FAILED", 5)
    details = {"task_details": [task("train", "SUCCEEDED", 5), failed]}
    kubeflow.states = deque([{"state": "FAILED", "run_details": details}])
    assert race("--host", kubeflow.host, "--wait") == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == (f"error: the run failed in evaluate. Its logs: {out.strip()}")


@pytest.mark.parametrize(
    ("state", "status", "says"),
    [("CANCELED", 130, "the run was cancelled"), ("SKIPPED", 1, "the run skipped")],
)
def test_wait_fails_when_the_run_ends_otherwise(kubeflow, state, status, says, capsys) -> None:
    kubeflow.states = deque([{"state": state}])
    assert race("--host", kubeflow.host, "--wait") == status
    assert says in one_error(capsys)


def test_the_token_goes_to_the_server_and_nowhere_else(kubeflow, tmp_path, capsys) -> None:
    token = tmp_path / "token"
    token.write_text("canary-b3rt\n")
    kubeflow.token = "canary-b3rt"
    assert race("--host", kubeflow.host, "--token-file", str(token), "--wait") == 0
    captured = capsys.readouterr()
    assert "canary" not in captured.out + captured.err
    assert "canary" not in str([kubeflow.packages, kubeflow.runs, kubeflow.requests])


def test_an_expired_token_is_one_line(kubeflow, tmp_path, capsys) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    kubeflow.token = "new"
    assert race("--host", kubeflow.host, "--token-file", str(token)) == 2
    line = one_error(capsys)
    assert "token is expired" in line
    assert "--token-file" in line
    assert not kubeflow.runs


def test_a_token_that_is_renewed_while_waiting_is_taken_up(kubeflow, tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    kubeflow.token = "first"
    kubeflow.states = deque([{"state": "RUNNING"}] * 3 + [{"state": "SUCCEEDED"}])

    def renew() -> None:
        if len(kubeflow.states) == 2:
            kubeflow.token = "second"
            token.write_text("second")

    kubeflow.on_request = renew
    assert race("--host", kubeflow.host, "--token-file", str(token), "--wait") == 0
    assert kubeflow.token == "second"


def test_forbidden_is_one_line(kubeflow, capsys) -> None:
    kubeflow.fail("POST", "/runs$", 403)
    assert race("--host", kubeflow.host) == 2
    assert "right" in one_error(capsys)


def test_an_address_without_the_api_is_one_line(kubeflow, capsys) -> None:
    assert race("--host", f"{kubeflow.host}/elsewhere") == 2
    line = one_error(capsys)
    assert "not found" in line
    assert "--host" in line


def test_a_login_page_is_one_line(kubeflow, capsys) -> None:
    kubeflow.page = "<html>Please log in</html>"
    assert race("--host", kubeflow.host) == 2
    assert "not as Kubeflow Pipelines" in one_error(capsys)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/healthz$"),
        ("GET", "/pipelines$"),
        ("POST", "/upload$"),
        ("POST", "/upload_version$"),
        ("POST", "/experiments$"),
        ("POST", "/runs$"),
        ("GET", "/runs/"),
    ],
)
@pytest.mark.parametrize("lost_reply", [False, True])
def test_recovers_from_a_failing_server_and_does_nothing_twice(
    kubeflow, method: str, path: str, lost_reply: bool, slept
) -> None:
    kubeflow.fail(method, path, 500, 503, lost_reply=lost_reply)
    assert race("--host", kubeflow.host, "--wait") == 0
    made = (kubeflow.pipelines, kubeflow.versions, kubeflow.experiments, kubeflow.runs)
    assert [len(things) for things in made] == [1, 1, 1, 1]
    assert 1.0 <= slept[0] <= 2.0


def test_a_server_that_goes_on_failing_is_one_line(kubeflow, capsys, slept) -> None:
    kubeflow.fail("POST", "/runs$", *[500] * 20)
    assert race("--host", kubeflow.host) == 4
    assert "it answered 500" in one_error(capsys)
    longest = [2.0, 4.0, 8.0, 16.0, 32.0]
    assert all(most / 2 <= wait <= most for wait, most in zip(slept, longest, strict=True))


def test_a_refused_request_is_not_repeated(kubeflow, capsys) -> None:
    kubeflow.fail("POST", "/runs$", 400)
    assert race("--host", kubeflow.host) == 2
    assert "it hurts" in one_error(capsys)
    assert [r[:2] for r in kubeflow.requests].count(("POST", "/apis/v2beta1/runs")) == 1


def test_nobody_answers_is_one_line(capsys) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert race("--host", host) == 4
    assert "Connection refused" in one_error(capsys)


def test_an_unknown_host_is_one_line(capsys) -> None:
    assert race("--host", "http://kubeflow.invalid") == 4
    assert "kubeflow.invalid" in one_error(capsys)


def test_a_silent_server_is_given_up(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE", Patience(attempts=2, read=0.05))
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        assert race("--host", f"http://127.0.0.1:{server.getsockname()[1]}") == 4
    assert time.monotonic() - started < 20
    assert "timed out" in one_error(capsys).lower()


@pytest.mark.parametrize("host", ["", "kubeflow", "ftp://host", "http://"])
def test_a_missing_or_malformed_host_is_one_line(host: str, capsys) -> None:
    assert race("--host", host) == 2
    assert "--host" in one_error(capsys)


def test_a_server_of_many_users_wants_a_namespace(kubeflow, capsys) -> None:
    kubeflow.multi_user = True
    assert race("--host", kubeflow.host) == 2
    assert "--namespace" in one_error(capsys)
    assert race("--host", kubeflow.host, "--namespace", "team") == 0
    assert kubeflow.experiments[0]["namespace"] == "team"
    listed = [query for method, path, query in kubeflow.requests if path.endswith("/experiments")]
    assert listed[0]["namespace"] == ["team"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "train_lerning_rate=1"],
        ["-p", "epochs=many"],
        ["-p", "epochs"],
        ["--config", "roberta-huge"],
        ["--token-file", "/nonexistent/token"],
        ["--wait", "--cron", "0 0 3 * * 1"],
        ["--cron", "0 3 * * 1"],
        ["--cron", "every day"],
        ["-p", "checkpoint_uri=/data"],
        ["-p", "resume_from=file:///data"],
        ["-p", "cluster_data_memory=lots"],
        ["-p", "effective_batch_size=15"],
        ["-p", "race_url=/home/me/RACE.tar.gz"],
        ["--config", "smoke"],
        ["--config", "roberta-large-nodes"],
        ["--config", "roberta-large-nodes", "-p", "checkpoint_uri=/data"],
    ],
)
def test_wrong_arguments_are_one_line_and_reach_no_server(kubeflow, arguments, capsys) -> None:
    assert race("--host", kubeflow.host, *arguments) == 2
    one_error(capsys)
    assert not kubeflow.requests


def test_an_empty_token_file_is_one_line(kubeflow, tmp_path: Path, capsys) -> None:
    (tmp_path / "token").write_text("\n")
    assert race("--host", kubeflow.host, "--token-file", str(tmp_path / "token")) == 2
    assert "does not hold one token" in one_error(capsys)


GATEWAYS = [
    {"error": "no healthy upstream"},
    {"error": {"code": 503, "message": "no healthy upstream"}},
    {"message": "no healthy upstream"},
    {},
    [],
    None,
    "no healthy upstream",
    {"run_id": "", "pipeline_id": None, "experiment_id": {}, "pipeline_version_id": []},
]


@pytest.mark.parametrize("said", GATEWAYS, ids=str)
@pytest.mark.parametrize(
    "path", ["/upload$", "/upload_version$", "/experiments$", "/runs$", "/recurringruns$"]
)
def test_an_answer_without_an_id_is_an_error(kubeflow, capsys, path: str, said: Any) -> None:
    kubeflow.gateway[("POST", path)] = said
    cron = ["--cron", "0 0 3 * * 1"] if "recurring" in path else []
    assert race("--host", kubeflow.host, *cron) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{kubeflow.host} answered with" in err
    if "upstream" in str(said) and isinstance(said, dict):
        assert "no healthy upstream" in err


@pytest.mark.parametrize("path", ["healthz$", "/pipelines$", "/versions$", "/experiments$"])
def test_an_error_is_not_taken_for_an_empty_list(kubeflow, capsys, path: str) -> None:
    kubeflow.gateway[("GET", path)] = {"error": "no healthy upstream"}
    assert race("--host", kubeflow.host) == 4
    assert "no healthy upstream" in one_error(capsys)
    assert not kubeflow.runs


def test_what_cannot_be_read_is_an_error(kubeflow, capsys) -> None:
    kubeflow.gateway[("GET", "/pipelines$")] = {"pipelines": 5}
    assert race("--host", kubeflow.host) == 4
    assert "answered with what cannot be read" in one_error(capsys)


@pytest.mark.parametrize("said", [*GATEWAYS, {"run_id": "run-1", "state": "UNSPECIFIED"}], ids=str)
def test_wait_ends_when_the_server_no_longer_says_how_the_run_stands(
    kubeflow, capsys, slept, said: Any
) -> None:
    kubeflow.gateway[("GET", "/runs/")] = said
    assert race("--host", kubeflow.host, "--wait") == 4
    assert f"{kubeflow.host} answered with" in one_error(capsys)
    assert len(slept) == follow.SILENT - 1


def test_wait_goes_on_after_a_gateway_s_error(kubeflow) -> None:
    left = deque([follow.SILENT - 1])

    def recover() -> None:
        if kubeflow.requests[-1][1].startswith("/apis/v2beta1/runs/"):
            left[0] -= 1
            kubeflow.gateway = {("GET", "/runs/"): GATEWAYS[0]} if left[0] >= 0 else {}

    kubeflow.on_request = recover
    assert race("--host", kubeflow.host, "--wait") == 0
