"""Time and cost of a run without losses: from an update's parts to the whole.

Symbols and formulas are those of docs/scaling.md. Times are in seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.race_data import VOCABULARY, make_lengths
from benchmarks.scaling.config import GB, GPUS_PER_NODE, HOUR, Assumptions
from benchmarks.scaling.losses import Schedule
from benchmarks.train_step import RACE_QUESTIONS, cut_lengths, question_flops
from components.common.errors import ConfigError
from components.train.checkpoints import Shape
from components.train.config import TrainConfig, plan

VALIDATION_QUESTIONS = 4_887  # RACE's dev
BATCH = 16  # questions in an update of fairseq's recipe

# Bytes that an update moves for each parameter of 16 bits, besides forward and backward (see
# fairseq_plugin/optimizer.py): gradients zeroed 2, read for the norm 2, read for the step 2; master
# weights and two moments read 12 and written 12; weights written 2. What is widened in pieces stays
# in the cache. With several ranks the gradients are divided first: read 2, written 2.
STEP_BYTES, DIVIDE_BYTES = 32, 4
# With float32 there is no copy: zeroed 4, norm 4, scaled 8, gradients, weights and moments 16 + 12.
STEP_BYTES_FP32, DIVIDE_BYTES_FP32 = 44, 8


def recipe(nodes: int, processes: int, batch: int) -> TrainConfig:
    """roberta_large on RACE as the train step's defaults have it."""
    return TrainConfig(
        Path(), Path(), Path(), nodes=nodes, processes=processes, effective_batch=batch
    )


def trained_parameters(shape: Shape) -> int:
    """Parameters of roberta with a ranking head that are trained.

    Args:
        shape: with its positions and its vocabulary.
    """
    width, inner = shape.embed_dim, shape.ffn_embed_dim
    embedding = width * (shape.vocabulary + shape.positions + 2) + 2 * width  # and its norm
    attention = 4 * width * width + 4 * width
    layer = attention + 2 * width * inner + inner + width + 4 * width  # and two norms
    head = width * width + width + width + 1
    return embedding + shape.layers * layer + head


def untrained_parameters(shape: Shape) -> int:
    """Those of the language model's head, which a checkpoint holds as well."""
    width = shape.embed_dim
    return width * width + width + 2 * width + shape.vocabulary


def ring(size: float, members: int, bandwidth: float, latency: float) -> float:
    """An all-reduce of `size` bytes around a ring: reduce-scatter, then all-gather.

    Thakur, Rabenseifner and Gropp (2005), section 4.5 (without their term for adding up);
    Patarasuk and Yuan (2009) show that no algorithm moves fewer bytes.

    Args:
        bandwidth: bytes/s of a member, one way.
        latency: seconds of each of the 2 (p - 1) steps.
    """
    steps = 2 * (members - 1)
    return steps * (size / members / bandwidth + latency)


def balanced(sizes: np.ndarray, ranks: int) -> np.ndarray:
    """Which rank gets each question: (updates, questions) of both.

    fairseq_plugin/batch.py's `balance`, for many updates at once: largest first, each to the rank
    that has least.
    """
    updates = np.arange(len(sizes))
    order = np.argsort(-sizes, axis=1, kind="stable")
    loads = np.zeros((len(sizes), ranks), dtype=sizes.dtype)
    result = np.empty_like(order)
    for place in order.T:
        least = loads.argmin(axis=1)
        loads[updates, least] += sizes[updates, place]
        result[updates, place] = least
    return result


@dataclass(frozen=True)
class Update:
    """Where the time of one update goes, seconds."""

    compute: float  # of the mean rank
    uneven: float  # what the rank with most work takes longer, or the host to issue the kernels
    reduce: float
    step: float
    host: float

    @property
    def seconds(self) -> float:
        return self.compute + self.uneven + self.reduce + self.step + self.host


@dataclass(frozen=True)
class Run:
    """A run that loses no node."""

    gpus: int
    batch: int  # questions of an update
    update: Update
    updates: int
    training: float  # seconds of all updates
    validation: float
    checkpoints: int
    waiting: float  # for checkpoints to be written
    seconds: float  # with start and the last publication
    dollars: float  # on demand
    schedule: Schedule = field(repr=False)

    @property
    def hours(self) -> float:
        return self.seconds / HOUR

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.hours


