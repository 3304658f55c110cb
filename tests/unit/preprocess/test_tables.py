"""Tables of questions, one a row, and files that could mean two things."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from components.binarize.core import BinarizeConfig, binarize
from components.check.config import CheckConfig
from components.check.core import check
from components.common.dataset import read_counts, require_equal
from components.common.errors import ConfigError, DataError
from components.common.indexed import read_sizes
from components.common.lengths import lengths
from components.download.core import DownloadConfig, download
from components.preprocess.core import PreprocessConfig, Summary, preprocess

SPLITS = ("train", "dev", "test")
QUESTION = {
    "article": "Ann  has\na cat.",
    "question": "Ann has a _.",
    "options": ["dog", "cat", "cow"],
    "answer": "B",
}


def rows(*changes: dict[str, Any]) -> str:
    return "".join(json.dumps(QUESTION | change) + "\n" for change in changes or ({},))


def tables(folder: Path, suffix: str, content: str, encoding: str = "utf-8") -> Path:
    """The same table for each split."""
    folder.mkdir(exist_ok=True)
    for split in SPLITS:
        (folder / f"{split}{suffix}").write_bytes(content.encode(encoding))
    return folder


def columns(race: Path, output: Path, **parameters: Any) -> dict[str, list[str]]:
    preprocess(PreprocessConfig(race, output, **parameters))
    return {p.name: p.read_text().splitlines() for p in output.iterdir()}


def refused(race: Path, output: Path, **parameters: Any) -> str:
    with pytest.raises(DataError) as error:
        preprocess(PreprocessConfig(race, output, **parameters))
    assert "\n" not in str(error.value)
    assert not output.exists()
    return str(error.value)


def test_json_lines(tmp_path: Path) -> None:
    text = rows({}, {"question": "Who?", "answer": "A"}, {"article": "Other.", "answer": "C"})
    found = columns(tables(tmp_path / "own", ".jsonl", text), tmp_path / "text")
    assert found["train.input0"] == ["Ann has a cat.", "Ann has a cat.", "Other."]
    assert found["train.input2"] == ["Ann has a cat.", "Who? cat", "Ann has a cat."]
    assert found["dev.label"] == ["1", "0", "2"]
    assert found["test.id"] == ["test.jsonl#1", "test.jsonl#2", "test.jsonl#3"]
    assert json.loads(found["test.question"][0]) == ["Ann has a _.", "dog", "cat", "cow"]
    assert "train.options" not in found


def test_a_spreadsheets_csv(tmp_path: Path) -> None:
    """Semicolons, a byte order mark, quotes, and a cell with a newline."""
    text = (
        "Nr;Passage;Question;A;B;C;Correct answer;;\r\n"
        '7;"Ann; has ""a""\r\ncat.";What?;dog;cat;cow;2;;\r\n'
        "8;Short.;Who?;Ann;Bob;Cy;3;;\r\n"
        "9;Short.;Why?;so;no;yes;1;;\r\n;;;;;;;;\r\n"
    )
    own = tables(tmp_path / "own", ".csv", "\ufeff" + text)
    found = columns(own, tmp_path / "text", columns="id=Nr")
    assert found["train.input0"] == ['Ann; has "a" cat.', "Short.", "Short."]
    assert found["train.input1"] == ["What? dog", "Who? Ann", "Why? so"]
    assert found["train.label"] == ["1", "2", "0"]
    assert found["train.id"] == ["7", "8", "9"]
    same = tables(
        tmp_path / "tabs", ".tsv", text.replace(";", "\t").replace("Ann\t has", "Ann; has")
    )
    tabs = columns(same, tmp_path / "text2", columns="id=Nr")
    assert tabs["train.input0"] == found["train.input0"]


def test_parquet_of_hugging_face(tmp_path: Path) -> None:
    """By level and as a whole, as ehovy/race lies on the hub; the whole is not read again."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for folder in ("all", "high", "middle"):
        (tmp_path / "race" / folder).mkdir(parents=True)
        for split in ("train", "validation", "test"):
            level = "high" if folder == "all" else folder
            table = {
                "example_id": [f"{level}3.txt", f"{level}3.txt"],
                "article": [f"{level} {split}"] * 2,
                "answer": ["A", "D"],
                "question": ["Who?", "_ ran."],
                "options": [["a", "b", "c", "d"]] * 2,
            }
            path = tmp_path / "race" / folder / f"{split}-00000-of-00001.parquet"
            parquet.write_table(pyarrow.table(table), path)
    found = columns(tmp_path / "race", tmp_path / "text")
    assert found["train.input0"] == ["middle train"] * 2 + ["high train"] * 2
    assert found["test-high.input4"] == ["Who? d", "d ran."]
    assert found["test-middle.label"] == ["0", "3"]
    assert found["test-middle.id"] == ["middle3.txt#0", "middle3.txt#1"]


