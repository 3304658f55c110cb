"""fairseq-train in float64, which it has no option for: a program for the tests of trajectories.

python exact_worker.py TRACE DATA --arch roberta_base ...

fairseq computes gelu, the loss and the gradient's norm in float32 whatever the type, and the packed
engine does as fairseq does. Adam divides by gradients, so where these are small, it magnifies the
rounding in 50 updates beyond what is to be compared. Here these three are in float64, too.

Each update's mean loss (nats) and norm of the gradient are written in full to the file TRACE.
"""

import functools
import json
import os
import sys
from typing import Any

import torch
import torch.nn.functional as F

from components.train import compat


def main() -> None:
    trace, *arguments = sys.argv[1:]
    torch.set_default_dtype(torch.float64)
    F.log_softmax = _log_softmax
    torch.norm = functools.partial(_norm, torch.norm)
    compat.import_fairseq()
    import fairseq.modules
    from fairseq.trainer import Trainer

    from components.train.engine import model

    fairseq.modules.gelu = F.gelu
    model._gelu = F.gelu

    original = Trainer._reduce_and_log_stats

    def reduce_and_log_stats(
        self: Any, outputs: list[dict[str, Any]], sample_size: Any, grad_norm: Any = None
    ) -> Any:
        if grad_norm is not None and self.is_data_parallel_master:
            loss = sum(float(output["loss"]) for output in outputs) / float(sample_size)
            with open(trace, "a") as file:
                file.write(json.dumps([loss, float(grad_norm)]) + "\n")
        return original(self, outputs, sample_size, grad_norm)

    Trainer._reduce_and_log_stats = reduce_and_log_stats
    compat.run("fairseq-train", arguments)
    # The threads of a process group may outlive it.
    sys.stdout.flush()
    os._exit(0)


def _log_softmax(scores: Any, dim: int, dtype: Any = None) -> Any:
    return torch.log_softmax(scores, dim, dtype=torch.float64)


def _norm(original: Any, *args: Any, dtype: Any = None, **kwargs: Any) -> Any:
    return original(*args, dtype=torch.float64, **kwargs)


if __name__ == "__main__":
    main()
