import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.common.cli import run_step
from components.common.errors import DataError
from components.common.packed import CONTENT, packing
from components.preprocess.__main__ import main
from components.preprocess.core import (
    OFFICIAL,
    PARTS,
    Count,
    Invalid,
    PreprocessConfig,
    preprocess,
)
from components.preprocess.source import MAX_FILE_BYTES

SPLITS = ("train", "dev", "test-middle", "test-high")
COLUMNS = ("input0", "input1", "input2", "input3", "input4", "label", "id")


def write(path: Path, article: str, answers: str = "A", **changes: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "article": article,
        "questions": [f"Question {i}?" for i in range(len(answers))],
        "options": [["w", "x", "y", "z"] for _ in answers],
        "answers": list(answers),
        **changes,
    }
    path.write_text(json.dumps(content))


@pytest.fixture
def race(tmp_path: Path) -> Path:
    """Two passages in each of RACE's six folders."""
    root = tmp_path / "race"
    for part in PARTS:
        folder = root / part.folder / part.level
        write(folder / "10.txt", f"{part.split} {part.level} ten", "BC")
        write(folder / "9.txt", f"{part.split} {part.level} nine", "D")
    return root


def read(output: Path, name: str) -> list[str]:
    return (output / name).read_text().splitlines()


def test_order_is_level_then_number_then_question(race: Path, tmp_path: Path) -> None:
    preprocess(PreprocessConfig(race, tmp_path / "text"))
    assert read(tmp_path / "text", "train.id") == [
        *("middle/9.txt#0", "middle/10.txt#0", "middle/10.txt#1"),
        *("high/9.txt#0", "high/10.txt#0", "high/10.txt#1"),
    ]
    assert read(tmp_path / "text", "train.input0") == [
        *("train middle nine", "train middle ten", "train middle ten"),
        *("train high nine", "train high ten", "train high ten"),
    ]
    assert read(tmp_path / "text", "train.label") == list("312312")
    assert read(tmp_path / "text", "test-high.id") == [
        *("high/9.txt#0", "high/10.txt#0", "high/10.txt#1")
    ]
    assert read(tmp_path / "text", "test-high.input2")[0] == "Question 0? x"
    asked = [json.loads(line) for line in read(tmp_path / "text", "test-high.question")]
    assert asked == [[f"Question {i}?", "w", "x", "y", "z"] for i in (0, 0, 1)]
    names = {f"{split}.{column}" for split in SPLITS for column in (*COLUMNS, "question")}
    names.remove("train.question")
    assert set(os.listdir(tmp_path / "text")) == {*names, "summary.json"}


def test_summary_counts_by_split_and_level(race: Path, tmp_path: Path) -> None:
    write(race / "train" / "high" / "11.txt", "nothing asked", "")
    summary = preprocess(PreprocessConfig(race, tmp_path / "text"))
    assert list(summary.counts) == list(PARTS)
    assert summary.counts[PARTS[1]] == Count(passages=3, questions=3)
    assert summary.skipped == ()
    written = json.loads((tmp_path / "text" / "summary.json").read_text())
    assert written["counts"]["train"]["high"] == {"passages": 3, "questions": 3}
    assert written["counts"]["test-middle"] == {"middle": {"passages": 2, "questions": 3}}


def test_official_counts_add_up() -> None:
    assert sum(count.passages for count in OFFICIAL.values()) == 27_933
    assert sum(count.questions for count in OFFICIAL.values()) == 97_687
    by_split = {split: [OFFICIAL[p] for p in PARTS if p.split == split] for split in SPLITS}
    questions = {s: sum(c.questions for c in counts) for s, counts in by_split.items()}
    assert questions == {"train": 87_866, "dev": 4_887, "test-middle": 1_436, "test-high": 3_498}
    assert sum(c.passages for c in by_split["train"]) == 25_137
    assert sum(c.passages for c in by_split["dev"]) == 1_389


