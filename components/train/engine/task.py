"""fairseq's sentence_ranking task, computed by the packed engine.

    fairseq-train DATA --user-dir components/train/engine --task sentence_ranking_packed ...

with the other arguments as components.train.flags gives them. `--batch-size`, `--update-freq` and
the number of ranks say which questions make up an update, in the order of the stock task; how
many are computed at once follows from `--token-budget`.
"""

import contextlib
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fairseq_cli.train
import numpy as np
import torch
import torch.nn.functional as F
from fairseq import models
from fairseq.criterions.sentence_ranking import SentenceRankingCriterion
from fairseq.data import BaseWrapperDataset, iterators
from fairseq.tasks import register_task
from fairseq.tasks.sentence_ranking import SentenceRankingTask
from torch import Tensor

from components.common.cli import options
from components.common.dataset import read_counts
from components.common.errors import ConfigError
from components.train.config import TrainConfig
from components.train.engine.batch import PackedBatch, balance, pack
from components.train.engine.model import PackedRoberta
from components.train.initial import undrawn

NAME = "sentence_ranking_packed"

# Questions read together in validation; their micro-batches are cut by the token budget.
_VALIDATION_BATCH = 64


@register_task(NAME)
class PackedRankingTask(SentenceRankingTask):  # type: ignore[misc]
    """Reads the same data in the same order as its base class, and packs it."""

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        SentenceRankingTask.add_args(parser)
        for option in options(TrainConfig):
            if option.name in ("token_budget", "stop_collapsed_after", "stop_overflows"):
                parser.add_argument(option.flag, type=int, default=option.default, help=option.help)

    @classmethod
    def setup_task(cls, args: Namespace, **kwargs: Any) -> "PackedRankingTask":
        from components.train.engine import trainer

        # fairseq has registries for all parts of a training but this one.
        fairseq_cli.train.Trainer = trainer.trainer_for
        return cls(args, SentenceRankingTask.setup_task(args).dictionary)

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> Any:
        questions = super().load_dataset(split, combine, **kwargs)
        counts = read_counts(Path(self.args.data), split, len(questions))
        self.datasets[split] = PackedDataset(questions, self.args.num_classes, counts)
        return self.datasets[split]

    def build_model(self, args: Namespace, from_checkpoint: bool = False) -> PackedRoberta:
        # Built by fairseq first: the new head then gets the same random values from the same seed.
        restored = Path(self.args.restore_file)  # by this name, where it is not fairseq's default
        replaced = restored.name != "checkpoint_last.pt" and restored.is_file()
        with undrawn() if replaced else contextlib.nullcontext():
            stock = models.build_model(args, self, from_checkpoint)
        head = getattr(args, "ranking_head_name", "sentence_classification_head")
        stock.register_classification_head(head, num_classes=1)
        return PackedRoberta(stock, head)

    def build_criterion(self, args: Namespace) -> "PackedRankingCriterion":
        return PackedRankingCriterion(self, args.ranking_head_name, None, args.num_classes)

    def get_batch_iterator(self, dataset: Any, **kwargs: Any) -> Any:
        """As the base class; a training iterator is divided over the ranks by updates."""
        ranks, rank = kwargs.pop("num_shards", 1), kwargs.pop("shard_id", 0)
        training = dataset is self.datasets.get(self.args.train_subset)
        if not training:
            kwargs["max_sentences"] = max(kwargs.get("max_sentences") or 0, _VALIDATION_BATCH)
            return super().get_batch_iterator(dataset, num_shards=ranks, shard_id=rank, **kwargs)
        everything = super().get_batch_iterator(
            dataset, **{**kwargs, "disable_iterator_cache": True}
        )
        return UpdateIterator(everything, ranks, rank, int(self.args.update_freq[0]))


