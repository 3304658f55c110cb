"""How long a training takes on other GPUs, from a speed that was measured.

docs/scaling.md explains the formula and what it leaves out.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from components.common.cli import option, require_ranges
from components.common.errors import ConfigError, DataError
from components.common.progress import duration
from components.common.results.metrics import Training
from components.common.text import columns
from components.evaluate.trained import MODEL
from components.train.config import Plan, TrainConfig, plan

HOUR = 3600.0  # seconds
RACE_QUESTIONS, VOCABULARY = 87_866, 50_265
# A forward takes a third of the operations of forward and backward.
FORWARD = 1 / 3
# What a run's parameters say of the work.
_RECIPE = (
    *("epochs", "effective_batch_size", "checkpoint_interval", "checkpoint_minutes"),
    *("precision", "arch"),
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
)


@dataclass(frozen=True)
class EstimateConfig:
    """What was measured, and what is to be estimated from it.

    Raises:
        ConfigError: a value is out of its range.
    """

    questions_per_second: float = option(
        0.0, help="measured while training; 0 is what RUN measured"
    )
    measured_gpus: int = option(0, help="GPUs together that it was measured on; 0 is RUN's, else 1")
    gpus: tuple[int, ...] = option(
        (1, 2, 4, 8), least=1, help="numbers of GPUs, all nodes together"
    )
    gpus_per_node: int = option(8, least=1, help="more GPUs than these are several nodes")
    questions: int = option(0, help="to train on; 0 is RUN's, else RACE's 87,866")
    epochs: int = option(0, help="times that every question is seen; 0 is RUN's, else 5")
    effective_batch_size: int = option(0, help="questions of an update; 0 is RUN's, else 16")
    validation_questions: int = option(4_887, help="answered after each epoch")
    gradients: float = option(
        0.0,
        help="GB added up over the GPUs in each update; 0 is those of RUN's model and precision,"
        " else of roberta_large in fp16",
    )
    link: float = option(
        200.0, help="GB/s that an all-reduce sustains between the GPUs of a node; assumed"
    )
    network: float = option(10.0, help="GB/s that it sustains between nodes; assumed, for 100 Gb/s")
    start: float = option(0.0, help="seconds until the first update: node, image, data, model")
    checkpoint: float = option(0.0, help="seconds that training waits for one checkpoint")
    price: float = option(0.0, help="of a GPU hour, in any currency; 0 shows no cost")

    def __post_init__(self) -> None:
        for name in ("link", "network"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", hint="It must be above 0")
        require_ranges(self)


@dataclass(frozen=True)
class Estimate:
    """A training on some number of GPUs; times in seconds."""

    gpus: int
    update: float
    seconds: float

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.seconds / HOUR


def estimate(config: EstimateConfig, run: Path | None = None) -> list[Estimate]:
    """A training on each of the numbers of GPUs that were asked for.

    Args:
        run: folder of a run, or the one that train wrote, for what `config` leaves open.

    Raises:
        ConfigError: no speed is given, it is faster than the all-reduce alone, or a number of GPUs
            does not divide the effective batch.
        DataError: the run has no metrics, or they have no speed.
    """
    folder = run / MODEL if run and (run / MODEL).is_dir() else run
    found = Training.read(folder) if folder else Training()
    rate = config.questions_per_second or found.questions_per_second
    if not rate and run:
        raise DataError(
            f"{run}: training was too short to measure its speed",
            hint="Give --questions-per-second, or a longer run",
        )
    if not rate:
        raise ConfigError(
            "the speed is not known",
            hint="Give a run, or --questions-per-second as train and benchmarks/train_step.py"
            " show it",
        )
    settings = dict(found.parameters)
    settings |= {
        n: getattr(config, n) for n in ("epochs", "effective_batch_size") if getattr(config, n)
    }
    recipe = TrainConfig(
        data=Path(),
        pretrained=Path(),
        output=Path(),
        **{name: settings[name] for name in _RECIPE if name in settings},
    )
    config = dataclasses.replace(config, gradients=config.gradients or _gradients(recipe))
    questions = config.questions or found.questions or RACE_QUESTIONS
    batch = recipe.effective_batch_size
    measured = config.measured_gpus or found.processes or 1
    # What one GPU alone would compute in an update.
    compute = measured * (batch / rate - all_reduce(config, measured))
    if compute <= 0:
        raise ConfigError(
            f"{rate:g} questions a second is faster than the all-reduce of {measured} GPUs alone,"
            f" {1e3 * all_reduce(config, measured):.0f} ms an update",
            hint="Check the speed, or set link and network",
        )

    def on(gpus: int) -> Estimate:
        split = _split(recipe, config, gpus, questions)
        reduce = all_reduce(config, gpus)
        epoch = questions / batch * compute / gpus + split.updates_per_epoch * reduce
        epoch += FORWARD * config.validation_questions / batch * compute / gpus
        interval, minutes = recipe.checkpoint_interval, recipe.checkpoint_minutes
        between = split.updates // interval if interval else 0
        by_clock = int(recipe.epochs * epoch / (60 * minutes)) if minutes else 0
        checkpoints = recipe.epochs + max(between, by_clock)
        seconds = config.start + recipe.epochs * epoch + checkpoints * config.checkpoint
        return Estimate(gpus, compute / gpus + reduce, seconds)

    return [on(gpus) for gpus in config.gpus]


def _gradients(recipe: TrainConfig) -> float:
    """GB of the gradients of the matrices, which hold 99.5 % of roberta_large's parameters."""
    shape = recipe.shape(VOCABULARY)
    layer = 4 * shape.embed_dim**2 + 2 * shape.embed_dim * shape.ffn_embed_dim
    parameters = shape.layers * layer + shape.vocabulary * shape.embed_dim
    return (4 if recipe.precision == "fp32" else 2) * parameters / 1e9


def _split(recipe: TrainConfig, config: EstimateConfig, gpus: int, questions: int) -> Plan:
    nodes = math.ceil(gpus / config.gpus_per_node)
    if gpus % nodes:
        raise ConfigError(
            f"{gpus} GPUs do not divide over {nodes} nodes", hint="Give others, or gpus_per_node"
        )
    recipe = dataclasses.replace(recipe, num_nodes=nodes, processes=gpus // nodes)
    return plan(recipe, gpus=recipe.processes, questions=questions)


def all_reduce(config: EstimateConfig, gpus: int) -> float:
    """Seconds in which an update's gradients are added up: within each node, then between them."""
    nodes = math.ceil(gpus / config.gpus_per_node)
    local = math.ceil(gpus / nodes)
    within = 2 * (local - 1) / local * config.gradients / config.link
    return within + 2 * (nodes - 1) / nodes * config.gradients / config.network


def table(estimates: list[Estimate], price: float) -> str:
    """The estimates as lines for the screen."""
    rows = [["GPUs", "an update", "time", "GPU hours", "efficiency"] + ["cost"] * bool(price)]
    for one in estimates:
        efficiency = estimates[0].gpu_hours / one.gpu_hours
        row = [str(one.gpus), f"{1e3 * one.update:,.0f} ms", duration(one.seconds)]
        row += [f"{one.gpu_hours:.2f}", f"{100 * efficiency:.0f} %"]
        rows.append(row + [f"{price * one.gpu_hours:,.2f}"] * bool(price))
    return "\n".join(columns(rows, left=0))
