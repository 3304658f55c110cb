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
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.binarize.bpe import Encoder, read_bpe
from components.binarize.indexed import Tokens, Writer, token_type
from components.binarize.report import write_report
from components.common import strict_json
from components.common.cli import option
from components.common.dataset import (
    COUNTS,
    LEVELS,
    OPTIONS,
    SPLITS_FILE,
    copy_origin,
    fairseq_splits,
)
from components.common.dictionary import END_OF_SENTENCE, UNKNOWN, Dictionary
from components.common.errors import ConfigError, DataError
from components.common.executor import Outcome
from components.common.files import atomic_folder
from components.common.progress import bar
from components.common.text import columns

log = logging.getLogger(__name__)

# What is encoded at a time: enough to make a call's own cost small, little enough to stay in a
# core's cache.
STRETCH_BYTES = 1 << 20
# The encoder takes one text at a time, and Python runs one thread at a time: more would only wait.
MOST_WORKERS = 4
# The white space that Python strips from text, as far as it is ASCII.
ASCII_SPACE = bytes(code for code in range(128) if chr(code).isspace())


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
    def outcome(self) -> Outcome:
        files = [file for splits in self.counts.values() for file in splits.values()]
        tokens, unknown = sum(f.tokens for f in files), sum(f.unknown for f in files)
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


@dataclass(frozen=True)
class Layout:
    """What a folder of text columns holds: our name for each split with fairseq's, and options.

    Where questions have different numbers of them, it is the most, and they are not `equal`.
    """

    splits: dict[str, str]
    options: int
    equal: bool = True

    @property
    def copied(self) -> tuple[str, ...]:
        return ("label", "id") if self.equal else ("label", "id", COUNTS)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(f"input{column}" for column in range(self.options + 1))


@dataclass(frozen=True)
class Stretch:
    """Whole lines of a text file: its bytes from `start` to `end`."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class Items:
    """Binarized lines: all tokens one after the other, and the number of tokens of each line."""

    tokens: Tokens
    sizes: NDArray[np.int32]

    def count(self) -> Count:
        unknown = int(np.count_nonzero(self.tokens == UNKNOWN))
        return Count(len(self.sizes), len(self.tokens), unknown)


def binarize(config: BinarizeConfig) -> Summary:
    """Write the data to `config.output`.

    Raises:
        DataError: a column is missing, columns of a split differ in length, a label is no option,
            text is not UTF-8, a vocabulary file is not what it should be, or more than
            `max_unknown` of the tokens are unknown to the dictionary.
        OSError: the output cannot be written, or is there already.
    """
    layout = _layout(config.text)
    splits = layout.splits
    questions = {split: _check_columns(config.text, split, layout) for split in splits}
    bpe = read_bpe(config.bpe)
    if not config.max_unknown:
        bpe.require_complete()
    dictionary = bpe.dictionary
    binarizer = Binarizer(bpe.encoder, dictionary)
    workers = config.workers or min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    stretches = {
        (column, split): list(_stretches(config.text / f"{split}.{column}"))
        for column in layout.inputs
        for split in splits
    }
    in_order = [stretch for file in stretches.values() for stretch in file]
    counts: dict[str, dict[str, Count]] = {column: {} for column in layout.inputs}
    with (
        atomic_folder(config.output) as output,
        bar(total=sum(s.end - s.start for s in in_order), what="text", bytes=True) as progress,
        ThreadPoolExecutor(workers, thread_name_prefix="binarize") as pool,
    ):
        strict_json.write(output / SPLITS_FILE, splits)
        bpe.vocabulary.write(output)
        _copy_labels(config.text, output, layout)
        results = _ahead(pool, binarizer, in_order, limit=2 * workers)
        for column in layout.inputs:
            (output / column).mkdir()
            (output / column / "dict.txt").write_text(dictionary.text(), encoding="utf-8")
        for (column, split), file in stretches.items():
            count = Count(0, 0, 0)
            with Writer(output / column / splits[split], binarizer.kind) as writer:
                for stretch, items in zip(file, results, strict=False):
                    writer.write(items.tokens, items.sizes)
                    count += items.count()
                    progress.update(stretch.end - stretch.start)
            if count.lines != questions[split]:
                raise DataError(
                    f"{config.text / split}.{column} has {count.lines} lines, and {split}.label "
                    f"has {questions[split]}",
                    hint="Run components.preprocess again",
                )
            counts[column][splits[split]] = count
        _check_unknown(counts, config)
        files = [count for splits in counts.values() for count in splits.values()]
        report = write_report(
            config.text,
            output,
            tokens=sum(count.tokens for count in files),
            unknown=sum(count.unknown for count in files),
        )
        (output / "report.html").write_text(report, encoding="utf-8")
        copy_origin(config.text, output)
    return Summary(counts, len(dictionary))


class Binarizer:
    """Turns text into the dictionary's indices. Threads may share one."""

    def __init__(self, encoder: Encoder, dictionary: Dictionary) -> None:
        self.kind = token_type(len(dictionary))
        self._encoder = encoder
        ids = encoder.pieces.values()
        self._table = np.full(max(ids) + 1, UNKNOWN, self.kind)
        for i in ids:
            self._table[i] = dictionary.indices.get(str(i), UNKNOWN)
        # Between lines only: no line holds one.
        self._table[encoder.newline] = END_OF_SENTENCE

    def binarize(self, lines: list[bytes]) -> Items:
        """The tokens of lines of UTF-8, as if they were stripped, and the end of each.

        Raises:
            UnicodeDecodeError: a line is not UTF-8.
        """
        distinct = {line: _strip(line) for line in dict.fromkeys(lines)}
        texts = [text for text in distinct.values() if text]
        ids = self._encoder.encode(texts)
        tokens = self._table.take(ids)
        ends = np.flatnonzero(ids == self._encoder.newline) + 1
        assert len(ends) == len(texts)
        if len(texts) == len(lines):
            return Items(tokens, np.diff(ends, prepend=0).astype(np.int32))
        found = dict(zip(texts, np.split(tokens, ends), strict=False))
        found[b""] = np.array([END_OF_SENTENCE], self.kind)
        repeated = [found[distinct[line]] for line in lines]
        sizes = np.fromiter(map(len, repeated), np.int32, len(repeated))
        return Items(np.concatenate(repeated), sizes)


