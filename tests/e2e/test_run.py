"""`race run` through KFP's SubprocessRunner, from the command line to the last file."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.common.files import atomic_folder
from components.download.archive import unpack
from pipeline.cli import main
from pipeline.sample import INPUTS, make_sample
from tests.unit.pipeline.stored import assert_comes_back

RACE = str(Path(sys.executable).with_name("race"))
DATA_STEPS = {"download-race", "download-bpe", "download-roberta", "preprocess", "binarize"}


@dataclass(frozen=True)
class Place:
    """A small sample, a folder of runs whose name is as awkward as a user's may be, and the folder
    where `race` is called, see the fixture `strangers`.
    """

    sample: Path
    runs: Path
    cwd: Path

    def command(self, *arguments: str, **inputs: str) -> list[str]:
        paths = {name: str(self.sample / file) for name, file in INPUTS.items()} | inputs
        settings = [f"{name}={value}" for name, value in paths.items()]
        settings += ["train_max_updates=2", "effective_batch_size=8", "train_batch_size=8"]
        start = [RACE, "run", "--config", "smoke"]
        assignments = [word for setting in settings for word in ("-p", setting)]
        return [*start, "--output", str(self.runs), *assignments, *arguments]

    def race(self, *arguments: str, **inputs: str) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, **inputs)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.cwd / "path")}
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=self.cwd
        )

    def latest(self) -> Path:
        return self.runs / "latest"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, strangers: Path) -> Place:
    folder = tmp_path_factory.mktemp("e2e")
    make_sample(folder / "sample", passages=16)
    return Place(folder / "sample", folder / "my 'runs' of python3", strangers)


@pytest.fixture(scope="module")
def first(place: Place) -> subprocess.CompletedProcess[str]:
    return place.race("--name", "first", "-p", "min_accuracy=0")


def steps(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What each step's line says after its name."""
    lines = [line.partition(" ") for line in result.stderr.splitlines()]
    known = DATA_STEPS | {"train", "evaluate", "gate"}
    return {name: rest.strip() for name, _, rest in lines if name in known}


def test_a_run_shows_a_line_a_step_and_a_table_of_accuracies(
    first: subprocess.CompletedProcess[str], place: Place
) -> None:
    assert first.returncode == 0, first.stderr
    assert len(first.stderr.splitlines()) == 8, first.stderr  # the run's folder, and seven steps
    shown = steps(first)
    assert shown.keys() == DATA_STEPS | {"train", "evaluate"}
    for line in shown.values():
        assert re.match(r"\d+\.\d s |\d+ min \d\d s ", line), line
    assert "2 updates" in shown["train"]
    metrics = json.loads((place.runs / "first" / "report" / "metrics.json").read_text())
    for name, suffix in (("middle", "_middle"), ("high", "_high"), ("both", "")):
        questions, accuracy = metrics[f"questions{suffix}"], metrics[f"accuracy{suffix}"]
        assert f"{name:<8} {questions:>11,} {accuracy:>8.2f} %" in first.stdout


def test_everything_lies_where_the_run_says(
    first: subprocess.CompletedProcess[str], place: Place
) -> None:
    named = [Path(line.split("  ")[0]) for line in first.stdout.splitlines() if "/first/" in line]
    assert len(named) == 6
    assert all(path.exists() for path in named)
    run = place.runs / "first"
    outputs = {"race", "bpe", "roberta", "text", "data", "model", "report"}
    assert {path.name for path in run.iterdir() if path.is_dir()} == {*outputs, "logs", "artifacts"}
    assert not any(path.is_symlink() for path in run.iterdir())
    # KFP moves an artifact's files one after the other, in 25 ms each.
    for name in outputs:
        assert sum(path.is_file() for path in (run / name).rglob("*")) <= 100, name
    assert {path.name for path in (run / "race").iterdir()} == {
        "content.zip",
        "SHA256SUMS",
        "origin.json",
    }
    predictions = (run / "report" / "predictions.jsonl").read_text().splitlines()
    assert (
        len(predictions) == json.loads((run / "report" / "metrics.json").read_text())["questions"]
    )
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "succeeded"
    assert record["parameters"]["train_max_updates"] == 2
    assert [step["exit_status"] for step in record["steps"]] == [0] * 8
    assert {path.name for path in (run / "logs").iterdir()} == {
        f"{name}.log" for name in (*DATA_STEPS, "train", "evaluate", "gate", "kfp")
    }


