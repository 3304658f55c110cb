"""Training that is killed, stopped or stuck at any moment, and started again.

KILLS=100 pytest -m slow tests/faults/test_kill.py kills more often than the usual 28 times.
"""

import itertools
import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from steps import ENGINES, Step, assert_same, result, run
from stores import QUICK, keys

from components.common import storage
from components.common.cli import Terminated
from components.common.errors import TrainingError
from components.common.storage.store import open_store
from components.train.config import TrainConfig, plan
from components.train.flags import Run
from components.train.rank import hooks
from components.train.records import RECORD
from components.train.supervisor import session
from components.train.supervisor.log import TrainLog

KILLS = int(os.environ.get("KILLS", "28"))


@pytest.fixture(scope="module")
def uninterrupted(tiny_race: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "pod"
    return run(tiny_race, folder, **ENGINES["packed"])


@pytest.mark.slow
def test_a_run_that_is_killed_and_terminated_ends_as_if_it_had_not_been(
    tiny_race: Any, uninterrupted: Any, tmp_path: Path, bucket: str
) -> None:
    uri = f"s3://{bucket}/checkpoints/run-1"
    parameters = {**ENGINES["packed"], "checkpoint_uri": uri}
    killed = Step(tiny_race, tmp_path / "killed", **parameters)
    assert killed.wait_for('"update": 20,')
    while not (newest := storage.newest(uri)):
        time.sleep(0.02)
    killed.kill()

    stopped = Step(tiny_race, tmp_path / "stopped", **parameters)
    assert stopped.wait_for("Start iterating over samples")
    time.sleep(0.1)
    os.kill(stopped.process.pid, signal.SIGTERM)
    assert stopped.end() == 143, stopped.screen.read_text()
    screen = stopped.screen.read_text()
    assert f"going on from {newest.address.rpartition('/')[0]}" in screen
    assert "error: terminated by SIGTERM" in screen
    assert [path.name for path in stopped.folder.iterdir()] == ["screen"], "nothing half-made"
    last = storage.newest(uri)
    assert last is not None
    update = int(last.name.removeprefix("update-"))
    assert update > int(newest.name.removeprefix("update-"))

    found = run(tiny_race, tmp_path / "resumed", **parameters)
    assert f"{uri}/{last.name}, update {update}" in (tmp_path / "resumed/screen").read_text()
    assert_same(found, uninterrupted)


def _goes_on_in_place(tiny_race: Any, folder: Path, kills: int, **parameters: Any) -> Step:
    """A training whose ranks are killed, after a checkpoint each time, and which ends well."""
    step = Step(tiny_race, folder, **parameters)
    for number in range(1, kills + 1):
        assert step.wait_for(f'"update": {20 * number},')
        while not list(step.folder.glob("*/kept/progress.json")):
            time.sleep(0.02)
        os.kill(step.ranks()[-1], signal.SIGKILL)
        while f"(restart {number} of at most 3)" not in step.screen.read_text():
            assert step.process.poll() is None, step.screen.read_text()
            time.sleep(0.02)
    assert step.end() == 0, step.screen.read_text()
    return step


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_nothing_changes(
    tiny_race: Any, uninterrupted: Any, tmp_path: Path
) -> None:
    step = _goes_on_in_place(tiny_race, tmp_path / "pod", 2, **ENGINES["packed"])
    assert_same(result(step.output), uninterrupted)
    assert json.loads((step.output / "metrics.json").read_text())["restarts"] == 2
    assert "Its processes were started again 2 times." in (step.output / "report.html").read_text()
    assert not {"kept", "control"} & set(os.listdir(step.output))


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "store"), [("packed", "folder"), ("stock", "none")])
def test_ranks_that_were_started_again_train_the_same(
    tiny_race: Any, tmp_path: Path, engine: str, store: str
) -> None:
    parameters = {**ENGINES[engine], "processes": 2, "precision": "bf16", "epochs": 12}
    expected = run(tiny_race, tmp_path / "uninterrupted", **parameters)
    if store == "folder":
        parameters["checkpoint_uri"] = tmp_path / "checkpoints"
    step = _goes_on_in_place(tiny_race, tmp_path / "pod", 1, **parameters)
    assert_same(result(step.output), expected)
    assert list(tmp_path.glob("checkpoints/*")) == []


