"""How fast updates of roberta_large are, what takes the time, and what variants change."""

import statistics
import types
from typing import Any

from benchmarks.gpu.setting import QUESTIONS_PER_UPDATE, Setting, require
from benchmarks.updates import Phase, RunFailed, question_flops, run_updates, sequence_lengths


def speed(
    setting: Setting,
    engine: str,
    precision: str,
    batch_size: int = 1,
    updates: int = 30,
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Updates after a warm-up, reading of data included."""
    warm, timed, watched = (1, 1, 1) if setting.rehearse else (5, updates, 5)
    phases = [Phase("warm-up", warm), Phase("timed", timed), Phase("watched", watched, "syncs")]
    while True:
        config = setting.large(engine, precision, batch_size)
        try:
            found, _ = run_updates(config, phases, gpus=setting.gpus, environment=environment)
            break
        except RunFailed as error:  # stock fairseq keeps attention matrices: half may fit
            if batch_size == 1 or "out of memory" not in str(error):
                raise
            batch_size //= 2
    seconds = found["phases"]["timed"]["seconds"] / timed
    flops = question_flops(config.shape(vocabulary=0), sequence_lengths(config))
    rate = QUESTIONS_PER_UPDATE / seconds
    told = setting.found("machine")
    measured = told.get(f"matmul_{config.precision}_tflops")
    nominal = told.get("nominal_tflops")
    waits = found["phases"]["watched"]["syncs"]
    return {
        "engine": engine,
        "precision": config.precision,
        "at_once": "budget" if engine == "packed" else batch_size,
        "updates": timed,
        "ms_an_update": round(seconds * 1e3, 2),
        "questions_per_second": round(rate, 3),
        "tflops": round(rate * flops / 1e12, 6),
        "percent_of_measured": _percent(rate * flops / 1e12, measured),
        "percent_of_nominal": _percent(rate * flops / 1e12, nominal),
        "peak_gb": round(found["peak_bytes"] / 1e9, 2),
        "waits_an_update": None if waits is None else waits / watched,
        "wait_places": found["phases"]["watched"].get("sync_places"),
        "last_loss": found["losses"][-1],
    }


def _percent(value: float, whole: float | None) -> float | None:
    return round(100 * value / whole, 1) if whole else None


def profile(setting: Setting, engine: str = "packed") -> dict[str, Any]:
    """Three updates in the profiler."""
    config = setting.large(engine, "fp16", 1)
    updates = 1 if setting.rehearse else 3
    phases = [Phase("warm-up", 1 if setting.rehearse else 5), Phase("seen", updates, "profile")]
    found, _ = run_updates(config, phases, gpus=setting.gpus)
    return found["phases"]["seen"]


def optimizer(setting: Setting, steps: int = 15) -> dict[str, Any]:
    """The step of all parameters: gradients widened in one kernel or in two, and in pieces of
    several sizes; the median of the times on the device, each variant twice, there and back."""
    import torch

    from components.train import compat

    compat.import_fairseq()
    from benchmarks.gpu.kernels import milliseconds
    from components.train.engine import optimizer as module

    adam = _adam(torch, module, setting, 100_000 if setting.rehearse else 356_500_000)

    def two_kernels() -> None:
        adam.steps += 1
        for start in range(0, len(adam.master), module._PIECE):
            piece = slice(start, start + module._PIECE)
            adam._adam(piece, adam.gradients[piece].float().mul_(1 / 48))
            adam.weights[piece] = adam.master[piece]

    variants: dict[str, tuple[Any, int]] = {
        "as it is": (lambda: adam.step(scale=48.0), module._PIECE),
        "two kernels": (two_kernels, module._PIECE),
    }
    for mebibytes in (8, 128, 2048):
        variants[f"pieces of {mebibytes} MiB"] = (lambda: adam.step(scale=48.0), mebibytes << 18)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for name in (*variants, *reversed(variants)):
        work, module._PIECE = variants[name]
        if setting.rehearse:
            import time

            started = time.perf_counter()
            work()
            times[name].append(round((time.perf_counter() - started) * 1e3, 4))
        else:
            times[name].append(milliseconds(work, steps))
    require(bool(torch.isfinite(adam.master).all()), "the weights are no numbers")
    return {
        "parameters": len(adam.master),
        "milliseconds": times,
        "medians": {name: statistics.median(found) for name, found in times.items()},
    }


def _adam(torch: Any, module: Any, setting: Setting, size: int) -> Any:
    space = types.SimpleNamespace
    cfg = space(
        optimizer=space(lr=[1e-5], adam_betas=(0.9, 0.98), adam_eps=1e-6, weight_decay=0.01),
        common=space(
            fp16_scale_window=128,
            fp16_init_scale=4,
            fp16_scale_tolerance=0.0,
            threshold_loss_scale=1.0,
            min_loss_scale=1e-4,
        ),
    )
    weights = torch.randn(size, device=setting.device, dtype=torch.float16)
    adam = module.PackedAdam(cfg, [torch.nn.Parameter(weights)])
    adam.gradients.normal_()
    return adam
