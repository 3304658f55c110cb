"""What the data steps hand on, by files, and what moving these takes on a cluster.

    python benchmarks/artifacts.py --bpe gpt2_bpe --scale 1

makes a corpus of RACE's size from a seed and its archive, downloads that unpacked (`--unpack`) and
as one file (`--pack`), and preprocesses both, in the order A B B A. It prints each artifact's files
and bytes, the seconds that Kubeflow Pipelines needs for them at 25 ms a file, and the CPU time and
memory of the steps. Both texts have to be the same.
"""

import argparse
import shutil
import sys
import tarfile
import tempfile
from fractions import Fraction
from pathlib import Path

from corpus import make_corpus
from data_path import cpu_name, files_of, small_bpe, total
from measure import Cost, measure

# Seconds that the launcher takes for a file, whatever its size: seen with KFP 2.17 and an S3 store.
A_FILE = 0.025
# How often it moves an artifact: from the step that makes it, and to each that reads it.
MOVES = {"race": 2, "text": 3, "data": 3}
FORMS = ("--unpack", "--pack")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bpe", type=Path, help="as of data_path.py")
    parser.add_argument("--scale", type=Fraction, default=Fraction(1, 8), help="share of RACE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="rounds of A B B A")
    given = parser.parse_args()
    print(cpu_name())
    with tempfile.TemporaryDirectory(prefix="artifacts-") as folder:
        work = Path(folder)
        bpe = given.bpe or small_bpe(work)
        passages, _ = make_corpus(work / "RACE", bpe, given.scale, given.seed)
        with tarfile.open(work / "RACE.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(work / "RACE", "RACE")
        print(f"{passages:,} passages\n")
        costs: dict[str, list[dict[str, Cost]]] = {form: [] for form in FORMS}
        for form in (*FORMS, *reversed(FORMS)) * given.repeat:
            costs[form].append(hand_on(work, form))
        if texts(work, "--unpack") != texts(work, "--pack"):
            raise SystemExit("the texts differ")
        text, data = work / "--pack" / "text", work / "data"
        run("binarize", "--text", text, "--bpe", bpe, "--output", data)
        show_costs(costs)
        show_sizes({form: work / form / "race" for form in FORMS} | {"text": text, "data": data})


def hand_on(work: Path, form: str) -> dict[str, Cost]:
    """Download and preprocess; their files stay until the next time."""
    place = work / form
    shutil.rmtree(place, ignore_errors=True)
    race, text = place / "race", place / "text"
    return {
        "download": run("download", form, "--url", work / "RACE.tar.gz", "--output", race),
        "preprocess": run("preprocess", "--race", race, "--output", text),
    }


def run(step: str, *arguments: str | Path) -> Cost:
    return measure([sys.executable, "-m", f"components.{step}", *map(str, arguments)])


def texts(work: Path, form: str) -> dict[Path, bytes]:
    found = files_of(work / form / "text", set())
    return {name: path.read_bytes() for name, path in found.items()}


def show_costs(costs: dict[str, list[dict[str, Cost]]]) -> None:
    """The mean CPU seconds of each step and of both, and the largest memory."""
    print("| race | download: CPU s | preprocess: CPU s | both: CPU s | wall s | peak MiB |")
    print("|---|---|---|---|---|---|")
    for form, runs in costs.items():
        steps = {s: sum(r[s].cpu for r in runs) / len(runs) for s in ("download", "preprocess")}
        both = [total(found) for found in runs]
        wall, memory = sum(c.wall for c in both) / len(both), max(c.memory for c in both)
        cells = [*steps.values(), sum(steps.values()), wall]
        print(f"| {form} | {' | '.join(f'{c:.2f}' for c in cells)} | {memory:.0f} |")


def show_sizes(artifacts: dict[str, Path]) -> None:
    print("\n| artifact | files | MB | moves | launcher s |")
    print("|---|---|---|---|---|")
    for name, folder in artifacts.items():
        files = [path.stat().st_size for path in files_of(folder, set()).values()]
        moves = MOVES.get(name, MOVES["race"])
        shown = f"race {name}" if name in FORMS else name
        seconds = len(files) * moves * A_FILE
        print(f"| {shown} | {len(files):,} | {sum(files) / 1e6:,.0f} | {moves} | {seconds:,.1f} |")


if __name__ == "__main__":
    main()
