"""The preprocess step's text columns to the binary data that fairseq trains on.

For input0 to input4: dict.txt and {train,valid,test,test1}.{bin,idx}, where test is test-middle and
test1 is test-high. Beside them label/*.label and id/*.id, splits.json, vocabulary.json (see
components.common.vocabulary), and report.html about the data; options/*.options where questions
differ in their number of options, and then an option that a question lacks is an end token alone.
Where the text has other numbers of options or other test sets, so have the data, see
components.common.dataset. The bytes of the data are those of fairseq's
examples/roberta/preprocess_RACE.sh: multiprocessing_bpe_encoder
--keep-empty, then fairseq-preprocess --only-source --srcdict (whose log file is not written).

Where that takes 25 processes that hand each other numbers as text, here a table takes the encoder's
ids to the dictionary's indices. And the passage, which stands in its column again for each of its
questions, is encoded once.
"""

import logging
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.binarize.binarizer import Binarizer, Items
from components.binarize.bpe import read_bpe
from components.binarize.indexed import Writer
from components.binarize.report import write_report
from components.common import strict_json
from components.common.cli import option
from components.common.dataset import SPLITS_FILE, copy_origin
from components.common.dictionary import UNKNOWN
from components.common.errors import ConfigError, DataError
from components.common.executor import Outcome
from components.common.files import atomic_folder
from components.common.progress import bar
from components.common.text import columns
from components.preprocess.text import AGAIN, Layout, layout_of, read_answers

log = logging.getLogger(__name__)

# What is encoded at a time: enough to make a call's own cost small, little enough to stay in a
# core's cache.
STRETCH_BYTES = 1 << 20
# The encoder takes one text at a time, and Python runs one thread at a time: more would only wait.
MOST_WORKERS = 4


@dataclass(frozen=True)
class BinarizeConfig:
    """The text, the BPE, and how they are put together.

    Raises:
        ConfigError: a value is out of its range.
    """

    text: Path = option(help="folder with the text columns of the preprocess step")
    bpe: Path = option(help="folder with encoder.json, vocab.bpe and dict.txt")
    output: Path = option(help="new folder for the binary data")
    max_unknown: float = option(
        0.0,
        help="largest share of tokens that may be unknown to dict.txt, from 0 to 1; with 0 it must"
        " have all ids of encoder.json",
    )
    workers: int = option(
        0, help=f"threads that encode; 0 means one for each core, at most {MOST_WORKERS}"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.max_unknown <= 1:
            raise ConfigError(f"max_unknown is {self.max_unknown}", hint="Use a share from 0 to 1")
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers}", hint="Use 0 for one thread a core")


@dataclass(frozen=True)
class Count:
    """Of one binary file: lines; tokens, the end of each line included; tokens that are unknown."""

    lines: int
    tokens: int
    unknown: int

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.lines + other.lines, self.tokens + other.tokens, self.unknown + other.unknown
        )


@dataclass(frozen=True)
class Summary:
    """`counts` by input, then by fairseq's name of the split; `symbols` in the dictionary."""

    counts: dict[str, dict[str, Count]]
    symbols: int

    @property
    def total(self) -> Count:
        files = (count for splits in self.counts.values() for count in splits.values())
        return sum(files, Count(0, 0, 0))

    @property
    def outcome(self) -> Outcome:
        tokens, unknown = self.total.tokens, self.total.unknown
        return Outcome({"tokens": tokens, "unknown_tokens": unknown, "symbols": self.symbols})

    def table(self) -> str:
        """Questions and tokens by split, passages and options apart."""
        rows = [("split", "questions", "passage tokens", "question and option tokens", "unknown")]
        options = [splits for column, splits in self.counts.items() if column != "input0"]
        for split, passage in self.counts["input0"].items():
            asked = [splits[split] for splits in options]
            unknown = passage.unknown + sum(count.unknown for count in asked)
            cells = (passage.lines, passage.tokens, sum(count.tokens for count in asked), unknown)
            rows.append((split, *(f"{cell:,}" for cell in cells)))  # type: ignore[arg-type]
        return "\n".join(columns(rows))


