"""Ranks of two nodes, on this machine: what they start from is what node 0 has."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).parent / "group_worker.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("group")


@pytest.fixture(scope="module")
def agreed(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What each rank has in the end, by the case: one rank of node 0, then two of node 1."""
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def test_every_node_goes_on_from_the_file_of_node_0(agreed: Any, folder: Path) -> None:
    sent, arrived = (folder / f"resumed/node-{node}/checkpoint_last.pt" for node in (0, 1))
    assert arrived.read_bytes() == sent.read_bytes()
    assert [path.name for path in arrived.parent.iterdir()] == ["checkpoint_last.pt"]
    ranks = agreed["resumed"]
    assert [rank["restore_file"] for rank in ranks] == [str(sent), str(arrived), str(arrived)]
    for rank in ranks:
        assert not any(rank[f"reset_{what}"] for what in ("optimizer", "meters", "dataloader"))


def test_every_node_starts_afresh_where_node_0_does(agreed: Any, folder: Path) -> None:
    assert all(rank["reset_optimizer"] and not rank["error"] for rank in agreed["fresh"])
    assert {rank["restore_file"] for rank in agreed["fresh"]} == {str(folder / "fresh/model.pt")}
    assert not (folder / "fresh/node-1").exists()


def test_every_rank_knows_when_node_0_has_nothing_left_to_do(agreed: Any) -> None:
    assert [rank["error"] for rank in agreed["ended"]] == ["Ended: "] * 3


def test_a_file_that_arrives_damaged_is_not_used(agreed: Any, folder: Path) -> None:
    one, two, three = (rank["error"] for rank in agreed["damaged"])
    assert two.startswith("DataError: the checkpoint that node 0 sent did not reach node 1 as it")
    assert (one, three) == ("lost", "lost")
    assert list((folder / "damaged/node-1").iterdir()) == []


def test_a_node_with_other_parameters_is_named(agreed: Any) -> None:
    assert agreed["other seed"][1]["error"].startswith(
        "ConfigError: node 1 would train something else: parameters.seed is 2, on node 0 1."
    )


def test_all_ranks_stop_at_the_same_update_when_one_node_is_asked_to(agreed: Any) -> None:
    (stopped,) = {rank["stopped after"] for rank in agreed["stop"]}
    assert 4 <= stopped <= 5  # rank 0 hears of it in the same update or in the next, and decides
