"""Updates of an engine in processes of their own, timed where fairseq comes by after each of them.

    figures, log = run_updates(config, [Phase("warm-up", 5), Phase("timed", 30)], gpus=1)

runs the train step's own command, without checkpoints and validation, as long as the phases last.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from components.common.dataset import count_options  # noqa: E402
from components.common.indexed import read_sizes  # noqa: E402
from components.common.processes import running  # noqa: E402
from components.train import compat  # noqa: E402
from components.train.config import TrainConfig, plan  # noqa: E402
from components.train.flags import Run, fairseq_arguments  # noqa: E402
from components.train.supervisor import supervise  # noqa: E402

RESULT = "RESULT "


class RunFailed(Exception):
    """A run ended without figures; the message ends with what it said last."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive updates of a run.

    `kind` is what is done meanwhile: "" nothing; "syncs" counts how often the host waits for the
    device; "profile" says what took the time; "full" lets the memory be too small for an update.
    """

    name: str
    updates: int
    kind: str = ""


def run_updates(
    config: TrainConfig,
    phases: Sequence[Phase],
    *,
    gpus: int,
    limit: float = 600,
    environment: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
    one_card: bool = False,
) -> tuple[dict[str, Any], str]:
    """Train for as long as the phases last.

    Args:
        gpus: that the train step would find.
        limit: seconds; after that the run is ended.
        more: further arguments of fairseq-train.
        one_card: all ranks compute on the first GPU.

    Returns:
        The figures of `child`, and what the run printed.

    Raises:
        RunFailed: it ended otherwise, or did not end in time.
    """
    config = dataclasses.replace(
        config, max_updates=sum(phase.updates for phase in phases), epochs=1000
    )
    the_plan = plan(config, gpus=gpus, questions=10**6)
    job = {"phases": [dataclasses.asdict(phase) for phase in phases], "one_card": one_card}
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(config, the_plan, config.pretrained, Path(scratch) / "checkpoints")
        job["arguments"] = [*fairseq_arguments(run), "--no-save", "--disable-validation", *more]
        rank = [sys.executable, str(Path(__file__)), json.dumps(job)]
        env = {**os.environ, **(environment or {})}
        env = supervise.environment(the_plan.processes, the_plan.device, env)
        with (
            (Path(scratch) / "log").open("w+") as log,
            running(
                supervise.command(the_plan.processes, rank),
                grace=5,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            late = ""
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                late = f"it took longer than {limit:.0f} s"
            text = Path(log.name).read_text(errors="replace")
        found = [line for line in text.splitlines() if line.startswith(RESULT)]
        if late or process.returncode or not found:
            raise RunFailed(f"{late or f'exit status {process.returncode}'}\n{text[-4000:]}")
        return json.loads(found[0].removeprefix(RESULT)), text


def child(job: dict[str, Any]) -> None:
    """Train as a rank does, and print figures: for each phase `seconds`, `cpu_seconds`, `updates`
    and what its kind adds; `losses` of all updates, and `peak_bytes`."""
    if job.get("one_card"):
        os.environ["LOCAL_RANK"] = "0"
    from components.train import records
    from components.train.rank.worker import die_with_parent
    from components.train.supervisor.log import TrainLog

    die_with_parent(signal.SIGKILL)
    compat.import_fairseq()
    import fairseq_cli.train

    log = TrainLog()
    watch = _Watch([Phase(**phase) for phase in job["phases"]])
    validate_and_save = fairseq_cli.train.validate_and_save

    def after_update(cfg: Any, trainer: Any, *rest: Any) -> Any:
        watch.updated(trainer)
        return validate_and_save(cfg, trainer, *rest)

    def prepare() -> None:
        fairseq_cli.train.validate_and_save = after_update
        records.install(lambda told: log.add(told))

    compat.run("fairseq-train", job["arguments"], prepare)
    losses = [record["loss"] for record in log.of("train")]
    result = {"phases": watch.figures, "peak_bytes": watch.peak, "losses": losses}
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"\n{RESULT}{json.dumps(result)}", flush=True)
    os._exit(0)


class _Watch:
    """Goes from phase to phase as updates are made."""

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.phases = list(phases)
        self.figures: dict[str, dict[str, Any]] = {}
        self.peak = 0
        self.seen = self.begun = 0
        self.stack: contextlib.ExitStack | None = None

    def updated(self, trainer: Any) -> None:
        """After the first update, which counts for the first phase, and each one after that."""
        import torch

        if trainer.get_num_updates() == self.seen:
            return  # skipped for an overflow
        self.seen = trainer.get_num_updates()
        if trainer.cuda:  # fairseq resets the peak after each update
            peak = torch.cuda.max_memory_allocated()
            self.peak = max(self.peak, peak, torch.cuda.memory_allocated())
        if self.stack is None:
            self._enter(trainer, before=1)
        if self.phases and self.seen - self.begun == self.phases[0].updates:
            self._leave(trainer)
            if self.phases:
                self._enter(trainer)

    def _enter(self, trainer: Any, before: int = 0) -> None:
        self.begun = self.seen - before
        self.stack = contextlib.ExitStack()
        phase = self.phases[0]
        figures = self.figures[phase.name] = {"updates": phase.updates}
        if phase.kind:
            self.stack.enter_context(KINDS[phase.kind](trainer, figures, self))
        _wait(trainer)
        self.start = time.perf_counter(), time.process_time()

    def _leave(self, trainer: Any) -> None:
        _wait(trainer)
        figures = self.figures[self.phases.pop(0).name]
        figures["seconds"] = time.perf_counter() - self.start[0]
        figures["cpu_seconds"] = time.process_time() - self.start[1]
        assert self.stack is not None
        self.stack.close()


def _wait(trainer: Any) -> None:
    if trainer.cuda:
        import torch

        torch.cuda.synchronize()


@contextlib.contextmanager
def _syncs(trainer: Any, figures: dict[str, Any], watch: _Watch) -> Iterator[None]:
    """`syncs`: how often torch said that the host waits; None on the CPU."""
    import torch

    if not trainer.cuda:
        figures["syncs"] = None
        yield
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in told if "synchronizing CUDA operation" in str(w.message)]
    figures["syncs"] = len(waits)
    figures["sync_places"] = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in waits})


@contextlib.contextmanager
def _profile(trainer: Any, figures: dict[str, Any], watch: _Watch) -> Iterator[None]:
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.gpu.profile import summary

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * bool(trainer.cuda)
    with profile(activities=activities) as profiler:
        yield
    figures |= summary(profiler.events(), cuda=trainer.cuda)


@contextlib.contextmanager
def _full(trainer: Any, figures: dict[str, Any], watch: _Watch) -> Iterator[None]:
    """Half of what the updates before took above the model is all that there is.

    On the CPU the model itself says so, of more than half of the tokens that it is told to take.
    """
    import torch

    from components.train.engine.model import PackedRoberta

    figures["tokens_before"] = trainer.budget.tokens
    if trainer.cuda:
        held, total = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[1]
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((held + (watch.peak - held) / 2) / total)
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        forward, room = PackedRoberta.forward, trainer.budget.tokens // 2

        def limited(model: PackedRoberta, batch: Any) -> Any:
            if len(batch.tokens) > room:
                raise torch.OutOfMemoryError("out of memory, as a test has it")
            return forward(model, batch)

        PackedRoberta.forward = limited  # type: ignore[method-assign]
        yield
        PackedRoberta.forward = forward  # type: ignore[method-assign]
    figures["tokens_after"] = trainer.budget.tokens
    trainer.budget.wait = 2  # updates; so that the phase after shows the way back


KINDS = {"syncs": _syncs, "profile": _profile, "full": _full}


def matmul_speed(device: str, precision: str, side: int = 0) -> float:
    """Floating point operations a second in a large matrix product of random numbers."""
    import torch

    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    side, rounds = (side or 8192, 30) if device == "cuda" else (side or 1024, 5)
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    best = 0.0
    for _ in range(4):  # the first one only warms up
        start = time.perf_counter()
        for _ in range(rounds):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 * rounds / (time.perf_counter() - start))
    return best


def sequence_lengths(config: TrainConfig) -> np.ndarray[Any, Any]:
    """Tokens of each training question's options, (questions, options), as fairseq cuts them."""
    columns = range(count_options(config.data) + 1)
    sizes = [read_sizes(config.data / f"input{column}" / "train") for column in columns]
    return cut_lengths(config, sizes)


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
    child(json.loads(sys.argv[1]))
