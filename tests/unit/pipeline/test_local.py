"""What surrounds KFP's local runner: processes, the cache's key, paths, and made-up inputs."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.common.errors import DataError, TransferError
from components.download.archive import unpack
from pipeline import display, inputs, local
from pipeline.display import say, step_line
from pipeline.parameters import load_profile, resolve


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_step_s_output_goes_to_its_log_and_its_exit_status_is_kept(tmp_path: Path) -> None:
    program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    assert local.supervise(python(program), {}, tmp_path / "log") == 7
    assert (tmp_path / "log").read_text() == "out\nerr\n"


def test_a_step_that_was_killed_has_the_shell_s_exit_status(tmp_path: Path) -> None:
    program = "import os; os.kill(os.getpid(), 9)"
    assert local.supervise(python(program), {}, tmp_path / "log") == 137


def test_a_step_has_the_environment_that_it_was_given_and_a_folder_of_its_own_for_scratch(
    tmp_path: Path,
) -> None:
    program = (
        "import os, pathlib, tempfile\n"
        "print(os.environ['ONE'], os.environ['TWO'], tempfile.mkdtemp())"
    )
    os.environ["TWO"] = "2"
    try:
        assert local.supervise(python(program), {"ONE": "1"}, tmp_path / "log") == 0
    finally:
        del os.environ["TWO"]
    one, two, scratch = (tmp_path / "log").read_text().split()
    assert (one, two) == ("1", "2")
    assert not Path(scratch).exists()


def test_no_process_of_a_step_outlives_an_interruption(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    log = tmp_path / "log"

    def interrupt() -> None:
        while not (log.exists() and log.read_text().endswith("\n")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        local.supervise(python(program), {}, log)
    thread.join()
    grandchild = int(log.read_text())
    deadline = time.monotonic() + 5
    while _lives(grandchild):  # until init has buried it
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_step_that_leaves_a_process_behind_does_not_keep_it(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid)"
    )
    assert local.supervise(python(program), {}, tmp_path / "log") == 0
    time.sleep(0.1)
    assert not _lives(int((tmp_path / "log").read_text()))


def test_the_cache_knows_a_changed_input_and_changed_code(tmp_path: Path, monkeypatch) -> None:
    archive, package = tmp_path / "RACE.tar.gz", tmp_path / "components"
    package.mkdir()
    for path in (archive, package / "__init__.py"):
        path.write_text("one")
    monkeypatch.setattr(local.components, "__file__", str(package / "__init__.py"))
    values = {"download_race_url": str(archive), "download_dict_url": "https://host/dict.txt"}
    salts = [local._cache_salt(values)]
    assert local._cache_salt(values) == salts[0]
    archive.write_text("another")
    salts.append(local._cache_salt(values))
    (package / "__init__.py").write_text("two")
    salts.append(local._cache_salt(values))
    (package / "__init__.py").rename(package / "moved.py")
    salts.append(local._cache_salt(values))
    assert len(set(salts)) == 4


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/RACE.tar.gz", "/data/RACE.tar.gz"),
        ("file:///data/with%20space", "/data/with space"),
        ("here/RACE.tar.gz", "here/RACE.tar.gz"),
        ("https://host/RACE.tar.gz", None),
        ("s3://bucket/RACE.tar.gz", None),
        ("", None),
    ],
)
def test_local_addresses(address: str, path: str | None) -> None:
    assert local.local_path(address) == (None if path is None else Path(path))


def test_two_runs_of_one_name_do_not_meet(tmp_path: Path) -> None:
    folders = [local._new_folder(tmp_path / "runs", "mine") for _ in range(3)]
    assert [folder.name for folder in folders] == ["mine", "mine.2", "mine.3"]
    assert (tmp_path / "runs" / "latest").resolve() == folders[2].resolve()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert display.duration(seconds) == text


def test_the_last_line_that_says_something(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 10_000 + "\nsecond\n\n  \n")
    assert display.last_line(tmp_path / "log") == "second"
    assert display.last_line(tmp_path / "none") == ""


def test_on_a_terminal_the_line_of_a_step_moves_and_is_wiped(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("epoch 3 of 5\n")
    program = (
        "import time; from pathlib import Path; from pipeline.display import working\n"
        f"with working('train', Path({str(tmp_path / 'log')!r})): time.sleep(0.7)"
    )
    terminal, end = pty.openpty()
    subprocess.run(python(program), stderr=end, check=True)
    shown = os.read(terminal, 10_000).decode()
    os.close(end)
    os.close(terminal)
    assert "train " in shown
    assert "epoch 3 of 5" in shown
    assert shown.endswith("\r\x1b[2K")


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Makes small samples; the arguments that each was made with."""
    made: list[dict[str, object]] = []
    real = inputs.sample.make_sample

    def make_sample(output: Path, **arguments: object) -> None:
        made.append(arguments)
        real(output, passages=8, **arguments)

    monkeypatch.setattr(inputs.sample, "make_sample", make_sample)
    return made


def test_the_sample_stands_for_what_is_not_given_and_is_made_once(
    tmp_path: Path, small_sample: list[dict[str, object]]
) -> None:
    values = resolve(load_profile("smoke"), {})
    first = inputs.sample_inputs({}, values, tmp_path)
    second = inputs.sample_inputs({"download_race_url": "x"}, values, tmp_path)
    assert first.keys() == inputs.SAMPLE.keys()
    assert second.keys() == first.keys() - {"download_race_url"}
    assert all(Path(path).is_file() for path in first.values())
    assert first.items() >= second.items()
    assert len(small_sample) == 1
    assert not inputs.sample_inputs(dict.fromkeys(inputs.SAMPLE, "x"), values, tmp_path)


def test_the_sample_s_model_has_the_size_that_is_asked_for(
    tmp_path: Path, small_sample: list[dict[str, object]]
) -> None:
    values = resolve(load_profile("smoke"), {"train_encoder_layers": 1})
    made = {str(Path(p).parent) for p in inputs.sample_inputs({}, values, tmp_path).values()}
    values["train_encoder_layers"] = 3
    made |= {str(Path(p).parent) for p in inputs.sample_inputs({}, values, tmp_path).values()}
    assert [m["shape"].encoder_layers for m in small_sample] == [1, 3]
    assert len(made) == 4


def test_the_sample_s_model_fits_a_dictionary_that_is_given(
    tmp_path: Path, small_sample: list[dict[str, object]]
) -> None:

    from components.train import checkpoints

    dictionary = tmp_path / "dict.txt"
    dictionary.write_text("".join(f"{i} 1\n" for i in range(77)))
    values = resolve(load_profile("smoke"), {})
    found = inputs.sample_inputs({"download_dict_url": str(dictionary)}, values, tmp_path / "runs")
    (tmp_path / "model").mkdir()
    unpack(Path(found["download_roberta_url"]), tmp_path / "model")
    path = checkpoints.find_pretrained(tmp_path / "model")
    assert checkpoints.shape_of(checkpoints.load(path), path).vocabulary == 77 + 5


def test_a_dictionary_that_cannot_be_had_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    values = resolve(load_profile("smoke"), {})
    missing = {"download_dict_url": str(tmp_path / "no.txt")}
    with pytest.raises((TransferError, DataError)):
        inputs.sample_inputs(missing, values, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_lines_of_a_run_are_json_where_machines_read_them(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RACE_LOG_FORMAT", "json")
    say(step_line("train", "1.0 s", "done"))
    line = json.loads(capfd.readouterr().err)
    assert line["message"].split() == ["train", "1.0", "s", "done"]
    assert (line["level"], line["logger"]) == ("INFO", "race")
