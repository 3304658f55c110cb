"""A trained model that scores the options of questions."""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.common.device import Device, usable_gpus
from components.common.errors import ConfigError, DataError
from components.common.progress import bar
from components.train import checkpoints, compat
from components.train.data import vocabulary_size
from components.train.roberta import (
    HEAD,
    Roberta,
    TaskSettings,
    require_vocabulary,
    roberta_of,
    task_of,
)

Precision = Literal["auto", "fp32", "fp16"]
PRECISION_HELP = "of the weights; auto is fp16 on a GPU and fp32 on the CPU"

# The places of some questions, and their options' scores, (questions, options), as tensors.
Scored = tuple[Any, Any]


class Model:
    """A trained model with its task, ready to answer.

    Args:
        path: a checkpoint with a head that ranks.
        data: the data set; its dictionary must be the one that the model was trained with.
        precision: of the weights.
        engine: who computes.
        device: what computes.
        options: of each question; 0 is as many as the model was trained with. It may be another
            number, because each option is scored by itself.

    `checked` is the model as the checkpoint holds it, `settings` are those of its task.

    Raises:
        ConfigError: fp16 was asked for without a GPU, or a GPU is here that CUDA does not start on.
        DataError: the checkpoint is missing, damaged, unsafe, does not rank, computes something
            else, or does not fit the data set.
    """

    def __init__(
        self,
        path: Path,
        data: Path,
        precision: Precision = "auto",
        engine: Literal["packed", "stock"] = "packed",
        *,
        options: int = 0,
        device: Device = "auto",
    ) -> None:
        cuda = bool(usable_gpus(device))
        if precision == "fp16" and not cuda:
            raise ConfigError(
                "precision fp16 needs a GPU, and none is visible", hint="Use precision fp32"
            )
        self.path, self.data = path, data.absolute()
        self.device = "cuda" if cuda else "cpu"
        self.precision = precision if precision != "auto" else ("fp16" if cuda else "fp32")
        state = checkpoints.load(path)
        self.checked = roberta_of(state, path, ranks=True)
        shape = self.checked.shape
        require_vocabulary(shape.vocabulary, vocabulary_size(data), path)
        self.settings = task_of(state, shape, path)
        self.options = options or self.settings.num_classes
        with compat.quiet():
            self._task = _task(self.settings, data, self.options)
            model = _stock_model(self.checked, self._task)
        self._packed = engine == "packed"
        if self._packed:
            from components.train.engine.model import PackedRoberta

            model = PackedRoberta(model, HEAD)
        self._model = model.eval().to(self.device)
        if self.precision == "fp16":
            self._model.half()

    def answer(
        self, questions: Sequence[Sequence[Any]], names: Sequence[str], batch_tokens: int
    ) -> NDArray[np.float64]:
        """The options' scores of questions that are at hand as tokens, with the engine packed.

        Args:
            questions: for each question the token ids of each of its options, with the passage.
            names: of the questions.
            batch_tokens: upper limit of the tokens of a batch.

        Returns:
            (questions, most options); -inf where a question has fewer.

        Raises:
            DataError: a score is not a number.
        """
        from components.train.engine.batch import pack

        sizes = np.array([sum(map(len, options)) for options in questions])
        counts = [len(options) for options in questions]
        most, differ = max(counts), len(set(counts)) > 1

        def batch(places: list[int]) -> Any:
            return pack([(place, questions[place], None) for place in places], most * differ)

        found = self._packed_scores(sizes, batch, batch_tokens)
        return self._together(found, (len(questions), most), names, counts)

    def logits(
        self,
        split: str,
        names: Sequence[str],
        batch_tokens: int,
        counts: Sequence[int] | None = None,
    ) -> NDArray[np.float64]:
        """The options' scores, (questions, options), of a split's questions in file order.

        Args:
            names: of the questions.
            batch_tokens: upper limit of a batch: of all tokens, with the engine stock of questions
                x longest sequence.
            counts: options of each question where they differ; the score of others is -inf.

        Raises:
            DataError: a score is not a number.
        """
        with compat.quiet():
            with contextlib.chdir(self.data):
                self._task.load_dataset(split)
            dataset = self._task.dataset(split)
            if self._packed:
                from components.train.engine.task import PackedDataset

                packed = PackedDataset(dataset, self.options, counts)

                def batch(places: list[int]) -> Any:
                    return packed.collater([packed[place] for place in places])

                found = self._packed_scores(packed.tokens_per_question, batch, batch_tokens)
            else:
                found = self._stock_scores(dataset, batch_tokens)
            shape = (len(dataset), self.options)
            return self._together(_shown(found, len(dataset), split), shape, names, counts)

    def _packed_scores(
        self, sizes: NDArray[np.int64], batch: Callable[[list[int]], Any], batch_tokens: int
    ) -> Iterator[Scored]:
        import torch

        device = torch.device(self.device)
        for places in batches(sizes, batch_tokens):
            packed = batch(places)
            yield packed.ids, self._model(packed.to(device))

    def _stock_scores(self, dataset: Any, batch_tokens: int) -> Iterator[Scored]:
        import torch
        from fairseq import utils

        for places in batches(np.asarray(dataset.sizes).reshape(-1), batch_tokens):
            sample = dataset.collater([dataset[place] for place in places])
            if self.device == "cuda":
                sample = utils.move_to_cuda(sample)
            columns = [
                self._model(**sample[f"net_input{option}"], classification_head_name=HEAD)[0]
                for option in range(1, self.options + 1)
            ]
            yield sample["id"], torch.cat(columns, dim=1)

    def _together(
        self,
        found: Iterator[Scored],
        shape: tuple[int, int],
        names: Sequence[str],
        counts: Sequence[int] | None,
    ) -> NDArray[np.float64]:
        """All scores by the questions' places, checked."""
        import torch

        result = np.empty(shape)
        with torch.inference_mode():
            scored = list(found)
            # Only now, so that the GPU never waits for the next batch to be read.
            for places, scores in scored:
                result[places.cpu().numpy()] = scores.float().cpu().numpy()
        self._require_numbers(result, names, counts)
        return result

    def _require_numbers(
        self, logits: NDArray[np.float64], names: Sequence[str], counts: Sequence[int] | None
    ) -> None:
        """Refuse NaN and infinity: the first option would pass for the answer."""
        fine = np.isfinite(logits)
        if counts is not None:
            fine |= np.arange(logits.shape[1]) >= np.array(counts)[:, None]
        wrong = np.flatnonzero(~fine.all(axis=1))
        if wrong.size:
            raise DataError(
                f"{self.path} in {self.precision}: its scores are not numbers (NaN or infinity) for"
                f" {wrong.size} of {len(names)} questions, the first is {names[wrong[0]]}",
                hint="Its weights are damaged or too large: use another checkpoint, or precision"
                " fp32",
            )


