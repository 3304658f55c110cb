import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.binarize import core
from components.binarize.__main__ import main
from components.binarize.bpe import byte_characters, read_encoder
from components.binarize.core import BinarizeConfig, Count, binarize
from components.binarize.indexed import token_type
from components.common.cli import run_step
from components.common.dictionary import read_dictionary
from components.common.errors import ConfigError, DataError
from components.huggingface.tokenizer import to_huggingface

SPLITS = {"train": "train", "dev": "valid", "test-middle": "test", "test-high": "test1"}
INPUTS = ("input0", "input1", "input2", "input3", "input4")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Columns of two questions on one passage in each split."""
    folder = tmp_path / "text"
    folder.mkdir()
    for split in SPLITS:
        for column in INPUTS:
            lines = [f"the passage of {split}\n"] * 2
            if column != "input0":
                lines = [f"what and {column}\n", f"an {column}é\n"]
            (folder / f"{split}.{column}").write_text("".join(lines), encoding="utf-8")
        (folder / f"{split}.label").write_text("3\n0\n")
        (folder / f"{split}.id").write_text("high/1.txt#0\nhigh/1.txt#1\n")
    return folder


@pytest.fixture
def bpe(tiny_bpe: Path, tmp_path: Path) -> Path:
    """A copy of the small BPE, to spoil."""
    return Path(shutil.copytree(tiny_bpe, tmp_path / "bpe"))


def items(prefix: Path) -> list[list[int]]:
    """The rows of a data set whose tokens are uint16, by the description of the format."""
    index = prefix.with_name(prefix.name + ".idx").read_bytes()
    assert index[:18] == b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + b"\x08"
    n = int.from_bytes(index[18:26], "little")
    sizes = np.frombuffer(index, np.int32, n, 26)
    starts = np.frombuffer(index, np.int64, n, 26 + 4 * n)
    assert len(index) == 26 + 12 * n
    data = prefix.with_name(prefix.name + ".bin").read_bytes()
    return [
        np.frombuffer(data, np.uint16, size, start).tolist()
        for size, start in zip(sizes, starts, strict=True)
    ]


def decoded(rows: list[list[int]], bpe: Path) -> list[str]:
    symbols = read_dictionary(bpe / "dict.txt").symbols
    pieces = {i: p for p, i in json.loads((bpe / "encoder.json").read_text()).items()}
    code = {character: byte for byte, character in enumerate(byte_characters())}
    for row in rows:
        assert row[-1] == 2
    spelt = ["".join(pieces[int(symbols[i])] for i in row[:-1]) for row in rows]
    return [bytes(code[c] for c in line).decode() for line in spelt]


def test_every_column_can_be_read_back(text: Path, bpe: Path, tmp_path: Path) -> None:
    binarize(BinarizeConfig(text, bpe, tmp_path / "bin"))
    for split, name in SPLITS.items():
        for column in INPUTS:
            rows = items(tmp_path / "bin" / column / name)
            lines = (text / f"{split}.{column}").read_text(encoding="utf-8").splitlines()
            assert decoded(rows, bpe) == lines
        for column in ("label", "id"):
            copied = tmp_path / "bin" / column / f"{name}.{column}"
            assert copied.read_bytes() == (text / f"{split}.{column}").read_bytes()
    assert set(os.listdir(tmp_path / "bin")) == {
        *INPUTS,
        "label",
        "id",
        "splits.json",
        "vocabulary.json",
        "report.html",
    }
    assert set(os.listdir(tmp_path / "bin" / "input0")) == {
        "dict.txt",
        *(f"{name}.{suffix}" for name in SPLITS.values() for suffix in ("bin", "idx")),
    }


@pytest.mark.parametrize("workers", [1, 3])
def test_stretches_and_threads_do_not_show_in_the_bytes(
    text: Path, bpe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    for split in SPLITS:
        for column in INPUTS:
            lines = [f"{column} line {i // 3} é\u2003\r\n" for i in range(60)]
            lines[20] = " \t\n"
            (text / f"{split}.{column}").write_bytes("".join(lines)[:-2].encode())
        (text / f"{split}.label").write_text("1\n" * 60)
        (text / f"{split}.id").write_text("x\n" * 60)
    binarize(BinarizeConfig(text, bpe, tmp_path / "whole", workers=1))
    monkeypatch.setattr(core, "STRETCH_BYTES", 50)
    binarize(BinarizeConfig(text, bpe, tmp_path / "cut", workers=workers))
    for path in (tmp_path / "whole").rglob("*.*"):
        cut = tmp_path / "cut" / path.relative_to(tmp_path / "whole")
        assert cut.read_bytes() == path.read_bytes()
    assert len(items(tmp_path / "cut" / "input0" / "train")) == 60
    assert items(tmp_path / "cut" / "input0" / "train")[20] == [2]


def test_summary_counts_lines_and_tokens(text: Path, bpe: Path, tmp_path: Path) -> None:
    summary = binarize(BinarizeConfig(text, bpe, tmp_path / "bin"))
    rows = items(tmp_path / "bin" / "input0" / "test1")
    tokens = sum(map(len, rows))
    assert summary.counts["input0"]["test1"] == Count(lines=2, tokens=tokens, unknown=0)
    assert summary.symbols == len(read_dictionary(bpe / "dict.txt"))
    assert summary.table().splitlines()[-1].split()[:3] == ["test1", "2", str(tokens)]


def drop_symbols(bpe: Path, text: str) -> None:
    """Take the ids of these characters from the dictionary."""
    pieces = json.loads((bpe / "encoder.json").read_text())
    gone = {str(pieces[character]) for character in text}
    lines = (bpe / "dict.txt").read_text().splitlines(keepends=True)
    (bpe / "dict.txt").write_text("".join(line for line in lines if line.split()[0] not in gone))


def test_a_few_unknown_tokens_are_reported(
    text: Path, bpe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (text / "dev.input0").write_text("the passage of\nnot ? known?\n")
    drop_symbols(bpe, "?")
    summary = binarize(BinarizeConfig(text, bpe, tmp_path / "bin", max_unknown=0.01))
    assert summary.counts["input0"]["valid"].unknown == 2
    assert items(tmp_path / "bin" / "input0" / "valid")[1].count(3) == 2
    assert "2 of " in caplog.text
    assert "unknown to dict.txt" in caplog.text


def test_vocabulary_of_another_model_is_refused(text: Path, bpe: Path, tmp_path: Path) -> None:
    drop_symbols(bpe, "aeinpst")
    with pytest.raises(DataError, match=r"tokens \(\d+\.\d\d%\) are unknown to dict.txt"):
        binarize(BinarizeConfig(text, bpe, tmp_path / "bin", max_unknown=0.01))
    assert not (tmp_path / "bin").exists()
    binarize(BinarizeConfig(text, bpe, tmp_path / "bin", max_unknown=1))


def edit(path: Path, old: str, new: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new, 1), encoding="utf-8")


def as_huggingface(bpe: Path) -> None:
    """Put vocab.json for encoder.json, and a dict.txt that knows its ids."""
    content = to_huggingface(bpe, 512)["vocab.json"]
    (bpe / "encoder.json").write_text(content)
    (bpe / "dict.txt").write_text("".join(f"{i} 1\n" for i in json.loads(content).values()))


BAD_INPUT = {
    "column missing": (lambda t, b: (t / "dev.input3").unlink(), "dev.input3 is missing"),
    "ids missing": (lambda t, b: (t / "dev.id").unlink(), "dev.id is missing"),
    "newline in a line": (
        lambda t, b: edit(t / "dev.input3", "what", "wh\nat"),
        "dev.input3 has 3",
    ),
    "return in a line": (lambda t, b: edit(t / "dev.input0", "pass", "pas\rs"), "dev.input0 has 3"),
    "line missing": (
        lambda t, b: (t / "train.input0").write_text("x\n"),
        "train.input0 has 1 lines",
    ),
    "label missing": (lambda t, b: (t / "dev.label").write_text("3\n"), "dev.id has 2"),
    "label 4": (lambda t, b: (t / "dev.label").write_text("3\n4\n"), "dev.label: line 2 is b'4'"),
    "not UTF-8": (
        lambda t, b: (t / "dev.input1").write_bytes(b"a\n\xff\n"),
        "dev.input1: not UTF-8",
    ),
    "no dictionary": (lambda t, b: (b / "dict.txt").unlink(), "dict.txt: no such file"),
    "dictionary line": (lambda t, b: edit(b / "dict.txt", " 999\n", " many\n"), "dict.txt: line 2"),
    "symbol twice": (
        lambda t, b: edit(b / "dict.txt", "madeupword0000", "<s>"),
        "repeats '<s>'",
    ),
    "no encoder": (lambda t, b: (b / "encoder.json").unlink(), "encoder.json: no such file"),
    "encoder cut off": (
        lambda t, b: (b / "encoder.json").write_text("{"),
        "encoder.json: not JSON",
    ),
    "encoder of lists": (
        lambda t, b: (b / "encoder.json").write_text('{"a": [1]}'),
        "not a JSON object of tokens to ids",
    ),
    "encoder of pairs": (lambda t, b: (b / "encoder.json").write_text('[["a", 1]]'), "JSON object"),
    "encoder of nothing": (lambda t, b: (b / "encoder.json").write_text("{}"), "tokens to ids"),
    "id as text": (lambda t, b: edit(b / "encoder.json", ": 7,", ': "7",'), "tokens to ids"),
    "id as a fraction": (lambda t, b: edit(b / "encoder.json", ": 7,", ": 7.0,"), "tokens to ids"),
    "id true": (lambda t, b: edit(b / "encoder.json", ": 1,", ": true,"), "tokens to ids"),
    "token twice": (lambda t, b: edit(b / "encoder.json", "{", '{"t": 999, '), "is there twice"),
    "Hugging Face's encoder": (
        lambda t, b: (b / "encoder.json").write_text(to_huggingface(b, 512)["vocab.json"]),
        "encoder.json: is a Hugging Face vocab.json, for it has <s> <pad> </s> <unk> <mask>",
    ),
    "Hugging Face's, its dictionary made to fit": (
        lambda t, b: as_huggingface(b),
        "encoder.json: is a Hugging Face vocab.json",
    ),
    "id unknown to the dictionary": (
        lambda t, b: drop_symbols(b, "?"),
        "1 ids of encoder.json, such as",
    ),
    "id unknown to the encoder": (
        lambda t, b: edit(b / "dict.txt", "madeupword0000", "99999"),
        "1 ids of dict.txt, such as 99999, are not in encoder.json",
    ),
    "merge without a piece": (
        lambda t, b: edit(b / "encoder.json", '"th":', '"thx":'),
        "1 tokens, such as 'th'",
    ),
    "negative id": (lambda t, b: edit(b / "encoder.json", ": 0,", ": -1,"), "tokens to ids"),
    "same id": (lambda t, b: edit(b / "encoder.json", ": 7,", ": 0,"), "have the same id"),
    "no id": (lambda t, b: edit(b / "encoder.json", '"a":', '"aa":'), "1 tokens, such as 'a'"),
    "no merges": (lambda t, b: (b / "vocab.bpe").unlink(), "vocab.bpe: no such file"),
    "merge of three": (lambda t, b: edit(b / "vocab.bpe", "t h\n", "t h e\n"), "line 2 is not two"),
    "merge too early": (
        lambda t, b: edit(b / "vocab.bpe", "t h\nth e\n", "th e\nt h\n"),
        "merge 1 joins 'th' and 'e' before both exist",
    ),
    "merge twice": (lambda t, b: edit(b / "vocab.bpe", "th e\n", "t h\nth e\n"), "there twice"),
}


@pytest.mark.parametrize("how", BAD_INPUT)
def test_bad_input_gives_one_line_and_leaves_nothing(
    text: Path, bpe: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = BAD_INPUT[how]
    spoil(text, bpe)
    arguments = ["--text", str(text), "--bpe", str(bpe), "--output", str(tmp_path / "bin")]
    status = run_step(main, arguments)
    shown = capsys.readouterr()
    assert status == 3
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"text", "bpe"}


def test_empty_split_is_written_empty(text: Path, bpe: Path, tmp_path: Path) -> None:
    for path in text.glob("dev.*"):
        path.write_bytes(b"")
    binarize(BinarizeConfig(text, bpe, tmp_path / "bin"))
    assert items(tmp_path / "bin" / "input2" / "valid") == []
    assert (tmp_path / "bin" / "label" / "valid.label").read_bytes() == b""


@pytest.mark.parametrize("changes", [{"max_unknown": 1.5}, {"max_unknown": -0.1}, {"workers": -1}])
def test_config_refuses_what_makes_no_sense(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        BinarizeConfig(Path("text"), Path("bpe"), Path("out"), **changes)


def test_token_type_is_fairseqs_choice() -> None:
    assert token_type(65_499) is np.uint16
    assert token_type(65_500) is np.uint32


def test_text_that_looks_like_a_special_token_is_text(bpe: Path) -> None:
    path = bpe / "encoder.json"
    pieces = json.loads(path.read_text())
    path.write_text(json.dumps({**pieces, "<|endoftext|>": len(pieces)}))
    ids = read_encoder(path, bpe / "vocab.bpe").encode([b"<|endoftext|>"])
    assert len(pieces) not in ids.tolist()
    assert len(ids) > 10


def test_command_needs_neither_torch_nor_fairseq_nor_kfp() -> None:
    code = (
        "import sys, components.binarize.__main__;"
        "print([m for m in ('torch', 'fairseq', 'kfp', 'awkward') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
