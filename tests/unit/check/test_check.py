import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.binarize.binarizer import Binarizer
from components.binarize.bpe import read_encoder
from components.binarize.core import BinarizeConfig, binarize
from components.check.baselines import accuracies
from components.check.columns import read_splits
from components.check.config import CheckConfig
from components.check.core import Report, check
from components.check.lengths import lengths_of
from components.common.errors import DataError, OutputError
from components.common.lengths import lengths
from components.preprocess.core import PARTS, PreprocessConfig, preprocess
from pipeline import cli

# Eight sentences of their own for each passage, long enough to be compared.
WORDS = ("river", "winter", "doctor", "garden", "teacher", "village", "engine", "letter")


def article(name: str) -> str:
    return " ".join(f"The {word} of {name} was not seen by anyone else." for word in WORDS)


def write(path: Path, text: str, *answers: str, options: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "article": text,
        "questions": [f"What is asked {path.parent} {path.stem} {i}?" for i in range(len(answers))],
        "options": [options or ["one", "two", "three", "four"]] * len(answers),
        "answers": answers,
    }
    path.write_text(json.dumps(content))


@pytest.fixture
def race(tmp_path: Path) -> Path:
    """Two passages a part, nothing wrong with them."""
    root = tmp_path / "race"
    for part in PARTS:
        for number in (1, 2):
            name = f"{part.path} {number}"
            write(root / part.path / f"{number}.txt", article(name), "A", "B")
    return root


def found(race: Path, **parameters: Any) -> tuple[str, ...]:
    return tuple(map(str, check(CheckConfig(race, **parameters)).findings))


