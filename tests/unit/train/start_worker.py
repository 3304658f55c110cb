"""Starts fairseq in the ways that the project does: a program for a test.

start_worker.py FOLDER reads a JSON object of (name: [side, arguments of fairseq-train]) from stdin.
Each start is a fork of this process, which has imported all for it, and writes to FOLDER/name.
"""

import importlib
import json
import os
import sys
from pathlib import Path

import torch

from benchmarks import updates
from components.train import compat
from components.train.rank import worker

compat.import_fairseq("fairseq_cli.train")
for module in ("tensorboardX", "torch._dynamo", "components.train.engine"):
    importlib.import_module(module)
torch.set_num_threads(1)


def start(side: str, arguments: list[str]) -> None:
    if side == "benchmark":
        phases = [{"name": name, "updates": 1} for name in ("warm-up", "timed")]
        updates.child({"arguments": arguments, "phases": phases})
    worker.main(arguments)


def main() -> None:
    folder = Path(sys.argv[1])
    for name, (side, arguments) in json.load(sys.stdin).items():
        if not (child := os.fork()):
            with (folder / name).open("wb") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            try:
                start(side, arguments)
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
