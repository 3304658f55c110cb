"""What surrounds KFP's local runner: processes, the cache's key, paths, and made-up inputs."""

import errno
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.common.errors import DataError, TransferError
from components.common.executor import Artifact, ExecutorInput, Outcome, parse
from components.common.files import link_tree
from components.download.archive import unpack
from components.trials.core import TrialsConfig, plan_trials
from pipeline import cache, display, local, record, sample
from pipeline.components import component
from pipeline.display import say, step_line
from pipeline.images import Images
from pipeline.parameters import load_config, resolve
from pipeline.report import read_run
from pipeline.steps import STEPS, Step


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


def executor_input(output: Path, source: str = "input") -> ExecutorInput:
    return ExecutorInput(
        inputs={"race": [Artifact("race", "Dataset", source)]},
        outputs={"text": Artifact("text", "Dataset", str(output))},
        parameters={},
        answer=output.parent / "answer.json",
    )


def test_the_cache_s_key_has_inputs_parameters_and_salt_and_no_place(tmp_path: Path) -> None:
    def key(source: str = "1", salt: str = "", options: int = 4, place: str = "a") -> str:
        output = tmp_path / place
        command = ["python", "-m", "x", "--race=input", f"--output={output}"]
        command += [f"--options={options}"]
        found = cache.Cache(tmp_path, {"preprocess": salt})
        return found.key(STEPS["preprocess"], command, executor_input(output), {"input": source})

    assert len({key(), key(source="2"), key(salt="x"), key(options=5)}) == 4
    assert key(place="b") == key()


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
    folders = [record.new_folder(tmp_path / "runs", "mine") for _ in range(3)]
    assert [folder.name for folder in folders] == ["mine", "mine.2", "mine.3"]
    assert (tmp_path / "runs" / "latest").resolve() == folders[2].resolve()


def test_runs_that_start_at_once_get_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)  # as in two containers
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: record.new_folder(tmp_path / "runs", "mine"), range(64)))
    assert len(set(made)) == 64
    assert (tmp_path / "runs" / "latest").resolve() in made
    assert len(os.listdir(tmp_path / "runs")) == 65


FIRST = {"text": "Dataset", "figures": "Metrics"}


@pytest.fixture
def small_pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[..., record.Run]:
    """Runs a pipeline of two steps, of which the first is cached, in a folder of runs."""
    inputs = {"evaluation": "Dataset"}
    steps = {
        "first": Step("first", STEPS["trials"].config, outputs=FIRST, cached=True),
        "second": Step("second", STEPS["gate"].config, inputs, {"model": "Model"}),
    }

    def supervise(command: Sequence[str], *_: object) -> int:
        given = parse(command[-1].partition("=")[2])
        output = next(a for name, a in given.outputs.items() if name in ("text", "model")).path
        if given.inputs:
            shutil.copytree(given.inputs["evaluation"][0].path, output)
        else:
            (output / "deep").mkdir(parents=True)
            (output / "deep" / "lines").write_text("one")
        given.write(Outcome({"lines": 1}), output)
        return 0

    @dsl.pipeline
    def small() -> None:
        made = component(steps["first"], "data")()
        component(steps["second"], "data")(evaluation=made.outputs["text"])

    monkeypatch.setattr(local, "STEPS", steps)
    monkeypatch.setattr(local, "supervise", supervise)
    monkeypatch.setattr(local, "build", lambda *_, **__: small)
    values = resolve(load_config("smoke"), {})
    images = Images("data", "train")
    return lambda runs, name: local.run_pipeline(values, images, runs, name=name)


