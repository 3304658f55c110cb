"""`race runs`: what it shows of runs and does with them, by what a real server answers."""

import copy
import dataclasses
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from components.common.results.metrics import Selection
from components.common.results.scores import ALL, Group, Scores
from components.evaluate.report import table as table_of_scores
from components.select.core import table
from pipeline import cli, client
from pipeline.outcome import accuracy
from tests.unit.pipeline import situations
from tests.unit.pipeline.situations import NO_LOG, SITUATIONS, listed
from tests.unit.pipeline.test_follow import ENDS, REAL

OK, BAD = ("PENDING", "RUNNING", "SUCCEEDED"), ("PENDING", "RUNNING", "FAILED")
STOPPED = ("PENDING", "RUNNING", "CANCELING", "FAILED")
GOES = ("PENDING", "RUNNING")
IDS = {
    name: f"{number}{number}{number}{number}aaaa-0000-4000-8000-000000000000"
    for number, name in enumerate(("good", "bad", "stopped", "going", "other", "old"), 1)
}
SCORES = """\
        questions   correct   accuracy     loss
middle        375       374    99.73 %   0.0101
all           875       869    99.31 %   0.0204
chance is 25 %; loss is in nats per question
"""
TRAINED = (
    "epoch 1/2, update 30/438: loss 1.386, accuracy 29.1 %, 157 questions/s, 1 min left\n"
    "trained 438 updates in 1 min 53 s: best validation accuracy 97.00 %\n"
)


