"""The first measurements on a GPU: is it right, how fast is it, and what takes the time.

    python benchmarks/gpu_first.py --out DIR --budget 520
    python benchmarks/gpu_first.py --table DIR

Each part runs in a process of its own, within its own limit, and leaves DIR/NAME.json; one that
fails costs only itself. A second call with the same DIR runs what is missing and what failed. The
budget is in seconds; no part is started that might not end within it. `--rehearse` runs all parts
on the CPU with a tiny model. `--table` writes the figures into RESULTS.md.

On a machine without fairseq: `make gpu-wheels` collects what it needs.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import table  # noqa: E402
from benchmarks.gpu.runner import Part, run_parts  # noqa: E402

RESULTS = ROOT / "benchmarks" / "RESULTS.md"


def _speed(name: str, engine: str, precision: str, limit: float, **options: object) -> Part:
    return Part(
        f"speed_{name}",
        "benchmarks.gpu.speed:speed",
        limit,
        {"engine": engine, "precision": precision, **options},
    )


# In this order: what says whether the rest can be believed comes first.
PARTS = (
    Part("machine", "benchmarks.gpu.machine:machine", 60),
    Part("kernels", "benchmarks.gpu.kernels:kernels", 60),
    Part("agreement", "benchmarks.gpu.agreement:agreement", 90),
    # A B B A, and then what is measured once.
    _speed("1", "packed", "fp16", 100),
    _speed("2", "stock", "fp16", 150, batch_size=16),
    _speed("3", "stock", "fp16", 150, batch_size=16),
    _speed("4", "packed", "fp16", 100),
    Part("profile", "benchmarks.gpu.speed:profile", 100),
    Part("learning_fp16", "benchmarks.gpu.training:learning", 120, {"precision": "fp16"}),
    Part("learning_bf16", "benchmarks.gpu.training:learning", 120, {"precision": "bf16"}),
    Part("steps", "benchmarks.gpu.training:steps", 150),
    _speed("bf16", "packed", "bf16", 100),
    _speed("seed", "stock", "fp16", 120, batch_size=1, updates=10),
    Part("optimizer", "benchmarks.gpu.speed:optimizer", 60),
    Part("full_memory", "benchmarks.gpu.training:full_memory", 90),
    _speed(
        "allocator",
        "packed",
        "fp16",
        100,
        updates=15,
        environment={"PYTORCH_ALLOC_CONF": "expandable_segments:False"},
    ),
    Part("nccl", "benchmarks.gpu.training:nccl", 60),
    Part("ranks", "benchmarks.gpu.training:ranks", 90),
    Part("cudnn", "benchmarks.gpu.kernels:cudnn", 45),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the figures; may have some already")
    parser.add_argument("--budget", type=float, default=520, help="seconds (default: 520)")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a tiny model")
    parser.add_argument("--table", type=Path, metavar="DIR", help="write RESULTS.md from DIR")
    arguments = parser.parse_args(argv)
    if arguments.table:
        table.write(RESULTS, arguments.table)
        return 0
    if not arguments.out:
        parser.error("give --out DIR, or --table DIR")
    parts, budget = list(PARTS), arguments.budget
    if arguments.rehearse:  # on a busy machine
        parts, budget = [dataclasses.replace(p, limit=4 * p.limit) for p in parts], 3600
    missing = run_parts(parts, arguments.out.absolute(), budget, arguments.rehearse)
    if missing:
        print(f"without figures: {', '.join(missing)}; the same command goes on with them")
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
