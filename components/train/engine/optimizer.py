"""fairseq's Adam on one flat buffer of parameters, with its fp16 and bf16 handling.

The update is that of fairseq/optim/adam.py, the loss scale that of fairseq/optim/fp16_optimizer.py.
All parameters are views of one buffer and all gradients of another, so that zeroing, reducing over
ranks, the norm and the step are a few kernels instead of a few for each of hundreds of tensors.
"""

import ast
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from torch import Tensor, nn

# Tensor cores read a matrix fastest where it begins at a multiple of 128 bytes.
_ALIGNMENT = 64

# Gradients of 16 bits are widened to 32 for the step a piece at a time, 32 MiB, instead of in
# another buffer as large as the model.
_PIECE = 1 << 23


class PackedAdam(FairseqOptimizer):  # type: ignore[misc]
    """Adam with decoupled weight decay on flat buffers.

    With parameters of 16 bits there is a copy in float32 that is updated, and rounded into them, as
    with fairseq's FP16Optimizer. With fp16 the loss is scaled by fairseq's own DynamicLossScaler.

    Args:
        cfg: fairseq's whole configuration.
        params: what to train, all of one type and on one device. Their memory is moved into the
            flat buffer.
    """

    def __init__(self, cfg: Any, params: Iterable[nn.Parameter]) -> None:
        super().__init__(cfg.optimizer)
        self.parameters = list(params)
        betas = cfg.optimizer.adam_betas
        self.betas: tuple[float, float] = tuple(
            ast.literal_eval(betas) if isinstance(betas, str) else betas
        )
        lr = cfg.optimizer.lr
        self.group: dict[str, Any] = {
            "lr": float(lr if isinstance(lr, float | int) else lr[0]),
            "eps": float(cfg.optimizer.adam_eps),
            "weight_decay": float(cfg.optimizer.weight_decay),
        }
        first = self.parameters[0]
        self.weights = first.new_empty(self._places()[-1])
        self.gradients = torch.zeros_like(self.weights)
        self.weights.zero_()
        for parameter, weight, gradient in zip(
            self.parameters, self._views(self.weights), self._views(self.gradients), strict=True
        ):
            weight.copy_(parameter.detach())
            parameter.data = weight
            parameter.grad = gradient
        self.reduced = first.dtype in (torch.float16, torch.bfloat16)
        self.master = self.weights.float() if self.reduced else self.weights
        self.exp_avg = torch.zeros_like(self.master)
        self.exp_avg_sq = torch.zeros_like(self.master)
        self.steps = 0
        self.rounded = False  # the moments, since the last update
        self.scaler = _loss_scaler(cfg) if first.dtype == torch.float16 else None

    def _places(self) -> list[int]:
        """Where each parameter begins in a flat buffer, and the buffer's length."""
        places = [0]
        for parameter in self.parameters:
            places.append(places[-1] + -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT)
        return places

    def _views(self, flat: Tensor) -> Iterator[Tensor]:
        for place, parameter in zip(self._places(), self.parameters, strict=False):
            yield flat[place : place + parameter.numel()].view(parameter.shape)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """What fairseq's learning rate schedulers read and set."""
        return [self.group]

    @property
    def params(self) -> Iterator[nn.Parameter]:
        yield from self.parameters

    def exact(self, on_cpu: bool = False) -> dict[nn.Parameter, Tensor]:
        """The value of each parameter that the next step starts from, in float32 or wider.

        Args:
            on_cpu: give views of one copy on the CPU, else of the buffer itself.
        """
        flat = self.master.cpu() if on_cpu else self.master
        return dict(zip(self.parameters, self._views(flat), strict=True))

    def zero_grad(self) -> None:
        self.gradients.zero_()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, scaled for fp16, to the buffer."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    @property
    def loss_scale(self) -> float:
        return 1.0 if self.scaler is None else float(self.scaler.loss_scale)

    def norm(self) -> Tensor:
        """The norm of the buffer of gradients: a scalar on their device, at least float32."""
        wide = torch.float32 if self.reduced else self.gradients.dtype
        norm: Tensor = torch.linalg.vector_norm(self.gradients, dtype=wide)
        return norm

    def step(self, closure: Any = None, scale: float = 1.0, groups: Any = None) -> None:
        """One update.

        Args:
            scale: the gradients are first divided by this.
        """
        self.steps += 1
        self.rounded = False
        factor = 1 / scale
        if not self.reduced:
            if factor != 1:
                self.gradients.mul_(factor)
            self._adam(slice(None), self.gradients)
            return
        # Widens and multiplies in one kernel; times a number, or a scalar, it would stay narrow.
        wide = torch.full((1,), factor, dtype=torch.float32, device=self.gradients.device)
        for start in range(0, len(self.master), _PIECE):
            piece = slice(start, start + _PIECE)
            self._adam(piece, torch.mul(self.gradients[piece], wide))
            self.weights[piece] = self.master[piece]
        if self.scaler is not None:
            self.scaler.update()

    def _adam(self, piece: slice, gradient: Tensor) -> None:
        beta1, beta2 = self.betas
        # fairseq adds eps before it corrects the second moment's bias, torch's kernel after.
        eps = self.group["eps"] / math.sqrt(1 - beta2**self.steps)
        torch._fused_adamw_(
            [self.master[piece]],
            [gradient],
            [self.exp_avg[piece]],
            [self.exp_avg_sq[piece]],
            [],
            # Filled on the device: a copy of a number to it would wait for all work before.
            [torch.full((), float(self.steps), dtype=torch.float32, device=gradient.device)],
            lr=self.group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=self.group["weight_decay"],
            eps=eps,
            amsgrad=False,
            maximize=False,
        )

    def round_moments(self) -> None:
        """In 16-bit training, round the two moments to bfloat16, as a checkpoint has them.

        It is a third smaller so. They are means over the last tens of updates, so the rounding is
        soon forgotten.
        """
        if self.reduced:
            self.rounded = True
            for moment in (self.exp_avg, self.exp_avg_sq):
                for start in range(0, len(moment), _PIECE):
                    piece = moment[start : start + _PIECE]
                    piece.copy_(piece.to(torch.bfloat16))

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs besides the parameters.

        The parameters are kept in float32 (fairseq's own checkpoints have them rounded).
        """
        kind = torch.bfloat16 if self.rounded else self.master.dtype
        return {
            "steps": self.steps,
            "shapes": [list(parameter.shape) for parameter in self.parameters],
            "exp_avg": self.exp_avg.cpu().to(kind),
            "exp_avg_sq": self.exp_avg_sq.cpu().to(kind),
            "scaler": None if self.scaler is None else dict(vars(self.scaler)),
        }

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: Any = None) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: it is of another model.
        """
        if state_dict["shapes"] != [list(parameter.shape) for parameter in self.parameters]:
            raise ValueError("the optimizer's state is of a model with other parameters")
        self.steps = state_dict["steps"]
        self.exp_avg.copy_(state_dict["exp_avg"])
        self.exp_avg_sq.copy_(state_dict["exp_avg_sq"])
        if self.scaler is not None and state_dict["scaler"] is not None:
            vars(self.scaler).update(state_dict["scaler"])


def _loss_scaler(cfg: Any) -> DynamicLossScaler:
    window = cfg.common.fp16_scale_window
    if window is None:  # as FP16Optimizer has it
        ranks = cfg.distributed_training.distributed_world_size
        window = int(2**14 / ranks / cfg.optimization.update_freq[0])
    return DynamicLossScaler(
        init_scale=cfg.common.fp16_init_scale,
        scale_window=window,
        tolerance=cfg.common.fp16_scale_tolerance,
        threshold=cfg.common.threshold_loss_scale,
        min_loss_scale=cfg.common.min_loss_scale,
    )
