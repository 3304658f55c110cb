"""Whether training comes to the same here: engines, ranks, the steps themselves, a full memory."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.setting import Setting, require
from benchmarks.updates import Phase, run_updates

ROOT = Path(__file__).parents[2]


def learning(setting: Setting, precision: str) -> dict[str, Any]:
    """Both engines on a text that can be learned: the same curve, and it falls.

    `apart` is the mean distance of the losses while rounding has not led them apart, in 20 updates.
    """
    figures: dict[str, Any] = {}
    updates = 5 if setting.rehearse else 60
    smaller = {"effective_batch_size": 32, "batch_size": 32} if setting.rehearse else {}
    for engine in ("packed", "stock"):
        config = setting.small(engine, precision, **smaller)
        found, _ = run_updates(config, [Phase("all", updates)], gpus=setting.gpus)
        figures[engine] = [round(loss, 4) for loss in found["losses"]]
        setting.tell(**figures)
    packed, stock = figures["packed"], figures["stock"]
    both = list(zip(packed, stock, strict=True))
    figures["apart"] = statistics.fmean(abs(a - b) for a, b in both[:20])
    figures["apart_at_end"] = abs(statistics.fmean(a - b for a, b in both[-10:]))
    figures["fallen"] = statistics.fmean(packed[:5]) - statistics.fmean(packed[-5:])
    setting.tell(**figures)
    require(len(packed) == updates, f"{len(packed)} updates were made")
    require(
        setting.rehearse or figures["fallen"] > 0.1, f"the loss fell by {figures['fallen']:.3f}"
    )
    require(figures["apart"] < 0.02, f"the curves are {figures['apart']:.3f} apart")
    require(figures["apart_at_end"] < 0.15, f"they end {figures['apart_at_end']:.3f} apart")
    return figures


def ranks(setting: Setting) -> dict[str, Any]:
    """Two ranks on one card, by gloo, make the updates of one."""
    curves = {}
    for count in (1, 2):
        config = setting.small("packed", "fp32", processes=count, batch_size=64)
        found, _ = run_updates(
            config,
            [Phase("all", 5)],
            gpus=setting.gpus and 2,
            more=("--distributed-backend", "gloo"),
            one_card=not setting.rehearse,
        )
        curves[count] = found["losses"]
        setting.tell(**{f"ranks_{count}": curves[count]})
    apart = max(abs(a - b) for a, b in zip(curves[1], curves[2], strict=True))
    require(apart < 1e-4, f"losses of one rank and of two are {apart:.1e} apart")
    return {"ranks_1": curves[1], "ranks_2": curves[2], "apart": apart}


def nccl(setting: Setting) -> dict[str, Any]:
    """One rank reduces a buffer as large as roberta_large's gradients."""
    import torch
    from torch import distributed

    backend = "gloo" if setting.rehearse else "nccl"
    with tempfile.TemporaryDirectory() as scratch:
        store = f"file://{scratch}/store"
        distributed.init_process_group(backend, init_method=store, rank=0, world_size=1)
        buffer = torch.ones(
            1000 if setting.rehearse else 356_500_000, dtype=torch.float16, device=setting.device
        )
        distributed.all_reduce(buffer)
        started = time.perf_counter()
        distributed.all_reduce(buffer)
        first = float(buffer[0])  # waits for it
        seconds = time.perf_counter() - started
        total = float(buffer.double().sum())
        distributed.destroy_process_group()
    require(first == 1 and total == len(buffer), "the sum over one rank is another")
    version = None if setting.rehearse else ".".join(map(str, torch.cuda.nccl.version()))
    return {"backend": backend, "version": version, "ms": round(seconds * 1e3, 3)}


def steps(setting: Setting) -> dict[str, Any]:
    """components.train, killed once and started again, then components.evaluate."""
    sample = setting.sample()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = setting.small("packed", "fp16")
        given = {
            "data": config.data,
            "pretrained": config.pretrained,
            "output": folder / "model",
            "checkpoint_uri": folder / "checkpoints",
            "checkpoint_interval": 4 if setting.rehearse else 20,
            "arch": config.arch,
            "precision": config.precision,
            "processes": 1,
            "epochs": 2 if setting.rehearse else 3,
        }
        same = ("effective_batch_size", "batch_size", "learning_rate", "warmup_updates")
        sizes = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
        same += ("dropout", "attention_dropout", *(f"encoder_{size}" for size in sizes))
        given = {name: getattr(config, name) for name in same} | given
        if setting.rehearse:
            given["device"] = "cpu"
        train = [sys.executable, "-m", "components.train"]
        train += [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]

        first, _ = _run(train, kill_at="published update-")
        second, seconds = _run(train)
        going_on = re.search(r"going on from .*, update (\d+)", second)
        require(going_on is not None, f"it did not go on:\n{second[-2000:]}")
        assert going_on is not None
        metrics = json.loads((folder / "model" / "metrics.json").read_text())
        figures = {
            "killed_after": first.count("published update-"),
            "resumed_at": int(going_on[1]),
            "updates": metrics["updates"],
            "device": metrics["device"],
            "train_s": round(seconds, 1),
            "valid_accuracy": metrics["best_valid_accuracy"],
            "questions_per_second": metrics["questions_per_second"],
        }
        setting.tell(**figures)
        evaluate = [sys.executable, "-m", "components.evaluate", f"--data={sample / 'data'}"]
        evaluate += [f"--model={folder / 'model'}", f"--output={folder / 'report'}"]
        _, seconds = _run([*evaluate, *(["--device=cpu"] if setting.rehearse else [])])
        found = json.loads((folder / "report" / "metrics.json").read_text())
        figures |= {"evaluate_s": round(seconds, 1), "accuracy": found["accuracy"]}
        figures["precision_of_evaluate"] = found["precision"]
    setting.tell(**figures)
    # Guessing is 25 %; a rehearsal's twelve updates teach nothing else.
    least = 10 if setting.rehearse else 60
    require(figures["accuracy"] > least, f"accuracy is {figures['accuracy']} %")
    return figures


def _run(command: Sequence[str], kill_at: str = "") -> tuple[str, float]:
    """Run a step in this process's group, so that it ends with it; killed at a line with a text."""
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
        if kill_at and kill_at in line:
            process.send_signal(signal.SIGKILL)
    status = process.wait()
    require(status == (-signal.SIGKILL if kill_at else 0), f"exit status {status}: {lines[-1:]}")
    return "".join(lines), time.monotonic() - started


def full_memory(setting: Setting) -> dict[str, Any]:
    """An update that does not fit is made in parts, and later ones at once again."""
    phases = [Phase("warm-up", 2), Phase("full", 3, "full"), Phase("free", 12)]
    # On the CPU the budget says what fits; on a GPU the memory does, and this is any whole update.
    budget = 1500 if setting.rehearse else 1 << 15
    config = setting.large("packed", "fp16", 1, token_budget=budget)
    found, log = run_updates(config, phases, gpus=setting.gpus)
    figures = {
        "failed_attempts": log.count("out of memory; this update is done again"),
        "budgets": [int(tokens) for tokens in re.findall(r"up to (\d+) tokens at once", log)],
        "came_back": log.count("updates had room; more is tried"),
        "finite": all(loss is not None for loss in found["losses"]),
        "peak_gib": round(found["peak_bytes"] / 2**30, 2),
    }
    setting.tell(**figures)
    require(figures["failed_attempts"] > 0, "the memory was not full")
    require(figures["budgets"][-1] == budget, f"the budget did not come back: {figures}")
    require(bool(figures["finite"]), "a loss is not finite")
    return figures
