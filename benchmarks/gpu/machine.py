"""What the machine is, and how fast it copies and multiplies."""

import os
import platform
import re
import subprocess
import time
from typing import Any

from benchmarks.gpu.setting import Setting, require
from benchmarks.updates import matmul_speed
from components.train import compat


def machine(setting: Setting) -> dict[str, Any]:
    import torch

    compat.import_fairseq()
    from components.train.engine.memory import peak_flops

    figures: dict[str, Any] = {
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "architectures": torch.cuda.get_arch_list() if not setting.rehearse else [],
        "cores": len(os.sched_getaffinity(0)),
        "driver": _driver(),
        "gpus": torch.cuda.device_count(),
        "several_gpus": "owed: all figures are of one GPU",
    }
    if not setting.rehearse:
        card = torch.cuda.get_device_properties(0)
        figures["memory_gib"] = round(card.total_memory / 2**30, 1)
        figures["multiprocessors"] = card.multi_processor_count
        figures["capability"] = f"{card.major}.{card.minor}"
        peak = peak_flops(card.name, torch.float16)
        figures["nominal_tflops"] = round(peak / 1e12) if peak else None
    setting.tell(**figures)
    figures["copy_gb_s"] = round(_copy(setting) / 1e9, 1)
    for precision in ("fp32",) if setting.rehearse else ("fp16", "bf16"):
        speed = matmul_speed(setting.device, precision, side=512 if setting.rehearse else 8192)
        figures[f"matmul_{precision}_tflops"] = round(speed / 1e12, 4)
        require(speed > 0, "a matrix product took no time")
    return figures


def _driver() -> str | None:
    try:
        told = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"Driver Version: *([\d.]+)", told)
    return found[1] if found else None


def _copy(setting: Setting) -> float:
    """Bytes a second that a copy on the device reads and writes."""
    import torch

    size, rounds = (1 << 24, 3) if setting.rehearse else (1 << 32, 20)
    source = torch.ones(size, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(rounds):
            target.copy_(source)
        if not setting.rehearse:
            torch.cuda.synchronize()
        best = max(best, 2 * size * rounds / (time.perf_counter() - start))
    return best