def test_again_takes_data_from_the_cache_trains_anew_and_fails_at_the_gate(
    first: subprocess.CompletedProcess[str], place: Place
) -> None:
    assert first.returncode == 0
    again = place.race("--name", "again", "-p", "min_accuracy=100")
    assert again.returncode == 7
    shown = steps(again)
    assert all(shown[name].startswith("cached") for name in DATA_STEPS)
    assert "2 updates" in shown["train"]
    assert shown["evaluate"].endswith("% on test")
    assert shown["gate"].endswith("failed")
    lines = again.stderr.splitlines()
    assert lines[-1].startswith("error: gate: accuracy ")
    assert "is below min_accuracy 100 %" in lines[-1]
    assert "Traceback" not in again.stderr
    assert [line for line in lines if "error:" in line] == lines[-1:]
    run = place.runs / "again"
    dictionaries = [
        place.runs / name / "data" / "input0" / "dict.txt" for name in ("first", "again")
    ]
    assert dictionaries[0].samefile(dictionaries[1])
    assert json.loads((run / "run.json").read_text())["state"] == "failed"
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert f"both     {metrics['questions']:>11,} {metrics['accuracy']:>8.2f} %" in again.stdout
    assert f"{run / 'index.html'} " in again.stdout
    for name in ("index.html", "data/report.html", "model/report.html", "report/report.html"):
        assert (run / name).is_file()
    assert "not as good as was asked for (100" in (run / "index.html").read_text()


