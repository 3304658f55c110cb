"""fairseq's own way from RACE's JSON to binary data, with its scripts unmodified:

    python benchmarks/stock_race.py --race RACE --bpe gpt2_bpe --text text --output data-bin

runs examples/roberta/preprocess_RACE.py and the commands of preprocess_RACE.sh: 20 times
multiprocessing_bpe_encoder and five times fairseq-preprocess. The shell script's downloads are left
out, and the number of workers, ten in the script, is a parameter. Two things around the scripts are
ours: fairseq is made importable on this Python (components.train.compat), and the files of a folder
are listed in the pipeline's order, where preprocess_RACE.py takes any.

With --one-process all runs share one interpreter, which imports torch and fairseq once: for tests.
"""

import argparse
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SPLITS = ("train", "dev", "test-middle", "test-high")
INPUTS = ("input0", "input1", "input2", "input3", "input4")
LABELS = {"train": "train", "dev": "valid", "test-middle": "test", "test-high": "test1"}


def preprocess_commands(race: Path, text: Path) -> Iterator[list[str]]:
    """The command that makes the text columns; the first word says what `run` is to run."""
    yield ["preprocess_RACE", "--input-dir", str(race), "--output-dir", str(text)]


def encode_commands(text: Path, bpe: Path, workers: int) -> Iterator[list[str]]:
    """The 20 commands that turn text columns into columns of GPT-2's ids."""
    for column in INPUTS:
        for split in SPLITS:
            yield [
                "multiprocessing_bpe_encoder",
                *("--encoder-json", str(bpe / "encoder.json")),
                *("--vocab-bpe", str(bpe / "vocab.bpe")),
                *("--inputs", str(text / f"{split}.{column}")),
                *("--outputs", str(text / f"{split}.{column}.bpe")),
                *("--workers", str(workers)),
                "--keep-empty",
            ]


def binarize_commands(text: Path, bpe: Path, output: Path, workers: int) -> Iterator[list[str]]:
    """The five commands that turn the ids into binary data."""
    for column in INPUTS:
        tests = (str(text / f"{split}.{column}.bpe") for split in ("test-middle", "test-high"))
        yield [
            "fairseq-preprocess",
            "--only-source",
            *("--trainpref", str(text / f"train.{column}.bpe")),
            *("--validpref", str(text / f"dev.{column}.bpe")),
            *("--testpref", ",".join(tests)),
            *("--destdir", str(output / column)),
            *("--workers", str(workers)),
            *("--srcdict", str(bpe / "dict.txt")),
        ]


def copy_labels(text: Path, output: Path) -> None:
    (output / "label").mkdir(parents=True)
    for split, name in LABELS.items():
        shutil.copyfile(text / f"{split}.label", output / "label" / f"{name}.label")


def run(command: Sequence[str]) -> None:
    """Run one of the commands in this process."""
    name, sys.argv = command[0], list(command)
    scripts = Path(_fairseq_folder()) / "examples" / "roberta"
    if name == "preprocess_RACE":
        os.listdir = _in_order(os.listdir)
        runpy.run_path(str(scripts / "preprocess_RACE.py"), run_name="__main__")
        return
    from components.train import compat

    if name == "multiprocessing_bpe_encoder":
        compat.import_fairseq("fairseq.data.encoders.gpt2_bpe")
        runpy.run_path(str(scripts / "multiprocessing_bpe_encoder.py"), run_name="__main__")
    else:
        compat.run(name, command[1:])


def run_apart(command: Sequence[str]) -> None:
    """Run one of the commands in an interpreter of its own, as the shell script does."""
    subprocess.run([sys.executable, __file__, "--run", *command], check=True)


def _fairseq_folder() -> str:
    spec = importlib.util.find_spec("fairseq")
    assert spec is not None
    assert spec.origin is not None
    return os.path.dirname(spec.origin)


def _in_order(listdir):
    def by_number(name: str):
        pieces = re.split("([0-9]+)", name)
        return [int(p) if i % 2 else p for i, p in enumerate(pieces)], name

    return lambda folder: sorted(listdir(folder), key=by_number)


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--race", type=Path, help="RACE's folder (default: text is there already)")
    parser.add_argument("--bpe", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--one-process", action="store_true")
    given = parser.parse_args()
    commands = [
        *encode_commands(given.text, given.bpe, given.workers),
        *binarize_commands(given.text, given.bpe, given.output, given.workers),
    ]
    if given.race:
        commands = [*preprocess_commands(given.race, given.text), *commands]
    for command in commands:
        (run if given.one_process else run_apart)(command)
    copy_labels(given.text, given.output)


if __name__ == "__main__":
    main()
