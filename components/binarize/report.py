"""The data as a page: are they RACE, whole, and how much of them does a model get to see?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.common import strict_json
from components.common.asked import read_asked, read_passages
from components.common.dataset import level_of, read_test_sets
from components.common.errors import DataError
from components.common.lengths import OPTION_TOKENS, TOKENS, Lengths, lengths
from components.common.report.page import fixed, percent, render, share, signed
from components.preprocess.core import ASKED, OFFICIAL, SUMMARY_FILE, Count, Part

BINS = 32
LONGEST = 2 * TOKENS  # longer sequences are in the last bin
SKIPPED = 200


def write_report(text: Path, data: Path, *, tokens: int, unknown: int) -> str:
    """The page.

    Args:
        text: the folder that preprocess wrote.
        data: the folder that binarize wrote.
        tokens, unknown: of all files together, in the dictionary's terms.
    """
    counts, skipped = _summary(text)
    tests = read_test_sets(data)
    names = {"train": "train", "valid": "dev"}
    names |= {name: "test" if s == "test" else f"test, {level_of(s)}" for name, s in tests.items()}
    splits = {name: lengths(data, split) for split, name in names.items()}
    whole = np.concatenate([found.whole for found in splits.values()])
    options = len(list(data.glob("input[0-9]*"))) - 1
    return render(
        "components/binarize/templates/data.html",
        questions=len(whole),
        cut=Lengths(whole, whole).cut,
        questions_cut=int(Lengths(whole, whole).questions_cut.sum()),
        lost=Lengths(whole, whole).lost,
        tokens=tokens,
        unknown=unknown,
        option_tokens=OPTION_TOKENS,
        most_tokens=TOKENS,
        longest=LONGEST,
        official=counts == OFFICIAL,
        counts=_count_rows(counts) if counts else [],
        passages=sum(count.passages for count in counts.values()),
        lengths=[_length_row(name, one) for name, one in splits.items() if one.whole.size],
        histograms=[_histogram(name, one) for name, one in splits.items() if one.whole.size],
        options=options,
        labels=[_label_row(data, split, name, options) for split, name in names.items()],
        examples=[example for split in tests.values() for example in _examples(text, split)],
        skipped=skipped[:SKIPPED],
        more_skipped=max(len(skipped) - SKIPPED, 0),
        summary_file=SUMMARY_FILE,
    )


def _summary(text: Path) -> tuple[dict[Part, Count], list[tuple[str, str]]]:
    """What preprocess counted and skipped; nothing where its summary is not there."""
    try:
        summary = strict_json.read(text / SUMMARY_FILE)
        counts = {
            Part(split.partition("-")[0], level): Count(**count)
            for split, levels in summary["counts"].items()
            for level, count in levels.items()
        }
        skipped = [(str(s["file"]), str(s["reason"])) for s in summary["skipped"]]
    except FileNotFoundError:
        return {}, []
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(
            f"{text / SUMMARY_FILE}: not what preprocess writes",
            hint="Run components.preprocess again",
        ) from None
    return counts, skipped


@dataclass(frozen=True)
class CountRow:
    """Passages and questions of a part beside the published ones, where there are any."""

    split: str
    level: str
    count: Count
    published: Count | None

    @property
    def difference(self) -> str:
        if self.published is None:
            return "–"
        difference = self.count.questions - self.published.questions
        return signed(difference) if difference else "✓"


def _count_rows(counts: Mapping[Part, Count]) -> list[CountRow]:
    """A row for each part, and one for all."""
    rows = [CountRow(p.folder, p.level, count, OFFICIAL.get(p)) for p, count in counts.items()]
    published = sum((row.published for row in rows if row.published), Count(0, 0))
    every = sum(counts.values(), Count(0, 0))
    return [*rows, CountRow("all", "", every, published if published.questions else None)]


def _length_row(split: str, found: Lengths) -> list[str]:
    sizes = found.sequences
    return [
        split,
        fixed(sizes.size),
        *(f"{value:.0f}" for value in (sizes.mean(), np.median(sizes), np.quantile(sizes, 0.95))),
        fixed(int(sizes.max())),
        *map(share, (found.cut, found.lost, found.options_cut)),
    ]


def _histogram(split: str, found: Lengths) -> dict[str, Any]:
    """What the chart of a split's lengths is drawn from."""
    counts, edges = np.histogram(
        np.minimum(found.sequences, LONGEST), np.linspace(0, LONGEST, BINS + 1)
    )
    return {
        "title": split[0].upper() + split[1:],
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "cut": TOKENS,
        "cut_name": f"{share(found.cut)} cut",
    }


def _label_row(data: Path, split: str, name: str, options: int) -> list[str]:
    labels = (data / "label" / f"{split}.label").read_text().split()
    found = np.bincount(np.array(labels, dtype=np.int64), minlength=options)
    return [name, *(percent(100 * count / max(found.sum(), 1)) for count in found.tolist())]


def _examples(text: Path, split: str) -> Iterator[dict[str, Any]]:
    """The first question of the first passage of a split, and of the one in its middle."""
    if not (text / f"{split}.{ASKED}").is_file():
        return
    asked = read_asked(text, split)
    labels = (text / f"{split}.label").read_text().split()
    starts = [i for i, question in enumerate(asked) if question.id.endswith("#0")]
    starts = starts or [*range(len(asked))]  # of a table with ids of its own
    chosen = sorted({starts[0], starts[len(starts) // 2]}) if starts else []
    passages = read_passages(text, split, chosen)
    for place in chosen:
        yield {
            "where": split,
            "asked": asked[place],
            "right": int(labels[place]),
            "passage": passages[place],
        }
