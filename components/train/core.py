"""Fine-tune a pretrained RoBERTa on a binarized RACE with fairseq-train."""

import contextlib
import dataclasses
import functools
import logging
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.common.cli import with_paths
from components.common.dataset import count_options, guessed_among, read_origin, require_equal
from components.common.device import gpu_here, usable_gpus
from components.common.errors import CollapseError, ConfigError, TrainingError
from components.common.executor import Outcome
from components.common.files import atomic_folder, scratch_folder
from components.common.results.metrics import write_metrics
from components.common.vocabulary import read_vocabulary, require_same
from components.train import checkpoints
from components.train.config import Plan, TrainConfig, as_dict, plan
from components.train.data import read_labels, require_tokens, vocabulary_size
from components.train.flags import Run
from components.train.node import Node, this_node
from components.train.pretrained import as_fairseq
from components.train.records import lines_of
from components.train.supervisor import curve
from components.train.supervisor.log import TrainLog, duration
from components.train.supervisor.provenance import Provenance, provenance
from components.train.supervisor.report import write_report
from components.train.supervisor.restarts import train_with_restarts
from components.train.supervisor.resume import (
    KEPT,
    LOG,
    Checkpoints,
    remove_checkpoints,
    restore,
)
from components.train.supervisor.sanity import look

__all__ = ["TrainConfig", "TrainResult", "train"]

logger = logging.getLogger(__name__)

