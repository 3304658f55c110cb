"""From RACE's JSON to fairseq's binary data: this pipeline beside fairseq's own scripts.

    python benchmarks/data_path.py --bpe gpt2_bpe --scale 1/8 1/2 1

makes a corpus of RACE's size from a seed, runs preprocess and binarize on it, runs fairseq's
scripts on it (see benchmarks/stock_race.py), compares every output file byte for byte, and prints
wall time, CPU time and peak memory of each, with the ratios. Whole commands are timed, from the
start of the interpreter on. The corpus is in the page cache for both.

`race check` of the same files is measured beside, without the BPE and with it: it should take no
longer than the two steps together. Its share of their CPU time is taken in each round, where it
comes after them and before them by turns.
"""

import argparse
import functools
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import stock_race
from corpus import make_corpus
from measure import Cost, measure

# Ids, summary, questions as asked and report, which fairseq's scripts do not write.
OURS_ALONE = {".id", ".json", ".question", ".html"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bpe",
        type=Path,
        help="folder with encoder.json, vocab.bpe and dict.txt; GPT-2's for figures that mean "
        "something (default: the small one of `race sample`)",
    )
    parser.add_argument(
        "--scale", type=Fraction, nargs="+", default=[Fraction(1, 8)], help="shares of RACE's size"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3, help="runs of ours; the median counts")
    parser.add_argument("--no-stock", action="store_true", help="measure ours alone")
    # fairseq's shell script has ten workers for both. Each worker of the encoder starts with an
    # empty cache, so that one a core is faster. fairseq-preprocess does the first of its shares
    # itself when its workers have done the others, so that many small shares are faster.
    parser.add_argument("--encoder-workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--preprocess-workers", type=int, default=10)
    parser.add_argument(
        "--work", type=Path, help="folder for the files (default: a new one in /tmp)"
    )
    given = parser.parse_args()
    print(f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="data_path-", dir=given.work) as work:
        bpe = given.bpe or small_bpe(Path(work))
        for scale in given.scale:
            run(scale, bpe, Path(work) / "run", given)
            shutil.rmtree(Path(work) / "run")


def run(scale: Fraction, bpe: Path, work: Path, given: argparse.Namespace) -> None:
    race = work / "RACE"
    passages, questions = make_corpus(race, bpe, scale, given.seed)
    print(f"\nscale {scale}: {passages:,} passages, {questions:,} questions", flush=True)
    rounds = run_ours(race, bpe, work / "ours", given.repeat)
    show_checks(rounds)
    ours = {step: median([found[step] for found in rounds]) for step in ("preprocess", "binarize")}
    if given.no_stock:
        show({"this pipeline": ours})
        return
    stock = run_stock(race, bpe, work / "stock", given)
    show({"this pipeline": ours, "fairseq": stock})
    files, size = compare(work / "ours", work / "stock")
    print(f"{files} files, {size / 1e6:,.0f} MB: the same bytes", flush=True)


def run_ours(race: Path, bpe: Path, work: Path, repeat: int) -> list[dict[str, Cost]]:
    """What each command takes in each round; the files of the last round stay."""
    text = work / "text"
    steps = {
        "preprocess": ["components.preprocess", "--race", race, "--output", text],
        "binarize": ["components.binarize", "--text", text, "--bpe", bpe, "--output", work / "bin"],
    }
    checks = {
        "check": ["components.check", "--data", race],
        "check --bpe": ["components.check", "--data", race, "--bpe", bpe],
    }
    rounds = []
    for number in range(repeat):
        shutil.rmtree(work, ignore_errors=True)
        commands = steps | checks if number % 2 else checks | steps
        rounds.append(
            {
                name: measure([sys.executable, "-m", *map(str, arguments)])
                for name, arguments in commands.items()
            }
        )
    return rounds


