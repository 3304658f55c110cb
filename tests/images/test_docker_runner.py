"""`race run --runner docker`: the DAG in containers, and what becomes of them."""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import containers
from pipeline.cli import main
from pipeline.containers import container_arguments, run_container
from pipeline.image_build import engine
from pipeline.images import Images

pytestmark = pytest.mark.slow

FEW = ("-p", "train_max_updates=4", "-p", "min_accuracy=0")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The commands of all containers that are started meanwhile."""
    commands: list[list[str]] = []
    original = containers._run

    def run(client: Any, image: str, command: list[str], *rest: Any) -> int:
        commands.append(command)
        return original(client, image, command, *rest)

    monkeypatch.setattr(containers, "_run", run)
    return commands


def ours(docker_engine: Any, images: Images) -> list[Any]:
    return [
        container
        for container in docker_engine.containers.list(all=True, ignore_removed=True)
        if container.attrs["Config"]["Image"] in (images.data, images.train)
    ]


def test_the_dag_runs_and_the_secret_is_nowhere(
    built: Images,
    docker_engine: Any,
    started: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    canary = f"canary-{secrets.token_hex(12)}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary)
    runs = tmp_path / "runs"
    arguments = ["run", "--config", "smoke", "--runner", "docker", "--output", str(runs), *FEW]
    assert main(arguments) == 0
    assert main(["compile", "--config", "smoke", "--output", str(tmp_path / "smoke.yaml")]) == 0
    shown = capfd.readouterr()

    metrics = json.loads((runs / "latest" / "report" / "metrics.json").read_text())
    assert metrics["questions"] > 0
    assert (runs / "latest" / "model" / "checkpoint_best.pt").is_file()
    assert ours(docker_engine, built) == []
    assert len(started) == 8

    assert canary not in shown.out + shown.err
    assert canary not in json.dumps(started)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert canary.encode() not in path.read_bytes(), path

    # Again: the data steps come from the cache, and the next steps find what they wrote.
    assert main(arguments) == 0
    assert len(started) == 8 + 3
    assert capfd.readouterr().err.count(" cached ") == 5


def test_a_users_error_keeps_its_line_and_its_status(
    built: Images,
    docker_engine: Any,
    sample: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    wrong = f"race_url={sample / 'RACE.tar.gz'}#sha256={'0' * 64}"
    arguments = ["run", "--config", "smoke", "--runner", "docker", "--output", str(tmp_path)]
    status = main([*arguments, "-p", wrong])
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert status == 3
    assert len(errors) == 1
    assert "RACE.tar.gz" in errors[0]
    assert ours(docker_engine, built) == []


@pytest.fixture
def hardened(docker_engine: Any, tmp_path: Path) -> dict[str, Any]:
    return container_arguments(docker_engine, readable=[tmp_path], environment={})


def test_exit_status_and_output_of_a_container(
    built: Images, docker_engine: Any, hardened: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "input").write_text("read")
    script = f"cat {tmp_path}/input; touch {tmp_path}/new || echo read-only; exit 7"
    assert (
        run_container(docker_engine, built.data, ["sh", "-c", script], tmp_path / "log", **hardened)
        == 7
    )
    log = (tmp_path / "log").read_text()
    assert "readread-only\n" in log
    assert "Read-only file system" in log
    assert not (tmp_path / "new").exists()


def test_a_container_that_vanishes_has_not_ended_well(
    built: Images, docker_engine: Any, hardened: dict[str, Any], tmp_path: Path
) -> None:
    def remove() -> None:
        with engine() as other:  # a client belongs to one thread
            while not (found := [c for c in ours(other, built) if c.status == "running"]):
                time.sleep(0.1)
            found[0].remove(force=True)

    thread = threading.Thread(target=remove)
    thread.start()
    status = run_container(docker_engine, built.data, ["sleep", "60"], tmp_path / "log", **hardened)
    thread.join()
    assert status == 125 or status == 137  # whether its end or its absence is seen first


def test_a_command_that_cannot_start_is_explained(
    built: Images, docker_engine: Any, hardened: dict[str, Any], tmp_path: Path
) -> None:
    assert (
        run_container(docker_engine, built.data, ["no-such-program"], tmp_path / "log", **hardened)
        == 125
    )
    assert "error: the Docker engine refused: " in (tmp_path / "log").read_text()
    assert ours(docker_engine, built) == []


def test_an_interrupted_run_leaves_no_container(
    built: Images,
    docker_engine: Any,
    hardened: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupting:
        def open(self, mode: str) -> Any:
            file = (tmp_path / "log").open(mode)
            original = file.write

            def write(data: bytes) -> int:
                original(data)
                raise KeyboardInterrupt

            monkeypatch.setattr(file, "write", write, raising=False)
            return file

    monkeypatch.setattr(containers, "GRACE", 1)
    with pytest.raises(KeyboardInterrupt):
        run_container(
            docker_engine,
            built.data,
            ["sh", "-c", "echo on; sleep 60"],
            Interrupting(),  # type: ignore[arg-type]
            **hardened,
        )
    assert ours(docker_engine, built) == []


def test_a_container_is_ended_when_its_run_is_to_stop(
    built: Images,
    docker_engine: Any,
    hardened: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(containers, "GRACE", 1)
    log = tmp_path / "log"
    command = ["sh", "-c", "echo on; sleep 60"]
    status = run_container(
        docker_engine, built.data, command, log, lambda: "on" in log.read_text(), **hardened
    )
    assert status