class Model:
    """The time of runs under some assumptions.

    Raises:
        ConfigError: the throughput cannot be.
    """

    def __init__(self, assumptions: Assumptions) -> None:
        self.assumptions = assumptions
        config = recipe(1, 1, BATCH)
        self.shape = config.shape(VOCABULARY)
        self.epochs = config.epochs
        self.parameters = trained_parameters(self.shape)
        lengths = lengths_of_race(assumptions.random_seed)
        # By question: operations of its forward and backward.
        self.question_flops = question_flops(self.shape, lengths)
        self.total_flops = self.epochs * RACE_QUESTIONS * self.question_flops
        self.tokens_per_sequence = float(lengths.mean())
        narrow = assumptions.precision != "fp32"
        self.gradient_bytes = (2 if narrow else 4) * self.parameters
        # float32 weights and two moments, which 16-bit training keeps in bfloat16.
        self.checkpoint_bytes = (8 if narrow else 12) * self.parameters
        self.checkpoint_bytes += 4 * untrained_parameters(self.shape)
        self.writing = self.checkpoint_bytes / (assumptions.checkpoint_rate * GB)
        self.publishing = self.checkpoint_bytes / (assumptions.store_rate * GB)
        self.restart = assumptions.detect + assumptions.start + self.publishing
        self.rate = self._rate()

    def _rate(self) -> float:
        """FLOP/s of a GPU in forward and backward."""
        assumptions = self.assumptions
        if not assumptions.throughput:
            return assumptions.peak_share * assumptions.of_gpu.peak
        rest = assumptions.host + self.step(1)
        seconds = BATCH / assumptions.throughput - rest
        if seconds <= 0:
            raise ConfigError(
                f"throughput is {assumptions.throughput:g} questions a second, but the step and the"
                f" host alone take {1e3 * rest:.1f} ms of an update of {BATCH}",
                mend="Check it, or set host and memory_share",
            )
        return BATCH * self.question_flops / seconds

    def step(self, gpus: int) -> float:
        """Seconds of the optimizer's step, the norm and such: the same on every GPU, whatever
        their number."""
        narrow = self.assumptions.precision != "fp32"
        size = STEP_BYTES if narrow else STEP_BYTES_FP32
        if gpus > 1:
            size += DIVIDE_BYTES if narrow else DIVIDE_BYTES_FP32
        bandwidth = self.assumptions.memory_share * self.assumptions.of_gpu.memory
        return size * self.parameters / bandwidth

    def reduce(self, gpus: int, *, algorithm: str = "", network: float = 0.0) -> float:
        """Seconds of the all-reduce of an update's gradients.

        Args:
            algorithm, network: instead of those assumed.
        """
        a = self.assumptions
        link = a.link_share * (a.link * GB or a.of_gpu.link)
        wire = a.network_share * (network or a.network) * GB / 8
        local = min(gpus, GPUS_PER_NODE)
        nodes = gpus // local
        if nodes == 1:
            return ring(self.gradient_bytes, local, link, a.link_latency)
        if (algorithm or a.reduce) == "ring":
            # All that goes around passes through the network of every node.
            return ring(self.gradient_bytes, gpus, min(link, wire), a.network_latency)
        # Reduce-scatter within each node, all-reduce of the parts between nodes, all-gather within:
        # the node's GPUs share its network, so that all gradients pass through it together.
        within = ring(self.gradient_bytes, local, link, a.link_latency)
        return within + ring(self.gradient_bytes, nodes, wire, a.network_latency)

    def floor(self) -> float:
        """Seconds that the host needs to issue a forward and backward, however small."""
        return self.shape.layers * self.assumptions.kernels * self.assumptions.launch

    def update(self, gpus: int, batch: int) -> Update:
        """The parts of an update of so many questions.

        Raises:
            ConfigError: the train step refuses the split: so many GPUs do not divide the batch.
        """
        plan(
            recipe(nodes_of(gpus), min(gpus, GPUS_PER_NODE), batch),
            gpus=GPUS_PER_NODE,
            questions=RACE_QUESTIONS,
        )
        compute = batch / gpus * self.question_flops / self.rate
        share = largest_share(self.assumptions.random_seed, gpus, batch)
        slowest = max(batch * share * self.question_flops / self.rate, self.floor())
        return Update(
            compute=compute,
            uneven=max(slowest - compute, 0.0),
            reduce=self.reduce(gpus),
            step=self.step(gpus),
            host=self.assumptions.host,
        )

    def run(self, gpus: int, batch: int = BATCH, interval: int | None = None) -> Run:
        """A whole run.

        Args:
            interval: updates between two checkpoints, instead of the one assumed.
        """
        interval = self.assumptions.interval if interval is None else interval
        update = self.update(gpus, batch)
        # The last update of an epoch is a smaller one: it computes less, and all else is the same.
        per_epoch = math.ceil(RACE_QUESTIONS / batch)
        computing = RACE_QUESTIONS / batch * (update.compute + update.uneven)
        epoch = computing + per_epoch * (update.reduce + update.step + update.host)
        validation = VALIDATION_QUESTIONS * self.question_flops / 3 / (gpus * self.rate)
        places = checkpoints_at(per_epoch, self.epochs, interval)
        stretches = []
        before = 0
        for place in places:
            seconds = (place - before) * epoch / per_epoch + self.writing
            stretches.append(seconds + (validation if place % per_epoch == 0 else 0.0))
            before = place
        a = self.assumptions
        schedule = Schedule(a.start, self.restart, self.publishing, tuple(stretches))
        seconds = schedule.undisturbed()
        return Run(
            gpus=gpus,
            batch=batch,
            update=update,
            updates=self.epochs * per_epoch,
            training=self.epochs * epoch,
            validation=self.epochs * validation,
            checkpoints=len(places),
            waiting=len(places) * self.writing,
            seconds=seconds,
            dollars=gpus * seconds / HOUR * a.gpu_hour,
            schedule=schedule,
        )

    def grown_batch(self, gpus: int) -> int:
        """The effective batch where it may grow with the GPUs."""
        return max(BATCH, gpus * self.assumptions.questions_per_gpu)


