"""What checkpoints cost: the time that training waits for them, and the time to go on from one.

    python benchmarks/resume.py --layers 12 --width 768

runs the train step on random tokens: once to the end, publishing its checkpoints, and once more
from the last of them, for as many updates. --uri s3://bucket/folder publishes to object storage
instead of a folder. The share of a run follows from the time of a checkpoint and of an update:

    seconds for a checkpoint / (updates between two * seconds for an update)
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from race_data import VOCABULARY, make_data  # noqa: E402

from components.train import compat  # noqa: E402
from components.train.rank.hooks import SAVED  # noqa: E402
from pipeline.sample import Shape, make_checkpoint  # noqa: E402


@dataclass(frozen=True)
class Result:
    """Times in seconds from the start of the command, and what it said with them."""

    lines: list[tuple[float, str]]
    saved: list[float]  # what each checkpoint took
    updates: list[float]  # between one logged update and the next

    def at(self, text: str) -> float:
        return next(when for when, line in self.lines if text in line)

    def said(self, pattern: str) -> list[float]:
        return [float(f[1]) for _, line in self.lines if (f := re.search(pattern, line))]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--updates", type=int, default=6, help="of each of the two runs")
    parser.add_argument("--interval", type=int, default=2, help="updates between checkpoints")
    parser.add_argument("--longest", type=int, default=64, help="tokens of a sequence")
    parser.add_argument("--engine", choices=("packed", "stock"), default="packed")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--uri", default="", help="where checkpoints go (default: a folder)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        compat.import_fairseq()
        questions = 4 * 2 * arguments.updates
        make_data(folder / "data", {"train": questions, "valid": 8}, longest=arguments.longest)
        shape = Shape(
            encoder_layers=arguments.layers,
            encoder_embed_dim=arguments.width,
            encoder_ffn_embed_dim=4 * arguments.width,
            encoder_attention_heads=max(1, arguments.width // 64),
            max_positions=arguments.longest,
        )
        (folder / "model.pt").write_bytes(make_checkpoint(VOCABULARY - 5, 1, shape))
        uri = arguments.uri or str(folder / "checkpoints")
        options: dict[str, object] = {
            "data": folder / "data",
            "pretrained": folder / "model.pt",
            "arch": "roberta_base",
            "max_option_length": arguments.longest // 2,
            "engine": arguments.engine,
            "precision": arguments.precision,
            "effective_batch_size": 4,
            "checkpoint_uri": uri,
            "checkpoint_interval": arguments.interval,
            "log_interval": 1,
            "epochs": 1,
            **{name: getattr(shape, name) for name in Shape.__dataclass_fields__},
        }
        kept = {"max_updates": arguments.updates, "keep_checkpoints_after_end": True}
        first = run(folder / "first", options | kept)
        second = run(folder / "second", options | {"max_updates": 2 * arguments.updates})
    report(first, second)


def run(output: Path, options: dict[str, object]) -> Result:
    """Run the train step with these parameters."""
    command = [sys.executable, "-m", "components.train", "--output", str(output)]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        command.append(flag if value is True else f"{flag}={value}")
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    lines = [(time.monotonic() - started, line.rstrip()) for line in process.stdout]
    if process.wait():
        raise SystemExit("\n".join(line for _, line in lines))
    log = (output / "train.log").read_text().splitlines()
    saved = [json.loads(line.removeprefix(SAVED)) for line in log if line.startswith(SAVED)]
    records = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
    times = [record["seconds"] for record in records if record["split"] == "train"]
    updates = [after - before for before, after in itertools.pairwise(times)]
    return Result(lines, [about["seconds"] for about in saved], updates)


def report(first: Result, second: Result) -> None:
    size = first.said(r"published update-\d+: ([\d.]+) MiB")
    print(f"a checkpoint: {max(size):.0f} MiB, both files")
    waits = first.saved + second.saved
    print(f"training waits for one: {statistics.median(waits):.2f} s (median of {len(waits)})")
    print(f"an update: {statistics.median(first.updates):.2f} s")
    publishing = first.said(r"published update-.* in ([\d.]+) s")
    print(f"publishing one, beside training: {max(publishing):.1f} s at most")
    for name, result in (("from the start", first), ("going on", second)):
        print(f"{name}: fairseq starts after {result.at('training roberta'):.1f} s")
    print(f"fetched and checked: {second.said('checked in ([0-9.]+) s')[0]:.1f} s")


if __name__ == "__main__":
    main()