def test_table_stands_beside_the_official_counts(race: Path, tmp_path: Path) -> None:
    (race / "dev" / "high" / "3.txt").write_text("{")
    summary = preprocess(PreprocessConfig(race, tmp_path / "text", invalid="skip"))
    shown = summary.table()
    assert [row.split() for row in shown.splitlines()[1:3]] == [
        ["train", "middle", "2", "6,409", "3", "25,421"],
        ["train", "high", "2", "18,728", "3", "62,445"],
    ]
    assert "all" in shown
    assert "97,687" in shown
    assert "dev/high/3.txt: not JSON" in shown


def test_folder_with_race_in_it_is_found(race: Path, tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    race.rename(tmp_path / "unpacked" / "RACE")
    preprocess(PreprocessConfig(tmp_path / "unpacked", tmp_path / "text"))
    assert len(read(tmp_path / "text", "dev.id")) == 6


def test_hidden_files_are_no_passages(race: Path, tmp_path: Path) -> None:
    (race / "dev" / "high" / "._9.txt").write_bytes(b"\0\5\x16\7")
    preprocess(PreprocessConfig(race, tmp_path / "text"))
    assert len(read(tmp_path / "text", "dev.id")) == 6


def packed(race: Path, name: str = "packed") -> Path:
    """The data set as download hands it on."""
    folder = race.parent / name
    folder.mkdir()
    with packing(folder) as into:
        for path in sorted(race.rglob("*")):
            if path.is_dir():
                into.folder(path.relative_to(race).as_posix())
                continue
            with into.file(path.relative_to(race).as_posix(), path.stat().st_size) as out:
                out.write(path.read_bytes())
    return folder


def test_one_file_gives_the_same_text_as_the_folder(race: Path, tmp_path: Path) -> None:
    write(race / "dev" / "high" / "señor 3.txt", "a name is text")
    (race / "dev" / "high" / "._9.txt").write_bytes(b"\0\5\x16\7")
    (race / "dev" / "high" / "30.txt").write_bytes(b" " * (MAX_FILE_BYTES + 1))
    (race / "dev" / "high" / "31.txt").mkdir()
    for path in (race / "test" / "middle").iterdir():
        path.unlink()
    (tmp_path / "above").mkdir()
    race = race.rename(tmp_path / "above" / "RACE")
    sources = {"folder": race.parent, "inside": race}
    sources["packed"] = packed(race.parent, "../one")
    sources["packed inside"] = packed(race, "../two")
    made = {}
    for name, source in sources.items():
        output = tmp_path / "text" / name
        summary = preprocess(PreprocessConfig(source, output, invalid="skip"))
        assert [i.file for i in summary.skipped] == ["dev/high/30.txt", "dev/high/31.txt"]
        made[name] = {path.name: path.read_bytes() for path in output.iterdir()}
    assert len(made["folder"]) > 30
    for name in sources:
        assert made[name] == made["folder"], name


@pytest.mark.parametrize(
    ("victim", "says"),
    [
        ("dev/high/9.txt", r"content\.zip/dev/high/9\.txt: not JSON"),
        ("dev/middle", r"content\.zip: the folder dev/middle is missing"),
        ("test", r"content\.zip: the folder test is missing"),
        ("train/9.txt", r"content\.zip/train: holds files beside the folders"),
        ("dev/high/1\n2.txt", r"content\.zip/dev/high: the file name '1\\n2.txt' cannot"),
    ],
)
def test_what_is_wrong_in_one_file_is_named(
    race: Path, tmp_path: Path, victim: str, says: str
) -> None:
    path = race / victim
    if path.is_dir():
        path.rename(tmp_path / "elsewhere")
    else:
        path.write_text("{")
    with pytest.raises(DataError, match=says):
        preprocess(PreprocessConfig(packed(race), tmp_path / "text"))
    assert not (tmp_path / "text").exists()


def test_a_damaged_file_of_them_all_is_refused(race: Path, tmp_path: Path) -> None:
    folder = packed(race)
    (folder / CONTENT).write_bytes((folder / CONTENT).read_bytes()[:-9])
    with pytest.raises(DataError, match="does not have the sha256") as failure:
        preprocess(PreprocessConfig(folder, tmp_path / "text"))
    assert failure.value.hint == "Download it again"


def test_an_archive_itself_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "RACE.tar.gz").touch()
    with pytest.raises(DataError, match="a file where a folder or a table") as failure:
        preprocess(PreprocessConfig(tmp_path / "RACE.tar.gz", tmp_path / "text"))
    assert "components.download --pack" in failure.value.hint


