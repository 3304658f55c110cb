"""Sweeps through `race run`: several trainings, some that come to nothing, and what is selected.

The data set is one that a tiny model learns in a few dozen updates: the right option is a number.
"""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.sample import INPUTS, make_sample
from tests.unit.pipeline.stored import assert_comes_back

NUMBERS = ("ten", "five", "eight", "four")
MONTHS = ("April", "July", "March", "October")
GOOD, HOPELESS = "0.005", "0.0"  # learning rates
GIVE_UP = "train_stop_collapsed_after=480"  # questions, two epochs


def make_dataset(folder: Path) -> None:
    """RACE.tar.gz with 240 questions to train on, 64 in dev and 64 in test.

    No model answers all test questions: the key to 8 of them is wrong.
    """
    rng = random.Random(1)
    for split, passages in (("train", 30), ("dev", 8), ("test", 8)):
        for level in ("middle", "high"):
            place = folder / "RACE" / split / level
            place.mkdir(parents=True)
            for number in range(passages):
                made = passage(rng)
                if split == "test" and number == 0:
                    made["answers"] = ["BCDA"["ABCD".index(right)] for right in made["answers"]]
                (place / f"{number}.txt").write_text(json.dumps(made))
    with tarfile.open(folder / "RACE.tar.gz", "w:gz") as archive:
        archive.add(folder / "RACE", arcname="RACE")


def passage(rng: random.Random) -> dict[str, Any]:
    answers, options = [], []
    for _ in range(4):
        right = rng.randrange(4)
        chosen = rng.sample(MONTHS, 4)
        chosen[right] = rng.choice(NUMBERS)
        answers.append("ABCD"[right])
        options.append(chosen)
    return {
        "article": "There were some people in the room.",
        "questions": ["How many people were there?"] * 4,
        "options": options,
        "answers": answers,
        "id": "made up",
    }


