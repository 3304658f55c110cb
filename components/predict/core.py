"""Answer questions with a trained model.

Text takes the way it took to training: the preprocess step's lines, binarize's BPE and dictionary,
and the sequences that fairseq's task sentence_ranking makes of them.
"""

import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.binarize.binarizer import Binarizer
from components.binarize.bpe import read_bpe
from components.common import cli, strict_json
from components.common.dataset import LETTERS
from components.common.device import DEVICE_HELP, Device
from components.common.errors import ConfigError, DataError
from components.common.files import scratch_folder
from components.common.text import counted
from components.common.vocabulary import read_vocabulary, require_same
from components.evaluate.model import PRECISION_HELP, Model, Precision
from components.evaluate.statistics import log_probabilities
from components.evaluate.trained import BPE_HELP, MODEL_HELP, Trained, as_run, find_trained
from components.predict.questions import Question, parse_line, read_chunks
from components.preprocess.passage import InvalidPassage

logger = logging.getLogger(__name__)

STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class PredictConfig:
    """Which model answers, and what.

    Raises:
        ConfigError: a question is given in part, or besides an input.
    """

    model: Path = cli.option(help=MODEL_HELP)
    bpe: Path | None = cli.option(None, help=BPE_HELP)
    input: Path = cli.option(
        STANDARD_INPUT,
        help="file with a JSON object on each line, or a RACE file; - is standard input",
    )
    passage: str | None = cli.option(None, help="text that the one question is about")
    question: str | None = cli.option(
        None, help="one question; an underscore in it is the place of the option"
    )
    option: tuple[str, ...] = cli.option((), help="one of the answers to choose from")
    device: Device = cli.option("auto", help=DEVICE_HELP)
    precision: Precision = cli.option("auto", help=PRECISION_HELP)
    batch_tokens: int = cli.option(
        16384, least=1, help="tokens that are computed at once; memory grows with it"
    )

    def __post_init__(self) -> None:
        given = [self.passage is not None, self.question is not None, bool(self.option)]
        if any(given) and not all(given):
            raise ConfigError(
                "a question needs --passage, --question and --option together",
                hint="Give --option once for each answer to choose from",
            )
        if any(given) and self.input != STANDARD_INPUT:
            raise ConfigError("--question and --input exclude each other", hint="Leave one out")
        cli.require_ranges(self)


@dataclass
class Tally:
    """What became of the questions; `known` are those whose right answer was given."""

    answered: int = 0
    known: int = 0
    correct: int = 0
    bad_lines: int = 0
    first_bad: int = 0


def predict(config: PredictConfig) -> Tally:
    """Print an answer for each question, as soon as what was to be read with it is read.

    An answer is a line of JSON, see `Answer.fields`. A question of the command line is answered
    with a table.

    Raises:
        ConfigError: fp16 was asked for without a GPU, or there is no BPE.
        DataError: the model or its BPE is missing, damaged, or does not fit the other; a score is
            not a number; or, after all others are answered, there were bad lines.
        OSError: the input cannot be read.
    """
    tally = Tally()
    with _opened(config) as source, as_run(config.model) as model:
        reader = Reader(find_trained(model, config.bpe), config.precision, config.device)
        for chunk in source:
            questions = _understood(chunk, reader.model.options, tally)
            for answer in reader.answers(reader.read(questions), config.batch_tokens):
                as_json = config.question is None
                print(strict_json.dumps(answer.fields()) if as_json else answer.table())
                tally.answered += 1
                tally.known += answer.question.gold is not None
                tally.correct += answer.question.gold == answer.best
            sys.stdout.flush()
    if config.question is None:
        _say(tally)
    elif tally.bad_lines:
        raise ConfigError("the question cannot be answered", hint="Why is said above")
    if tally.bad_lines:
        raise DataError(
            f"{counted(tally.bad_lines, 'line')} could not be answered, the first is line"
            f" {tally.first_bad}",
            hint="What is wrong with each is said above",
        )
    return tally


class Read(NamedTuple):
    """A question as the model reads it.

    Args:
        sequences: the token ids of each option, with the passage.
        shortened: whether the text was longer than that.
    """

    question: Question
    sequences: list[Any]
    shortened: bool


class Answer(NamedTuple):
    """What the model says to a question: the probability of each option, and the best, 0-based."""

    question: Question
    probabilities: list[float]
    best: int
    shortened: bool

    def fields(self) -> dict[str, Any]:
        """As JSON has it: "line" and "id" of the question, "probabilities", "predicted" (a letter)
        and its "text"; where the right answer is known "gold" and "correct"; and "shortened" where
        the text is longer than the model reads, which then lost its end.
        """
        question = self.question
        found: dict[str, Any] = {
            "line": question.line,
            "id": question.name,
            "probabilities": [round(p, 6) for p in self.probabilities],
            "predicted": LETTERS[self.best],
            "text": question.options[self.best],
        }
        if question.gold is not None:
            found |= {"gold": LETTERS[question.gold], "correct": question.gold == self.best}
        return found | ({"shortened": True} if self.shortened else {})

    def table(self) -> str:
        """A line for each option."""
        rows = enumerate(zip(self.question.options, self.probabilities, strict=True))
        return "\n".join(
            f"{'*' if place == self.best else ' '} {LETTERS[place]} {100 * share:6.2f} %  {text}"
            for place, (text, share) in rows
        )