CHECKPOINTS = ("checkpoint_best.pt", "checkpoint_last.pt")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Where the outputs are, and what metrics.json holds; nothing on nodes other than node 0."""

    checkpoint_best: Path | None  # None after a collapse
    checkpoint_last: Path | None  # likewise, and without `keep_last`
    metrics: dict[str, Any]
    end: Callable[[], None] = lambda: None
    """Remove what only an attempt that follows would need; for when the output is in its place."""

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.metrics)


def leads(config: TrainConfig) -> bool:
    """Whether this machine is the node that writes the output."""
    return this_node(config.num_nodes, os.environ).leads


def train(config: TrainConfig) -> TrainResult:
    """Fine-tune; `output` then holds the best and the last checkpoint, metrics, logs, a report.

    With `on_collapse` mark, a training that has collapsed ends well too: `output` has no checkpoint
    then, and metrics.json has the reason as `collapsed`.

    With `checkpoint_uri`, a run that was interrupted goes on from its newest checkpoint there, and
    ends as if it had not been interrupted; see components.train.supervisor.resume. What may pass,
    such as a killed process, does not end a run: see components.train.supervisor.restarts. The
    result's `end` removes the checkpoints, unless `keep_checkpoints_after_end`.

    With `nodes` above 1 this is one of several calls, each on a machine of its own, which belong
    together by their environment; see components.train.node. Node 0 does what is said here. The
    others only compute: they look at no store but for inputs, and write no output.

    fairseq runs in child processes, one for each GPU (or rank on the CPU), which are gone when this
    function ends, however it ends.

    Raises:
        ConfigError: the parameters do not fit the machine, the data or the pretrained model.
        DataError: the data set or the pretrained checkpoint is missing, damaged or not safe.
        OutputError: the disk is full.
        TransferError: the store could not be reached.
        Terminated: SIGTERM was received; with `checkpoint_uri`, a checkpoint is there.
        TrainingError: fairseq failed or a process died; the last lines of its log are shown.
        CollapseError: the loss stayed at that of guessing, every update overflowed, or the weights
            are no numbers any more; with `on_collapse` fail.
        OSError: `output` is in use or cannot be written.
    """
    with as_fairseq(config.pretrained) as pretrained:
        return _trained(with_paths(config, pretrained=pretrained))


def _trained(config: TrainConfig) -> TrainResult:
    node = this_node(config.num_nodes, os.environ)
    options = count_options(config.data)
    if config.engine == "stock":
        require_equal(config.data)
    labels = {split: read_labels(config.data, split, options) for split in ("train", "valid")}
    questions = len(labels["train"])
    for split in labels:
        require_tokens(config.data, split)
    the_plan = plan(config, gpus=usable_gpus(config.device), questions=questions)
    pretrained = _pretrained(config)
    vocabulary = read_vocabulary(config.data)

    origin = provenance(config, the_plan, pretrained, vocabulary)
    if not node.leads:
        return _follow(config, the_plan, pretrained, origin, node)
    require_same(vocabulary, read_vocabulary(pretrained.parent))
    sanity = look(config, labels, options)

    with atomic_folder(config.output) as folder:
        progress, log = restore(config, origin, folder)
        run = Run(
            config,
            the_plan,
            pretrained,
            folder / "checkpoints",
            resumes=progress is not None,
            node=node,
            common={} if node.alone else origin.common,
            ended=progress is not None and progress.ends(config),
        )
        collapsed = ""
        if not run.ended:
            _announce(config, the_plan, questions)
        if not run.ended or not node.alone:  # the other nodes have to be told
            collapsed = _train(run, log, folder, origin)
        seconds = log.seconds
        kept = () if collapsed else CHECKPOINTS if config.keep_last else CHECKPOINTS[:1]
        _keep_checkpoints(run.save_dir, folder, kept)
        shutil.rmtree(folder / KEPT, ignore_errors=True)
        (folder / LOG).write_text(lines_of(log.records), encoding="utf-8")
        metrics = {**_metrics(config, the_plan, log, questions, seconds, collapsed), "data": sanity}
        write_metrics(folder, metrics)
        report = write_report(metrics, log.records)
        (folder / "report.html").write_text(report, encoding="utf-8")
        vocabulary.write(folder)

    if config.checkpoint_uri:
        curve.remove(config.checkpoint_uri)
    logger.info(
        "trained %d updates in %s: best validation accuracy %s",
        metrics["updates"],
        duration(seconds),
        _percent(metrics["best_valid_accuracy"]),
    )
    best, last = (config.output.absolute() / n if n in kept else None for n in CHECKPOINTS)
    end = functools.partial(remove_checkpoints, config, origin)
    ends = config.checkpoint_uri and not config.keep_checkpoints_after_end
    return TrainResult(best, last, metrics, end if ends else lambda: None)


def _follow(
    config: TrainConfig, the_plan: Plan, pretrained: Path, origin: Provenance, node: Node
) -> TrainResult:
    """Compute as one of the nodes that do not lead."""
    with scratch_folder() as folder:
        save_dir = folder / "checkpoints"
        run = Run(config, the_plan, pretrained, save_dir, node=node, common=origin.common)
        logger.info("%s: training with node 0 at %s", node, node.master_addr)
        _train(run, TrainLog(), folder, origin)
    logger.info("%s: done", node)
    return TrainResult(None, None, {})


def _train(run: Run, log: TrainLog, folder: Path, origin: Provenance) -> str:
    """Train; gives the reason of a collapse that is to be marked, else ""."""
    try:
        if not run.config.restartable:
            shutil.rmtree(folder / KEPT, ignore_errors=True)
        takes: Any = contextlib.nullcontext()
        if run.node.leads and (run.config.checkpoint_uri or run.config.restartable):
            takes = Checkpoints(run.config, run.plan, origin, log, folder).closed()
        with takes as checkpoints:
            train_with_restarts(run, log, folder, checkpoints)
    except CollapseError as error:
        if run.config.on_collapse == "fail":
            raise
        if run.node.leads:
            logger.warning("%s; marked as collapsed, without a model", error.what)
        return error.what
    finally:
        shutil.rmtree(folder / "control", ignore_errors=True)
    return ""


def _pretrained(config: TrainConfig) -> Path:
    """The checkpoint to start from. The ranks look into it, for this process is without torch."""
    path = checkpoints.find_pretrained(config.pretrained).absolute()
    path.open("rb").close()
    tokens = vocabulary_size(config.data)
    for name in ("init_token", "separator_token"):
        if getattr(config, name) >= tokens:
            raise ConfigError(
                f"{name} is {getattr(config, name)}, but the dictionary of {config.data} has"
                f" {tokens} tokens",
                hint=f"Use an index from 0 to {tokens - 1}; <s> is 0, </s> is 2",
            )
    return path


def _announce(config: TrainConfig, the_plan: Plan, questions: int) -> None:
    where = "GPU" if the_plan.device == "cuda" else "CPU process"
    logger.info(
        "training %s (%s, %s) on %s%d %s%s: %d questions, %d epochs, %d updates of %d questions"
        " (%d x %d x %d accumulated)",
        config.arch,
        config.engine,
        config.precision,
        "" if the_plan.nodes == 1 else f"{the_plan.nodes} nodes of ",
        the_plan.processes,
        where,
        "" if the_plan.processes == 1 else "es" if where.endswith("s") else "s",
        questions,
        config.epochs,
        the_plan.updates,
        config.effective_batch_size,
        the_plan.ranks,
        config.batch_size,
        the_plan.update_freq,
    )


def _keep_checkpoints(save_dir: Path, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if not (save_dir / name).is_file():
            raise TrainingError(
                f"fairseq ended without {name}", hint="See its log above; is the data set empty?"
            )
        (save_dir / name).rename(folder / name)
    shutil.rmtree(save_dir, ignore_errors=True)  # nothing was saved before an early collapse


def _metrics(
    config: TrainConfig,
    the_plan: Plan,
    log: TrainLog,
    questions: int,
    seconds: float,
    collapsed: str,
) -> dict[str, Any]:
    """The content of metrics.json: losses in nats per question, accuracies in percent.

    Args:
        collapsed: the reason, or "".
    """
    valid, epochs = log.of("valid"), log.of("train_epoch")
    # fairseq compares accuracies rounded to 0.1 %, and of equal ones keeps the later checkpoint.
    scored = [r for r in valid if r.get("accuracy") is not None]
    best = max(scored, key=lambda r: (round(r["accuracy"], 1), r["update"]), default={})
    return {
        "best_valid_accuracy": best.get("accuracy"),
        "best_valid_update": best.get("update"),
        "final_valid_accuracy": valid[-1].get("accuracy") if valid else None,
        "final_valid_loss": valid[-1]["loss"] if valid else None,
        "final_train_loss": epochs[-1]["loss"] if epochs else None,
        "final_train_accuracy": epochs[-1].get("accuracy") if epochs else None,
        "updates": max((r["update"] for r in log.records), default=0),
        "skipped_updates": log.skipped_updates,
        "questions": questions,
        "options": round(guessed_among(config.data), 3),
        "questions_per_second": log.questions_per_second(config.effective_batch_size),
        "seconds": round(seconds, 1),
        "restarts": log.restarts,
        "collapsed": collapsed,
        "dataset": read_origin(config.data),
        "base_model": read_origin(config.pretrained),
        "nodes": the_plan.nodes,
        "processes": the_plan.ranks,  # of all nodes
        "device": the_plan.device,
        "update_freq": the_plan.update_freq,
        "parameters": as_dict(config),
        "hardware": _hardware(),
        "versions": _versions(),
    }


def _hardware() -> dict[str, str | int]:
    """What this machine has, by what people call it."""
    found: dict[str, str | int] = {}
    if gpu_here(os.environ):  # torch takes seconds to import
        import torch

        if torch.cuda.is_available():
            gpu = torch.cuda.get_device_properties(0)
            found["GPU"] = gpu.name
            found["GPUs"] = torch.cuda.device_count()
            found["memory of a GPU"] = f"{gpu.total_memory / (1 << 30):.1f} GiB"
    found["CPU"] = _cpu() or platform.machine()
    found["CPU cores for us"] = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found["memory"] = f"{memory / (1 << 30):.1f} GiB"
    return found


def _cpu() -> str:
    """The processor's name; empty where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""


def _versions() -> dict[str, str]:
    from importlib import metadata

    packages = ("torch", "fairseq", "numpy")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} %"
