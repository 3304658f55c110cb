"""From the command to the first update: the train step's wall and CPU time, all its processes.

    python benchmarks/start.py                                 # the size of roberta_large
    python benchmarks/start.py --layers 2 --width 64 --against ../other-checkout

measures `python -P -m components.train` on the CPU until fairseq has logged its first update, of
two short questions. With --against the same is done with another checkout's code in turn, ABBA.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from measure import tree  # noqa: E402
from race_data import VOCABULARY, make_data  # noqa: E402

from components.train import compat  # noqa: E402
from pipeline.sample import Shape, make_checkpoint  # noqa: E402

LONGEST = 16  # tokens of a sequence


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--against", type=Path, help="another checkout, to be measured in turn")
    arguments = parser.parse_args(argv)
    roots = [ROOT] if arguments.against is None else [arguments.against.resolve(), ROOT]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        compat.import_fairseq()
        make_data(folder / "data", {"train": 2, "valid": 2}, longest=LONGEST)
        shape = Shape(
            encoder_layers=arguments.layers,
            encoder_embed_dim=arguments.width,
            encoder_ffn_embed_dim=4 * arguments.width,
            encoder_attention_heads=max(1, arguments.width // 64),
            max_positions=512,
        )
        (folder / "model.pt").write_bytes(make_checkpoint(VOCABULARY - 5, 1, shape))
        flags = [
            *(f"--{name.replace('_', '-')}={value}" for name, value in vars(shape).items()),
            *(
                "--arch=roberta_base",
                f"--data={folder / 'data'}",
                "--device=cpu",
                "--log-interval=1",
            ),
            *(
                f"--pretrained={folder / 'model.pt'}",
                "--precision=fp32",
                "--effective-batch-size=2",
            ),
        ]
        found: dict[Path, list[tuple[float, float]]] = {root: [] for root in roots}
        for repeat in range(arguments.repeats):
            for root in roots if repeat % 2 == 0 else reversed(roots):
                found[root].append(first_update(root, flags, folder / "output"))
    for root, costs in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*costs, strict=True))
        print(f"{root.name}: first update after {wall:.1f} s, {cpu:.1f} s of CPU (medians)")


def first_update(root: Path, flags: list[str], output: Path) -> tuple[float, float]:
    """Seconds from the command on, and of CPU in all of its processes."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "components.train", *flags, f"--output={output}"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not any(
            '"num_updates": "1"' in log.read_text()
            for log in output.parent.glob(f".{output.name}.partial-*/train.log")
        ):
            if process.poll() is not None:
                assert process.stdout is not None
                raise SystemExit(process.stdout.read())
            time.sleep(0.02)
        return time.monotonic() - started, sum(map(cpu_seconds, tree(process.pid)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def cpu_seconds(pid: int) -> float:
    """Of a process and of those that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # proc(5): fields 14 to 17


if __name__ == "__main__":
    main()