class Reader:
    """A trained model that answers questions in words.

    Raises:
        ConfigError, DataError: as `Model` raises them.
        DataError: a file of the BPE is missing or damaged, or is not the one that the model was
            trained with.
    """

    def __init__(
        self, trained: Trained, precision: Precision = "auto", device: Device = "auto"
    ) -> None:
        bpe = read_bpe(trained.bpe)
        # That of the model may lack some ids, if binarize was told so.
        if not require_same(bpe.vocabulary, read_vocabulary(trained.checkpoint.parent)):
            bpe.require_complete()
        self._binarizer = Binarizer(bpe.encoder, bpe.dictionary)
        with scratch_folder() as data:  # fairseq's task finds its dictionary nowhere else
            (data / "input0").mkdir()
            dictionary = data / "input0" / "dict.txt"
            dictionary.write_text(bpe.dictionary.text(), encoding="utf-8")
            self.model = Model(trained.checkpoint, data, precision, device=device)

    def read(self, questions: Sequence[Question]) -> list[Read]:
        """Questions in tokens."""
        import torch

        if not questions:
            return []
        items = self._binarizer.binarize([line for q in questions for line in q.inputs])
        parts = np.split(items.tokens.astype(np.int64), np.cumsum(items.sizes)[:-1])
        tokens = iter([torch.from_numpy(part) for part in parts])
        found = []
        for question in questions:
            passage, *options = itertools.islice(tokens, len(question.inputs))
            joined = [self._joined(option, passage) for option in options]
            shortened = any(was_cut for _, was_cut in joined)
            found.append(Read(question, [sequence for sequence, _ in joined], shortened))
        return found

    def _joined(self, option: Any, passage: Any) -> tuple[Any, bool]:
        """Question and option, then the passage, as fairseq/tasks/sentence_ranking.py joins them.

        What is too long loses its end, also where the model was trained with random crops; and
        whether it did.
        """
        import torch

        settings = self.model.settings
        option = _after(settings.init_token, option)
        passage = _after(settings.separator_token, passage)
        kept = option[: settings.max_option_length]
        sequence = torch.cat([kept, passage])[: settings.max_positions]
        return sequence, len(sequence) < len(option) + len(passage)

    def logits(self, read: Sequence[Read], batch_tokens: int) -> NDArray[np.float64]:
        """The options' scores, (questions, most options); -inf where a question has fewer.

        Raises:
            DataError: a score is not a number.
        """
        names = [f"{question.name} (line {question.line})" for question, *_ in read]
        return self.model.answer([one.sequences for one in read], names, batch_tokens)

    def answers(self, read: Sequence[Read], batch_tokens: int) -> list[Answer]:
        """An answer to each question.

        Raises:
            DataError: a score is not a number.
        """
        if not read:
            return []
        logits = self.logits(read, batch_tokens)
        best = logits.argmax(axis=1).tolist()
        probabilities = np.exp(log_probabilities(logits)).tolist()
        return [
            Answer(question, shares[: len(sequences)], place, shortened)
            for (question, sequences, shortened), shares, place in zip(
                read, probabilities, best, strict=True
            )
        ]


def _after(token: int | None, tokens: Any) -> Any:
    import torch

    return tokens if token is None else torch.cat([tokens.new_tensor([token]), tokens])


@contextlib.contextmanager
def _opened(config: PredictConfig) -> Iterator[Iterator[list[tuple[int, bytes]]]]:
    """The lines to answer; an input that cannot be opened shows before the model is read."""
    if config.question is not None:
        fields = {
            "article": config.passage,
            "question": config.question,
            "options": config.option,
        }
        yield iter([[(1, strict_json.dumps(fields).encode())]])
    elif config.input == STANDARD_INPUT:
        if sys.stdin.isatty():
            logger.info("reading questions, a JSON object on each line; Ctrl-D ends them")
        yield read_chunks(sys.stdin.fileno())
    else:
        handle = os.open(config.input, os.O_RDONLY)
        try:
            yield read_chunks(handle)
        except IsADirectoryError as error:
            error.filename = str(config.input)
            raise
        finally:
            os.close(handle)


def _understood(chunk: list[tuple[int, bytes]], options: int, tally: Tally) -> list[Question]:
    questions: list[Question] = []
    for number, line in chunk:
        try:
            questions += parse_line(number, line, options) if line.strip() else ()
        except InvalidPassage as error:
            logger.error("line %d: %s", number, error)
            tally.bad_lines += 1
            tally.first_bad = tally.first_bad or number
    return questions


def _say(tally: Tally) -> None:
    right = ""
    if tally.known:
        share = 100 * tally.correct / tally.known
        right = f", {tally.correct:,} of {tally.known:,} right ({share:.2f} %)"
    logger.info("answered %s%s", counted(tally.answered, "question"), right)
