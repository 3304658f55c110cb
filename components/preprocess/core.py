"""RACE's JSON files to the text columns that the binarize step reads.

For each of train, dev, test-middle and test-high: {split}.input0 (the passage), {split}.input1 to
{split}.input4 (the question with option A to D), {split}.label (0 to 3) and {split}.id, one line a
question. Data sets in RACE's format may have other numbers of options, and other levels or none,
see components.common.dataset.
All but the id, which is ours, are byte-identical to what fairseq's
examples/roberta/preprocess_RACE.py writes for the same order of files. The script takes the order
that the file system gives; here it is fixed: middle before high, files by the numbers in their
names, questions as in the file.

Beside them, for the splits that people look at (all but train), {split}.question has the questions
as they were asked: each line a JSON list of the question, its blanks as underscores, and its
options. Where questions differ in their number of options, {split}.options has it, and the columns
of options that a question lacks have an empty line.

Tables with one question a row are read as well, see components.preprocess.rows.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from components.common import strict_json
from components.common.cli import option
from components.common.dataset import (
    COUNTS,
    LETTERS,
    LEVELS,
    OPTIONS,
    copy_origin,
    in_order,
    natural,
    split_of,
)
from components.common.errors import ConfigError, DataError
from components.common.executor import Outcome
from components.common.files import atomic_folder
from components.common.packed import is_table
from components.common.progress import bar
from components.common.text import columns
from components.preprocess.columns import HELP_COLUMNS, Columns
from components.preprocess.passage import InvalidPassage, Passage, decode, lines, parse
from components.preprocess.rows import (
    HELP_ANSWERS,
    HELP_SPLIT,
    Answers,
    Row,
    read_tables,
    shares_of,
)
from components.preprocess.source import Source, open_source

log = logging.getLogger(__name__)

# What input1 to input4 put together.
ASKED = "question"
FOLDERS = ("train", "dev", "test")
# Bytes of a column that are written at a time.
BUFFER = 1 << 20
# Files of each part that are looked at for their number of options.
FIRST = 16
SUMMARY_FILE = "summary.json"


class Part(NamedTuple):
    """The passages of one level in one split; `folder` is where RACE keeps the split.

    `level` is empty in a data set without levels.
    """

    folder: str
    level: str

    @property
    def split(self) -> str:
        """What it is called in text columns."""
        return split_of(self.level) if self.folder == "test" else self.folder

    @property
    def path(self) -> str:
        """Of its files below the data set's folder."""
        return f"{self.folder}/{self.level}" if self.level else self.folder

    def columns(self, options: int, equal: bool = True) -> tuple[str, ...]:
        inputs = tuple(f"input{column}" for column in range(options + 1))
        more = [*([] if self.folder == "train" else [ASKED]), *([] if equal else [COUNTS])]
        return (*inputs, "label", "id", *more)


def parts(levels: Collection[str]) -> tuple[Part, ...]:
    """The parts of a data set with these levels, in the order of its questions."""
    return tuple(Part(folder, level) for folder in FOLDERS for level in in_order(levels))


# RACE's.
PARTS = parts(LEVELS)


@dataclass(frozen=True)
class Count:
    passages: int
    questions: int

    def __add__(self, other: "Count") -> "Count":
        return Count(self.passages + other.passages, self.questions + other.questions)


# Lai et al. 2017, table 2.
OFFICIAL = dict(
    zip(
        PARTS,
        (
            Count(6_409, 25_421),
            Count(18_728, 62_445),
            Count(368, 1_436),
            Count(1_021, 3_451),
            Count(362, 1_436),
            Count(1_045, 3_498),
        ),
        strict=True,
    )
)


