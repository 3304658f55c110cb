"""`race doctor`: every check is made, whatever comes of the others, and nothing is left behind."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.common.retry import Patience
from pipeline import cli, doctor, registry, server

CHECKS = ["address", "token", "authority", "server", "rights", "store", "image", "image"]
QUICK = Patience(attempts=2, connect=2, read=2, first_wait=0.01)


@pytest.fixture
def examined(kubeflow: Any, bucket: str, capsys: Any, monkeypatch: Any, tmp_path: Path) -> Any:
    """Runs `race doctor`; its exit status, its findings and what it says beside them."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(server, "TOKEN", tmp_path / "none")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.host)
    monkeypatch.setattr(doctor, "BRIEF", QUICK)
    monkeypatch.setattr(registry, "_lacks", lambda reference: False)
    for image in ("DATA", "TRAIN"):
        monkeypatch.setenv(f"RACE_{image}_IMAGE", f"registry.example.org/race-{image.lower()}:1")
    kubeflow.experiments = [{"experiment_id": "experiment-1", "display_name": "Default"}]

    def call(*arguments: str) -> tuple[int, list[dict[str, str]], str]:
        given = ["--output", "json", *arguments]
        if "--store" not in arguments:
            given += ["--store", f"s3://{bucket}/race"]
        status = cli.main(["doctor", *given])
        out, err = capsys.readouterr()
        return status, json.loads(out), err

    return call


def of(findings: list[dict[str, str]], check: str) -> dict[str, str]:
    return next(finding for finding in findings if finding["check"] == check)


def test_all_is_well_and_nothing_is_left(examined: Any, kubeflow: Any, bucket: str) -> None:
    kubeflow.tag = "2.17.0"
    status, findings, err = examined()
    assert (status, err) == (0, "")
    assert [finding["check"] for finding in findings] == CHECKS
    assert {finding["state"] for finding in findings} == {"ok"}
    assert "Kubeflow Pipelines 2.17.0, which starts a deleted pod again" in findings[3]["said"]
    assert not kubeflow.runs
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket=bucket)


def test_people_get_a_line_for_each_check(
    examined: Any, kubeflow: Any, bucket: str, capsys: Any
) -> None:
    assert cli.main(["doctor", "--store", f"s3://{bucket}/race"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == CHECKS
    assert lines[0] == f"ok       address    {kubeflow.host}, without encryption"


@pytest.mark.parametrize(
    ("tag", "state", "says"),
    [
        ("2.15.1", "ok", "2.15.1, which does not start a deleted pod again"),
        ("unknown", "ok", "not with its version: it may not start a deleted pod again; with"),
        ("2.4.0", "problem", "Kubeflow Pipelines 2.4.0"),
    ],
)
def test_the_version_says_who_starts_pods_again(
    examined: Any, kubeflow: Any, tag: str, state: str, says: str
) -> None:
    kubeflow.tag = tag
    status, findings, _ = examined()
    assert status == (2 if state == "problem" else 0)
    assert of(findings, "server")["state"] == state
    assert says in of(findings, "server")["said"]


def test_the_right_to_start_runs_is_asked_for_without_a_run(examined: Any, kubeflow: Any) -> None:
    kubeflow.multi_user = True
    status, findings, _ = examined("--namespace", "me")
    assert of(findings, "rights")["said"] == "this user may start runs (namespace me)"
    kubeflow.fail("POST", "/runs$", 403)
    status, findings, err = examined("--namespace", "me")
    assert (status, err) == (2, "error: 1 of 8 checks found a problem\n")
    assert "lacks the right" in of(findings, "rights")["hint"]
    kubeflow.fail("POST", "/runs$", 500)
    assert of(examined("--namespace", "me")[1], "rights")["state"] == "unknown"
    kubeflow.experiments = []
    assert of(examined("--namespace", "me")[1], "rights")["state"] == "unknown"
    assert not kubeflow.runs


def jwt(expires: int) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires}).encode()).decode().rstrip("=")
    return f"e30.{claims}.sig"


def test_each_problem_is_found_in_spite_of_the_others(
    examined: Any, kubeflow: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(jwt(1_000_000_000))
    (tmp_path / "ca.pem").write_text("hello")
    monkeypatch.setattr(registry, "_lacks", lambda reference: True)
    status, findings, err = examined(
        *("--host", "kubeflow.example.org", "--token-file", str(tmp_path / "token")),
        *("--ca-file", str(tmp_path / "ca.pem"), "--store", f"s3://{bucket}-not/race"),
    )
    assert (status, err) == (2, "error: 6 of 8 checks found a problem\n")
    assert [finding["state"] for finding in findings] == [
        *("problem", "problem", "problem", "unknown", "unknown"),
        *("problem", "problem", "problem"),
    ]
    assert of(findings, "token")["said"].endswith("expired at 2001-09-09 01:46:40+00:00")
    assert of(findings, "server")["said"] == "not asked, because of the address"
    assert f"{bucket}-not" in of(findings, "store")["said"]
    assert all(finding["hint"] for finding in findings if finding["state"] == "problem")
    assert not kubeflow.requests


@pytest.mark.parametrize(
    ("spoil", "check", "says"),
    [
        (lambda k: setattr(k, "page", "<html>log in</html>"), "server", "not as Kubeflow"),
        (lambda k: setattr(k, "token", "secret"), "server", "refused the request: 401"),
        (lambda k: setattr(k, "multi_user", True), "server", "serves many users"),
        (lambda k: k.fail("GET", "/experiments$", 403), "rights", "refused the request: 403"),
        (
            lambda k: k.gateway.update({("GET", "/experiments$"): {"experiments": {"a": 1}}}),
            "rights",
            "with what cannot be read: experiments is no list",
        ),
    ],
)
def test_what_a_server_refuses_is_said_with_what_to_do(
    examined: Any, kubeflow: Any, spoil: Callable[[Any], None], check: str, says: str
) -> None:
    spoil(kubeflow)
    status, findings, _ = examined()
    assert status == 2
    found = of(findings, check)
    assert found["state"] == "problem"
    assert says in found["said"]
    assert found["hint"]
    assert [finding["check"] for finding in findings] == CHECKS


def test_a_valid_token_says_until_when(examined: Any, kubeflow: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token := jwt(4_000_000_000))
    kubeflow.token = token
    status, findings, _ = examined("--token-file", str(tmp_path / "token"))
    assert status == 0
    assert "valid until 2096" in of(findings, "token")["said"]


def test_what_is_not_known_is_no_problem(examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(reference: str) -> bool:
        raise OSError("connection refused")

    monkeypatch.setattr(registry, "_lacks", silent)
    status, findings, _ = examined()
    assert status == 0
    assert of(findings, "image")["state"] == "unknown"
    status, findings, _ = examined("--local-images")
    assert [finding["check"] for finding in findings] == CHECKS[:-2]


def test_the_config_s_addresses_are_the_default(
    examined: Any, bucket: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["-p", f"checkpoint_uri=s3://{bucket}/c", "-p", f"mirror_uri=s3://{bucket}/m"]
    assert cli.main(["doctor", "--output=json", "--local-images", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    stores = [finding["said"] for finding in found if finding["check"] == "store"]
    assert [said.partition(": ")[0] for said in stores] == [f"s3://{bucket}/m", f"s3://{bucket}/c"]
    assert cli.main(["doctor", "--output=json", "--local-images"]) == 0
    assert of(json.loads(capsys.readouterr().out), "store")["state"] == "unknown"
    status, findings, _ = examined("--store", "/data/race")
    assert status == 2
    assert "a folder goes with its pod" in of(findings, "store")["said"]
