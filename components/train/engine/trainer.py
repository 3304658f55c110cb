"""fairseq's Trainer with the packed engine's update, checkpoints and guards."""

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq.logging import metrics
from fairseq.optim import lr_scheduler
from fairseq.trainer import Trainer
from torch import Tensor

from components.common.dataset import guessed_among
from components.common.files import atomic_file
from components.train import checkpoints
from components.train.engine import memory
from components.train.engine.batch import PackedBatch
from components.train.engine.guard import Guard
from components.train.engine.model import PackedRoberta
from components.train.engine.optimizer import PackedAdam
from components.train.engine.task import PackedRankingTask

logger = logging.getLogger(__name__)


def trainer_for(cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None) -> Any:
    """Stands where fairseq_cli.train has the class Trainer: the trainer that a task wants."""
    kind = PackedTrainer if isinstance(task, PackedRankingTask) else Trainer
    return kind(cfg, task, model, criterion, quantizer)


class PackedTrainer(Trainer):  # type: ignore[misc]
    """Makes the stock trainer's updates from packed micro-batches.

    The host waits for the device once in an update, after its last backward: whether to step at all
    depends on the gradient's norm. The kernels of the step then run while the host prepares the
    next update.
    """

    exact = False  # whether the checkpoint that is being written holds all bits

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any) -> None:
        super().__init__(cfg, task, model, criterion, quantizer)
        self.budget: memory.Budget | None = None
        if task.args.token_budget:
            self._compute_at_once(memory.Budget(task.args.token_budget, task.args.token_budget))
        self.guard = Guard(
            guessed_among(Path(task.args.data)),
            task.args.stop_collapsed_after,
            task.args.stop_overflows,
        )
        self.peak_flops = 0.0
        if self.cuda:
            name = torch.cuda.get_device_name(self.device)
            self.peak_flops = memory.peak_flops(name, next(self._model.parameters()).dtype)
            known = f"{self.peak_flops / 1e12:.0f} TFLOP/s" if self.peak_flops else "unknown"
            logger.info("%s: its peak is %s", name, known)

    @property
    def use_distributed_wrapper(self) -> bool:
        """No: there is one buffer of gradients to reduce, and `train_step` does that."""
        return False

    def _build_optimizer(self) -> None:
        trained = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = PackedAdam(self.cfg, trained)
        self._lr_scheduler = lr_scheduler.build_lr_scheduler(self.cfg.lr_scheduler, self._optimizer)
        self._lr_scheduler.step_update(0)

    @metrics.aggregate("train")  # type: ignore[untyped-decorator]
    def train_step(
        self, samples: Sequence[PackedBatch | None], raise_oom: bool = False
    ) -> dict[str, Any] | None:
        """One update from the questions of one update; None when it was skipped for overflow.

        Raises:
            CollapseError: the run cannot come to anything.
        """
        self._set_seed()
        self._model.train()
        metrics.log_start_time("train_wall", priority=800, round=0)

        # UpdateIterator puts all of a rank's questions into the first of an update's batches.
        batch = next((sample for sample in samples if sample is not None), None)
        totals = self._totals(batch, *self._forward_and_backward(batch))
        # The buffer holds the mean over ranks of the gradients of sums, times the loss scale.
        scale = self.optimizer.loss_scale * totals.questions / self.data_parallel_world_size
        norm = totals.norm / scale
        made = self._accepts(norm)
        if made:
            self.guard.updated(totals.loss / totals.questions, totals.questions)
            self.optimizer.step(scale=scale * self._clipping(norm))
            self.set_num_updates(self.get_num_updates() + 1)
        logged = self._log(totals, norm) if made else None
        if self.optimizer.scaler is not None:
            metrics.log_scalar(
                "loss_scale", self.optimizer.loss_scale, priority=700, round=4, weight=0
            )
        metrics.log_stop_time("train_wall")
        return logged

    def _forward_and_backward(self, batch: PackedBatch | None) -> tuple[Tensor, Tensor]:
        """Add gradients up; give the sum of losses and of right answers, still on the device."""
        if self.budget is None:
            tokens = memory.token_budget(self._model, self.task.args.num_classes)
            self._compute_at_once(memory.Budget(tokens, tokens))
            self._set_seed()  # measuring took some random numbers
        assert self.budget is not None
        while True:
            try:
                sums = self._attempt(batch, self.budget.tokens)
            except torch.OutOfMemoryError:
                longest = 0 if batch is None else max(batch.per_question)
                if not self.budget.failed(longest):
                    raise
            else:
                if self.budget.worked():
                    logger.info("%d updates had room; more is tried", self.budget.wait)
                    self._compute_at_once(self.budget)
                return sums
            # Not before the error is gone, and with it the frames that hold the tensors.
            torch.cuda.empty_cache()
            logger.info("out of memory; this update is done again in smaller parts")
            self._compute_at_once(self.budget)

    def _attempt(self, batch: PackedBatch | None, tokens: int) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad()
        losses = torch.zeros((), device=self.device, dtype=torch.float64)
        right = torch.zeros((), device=self.device, dtype=torch.float64)
        if batch is not None:
            for part in batch.to(self.device).split(tokens):
                loss, correct = self.criterion.ranking(self._model, part)
                self.optimizer.backward(loss)
                losses += loss.detach()
                right += correct
        return losses, right

    def _compute_at_once(self, budget: memory.Budget) -> None:
        self.budget = budget
        self.criterion.token_budget = budget.tokens
        logger.info("up to %d tokens at once", budget.tokens)

    def _totals(self, batch: PackedBatch | None, loss: Tensor, right: Tensor) -> "_Totals":
        """Reduce gradients and figures over the ranks, and wait for them: once in an update."""
        counts = torch.tensor(_counts(batch, self._model), dtype=torch.float64)
        sums = torch.cat([counts.to(loss, non_blocking=True), torch.stack([loss, right])])
        if self.data_parallel_world_size > 1:
            # Divided first, as fairseq does it: a sum of fp16 gradients could overflow.
            self.optimizer.gradients.div_(self.data_parallel_world_size)
            torch.distributed.all_reduce(self.optimizer.gradients)
            torch.distributed.all_reduce(sums)
        return _Totals(*torch.cat([sums, self.optimizer.norm().to(sums)[None]]).tolist())

    def _accepts(self, norm: float) -> bool:
        """Whether an update with this norm of the gradient is made; False for an fp16 overflow."""
        if self.optimizer.scaler is None:
            if not math.isfinite(norm):
                raise self.guard.broken(f"the gradient's norm is {norm}")
            return True
        try:
            self.optimizer.scaler.check_overflow(norm)
        except OverflowError as error:
            logger.info("NOTE: gradient overflow detected, ignoring gradient, %s", error)
            if not torch.isfinite(self.optimizer.weights).all():
                raise self.guard.broken("the gradient overflowed") from None
            self.guard.overflowed(self.optimizer.loss_scale)
            return False
        return True

    def _clipping(self, norm: float) -> float:
        """What to divide the gradient by so that its norm is at most --clip-norm.

        fairseq has two formulas, one with fp16 (fp16_optimizer.py) and one without (utils.py).
        """
        limit = self.cfg.optimization.clip_norm
        if limit <= 0:
            return 1.0
        added = 0.0 if self.optimizer.scaler is not None else 1e-6
        return max(1.0, (norm + added) / float(limit))

    def _log(self, totals: "_Totals", norm: float) -> dict[str, Any]:
        metrics.log_speed("questions_per_second", totals.questions, priority=101, round=2)
        metrics.log_speed("tokens_per_second", totals.tokens, priority=102, round=0)
        if self.peak_flops:
            peak = self.peak_flops * self.data_parallel_world_size
            metrics.log_speed("peak_percent", 100 * totals.flops / peak, priority=103, round=1)
        if self.cuda:
            used = torch.cuda.max_memory_allocated() / 2**30
            metrics.log_scalar("gb_used", used, priority=1500, round=1, weight=0)
        stock = {
            "loss": totals.loss,
            "ncorrect": totals.right,
            "ntokens": totals.stock_tokens,
            "nsentences": totals.questions,
            "sample_size": totals.questions,
        }
        logged: dict[str, Any] = self._reduce_and_log_stats(
            [stock], totals.questions, torch.tensor(norm)
        )
        return logged

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: fairseq's format, without its duplicates of parameters.

        The model is in float32. The optimizer's state is under a key of its own, because fairseq's
        optimizers could not take it over; fairseq-train starts a new one from such a checkpoint.
        """
        state: dict[str, Any] = super().state_dict()
        exact = self.optimizer.exact(on_cpu=True)
        state["model"] = self._model.stock_state(exact.__getitem__)
        state["packed_optimizer"] = state.pop("last_optimizer_state", None)
        state["packed_run"] = {
            "guard": self.guard.state(),
            # How an update is divided decides in which order its gradients are added.
            "budget": None if self.budget is None else asdict(self.budget),
        }
        state["cfg"] = _stock_config(state["cfg"])
        return state

    def consolidate_optimizer(self) -> None:
        """Called on all ranks before one of them saves: go on from what the checkpoint will hold.

        A run that is resumed from it then makes the same updates as one that goes on. With `exact`
        it is a checkpoint of one rank that holds all bits instead, and a third larger in 16 bits.
        """
        self._gathered_optim_state = None
        if not self.exact:
            self.optimizer.round_moments()

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> None:
        """Write a checkpoint; the file is there whole or not at all."""
        state = self.state_dict()
        state["extra_state"].update(extra_state)
        with atomic_file(Path(filename)) as partial:
            torch.save(state, partial)
        logger.info("saved %s", filename)

    def load_checkpoint(
        self,
        filename: str,
        reset_optimizer: bool = False,
        reset_lr_scheduler: bool = False,
        optimizer_overrides: Any = None,
        reset_meters: bool = False,
    ) -> Any:
        """Load a checkpoint of this engine or of stock fairseq; of the latter, the model only."""
        extra_state = super().load_checkpoint(
            filename, reset_optimizer, reset_lr_scheduler, optimizer_overrides, reset_meters
        )
        if extra_state is None or reset_optimizer:
            return extra_state
        state = checkpoints.load(Path(filename))
        if state.get("packed_optimizer") is None:
            return extra_state
        self.optimizer.load_state_dict(state["packed_optimizer"])
        exact = self.optimizer.exact()
        for name, parameter, rows in self._model.parts():
            target = exact[parameter] if rows is None else exact[parameter][rows]
            target.copy_(state["model"][name])
        run = state.get("packed_run")
        if run is not None:
            self.guard.resume(run["guard"])
            self._resume_budget(run)
        last = state["optimizer_history"][-1]
        if not reset_lr_scheduler:
            self.lr_scheduler.load_state_dict(last["lr_scheduler_state"])
        self.set_num_updates(last["num_updates"])
        return extra_state

    def _resume_budget(self, run: dict[str, Any]) -> None:
        given, tokens = self.task.args.token_budget, run.get("token_budget", 0)  # of 0.1.0
        found = run.get("budget") or (tokens and {"tokens": tokens, "most": tokens})
        if found and given in (0, found["most"]):
            self._compute_at_once(memory.Budget(**found))


@dataclass(frozen=True)
class _Totals:
    """Sums over an update's questions on all ranks, and the norm of the buffer of gradients."""

    questions: float
    tokens: float
    stock_tokens: float
    flops: float  # of forward and backward
    loss: float  # nats
    right: float
    norm: float


def _counts(batch: PackedBatch | None, model: PackedRoberta) -> list[float]:
    """The first four of `_Totals`, of one rank."""
    if batch is None:
        return [0.0] * 4
    flops = 3 * model.flops(batch.lengths)
    return [len(batch), len(batch.tokens), batch.stock_tokens, flops]


def _stock_config(cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration as stock fairseq reads it from a checkpoint, without this plugin."""
    task = copy.copy(cfg["task"])
    task._name = task.task = "sentence_ranking"
    task.user_dir = None
    return {**cfg, "task": task, "common": {**cfg["common"], "user_dir": None}}