@dataclass(frozen=True)
class Place:
    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "my 'runs'"

    def command(self, name: str, *assignments: str) -> list[str]:
        paths = {key: self.folder / "sample" / file for key, file in INPUTS.items()}
        paths["race_url"] = self.folder / "RACE.tar.gz"
        settings = [f"{key}={path}" for key, path in paths.items()]
        settings += ["effective_batch_size=16", "train_batch_size=16", "train_warmup_updates=5"]
        settings += [f"learning_rate={GOOD}", "epochs=3"]
        start = [sys.executable, "-m", "pipeline", "run", "--config", "smoke", "--name", name]
        given = [word for setting in (*settings, *assignments) for word in ("-p", setting)]
        return [*start, "--output", str(self.runs), *given]

    def race(self, name: str, *assignments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = self.command(name, *assignments)
        return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("sweep")
    make_sample(folder / "sample", passages=4)
    make_dataset(folder)
    return Place(folder)


def shown(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The names that steps' lines start with, in order."""
    found = (
        re.match(r"(\S+(?: \([^)]*\))?) +(?:\d+ min )?[\d.]+ s", s)
        for s in result.stderr.splitlines()
    )
    return [line[1] for line in found if line]


def in_loop(labels: Sequence[str]) -> list[str]:
    return [f"{step} ({label})" for label in labels for step in ("train", "evaluate")]


# One that learns, and one that train gives up


@pytest.fixture(scope="module")
def two(place: Place) -> subprocess.CompletedProcess[str]:
    return place.race("two", f"learning_rates=[{GOOD},{HOPELESS}]", GIVE_UP)


def test_from_a_cluster_a_sweep_comes_back_as_it_was(
    two: subprocess.CompletedProcess[str],
    place: Place,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert two.returncode == 0, two.stderr
    assert_comes_back(place.runs / "two", bucket, tmp_path, monkeypatch)


def test_a_trial_that_collapses_is_marked_and_the_run_goes_on(
    two: subprocess.CompletedProcess[str], place: Place
) -> None:
    assert two.returncode == 0, two.stderr
    labels = ["lr 0.005", "lr 0.0"]
    assert [name for name in shown(two) if "(" in name] == in_loop(labels)
    assert shown(two)[-2:] == ["select", "gate"]
    lines = {line.partition("  ")[0]: line for line in two.stderr.splitlines()}
    assert re.search(r"s  collapsed after \d+ updates$", lines["train (lr 0.0)"])
    assert lines["evaluate (lr 0.0)"].endswith("  nothing to evaluate")
    assert "Traceback" not in two.stderr


def test_the_run_ends_with_a_table_of_trials(
    two: subprocess.CompletedProcess[str], place: Place
) -> None:
    metrics = json.loads((place.runs / "two" / "selection" / "metrics.json").read_text())
    split = [re.split(r"  +", line) for line in two.stdout.splitlines() if line]
    rows = {name: cells for name, *cells in split}
    assert rows[""] == ["validation", "middle", "high", "both"]
    keys = ("validation_accuracy", "accuracy_middle", "accuracy_high", "accuracy")
    figures = [f"{metrics[key]:.2f} %" for key in keys]
    assert rows["lr 0.005"] == rows["best: lr 0.005"] == rows["median"] == figures
    assert rows["lr 0.0"][1:] == ["–", "–", "–", "collapsed"]
    assert rows["ensemble of 1"] == ["–", *figures[1:]]


def test_each_trial_and_what_was_selected_lie_where_the_run_says(
    two: subprocess.CompletedProcess[str], place: Place
) -> None:
    run = place.runs / "two"
    named = [Path(line.split("  ")[0]) for line in two.stdout.splitlines() if "/two/" in line]
    assert len(named) == 6
    assert all(path.exists() for path in named)
    good, bad = run / "trials" / "lr-0.005", run / "trials" / "lr-0.0"
    for trial in (good, bad):
        for part in ("model", "report"):
            assert (trial / part / "report.html").is_file()
            assert (trial / part / "metrics.json").is_file()
    assert (good / "model" / "checkpoint_best.pt").is_file()
    assert not (good / "model" / "checkpoint_last.pt").exists()
    assert not list((bad / "model").glob("*.pt"))
    assert json.loads((bad / "model" / "metrics.json").read_text())["collapsed"]
    selected = run / "model" / "checkpoint_best.pt"
    assert selected.samefile(good / "model" / "checkpoint_best.pt")
    assert (run / "report" / "predictions.jsonl").is_file()
    logs = {path.name for path in (run / "logs").iterdir()}
    assert {"train-lr-0.005.log", "train-lr-0.0.log", "evaluate-lr-0.0.log"} <= logs


def test_run_json_and_the_page_know_the_trials(
    two: subprocess.CompletedProcess[str], place: Place
) -> None:
    run = place.runs / "two"
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "succeeded"
    assert record["parameters"]["learning_rates"] == [0.005, 0.0]
    trials = [step["trial"] for step in record["steps"]]
    assert [name for name in trials if name] == ["lr-0.005"] * 2 + ["lr-0.0"] * 2
    page = (run / "index.html").read_text()
    for path in re.findall(r'href="([^"#:]+)"', page):
        assert (run / path).exists(), path
    assert 'href="trials/lr-0.0/model/report.html"' in page
    assert 'href="selection/report.html"' in page
    assert '<td class="bad">collapsed</td>' in page
    assert "<td>selected</td>" in page


def test_the_selected_model_answers_like_that_of_a_single_run(
    two: subprocess.CompletedProcess[str], place: Place
) -> None:
    model = str(place.runs / "two")
    command = [sys.executable, "-m", "pipeline", "predict", "--model", model]
    command += ["--passage", "There were some people in the room."]
    command += ["--question", "How many people were there?"]
    for option in ("April", "ten", "March", "July"):
        command += ["--option", option]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\* B .* ten$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.slow
def test_data_steps_come_from_the_cache_and_the_gate_judges_the_selected_model(
    two: subprocess.CompletedProcess[str], place: Place
) -> None:
    assert two.returncode == 0
    again = place.race("refused", "seeds=[1]", "epochs=1", "min_accuracy=100")
    cached = [line for line in again.stderr.splitlines() if re.search(r"  cached  ", line)]
    assert len(cached) == 5
    assert again.returncode == 7, again.stderr
    assert again.stderr.splitlines()[-1].startswith("error: gate: accuracy ")
    assert "best: seed 1" in again.stdout


def test_what_would_fail_in_every_trial_is_tried_once(
    two: subprocess.CompletedProcess[str], place: Place
) -> None:
    assert two.returncode == 0
    wrong = place.race("wrong", "seeds=[1,2]", "train_encoder_layers=3")
    assert wrong.returncode == 2, wrong.stderr
    assert "error: train (seed 1): " in wrong.stderr.splitlines()[-1]
    assert not any("(seed 2)" in line for line in wrong.stderr.splitlines())


# The whole of it


@pytest.mark.slow
def test_when_all_trials_collapse_the_run_fails_and_their_reports_are_kept(place: Place) -> None:
    done = place.race("none", "seeds=[1,2]", f"learning_rate={HOPELESS}", GIVE_UP)
    assert done.returncode == 6, done.stderr
    assert "error: select: all 2 trials collapsed" in done.stderr.splitlines()[-1]
    for name in ("seed-1", "seed-2"):
        assert (place.runs / "none" / "trials" / name / "model" / "report.html").is_file()
    page = (place.runs / "none" / "index.html").read_text()
    assert page.count('<td class="bad">collapsed</td>') == 2


@pytest.mark.slow
def test_three_seeds_and_a_learning_rate_that_cannot_learn(place: Place) -> None:
    done = place.race("three", "seeds=[1,2,3]", f"learning_rates=[{GOOD},{HOPELESS}]", GIVE_UP)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((place.runs / "three" / "selection" / "metrics.json").read_text())
    assert len(metrics["trials"]) == 6
    assert [
        t["label"] for t in metrics["trials"] if t["learning_rate"] == 0 and t["collapsed"]
    ] == [
        "seed 1, lr 0.0",
        "seed 2, lr 0.0",
        "seed 3, lr 0.0",
    ]
    assert metrics["collapsed"] == 3
    assert metrics["ensemble"]["accuracy"] >= metrics["median_accuracy"]
    page = (place.runs / "three" / "selection" / "report.html").read_text()
    for label in ("seed 1, lr 0.005", "seed 3, lr 0.0"):
        assert label in page
    assert "that of guessing among 4 options" in page


@pytest.mark.slow
def test_a_trial_that_only_guesses_counts_as_collapsed(place: Place) -> None:
    done = smoke(place, "guess", "learning_rates=[0.0]", "train_max_updates=2")
    assert done.returncode == 6, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "the only trial collapsed: its validation accuracy, " in last
    assert "cannot be told from guessing (25 %)" in last


def smoke(place: Place, name: str, *assignments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "run", "--config", "smoke", "--name", name]
    command += ["--output", str(place.runs)]
    command += [word for setting in assignments for word in ("-p", setting)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_an_interruption_in_the_second_trial_ends_the_sweep(place: Place) -> None:
    process = subprocess.Popen(
        place.command("stopped", "seeds=[1,2,3]"), stderr=subprocess.PIPE, text=True
    )
    wait_for(place.runs / "stopped" / "logs" / "train-seed-2.log", "training", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1] == "error: terminated by SIGTERM"
    assert not processes_of(str(place.runs / "stopped"))
    assert not (place.runs / "stopped" / "logs" / "train-seed-3.log").exists()
    record = json.loads((place.runs / "stopped" / "run.json").read_text())
    assert record["state"] == "failed"


@pytest.mark.slow
def test_a_trial_that_fails_otherwise_does_not_stop_the_others(place: Place) -> None:
    process = subprocess.Popen(
        place.command("killed", "seeds=[1,2,3]"), stderr=subprocess.PIPE, text=True
    )
    wait_for(place.runs / "killed" / "logs" / "train-seed-2.log", "training", process)
    for pid in processes_of(str(place.runs / "killed"), "components.train"):
        os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 137
    lines = err.splitlines()
    assert "error: train (seed 2): ended with status 137" in lines[-1]
    assert any(line.startswith("evaluate (seed 3) ") for line in lines)
    assert not any(line.startswith("select ") for line in lines)
    assert '<td class="bad">failed</td>' in (place.runs / "killed" / "index.html").read_text()
    # What it says works as it stands.
    (command,) = (line.strip() for line in lines if "-m components.select" in line)
    words = shlex.split(command)
    subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
    assert (place.runs / "killed" / "selection" / "report.html").is_file()
    metrics = json.loads((place.runs / "killed" / "selection" / "metrics.json").read_text())
    assert [trial["label"] for trial in metrics["trials"]] == ["seed 1", "seed 3"]


def wait_for(log: Path, text: str, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not (log.exists() and text in log.read_text()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes_of(*texts: str) -> list[int]:
    """The processes whose command lines have all these texts."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if all(text in command for text in texts):
            found.append(int(pid))
    return found