@pytest.fixture
def slow_bucket(bucket: str, proxy: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket in which a checkpoint takes longer to arrive than an interval takes."""

    def late(exchange: Any) -> None:
        time.sleep(0.4)
        exchange.well()

    proxy.break_("PUT", r"manifest\.json", late, times=100_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    return bucket


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "processes", "store"),
    [
        ("packed", 1, "folder"),
        ("packed", 2, "slow S3"),
        ("stock", 1, "slow S3"),
        ("stock", 2, "folder"),
    ],
)
def test_kills_at_any_moment_change_nothing_and_leave_nothing(
    tiny_race: Any,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    engine: str,
    processes: int,
    store: str,
) -> None:
    place = str(tmp_path / "checkpoints")
    if store == "slow S3":
        place = f"s3://{request.getfixturevalue('slow_bucket')}/checkpoints"
    parameters = {**ENGINES[engine], "processes": processes}
    interval = ENGINES[engine]["checkpoint_interval"]
    expected = run(tiny_race, tmp_path / "all", checkpoint_uri=f"{place}/all", **parameters)
    screen = (tmp_path / "all/screen").read_text()
    saved = _saved((tmp_path / "all/out/train.log").read_text())
    published = re.findall(r"published update-(\d+): [\d.]+ MiB in [\d.]+ s", screen)
    assert [int(update) for update in published] == saved, "each, once"
    seconds = json.loads((tmp_path / "all/out/metrics.json").read_text())["seconds"]
    chance = random.Random(f"{engine} {processes}")
    kills = [0, 0]  # before training goes on, and after
    number, most = 0, 0
    while sum(kills) < KILLS / 4 or not kills[1]:
        number += 1
        uri = f"{place}/run-{number}"
        for attempt in range(4):
            step = Step(
                tiny_race, tmp_path / f"{number}-{attempt}", checkpoint_uri=uri, **parameters
            )
            if chance.random() < 0.2 or step.wait_for("Start iterating over samples"):
                time.sleep(chance.uniform(0, seconds / 2))
            if step.process.poll() is not None:
                break
            step.kill()
            kills["Start iterating" in step.log] += 1
            if not step.output.exists():  # else it had ended
                most = max(most, _lost(step.log, uri, interval))
        else:
            step = Step(tiny_race, tmp_path / f"{number}-end", checkpoint_uri=uri, **parameters)
        assert step.end() == 0, step.screen.read_text()
        assert_same(result(step.output), expected)
        assert keys(uri) + open_store(uri, QUICK).uploads() == []
    print(
        f"{engine}, {processes} ranks, {store}: {kills[0]} + {kills[1]} kills in {number} runs,"
        f" {most} updates lost at most with one checkpoint in {interval}, 0 objects left"
    )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_training_leaves_nothing_once_it_is_started_again(
    tiny_race: Any, tmp_path: Path, processes: int
) -> None:
    with tempfile.TemporaryDirectory() as temporary:  # its name is short, as sockets want it
        parameters = {**ENGINES["packed"], "processes": processes, "output": tmp_path / "place/out"}
        environment = {"TMPDIR": temporary}
        (tmp_path / "place").mkdir()
        killed = Step(tiny_race, tmp_path / "1", environment=environment, **parameters)
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("place/*/checkpoints/*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.kill()
        assert [path.name[:13] for path in tmp_path.glob("place/*")] == [".out.partial-"]
        assert os.listdir(temporary)
        run_again = Step(tiny_race, tmp_path / "2", environment=environment, **parameters)
        assert run_again.end() == 0, run_again.screen.read_text()
        assert os.listdir(tmp_path / "place") == ["out"]
        assert set(os.listdir(temporary)) == set()


def _saved(log: str) -> list[int]:
    lines = [line for line in log.splitlines() if line.startswith(hooks.SAVED)]
    return [
        json.loads(line.removeprefix(hooks.SAVED))["update"] for line in lines if line[-1] == "}"
    ]


def _lost(log: str, uri: str, interval: int) -> int:
    """How many updates a killed training has lost, as far as its log tells."""
    newest, saved = storage.newest(uri), _saved(log)
    published = int(newest.name.removeprefix("update-")) if newest else 0
    # Only one that was being published when all ended is lost, and what was trained after it.
    behind = [update for update in saved if update > published]
    assert len(behind) <= 1, f"{saved} were saved, {published} is published"
    assert all(b - a <= interval for a, b in itertools.pairwise([published, *behind])), saved
    told = [line.removeprefix(RECORD) for line in log.splitlines()[:-1] if line.startswith(RECORD)]
    records = map(TrainLog().add, map(json.loads, told))
    last = max([published, *saved, *(record["update"] for record in records if record)])
    assert last - published <= 2 * interval
    return last - published


@pytest.fixture(scope="module")
def published(tiny_race: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Checkpoints of a whole run, at a folder."""
    folder = tmp_path_factory.mktemp("published")
    run(
        tiny_race,
        folder / "pod",
        **{**ENGINES["packed"], "epochs": 2, "checkpoint_interval": 3},
        checkpoint_uri=folder / "checkpoints",
        keep_checkpoints=100,
        keep_checkpoints_after_end=True,
    )
    return folder


def test_a_damaged_checkpoint_is_passed_over(
    tiny_race: Any, published: Path, tmp_path: Path
) -> None:
    names = ["update-000003", "update-000006", "update-000009", "update-000012"]
    assert sorted(path.name for path in (published / "checkpoints").iterdir()) == names
    (newest,) = (published / "checkpoints/update-000012").glob("*/checkpoint.pt")
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    (before,) = (published / "checkpoints/update-000009").glob("*/checkpoint.pt")
    before.unlink()
    found = run(
        tiny_race,
        tmp_path / "pod",
        **{**ENGINES["packed"], "epochs": 2, "checkpoint_interval": 3},
        resume_from=published / "checkpoints",
    )
    screen = (tmp_path / "pod/screen").read_text()
    assert screen.count("trying the one before") == 2
    assert "update-000006, update 6" in screen
    assert_same(found, result(published / "pod/out"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_16_bit_training_goes_on_exactly_too(tiny_race: Any, tmp_path: Path, engine: str) -> None:
    store = tmp_path / "checkpoints"
    parameters = {
        "engine": engine,
        "precision": "bf16",
        "checkpoint_interval": 4,
        "keep_checkpoints": 100,
        "keep_checkpoints_after_end": True,
        "checkpoint_uri": store,
    }
    expected = run(tiny_race, tmp_path / "uninterrupted", **parameters)
    for folder in store.iterdir():
        if folder.name > "update-000004":
            shutil.rmtree(folder)
    found = run(tiny_race, tmp_path / "resumed", **parameters)
    assert f"{store}/update-000004, update 4" in (tmp_path / "resumed/screen").read_text()
    assert_same(found, expected)
    # Checkpoints by the clock round nothing, and so change nothing.
    parameters["checkpoint_minutes"] = 1e-6
    shutil.rmtree(store)
    assert_same(run(tiny_race, tmp_path / "clocked", **parameters), expected)
    for folder in store.iterdir():
        if folder.name > "update-000005":
            shutil.rmtree(folder)
    assert_same(run(tiny_race, tmp_path / "on", **parameters), expected)
    assert f"{store}/update-000005, update 5" in (tmp_path / "on/screen").read_text()


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_step(tiny_race: Any, tmp_path: Path) -> None:
    step = Step(
        tiny_race, tmp_path / "pod", epochs=10000, processes=2, stall_timeout=15, max_restarts=0
    )
    assert step.wait_for("| train_inner |")
    ranks = step.ranks()
    assert len(ranks) == 2
    started = time.monotonic()
    os.kill(ranks[1], signal.SIGSTOP)
    assert step.end() == TrainingError.exit_status
    assert time.monotonic() - started < 60
    assert "error: training hangs after update" in step.screen.read_text()
    assert [path.name for path in step.folder.iterdir()] == ["screen"]


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def watched(tiny_race: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Clock]:
    clock = Clock()
    monkeypatch.setattr(session, "time", clock)
    values = {**tiny_race.parameters, "stall_timeout": 30, "stop_timeout": 20}
    config = TrainConfig(tiny_race.data, tiny_race.pretrained, tmp_path / "out", **values)
    wanted = Run(config, plan(config, gpus=0, questions=96), tiny_race.pretrained, tmp_path)
    return session._Session(wanted, TrainLog(), tmp_path, None), clock


def test_silence_is_borne_up_to_the_stall_timeout(watched: Any, tmp_path: Path) -> None:
    ranks, clock = watched
    clock.now += 29
    ranks.on_tick()
    ranks.on_line("some text")
    clock.now += 29
    (tmp_path / hooks.ALIVE).touch()
    ranks.on_tick()
    clock.now += 29
    ranks.on_tick()
    clock.now += 2
    with pytest.raises(TrainingError, match="training hangs before the first record: no sign of"):
        ranks.on_tick()


def test_a_stop_that_takes_too_long_or_is_asked_for_twice_is_made_at_once(
    watched: Any, tmp_path: Path
) -> None:
    ranks, clock = watched
    ranks.ask_to_stop(signal.SIGTERM, None)
    assert (tmp_path / hooks.STOP).exists()
    clock.now += 19
    ranks.on_tick()
    with pytest.raises(Terminated):
        ranks.ask_to_stop(signal.SIGTERM, None)
    clock.now += 2
    with pytest.raises(Terminated):
        ranks.on_tick()


def test_a_stop_that_another_node_was_asked_for_is_one_of_this_node_too(watched: Any) -> None:
    ranks, clock = watched
    ranks.on_line(hooks.STOPPED + "{}")
    assert ranks.stop_asked == clock.now
    clock.now += 21
    with pytest.raises(Terminated):
        ranks.on_tick()
