"""Speed of evaluation: fairseq-validate and the evaluate step, side by side on the same questions.

    python benchmarks/evaluate.py                            # a GPU: roberta_large, fp16
    python benchmarks/evaluate.py --layers 2 --width 64      # the CPU: a small model, fp32

makes a checkpoint (one update from random weights) and questions with RACE's lengths, and times
both commands as a user runs them, on all questions and on a twentieth of them. The difference is
the time of the questions alone, without starting, importing and loading the model.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.race_data import make_data  # noqa: E402
from benchmarks.updates import machine  # noqa: E402
from components.train import compat  # noqa: E402
from components.train.config import ARCHITECTURES, TrainConfig, plan  # noqa: E402
from components.train.flags import Run, fairseq_arguments  # noqa: E402

SPLITS = {"test": 1436, "test1": 3498}  # RACE's questions


class Cost(NamedTuple):
    seconds: float
    cpu_seconds: float


def main(argv: Sequence[str] | None = None) -> None:
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--arch", choices=tuple(ARCHITECTURES), default="roberta_large")
    add("--layers", type=int, default=0, help="0 is the architecture's own")
    add("--width", type=int, default=0, help="0 is the architecture's own")
    add("--heads", type=int, default=0, help="default with --width: one for each 64, at least 2")
    add("--questions", type=int, default=0, help="default: RACE's 4934 on a GPU, else 200")
    add("--stock-batch-size", type=int, action="append", help="default: 1")
    arguments = parser.parse_args(argv)
    gpus = torch.cuda.device_count()
    if not gpus and not (arguments.layers and arguments.width):
        raise SystemExit("no GPU: give a small model with --layers and --width")
    many = arguments.questions or (sum(SPLITS.values()) if gpus else 200)
    sizes = {"many": many, "few": max(2, many // 20)}
    compat.import_fairseq()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        counts = {}
        for name, questions in sizes.items():
            first = max(1, round(questions * SPLITS["test"] / sum(SPLITS.values())))
            splits = {"train": 2, "valid": 2, "test": first, "test1": questions - first}
            make_data(folder / name, splits)
            counts[name] = questions
        checkpoint = make_checkpoint(arguments, folder, gpus)
        compare(arguments, folder, checkpoint, counts, gpus)


def make_checkpoint(arguments: argparse.Namespace, folder: Path, gpus: int) -> Path:
    """What the train step's command saves after one update from random weights."""
    width = arguments.width
    config = TrainConfig(
        data=folder / "many",
        pretrained=folder / "none.pt",  # fairseq starts from random weights without it
        output=folder / "output",
        arch=arguments.arch,
        encoder_layers=arguments.layers,
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=4 * width,
        encoder_attention_heads=arguments.heads or (max(2, width // 64) if width else 0),
        max_updates=1,
        effective_batch_size=2,
        processes=1,
        precision="fp16" if gpus else "fp32",
        save_optimizer=False,
    )
    the_plan = plan(config, gpus=gpus, questions=2)
    run = Run(config, the_plan, config.pretrained, folder / "checkpoints")
    run_command([sys.executable, "-m", "components.train.rank.worker", *fairseq_arguments(run)])
    return folder / "checkpoints" / "checkpoint_last.pt"


def compare(
    arguments: argparse.Namespace,
    folder: Path,
    checkpoint: Path,
    counts: dict[str, int],
    gpus: int,
) -> None:
    commands = {}
    for size in arguments.stock_batch_size or [1]:
        flags = ["--valid-subset", "test,test1", "--batch-size", str(size)]
        flags += ["--task", "sentence_ranking", "--criterion", "sentence_ranking"]
        flags += ["--fp16" if gpus else "--cpu", "--path", str(checkpoint)]
        module = [sys.executable, "-m", "components.train.compat", "fairseq-validate"]
        commands[f"fairseq-validate, {size} at once"] = (*module, "DATA", *flags)
    step = [sys.executable, "-m", "components.evaluate", "--data", "DATA", "--output", "OUTPUT"]
    commands["evaluate step"] = (*step, "--model", str(checkpoint))

    costs: dict[str, dict[str, Cost]] = {}
    for name, command in commands.items():
        print(name, file=sys.stderr, flush=True)
        costs[name] = {
            data: run_command(
                [
                    {"DATA": str(folder / data), "OUTPUT": str(folder / f"out-{data}")}.get(w, w)
                    for w in command
                ]
            )
            for data in counts
        }
    print(f"{counts['many']} questions; {machine(gpus)}")
    print("| command | seconds | of these starting | questions/s | questions/CPU s |")
    print("|---|---|---|---|---|")
    more = counts["many"] - counts["few"]
    rates, cpu_rates = {}, {}
    for name, cost in costs.items():
        rates[name] = more / (cost["many"].seconds - cost["few"].seconds)
        cpu_rates[name] = more / (cost["many"].cpu_seconds - cost["few"].cpu_seconds)
        starting = cost["many"].seconds - counts["many"] / rates[name]
        print(
            f"| {name} | {cost['many'].seconds:.1f} | {starting:.1f} | {rates[name]:.2f}"
            f" | {cpu_rates[name]:.2f} |"
        )
    ours = "evaluate step"
    for name in costs:
        if name != ours:
            whole = costs[name]["many"].seconds / costs[ours]["many"].seconds
            print(
                f"the {ours} answers {rates[ours] / rates[name]:.2f} times as fast as {name}"
                f" ({cpu_rates[ours] / cpu_rates[name]:.2f} times in CPU time);"
                f" with starting, {whole:.2f} times"
            )


def run_command(command: list[str]) -> Cost:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{json.dumps(command)} failed:\n{done.stdout[-4000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, cpu)


if __name__ == "__main__":
    main()