def test_a_clean_data_set_has_no_findings(race: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(race, strict=True) == ()
    out = capsys.readouterr().out
    assert "nothing to look at was found" in out
    assert out.splitlines()[1].split() == ["train", "4", "8", "50.0", "50.0", "0.0", "0.0"]


def test_planted_leaks_are_found(race: Path) -> None:
    leaked = article("train/high 2")
    write(race / "test/middle/7.txt", leaked.upper(), "A")  # copies differ in case
    sentences = leaked.split(". ")
    changed = [s.replace("anyone", "nobody") if i % 4 == 0 else s for i, s in enumerate(sentences)]
    write(race / "dev/high/8.txt", "An introduction came first. " + ". ".join(changed), "B")
    question = json.loads((race / "train/middle/1.txt").read_text())
    (race / "test/high/9.txt").write_text(json.dumps({**question, "article": article("new")}))
    assert found(race) == (
        "leak: 1 near-duplicate passage of dev in train: high/8.txt#0 = high/2.txt#0",
        "leak: 2 questions of test-high in train: high/9.txt#0 = middle/1.txt#0,"
        " high/9.txt#1 = middle/1.txt#1",
        "leak: 1 passage of test-middle in train: middle/7.txt#0 = high/2.txt#0",
        "leak: 1 near-duplicate passage of test-middle in dev: middle/7.txt#0 = high/8.txt#0",
    )


def test_what_repeats_within_a_split_is_found(race: Path) -> None:
    write(race / "train/high/3.txt", article("train/middle 1"), "A")
    write(race / "dev/middle/4.txt", article("four"), "B", "A", options=["x", "x", "y", "z"])
    assert found(race) == (
        "repeated: 1 passage of train again in it: middle/1.txt#0 = high/3.txt#0",
        "options: 2 questions of dev with an option twice, 2 of them the right one:"
        " middle/4.txt#0, middle/4.txt#1",
    )


def test_labels_that_lean_to_one_letter_are_found(race: Path) -> None:
    write(race / "train/high/5.txt", article("five"), *"AAABBCDDD" * 50)
    (finding,) = found(race)
    assert finding.startswith("labels: in train A is right in 33.6% of the questions, C in 10.9%")


def test_baselines_are_the_accuracies_of_their_rules(race: Path, tmp_path: Path) -> None:
    options = ["the river", "a long way home", "sun", "ice"]
    write(race / "test/high/6.txt", "The river was cold.", *"AABC", options=options)
    text = tmp_path / "text"
    preprocess(PreprocessConfig(race, text))
    split = next(s for s in read_splits(text) if s.name == "test-high")
    # Of eight questions four have these options; the others' are "one" to "four", of 3 to 5
    # characters, and not in their passages: "three" is never right, and four overlaps are equal.
    assert accuracies(split, usual=0) == {
        "usual": 100 * 4 / 8,
        "longest": 100 * 1 / 8,
        "overlap": 100 * (2 + 4 / 4) / 8,
    }


def test_text_that_is_cut_off_is_counted_with_the_bpe(
    race: Path, tiny_bpe: Path, tmp_path: Path
) -> None:
    for path in race.rglob("*.txt"):
        write(path, f"Short {path.parent} {path.stem}"[-40:], "A", "B")
    write(race / "train/high/5.txt", "x " * 600, "A", "B")
    (finding,) = found(race, bpe=tiny_bpe)
    assert finding.startswith("cut off: 2 questions of train (20.0%) lose text beyond 512 tokens,")
    assert finding.endswith(": high/5.txt#0, high/5.txt#1")


def test_lengths_are_those_of_the_binary_data_also_where_options_are_missing(
    tiny_bpe: Path, tmp_path: Path
) -> None:
    bpe = Path(shutil.copytree(tiny_bpe, tmp_path / "bpe"))
    # GPT-2 has a token for two newlines, which may not take the place of two ends of lines.
    pieces = json.loads((bpe / "encoder.json").read_text())
    (bpe / "encoder.json").write_text(json.dumps({**pieces, "ĊĊ": len(pieces)}))
    with (bpe / "vocab.bpe").open("a") as merges:
        merges.write("Ċ Ċ\n")
    with (bpe / "dict.txt").open("a") as symbols:
        symbols.write(f"{len(pieces)} 1\n")
    table, text, data = tmp_path / "exam.jsonl", tmp_path / "text", tmp_path / "data"
    rows = [
        {"article": " a  b", "question": "q", "options": ["x", "", "z"][: 3 - i % 2], "answer": "A"}
        for i in range(40)
    ]
    splits = ("train", "dev", "test")
    table.write_text("".join(json.dumps(row | {"split": s}) + "\n" for s in splits for row in rows))
    preprocess(PreprocessConfig(table, text))
    binarize(BinarizeConfig(text=text, bpe=bpe, output=data))
    train, *_ = read_splits(text)
    binarizer = Binarizer(read_encoder(bpe / "encoder.json", bpe / "vocab.bpe"))
    assert (lengths_of(binarizer, train).whole == lengths(data, "train").whole).all()


def test_findings_make_a_strict_check_fail(race: Path, tmp_path: Path) -> None:
    write(race / "train/high/3.txt", article("train/middle 1"), "A")
    output = tmp_path / "check.json"
    with pytest.raises(DataError, match="1 finding"):
        check(CheckConfig(race, strict=True, output=output))
    written = json.loads(output.read_text())
    assert written["findings"][0]["kind"] == "repeated"
    assert written["splits"]["train"]["questions"] == 9
    with pytest.raises(OutputError, match="exists already"):
        check(CheckConfig(race, output=output))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: (text / "dev.label").unlink(), "dev.label is missing"),
        (lambda text: (text / "dev.input4").write_text("q one\n"), "columns of different lengths"),
        (
            lambda text: (text / "dev.label").write_text("7\n" * 8),
            "line 1 is b'7', not one of the 4",
        ),
        (
            lambda text: (text / "dev.label").write_text("x\n" * 8),
            "line 1 is b'x', not one of the 4",
        ),
        (lambda text: (text / "train.id").write_text("one\n"), "has 8 lines, and train.id has 1"),
    ],
)
def test_damaged_columns_are_refused(race: Path, tmp_path: Path, damage: Any, says: str) -> None:
    text = tmp_path / "text"
    preprocess(PreprocessConfig(race, text))
    damage(text)
    with pytest.raises(DataError, match=says):
        check(CheckConfig(text))


def test_the_command_takes_the_data_as_its_argument_and_an_archive_too(
    race: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(race)]) == 0
    assert "chance is 25" in capsys.readouterr().out
    assert cli.main(["check", str(sample / "RACE.tar.gz")]) == 0
    assert "140" in capsys.readouterr().out
    assert cli.main(["check", str(race / "none.tar.gz")]) == 3


def test_real_passages_can_be_guessed_better_than_by_chance(
    shared_data: Path, tmp_path: Path
) -> None:
    from components.download.archive import unpack

    (tmp_path / "race").mkdir()
    unpack(shared_data / "race-mini.tar.gz", tmp_path / "race")
    report: Report = check(CheckConfig(tmp_path / "race", bpe=shared_data))
    assert report.splits["dev"]["overlap"] > 40
    assert not [finding for finding in report.findings if finding.kind == "leak"]
