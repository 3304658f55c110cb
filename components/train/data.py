"""What training and evaluation must know of a binarized data set before fairseq opens it."""

from pathlib import Path

from components.common.dataset import count_options, read_counts
from components.common.errors import DataError
from components.common.files import plain
from components.common.indexed import read_sizes, read_tokens

# fairseq.data.Dictionary's <s>, <pad>, </s>, <unk>, and the <mask> that sentence_ranking adds.
_SPECIAL_SYMBOLS = 5


def vocabulary_size(data: Path) -> int:
    """Rows of the embedding that a model for this data set has.

    Raises:
        DataError: there is no dictionary.
    """
    dictionary = data / "input0" / "dict.txt"
    try:
        # fairseq pads the dictionary with madeupword entries in some files; they count like others.
        return len(plain(dictionary).read_bytes().splitlines()) + _SPECIAL_SYMBOLS
    except OSError:
        raise DataError(f"{dictionary}: missing", hint="Run binarize first") from None


def read_labels(data: Path, split: str, options: int) -> list[int]:
    """The right options, 0-based, of a split's questions in file order, checked against its texts.

    Args:
        options: answers to choose from in each question.

    Raises:
        DataError: a file is missing or damaged, the files do not hold the same number of questions,
            or a label is no option.
    """
    path = data / "label" / f"{split}.label"
    lines = _lines(path)
    labels = []
    for number, line in enumerate(lines, start=1):
        if not line.strip().isdecimal() or int(line) >= options:
            raise DataError(
                f"{path}, line {number}: {line.strip()[:20]!r} is not one of the {options} options"
                f" (0 to {options - 1})",
                hint="Binarize again: the options of a data set belong together",
            )
        labels.append(int(line))
    if not labels:
        raise DataError(f"{path}: holds no question", hint="Check the data set")
    counts = read_counts(data, split, len(labels))
    if counts and any(label >= count for label, count in zip(labels, counts, strict=True)):
        raise DataError(f"{path}: a label is none of its question's options", hint="Binarize again")
    for column in range(options + 1):
        index = data / f"input{column}" / f"{split}.idx"
        if not index.with_suffix(".bin").is_file():
            raise DataError(f"{index.with_suffix('.bin')}: missing", hint="Run binarize first")
        try:
            count = len(read_sizes(plain(index).with_suffix("")))
        except OSError:
            raise DataError(f"{index}: missing", hint="Run binarize first") from None
        except ValueError:
            what = f"{index}: not an index of fairseq's mmap format, or damaged"
            raise DataError(what, hint="Binarize again") from None
        if count != len(labels):
            raise DataError(
                f"{index} holds {count} sequences, but {path} holds {len(labels)} labels",
                hint="Binarize again: the files of a split belong together",
            )
    return labels


def require_tokens(data: Path, split: str) -> None:
    """Refuse texts with an index that the dictionary does not have; reads all of them.

    Raises:
        DataError: there is one, or a file is damaged.
    """
    known = vocabulary_size(data)
    for column in range(count_options(data) + 1):
        prefix = data / f"input{column}" / split
        try:
            tokens = read_tokens(prefix)
        except ValueError:
            raise DataError(f"{prefix}.bin: damaged", hint="Binarize again") from None
        for index in (int(tokens.min()), int(tokens.max())):
            if not 0 <= index < known:
                raise DataError(
                    f"{prefix}.bin: holds a token of index {index}, but {data / 'input0'}/dict.txt"
                    f" makes {known} tokens",
                    hint="Binarize again: data and dictionary belong together",
                )


def read_ids(data: Path, split: str, questions: int) -> list[str]:
    """A name for each question of a split in file order; `test#0`, `test#1`... where there is none.

    Raises:
        DataError: the file of names does not hold as many as there are questions.
    """
    path = data / "id" / f"{split}.id"
    if not path.is_file():
        return [f"{split}#{number}" for number in range(questions)]
    ids = [line.strip() for line in _lines(path)]
    if len(ids) != questions:
        raise DataError(
            f"{path} holds {len(ids)} names for {questions} questions", hint="Binarize again"
        )
    return ids


def _lines(path: Path) -> list[str]:
    try:
        return plain(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise DataError(f"{path}: missing", hint="Run binarize first") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file", hint="Binarize again") from None
