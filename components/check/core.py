"""What is worth knowing of a data set before hours of training.

Leaks: passages and questions of one split that are in another as well. Doubts: options that repeat,
labels that lean to one letter, text that a model does not get to see. And the accuracies of answers
that were found without reading, beside chance: a model is worth what it has above them.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.check import baselines
from components.check.columns import Split, read_splits, sentences_of
from components.check.config import CheckConfig
from components.common import strict_json
from components.common.dataset import LETTERS
from components.common.errors import DataError, OutputError
from components.common.files import scratch_folder
from components.common.labels import leaning, shares, usual
from components.common.packed import is_table
from components.common.text import columns, counted

# A passage is nearly another one when this share of its sentences is in that one.
NEAR = 0.5
EXAMPLES = 3  # ids that a finding names


@dataclass(frozen=True)
class Finding:
    """Something to look at. `where` are ids of questions, those of pairs joined by " = "."""

    kind: str
    what: str
    where: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.where[:EXAMPLES])
        more = ", ..." if len(self.where) > EXAMPLES else ""
        return f"{self.kind}: {self.what}" + (f": {shown}{more}" if shown else "")


@dataclass(frozen=True)
class Report:
    """The figures of each split, shares in percent, and what was found."""

    splits: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]
    chance: float
    letters: str

    def table(self) -> str:
        head = ("split", "passages", "questions", *self.letters, *baselines.NAMES.values())
        rows: list[tuple[str, ...]] = [head]
        for name, one in self.splits.items():
            shares = [f"{share:.1f}" for share in one["labels"]]
            found = [f"{one[b]:.1f}" if b in one else "" for b in baselines.NAMES]
            row = (name, f"{one['passages']:,}", f"{one['questions']:,}", *shares, *found)
            rows.append(row)
        said = [str(finding) for finding in self.findings] or ["nothing to look at was found"]
        note = (
            f"Percent: how often each letter is right, and how often answers found without reading"
            f" are; chance is {self.chance:.4g}."
        )
        return "\n".join([*columns(rows), "", note, "", *said])


def check(config: CheckConfig) -> Report:
    """Check a data set, and print what was found.

    Raises:
        DataError: the data or the BPE cannot be read; or, with `strict`, something was found.
        OutputError: `output` is there already.
        OSError: `output` cannot be written.
    """
    if config.output and config.output.exists():
        raise OutputError(f"{config.output} exists already", hint="Choose a new file")
    with _text(config) as text:
        splits = read_splits(text)
        report = _report(splits, config.bpe)
    print(report.table())
    if config.output:
        strict_json.write(config.output, asdict(report))
    if config.strict and report.findings:
        raise DataError(
            f"{config.data}: {counted(len(report.findings), 'finding')}",
            hint="They are listed above",
        )
    return report


@contextlib.contextmanager
def _text(config: CheckConfig) -> Iterator[Path]:
    """Text columns: those that are there, or made of RACE's files for as long as the block runs."""
    if (config.data / "train.label").is_file():
        yield config.data
        return
    from components.download.core import DownloadConfig, download
    from components.preprocess.core import PreprocessConfig, preprocess

    with scratch_folder() as scratch:
        race, made = config.data, scratch / "text"
        if race.is_file() and not is_table(race.name):
            race = scratch / "race"
            download(DownloadConfig(url=(str(config.data.absolute()),), output=race, pack=True))
        tables = {name: getattr(config, name) for name in ("columns", "answers", "split")}
        preprocess(PreprocessConfig(race, made, config.options, **tables))
        yield made


def _report(splits: Sequence[Split], bpe: Path | None) -> Report:
    options = max(split.columns for split in splits)
    every = [len(row) for split in splits for row in split.options]
    chance = 100 * sum(1 / number for number in every) / max(len(every), 1)
    figures, findings = {}, []
    train = splits[0]
    for split in splits:
        questions = len(split.labels)
        figures[split.name] = {
            "passages": len(split.passages),
            "questions": questions,
            "labels": [100 * share for share in shares(split.labels, options)],
            **(baselines.accuracies(split, usual(train.labels)) if split.asked else {}),
        }
    for split in splits:
        findings += [*_repeated_passages(split), *_repeated_options(split), *_leaning(split)]
    findings += _leaks(splits)
    if bpe:
        from components.check.lengths import cut

        findings += [Finding("cut off", *found) for found in cut(splits, bpe)]
    return Report(figures, tuple(findings), chance, LETTERS[:options])


def _repeated_passages(split: Split) -> list[Finding]:
    seen: dict[bytes, int] = {}
    twice = []
    for number, passage in enumerate(split.normal):
        first = seen.setdefault(passage, number)
        if first != number:
            twice.append(f"{split.place(first)} = {split.place(number)}")
    what = f"{counted(len(twice), 'passage')} of {split.name} again in it"
    return [Finding("repeated", what, tuple(twice))] if twice else []


def _repeated_options(split: Split) -> list[Finding]:
    rows = [n for n, options in enumerate(split.options) if len(set(options)) < len(options)]
    right = sum(split.options[n].count(split.options[n][split.labels[n]]) > 1 for n in rows)
    what = f"{counted(len(rows), 'question')} of {split.name} with an option twice"
    what += f", {right:,} of them the right one" if right else ""
    return [Finding("options", what, tuple(split.ids[n] for n in rows))] if rows else []


def _leaning(split: Split) -> list[Finding]:
    # Later letters are rarer where not all questions have them.
    if len({len(row) for row in split.options}) > 1:
        return []
    what = leaning(split.name, split.labels, split.columns)
    return [Finding("labels", what)] if what else []


def _leaks(splits: Sequence[Split]) -> Iterator[Finding]:
    """What of a later split is in an earlier one: train, dev, then the test sets."""
    for i, earlier in enumerate(splits[:-1]):
        whole = {text: n for n, text in reversed([*enumerate(earlier.normal)])}
        later_sentences = {part for s in splits[i + 1 :] for each in s.sentences for part in each}
        of = {
            sentence: n
            for n, text in enumerate(earlier.normal)
            for sentence in later_sentences.intersection(sentences_of(text))
        }
        asked = {options: n for n, options in enumerate(earlier.options)}
        for later in splits[i + 1 :]:
            pairs = [(n, whole.get(text)) for n, text in enumerate(later.normal)]
            near = [(n, _nearest(later.sentences[n], of)) for n, found in pairs if found is None]
            for found, what in ((pairs, "passage"), (near, "near-duplicate passage")):
                where = [
                    f"{later.place(n)} = {earlier.place(m)}" for n, m in found if m is not None
                ]
                yield from _leak(what, where, later, earlier)
            again = [(n, asked.get(options)) for n, options in enumerate(later.options)]
            where = [f"{later.ids[n]} = {earlier.ids[m]}" for n, m in again if m is not None]
            yield from _leak("question", where, later, earlier)


def _leak(what: str, where: Sequence[str], later: Split, earlier: Split) -> Iterator[Finding]:
    if where:
        said = f"{counted(len(where), what)} of {later.name} in {earlier.name}"
        yield Finding("leak", said, tuple(where))


def _nearest(sentences: Sequence[bytes], of: Mapping[bytes, int]) -> int | None:
    """The passage that has most of these sentences, if it has enough of them."""
    found = Counter(of[sentence] for sentence in sentences if sentence in of)
    for number, shared in found.most_common(1):
        if shared >= max(2, NEAR * len(sentences)):
            return number
    return None