def race(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RACE, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.slow
def test_a_copy_of_a_run_serves_without_the_runs_it_took_from(place: Place, tmp_path: Path) -> None:
    place = dataclasses.replace(place, runs=tmp_path / "runs")
    for name in ("old", "new"):
        assert not place.race("--name", name, "-p", "min_accuracy=0").returncode
    copies = [tmp_path / "copy of new", tmp_path / "moved"]
    subprocess.run(["cp", "-r", place.runs / "new", copies[0]], check=True)
    shutil.rmtree(place.runs / "old")
    (place.runs / "new").rename(copies[1])
    for copy in copies:
        asked = ("--passage", "Ann has a cat.", "--question", "Ann has a _.")
        options = [word for option in ("dog", "cat", "cow", "hen") for word in ("--option", option)]
        for result in (
            race("report", copy),
            race("predict", "--model", copy, *asked, *options),
            race("export", "--model", copy, "--output", tmp_path / f"{copy.name} exported"),
        ):
            assert not result.returncode, result.stderr
    assert not race("compare", *copies).returncode
    again = place.race("--name", "old", "-p", "train_encoder_layers=1")  # which does not fit
    assert again.returncode == 2
    assert not any(step.startswith("cached") for step in steps(again).values())


@pytest.mark.slow
def test_two_first_runs_at_once_share_a_folder(tmp_path: Path) -> None:
    settings = ("train_max_updates=2", "min_accuracy=0")
    command = [RACE, "run", "--config", "smoke"]
    command += [word for setting in settings for word in ("-p", setting)]
    command += ["--output", str(tmp_path / "runs"), "--name", "mine"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert (tmp_path / "runs" / "mine.2" / "run.json").is_file()


@pytest.mark.slow
def test_a_gate_that_is_passed_says_so(
    first: subprocess.CompletedProcess[str], place: Place
) -> None:
    assert "gate" not in steps(first), "nothing was asked for"
    passed = place.race("--name", "passed", "-p", "min_accuracy=0.5")
    assert passed.returncode == 0
    assert steps(passed)["gate"].endswith("accuracy is at least 0.5 %")


def test_an_interruption_ends_the_run_and_its_processes(
    first: subprocess.CompletedProcess[str], place: Place
) -> None:
    assert first.returncode == 0
    command = place.command("--name", "stopped", "-p", "train_max_updates=0", "-p", "epochs=999")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = place.runs / "stopped" / "logs" / "train.log"
    deadline = time.monotonic() + 90
    while not (log.exists() and "training" in log.read_text()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1] == "error: terminated by SIGTERM"
    folder = str(place.runs / "stopped")
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and _mentions(pid, folder)]
    assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
    outputs = list((place.runs / "stopped" / "artifacts").glob("*/train/*"))
    assert not outputs, "a half-made model was left"


def _mentions(pid: str, text: str) -> bool:
    try:
        return text in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


# Bad input


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[str]:
    """An HTTP server of the sample."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(place.sample)))
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


def changed(place: Place, name: str, change: str) -> str:
    """A copy of the sample's archive with one thing wrong in it."""
    folder = place.sample.parent / name
    with atomic_folder(folder) as made:
        unpack(place.sample / "RACE.tar.gz", made)
        victim = sorted((made / "RACE" / "dev" / "high").iterdir())[0]
        passage = json.loads(victim.read_text())
        if change == "three options":
            passage["options"][0].pop()
        elif change == "answer E":
            passage["answers"][0] = "E"
        victim.write_text(json.dumps(passage))
        if change == "cut off":
            victim.write_text(victim.read_text()[:100])
        elif change == "no split":
            shutil.rmtree(made / "RACE" / "dev")
        with tarfile.open(made / "RACE.tar.gz", "w:gz") as archive:
            archive.add(made / "RACE", arcname="RACE")
            if change == "climbs":
                archive.add(victim, arcname="RACE/../../climbed.txt")
    return str(folder / "RACE.tar.gz")


def assert_one_line(result: subprocess.CompletedProcess[str], status: int, *says: str) -> None:
    lines = result.stderr.splitlines()
    assert result.returncode == status, result.stderr
    assert [line for line in lines if "error" in line.lower()] == lines[-1:]
    for text in says:
        assert text in lines[-1]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def assert_nothing_half_made(place: Place, name: str, step: str) -> None:
    made = list((place.runs / name / "artifacts").glob(f"*/{step}/*"))
    assert not made, made


@pytest.mark.parametrize(
    ("change", "step", "says"),
    [
        ("three options", "preprocess", "dev/high/"),
        ("cut off", "preprocess", "dev/high/"),
        ("no split", "preprocess", "dev"),
        ("climbs", "download-race", "climbed.txt"),
    ],
)
def test_a_bad_archive_is_one_line(place: Place, change: str, step: str, says: str) -> None:
    name = change.replace(" ", "-")
    archive = changed(place, name, change)
    result = place.race("--name", name, race_url=archive)
    assert_one_line(result, 3, f"error: {step}: ", says)
    assert_nothing_half_made(place, name, step)
    assert not list(place.sample.parent.rglob("climbed.txt"))


@pytest.mark.parametrize("kind", ["file", "http"])
def test_what_changed_under_its_address_is_not_taken_from_the_cache(
    place: Place, server: str, kind: str
) -> None:
    archive = place.sample / f"{kind}.tar.gz"
    address = {"file": str(archive), "http": f"{server}/{archive.name}"}[kind]
    hour_ago = time.time() - 3600
    arguments = ("-p", "train_encoder_layers=1")  # the model has two: the run ends there

    def race(name: str) -> subprocess.CompletedProcess[str]:
        return place.race("--name", f"{kind}-{name}", *arguments, race_url=address)

    shutil.copy(changed(place, f"{kind}-before", "nothing"), archive)
    os.utime(archive, (hour_ago, hour_ago))
    before, again = race("before"), race("again")
    assert "questions" in steps(before)["preprocess"]
    assert steps(again)["download-race"].startswith("cached")
    shutil.copy(changed(place, f"{kind}-after", "answer E"), archive)
    os.utime(archive, (hour_ago + 60, hour_ago + 60))
    assert_one_line(race("after"), 3, "error: preprocess: ")


def test_from_a_cluster_it_comes_back_as_it_was(
    first: subprocess.CompletedProcess[str],
    place: Place,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert first.returncode == 0
    fetched = assert_comes_back(place.runs / "first", bucket, tmp_path, monkeypatch)
    capsys.readouterr()
    one = ["--passage", "Ann has a cat.", "--question", "Ann has a _.", "--option"]
    assert main(["predict", "--model", str(fetched), *one, "dog", *one[-1:], "cat"]) == 0
    assert re.search(r"^\* [AB] ", capsys.readouterr().out, re.MULTILINE)


def test_a_wrong_checksum_is_one_line(place: Place) -> None:
    race = f"{place.sample / INPUTS['race_url']}#sha256={'0' * 64}"
    result = place.race("--name", "checksum", race_url=race)
    assert_one_line(result, 3, "error: download-race: ", "wrong checksum")
    assert_nothing_half_made(place, "checksum", "download-race")


def test_an_address_that_is_not_there_is_one_line(place: Place, server: str) -> None:
    result = place.race("--name", "404", race_url=f"{server}/RACE-2.tar.gz")
    assert_one_line(result, 4, "error: download-race: ", "404")
    assert_nothing_half_made(place, "404", "download-race")


def test_an_effective_batch_that_does_not_divide_is_one_line(place: Place) -> None:
    result = place.race("--name", "batch", "-p", "effective_batch_size=9")
    assert_one_line(result, 2, "error: train: effective_batch_size 9 does not divide")
    assert_nothing_half_made(place, "batch", "train")


def test_a_folder_that_cannot_be_written_is_one_line(place: Place) -> None:
    result = place.race("--output", "/proc/runs")
    assert_one_line(result, 5, "/proc/runs")