def test_a_run_s_folder_is_whole_by_itself(
    tmp_path: Path, small_pipeline: Callable[..., record.Run]
) -> None:
    runs = tmp_path / "runs"
    old = small_pipeline(runs, "old")
    new = small_pipeline(runs, "new")
    assert [one.cached for one in (*old.executions, *new.executions)] == [False, False, True, False]
    lines = [run.folder / "text" / "deep" / "lines" for run in (old, new)]
    assert lines[0].samefile(lines[1])  # takes no space
    shutil.rmtree(old.folder)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", new.folder, copy], check=True)
    moved = new.folder.rename(tmp_path / "moved")
    shutil.rmtree(runs)
    for folder in (copy, moved):
        for name in ("text", "model"):
            assert (folder / name / "deep" / "lines").read_text() == "one"
        inside = [path.resolve().is_relative_to(folder) for path in folder.rglob("*")]
        assert all(inside)
        outputs = [step["outputs"] for step in read_run(folder).steps]
        assert outputs == [{"text": "text"}, {"model": "model"}]


@pytest.mark.parametrize("lost", ["model", "answer"])
def test_a_step_that_ends_well_and_leaves_nothing_has_failed(
    tmp_path: Path, small_pipeline: Callable[..., record.Run], monkeypatch: Any, lost: str
) -> None:
    real = local.supervise

    def supervise(command: Sequence[str], *rest: Any) -> int:
        status = real(command, *rest)
        given = parse(command[-1].partition("=")[2])
        if "model" in given.outputs and lost == "model":
            shutil.rmtree(given.outputs["model"].path)
        elif "model" in given.outputs:
            given.answer.unlink()
        return status

    monkeypatch.setattr(local, "supervise", supervise)
    with pytest.raises(record.StepError, match=f"it ended well, but left no {lost}"):
        small_pipeline(tmp_path, "mine")


def test_what_collects_the_trials_is_of_none_of_them_even_if_there_is_one() -> None:
    (trial,) = plan_trials(TrialsConfig(seeds=[1]))
    worker = local.Worker(record.Run(Path("run"), {}, [trial]), None)
    made = record.Execution(STEPS["train"], Path("logs"), trial)
    worker._made = {"model": made, "report": made}

    def of(step: str, **inputs: str) -> Any:
        artifacts = {name: [Artifact(name, "Model", uri)] for name, uri in inputs.items()}
        given = ExecutorInput(artifacts, {}, {}, Path("answer"))
        return worker._trial(STEPS[step], ["python"], given)

    assert of("evaluate", model="model", data="data") == trial
    assert of("select", models="model", evaluations="report") is None
    assert of("gate", evaluation="selection") is None


@pytest.mark.parametrize("lost", ["", "text", "text/deep", "artifacts"])
def test_a_step_whose_cached_outputs_are_lost_runs_again(
    tmp_path: Path, small_pipeline: Callable[..., record.Run], lost: str
) -> None:
    shutil.rmtree(small_pipeline(tmp_path, "old").folder / lost)
    again = small_pipeline(tmp_path, "new")
    assert [one.cached for one in again.executions] == [False, False]
    assert (again.folder / "model" / "deep" / "lines").read_text() == "one"