def test_folder_without_race_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no RACE data here"):
        preprocess(PreprocessConfig(tmp_path, tmp_path / "text"))


@pytest.mark.parametrize("missing", ["train/middle", "dev/high", "test/middle", "test"])
def test_missing_split_folder_is_named(race: Path, tmp_path: Path, missing: str) -> None:
    (race / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"the folder {missing}.* is missing"):
        preprocess(PreprocessConfig(race, tmp_path / "text"))
    assert not (tmp_path / "text").exists()


BAD = {
    "cut off": lambda path: path.write_text(path.read_text()[:-9]),
    "three options": lambda path: write(path, "a", "A", options=[["x", "y", "z"]]),
    "answer E": lambda path: write(path, "a", "E"),
    "not UTF-8": lambda path: path.write_bytes(b'"\xff"'),
    "surrogate": lambda path: write(path, "a \ud800"),
    "too large": lambda path: path.write_bytes(b" " * (MAX_FILE_BYTES + 1)),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("how", BAD)
def test_invalid_file_stops_the_step_and_leaves_nothing(
    race: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = race / "test" / "high" / "10.txt"
    BAD[how](path)
    status = run_step(main, ["--race", str(race), "--output", str(tmp_path / "text")])
    shown = capsys.readouterr()
    assert status == 3
    assert shown.out == ""
    assert shown.err.startswith(f"error: {path}: ")
    assert shown.err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["race"]


@pytest.mark.parametrize("how", BAD)
def test_invalid_file_is_skipped_and_listed_on_request(
    race: Path, tmp_path: Path, how: str
) -> None:
    BAD[how](race / "train" / "middle" / "9.txt")
    summary = preprocess(PreprocessConfig(race, tmp_path / "text", invalid="skip"))
    assert [invalid.file for invalid in summary.skipped] == ["train/middle/9.txt"]
    assert summary.counts[PARTS[0]] == Count(passages=1, questions=2)
    assert read(tmp_path / "text", "train.id")[:2] == ["middle/10.txt#0", "middle/10.txt#1"]
    assert {len(read(tmp_path / "text", f"train.{column}")) for column in COLUMNS} == {5}
    written = json.loads((tmp_path / "text" / "summary.json").read_text())
    assert written["skipped"] == [
        {"file": summary.skipped[0].file, "reason": summary.skipped[0].reason}
    ]
    assert isinstance(summary.skipped[0], Invalid)


def test_file_name_that_cannot_be_part_of_an_id_is_refused(race: Path, tmp_path: Path) -> None:
    write(race / "dev" / "high" / "1\n2.txt", "a")
    with pytest.raises(DataError, match=r"1\\n2.txt"):
        preprocess(PreprocessConfig(race, tmp_path / "text"))


def test_output_that_is_there_already_is_not_touched(
    race: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes").write_text("mine")
    status = run_step(main, ["--race", str(race), "--output", str(tmp_path / "text")])
    assert status == 5
    assert capsys.readouterr().err.count("\n") == 1
    assert [entry.name for entry in (tmp_path / "text").iterdir()] == ["notes"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_that_cannot_be_written_is_refused(
    race: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    status = run_step(main, ["--race", str(race), "--output", str(tmp_path / "locked" / "text")])
    assert status == 5
    assert "locked" in capsys.readouterr().err


def test_output_below_a_file_is_refused(
    race: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    status = run_step(main, ["--race", str(race), "--output", str(tmp_path / "file" / "text")])
    assert status == 5
    assert capsys.readouterr().err.count("\n") == 1


def test_command_needs_neither_torch_nor_fairseq_nor_kfp() -> None:
    code = (
        "import sys, components.preprocess.__main__;"
        "print([m for m in ('torch', 'fairseq', 'kfp', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
