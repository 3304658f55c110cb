"""The calls about runs, with the answers of a real server to right and wrong ones."""

from typing import Any

import pytest

from components.common.errors import ConfigError, TransferError
from components.common.retry import Patience
from pipeline.client import Api, Server


@pytest.fixture
def api(kubeflow: Any) -> Api:
    kubeflow.runs = [
        {"run_id": "run-1", "display_name": "first", "created_at": "2026-01-01T00:00:00Z"}
    ]
    return Api(Server(kubeflow.host))


def state(kubeflow: Any, name: str) -> None:
    kubeflow.states.clear()
    kubeflow.states.append({"state": name})


def test_runs_are_listed_newest_first(api: Api, kubeflow) -> None:
    (run,) = api.runs(limit=5)
    assert (run.run_id, run.name, run.created) == ("run-1", "first", "2026-01-01T00:00:00Z")
    _, _, query = kubeflow.requests[-1]
    assert query["sort_by"] == ["created_at desc"]
    assert query["page_size"] == ["100"], "a busy server has many runs of others"


def test_a_run_that_is_not_there_is_one_line(api: Api) -> None:
    with pytest.raises(ConfigError, match=r"Run run-9 not found\. Check the run's id"):
        api.run("run-9")


@pytest.mark.parametrize(
    ("call", "status", "done", "other"),
    [("retry", 409, "RUNNING", "SUCCEEDED"), ("terminate", 400, "FAILED", "RUNNING")],
)
def test_a_call_whose_answer_was_lost_is_done_and_a_wrong_one_is_refused(
    api: Api, kubeflow, call: str, status: int, done: str, other: str
) -> None:
    kubeflow.fail("POST", f":{call}$", status, status)
    state(kubeflow, done)
    getattr(api, call)("run-1")
    state(kubeflow, other)
    with pytest.raises(ConfigError, match="run run-1: Internal Server Error: it hurts"):
        getattr(api, call)("run-1")


def test_a_log_has_only_its_end_and_a_missing_one_is_empty(api: Api, kubeflow) -> None:
    class Replay:
        def log(self, node: str, now: float) -> str:
            return {"long": "a" * 200_000 + "end"}.get(node, '{"error_message":"BadRequestError"}')

    kubeflow.replay = Replay()
    assert api.log("run-1", "long").endswith("end")
    assert len(api.log("run-1", "long")) == 1 << 16
    assert api.log("run-1", "gone") == ""


def test_attempts_are_counted_in_one_place(kubeflow: Any) -> None:
    """urllib3 would wait as long as an answer says, and ask again by itself."""
    kubeflow.headers = {"Retry-After": "1"}
    kubeflow.fail("GET", "/healthz$", 503, 503, 503)
    with pytest.raises(TransferError, match="503"):
        Api(Server(kubeflow.host), Patience(attempts=1, connect=2, read=2))
    assert len(kubeflow.requests) == 1