class PackedDataset(BaseWrapperDataset):  # type: ignore[misc]
    """The questions of a split; a batch of them is a PackedBatch.

    Args:
        questions: what fairseq's sentence_ranking task loads.
        options: number of options of a question, or of the one that has most.
        counts: number of options of each question, in file order, where they differ.
    """

    def __init__(self, questions: Any, options: int, counts: Sequence[int] | None = None) -> None:
        super().__init__(questions)
        self.options = options
        self.counts = counts
        # Beneath the shuffling, if there is any.
        parts = getattr(questions, "dataset", questions).defn
        sizes = np.array([parts[f"net_input{n + 1}.src_tokens"].sizes for n in range(options)])
        if counts is not None:
            sizes = sizes * (np.arange(options)[:, None] < np.array(counts))
        self.tokens_per_question = sizes.sum(axis=0)

    def collater(self, samples: Sequence[Any]) -> PackedBatch | None:
        def count(sample: Any) -> int:
            return self.counts[int(sample["id"])] if self.counts else self.options

        return pack(
            [
                (
                    int(sample["id"]),
                    [sample[f"net_input{n + 1}.src_tokens"] for n in range(count(sample))],
                    int(sample["target"]) if "target" in sample else None,
                )
                for sample in samples
            ],
            self.options if self.counts else 0,
        )


class UpdateIterator(iterators.EpochBatchIterator):  # type: ignore[misc]
    """The stock order of questions, divided again within each update.

    With stock fairseq, rank r of R gets every R-th batch from r on, and `update_freq` of them make
    its part of an update: an update's questions are those of R * update_freq consecutive batches.
    Here the same questions are divided over the ranks so that each has about as many tokens, and
    the first of a rank's `update_freq` batches holds all of its part. The others are empty, which
    keeps fairseq's count of batches as it is, for progress and for resuming.

    Args:
        everything: fairseq's iterator over all batches for a single rank.
    """

    def __init__(self, everything: Any, ranks: int, rank: int, update_freq: int) -> None:
        super().__init__(
            everything.dataset,
            everything.collate_fn,
            batch_sampler=everything.frozen_batches,
            seed=everything.seed,
            epoch=everything.epoch,
            num_workers=everything.num_workers,
            buffer_size=everything.buffer_size,
        )
        self.ranks, self.rank, self.update_freq = ranks, rank, update_freq

    def __len__(self) -> int:
        return math.ceil(len(self.frozen_batches) / self.ranks)

    def ordered_batches(
        self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool
    ) -> list[list[int]]:
        order = super().ordered_batches(epoch, fix_batches_to_gpus, shuffle)
        per_update = self.ranks * self.update_freq
        result: list[list[int]] = []
        for start in range(0, len(order), per_update):
            batches = order[start : start + per_update]
            questions = [int(question) for batch in batches for question in batch]
            tokens = self.dataset.tokens_per_question[questions]
            mine = balance(tokens.tolist(), self.ranks)[self.rank]
            result.append([questions[place] for place in mine])
            result += [[] for _ in range(math.ceil(len(batches) / self.ranks) - 1)]
        return result


class PackedRankingCriterion(SentenceRankingCriterion):  # type: ignore[misc]
    """The stock criterion's loss and figures, from scores of packed questions."""

    token_budget = 0  # of a validation micro-batch; set by the trainer

    def forward(
        self, model: Any, sample: PackedBatch, reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss, number of questions, and figures to log, for validation.

        Args:
            sample: a batch of any size.
        """
        device = next(model.parameters()).device
        parts = [part.to(device) for part in sample.split(self.token_budget or 1 << 14)]
        results = [self.ranking(model, part) for part in parts]
        loss = torch.stack([loss for loss, _ in results]).sum()
        right = torch.stack([right for _, right in results]).sum()
        figures = {
            "loss": loss,
            "ncorrect": right,
            "ntokens": sample.stock_tokens,
            "nsentences": len(sample),
            "sample_size": len(sample),
        }
        return loss, len(sample), figures

    def ranking(self, model: Any, part: PackedBatch) -> tuple[Tensor, Tensor]:
        """The sum of a micro-batch's losses, in nats, and how many questions are answered right."""
        logits = model(part)
        if part.targets is None:
            raise ConfigError("the questions have no labels", hint="Binarize with labels")
        # In float32 whatever the precision, as in fairseq/criterions/sentence_ranking.py.
        losses = F.log_softmax(logits, dim=-1, dtype=torch.float32)
        loss = F.nll_loss(losses, part.targets, reduction="sum")
        return loss, (logits.argmax(dim=1) == part.targets).sum()