@pytest.fixture
def server(kubeflow: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs of this pipeline, one of another, and one that is archived."""
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.host)
    kubeflow.pipelines = [{"pipeline_id": "pipeline-race", "display_name": "race-roberta"}]
    kubeflow.runs = [
        listed(IDS["old"], "old", 0, *OK) | {"storage_state": "ARCHIVED"},
        listed(IDS["good"], "smoke 2026-01-01 00:01:00 33d555", 1, *OK),
        listed(IDS["bad"], "bad", 2, *BAD),
        listed(IDS["stopped"], "stopped", 3, *STOPPED),
        listed(IDS["going"], "going", 4, *GOES),
        listed(IDS["other"], "other", 5, *OK, pipeline="theirs"),
    ]
    return kubeflow


def race(capsys: Any, *arguments: str) -> tuple[int, Any, str]:
    """Exit status, what was printed (JSON is read), and what was said beside it."""
    status = cli.main(["runs", *arguments])
    out, err = capsys.readouterr()
    return status, json.loads(out) if "json" in arguments and out else out, err


def one_error(capsys: Any, *arguments: str) -> str:
    status, _, err = race(capsys, *arguments)
    (line,) = err.splitlines()
    assert status == 2
    assert line.startswith("error: ")
    return line


def saying(name: str, **logs: str) -> Any:
    """A situation whose steps have said this in their first attempts."""
    found = copy.deepcopy(SITUATIONS[name])
    for number, step in enumerate(found.steps):
        if step.name in logs:
            pods = [dataclasses.replace(step.attempts[0], log=logs[step.name])]
            found.steps[number] = dataclasses.replace(step, attempts=pods)
    return found


def succeeded() -> Any:
    """A run whose training and evaluation have said what came of them."""
    return saying("succeeded", train=TRAINED, evaluate=SCORES)


def test_list_shows_this_pipeline_s_runs_newest_first(server: Any, capsys: Any) -> None:
    server.replay = succeeded()
    server.clock.now = 9999
    status, out, err = race(capsys, "list")
    assert (status, err) == (0, "")
    rows = [line.split("  ") for line in out.splitlines()]
    assert [row[0].strip() for row in rows[1:]] == [
        "going",
        "stopped",
        "bad",
        "smoke 2026-01-01 00:01:00 33d555",
    ]
    assert [" ".join(line.split()) for line in out.splitlines()[2:]] == [
        "stopped 3333aaaa cancelled 2026-01-01 00:03 7 min 24 s 99.31 %",
        "bad 2222aaaa failed 2026-01-01 00:02 7 min 24 s 99.31 %",
        "smoke 2026-01-01 00:01:00 33d555 1111aaaa succeeded 2026-01-01 00:01 7 min 24 s 99.31 %",
    ]


def selected() -> str:
    """What select prints of two trials."""
    scores = Scores.together([Group("middle", 100, 99, 0.1), Group("high", 300, 297, 0.1)])
    names = ("validation", "middle", "high", ALL)
    trials = [
        SimpleNamespace(
            label=f"seed {number}",
            validation_accuracy=97.0,
            accuracies=dict.fromkeys(names, 90.0 + number),
            collapsed=False,
        )
        for number in (1, 2)
    ]
    found = SimpleNamespace(
        scores=scores,
        trials=trials,
        selected="seed 2",
        validation_accuracy=98.0,
        spread={name: {"median": 91.5} for name in names},
        ensemble=SimpleNamespace(trials=trials, scores=scores),
    )
    return table(cast(Selection, found))


def test_a_sweep_s_accuracy_is_the_selected_model_s(server: Any, capsys: Any) -> None:
    server.replay = saying("sweep-two-trials", evaluate=SCORES, select=selected())
    server.clock.now = 9999
    (run,) = race(capsys, "list", "--state", "failed", "--output", "json")[1]
    assert run["accuracy"] == 99.0
    replayed(server, "sweep-two-trials", 9999)
    server.replay = saying("sweep-two-trials", evaluate=SCORES, select=selected())
    assert "select 22.0 s succeeded: best seed 2, accuracy 99.00 % on test" in steps(
        race(capsys, "show", "run-1")[1]
    )
    server.replay = saying("sweep-two-trials", evaluate=SCORES)
    (run,) = race(capsys, "list", "--all", "--output", "json")[1]
    assert run["accuracy"] is None


def test_what_evaluate_really_prints_is_understood() -> None:
    tests = [Group("middle", 1436, 1300, 0.5), Group("high", 3498, 2900, 0.75)]
    for given in (tests, tests[:1]):
        scores = Scores.together(given)
        assert accuracy("evaluate", table_of_scores(scores, 4, {"longest": 99.5})) == round(
            scores.all.accuracy, 2
        )


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["--state", "failed"], ["bad"]),
        (["--state", "cancelled"], ["stopped"]),
        (["--limit", "2"], ["going", "stopped"]),
        (["--limit", "1", "--state", "succeeded"], ["smoke 2026-01-01 00:01:00 33d555"]),
        (["--all", "--limit", "1"], ["other"]),
        (["--state", "pending"], []),
    ],
)
def test_list_is_limited_and_filtered_over_pages(
    server: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, given: list[str], names: list[str]
) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    status, runs, _ = race(capsys, "list", "--output", "json", *given)
    assert status == 0
    assert [run["name"] for run in runs] == names


def test_list_for_machines_has_whole_ids_times_and_addresses(server: Any, capsys: Any) -> None:
    _, (run,), _ = race(capsys, "list", "--state", "failed", "--output", "json")
    assert run == {
        "id": IDS["bad"],
        "name": "bad",
        "state": "failed",
        "created": "2026-01-01T00:02:00Z",
        "finished": "2026-01-01T00:09:24Z",
        "seconds": 444.0,
        "url": f"{server.host}/#/runs/details/{IDS['bad']}",
        "accuracy": None,
    }


def test_a_server_without_our_pipeline_has_no_runs_of_ours(server: Any, capsys: Any) -> None:
    server.pipelines = []
    assert race(capsys, "list") == (0, "no runs\n", "")
    assert "has no run of race-roberta" in one_error(capsys, "show", "latest")
    assert "--limit 0: give at least 1" in one_error(capsys, "list", "--limit", "0")


@pytest.mark.parametrize("which", ["latest", "going", "4444", IDS["going"]])
def test_a_run_is_found_by_id_prefix_name_and_latest(server: Any, capsys: Any, which: str) -> None:
    _, run, _ = race(capsys, "cancel", which, "--output", "json")
    assert (run["id"], run["state"]) == (IDS["going"], "cancelling")


def test_what_names_no_run_or_several_is_refused_with_the_candidates(
    server: Any, capsys: Any
) -> None:
    assert "has no run with the id or name 'nothing'" in one_error(capsys, "show", "nothing")
    assert "has no run with the id or name ''" in one_error(capsys, "show", "")
    missing = "0" * 8 + IDS["bad"][8:]
    assert f"Run {missing} not found. Check the run's id" in one_error(capsys, "show", missing)
    server.runs.append(listed("2222bbbb", "again", 6, *BAD))
    said = one_error(capsys, "delete", "2222", "--yes")
    assert f"'2222' may be 2222bbbb (again, failed), {IDS['bad']} (bad, failed)." in said
    assert len(server.runs) == 7
    server.runs += [listed(f"9{number}", "many", 7, *OK) for number in range(7)]
    assert one_error(capsys, "show", "many").count("(many, succeeded)") == 5


def test_a_run_among_many_is_found_without_as_many_requests(server: Any, capsys: Any) -> None:
    server.runs += [listed(f"b{n}", f"run {n}", 6, *OK, pipeline="theirs") for n in range(150)]
    assert race(capsys, "list", "--limit", "1", "--output", "json")[1][0]["name"] == "going"
    assert race(capsys, "cancel", "stopped")[0] == 0
    asked = [path for _, path, _ in server.requests if path.endswith("/runs")]
    assert len(asked) == 4


@pytest.mark.parametrize("poll", ["-1", "nan", "inf", "x"])
@pytest.mark.parametrize("verb", ["show", "logs", "cancel", "retry"])
def test_what_is_no_time_to_wait_is_refused(server: Any, capsys: Any, verb: str, poll: str) -> None:
    said = one_error(capsys, verb, "going", "--wait", f"--poll={poll}")
    assert f"argument --poll: invalid seconds value: '{poll}'" in said
    assert server.requests == []


def test_a_stranger_s_name_of_a_run_does_nothing_to_the_terminal(server: Any, capsys: Any) -> None:
    server.runs[2]["display_name"] = "bad\x1b[2J"
    which = IDS["bad"]
    for arguments in (["cancel", which], ["retry", which]):
        _, out, err = race(capsys, *arguments)
        assert "bad\\x1b[2J" in out
        assert "\x1b" not in out + err
    server.runs[2]["state"] = "FAILED"
    assert race(capsys, "delete", which, "--yes")[1] == "deleted bad\\x1b[2J\n"


def replayed(server: Any, name: str, now: float) -> None:
    """A single run to which a situation happens, at that time of it."""
    server.runs = [{"run_id": "run-1", "display_name": "mine", "created_at": situations.at(0)}]
    server.replay = succeeded() if name == "succeeded" else copy.deepcopy(SITUATIONS[name])
    server.clock.now = now


def steps(out: str) -> list[str]:
    return [" ".join(line.split()) for line in out.splitlines()[3:]]


def test_show_has_each_step_with_what_came_of_it(server: Any, capsys: Any) -> None:
    replayed(server, "succeeded", 9999)
    status, out, err = race(capsys, "show", "run-1")
    assert (status, err) == (0, "")
    assert out.startswith("mine (run-1): succeeded, ")
    assert f"{server.host}/#/runs/details/run-1" in out
    assert "train 2 min 04 s succeeded: 438 updates, accuracy 97.00 % in validation" in steps(out)
    assert "evaluate 1 min 11 s succeeded: accuracy 99.31 % on test" in steps(out)


@pytest.mark.parametrize(
    ("name", "now", "line"),
    [
        ("gate-failed", 9999, "binarize cached"),
        ("gate-failed", 9999, "gate 10.0 s failed: accuracy 97.37 % is below min_accuracy"),
        ("gate-failed", 9999, "the run failed in gate: accuracy 97.37 %"),
        ("pod-deleted-retried", 130, "train attempt 1 failed: pod deleted"),
        ("pod-deleted-retried", 250, "train running (attempt 2)"),
        ("image-pull", 120, f"train waiting: {situations.PULL_ERROR[:30]}"),
        ("sweep-two-trials", 9999, "train (seed 2) 2 min 50 s succeeded"),
        ("trainjob-terminated", 9999, "the run was cancelled"),
    ],
)
def test_show_says_why_a_step_waits_fails_or_was_tried_again(
    server: Any, capsys: Any, name: str, now: float, line: str
) -> None:
    replayed(server, name, now)
    status, out, _ = race(capsys, "show", "run-1")
    assert status == 0
    assert any(said.startswith(line) for said in steps(out)), out


@pytest.mark.parametrize("name", SITUATIONS)
def test_show_wait_ends_as_submit_wait_does_and_so_in_json(
    server: Any, capsys: Any, name: str
) -> None:
    replayed(server, name, 0)
    status, answer, err = race(capsys, "show", "run-1", "--wait", "--poll=20", "--output", "json")
    assert status == ENDS[name][0]
    assert (answer["error"] or "").startswith(ENDS[name][1][:60])
    assert "download-race" in {step["step"].removesuffix("-driver") for step in answer["steps"]}
    last = err.splitlines()[-1]
    assert last == "the run succeeded" if status == 0 else last.startswith("error: ")


@pytest.mark.parametrize("name", SITUATIONS)
def test_show_reads_a_real_server_s_answers(
    server: Any, recording: Any, capsys: Any, name: str
) -> None:
    server.runs = [{"run_id": "run-1"}]
    server.replay = recording(name)
    server.clock.now = 9999
    status, answer, _ = race(capsys, "show", "run-1", "--output", "json")
    assert status == 0
    if name not in ("retry-resumed", "image-pull", "limit-range", "bad-secret-name"):
        wanted = {0: "succeeded", 130: "cancelled"}
        assert answer["state"] == wanted.get(REAL.get(name, ENDS[name])[0], "failed")
    assert "download-race" in {step["step"].removesuffix("-driver") for step in answer["steps"]}


def test_progress_is_shown_while_training_runs(server: Any, capsys: Any) -> None:
    replayed(server, "succeeded", 0)
    status, out, err = race(capsys, "show", "run-1", "--wait", "--poll", "20")
    assert (status, out) == (0, "")
    said = [" ".join(line.split()) for line in err.splitlines()]
    going = "train 438 updates, accuracy 97.00 % in validation"
    place = said.index("train running: 438 updates, accuracy 97.00 % in validation")
    assert said[place + 1 : place + 3] == [going, f"train 2 min 04 s succeeded: {going[6:]}"]


def test_cancel_ends_a_run_once(server: Any, capsys: Any) -> None:
    status, out, err = race(capsys, "cancel", "going", "--wait")
    assert (status, out, err) == (0, "going: cancelled\n", "")
    calls = [path for method, path, _ in server.requests if method == "POST"]
    assert calls == [f"/apis/v2beta1/runs/{IDS['going']}:terminate"]
    status, out, err = race(capsys, "cancel", "going")
    assert (status, out, err) == (0, "going: cancelled\n", "going had ended already\n")
    assert race(capsys, "cancel", "1111")[1].endswith(": succeeded\n")
    assert len([1 for method, *_ in server.requests if method == "POST"]) == 1


def test_retry_goes_on_in_place_and_says_how_to_watch(server: Any, capsys: Any) -> None:
    status, out, err = race(capsys, "retry", "bad")
    assert (status, err) == (0, "")
    assert out == f"bad goes on; watch it: race runs show {IDS['bad']} --wait\n"
    assert server.runs[2]["state"] == "RUNNING"
    assert "bad is running: only what has failed can be retried" in one_error(
        capsys, "retry", "bad"
    )
    assert "succeeded: only what has failed can be retried" in one_error(capsys, "retry", "1111")
    assert race(capsys, "retry", "stopped", "--output", "json")[1]["state"] == "running"


def test_a_retry_that_the_server_refuses_is_one_line(server: Any, capsys: Any) -> None:
    server.fail("POST", ":retry$", 409, 409)
    said = one_error(capsys, "retry", "bad")
    assert said.startswith(f"error: run {IDS['bad']}: Internal Server Error")


def test_retry_wait_follows_to_the_end(server: Any, capsys: Any) -> None:
    replayed(server, "retry-resumed", 236)
    status, _, err = race(capsys, "retry", "run-1", "--wait")
    assert status == 0
    assert server.retried == ["run-1"]
    assert err.splitlines()[-1] == "the run succeeded"


def test_delete_wants_a_word_and_an_ended_run(
    server: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = one_error(capsys, "delete", "bad")
    assert "nobody can be asked here. Give --yes" in said
    assert "going is running. End it first" in one_error(capsys, "delete", "going", "--yes")
    assert len(server.runs) == 6
    assert race(capsys, "delete", "bad", "--yes") == (0, "deleted bad\n", "")
    assert "has no run with the id or name 'bad'" in one_error(capsys, "show", "bad")
    for answer, left in (("n\n", 5), ("y\n", 4)):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        status, _, err = race(capsys, "delete", "stopped")
        assert err.startswith(f"delete the record of stopped ({IDS['stopped']})? [y/N]")
        assert (status, len(server.runs)) == (2 if left == 5 else 0, left)


class Terminal:
    def __init__(self, answer: str) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.answer


def test_a_deletion_whose_answer_was_lost_is_done(server: Any, capsys: Any) -> None:
    server.fail("DELETE", "/runs/", 503, lost_reply=True)
    server.fail("DELETE", "/runs/", 404)
    assert race(capsys, "delete", "bad", "--yes")[:2] == (0, "deleted bad\n")
    assert len(server.runs) == 5


def test_without_a_server_it_says_how_to_name_one(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    assert "KF_PIPELINES_ENDPOINT" in one_error(capsys, "list")


def test_a_log_that_is_gone_is_no_accuracy(server: Any, capsys: Any) -> None:
    server.replay = copy.deepcopy(SITUATIONS["succeeded"])
    server.clock.now = 9999
    assert NO_LOG.startswith('{"error_message"')
    _, runs, _ = race(capsys, "list", "--output", "json")
    assert {run["accuracy"] for run in runs} == {None}
