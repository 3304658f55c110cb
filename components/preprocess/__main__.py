"""Turn RACE's JSON files into text columns:

python -m components.preprocess --race RACE --output text
"""

from collections.abc import Sequence

from components.common.cli import parse, parser, run_step
from components.common.remote import at_hand
from components.common.text import columns
from components.preprocess.core import (
    OFFICIAL,
    Count,
    PreprocessConfig,
    Summary,
    preprocess,
)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(
        PreprocessConfig,
        prog="python -m components.preprocess",
        description="""
            Check every file of RACE and write, for train, dev, test-middle and test-high,
            {split}.input0 (the passage), .input1 to .input4 (the question with option A to D),
            .label and .id, one line a question. Exams in RACE's format with other numbers of
            options, other levels (the folders in train, dev and test) or none are read as well.
        """,
        epilog="example: python -m components.preprocess --race RACE --output text",
    )
    with at_hand(parse(PreprocessConfig, arguments, argv)) as config:
        summary = preprocess(config)
    print(table(summary))


def table(summary: Summary) -> str:
    """Counts by split and level, beside those of the published data set where it has such."""
    rows: list[tuple[str, ...]] = [
        ("split", "level", "passages", "of RACE's", "questions", "of RACE's")
    ]
    for part, count in summary.counts.items():
        rows.append((part.split, part.level, *_cells(count, OFFICIAL.get(part))))
    totals = [sum(counts.values(), Count(0, 0)) for counts in (summary.counts, OFFICIAL)]
    rows.append(("all", "", *_cells(*totals)))
    if not summary.counts.keys() & OFFICIAL.keys():
        rows = [(row[0], row[1], row[2], row[4]) for row in rows]
    texts = columns(rows, left=2)
    if summary.skipped:
        texts += ["", f"{len(summary.skipped)} invalid files were skipped:"]
        texts += [f"  {invalid.file}: {invalid.reason}" for invalid in summary.skipped]
    return "\n".join(texts)


def _cells(count: Count, official: Count | None) -> tuple[str, str, str, str]:
    return (
        f"{count.passages:,}",
        f"{official.passages:,}" if official else "",
        f"{count.questions:,}",
        f"{official.questions:,}" if official else "",
    )


if __name__ == "__main__":
    raise SystemExit(run_step(main))
