"""Encode text columns with GPT-2's BPE, in fairseq's binary format:

python -m components.binarize --text text --bpe gpt2_bpe --output data-bin
"""

from collections.abc import Sequence

from components.binarize.core import BinarizeConfig, Summary, binarize
from components.common.cli import parse, parser, run_step
from components.common.remote import at_hand
from components.common.text import columns


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(
        BinarizeConfig,
        prog="python -m components.binarize",
        description="""
            Encode the text columns with GPT-2's byte-level BPE and write input0/ to input4/, each
            with dict.txt and {train,valid,test,test1}.{bin,idx}, and label/ and id/. test is RACE's
            test-middle, test1 its test-high; splits.json says so. Other numbers of options and
            other test sets are taken from the text columns.
        """,
        epilog="""
            example: python -m components.binarize --text text --bpe gpt2_bpe --output data-bin
        """,
    )
    with at_hand(parse(BinarizeConfig, arguments, argv)) as config:
        summary = binarize(config)
    print(table(summary))


def table(summary: Summary) -> str:
    """Questions and tokens by split, passages and options apart."""
    rows = [("split", "questions", "passage tokens", "question and option tokens", "unknown")]
    passages = summary.counts["input0"]
    options = [splits for column, splits in summary.counts.items() if column != "input0"]
    for split, passage in passages.items():
        asked = [splits[split] for splits in options]
        unknown = passage.unknown + sum(count.unknown for count in asked)
        cells = (passage.lines, passage.tokens, sum(count.tokens for count in asked), unknown)
        rows.append((split, *(f"{cell:,}" for cell in cells)))  # type: ignore[arg-type]
    return "\n".join(columns(rows))


if __name__ == "__main__":
    raise SystemExit(run_step(main))
