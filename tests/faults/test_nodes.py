"""Training on two nodes: two groups of processes, each in a network namespace of its own.

The nodes share nothing but a cable (a veth pair); their checkpoints are in a folder or an S3 server
that only node 0 needs.
"""

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from steps import ENGINES, Step, assert_same, result, run

from components.common import storage
from components.common.errors import ConfigError, TrainingError

# Tests of this file may run side by side.
PORT = 29400 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])

# A node that is left alone ends within this many seconds; it takes one or two on an idle machine.
BOUND = 60


class Network:
    """Two network namespaces with a cable between them."""

    def __init__(self) -> None:
        name = f"race-{uuid.uuid4().hex[:6]}"
        self.names = [f"{name}-{node}" for node in (0, 1)]
        self.links = [f"v{name[5:]}{node}" for node in (0, 1)]
        self.addresses = ["10.77.0.1", "10.77.0.2"]

    def build(self) -> None:
        (one, other), (link, peer) = self.names, self.links
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", link, "netns", one, "type", "veth", "peer", "name", peer, "netns", other)
        for name, its, address in zip(self.names, self.links, self.addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/30", "dev", its)
            _ip("-n", name, "link", "set", its, "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def cut(self) -> None:
        _ip("-n", self.names[1], "link", "set", self.links[1], "down")

    def within(self, node: int) -> list[str]:
        return ["ip", "netns", "exec", self.names[node]]

    def remove(self) -> None:
        for name in self.names:
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            for pid in found.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def network() -> Iterator[Network]:
    if not shutil.which("ip"):
        pytest.skip("no ip command to make network namespaces with (package iproute2)")
    made = Network()
    try:
        try:
            made.build()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no right to make network namespaces: {error.stderr.strip()}")
        yield made
    finally:
        made.remove()


@pytest.fixture(autouse=True)
def started() -> Iterator[None]:
    """No step outlives a test that fails."""
    Nodes.started.clear()
    yield
    for step in Nodes.started:
        if step.process.poll() is None:
            step.kill()


class Nodes:
    """Two steps that belong together; `network` None is the loopback of this machine."""

    started: ClassVar[list[Step]] = []

    def __init__(
        self,
        tiny_race: Any,
        folder: Path,
        network: Network | None,
        *,
        start: tuple[int, ...] = (0, 1),
        special: dict[int, dict[str, Any]] | None = None,
        environment: dict[int, dict[str, str]] | None = None,
        **parameters: Any,
    ) -> None:
        self.steps: dict[int, Step] = {}
        for node in start:
            where = folder / f"node-{node}"
            variables = {
                "PET_NNODES": "2",
                "PET_NODE_RANK": str(node),
                "PET_MASTER_ADDR": network.addresses[0] if network else "127.0.0.1",
                "PET_MASTER_PORT": str(PORT),
                "PET_NPROC_PER_NODE": "auto",
                # A folder for what a node that does not lead writes.
                "TMPDIR": str(where),
            }
            self.steps[node] = Step(
                tiny_race,
                where,
                before=network.within(node) if network else (),
                environment=variables | (environment or {}).get(node, {}),
                **{"num_nodes": 2, **parameters, **(special or {}).get(node, {})},
            )
            self.started.append(self.steps[node])

    def __getitem__(self, node: int) -> Step:
        return self.steps[node]

    def ends(self) -> list[int]:
        return [step.end() for step in self.steps.values()]

    def screens(self) -> str:
        return "\n".join(step.screen.read_text() for step in self.steps.values())

    def result(self) -> dict[str, Any]:
        """What node 0 has written, when both have ended well; node 1 has written nothing."""
        assert self.ends() == [0, 0], self.screens()
        assert not self[1].output.exists()
        assert not list(self[1].folder.glob("**/*.pt")), "nothing is left of its checkpoints"
        return as_of_one_machine(result(self[0].output))

    def lose(self, node: int) -> tuple[int, float]:
        """`kill -9` of all processes of a node: status of the other one, seconds that it took."""
        step = self.steps[node]
        for pid in [step.process.pid, *step.descendants()]:
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        assert step.end() == -signal.SIGKILL
        status = self.steps[1 - node].end()
        return status, time.monotonic() - killed


def published(step: Step, uri: str) -> storage.Artifact:
    """Its first checkpoint, once it is there; the step still runs then."""
    deadline = time.monotonic() + 120
    while not (newest := storage.newest(uri)):
        assert step.process.poll() is None, step.screen.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return newest


def as_of_one_machine(found: dict[str, Any]) -> dict[str, Any]:
    """Metrics without the number of machines, which is all that may differ."""
    assert found["metrics"].pop("nodes") in (1, 2)
    found["metrics"].pop("hardware")
    return found


def of_one_machine(tiny_race: Any, folder: Path, **parameters: Any) -> dict[str, Any]:
    return as_of_one_machine(run(tiny_race, folder, **parameters))


@pytest.fixture(scope="module")
def undisturbed(tiny_race: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one machine with two ranks makes of an engine's run, by the engine."""
    made: dict[str, dict[str, Any]] = {}

    def of(engine: str) -> dict[str, Any]:
        if engine not in made:
            folder = tmp_path_factory.mktemp("undisturbed") / "pod"
            made[engine] = of_one_machine(tiny_race, folder, **ENGINES[engine], processes=2)
        return made[engine]

    return of


@pytest.mark.slow
def test_two_nodes_give_what_one_with_two_ranks_gives(
    tiny_race: Any, network: Network, tmp_path: Path
) -> None:
    expected = of_one_machine(tiny_race, tmp_path / "one", engine="packed", processes=2)
    nodes = Nodes(tiny_race, tmp_path, network, engine="packed")
    assert_same(nodes.result(), expected)
    metrics = json.loads((nodes[0].output / "metrics.json").read_text())
    assert (metrics["nodes"], metrics["processes"]) == (2, 2)
    assert "on 2 nodes of 1 CPU process: 96 questions" in nodes[0].screen.read_text()
    assert nodes[1].screen.read_text().splitlines() == [
        "node 1 of 2: training with node 0 at 10.77.0.1",
        "node 1 of 2: done",
    ]


@pytest.mark.slow
def test_two_nodes_with_two_ranks_each_give_what_one_with_four_gives(
    tiny_race: Any, network: Network, tmp_path: Path
) -> None:
    expected = of_one_machine(tiny_race, tmp_path / "one", engine="packed", processes=4)
    nodes = Nodes(tiny_race, tmp_path, network, engine="packed", processes=2)
    assert_same(nodes.result(), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "lost"), [("packed", 0), ("packed", 1), ("stock", 1)])
def test_a_node_that_is_lost_ends_the_others_and_all_go_on_when_they_are_started_again(
    tiny_race: Any, network: Network, tmp_path: Path, undisturbed: Any, engine: str, lost: int
) -> None:
    parameters = {**ENGINES[engine], "checkpoint_uri": tmp_path / "checkpoints"}
    first = Nodes(tiny_race, tmp_path / "first", network, **parameters)
    newest = published(first[0], str(tmp_path / "checkpoints"))
    status, seconds = first.lose(lost)
    assert status == TrainingError.exit_status
    assert seconds < BOUND
    screen = first[1 - lost].screen.read_text()
    assert "error: training stopped" in screen
    assert "another node failed or was lost" in screen

    again = Nodes(tiny_race, tmp_path / "again", network, **parameters)
    assert_same(again.result(), undisturbed(engine))
    assert f"going on from {newest.address.rpartition('/')[0]}" in again[0].screen.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("node", [0, 1])
def test_sigterm_to_any_node_ends_all_of_them_with_a_checkpoint(
    tiny_race: Any, network: Network, tmp_path: Path, undisturbed: Any, node: int
) -> None:
    # Between the checkpoints that the run makes anyway.
    parameters = {**ENGINES["packed"], "checkpoint_uri": tmp_path / "checkpoints"}
    first = Nodes(tiny_race, tmp_path / "first", network, **parameters)
    assert first[0].wait_for('"num_updates": "8"'), first.screens()
    os.kill(first[node].process.pid, signal.SIGTERM)
    assert first.ends() == [143, 143], first.screens()
    assert "another node was told to end" in first[1 - node].screen.read_text()
    assert "another node was told to end" not in first[node].screen.read_text()
    newest = storage.newest(str(tmp_path / "checkpoints"))
    assert newest is not None
    update = int(newest.name.removeprefix("update-"))
    assert update >= 8
    assert [p.name for p in first[0].folder.iterdir() if "torchelastic" not in p.name] == ["screen"]

    again = Nodes(tiny_race, tmp_path / "again", network, **parameters)
    assert_same(again.result(), undisturbed("packed"))
    assert f"{newest.name}, update {update}" in again[0].screen.read_text()


@pytest.mark.slow
def test_the_other_nodes_need_no_store_of_checkpoints(
    tiny_race: Any, tmp_path: Path, undisturbed: Any, bucket: str
) -> None:
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": ""}
    parameters = {
        **ENGINES["packed"],
        "checkpoint_uri": f"s3://{bucket}/checkpoints",
        "output": f"s3://{bucket}/output",
    }
    access = {1: nowhere}
    first = Nodes(tiny_race, tmp_path / "first", None, environment=access, **parameters)
    published(first[0], parameters["checkpoint_uri"])
    first.lose(1)
    assert not storage.find(parameters["output"])

    again = Nodes(tiny_race, tmp_path / "again", None, environment=access, **parameters)
    assert again.ends() == [0, 0], again.screens()
    assert "going on from s3://" in again[0].screen.read_text()
    storage.fetch(parameters["output"], tmp_path / "output")
    assert_same(as_of_one_machine(result(tmp_path / "output")), undisturbed("packed"))


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{"epochs": 2}, {"epochs": 2, "max_updates": 8}])
def test_nodes_that_have_nothing_left_to_do_end_well(
    tiny_race: Any, network: Network, tmp_path: Path, parameters: dict[str, Any]
) -> None:
    parameters |= {"engine": "packed", "checkpoint_uri": tmp_path / "checkpoints"}
    parameters["keep_checkpoints_after_end"] = True
    whole = Nodes(tiny_race, tmp_path / "whole", network, **parameters).result()
    again = Nodes(tiny_race, tmp_path / "again", network, **parameters)
    assert_same(again.result(), whole)
    assert "Start iterating over samples" not in again[0].log


