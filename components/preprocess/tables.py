"""Files with one question a row: which they are, which split each is of, and the rows in them.

JSON Lines, JSON (a list of objects, or what DREAM publishes), CSV as spreadsheets and programs
write it, and Parquet, as a Hugging Face data set has it. What a row says is read in
components.preprocess.rows.
"""

import csv
import io
import itertools
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from components.common import strict_json
from components.common.dataset import LEVELS, natural
from components.common.errors import DataError
from components.common.packed import is_table
from components.preprocess.source import Source

Fields = dict[str, Any]
# A row's number, and its cells by their columns, or else why it cannot be read.
Rows = Generator[tuple[int, Fields | str]]
Fits = Callable[[tuple[str, ...]], bool]

SPLITS = {"train": "train", "training": "train", "test": "test"}
SPLITS |= dict.fromkeys(("dev", "valid", "validation", "val"), "dev")

DELIMITERS = ";,\t"
# Characters in a cell; Python's own limit is 128 KiB.
LONGEST_CELL = 4 << 20
HEAD = 64 << 10
DEEPEST = 4  # folders


def find_tables(source: Source, folder: str = "", depth: int = DEEPEST) -> list[str]:
    """The tables in a folder and below, by the numbers in their names; hidden ones are left out.

    A JSON file that is not in a split's folder, where it would be a passage as RACE has them, is a
    table.
    """
    found = []
    for name, is_folder in sorted(source.entries(folder).items(), key=lambda e: natural(e[0])):
        path = f"{folder}/{name}" if folder else name
        # What Hugging Face's library writes beside tables.
        if name.startswith((".", "dataset_info")):
            continue
        if name.endswith(".json") and {"train", "dev", "test"} & {*folder.split("/")}:
            continue
        if is_folder and depth:
            found += find_tables(source, path, depth - 1)
        elif not is_folder and is_table(name):
            found.append(path)
    return found


def split_of(path: str) -> str:
    """The split that a file's name tells, or else a folder's that it is in; "" where none does.

    Raises:
        DataError: a name tells two.
    """
    for name in reversed(path.split("/")):
        words = re.findall(r"[a-z]+", name.casefold())
        found = sorted({SPLITS[word] for word in words if word in SPLITS})
        if len(found) > 1:
            raise DataError(
                f"{path}: its name says {' and '.join(found)}", hint="Name it after one split"
            )
        if found:
            return found[0]
    return ""


def levels_of(paths: list[str]) -> dict[str, str]:
    """The level of each file: the folder in which it differs from others, if that is no split.

    Of a data set that is there by levels and as a whole (the folder `all`), the levels are taken.
    """
    folders = {path: PurePosixPath(path).parent.parts for path in paths}
    together = zip(*folders.values(), strict=False)
    shared = len([*itertools.takewhile(lambda names: len(set(names)) == 1, together)])
    found = {}
    for path, parts in folders.items():
        if len(paths) == 1 or parts[-1:] not in [(level,) for level in LEVELS]:
            parts = parts[shared:]
        found[path] = "/".join(part for part in parts if not split_of(part))
    if "all" in found.values() and len(set(found.values())) > 1:
        found = {path: level for path, level in found.items() if level != "all"}
    return {path: "" if level == "all" else level for path, level in found.items()}


def read_rows(source: Source, path: str, fits: Fits) -> Rows:
    """The rows of a table.

    A row's number is that of a spreadsheet in a CSV file, where the header is row 1, that of the
    line in JSON Lines, and else that of the item, from 1.

    Args:
        fits: whether columns of these names are a question's, by which a CSV's delimiter is told.

    Raises:
        DataError: it is not of the format that its name ends with.
    """
    try:
        with source.open(path) as file:
            yield from _READERS[PurePosixPath(path).suffix.lower()](file, fits)
    except _Broken as error:
        raise DataError(f"{source.root / path}: {error}", hint=error.hint) from None
    except UnicodeDecodeError:
        hint = 'Save it as UTF-8 (spreadsheets call it "CSV UTF-8")'
        raise DataError(f"{source.root / path}: not UTF-8", hint=hint) from None


