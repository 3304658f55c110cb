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
from components.binarize.bpe import Bpe, read_bpe
from components.common import strict_json
from components.common.dataset import LETTERS
from components.common.device import Device
from components.common.dictionary import Dictionary
from components.common.errors import ConfigError, DataError
from components.common.files import scratch_folder
from components.common.vocabulary import read_vocabulary, require_same
from components.evaluate.core import Model
from components.evaluate.score import log_probabilities
from components.evaluate.trained import Trained, as_run, find_trained
from components.predict.config import STANDARD_INPUT, PredictConfig
from components.predict.questions import BadLine, Question, parse_line, read_stretches

logger = logging.getLogger(__name__)


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

    An answer is a line of JSON: "line" and "id" of the question, "probabilities" of the options,
    "predicted" (a letter) and its "text"; where the right answer is known "gold" and "correct"; and
    "shortened" where the text is longer than the model reads, which then lost its end.
    A question of the command line is answered with a table.

    Raises:
        ConfigError: fp16 was asked for without a GPU, or there is no BPE.
        DataError: the model or its BPE is missing, damaged, or does not fit the other; a score is
            not a number; or, after all others are answered, there were bad lines.
        OSError: the input cannot be read.
    """
    tally = Tally()
    with _opened(config) as source, as_run(config.model) as model:
        reader = Reader(find_trained(model, config.bpe), config.precision, config.device)
        show = _table if config.question is not None else _json_lines
        for stretch in source:
            understood = _understood(stretch, reader.model.options, tally)
            for _, alike in itertools.groupby(understood, key=lambda q: len(q.options)):
                read = reader.read(list(alike))
                logits = reader.score(read, config.batch_tokens)
                sys.stdout.writelines(show(read, logits))
                sys.stdout.flush()
                for (question, *_), best in zip(read, logits.argmax(axis=1), strict=True):
                    tally.answered += 1
                    tally.known += question.gold is not None
                    tally.correct += question.gold == best
    if config.question is None:
        _say(tally)
    elif tally.bad_lines:
        raise ConfigError("the question cannot be answered", hint="Why is said above")
    if tally.bad_lines:
        lines = "1 line" if tally.bad_lines == 1 else f"{tally.bad_lines} lines"
        raise DataError(
            f"{lines} could not be answered, the first is line {tally.first_bad}",
            hint="What is wrong with each is said above",
        )
    return tally


class Reader:
    """A trained model that answers questions in words.

    Raises:
        ConfigError, DataError: as `Model` and `bpe_of` raise them.
    """

    def __init__(self, trained: Trained, precision: str = "auto", device: Device = "auto") -> None:
        bpe = bpe_of(trained)
        self._binarizer = Binarizer(bpe.encoder, bpe.dictionary)
        with data_set_of(bpe.dictionary) as data:
            self.model = Model(trained.checkpoint, data, precision, device=device)

    def logits(self, questions: Sequence[Question], batch_tokens: int) -> NDArray[np.float64]:
        """The options' scores, (questions, options), of questions with the same number of them.

        Raises:
            DataError: a score is not a number.
        """
        return self.score(self.read(questions), batch_tokens)

    def score(self, read: Sequence["Read"], batch_tokens: int) -> NDArray[np.float64]:
        """As `logits`, of what `read` gave."""
        names = [f"{question.name} (line {question.line})" for question, *_ in read]
        return self.model.answer([one.sequences for one in read], names, batch_tokens)

    def sequences(self, questions: Sequence[Question]) -> list[list[Any]]:
        """For each question the token ids that the model reads for each of its options."""
        return [read.sequences for read in self.read(questions)]

    def read(self, questions: Sequence[Question]) -> list["Read"]:
        """Questions with the same number of options, in tokens."""
        import torch

        lines = [line for question in questions for line in question.inputs]
        if not lines:
            return []
        items = self._binarizer.binarize(lines)
        ends = np.cumsum(items.sizes)
        tokens = [torch.from_numpy(t) for t in np.split(items.tokens.astype(np.int64), ends[:-1])]
        columns = len(questions[0].inputs)
        found = []
        for place, question in enumerate(questions):
            passage, *options = tokens[place * columns : (place + 1) * columns]
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


class Read(NamedTuple):
    """A question as the model reads it.

    Args:
        sequences: the token ids of each option, with the passage.
        shortened: whether the text was longer than that.
    """

    question: Question
    sequences: list[Any]
    shortened: bool


def bpe_of(trained: Trained) -> Bpe:
    """The BPE to read with what the model was trained to read.

    Raises:
        DataError: a file is missing or damaged, or is not the one that the model was trained with.
    """
    bpe = read_bpe(trained.bpe)
    # That of the model may lack some ids, if binarize was told so.
    if not require_same(bpe.vocabulary, read_vocabulary(trained.checkpoint.parent)):
        bpe.require_complete()
    return bpe


@contextlib.contextmanager
def data_set_of(dictionary: Dictionary) -> Iterator[Path]:
    """A data set with this dictionary and without questions, for as long as the block lasts.

    fairseq's task finds its dictionary nowhere else.
    """
    with scratch_folder() as folder:
        (folder / "input0").mkdir()
        path = folder / "input0" / "dict.txt"
        path.write_text(dictionary.text(), encoding="utf-8")
        yield folder


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
        yield read_stretches(sys.stdin.fileno())
    else:
        handle = os.open(config.input, os.O_RDONLY)
        try:
            yield read_stretches(handle)
        except IsADirectoryError as error:
            error.filename = str(config.input)
            raise
        finally:
            os.close(handle)


def _understood(stretch: list[tuple[int, bytes]], options: int, tally: Tally) -> list[Question]:
    questions: list[Question] = []
    for number, line in stretch:
        if not line.strip():
            continue
        found = parse_line(number, line, options)
        if isinstance(found, BadLine):
            logger.error("line %d: %s", found.line, found.reason)
            tally.bad_lines += 1
            tally.first_bad = tally.first_bad or found.line
        else:
            questions += found
    return questions


def answers(read: Sequence[Read], logits: NDArray[np.float64]) -> Iterator[dict[str, Any]]:
    """The answer to each question as it is written, see `predict`."""
    for (question, _, shortened), best, probabilities in _decided(read, logits):
        answer: dict[str, Any] = {
            "line": question.line,
            "id": question.name,
            "probabilities": [round(p, 6) for p in probabilities],
            "predicted": LETTERS[best],
            "text": question.options[best],
        }
        if question.gold is not None:
            answer |= {"gold": LETTERS[question.gold], "correct": question.gold == best}
        yield answer | ({"shortened": True} if shortened else {})


def _json_lines(read: Sequence[Read], logits: NDArray[np.float64]) -> Iterator[str]:
    return (strict_json.dumps(answer) + "\n" for answer in answers(read, logits))


def _table(read: Sequence[Read], logits: NDArray[np.float64]) -> Iterator[str]:
    for (question, *_), best, probabilities in _decided(read, logits):
        for place, (text, probability) in enumerate(
            zip(question.options, probabilities, strict=True)
        ):
            mark = "*" if place == best else " "
            yield f"{mark} {LETTERS[place]} {100 * probability:6.2f} %  {text}\n"


def _decided(
    read: Sequence[Read], logits: NDArray[np.float64]
) -> Iterator[tuple[Read, int, list[float]]]:
    if not read:
        return iter(())
    probabilities = np.exp(log_probabilities(logits))
    return zip(read, logits.argmax(axis=1).tolist(), probabilities.tolist(), strict=True)


def _say(tally: Tally) -> None:
    right = ""
    if tally.known:
        share = 100 * tally.correct / tally.known
        right = f", {tally.correct:,} of {tally.known:,} right ({share:.2f} %)"
    plural = "s" * (tally.answered != 1)
    logger.info("answered %s question%s%s", f"{tally.answered:,}", plural, right)
