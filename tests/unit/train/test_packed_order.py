"""An update of the packed engine holds the questions that an update of stock fairseq holds."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components.train import compat
from components.train.config import Plan, TrainConfig
from components.train.flags import Run, fairseq_arguments

compat.import_fairseq()

from fairseq import options, tasks  # noqa: E402
from fairseq.data.iterators import GroupedIterator  # noqa: E402
from fairseq.dataclass.utils import convert_namespace_to_omegaconf  # noqa: E402

# fairseq asks for pinned memory whether there is a GPU or not.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")


def task(tiny_race: Any, engine: str, *more: str, **changes: Any) -> Any:
    """fairseq's task with the training questions loaded, and its configuration."""
    save_dir = Path("unused")
    config = TrainConfig(
        tiny_race.data,
        tiny_race.pretrained,
        save_dir,
        **(tiny_race.parameters | {"engine": engine} | changes),
    )
    run = Run(config, Plan("cpu", 1, 1, 1, 1), tiny_race.pretrained, save_dir)
    with compat.quiet():
        parser = options.get_training_parser()
        arguments = [*fairseq_arguments(run), *more]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))
        result = tasks.setup_task(cfg.task)
        result.load_dataset("train")
    return result


def iterator(
    task: Any, *, batch_size: int, ranks: int, rank: int, epoch: int = 1, seed: int = 1
) -> Any:
    """As fairseq's trainer asks for it."""
    return task.get_batch_iterator(
        dataset=task.dataset("train"),
        max_sentences=batch_size,
        max_positions=task.max_positions(),
        ignore_invalid_inputs=True,
        seed=seed,
        num_shards=ranks,
        shard_id=rank,
        epoch=epoch,
        disable_iterator_cache=True,
    )


def updates(batches: Any, update_freq: int) -> list[list[Any]]:
    return list(GroupedIterator(batches.next_epoch_itr(shuffle=True), update_freq))


def stock_ids(samples: list[Any]) -> list[int]:
    return [int(i) for sample in samples if sample for i in sample["id"]]


def packed_ids(samples: list[Any]) -> list[int]:
    return [int(i) for sample in samples if sample for i in sample.ids]


@pytest.mark.parametrize(
    ("batch_size", "update_freq", "ranks"),
    [(1, 16, 1), (1, 8, 2), (4, 2, 2), (1, 1, 3), (5, 3, 2), (7, 1, 1), (16, 10, 1)],
)
def test_updates_hold_the_same_questions(
    tiny_race: Any, batch_size: int, update_freq: int, ranks: int
) -> None:
    stock = task(tiny_race, "stock")
    packed = task(tiny_race, "packed", "--update-freq", str(update_freq))
    for epoch, seed in ((1, 1), (2, 1), (1, 9)):
        kwargs: Any = {"batch_size": batch_size, "ranks": ranks, "epoch": epoch, "seed": seed}
        theirs = [iterator(stock, rank=rank, **kwargs) for rank in range(ranks)]
        ours = [iterator(packed, rank=rank, **kwargs) for rank in range(ranks)]
        assert [len(i) for i in ours] == [len(i) for i in theirs]
        theirs = [updates(i, update_freq) for i in theirs]
        ours = [updates(i, update_freq) for i in ours]
        seen: list[int] = []
        for stock_update, packed_update in zip(
            zip(*theirs, strict=True), zip(*ours, strict=True), strict=True
        ):
            expected = [i for samples in stock_update for i in stock_ids(samples)]
            found = [i for samples in packed_update for i in packed_ids(samples)]
            assert sorted(found) == sorted(expected)
            assert [len(samples) for samples in packed_update] == [
                len(samples) for samples in stock_update
            ]
            seen += found
        assert sorted(seen) == list(range(96))


def test_one_rank_has_the_questions_in_the_stock_order(tiny_race: Any) -> None:
    stock, packed = task(tiny_race, "stock"), task(tiny_race, "packed", "--update-freq", "16")
    theirs = updates(iterator(stock, batch_size=1, ranks=1, rank=0), 16)
    ours = updates(iterator(packed, batch_size=1, ranks=1, rank=0), 16)
    assert [packed_ids(u) for u in ours] == [stock_ids(u) for u in theirs]


def test_ranks_get_about_equal_numbers_of_tokens(tiny_race: Any) -> None:
    packed = task(tiny_race, "packed", "--update-freq", "8")
    shares = [updates(iterator(packed, batch_size=1, ranks=2, rank=r), 8) for r in range(2)]
    for update in zip(*shares, strict=True):
        first, second = (len(samples[0].tokens) for samples in update)
        assert abs(first - second) <= 0.1 * (first + second)


@pytest.mark.parametrize(
    "changes",
    [{}, {"max_option_length": 3}, {"max_positions": 14}, {"init_token": 5, "separator_token": 7}],
    ids=["as it is", "long options", "long passages", "other tokens"],
)
def test_token_sequences_are_those_of_the_stock_task(
    tiny_race: Any, changes: dict[str, Any]
) -> None:
    stock = task(tiny_race, "stock", **changes)
    packed = task(tiny_race, "packed", **changes)
    theirs, ours = stock.dataset("train"), packed.dataset("train")
    assert torch.equal(
        torch.as_tensor(ours.ordered_indices()), torch.as_tensor(theirs.ordered_indices())
    )
    cut = 0
    for index in range(len(theirs)):
        padded = theirs.collater([theirs[index]])
        batch = ours.collater([ours[index]])
        sequences = [padded[f"net_input{n}"]["src_tokens"][0] for n in range(1, 5)]
        assert torch.equal(batch.tokens, torch.cat(sequences))
        assert batch.lengths.tolist() == [len(sequence) for sequence in sequences]
        assert torch.equal(batch.targets, padded["target"])
        assert batch.stock_tokens == padded["ntokens"]
        assert ours.tokens_per_question[index] == len(batch.tokens)
        cut += max(batch.lengths) == changes.get("max_positions")
    assert bool(cut) == ("max_positions" in changes)


def test_validation_reads_every_question_once(tiny_race: Any) -> None:
    packed = task(tiny_race, "packed")
    packed.load_dataset("valid")
    batches = packed.get_batch_iterator(
        dataset=packed.dataset("valid"), max_sentences=1, num_shards=1, shard_id=0, seed=1
    ).next_epoch_itr(shuffle=False)
    batches = list(batches)
    assert len(batches) == 1  # not one for each question
    assert sorted(batches[0].ids.tolist()) == list(range(24))