def _strip(line: bytes) -> bytes:
    """What is left of a line of UTF-8 when Python strips it as text."""
    return line.strip(ASCII_SPACE) if line.isascii() else line.decode().strip().encode()


def _ahead(
    pool: ThreadPoolExecutor, binarizer: Binarizer, stretches: Iterable[Stretch], *, limit: int
) -> Iterator[Items]:
    """The stretches binarized, in order, at most `limit` of them in work or waiting."""
    waiting: deque[Future[Items]] = deque()
    for stretch in stretches:
        if len(waiting) == limit:
            yield waiting.popleft().result()
        waiting.append(pool.submit(_binarize, binarizer, stretch))
    while waiting:
        yield waiting.popleft().result()


def _binarize(binarizer: Binarizer, stretch: Stretch) -> Items:
    try:
        return binarizer.binarize(_read_lines(stretch))
    except UnicodeDecodeError:
        raise DataError(
            f"{stretch.path}: not UTF-8", hint="Run components.preprocess again"
        ) from None


def _stretches(path: Path) -> Iterator[Stretch]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = 0
        while start < size:
            file.seek(start + STRETCH_BYTES)
            file.readline()
            end = min(file.tell(), size)
            yield Stretch(path, start, end)
            start = end


def _read_lines(stretch: Stretch) -> list[bytes]:
    """The lines as Python's text files give them, without their ends."""
    with stretch.path.open("rb") as file:
        file.seek(stretch.start)
        content = file.read(stretch.end - stretch.start)
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _layout(text: Path) -> Layout:
    """What the names of the files tell; RACE's own where they tell nothing."""
    names = os.listdir(text) if text.is_dir() else []
    inputs = [re.fullmatch(r".+\.input(\d+)", name) for name in names]
    options = max((int(found[1]) for found in inputs if found), default=OPTIONS)
    tests = [re.fullmatch(r"test(?:-(.+))?\.(?:input\d+|label|id)", name) for name in names]
    levels = {found[1] or "" for found in tests if found}
    equal = not any(name.endswith(f".{COUNTS}") for name in names)
    return Layout(fairseq_splits(levels or LEVELS), options, equal)


def _check_columns(text: Path, split: str, layout: Layout) -> int:
    """The number of questions in a split, by its labels, which are checked with the ids."""
    for column in (*layout.inputs, *layout.copied):
        if not (text / f"{split}.{column}").is_file():
            raise DataError(
                f"{text}: {split}.{column} is missing", hint="Run components.preprocess first"
            )
    allowed = [b"%d" % label for label in range(layout.options)]
    numbers = [b"%d" % number for number in range(2, layout.options + 1)]
    labels = (text / f"{split}.label").read_bytes().splitlines()
    for number, label in enumerate(labels, start=1):
        if label not in allowed:
            raise DataError(
                f"{text / split}.label: line {number} is {label!r:.20}, not one of the"
                f" {layout.options} options (0 to {layout.options - 1})",
                hint="Run components.preprocess again",
            )
    if not layout.equal:
        counts = (text / f"{split}.{COUNTS}").read_bytes().splitlines()
        if len(counts) != len(labels) or not all(
            count in numbers and int(label) < int(count)
            for count, label in zip(counts, labels, strict=True)
        ):
            raise DataError(
                f"{text / split}.{COUNTS}: not the questions' numbers of options",
                hint="Run components.preprocess again",
            )
    ids = (text / f"{split}.id").read_bytes().count(b"\n")
    if ids != len(labels):
        raise DataError(
            f"{text / split}.label has {len(labels)} lines, and {split}.id has {ids}",
            hint="Run components.preprocess again",
        )
    if not labels:
        log.warning("%s has no question: fairseq cannot read the empty files it makes", split)
    return len(labels)


def _copy_labels(text: Path, output: Path, layout: Layout) -> None:
    for column in layout.copied:
        (output / column).mkdir()
        for split, name in layout.splits.items():
            shutil.copyfile(text / f"{split}.{column}", output / column / f"{name}.{column}")


def _check_unknown(counts: dict[str, dict[str, Count]], config: BinarizeConfig) -> None:
    files = [count for splits in counts.values() for count in splits.values()]
    unknown = sum(count.unknown for count in files)
    tokens = sum(count.tokens - count.lines for count in files)
    if not unknown:
        return
    what = f"{unknown} of {tokens} tokens ({unknown / tokens:.2%}) are unknown to dict.txt"
    if unknown > config.max_unknown * tokens:
        raise DataError(
            f"{config.bpe}: {what}",
            hint="Use files that belong together, or accept more with --max-unknown",
        )
    log.warning("%s: %s", config.bpe, what)
