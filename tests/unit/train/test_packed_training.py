"""Training with the packed engine as a whole, held against stock fairseq-train."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from components.train import checkpoints
from components.train.config import TrainConfig, plan
from components.train.flags import Run, fairseq_arguments

EXACT_WORKER = Path(__file__).with_name("exact_worker.py")
UPDATES = 50


def arguments(tiny_race: Any, save_dir: Path, **changes: Any) -> list[str]:
    """The arguments of fairseq-train for a run on the tiny data set."""
    parameters = tiny_race.parameters | changes
    config = TrainConfig(tiny_race.data, tiny_race.pretrained, save_dir, **parameters)
    questions = 96
    run = Run(config, plan(config, gpus=0, questions=questions), tiny_race.pretrained, save_dir)
    return fairseq_arguments(run)


def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


def worker(fairseq_train: list[str]) -> "subprocess.CompletedProcess[str]":
    return run(["-m", "components.train.rank.worker", *fairseq_train])


class Trajectory:
    """50 updates in float64 without dropout: each one's loss and norm, and the parameters after."""

    def __init__(self, tiny_race: Any, folder: Path, ranks: int, **changes: Any) -> None:
        save_dir, trace = folder / "checkpoints", folder / "trace.jsonl"
        command = [str(EXACT_WORKER), str(trace)]
        if ranks > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
            command = [*torchrun, str(ranks), *command]
        changes = {"processes": ranks, "effective_batch_size": 8, "max_updates": UPDATES} | changes
        changes |= {"epochs": 9, "dropout": 0.0, "attention_dropout": 0.0, "clip_norm": 0.02}
        changes |= {"learning_rate": 1e-3}
        done = run([*command, *arguments(tiny_race, save_dir, **changes)])
        assert done.returncode == 0, done.stdout + done.stderr
        lines = trace.read_text().splitlines()
        self.trace = torch.tensor([json.loads(line) for line in lines], dtype=torch.float64)
        self.state = checkpoints.load(save_dir / "checkpoint_last.pt")
        self.log = done.stdout


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def stock(
    request: pytest.FixtureRequest, tiny_race: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Trajectory]:
    folder = tmp_path_factory.mktemp("stock")
    return request.param, Trajectory(tiny_race, folder, request.param, engine="stock")


# 130 tokens are two questions or one: several micro-batches in an update.
@pytest.mark.parametrize("token_budget", [0, 130])
def test_fifty_updates_are_those_of_stock_fairseq(
    tiny_race: Any, tmp_path: Path, stock: tuple[int, Trajectory], token_budget: int
) -> None:
    ranks, expected = stock
    packed = Trajectory(tiny_race, tmp_path, ranks, engine="packed", token_budget=token_budget)
    assert len(packed.trace) == len(expected.trace) == UPDATES
    losses, norms = (packed.trace - expected.trace).abs().unbind(1)
    assert losses.max() < 1e-8
    assert norms.max() < 1e-8
    assert expected.trace[:, 1].max() > 0.02  # it was clipped
    assert expected.trace[-1, 0] < expected.trace[0, 0] - 0.1  # it learned something
    assert packed.state["model"]["encoder.lm_head.dense.weight"].dtype == torch.float64
    for name, weight in packed.state["model"].items():
        # The head of the pretraining takes no part. In fairseq it decays where ranks exchange
        # zeros as its gradient.
        if not name.startswith("encoder.lm_head."):
            assert (weight - expected.state["model"][name]).abs().max() < 1e-8, name
    assert ("up to 130 tokens" in packed.log) == (token_budget == 130)