def test_outputs_that_are_lost_while_they_are_restored_are_made_again(
    tmp_path: Path, small_pipeline: Callable[..., record.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def restore(source: Path, target: Path) -> None:
        link_tree(source, target)
        restored.append(target.name)
        shutil.rmtree(tmp_path / "old")

    restored: list[str] = []
    monkeypatch.setattr(cache, "link_tree", restore)
    small_pipeline(tmp_path, "old")
    again = small_pipeline(tmp_path, "new")
    assert len(restored) == 1  # of the two outputs
    assert [one.cached for one in again.executions] == [False, False]
    assert (again.folder / "model" / "deep" / "lines").read_text() == "one"


def test_without_hard_links_files_are_copied(
    tmp_path: Path, small_pipeline: Callable[..., record.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", link)
    small_pipeline(tmp_path, "old")
    assert small_pipeline(tmp_path, "new").executions[0].cached
    files = [tmp_path / name / "text" / "deep" / "lines" for name in ("old", "new")]
    assert not files[0].samefile(files[1])
    assert files[1].read_text() == "one"


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
    real = sample.make_sample

    def make_sample(output: Path, **arguments: object) -> None:
        made.append(arguments)
        real(output, passages=8, **arguments)

    monkeypatch.setattr(sample, "make_sample", make_sample)
    return made


def test_the_sample_stands_for_what_is_not_given_and_is_made_once(
    tmp_path: Path, small_sample: list[dict[str, object]]
) -> None:
    values = resolve(load_config("smoke"), {})
    first = sample.sample_inputs({}, values, tmp_path)
    second = sample.sample_inputs({"race_url": "x"}, values, tmp_path)
    assert first.keys() == sample.INPUTS.keys()
    assert second.keys() == first.keys() - {"race_url"}
    assert all(Path(path).exists() for path in first.values())
    assert first.items() >= second.items()
    assert len(small_sample) == 1
    assert not sample.sample_inputs(dict.fromkeys(sample.INPUTS, "x"), values, tmp_path)


def test_a_sample_of_other_words_is_another_one(
    tmp_path: Path, small_sample: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = resolve(load_config("smoke"), {})
    before = sample.sample_inputs({}, values, tmp_path)
    words = tmp_path / "words.yaml"
    words.write_text(Path(sample.__file__).with_suffix(".yaml").read_text() + "# changed\n")
    monkeypatch.setattr(sample, "WORDS", words)
    assert sample.sample_inputs({}, values, tmp_path)["race_url"] != before["race_url"]


def test_runs_that_start_at_once_share_one_sample(
    tmp_path: Path, small_sample: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier, real = threading.Barrier(3), sample.make_sample

    def make_sample(output: Path, **arguments: object) -> None:
        barrier.wait(30)  # each has found that there is none
        real(output, **arguments)

    monkeypatch.setattr(sample, "make_sample", make_sample)
    values = resolve(load_config("smoke"), {})
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: sample.sample_inputs({}, values, tmp_path), range(3)))
    assert found[0] == found[1] == found[2]
    assert all(Path(path).exists() for path in found[0].values())
    assert len(os.listdir(tmp_path)) == 1, "nothing half made is left"


def test_the_sample_s_model_has_the_size_that_is_asked_for(
    tmp_path: Path, small_sample: list[dict[str, object]]
) -> None:
    values = resolve(load_config("smoke"), {"train_encoder_layers": 1})
    made = {str(Path(p).parent) for p in sample.sample_inputs({}, values, tmp_path).values()}
    values["train_encoder_layers"] = 3
    made |= {str(Path(p).parent) for p in sample.sample_inputs({}, values, tmp_path).values()}
    assert [m["shape"].encoder_layers for m in small_sample] == [1, 3]
    assert len(made) == 2


def test_the_sample_s_model_fits_a_dictionary_that_is_given(
    tmp_path: Path, small_sample: list[dict[str, object]]
) -> None:

    from components.train import checkpoints
    from components.train.roberta import roberta_of

    dictionary = tmp_path / "dict.txt"
    dictionary.write_text("".join(f"{i} 1\n" for i in range(77)))
    values = resolve(load_config("smoke"), {})
    found = sample.sample_inputs({"bpe_url": str(tmp_path)}, values, tmp_path / "runs")
    (tmp_path / "model").mkdir()
    unpack(Path(found["roberta_url"]), tmp_path / "model")
    path = checkpoints.find_pretrained(tmp_path / "model")
    model = roberta_of(checkpoints.load(path), path, ranks=False)
    assert model.shape.vocabulary == 77 + 5


def test_a_dictionary_that_cannot_be_had_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    values = resolve(load_config("smoke"), {})
    missing = {"bpe_url": str(tmp_path / "none")}
    with pytest.raises((TransferError, DataError)):
        sample.sample_inputs(missing, values, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_lines_of_a_run_are_json_where_machines_read_them(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RACE_LOG_FORMAT", "json")
    say(step_line("train", "1.0 s", "done"))
    line = json.loads(capfd.readouterr().err)
    assert line["message"].split() == ["train", "1.0", "s", "done"]
    assert (line["level"], line["logger"]) == ("INFO", "race")