class _Broken(Exception):
    def __init__(self, what: str, hint: str = "Check the file") -> None:
        super().__init__(what)
        self.hint = hint


def _json_lines(file: IO[bytes], fits: Fits) -> Rows:
    for number, line in enumerate(file, start=1):
        if line.isspace():
            continue
        try:
            yield (
                number,
                _object(strict_json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))),
            )
        except UnicodeDecodeError as error:
            yield number, f"not UTF-8 at byte {error.start}"
        except ValueError as error:
            yield number, f"not JSON: {error}"


def _object(value: Any) -> Fields | str:
    return value if type(value) is dict else "not a JSON object"


def _json(file: IO[bytes], fits: Fits) -> Rows:
    if not file.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        file.seek(0)
        yield from _json_lines(file, fits)
        return
    file.seek(0)
    try:
        items = strict_json.loads(file.read().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise _Broken(f"not JSON: {error}") from None
    for number, item in enumerate(items, start=1):
        if type(item) is list:
            yield from ((number, fields) for fields in _dream(item))
        else:
            yield number, _object(item)


def _dream(item: list[Any]) -> Iterator[Fields | str]:
    """The questions of a dialogue of DREAM (Sun et al. 2019): [turns, questions, id]."""
    try:
        turns, questions, name = item
        for asked in questions:
            fields = {column: asked[column] for column in ("question", "choice", "answer")}
            yield {"article": turns, "id": name, **fields}
    except (KeyError, TypeError, ValueError):
        yield "not [turns, questions with question, choice and answer, id] as DREAM has it"


def _csv(file: IO[bytes], fits: Fits) -> Rows:
    if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
        raise _Broken("UTF-16", hint='Save it as UTF-8 (spreadsheets call it "CSV UTF-8")')
    file.seek(0)
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        yield from _records(text, fits)


def _records(text: IO[str], fits: Fits) -> Rows:
    head = text.read(HEAD)
    said = re.match(r"sep=(.)\r?\n", head)  # for spreadsheets, by spreadsheets
    text.seek(0)
    if said:
        head = head[said.end() :]
        text.readline()
    csv.field_size_limit(LONGEST_CELL)
    try:
        headers = {
            # Not strictly: what is no delimiter of the file's may stand after a quote.
            mark: tuple(map(str.strip, next(csv.reader(io.StringIO(head, ""), delimiter=mark), ())))
            for mark in (said[1] if said else DELIMITERS)
        }
        delimiter = max(headers, key=lambda mark: (fits(headers[mark]), len(headers[mark])))
        header = headers[delimiter]
        if not any(header):
            raise _Broken("its first row is empty", hint="Let its first row name the columns")
        if twice := next((name for name in header if name and header.count(name) > 1), None):
            raise _Broken(f"two columns are called {twice}", hint="Rename one of them")
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        rows = enumerate(reader, start=2 if said else 1)
        next(rows, None)
        for number, cells in rows:
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(header):
                if any(map(str.strip, cells)):
                    yield number, f"{len(cells)} cells where the header has {len(header)}"
            elif any(map(str.strip, cells)):
                yield (
                    number,
                    {n: c if c.strip() else None for n, c in zip(header, cells, strict=True)},
                )
    except csv.Error as error:
        raise _Broken(f"not CSV: {error}", hint="Check its quotes") from None


def _parquet(file: IO[bytes], fits: Fits) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise _Broken(
            "Parquet is read by pyarrow, which is not installed",
            hint="Run pip install 'race-pipeline[parquet]' (for images race images build --parquet)"
            ", or save it as JSON Lines or CSV",
        ) from None
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(1024):
            for fields in batch.to_pylist():
                number += 1
                yield number, fields
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's, and not pyarrow's own
            raise
        raise _Broken(f"not Parquet: {str(error).splitlines()[0].rstrip('.')}") from None


_READERS: dict[str, Callable[[IO[bytes], Fits], Rows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