@pytest.mark.slow
def test_nodes_that_lose_sight_of_each_other_end_after_the_stall_timeout(
    tiny_race: Any, network: Network, tmp_path: Path
) -> None:
    nodes = Nodes(tiny_race, tmp_path, network, engine="packed", epochs=10000, stall_timeout=30)
    assert nodes[0].wait_for('"num_updates": "8"'), nodes.screens()
    network.cut()
    assert nodes.ends() == [TrainingError.exit_status] * 2
    assert "error: training hangs after update" in nodes[0].screen.read_text()
    assert "error: training hangs on node 1 of 2" in nodes[1].screen.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("node", [0, 1])
def test_a_node_does_not_wait_for_the_others_without_end(
    tiny_race: Any, network: Network, tmp_path: Path, node: int
) -> None:
    nodes = Nodes(tiny_race, tmp_path, network, start=(node,), stall_timeout=10)
    assert nodes.ends() == [TrainingError.exit_status]
    assert f"node {node} of 2 has waited" in nodes.screens()
    assert f"for the others at 10.77.0.1:{PORT}" in nodes.screens()


@pytest.mark.slow
def test_a_node_that_would_train_something_else_is_refused(
    tiny_race: Any, network: Network, tmp_path: Path
) -> None:
    nodes = Nodes(tiny_race, tmp_path, network, special={1: {"learning_rate": 2e-3, "epochs": 3}})
    assert nodes.ends() == [TrainingError.exit_status, ConfigError.exit_status], nodes.screens()
    assert (
        "error: node 1 would train something else: parameters.epochs is 3, on node 0 2;"
        " parameters.learning_rate is 0.002, on node 0 0.001. Run the same command"
    ) in nodes[1].screen.read_text()
    assert "another node failed or was lost" in nodes[0].screen.read_text()


@pytest.mark.slow
def test_all_nodes_end_well_when_a_collapse_is_marked(
    tiny_race: Any, network: Network, tmp_path: Path
) -> None:
    nodes = Nodes(
        tiny_race,
        tmp_path,
        network,
        engine="packed",
        learning_rate=1e-9,
        stop_collapsed_after=100,
        on_collapse="mark",
    )
    assert nodes.ends() == [0, 0], nodes.screens()
    metrics = json.loads((nodes[0].output / "metrics.json").read_text())
    assert "training has collapsed: after 112 questions" in metrics["collapsed"]
    assert not list(nodes[0].output.glob("*.pt"))
    assert not nodes[1].output.exists()