def binarize(config: BinarizeConfig) -> Summary:
    """Write the data to `config.output`.

    Raises:
        DataError: a column is missing, columns of a split differ in length, a label is no option,
            text is not UTF-8, a vocabulary file is not what it should be, or more than
            `max_unknown` of the tokens are unknown to the dictionary.
        OSError: the output cannot be written, or is there already.
    """
    layout = layout_of(config.text)
    questions = {
        split: len(read_answers(config.text, split, layout).labels) for split in layout.splits
    }
    for split in [split for split, number in questions.items() if not number]:
        log.warning("%s has no question: fairseq cannot read the empty files it makes", split)
    bpe = read_bpe(config.bpe)
    if not config.max_unknown:
        bpe.require_complete()
    binarizer = Binarizer(bpe.encoder, bpe.dictionary)
    paths = {(c, s): config.text / f"{s}.{c}" for c in layout.inputs for s in layout.splits}
    counts: dict[str, dict[str, Count]] = {column: {} for column in layout.inputs}
    workers = config.workers or min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    with (
        atomic_folder(config.output) as output,
        bar(total=sum(p.stat().st_size for p in paths.values()), what="text", bytes=True) as done,
        ThreadPoolExecutor(workers, thread_name_prefix="binarize") as pool,
    ):
        strict_json.write(output / SPLITS_FILE, layout.splits)
        bpe.vocabulary.write(output)
        _copy_labels(config.text, output, layout)
        for column in layout.inputs:
            (output / column).mkdir()
            (output / column / "dict.txt").write_text(bpe.dictionary.text(), encoding="utf-8")
        for (column, split), path in paths.items():
            count = Count(0, 0, 0)
            with Writer(output / column / layout.splits[split], binarizer.kind) as writer:
                for size, items in _ahead(pool, binarizer, path, limit=2 * workers):
                    writer.write(items.tokens, items.sizes)
                    unknown = int(np.count_nonzero(items.tokens == UNKNOWN))
                    count += Count(len(items.sizes), len(items.tokens), unknown)
                    done.update(size)
            if count.lines != questions[split]:
                raise DataError(
                    f"{path} has {count.lines} lines, and {split}.label has {questions[split]}",
                    hint=AGAIN,
                )
            counts[column][layout.splits[split]] = count
        summary = Summary(counts, len(bpe.dictionary))
        _check_unknown(summary, config)
        report = write_report(
            config.text, output, tokens=summary.total.tokens, unknown=summary.total.unknown
        )
        (output / "report.html").write_text(report, encoding="utf-8")
        copy_origin(config.text, output)
    return summary


def _ahead(
    pool: ThreadPoolExecutor, binarizer: Binarizer, path: Path, *, limit: int
) -> Iterator[tuple[int, Items]]:
    """A file by stretches, in order: the bytes of each, and what they are binarized.

    At most `limit` of them are in work or waiting.
    """
    waiting: deque[tuple[int, Future[Items]]] = deque()
    with path.open("rb") as file:
        while content := file.read(STRETCH_BYTES):
            content += file.readline()
            if len(waiting) == limit:
                size, first = waiting.popleft()
                yield size, first.result()
            waiting.append((len(content), pool.submit(_binarize, binarizer, path, content)))
    for size, items in waiting:
        yield size, items.result()


def _binarize(binarizer: Binarizer, path: Path, content: bytes) -> Items:
    try:
        return binarizer.binarize(_lines(content))
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8", hint=AGAIN) from None


def _lines(content: bytes) -> list[bytes]:
    """The lines as Python's text files give them, without their ends."""
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _copy_labels(text: Path, output: Path, layout: Layout) -> None:
    for column in layout.copied:
        (output / column).mkdir()
        for split, name in layout.splits.items():
            shutil.copyfile(text / f"{split}.{column}", output / column / f"{name}.{column}")


def _check_unknown(summary: Summary, config: BinarizeConfig) -> None:
    unknown = summary.total.unknown
    tokens = summary.total.tokens - summary.total.lines
    if not unknown:
        return
    what = f"{unknown} of {tokens} tokens ({unknown / tokens:.2%}) are unknown to dict.txt"
    if unknown > config.max_unknown * tokens:
        raise DataError(
            f"{config.bpe}: {what}",
            hint="Use files that belong together, or accept more with --max-unknown",
        )
    log.warning("%s: %s", config.bpe, what)