@dataclass(frozen=True)
class Invalid:
    """A file that was left out: its path below the RACE folder, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Summary:
    """Passages and questions by part of the data, and the files that were left out."""

    counts: dict[Part, Count]
    skipped: tuple[Invalid, ...]

    @property
    def outcome(self) -> Outcome:
        by_part = {part.path.replace("/", "_"): count for part, count in self.counts.items()}
        total = sum(self.counts.values(), Count(0, 0))
        return Outcome(
            {f"{name}_questions": count.questions for name, count in by_part.items()}
            | {"questions": total.questions, "passages": total.passages}
            | {"skipped_files": len(self.skipped)}
        )

    def table(self) -> str:
        """Counts by split and level, beside those of the published data set where it has such."""
        rows: list[tuple[str, ...]] = [
            ("split", "level", "passages", "of RACE's", "questions", "of RACE's")
        ]
        for part, count in self.counts.items():
            rows.append((part.split, part.level, *_cells(count, OFFICIAL.get(part))))
        totals = [sum(counts.values(), Count(0, 0)) for counts in (self.counts, OFFICIAL)]
        rows.append(("all", "", *_cells(*totals)))
        if not self.counts.keys() & OFFICIAL.keys():
            rows = [(row[0], row[1], row[2], row[4]) for row in rows]
        texts = columns(rows, left=2)
        if self.skipped:
            texts += ["", f"{len(self.skipped)} invalid files or rows were skipped:"]
            texts += [f"  {invalid.file}: {invalid.reason}" for invalid in self.skipped]
        return "\n".join(texts)


def _cells(count: Count, official: Count | None) -> tuple[str, str, str, str]:
    return (
        f"{count.passages:,}",
        f"{official.passages:,}" if official else "",
        f"{count.questions:,}",
        f"{official.questions:,}" if official else "",
    )


@dataclass(frozen=True)
class PreprocessConfig:
    """The data set, and how it is read.

    Raises:
        ConfigError: a value is out of its range.
    """

    race: Path = option(
        help="folder that holds RACE's train, dev and test (or RACE/ with them) or tables of"
        " questions, their content.zip, or one table"
    )
    output: Path = option(help="new folder for the text columns")
    options: int = option(0, help="options of each question; 0 is as many as the data have")
    invalid: Literal["stop", "skip"] = option(
        "stop", help="at an invalid file or row: stop there, or skip such and list them"
    )
    columns: str = option("", help=HELP_COLUMNS)
    answers: Answers = option("auto", help=HELP_ANSWERS)
    split: str = option("", help=HELP_SPLIT)

    def __post_init__(self) -> None:
        if self.options and not 2 <= self.options <= len(LETTERS):
            raise ConfigError(
                f"options is {self.options}", hint=f"Use a number from 2 to {len(LETTERS)}, or 0"
            )
        Columns(self.columns)
        if self.split:
            shares_of(self.split)


def preprocess(config: PreprocessConfig) -> Summary:
    """Write the columns and summary.json to `config.output`.

    Raises:
        DataError: a folder of a split is missing, or a file is invalid and these are not skipped.
        OSError: the output cannot be written, or is there already.
    """
    with open_source(config.race) as source:
        return _preprocess(source, config)


class Item(NamedTuple):
    """A passage that is still to be read: where it is below the source's root, and its ids."""

    path: str
    passage: Callable[[], Passage]
    ids: Callable[[int], Sequence[str]]


@dataclass(frozen=True)
class Data:
    """A data set that is open. Where not all questions have `options`, they are not `equal`."""

    items: dict[Part, list[Item]]
    options: int
    equal: bool = True
    skipped: tuple[Invalid, ...] = ()
    root: str = ""  # in front of the splits' names


def _preprocess(source: Source, config: PreprocessConfig) -> Summary:
    data = _open_tables(source, config) or _open_tree(source, config)
    counts: dict[Part, Count] = {}
    skipped = [*data.skipped]

    def skip(item: Item, error: InvalidPassage) -> None:
        where = source.root / item.path
        if config.invalid == "stop":
            hint = "Correct the file, or preprocess with --invalid skip"
            raise DataError(f"{where}: {error}", hint=hint) from None
        log.warning("skipped %s: %s", where, error)
        skipped.append(Invalid(item.path.removeprefix(data.root), str(error)))

    with (
        atomic_folder(config.output) as output,
        bar(total=sum(map(len, data.items.values())), what="passages", unit="file") as progress,
    ):
        for part in data.items:
            counts[part] = _write_part(output, part, data, skip, progress)
            if not counts[part].questions:
                log.warning("%s: no question at all", part.path)
        summary = Summary(counts, tuple(skipped))
        strict_json.write(output / SUMMARY_FILE, _as_json(summary))
        copy_origin(config.race, output)
    return summary


def _write_part(
    output: Path,
    part: Part,
    data: Data,
    skip: Callable[[Item, InvalidPassage], None],
    progress: Any,
) -> Count:
    columns = part.columns(data.options, data.equal)
    passages = questions = 0
    with ExitStack() as stack:
        # The second level of a split goes after the first.
        names = [output / f"{part.split}.{column}" for column in columns]
        files = [stack.enter_context(name.open("ab", BUFFER)) for name in names]
        for item in data.items[part]:
            progress.update()
            try:
                passage = item.passage()
                found = lines(passage, data.options)
            except InvalidPassage as error:
                skip(item, error)
                continue
            ids = "".join([f"{name}\n" for name in item.ids(found.questions)])
            more = [_asked(passage)] if ASKED in columns else []
            if COUNTS in columns:
                more.append("".join(f"{len(options)}\n" for options in passage.options).encode())
            contents = (*found.inputs, found.labels, ids.encode(), *more)
            for file, content in zip(files, contents, strict=True):
                file.write(content)
            passages += 1
            questions += found.questions
    return Count(passages, questions)


def _open_tables(source: Source, config: PreprocessConfig) -> Data | None:
    """A data set of tables; None where it has none, or is a tree of passages as RACE is."""
    if _is_tree(source):
        return None
    table = read_tables(
        source,
        columns=config.columns,
        answers=config.answers,
        split=config.split,
        options=config.options,
        skip=config.invalid == "skip",
    )
    if table is None:
        return None
    items = {
        part: [
            Item(rows[0].where, partial(table.passage, article, rows), partial(_ids, rows))
            for article, rows in table.groups[part].items()
        ]
        for part in parts({level for _, level in table.groups})
        if part in table.groups
    }
    numbers = {len(row.options) for row in table.rows()}
    skipped = tuple(Invalid(*one) for one in table.skipped)
    return Data(items, max(numbers), len(numbers) == 1, skipped)


