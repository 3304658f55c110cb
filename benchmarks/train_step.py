"""Speed of training: stock fairseq-train and the packed engine, side by side on the same data.

    python benchmarks/train_step.py                            # a GPU: roberta_large, fp16
    python benchmarks/train_step.py --layers 2 --width 64      # the CPU: a small model, fp32

runs the train step's own command for each engine in a process of its own, from random weights, on
random tokens with RACE's lengths, and times the updates after a warm-up, reading of data included.
With --data and --pretrained it trains on real text instead, and the losses can be compared.

--stock-batch-size may be repeated: 1 is the seed's, larger ones are kinder to stock fairseq.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from race_data import make_data  # noqa: E402

from components.common.dataset import count_options  # noqa: E402
from components.train import compat  # noqa: E402
from components.train.config import ARCHITECTURES, TrainConfig, plan  # noqa: E402
from components.train.flags import Run, fairseq_arguments  # noqa: E402
from components.train.supervisor import supervise  # noqa: E402

RESULT = "RESULT "
RACE_QUESTIONS = 87_866
EPOCHS = 5


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.child:
        child(json.loads(arguments.child))
        return
    import torch

    cuda = torch.cuda.is_available()
    if not cuda and not (arguments.layers and arguments.width):
        raise SystemExit("no GPU: give a small model with --layers and --width")
    arguments.precision = arguments.precision or ("fp16" if cuda else "fp32")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.data is None:
            updates = arguments.warm_up + arguments.updates
            compat.import_fairseq()
            make_data(
                folder / "data", {"train": updates * arguments.effective_batch_size, "valid": 8}
            )
            arguments.data = folder / "data"
        compare(arguments, folder, gpus=torch.cuda.device_count())


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
    add("--updates", type=int, default=200, help="updates to time")
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
    add("--child", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def compare(arguments: argparse.Namespace, folder: Path, gpus: int) -> None:
    runs: list[tuple[str, str, int]] = []  # name, engine, batch size
    if arguments.engine != "packed":
        for size in arguments.stock_batch_size or [1]:
            runs.append((f"stock, {size} at once", "stock", size))
    if arguments.engine != "stock":
        runs.append(("packed", "packed", 1))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in runs}
    for repeat in range(arguments.repeats):
        for name, engine, size in runs:
            print(f"{name}, run {repeat + 1} of {arguments.repeats}", file=sys.stderr, flush=True)
            results[name].append(measure(arguments, folder, gpus, engine, size))
    report(arguments, results, gpus)
    if arguments.curves:
        curves = {name: [run["losses"] for run in found] for name, found in results.items()}
        arguments.curves.write_text(json.dumps(curves))


def measure(
    arguments: argparse.Namespace, folder: Path, gpus: int, engine: str, batch_size: int
) -> dict[str, Any]:
    """Run one engine in a process of its own (or several, with --processes)."""
    config = train_config(arguments, folder, engine, batch_size)
    the_plan = plan(config, gpus=gpus, questions=10**6)
    run = Run(config, the_plan, config.pretrained, folder / "checkpoints")
    job = {
        "arguments": [*fairseq_arguments(run), "--no-save", "--disable-validation"],
        "warm_up": arguments.warm_up,
        "updates": arguments.updates,
    }
    rank = [sys.executable, str(Path(__file__)), "--child", json.dumps(job)]
    done = subprocess.run(
        supervise.command(the_plan.processes, rank),
        env=supervise.environment(the_plan.processes, the_plan.device, os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not found:
        raise SystemExit(f"{engine} failed:\n{done.stdout[-4000:]}")
    result: dict[str, Any] = json.loads(found[0].removeprefix(RESULT))
    return result


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
        epochs=1000,
        max_updates=arguments.warm_up + arguments.updates,
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


def child(job: dict[str, Any]) -> None:
    """Train, and time the updates where fairseq comes by after each of them."""
    from components.train import records
    from components.train.supervisor.log import TrainLog

    compat.import_fairseq()
    import fairseq_cli.train
    import torch

    marks: dict[int, tuple[float, float]] = {}
    log = TrainLog()
    validate_and_save = fairseq_cli.train.validate_and_save

    def after_update(cfg: Any, trainer: Any, *rest: Any) -> Any:
        update = trainer.get_num_updates()
        if update in (job["warm_up"], job["warm_up"] + job["updates"]) and update not in marks:
            if trainer.cuda:
                torch.cuda.synchronize()
            marks[update] = (time.perf_counter(), time.process_time())
        if trainer.cuda:  # fairseq resets the peak after each update
            peaks.append(max(torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()))
        return validate_and_save(cfg, trainer, *rest)

    peaks: list[int] = []

    def prepare() -> None:
        fairseq_cli.train.validate_and_save = after_update
        records.install(lambda told: log.add(told))

    compat.run("fairseq-train", job["arguments"], prepare)
    (start, cpu_start), (end, cpu_end) = (
        marks[job["warm_up"] + updates] for updates in (0, job["updates"])
    )
    result = {
        "seconds": end - start,
        "cpu_seconds": cpu_end - cpu_start,
        "peak_bytes": max(peaks, default=0),
        "losses": [record["loss"] for record in log.of("train")],
        "matmul": matmul_speed(job["arguments"]),
    }
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"\n{RESULT}{json.dumps(result)}", flush=True)
    os._exit(0)


def matmul_speed(arguments: list[str]) -> float:
    """Floating point operations a second in a large matrix product of the run's precision."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.float16 if "--fp16" in arguments else torch.float32
    kind = torch.bfloat16 if "--bf16" in arguments else kind
    side, rounds = (8192, 30) if device == "cuda" else (1024, 5)
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    best = 0.0
    for _ in range(3):
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(rounds):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 * rounds / (time.perf_counter() - start))
    return best