def test_a_damaged_parquet_file_is_refused_in_one_line(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "own.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([QUESTION | {"split": "train"}] * 9), path)
    whole = path.read_bytes()
    start = whole.index(b"PAR1", 0) + 4
    for damaged in (whole[:-9], b"", whole[:start] + b"\0" * 60 + whole[start + 60 :]):
        path.write_bytes(damaged)
        assert f"{path}: not Parquet" in refused(path, tmp_path / "text")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    own = tables(tmp_path / "own", ".parquet", "PAR1")
    message = refused(own, tmp_path / "text")
    assert "pip install 'race-pipeline[parquet]'" in message
    assert "race images build --parquet" in message


def test_dream_as_it_is_published(tmp_path: Path) -> None:
    asked = {"question": "Who?", "choice": ["a man", "a cat", "3"], "answer": "a cat"}
    text = json.dumps([[["M: Hi.", "W: Bye."], [asked, {**asked, "answer": "3"}], "14-349"]])
    found = columns(tables(tmp_path / "own", ".json", text), tmp_path / "text")
    assert found["dev.input0"] == ["M: Hi. W: Bye."] * 2
    assert found["dev.label"] == ["1", "2"]
    assert found["dev.id"] == ["14-349#0", "14-349#1"]


def test_questions_may_have_different_numbers_of_options(tmp_path: Path) -> None:
    own = tables(
        tmp_path / "own", ".csv", "context,question,A,B,C,answer\nx,q,1,2,,a\nx,r,1,2,3,c\n"
    )
    found = columns(own, tmp_path / "text")
    assert found["train.options"] == ["2", "3"]
    assert found["train.input3"] == ["", "r 3"]
    assert json.loads(found["dev.question"][0]) == ["q", "1", "2"]


def test_levels_and_splits_may_be_columns(tmp_path: Path) -> None:
    cases = [{"split": split, "level": level} for split in SPLITS for level in ("easy", "hard")]
    (tmp_path / "own.jsonl").write_text(rows(*cases))
    found = columns(tmp_path / "own.jsonl", tmp_path / "text")
    assert found["test-easy.id"] == ["own.jsonl#5"]
    assert found["train.id"] == ["own.jsonl#1", "own.jsonl#2"]


def test_one_table_is_divided_by_its_passages(tmp_path: Path) -> None:
    cases = [{"article": f"Passage {n % 50}.", "question": f"{n}?"} for n in range(200)]
    path = tmp_path / "own.jsonl"
    path.write_text(rows(*cases))
    found = columns(path, tmp_path / "text", split="80/10/10")
    passages = [{*found[f"{split}.input0"]} for split in SPLITS]
    assert [len(p) for p in passages] == [40, 5, 5]
    assert len(set().union(*passages)) == 50
    path.write_text(rows(*reversed(cases)))
    again = columns(path, tmp_path / "again", split="80/10/10")
    assert {*again["test.input0"]} == passages[2]
    assert "--split 80/10/10" in refused(path, tmp_path / "none")


def test_shards_of_a_split_are_read_one_after_the_other(tmp_path: Path) -> None:
    own = tables(tmp_path / "own", ".jsonl", rows())
    for number in (10, 9):
        (own / f"train-{number}.jsonl").write_text(rows({"article": f"{number}"}))
    (own / "train.jsonl").unlink()
    found = columns(own, tmp_path / "text")
    assert found["train.input0"] == ["9", "10"]


def test_a_table_can_be_downloaded_and_packed(tmp_path: Path) -> None:
    own = tables(tmp_path / "own", ".jsonl", rows())
    (tmp_path / "own.jsonl").write_text(rows(*({"split": split} for split in SPLITS)))
    for number, url in enumerate((own, tmp_path / "own.jsonl")):
        packed = tmp_path / f"packed{number}"
        download(DownloadConfig((str(url),), packed, pack=True))
        names = sorted(p.name for p in packed.iterdir())
        assert names == ["SHA256SUMS", "content.zip", "origin.json"]
        found = columns(packed, tmp_path / f"text{number}")
        assert found["test.label"] == ["1"]


@pytest.mark.parametrize(
    ("changes", "parameters", "says"),
    [
        ([{"answer": 1}, {"answer": 2}], {}, ["row 1", "from 0 (B) or an index from 1 (A)"]),
        (
            [{"options": ["2", "1", "3"], "answer": "1"}],
            {"answers": "auto"},
            ["answer '1' may be", "--answers index0 or --answers index1"],
        ),
        ([{}, {"answer": "D"}], {}, ["row 2", "'D' is none of the options A to C"]),
        ([{}, {"answer": None}], {}, ["row 2", "column answer: missing or null where"]),
        ([{}, {"options": "dog"}], {}, ["row 2", "column options: a string where a list"]),
        ([{}, {"options": ["dog"]}], {}, ["row 2", "column options: 1 options, not 2 to 26"]),
        ([{}, {"options": ["dog", None]}], {}, ["row 2", "option B is missing or null"]),
        ([{}, {"article": 7}], {}, ["row 2", "column article: a number where text"]),
        ([{"passage": "Too."}], {}, ["columns article and passage could both be the article"]),
        ([{"passage": "Too."}], {}, ["--columns article=article or --columns article=passage"]),
        ([{"A": "x", "B": "y"}], {}, ["columns options and A+B could both be the options"]),
        ([{}], {"columns": "question=Frage"}, ["no column Frage"]),
        ([{}], {"options": 4}, ["column options: 3 options, not 4"]),
        ([{"split": "train"}], {}, ["its split is train, its file's dev"]),
        ([{"split": "extra"}], {}, ["column split: 'extra' is not train, dev or test"]),
        ([{"level": "a/b"}], {}, ["column level: 'a/b' cannot be a level"]),
    ],
)
def test_what_is_wrong_is_named_by_row_and_column(
    tmp_path: Path, changes: list[dict[str, Any]], parameters: dict[str, Any], says: list[str]
) -> None:
    own = tables(tmp_path / "own", ".jsonl", rows())
    (own / "dev.jsonl").write_text(rows(*changes))
    if any(isinstance(c.get("answer"), int) or c.get("answer") == "1" for c in changes):
        for split in SPLITS:
            (own / f"{split}.jsonl").write_text(rows(*changes))
    message = refused(own, tmp_path / "text", **parameters)
    assert "dev.jsonl, row" in message
    for part in says:
        assert part in message


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("dev.csv", b"article;question\n\xff;x\n", "not UTF-8"),
        ("dev.csv", "article,question".encode("utf-16"), "UTF-16"),
        ("dev.csv", b'article,question,A,B,answer\n"a,b', "not CSV"),
        (
            "dev.csv",
            b"article,question,A,B,answer\na,b,c,d,e,f\n",
            "row 2: 6 cells where the header",
        ),
        ("dev.csv", b"article,question,A,A,answer\n", "two columns are called A"),
        ("dev.csv", b"article,A,B,answer\nx,y,z,A\n", "row 2: no column for the question"),
        ("dev.csv", b"\narticle,question,A,B,answer\n", "its first row is empty"),
        ("dev.jsonl", b"{\n", "row 1: not JSON"),
        ("dev.jsonl", b"[1]\n", "row 1: not a JSON object"),
        ("dev.json", b"[[1, 2]]", "row 1: not [turns, questions"),
        ("dev.json", b"[1, 2", "not JSON"),
        ("dev-test.jsonl", b"", "its name says dev and test"),
        ("other.jsonl", b"{}", "no column for the article"),
    ],
)
def test_files_that_are_no_tables_are_refused(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    own = tables(tmp_path / "own", ".jsonl", rows())
    (own / "dev.jsonl").unlink()
    (own / name).write_bytes(content)
    message = refused(own, tmp_path / "text")
    assert name in message
    assert says in message


def test_a_reading_that_is_chosen_is_taken(tmp_path: Path) -> None:
    own = tables(tmp_path / "own", ".jsonl", rows({"answer": "1"}, {"answer": 2}))
    assert columns(own, tmp_path / "0", answers="index0")["dev.label"] == ["1", "2"]
    assert columns(own, tmp_path / "1", answers="index1")["dev.label"] == ["0", "1"]


def test_invalid_rows_are_skipped_and_listed_on_request(tmp_path: Path) -> None:
    own = tables(tmp_path / "own", ".jsonl", rows({}, {"answer": "Z"}, {"answer": "C"}, {"id": ""}))
    with (own / "dev.jsonl").open("a") as file:
        file.write("{\n")
    summary: Summary = preprocess(PreprocessConfig(own, tmp_path / "text", invalid="skip"))
    assert sorted(one.file for one in summary.skipped) == [
        *("dev.jsonl, row 2", "dev.jsonl, row 5", "test.jsonl, row 2", "train.jsonl, row 2")
    ]
    assert (tmp_path / "text" / "dev.label").read_text().split() == ["1", "2", "1"]


def test_a_split_that_is_missing_is_named(tmp_path: Path) -> None:
    own = tables(tmp_path / "own", ".jsonl", rows())
    (own / "dev.jsonl").unlink()
    assert "no question for dev" in refused(own, tmp_path / "text")


def test_the_one_table_is_named_where_it_lacks_questions_or_splits(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("article,question,A,B,answer\n")
    assert refused(path, tmp_path / "text").startswith(f"{path}: no question in it")
    path.write_text("article,question,A,B,answer\nx,y,z,w,A\n")
    assert refused(path, tmp_path / "text").startswith(f"{path}: neither")
    assert "no such file" in refused(tmp_path / "typo.csv", tmp_path / "text")


def test_a_division_leaves_a_passage_in_the_split_that_it_has(tmp_path: Path) -> None:
    cases = [{"article": f"{n}.", "split": "test" if n < 10 else None} for n in range(40)]
    path = tmp_path / "own.jsonl"
    path.write_text(rows(*cases, *({"article": f"{n}."} for n in range(10))))
    found = columns(path, tmp_path / "text", split="80/10/10")
    assert not {*found["train.input0"], *found["dev.input0"]} & {f"{n}." for n in range(10)}
    assert len(found["train.input0"]) == 24


@pytest.mark.parametrize(
    "parameters", [{"columns": "frage=x"}, {"columns": "question"}, {"split": "80/20"}]
)
def test_parameters_that_say_nothing_are_refused(tmp_path: Path, parameters: Any) -> None:
    with pytest.raises(ConfigError):
        PreprocessConfig(tmp_path, tmp_path / "text", **parameters)


def test_unequal_options_are_marked_in_the_binary_data_and_counted_by_the_check(
    tmp_path: Path, tiny_bpe: Path
) -> None:
    own = tables(tmp_path / "own", ".jsonl", rows({}, {"options": ["a", "b"], "answer": "A"}))
    columns(own, tmp_path / "text")
    binarize(BinarizeConfig(tmp_path / "text", tiny_bpe, tmp_path / "data"))
    assert read_counts(tmp_path / "data", "test", 2) == [3, 2]
    assert list(read_sizes(tmp_path / "data" / "input3" / "test"))[1] == 1  # its end alone
    found = lengths(tmp_path / "data", "test")
    assert len(found.sequences) == 5
    report = check(CheckConfig(own, bpe=tiny_bpe))
    assert report.chance == pytest.approx(100 * (1 / 3 + 1 / 2) / 2)
    with pytest.raises(ConfigError, match="differ in their number of options"):
        require_equal(tmp_path / "data")
    (tmp_path / "text" / "dev.options").write_text("3\n4\n")
    with pytest.raises(DataError, match=r"dev\.options: not the numbers of options of 2"):
        binarize(BinarizeConfig(tmp_path / "text", tiny_bpe, tmp_path / "again"))