def median(costs: list[Cost]) -> Cost:
    """The run of median wall time."""
    return sorted(costs, key=lambda cost: cost.wall)[(len(costs) - 1) // 2]


def run_stock(race: Path, bpe: Path, work: Path, given: argparse.Namespace) -> dict[str, Cost]:
    text, output = work / "text", work / "bin"
    encode = stock_race.encode_commands(text, bpe, given.encoder_workers)
    binarize = stock_race.binarize_commands(text, bpe, output, given.preprocess_workers)
    costs = {
        "preprocess": measure_all(stock_race.preprocess_commands(race, text)),
        "binarize": measure_all([*encode, *binarize]),
    }
    stock_race.copy_labels(text, output)
    return costs


def measure_all(commands: Iterable[list[str]]) -> Cost:
    """What fairseq's commands take together, each in an interpreter of its own."""
    costs = (measure([sys.executable, stock_race.__file__, "--run", *c]) for c in commands)
    return functools.reduce(Cost.after, costs)


def show(runs: dict[str, dict[str, Cost]]) -> None:
    """A table in Markdown: a row for each step, the columns of ours, stock's, and the ratios."""
    columns = [f"{name}: wall s | CPU s | MiB" for name in runs]
    columns += ["times faster: wall | CPU"] if len(runs) == 2 else []
    print(f"| step | {' | '.join(columns)} |")
    print("|---" * (1 + 3 * len(runs) + 2 * (len(runs) == 2)) + "|")
    for step in ("preprocess", "binarize", "both"):
        found = [costs[step] if step != "both" else total(costs) for costs in runs.values()]
        cells = [
            f"{cell:,.{digits}f}" for c in found for cell, digits in zip(c, (2, 2, 0), strict=True)
        ]
        if len(found) == 2:
            ours, stock = found
            cells += [f"{stock.wall / ours.wall:.0f}", f"{stock.cpu / ours.cpu:.0f}"]
        print(f"| {step} | {' | '.join(cells)} |", flush=True)


def show_checks(rounds: list[dict[str, Cost]]) -> None:
    """A table in Markdown of what `race check` takes, and its share of the two steps' CPU time."""
    print("| race check | wall s | CPU s | MiB | of both steps' CPU time: median | in each round |")
    print("|---|---|---|---|---|---|")
    for name in ("check", "check --bpe"):
        cost = median([found[name] for found in rounds])
        both = [found["preprocess"].after(found["binarize"]) for found in rounds]
        shares = [found[name].cpu / two.cpu for found, two in zip(rounds, both, strict=True)]
        each = ", ".join(f"{share:.2f}" for share in shares)
        cells = f"{cost.wall:.2f} | {cost.cpu:.2f} | {cost.memory:.0f}"
        print(f"| {name} | {cells} | {statistics.median(shares):.2f} | {each} |", flush=True)


def total(costs: dict[str, Cost]) -> Cost:
    return functools.reduce(Cost.after, costs.values())


def compare(ours: Path, stock: Path) -> tuple[int, int]:
    """The number of files that both have made, and their bytes.

    Raises:
        SystemExit: a file differs, or only one of the two has made it.
    """
    mine = files_of(ours, OURS_ALONE)
    theirs = files_of(stock, {".bpe", ".log"})
    if mine.keys() != theirs.keys():
        raise SystemExit(f"not in both: {sorted(map(str, mine.keys() ^ theirs.keys()))}")
    for name, path in mine.items():
        if path.read_bytes() != theirs[name].read_bytes():
            raise SystemExit(f"{name} is not what fairseq writes")
    return len(mine), sum(path.stat().st_size for path in mine.values())


def files_of(folder: Path, without: set[str]) -> dict[Path, Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in without)
    return {path.relative_to(folder): path for path in files}


def small_bpe(work: Path) -> Path:
    from pipeline.sample import make_sample

    make_sample(work / "sample", passages=64)
    return work / "sample" / "bpe"


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


if __name__ == "__main__":
    main()
