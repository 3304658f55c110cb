"""Fine-tune a pretrained RoBERTa on RACE.

python -m components.train --data runs/data --pretrained runs/roberta.large --output runs/model
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from components.common.cli import parse, parser, run_step
from components.common.remote import at_hand
from components.train.core import TrainConfig, train
from components.train.node import this_node


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(
        TrainConfig,
        prog="python -m components.train",
        description="""
            Fine-tune a pretrained RoBERTa on a data set that binarize wrote, with fairseq-train.
            The defaults are those of fairseq's README.race.md. State the effective batch; how it is
            split over GPUs and micro-batches follows from processes and batch_size.
        """,
        epilog="""
            example, on a machine without a GPU:
              python -m components.train --data runs/data --pretrained roberta.base \\
                --arch roberta_base --precision fp32 --max-updates 10 --output runs/model
        """,
    )
    config = parse(TrainConfig, arguments, argv)
    if not this_node(config.nodes, os.environ).leads:
        config = dataclasses.replace(config, output=Path("none"))  # whatever is there, or may be
    with at_hand(config) as local:
        train(local)


if __name__ == "__main__":
    raise SystemExit(run_step(main))
