"""Fine-tune a pretrained RoBERTa on a data set that binarize wrote, with fairseq-train.

The defaults are those of fairseq's README.race.md. State the effective batch; how it is split over
GPUs and micro-batches follows from processes and batch_size.

example, on a machine without a GPU:
  python -m components.train --data runs/data --pretrained roberta.base \\
    --arch roberta_base --precision fp32 --max-updates 10 --output runs/model
"""

from components.common.program import Program
from components.train.core import TrainConfig, leads, train

main = Program(TrainConfig, train, __doc__, writes=leads, after=lambda result: result.end())

if __name__ == "__main__":
    main.run()