def _is_tree(source: Source) -> bool:
    """Whether there is a folder train, there or one below, whose first file is no table."""
    inside = [f"{name}/" for name, is_folder in source.entries("").items() if is_folder]
    for root in ("", *sorted(inside)):
        folder = f"{root}train"
        while any(source.entries(folder).values()):
            folder += "/" + min(n for n, is_folder in source.entries(folder).items() if is_folder)
        files = [name for name in source.entries(folder) if not name.startswith(".")]
        if files:
            return not is_table(min(files)) or min(files).endswith(".json")
    return False


def _ids(rows: Sequence[Row], questions: int) -> list[str]:
    return [row.id for row in rows]


def _open_tree(source: Source, config: PreprocessConfig) -> Data:
    root = _find_splits(source)
    levels = _find_levels(source, root)
    files = {part: _list_files(source, root + part.path) for part in parts(levels)}
    options = config.options or _count_options(source, files)

    def item(part: Part, path: str) -> Item:
        base = path.rpartition("/")[2]
        name = f"{part.level}/{base}" if part.level else base
        return Item(
            path,
            lambda: parse(source.read(path), options),
            lambda questions: [f"{name}#{i}" for i in range(questions)],
        )

    items = {part: [item(part, path) for path in paths] for part, paths in files.items()}
    return Data(items, options, root=root)


def _count_options(source: Source, files: dict[Part, list[str]]) -> int:
    """The options that most questions at the beginning of a data set have."""
    counts: Counter[int] = Counter()
    for path in [path for paths in files.values() for path in paths[:FIRST]]:
        try:
            options = decode(source.read(path))["options"]
            counts.update(len(o) for o in options if 2 <= len(o) <= len(LETTERS))
        except (InvalidPassage, KeyError, TypeError):
            continue  # it is refused when its turn comes
    return max(counts, key=lambda n: counts[n], default=OPTIONS)


def _asked(passage: Passage) -> bytes:
    rows = zip(passage.questions, passage.options, strict=True)
    lines = [strict_json.dumps([question, *options]) for question, options in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def _find_splits(source: Source) -> str:
    """What is in front of the splits' names: nothing, or the first folder with splits and a "/"."""
    inside = sorted(name for name, is_folder in source.entries("").items() if is_folder)
    for root in ("", *(f"{name}/" for name in inside)):
        found = source.entries(root.rstrip("/"))
        if any(found.get(folder) for folder in FOLDERS):
            break
    else:
        raise DataError(
            f"{source.root}: no RACE data here, and no table of questions",
            hint=f"It should hold the folders {', '.join(FOLDERS)}, or .jsonl, .json, .csv, .tsv or"
            " .parquet files",
        )
    for folder in FOLDERS:
        if not found.get(folder):
            raise _missing(source, root, folder)
    return root


def _find_levels(source: Source, root: str) -> list[str]:
    """The levels of a data set, the same in each split: the names of the folders in it."""
    levels: dict[str, set[str]] = {}
    for folder in FOLDERS:
        found = source.entries(root + folder)
        entries = [name for name in found if not name.startswith(".")]
        levels[folder] = {name for name in entries if found[name]}
        if levels[folder] and len(levels[folder]) < len(entries):
            raise DataError(
                f"{source.root / root / folder}: holds files beside the folders of its levels",
                hint="Put the files into those folders, or take the folders away",
            )
    every = in_order(set().union(*levels.values()))
    for folder in FOLDERS:
        for level in every:
            # A level becomes part of ids and of file names.
            if not level.isprintable():
                where = source.root / root / folder
                raise DataError(f"{where}: the level {level!a} cannot be part of an id")
            if level not in levels[folder]:
                raise _missing(source, root, f"{folder}/{level}")
    return every or [""]


def _missing(source: Source, root: str, folder: str) -> DataError:
    return DataError(
        f"{source.root / root}: the folder {folder} is missing",
        hint="Download RACE.tar.gz again: it may be incomplete",
    )


def _list_files(source: Source, folder: str) -> list[str]:
    """The paths of a folder's files by the numbers in their names, hidden ones left out."""
    names = [name for name in source.entries(folder) if not name.startswith(".")]
    for name in names:
        # A name becomes part of an id, one a line.
        if not name.isprintable():
            where = source.root / folder
            raise DataError(f"{where}: the file name {name!a} cannot be part of an id")
    names.sort(key=natural)
    return [f"{folder}/{name}" for name in names]


def _as_json(summary: Summary) -> dict[str, Any]:
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for part, count in summary.counts.items():
        counts.setdefault(part.split, {})[part.level] = asdict(count)
    skipped = [asdict(invalid) for invalid in summary.skipped]
    return {"counts": counts, "skipped": skipped}