def _shown(found: Iterator[Scored], total: int, what: str) -> Iterator[Scored]:
    """The same, with a bar that shows how far it is."""
    with bar(total=total, what=what, unit="q") as shown:
        for places, scores in found:
            yield places, scores
            shown.update(len(places))


def _task(settings: TaskSettings, data: Path, options: int) -> Any:
    """fairseq's task, for a data set of our own."""
    compat.import_fairseq()
    from fairseq.tasks.sentence_ranking import SentenceRankingTask

    # What is too long has no position: it is shortened even where training needed not to.
    shorten = "random_crop" if settings.shorten_method == "random_crop" else "truncate"
    args = asdict(settings) | {"data": ".", "num_classes": options, "shorten_method": shorten}
    fixed = {
        "criterion": "sentence_ranking",
        "dataset_impl": None,
        "no_shuffle": False,
        "shorten_data_split_list": "",
    }
    try:
        # The name of this folder is no path that fairseq would split at colons.
        with contextlib.chdir(data):
            return SentenceRankingTask.setup_task(argparse.Namespace(**args, **fixed))
    except (ValueError, RuntimeError) as error:
        raise DataError(f"{data}: its dictionary cannot be read", hint="Binarize again") from error


def _stock_model(checked: Roberta, task: Any) -> Any:
    """fairseq's model, built from sizes that were checked, with the checkpoint's tensors."""
    shape = checked.shape
    args = argparse.Namespace(
        arch="roberta",
        encoder_layers=shape.layers,
        encoder_embed_dim=shape.embed_dim,
        encoder_ffn_embed_dim=shape.ffn_embed_dim,
        encoder_attention_heads=shape.attention_heads,
        max_positions=shape.positions,
    )
    from components.train.initial import undrawn

    with undrawn():
        model = task.build_model(args)
    model.load_state_dict(checked.tensors, strict=True)
    return model


def batches(sizes: NDArray[np.int64], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of questions of like length, longest first, so that what does not fit fails soon.

    Args:
        sizes: tokens of each question, or of its longest option.
        batch_tokens: upper limit of questions x longest in a batch; one question is always let in.
    """
    batch: list[int] = []
    for index in np.argsort(-sizes, kind="stable").tolist():
        if batch and (len(batch) + 1) * sizes[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
