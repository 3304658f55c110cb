"""Answer RACE's test questions with a trained checkpoint, and count the right answers."""

import argparse
import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.common.asked import Asked, read_asked, read_passages
from components.common.cli import option, require_ranges
from components.common.dataset import (
    LETTERS,
    count_options,
    guessed_among,
    level_of,
    read_counts,
    read_test_sets,
    require_equal,
)
from components.common.device import DEVICE_HELP, Device, usable_gpus
from components.common.errors import ConfigError, DataError
from components.common.executor import Outcome
from components.common.files import atomic_folder
from components.common.indexed import read_sizes
from components.common.labels import longest_wins, usual
from components.common.progress import bar
from components.common.results.metrics import METRICS, Training, digest, write_metrics
from components.common.results.predictions import PREDICTIONS
from components.common.results.scores import Group, Scores
from components.common.vocabulary import read_vocabulary, require_same
from components.evaluate.report import Answers, figures, write_absence, write_report
from components.evaluate.score import log_probabilities, require_numbers, score, table
from components.evaluate.trained import MODEL_HELP, as_run, checkpoint_of
from components.train import checkpoints, compat
from components.train.config import as_dict
from components.train.data import read_ids, read_labels, require_tokens, vocabulary_size
from components.train.roberta import (
    HEAD,
    Roberta,
    TaskSettings,
    require_vocabulary,
    roberta_of,
    task_of,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate, and how.

    Raises:
        ConfigError: a value is out of its range.
    """

    data: Path = option(help="folder that binarize wrote")
    model: Path = option(help=MODEL_HELP)
    output: Path = option(help="new folder for metrics.json, predictions.jsonl and report.html")
    text: Path | None = option(
        None, help="folder that preprocess wrote, to show questions and passages in the report"
    )
    engine: Literal["packed", "stock"] = option(
        "packed", help="who computes the scores: the packed forward, or fairseq's own; they agree"
    )
    device: Device = option("auto", help=DEVICE_HELP)
    precision: Literal["auto", "fp32", "fp16"] = option(
        "auto", help="of the weights; auto is fp16 on a GPU and fp32 on the CPU"
    )
    batch_tokens: int = option(
        16384,
        least=1,
        help="tokens that are computed at once, with engine stock those of an option and its"
        " padding; memory grows with it",
    )

    def __post_init__(self) -> None:
        require_ranges(self)


@dataclass(frozen=True)
class Evaluation:
    """The scores, none of a model that train marked as collapsed; and what metrics.json holds."""

    scores: Scores
    metrics: dict[str, Any]

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.metrics, confusion=self.metrics.get("confusion", ()))


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate on each test set (RACE has middle and high), and print a table of the scores.

    `output` then holds metrics.json and predictions.jsonl, a line for each question in the order of
    the data set: {"id", "probabilities" of the options, "predicted", "gold" as letters}; and
    report.html, where questions and passages are shown if `text` is given.

    Of a training that was marked as collapsed there is no model: metrics.json then says so as
    `absent`, without figures, and there are no predictions.

    Raises:
        ConfigError: fp16 was asked for without a GPU.
        DataError: the data set, the text or the checkpoint is missing, damaged, or does not fit the
            others; or a score is not a number.
        OSError: `output` is in use or cannot be written.
    """
    with as_run(config.model) as model:
        return _evaluate(replace(config, model=model))


def _evaluate(config: EvaluateConfig) -> Evaluation:
    tests = read_test_sets(config.data)
    asked = _asked(config, tests)  # what is missing shows before the work
    metrics = _origin(config)
    if metrics.get("absent"):
        return _absence(config, metrics)
    checkpoint = checkpoint_of(config.model)
    if config.engine == "stock":
        require_equal(config.data)
    require_same(read_vocabulary(config.data), read_vocabulary(checkpoint.parent))
    with atomic_folder(config.output) as folder:
        model = Model(
            checkpoint,
            config.data,
            config.precision,
            config.engine,
            options=count_options(config.data),
            device=config.device,
        )
        sets: list[Group] = []
        parts: list[Answers] = []
        for split, name in tests.items():
            level = level_of(name)
            gold = np.array(read_labels(config.data, split, model.options))
            require_tokens(config.data, split)
            ids = read_ids(config.data, split, len(gold))
            counts = read_counts(config.data, split, len(gold))
            logits = model.logits(split, ids, config.batch_tokens, counts)
            sets.append(score(level, logits, gold))
            parts.append(
                _answers(config.data, split, level, ids, gold, logits, asked[split], counts)
            )
        scores, answers = Scores.together(sets), Answers.together(parts)
        answers.write(folder / PREDICTIONS)
        metrics |= {
            **scores.to_metrics(),
            "chance": answers.chance,
            "baselines": _baselines(config.data, answers),
            "device": model.device,
            "precision": model.precision,
            "parameters": as_dict(config),
            **figures(answers),
        }
        write_metrics(folder, metrics)
        report = write_report(answers, _passages(config.text, answers, tests), metrics)
        (folder / "report.html").write_text(report, encoding="utf-8")

    print(table(scores, answers.chance, metrics["baselines"]), flush=True)
    return Evaluation(scores, metrics)


def _baselines(data: Path, answers: Answers) -> dict[str, float]:
    """Accuracies of answers that need no reading, in percent, as far as there is what they need."""
    found = {}
    labels = data / "label" / "train.label"
    if labels.is_file():
        letter = usual(read_labels(data, "train", count_options(data)))
        found[f"always {LETTERS[letter]}"] = 100 * float((answers.gold == letter).mean())
    if answers.asked:
        right = zip(answers.asked, answers.gold.tolist(), strict=True)
        wins = [longest_wins(asked.options, label) for asked, label in right]
        found["longest option"] = 100 * sum(wins) / len(wins)
    return found


def _origin(config: EvaluateConfig) -> dict[str, Any]:
    """What metrics.json says of the training, where the model is in the folder that train wrote.

    See components.common.results.metrics.Evaluation.
    """
    if not config.model.is_dir():
        return {}
    found: dict[str, Any] = {}
    checkpoint = checkpoint_of(config.model)
    folder = checkpoint.parent
    if (folder / METRICS).is_file():
        found["training"] = digest(folder)
    labels = config.data / "label" / "valid.label"
    if labels.is_file():
        found["validation_questions"] = labels.read_bytes().count(b"\n")
    training = Training.find(folder)
    if training and training.collapsed and not checkpoint.is_file():
        found["absent"] = training.collapsed
    return found


def _absence(config: EvaluateConfig, origin: Mapping[str, Any]) -> Evaluation:
    """Write that there is no model to evaluate."""
    metrics = {
        **origin,
        "chance": 100 / guessed_among(config.data),
        "parameters": as_dict(config),
    }
    with atomic_folder(config.output) as folder:
        write_metrics(folder, metrics)
        (folder / "report.html").write_text(write_absence(metrics), encoding="utf-8")
    print(f"nothing to evaluate: {metrics['absent']}", flush=True)
    return Evaluation(Scores(), metrics)


def _asked(config: EvaluateConfig, tests: Mapping[str, str]) -> dict[str, list[Asked]]:
    """The questions as they were asked, by split; nothing for a split whose text is not given."""
    if config.text is None:
        return {split: [] for split in tests}
    asked = {split: read_asked(config.text, name) for split, name in tests.items()}
    for split, found in asked.items():
        ids = read_ids(config.data, split, len(found))
        if ids != [question.id for question in found]:
            raise DataError(
                f"{config.text}: its questions are not those of {config.data}",
                hint="Give the folder that the data were binarized from",
            )
    return asked


def _answers(
    data: Path,
    split: str,
    level: str,
    ids: list[str],
    gold: NDArray[np.int64],
    logits: NDArray[np.float64],
    asked: list[Asked],
    counts: Sequence[int] | None,
) -> Answers:
    # Each item ends with a token of its own, which is no part of the passage.
    tokens = read_sizes(data / "input0" / split) - 1
    levels = [level] * len(ids)
    return Answers(
        ids, gold, np.exp(log_probabilities(logits)), levels, tokens, asked, counts=counts
    )


def _passages(text: Path | None, answers: Answers, tests: Mapping[str, str]) -> dict[int, str]:
    """The passages of the questions that the report shows, by place among all answers."""
    if text is None:
        return {}
    found: dict[int, str] = {}
    start = 0
    for split in tests.values():
        questions = answers.levels.count(level_of(split))
        wanted = {p - start for p in answers.worst() if start <= p < start + questions}
        passages = read_passages(text, split, wanted)
        found.update({start + place: passage for place, passage in passages.items()})
        start += questions
    return found


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
        precision: str = "auto",
        engine: str = "packed",
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

    @property
    def _named(self) -> str:
        return f"{self.path} in {self.precision}"

    def answer(
        self, questions: Sequence[Sequence[Any]], names: Sequence[str], batch_tokens: int
    ) -> NDArray[np.float64]:
        """The options' scores, (questions, options), of questions that are at hand as tokens.

        Only with the engine packed. All questions have the same number of options, whichever.

        Args:
            questions: for each question the token ids of each of its options, with the passage.
            names: of the questions.
            batch_tokens: upper limit of the tokens of a batch.

        Raises:
            DataError: a score is not a number.
        """
        import torch

        from components.train.engine.batch import pack

        sizes = np.array([sum(map(len, options)) for options in questions])
        result = np.empty((len(questions), len(questions[0])))
        with torch.inference_mode():
            for places in _batches(sizes, batch_tokens):
                batch = pack([(place, questions[place], None) for place in places])
                assert batch is not None
                scores = self._model(batch.to(torch.device(self.device)))
                result[places] = scores.float().cpu().numpy()
        require_numbers(result, names, self._named)
        return result

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
        import torch

        with compat.quiet():
            with contextlib.chdir(self.data):
                self._task.load_dataset(split)
            dataset = self._task.dataset(split)
            packed = partial(self._packed_answers, counts=counts)
            answer = packed if self._packed else self._stock_answers
            places, scores = [], []
            with torch.inference_mode(), bar(total=len(dataset), what=split, unit="q") as shown:
                for ids, logits in answer(dataset, batch_tokens):
                    places.append(ids)
                    scores.append(logits)
                    shown.update(len(ids))
                # Only now, so that the GPU never waits for the next batch to be read.
                result = np.empty((len(dataset), self.options))
                # The data set is shuffled; `ids` are the questions' places in the file.
                result[torch.cat(places).cpu().numpy()] = torch.cat(scores).float().cpu().numpy()
        require_numbers(result, names, self._named, counts)
        return result

    def _packed_answers(
        self, dataset: Any, batch_tokens: int, counts: Sequence[int] | None = None
    ) -> Iterator[tuple[Any, Any]]:
        import torch

        from components.train.engine.task import PackedDataset

        questions = PackedDataset(dataset, self.options, counts)
        sizes = questions.tokens_per_question
        for places in _batches(sizes, batch_tokens):
            batch = questions.collater([questions[place] for place in places])
            assert batch is not None
            yield batch.ids, self._model(batch.to(torch.device(self.device)))

    def _stock_answers(self, dataset: Any, batch_tokens: int) -> Iterator[tuple[Any, Any]]:
        import torch
        from fairseq import utils

        for places in _batches(np.asarray(dataset.sizes).reshape(-1), batch_tokens):
            sample = dataset.collater([dataset[place] for place in places])
            if self.device == "cuda":
                sample = utils.move_to_cuda(sample)
            columns = [
                self._model(**sample[f"net_input{option}"], classification_head_name=HEAD)[0]
                for option in range(1, self.options + 1)
            ]
            yield sample["id"], torch.cat(columns, dim=1)


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


def _batches(sizes: NDArray[np.int64], batch_tokens: int) -> Iterator[list[int]]:
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
