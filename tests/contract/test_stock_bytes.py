"""preprocess and binarize write what fairseq's own scripts write, byte for byte."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from components.binarize.core import BinarizeConfig, binarize
from components.download.archive import unpack
from components.download.core import DownloadConfig, download
from components.preprocess.core import PreprocessConfig, preprocess

ROOT = Path(__file__).parents[2]
OURS_ALONE = {".id", ".json", ".question", ".html"}

AWKWARD = [
    "plain and the thing",
    "",
    " ",
    "  led and  trailed   by spaces  ",
    "tabs\tand\r\nnewlines\n\nof\x0bevery\x0ckind\x85and\u2028more\u2029",
    "\x1cfile\x1dgroup\x1erecord\x1funit\x1c",
    "\xa0non-breaking\xa0\u202fspaces\u2003and\u3000wide ones\xa0",
    "\u200bzero\u200dwidth\ufeffis not space\u200b",
    "blank ___ and _ and __",
    "families 👩‍👩‍👧‍👦 and flags 🏳️‍🌈 🇳🇱 and ❤️",
    "combining e\u0301 n\u0303\u0303\u0303 \u0301alone",
    "x" * 5_000,
    "supercalifragilistic" * 50 + " é" * 50,
    "<s> </s> <pad> <unk> <mask> <|endoftext|> madeupword0000 #fairseq:overwrite 50256",
    "don't DON'T it's IT'S we'll we've I'm they're he'd 's 'LL",
    "½ ² Ⅷ ٣ 三 1,234.56 0x1F 10%",
    "中文 ไทย العربية हिन्दी ǅ ß İ ı \u0378",
    "nul \0 and controls \x01\x7f\x9f",
    "quotes \u2018a\u2019 \u201cb\u201d dash \u2014 dots \u2026 caf\u00e9",
    "a\\nb is not a newline; \\u0041 is not an A",
]


def write_passage(folder: Path, name: str, article: str, questions: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "article": article,
        "questions": [q["question"] for q in questions],
        "options": [q["options"] for q in questions],
        "answers": [q["answer"] for q in questions],
        "id": name,
    }
    # Escaped or not: the text is the same.
    escaped = len(questions) % 2 == 0
    (folder / name).write_text(json.dumps(content, ensure_ascii=escaped), encoding="utf-8")


def write_awkward_dataset(race: Path) -> None:
    """Every awkward text as a passage, as a question and as an option; no question in dev."""
    n = len(AWKWARD)
    for split in ("train", "test"):
        for level in ("middle", "high"):
            for i, article in enumerate(AWKWARD):
                questions = [
                    {
                        "question": AWKWARD[(i + 3 * j) % n],
                        "options": [AWKWARD[(i + j + k * k) % n] for k in range(4)],
                        "answer": "ABCD"[(i + j) % 4],
                    }
                    for j in range(1 + i % 3)
                ]
                write_passage(race / split / level, f"{3 * i + 1}.txt", article, questions)
            write_passage(race / split / level, "10000.txt", "no question", [])
    for level in ("middle", "high"):
        write_passage(race / "dev" / level, "1.txt", "no question", [])


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in {".bpe", ".log"}
    }


def stock(race: Path, bpe: Path, work: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What fairseq makes of `race`: its text columns and its binary data."""
    text, output = work / "stock_text", work / "stock_bin"
    command = [sys.executable, str(ROOT / "benchmarks" / "stock_race.py"), "--one-process"]
    for name, value in {"race": race, "bpe": bpe, "text": text, "output": output}.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(
        [*command, "--workers", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return files(text), files(output)


def ours(race: Path, bpe: Path, work: Path, **options) -> tuple[dict[str, bytes], dict[str, bytes]]:
    with tarfile.open(work / "race.tar", "w") as archive:
        archive.add(race, "RACE")
    download(DownloadConfig((str(work / "race.tar"),), work / "packed", pack=True))
    preprocess(PreprocessConfig(work / "packed", work / "text"))
    binarize(BinarizeConfig(work / "text", bpe, work / "bin", **options))
    text = {n: b for n, b in files(work / "text").items() if Path(n).suffix not in OURS_ALONE}
    return text, {n: b for n, b in files(work / "bin").items() if Path(n).suffix not in OURS_ALONE}


def assert_same(ours: dict[str, bytes], stock: dict[str, bytes]) -> None:
    assert ours.keys() == stock.keys()
    assert [name for name in stock if ours[name] != stock[name]] == []


def test_real_vocabulary_on_real_passages_and_awkward_text(
    shared_data: Path, tmp_path: Path
) -> None:
    unpack(shared_data / "race-mini.tar.gz", tmp_path)
    write_awkward_dataset(tmp_path / "awkward")
    for path in (tmp_path / "awkward").rglob("*.txt"):
        target = tmp_path / "RACE" / path.relative_to(tmp_path / "awkward").parent / f"0{path.name}"
        shutil.copyfile(path, target)
    ours_text, ours_bin = ours(tmp_path / "RACE", shared_data, tmp_path)
    stock_text, stock_bin = stock(tmp_path / "RACE", shared_data, tmp_path)
    assert len(stock_text) == 24
    assert_same(ours_text, stock_text)
    assert len(stock_bin) == 5 * 9 + 4
    assert_same(ours_bin, stock_bin)


def test_small_vocabulary_with_unknown_ids_and_an_empty_split(
    tiny_bpe: Path, tmp_path: Path
) -> None:
    bpe = tmp_path / "bpe"
    shutil.copytree(tiny_bpe, bpe)
    symbols = (bpe / "dict.txt").read_text().splitlines(keepends=True)
    # Some ids are unknown, one is there twice, and a count is not written as fairseq writes it.
    first = symbols[5].split()[0]
    symbols[7] = symbols[7].split()[0] + " 0_07\n"
    (bpe / "dict.txt").write_text("".join(symbols[:-20]) + f"{first} 3 #fairseq:overwrite\n")
    write_awkward_dataset(tmp_path / "race")
    ours_text, ours_bin = ours(tmp_path / "race", bpe, tmp_path, max_unknown=1)
    stock_text, stock_bin = stock(tmp_path / "race", bpe, tmp_path)
    assert stock_text["dev.input0"] == b""
    assert_same(ours_text, stock_text)
    assert_same(ours_bin, stock_bin)
    assert b" 7\n" in stock_bin["input0/dict.txt"]
