"""How many tokens the packed engine computes at once, and on which GPUs it knows the peak."""

import dataclasses
import logging
import types
import weakref
from typing import Any

import pytest
import torch

from components.train import compat

compat.import_fairseq()

from components.train.engine import memory  # noqa: E402
from components.train.engine.batch import PackedBatch, pack  # noqa: E402
from components.train.engine.trainer import PackedTrainer  # noqa: E402


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("Tesla T4", 65),
        # None of these is what its name begins with, and V100 needs a torch of its own.
        ("NVIDIA A10G", 0),
        ("NVIDIA RTX A4000", 0),
        ("NVIDIA A40-8Q", 0),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 0),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0),
        ("NVIDIA GeForce RTX 3090 Ti", 0),
        ("NVIDIA GH200 480GB", 0),
        ("Tesla V100-SXM2-16GB", 0),
    ],
)
def test_a_card_gets_its_own_peak_or_none(name: str, tflops: int) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        assert memory.peak_flops(name, dtype) == tflops * 1e12
    assert memory.peak_flops(name, torch.float32) == 0


def test_a_budget_halves_and_comes_back_ever_later() -> None:
    budget = memory.Budget(1000, most=1000, wait=2)
    assert not any(budget.worked() for _ in range(9))
    assert budget.failed(least=300)
    assert budget.tokens == 500
    assert budget.failed(least=300)
    assert budget.tokens == 300
    assert not budget.failed(least=300)
    rose = [budget.worked() for _ in range(16)]
    assert rose == ([False] * 7 + [True]) * 2
    assert budget.tokens == 1000
    budget.failed(least=0)
    assert sum(budget.worked() for _ in range(15)) == 0
    assert budget.worked()


class Full:
    """A trainer's parts, where more than 20 tokens at once are too many for the backward."""

    device = torch.device("cpu")
    _model = None
    task = types.SimpleNamespace(args=types.SimpleNamespace(num_classes=2))
    _attempt, _compute_at_once = PackedTrainer._attempt, PackedTrainer._compute_at_once
    room = 20

    def __init__(self) -> None:
        self.criterion = self.optimizer = self  # type: ignore[assignment]
        self.budget = memory.Budget(100, most=100, wait=1)
        self.graphs: list[weakref.ref[Any]] = []
        self.gradient = torch.zeros((), requires_grad=True)

    def zero_grad(self) -> None:
        self.gradient.grad = None
        assert all(graph() is None for graph in self.graphs), "the attempt before is still held"

    def ranking(self, model: Any, part: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        loss = self.gradient * len(part) + 1
        self.graphs.append(weakref.ref(loss))
        self.full = len(part.tokens) > self.room
        return loss, torch.tensor(0)

    def backward(self, loss: torch.Tensor) -> None:
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        loss.backward()  # type: ignore[no-untyped-call]


def test_a_full_memory_costs_an_attempt_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trainer = Full()
    batch = pack([(place, [torch.arange(10), torch.arange(5)], 0) for place in range(4)])
    update = PackedTrainer._forward_and_backward
    losses, _ = update(trainer, batch)  # type: ignore[arg-type]
    assert trainer.gradient.grad == 4  # each question once, whatever was tried before
    assert losses == 4  # in four parts
    assert trainer.budget.tokens == trainer.token_budget == 25
    assert caplog.text.count("out of memory; this update is done again in smaller parts") == 2
    trainer.room = 1000
    for _ in range(7):
        update(trainer, batch)  # type: ignore[arg-type]
    assert "4 updates had room; more is tried" in caplog.text
    assert trainer.token_budget == 100
    trainer.room = 10
    with pytest.raises(torch.OutOfMemoryError):
        update(trainer, batch)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "run", "expected"),
    [
        (0, {"budget": {"tokens": 20, "most": 80, "wait": 400, "fitted": 3}}, (20, 80, 400, 3)),
        (80, {"budget": {"tokens": 20, "most": 80, "wait": 400, "fitted": 3}}, (20, 80, 400, 3)),
        (100, {"budget": {"tokens": 20, "most": 80, "wait": 400, "fitted": 3}}, (100, 100, 1, 0)),
        (0, {"token_budget": 70}, (70, 70, 50, 0)),  # of 0.1.0
        (0, {"token_budget": 0}, (100, 100, 1, 0)),
    ],
)
def test_a_resumed_run_goes_on_with_its_budget_unless_told_another(
    given: int, run: dict[str, Any], expected: tuple[int, ...]
) -> None:
    trainer = Full()
    args = types.SimpleNamespace(token_budget=given)
    trainer.task = types.SimpleNamespace(args=args)  # type: ignore[misc]
    PackedTrainer._resume_budget(trainer, run)  # type: ignore[arg-type]
    assert dataclasses.astuple(trainer.budget) == expected