def report(
    arguments: argparse.Namespace, results: dict[str, list[dict[str, Any]]], gpus: int
) -> None:
    config = train_config(arguments, Path(), "packed", 1)
    shape = config.shape(vocabulary=0)
    lengths = sequence_lengths(config)
    tokens_per_question = float(lengths.sum(1).mean())
    flops_per_question = question_flops(shape, lengths)
    questions = arguments.updates * arguments.effective_batch_size
    print(
        f"{shape.layers} layers, width {shape.embed_dim}, {shape.attention_heads} heads,"
        f" {config.precision}, effective batch {config.effective_batch_size},"
        f" dropout {config.dropout:g}; {tokens_per_question / 4:.0f} tokens a sequence,"
        f" {100 * (lengths == config.max_positions).mean():.0f} % of them cut;"
        f" {arguments.updates} updates timed; {machine(gpus)}"
    )
    columns = ["engine", "questions/s", "tokens/s", "TFLOP/s", "% of matmul", "peak GiB"]
    if not gpus:
        columns.append("questions/CPU s")
    print("| " + " | ".join([*columns, "last losses"]) + " |")
    print("|---" * (len(columns) + 1) + "|")
    rates, cpu_rates = {}, {}
    for name, runs in results.items():
        rate = statistics.median(questions / run["seconds"] for run in runs)
        cpu_rate = statistics.median(questions / run["cpu_seconds"] for run in runs)
        rates[name], cpu_rates[name] = rate, cpu_rate
        speed = max(run["matmul"] for found in results.values() for run in found)
        speed *= arguments.processes
        last = [x for run in runs for x in run["losses"][-len(run["losses"]) // 4 :] if x]
        cells = [
            name,
            f"{rate:.2f}",
            f"{rate * tokens_per_question:.0f}",
            f"{rate * flops_per_question / 1e12:.3g}",
            f"{100 * rate * flops_per_question / speed:.0f}",
            f"{max(run['peak_bytes'] for run in runs) / 2**30:.1f}" if gpus else "",
        ]
        if not gpus:
            cells.append(f"{cpu_rate:.2f}")
        print("| " + " | ".join([*cells, f"{np.mean(last):.4f}"]) + " |")
    if gpus and "packed" in rates:
        minutes = EPOCHS * RACE_QUESTIONS / rates["packed"] / 60
        print(
            f"packed: {EPOCHS} epochs of RACE's {RACE_QUESTIONS} questions take {minutes:.0f} min"
        )
    for name in rates:
        if name != "packed" and "packed" in rates:
            print(f"packed is {rates['packed'] / rates[name]:.2f} times as fast as {name}", end="")
            in_cpu_time = cpu_rates["packed"] / cpu_rates[name]
            print("" if gpus else f" ({in_cpu_time:.2f} times in CPU time)")


def sequence_lengths(config: TrainConfig) -> np.ndarray[Any, Any]:
    """Tokens of each training question's options, (questions, options), as fairseq cuts them."""
    compat.import_fairseq()
    from fairseq.data import data_utils

    columns = []
    for column in range(count_options(config.data) + 1):
        path = str(config.data / f"input{column}" / "train")
        dataset = data_utils.load_indexed_dataset(path, None, "mmap")
        columns.append(np.array(dataset.sizes))  # a copy: the data set unmaps its own
    return cut_lengths(config, columns)


def cut_lengths(
    config: TrainConfig, columns: Sequence[np.ndarray[Any, Any]]
) -> np.ndarray[Any, Any]:
    """Tokens of each question's sequences, (questions, options), from those of its passage and of
    its options, as they are on disk."""
    passage, *options = columns  # each gets a token in front
    cut = np.stack([np.minimum(option + 1, config.max_option_length) for option in options], axis=1)
    result: np.ndarray[Any, Any] = np.minimum(cut + passage[:, None] + 1, config.max_positions)
    return result


def question_flops(shape: Any, lengths: np.ndarray[Any, Any]) -> float:
    """Operations that a question's update needs: those of a forward as the packed model has it (its
    last layer for one token of a sequence), and twice as many in the backward."""
    width, inner = shape.embed_dim, shape.ffn_embed_dim
    tokens, squares = lengths.sum(1).mean(), (lengths.astype(float) ** 2).sum(1).mean()
    per_token = 4 * width * width + 2 * width * inner
    whole = (shape.layers - 1) * (tokens * per_token + 2 * width * squares)
    last = 2 * width * width * tokens + 2 * width * tokens + lengths.shape[1] * per_token
    return float(3 * 2 * (whole + last))


def machine(gpus: int) -> str:
    import torch

    if gpus:
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load:.1f},"
        f" torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