def nodes_of(gpus: int) -> int:
    return math.ceil(gpus / GPUS_PER_NODE)


def checkpoints_at(per_epoch: int, epochs: int, interval: int) -> list[int]:
    """After how many updates checkpoints are written: every interval, and after each epoch."""
    ends = {per_epoch * (epoch + 1) for epoch in range(epochs)}
    between = set(range(interval, per_epoch * epochs, interval)) if interval else set()
    return sorted(ends | between)


@lru_cache
def lengths_of_race(seed: int) -> np.ndarray:
    """Tokens of the sequences of as many made-up questions as RACE has, (questions, options)."""
    columns = make_lengths(np.random.default_rng(seed), RACE_QUESTIONS)
    stored = [np.maximum(1, column.astype(int)) + 1 for column in columns]  # with </s>
    return cut_lengths(recipe(1, 1, BATCH), stored)


@lru_cache
def largest_share(seed: int, ranks: int, batch: int) -> float:
    """The part of an update's operations that the rank with most of them has; the mean of an epoch.

    Ranks get the same numbers of tokens, as far as whole questions allow; with one rank it is 1.
    """
    if ranks == 1:
        return 1.0
    lengths = lengths_of_race(seed)
    lengths = lengths[: len(lengths) // batch * batch]
    tokens = lengths.sum(1).reshape(-1, batch)
    owners = balanced(tokens, ranks)
    work = _flops(lengths).reshape(-1, batch)
    updates = np.arange(len(work))
    loads = np.zeros((len(work), ranks))
    for place in range(batch):
        loads[updates, owners[:, place]] += work[:, place]
    return float((loads.max(axis=1) / work.sum(axis=1)).mean())


def _flops(lengths: np.ndarray) -> np.ndarray:
    """Operations of each question, in proportion: linear and quadratic in its sequences' tokens."""
    shape = recipe(1, 1, BATCH).shape(VOCABULARY)
    per_token = 4 * shape.embed_dim**2 + 2 * shape.embed_dim * shape.ffn_embed_dim
    squares = (lengths.astype(float) ** 2).sum(1)
    result: np.ndarray = per_token * lengths.sum(1) + 2 * shape.embed_dim * squares
    return result


def young(writing: float, rate: float) -> float:
    """The time between two checkpoints that loses least, to first order (Young, 1974).

    Args:
        writing: seconds that a checkpoint takes.
        rate: losses a second.
    """
    return math.sqrt(2 * writing / rate)


def daly(writing: float, rate: float) -> float:
    """The same to a higher order (Daly, 2006, equation 37)."""
    mean = 1 / rate
    if writing >= 2 * mean:
        return mean
    part = writing / (2 * mean)
    return math.sqrt(2 * writing * mean) * (1 + math.sqrt(part) / 3 + part / 9) - writing


def efficiency(runs: Sequence[Run]) -> list[float]:
    """Each run's speed over that of the first, by GPU."""
    first = runs[0]
    return [first.gpu_hours / run.gpu_hours for run in runs]
