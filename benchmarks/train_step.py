"""Speed of training: stock fairseq-train and the packed engine, side by side on the same data.

    python benchmarks/train_step.py                            # a GPU: roberta_large, fp16
    python benchmarks/train_step.py --layers 2 --width 64      # the CPU: a small model, fp32

runs the train step's own command for each engine in a process of its own, from random weights, on
random tokens with RACE's lengths, and times the updates after a warm-up, reading of data included.
With --data and --pretrained it trains on real text instead, and the losses can be compared. A run
that fails, or takes longer than --limit, costs only itself: the others are printed as they come.

--stock-batch-size may be repeated: 1 is the seed's, larger ones are kinder to stock fairseq.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.race_data import make_data  # noqa: E402
from benchmarks.updates import (  # noqa: E402
    Phase,
    RunFailed,
    machine,
    matmul_speed,
    question_flops,
    run_updates,
    sequence_lengths,
)
from components.train import compat  # noqa: E402
from components.train.config import ARCHITECTURES, TrainConfig  # noqa: E402

RACE_QUESTIONS = 87_866
EPOCHS = 5


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus and not (arguments.layers and arguments.width):
        raise SystemExit("no GPU: give a small model with --layers and --width")
    arguments.precision = arguments.precision or ("fp16" if gpus else "fp32")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.data is None:
            updates = arguments.warm_up + max(arguments.updates, arguments.stock_updates)
            compat.import_fairseq()
            make_data(
                folder / "data", {"train": updates * arguments.effective_batch_size, "valid": 8}
            )
            arguments.data = folder / "data"
        raise SystemExit(compare(arguments, folder, gpus))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--engine", choices=("both", "stock", "packed"), default="both")
    add("--arch", choices=tuple(ARCHITECTURES), default="roberta_large")
    add("--layers", type=int, default=0, help="0 is the architecture's own")
    add("--width", type=int, default=0, help="0 is the architecture's own")
    add("--heads", type=int, default=0, help="default with --width: one for each 64, at least 2")
    add("--precision", choices=("fp16", "bf16", "fp32"), help="default: fp16, on the CPU fp32")
    add("--updates", type=int, default=100, help="updates to time")
    add("--stock-updates", type=int, default=20, help="of stock fairseq, which is slower")
    add("--limit", type=float, default=600, help="seconds that a run may take")
    add("--warm-up", type=int, default=10, help="updates before that")
    add("--repeats", type=int, default=1, help="runs of each engine, in turn; the median counts")
    add("--effective-batch-size", type=int, default=16)
    add("--stock-batch-size", type=int, action="append", help="default: 1")
    add("--processes", type=int, default=1)
    add("--token-budget", type=int, default=0)
    add("--dropout", type=float, default=0.1, help="also of attention weights")
    add("--learning-rate", type=float, default=1e-5)
    add("--data", type=Path, help="a folder that binarize wrote, instead of random tokens")
    add("--pretrained", type=Path, help="a checkpoint, instead of random weights")
    add("--curves", type=Path, help="write each run's losses to this file, as JSON")
    return parser.parse_args(argv)


def compare(arguments: argparse.Namespace, folder: Path, gpus: int) -> int:
    """Run and print; gives the exit status, 1 if any run failed."""
    runs: list[tuple[str, str, int]] = []  # name, engine, batch size
    if arguments.engine != "packed":
        for size in arguments.stock_batch_size or [1]:
            runs.append((f"stock, {size} at once", "stock", size))
    if arguments.engine != "stock":
        runs.append(("packed", "packed", 1))
    table = Table(arguments, gpus)
    for repeat in range(arguments.repeats):
        for name, engine, size in runs:
            print(f"{name}, run {repeat + 1} of {arguments.repeats}", file=sys.stderr, flush=True)
            updates = arguments.stock_updates if engine == "stock" else arguments.updates
            phases = [Phase("warm-up", arguments.warm_up), Phase("timed", updates)]
            config = train_config(arguments, folder, engine, size)
            try:
                table.add(name, run_updates(config, phases, gpus=gpus, limit=arguments.limit)[0])
            except RunFailed as error:
                table.failed.append(name)
                print(f"{name} failed: {error}", file=sys.stderr, flush=True)
            if arguments.curves:
                arguments.curves.write_text(json.dumps(table.curves))
    table.ratios()
    return 1 if table.failed else 0


def train_config(
    arguments: argparse.Namespace, folder: Path, engine: str, batch_size: int
) -> TrainConfig:
    width = arguments.width
    return TrainConfig(
        data=arguments.data,
        # fairseq starts from random weights when there is no such file.
        pretrained=(arguments.pretrained or folder / "none.pt").absolute(),
        output=folder / "output",
        arch=arguments.arch,
        engine=engine,  # type: ignore[arg-type]
        encoder_layers=arguments.layers,
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=4 * width,
        encoder_attention_heads=arguments.heads or (max(2, width // 64) if width else 0),
        effective_batch_size=arguments.effective_batch_size,
        batch_size=batch_size,
        token_budget=arguments.token_budget,
        processes=arguments.processes,
        learning_rate=arguments.learning_rate,
        dropout=arguments.dropout,
        attention_dropout=arguments.dropout,
        precision=arguments.precision,
        log_interval=1,
    )


class Table:
    """A row for each run, printed when it has ended."""

    def __init__(self, arguments: argparse.Namespace, gpus: int) -> None:
        self.arguments, self.gpus = arguments, gpus
        self.failed: list[str] = []
        self.runs: dict[str, list[dict[str, Any]]] = {}
        config = train_config(arguments, Path(), "packed", 1)
        shape, lengths = config.shape(vocabulary=0), sequence_lengths(config)
        self.tokens, self.flops = float(lengths.sum(1).mean()), question_flops(shape, lengths)
        self.matmul = matmul_speed("cuda" if gpus else "cpu", config.precision)
        self.matmul *= arguments.processes
        print(
            f"{shape.layers} layers, width {shape.embed_dim}, {shape.attention_heads} heads,"
            f" {config.precision}, effective batch {config.effective_batch_size},"
            f" dropout {config.dropout:g}; {self.tokens / 4:.0f} tokens a sequence,"
            f" {100 * (lengths == config.max_positions).mean():.0f} % of them cut;"
            f" {machine(gpus)}"
        )
        columns = ["engine", "updates", "questions/s", "tokens/s", "TFLOP/s", "% of matmul"]
        columns += ["peak GiB" if gpus else "questions/CPU s", "last losses"]
        print("| " + " | ".join(columns) + " |")
        print("|---" * len(columns) + "|", flush=True)

    @property
    def curves(self) -> dict[str, list[list[float]]]:
        return {name: [run["losses"] for run in found] for name, found in self.runs.items()}

    def add(self, name: str, run: dict[str, Any]) -> None:
        self.runs.setdefault(name, []).append(run)
        rate, cpu_rate = self._rate(run, "seconds"), self._rate(run, "cpu_seconds")
        last = [x for x in run["losses"][-len(run["losses"]) // 4 :] if x]
        cells = [
            name,
            str(run["phases"]["timed"]["updates"]),
            f"{rate:.2f}",
            f"{rate * self.tokens:.0f}",
            f"{rate * self.flops / 1e12:.3g}",
            f"{100 * rate * self.flops / self.matmul:.0f}",
            f"{run['peak_bytes'] / 2**30:.1f}" if self.gpus else f"{cpu_rate:.2f}",
            f"{np.mean(last):.4f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)

    def _rate(self, run: dict[str, Any], of: str) -> float:
        timed = run["phases"]["timed"]
        return float(timed["updates"] * self.arguments.effective_batch_size / timed[of])

    def ratios(self) -> None:
        """What the medians of all runs say."""
        rates, cpu_rates = (
            {n: statistics.median(self._rate(run, of) for run in r) for n, r in self.runs.items()}
            for of in ("seconds", "cpu_seconds")
        )
        if "packed" not in rates:
            return
        if self.gpus:
            minutes = EPOCHS * RACE_QUESTIONS / rates["packed"] / 60
            print(
                f"packed: {EPOCHS} epochs of RACE's {RACE_QUESTIONS} questions: {minutes:.0f} min"
            )
        for name in rates.keys() - {"packed"}:
            print(f"packed is {rates['packed'] / rates[name]:.2f} times as fast as {name}", end="")
            in_cpu_time = cpu_rates["packed"] / cpu_rates[name]
            print("" if self.gpus else f" ({in_cpu_time:.2f} times in CPU time)")


if __name__ == "__main__":
    main()
