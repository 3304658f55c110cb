"""The data as a page: are they RACE, whole, and how much of them does a model get to see?"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common.asked import read_asked, read_passages
from components.common.errors import DataError
from components.common.exam import LETTERS, level_of, read_test_sets
from components.common.indexed import read_sizes
from components.common.report import chart
from components.common.report.html import (
    Content,
    Markup,
    hidden,
    key_figures,
    page,
    section,
    table,
    tag,
)
from components.preprocess.core import ASKED, OFFICIAL, SUMMARY_FILE, Count, Part

# What the sentence_ranking task makes of question, option and passage (fairseq/tasks/
# sentence_ranking.py), with the lengths of fairseq's README.race.md, which train has as defaults.
OPTION_TOKENS = 128
TOKENS = 512

BINS = 32
LONGEST = 2 * TOKENS  # longer sequences are in the last bin
SKIPPED = 200
PASSAGE_CHARACTERS = 3_000


@dataclass(frozen=True)
class Lengths:
    """The sequences of a split, in tokens: a question and an option with the passage.

    `whole` has a length for each sequence, options already cut, special tokens included.
    """

    whole: NDArray[np.int64]  # (questions, options)
    options: NDArray[np.int64]  # (questions, options), before they are cut

    @property
    def cut(self) -> float:
        """The share of sequences that are longer than a model takes."""
        return float((self.whole > TOKENS).mean()) if self.whole.size else 0.0

    @property
    def options_cut(self) -> float:
        return float((self.options > OPTION_TOKENS).mean()) if self.options.size else 0.0

    @property
    def lost(self) -> float:
        """The share of all tokens that are cut off at the end of their passages."""
        if not self.whole.size:
            return 0.0
        return float(np.maximum(self.whole - TOKENS, 0).sum() / self.whole.sum())


def lengths(data: Path, split: str) -> Lengths:
    """The lengths of a split's sequences, from the indices of its inputs.

    The task puts a token before each option and cuts it to OPTION_TOKENS, puts a separator before
    the passage, joins them, and cuts to TOKENS. Each item has its end token already.
    """
    passage = read_sizes(data / "input0" / split)
    columns = sorted(data.glob("input[0-9]*"), key=lambda path: int(path.name[5:]))[1:]
    options = np.stack([read_sizes(c / split) + 1 for c in columns], axis=1)
    return Lengths(np.minimum(options, OPTION_TOKENS) + passage[:, None] + 1, options)


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
    splits = {split: lengths(data, split) for split in names}
    questions = sum(len(found.whole) for found in splits.values())
    official = counts == OFFICIAL
    everything = Lengths(
        np.concatenate([found.whole for found in splits.values()]),
        np.concatenate([found.options for found in splits.values()]),
    )
    verdict = (
        "Passages and questions are exactly as many as RACE’s authors published."
        if official
        else "The numbers are not those that RACE’s authors published: this is a part of RACE, a"
        " sample, or another exam."
    )
    return page(
        f"{questions:,} questions",
        key_figures(
            [
                ("questions", f"{questions:,}", _AS_PUBLISHED[official] if counts else None),
                (
                    "passages",
                    f"{sum(c.passages for c in counts.values()):,}" if counts else "unknown",
                    None,
                ),
                ("sequences cut", _percent(everything.cut), f"at {TOKENS} tokens"),
                (
                    "unknown tokens",
                    _percent(unknown / tokens if tokens else 0.0),
                    f"{unknown:,} of {tokens:,}",
                ),
            ]
        ),
        _counts(counts),
        _lengths({names[split]: found for split, found in splits.items()}),
        _labels(data, names),
        _examples(text, list(tests.values())),
        _skipped(skipped),
        kind="Data report",
        lead=verdict if counts else None,
    )


_AS_PUBLISHED = {True: "as published", False: "not as published"}


def _summary(text: Path) -> tuple[dict[Part, Count], list[dict[str, str]]]:
    """What preprocess counted and skipped; nothing where its summary is not there."""
    try:
        summary = json.loads((text / SUMMARY_FILE).read_text(encoding="utf-8"))
        counts = {
            Part(split, split.partition("-")[0], level): Count(**count)
            for split, levels in summary["counts"].items()
            for level, count in levels.items()
        }
        skipped = [{"file": str(s["file"]), "reason": str(s["reason"])} for s in summary["skipped"]]
    except FileNotFoundError:
        return {}, []
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(
            f"{text / SUMMARY_FILE}: not what preprocess writes",
            mend="Run components.preprocess again",
        ) from None
    return counts, skipped


def _percent(share: float) -> str:
    return "0 %" if not share else f"{100 * share:.{2 if share < 0.01 else 1}f} %"


def _counts(counts: Mapping[Part, Count]) -> Markup | None:
    if not counts:
        return None
    rows: list[Content] = []
    total, official = Count(0, 0), Count(0, 0)
    for part, count in counts.items():
        published = OFFICIAL.get(part)
        total, official = total + count, official + (published or Count(0, 0))
        rows.append(_count_row(part.folder, part.level, count, published))
    rows.append(_count_row("all", "", total, official if official.questions else None))
    columns = ["split", "level", "passages", "published", "questions", "published", "difference"]
    head = [
        tag("th", name, scope="col", class_=None if i < 2 else "n wide-only" if i == 3 else "n")
        for i, name in enumerate(columns)
    ]
    made = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))
    return section(
        "Passages and questions",
        tag("div", made, class_="scroll", tabindex="0"),
        note="Published: Lai et al. 2017, table 2.",
    )


def _count_row(split: str, level: str, count: Count, official: Count | None) -> Markup:
    """`official` is None in an exam that has no such part in RACE."""
    difference = count.questions - official.questions if official else 0
    verdict = f"{difference:+,}".replace("-", "−") if difference else "✓"
    return tag(
        "tr",
        tag("th", split, scope="row"),
        tag("td", level),
        tag("td", f"{count.passages:,}", class_="n"),
        tag("td", f"{official.passages:,}" if official else "–", class_="n note wide-only"),
        tag("td", f"{count.questions:,}", class_="n"),
        tag("td", f"{official.questions:,}" if official else "–", class_="n note"),
        tag("td", verdict if official else "–", class_="n"),
        class_="sum" if split == "all" else None,
    )


def _lengths(splits: Mapping[str, Lengths]) -> Markup:
    """Of the splits by the names that people call them."""
    rows = []
    charts = []
    edges = np.linspace(0, LONGEST, BINS + 1)
    for split, found in splits.items():
        sizes = found.whole.reshape(-1)
        if not sizes.size:
            continue
        rows.append(
            [
                split,
                f"{sizes.size:,}",
                f"{sizes.mean():.0f}",
                f"{np.median(sizes):.0f}",
                f"{np.quantile(sizes, 0.95):.0f}",
                f"{sizes.max():,}",
                _percent(found.cut),
                _percent(found.lost),
                _percent(found.options_cut),
            ]
        )
        heights = np.histogram(np.minimum(sizes, LONGEST), edges)[0].tolist()
        charts.append(
            chart.histogram(
                split[0].upper() + split[1:],
                edges.tolist(),
                heights,
                x="tokens",
                unit="sequences",
                cut=TOKENS,
                cut_name=f"{_percent(found.cut)} cut",
            )
        )
    head: list[Content] = ["split", "sequences", "mean", "median", "95th percentile", "longest"]
    head += [f"over {TOKENS}", "tokens lost", f"options over {OPTION_TOKENS}"]
    return section(
        "Length of the sequences",
        tag("div", charts, class_="charts"),
        table(head, rows),
        note="A sequence is a question with one of its options, cut to"
        f" {OPTION_TOKENS} tokens, and the passage; what goes beyond {TOKENS} is cut off at the end"
        f" of the passage. Longer than {LONGEST:,} is drawn in the last bar.",
    )


def _labels(data: Path, names: Mapping[str, str]) -> Markup:
    options = len(list(data.glob("input[0-9]*"))) - 1
    rows = []
    for split, name in names.items():
        labels = (data / "label" / f"{split}.label").read_text().split()
        found = np.bincount(np.array(labels, dtype=np.int64), minlength=options)
        rows.append(
            [name, *(f"{100 * count / max(found.sum(), 1):.1f} %" for count in found.tolist())]
        )
    return section(
        "Which option is right",
        table(["split", *LETTERS[:options]], rows, class_="narrow"),
        note="A model that always chooses the most frequent one is right as often as this.",
    )


def _examples(text: Path, tests: Sequence[str]) -> Markup | None:
    made = [example for split in tests for example in _some(text, split)]
    if not made:
        return None
    return section("Examples", *made, note="From the test sets; an underscore is a blank to fill.")


def _some(text: Path, split: str) -> Iterator[Markup]:
    """The first question of the first passage of a split, and of the one in its middle."""
    if not (text / f"{split}.{ASKED}").is_file():
        return
    asked = read_asked(text, split)
    labels = (text / f"{split}.label").read_text().split()
    starts = [i for i, question in enumerate(asked) if question.id.endswith("#0")]
    chosen = sorted({starts[0], starts[len(starts) // 2]}) if starts else []
    passages = read_passages(text, split, chosen)
    for place in chosen:
        options = [
            tag(
                "li",
                tag("span", letter, class_="letter"),
                tag(
                    "span",
                    tag("span", option, class_="said", dir="auto"),
                    tag("span", "✓ right", class_="verdict good") if right else None,
                ),
            )
            for letter, option, right in zip(
                LETTERS,
                asked[place].options,
                (i == int(labels[place]) for i in itertools.count()),
                strict=False,
            )
        ]
        content = passages[place]
        if len(content) > PASSAGE_CHARACTERS:
            content = content[:PASSAGE_CHARACTERS] + "…"
        yield tag(
            "article",
            tag("p", f"{split} · {asked[place].id}", class_="where"),
            tag("p", asked[place].question, class_="ask", dir="auto"),
            tag("ol", options, class_="options plain"),
            hidden("passage", tag("p", content, class_="passage", dir="auto")),
        )


def _skipped(skipped: Sequence[Mapping[str, str]]) -> Markup | None:
    if not skipped:
        return None
    rows = [[entry["file"], entry["reason"]] for entry in skipped[:SKIPPED]]
    rest = len(skipped) - len(rows)
    return section(
        "Skipped files",
        table(["file", "why"], rows, words=2),
        tag("p", f"and {rest:,} more, in {SUMMARY_FILE}", class_="note") if rest else None,
        note="They are no RACE passages, and --invalid skip left them out.",
    )
