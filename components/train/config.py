"""The parameters of training, and what is derived from them."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.common.cli import option, require_ranges
from components.common.device import DEVICE_HELP, Device
from components.common.errors import ConfigError
from components.common.storage.store import require_supported
from components.train.roberta import ARCHITECTURES, Shape


@dataclass(frozen=True)
class TrainConfig:
    """What to train, from what, and how. The defaults are those of fairseq's README.race.md.

    Raises:
        ConfigError: a value is out of its range, or two contradict each other.
    """

    data: Path = option(help="folder that binarize wrote")
    pretrained: Path = option(
        help="what to start from: a .pt, a folder with one model.pt, or a Hugging Face RoBERTa"
    )
    output: Path = option(help="new folder for the checkpoints, metrics.json and the logs")

    device: Device = option("auto", help=DEVICE_HELP)
    arch: Literal["roberta_large", "roberta_base"] = option(
        "roberta_large", help="architecture of the pretrained model"
    )
    engine: Literal["packed", "stock"] = option(
        "packed",
        help="who computes the updates: the packed engine, which makes the same ones faster, or"
        " fairseq's own task and criterion",
    )
    encoder_layers: int = option(0, help="number of layers; 0 is the architecture's own")
    encoder_embed_dim: int = option(0, help="width of the model; 0 is the architecture's own")
    encoder_ffn_embed_dim: int = option(
        0, help="width of the feed-forward layers; 0 is the architecture's own"
    )
    encoder_attention_heads: int = option(0, help="heads in a layer; 0 is the architecture's own")

    epochs: int = option(5, least=1, help="times that every question is seen")
    max_updates: int = option(0, help="stop after this many updates; 0 is no limit")
    effective_batch_size: int = option(
        16, least=1, help="questions in an update, over all nodes and processes"
    )
    batch_size: int = option(
        1,
        least=1,
        help="questions that a process computes at once; more is faster and takes more memory",
    )
    token_budget: int = option(
        0, help="with engine packed: tokens computed at once; 0 is as many as the memory holds"
    )
    num_nodes: int = option(1, least=1, help="machines that train together")
    processes: int = option(
        0, help="on each node: one for each GPU, or ranks on the CPU; 0 is all GPUs, else 1"
    )
    seed: int = option(1, help="of the order of the questions, dropout and the new head")

    learning_rate: float = option(1e-5, help="the highest")
    lr_scheduler: Literal["fixed", "polynomial_decay", "inverse_sqrt"] = option(
        "fixed", help="how the learning rate goes after the warm-up"
    )
    warmup_updates: int = option(0, help="updates over which the learning rate rises from 0")
    adam_beta1: float = option(0.9, below=1, help="decay of the mean of the gradient")
    adam_beta2: float = option(0.98, below=1, help="decay of the mean of its square")
    adam_eps: float = option(1e-6, help="added to the denominator")
    weight_decay: float = option(0.01, help="share of a weight taken off, times learning rate")
    clip_norm: float = option(0.0, help="highest norm of the gradient; 0 does not clip")
    dropout: float = option(0.1, below=1, help="of activations")
    attention_dropout: float = option(0.1, below=1, help="of attention weights")

    precision: Literal["fp16", "bf16", "fp32"] = option(
        "fp16", help="of the weights in forward and backward; fp16 needs a GPU"
    )
    fp16_init_scale: int = option(4, least=1, help="loss scale at the start")
    fp16_scale_window: int = option(128, least=1, help="updates without overflow before it doubles")
    threshold_loss_scale: float = option(1.0, help="the loss scale is never set below this")

    stop_collapsed_after: int = option(
        50_000,
        help="with engine packed: end a run whose loss is that of guessing after this many"
        " questions; 0 never does",
    )
    stop_overflows: int = option(
        25,
        help="with engine packed: end a run after this many updates in a row that overflow;"
        " 0 never does",
    )
    on_collapse: Literal["fail", "mark"] = option(
        "fail",
        help="what a run does that one of these two ends, or weights that are no numbers: it fails,"
        " or it ends well without a model, and metrics.json says why",
    )

    on_doubtful_data: Literal["warn", "fail"] = option(
        "warn",
        help="what a run does whose data lean to one letter, have passages of validation in"
        " training, or are mostly longer than the model: it says so, or fails before training",
    )

    init_token: int = option(0, help="index of the token before an option, <s>")
    separator_token: int = option(2, help="index of the token before the passage, </s>")
    max_option_length: int = option(128, least=1, help="tokens of question and option together")
    max_positions: int = option(512, least=3, help="tokens of a whole sequence")
    shorten_method: Literal["truncate", "random_crop", "none"] = option(
        "truncate", help="what happens to a longer sequence"
    )

    best_metric: Literal["accuracy", "loss"] = option(
        "accuracy", help="what checkpoint_best.pt is the best in, on the validation questions"
    )
    validate_interval_updates: int = option(
        0,
        help="validate each time this many updates are made, besides after each epoch; 0 does not",
    )
    save_interval_updates: int = option(
        0,
        help="validate and save each time this many updates are made, besides after each epoch;"
        " 0 does not",
    )
    checkpoint_uri: str = option(
        "",
        help="s3:// address or folder where checkpoints go while training runs, and are found when"
        " it starts again; a pipeline adds the run's id. Empty: none go anywhere",
    )
    resume_from: str = option(
        "", help="checkpoint_uri of another run, to go on from its newest checkpoint"
    )
    checkpoint_interval: int = option(
        1000, help="updates between two checkpoints, besides those after each epoch; 0 is none"
    )
    checkpoint_minutes: float = option(
        10.0, help="minutes after which there is a checkpoint at the next update's end; 0 is none"
    )
    max_restarts: int = option(
        3,
        help="times that a training on one machine starts its processes again by itself, from its"
        " newest checkpoint, after a failure that may pass; 0 never does",
    )
    keep_checkpoints: int = option(2, least=1, help="at checkpoint_uri; older ones are removed")
    keep_checkpoints_after_end: bool = option(
        False,
        help="leave them at checkpoint_uri when the run has ended and its output is whole, and not"
        " remove them",
    )
    run_id: str = option("", help="what a pipeline adds to checkpoint_uri")
    trial: str = option("", help="what a sweep adds to it after that")
    stall_timeout: int = option(
        1800, help="seconds without a sign of life after which training is ended; 0 is never"
    )
    stop_timeout: int = option(
        120, least=1, help="with checkpoint_uri: seconds for the last checkpoint after SIGTERM"
    )
    save_optimizer: bool = option(True, help="keep the optimizer's state in the checkpoints")
    keep_last: bool = option(
        True, help="keep checkpoint_last.pt, with the optimizer's state, besides the best one"
    )
    ddp_backend: Literal["legacy_ddp", "pytorch_ddp"] = option(
        "legacy_ddp", help="how fairseq adds the processes' gradients up"
    )
    required_batch_size_multiple: int = option(
        1, least=1, help="fairseq rounds the number of questions in a batch to a multiple of this"
    )
    num_workers: int = option(
        -1,
        least=-1,
        help="processes that read data, for each GPU; -1 is 2 with a GPU and none on the CPU",
    )
    log_interval: int = option(10, least=1, help="updates between two records of train_log.jsonl")

    def __post_init__(self) -> None:
        require_ranges(self)
        if self.lr_scheduler == "inverse_sqrt" and self.warmup_updates == 0:
            raise ConfigError(
                "lr_scheduler inverse_sqrt needs a warm-up",
                hint="Set warmup_updates, or use polynomial_decay or fixed",
            )
        if self.checkpoint_uri and not self.save_optimizer:
            raise ConfigError(
                "checkpoint_uri wants the optimizer's state in the checkpoints",
                hint="Leave save_optimizer on; what is published has no optimizer's state",
            )
        for name in ("checkpoint_uri", "resume_from"):
            require_supported(name, getattr(self, name))
        self._add_run()
        shape = self.shape(vocabulary=0)
        if shape.embed_dim % shape.attention_heads:
            raise ConfigError(
                f"{shape.embed_dim} wide layers do not divide into {shape.attention_heads} heads",
                hint="Set encoder_embed_dim to a multiple of encoder_attention_heads",
            )

    def _add_run(self) -> None:
        """Move the run's id, and its trial's, into the address that the run writes to.

        A retry has its run's id, and so finds what the attempt before it left; no other run does,
        and no other trial of a sweep.
        """
        run = "/".join(filter(None, (self.run_id, self.trial)))
        if run and (uri := self.checkpoint_uri):
            object.__setattr__(self, "checkpoint_uri", f"{uri.rstrip('/')}/{run}")
        object.__setattr__(self, "run_id", "")
        object.__setattr__(self, "trial", "")

    @property
    def restartable(self) -> bool:
        """Whether it may go on by itself; nodes have to start together, which no node can do."""
        return self.num_nodes == 1 and self.max_restarts > 0 and self.save_optimizer

    def shape(self, vocabulary: int) -> Shape:
        """The size of the model to train: the architecture's, or what was asked for instead."""
        own = ARCHITECTURES[self.arch]
        return Shape(
            layers=self.encoder_layers or own.layers,
            embed_dim=self.encoder_embed_dim or own.embed_dim,
            ffn_embed_dim=self.encoder_ffn_embed_dim or own.ffn_embed_dim,
            attention_heads=self.encoder_attention_heads or own.attention_heads,
            positions=self.max_positions,
            vocabulary=vocabulary,
        )


@dataclass(frozen=True)
class Plan:
    """How the work is split: effective batch = nodes x processes x batch_size x update_freq."""

    device: Literal["cuda", "cpu"]
    processes: int  # on each node
    update_freq: int
    updates_per_epoch: int
    updates: int  # of the whole run
    nodes: int = 1

    @property
    def ranks(self) -> int:
        """Processes on all nodes together."""
        return self.nodes * self.processes


def plan(config: TrainConfig, *, gpus: int, questions: int) -> Plan:
    """The split over processes and micro-batches for a machine and a number of training questions.

    Raises:
        ConfigError: the effective batch does not divide, there are fewer GPUs, or the
            precision needs one.
    """
    device: Literal["cuda", "cpu"] = "cuda" if gpus else "cpu"
    if config.precision == "fp16" and not gpus:
        raise ConfigError(
            "precision fp16 needs a GPU, and none is visible", hint="Use precision fp32 or bf16"
        )
    processes = config.processes or gpus or 1
    if gpus and processes > gpus:
        raise ConfigError(
            f"processes is {processes}, but {gpus} GPU{'s are' if gpus > 1 else ' is'} visible",
            hint=f"Set it to {gpus} or less, or to 0 for all GPUs",
        )
    ranks = config.num_nodes * processes
    update_freq = update_freq_of(config, processes)
    # As fairseq counts: an epoch ends with a smaller update, if need be.
    batches = math.ceil(questions / config.batch_size)
    updates_per_epoch = math.ceil(math.ceil(batches / ranks) / update_freq)
    updates = updates_per_epoch * config.epochs
    if config.max_updates:
        updates = min(updates, config.max_updates)
    if config.lr_scheduler == "polynomial_decay" and config.warmup_updates >= updates:
        raise ConfigError(
            f"warmup_updates is {config.warmup_updates}, but the run has {updates} updates",
            hint="Set it lower",
        )
    return Plan(device, processes, update_freq, updates_per_epoch, updates, config.num_nodes)


def update_freq_of(config: TrainConfig, processes: int) -> int:
    """How often each of a node's processes computes before an update.

    Raises:
        ConfigError: the effective batch does not divide.
    """
    at_once = config.num_nodes * processes * config.batch_size
    update_freq, rest = divmod(config.effective_batch_size, at_once)
    if rest or not update_freq:
        below, above = update_freq * at_once, (update_freq + 1) * at_once
        nearest = f"{below} or {above}" if below else f"{above}"
        nodes = f"{config.num_nodes} nodes of " if config.num_nodes > 1 else ""
        raise ConfigError(
            f"effective_batch_size {config.effective_batch_size} does not divide over {nodes}"
            f"{processes} process{'es' if processes > 1 else ''} of batch_size {config.batch_size}",
            hint=f"The nearest that does: {nearest}",
        )
    return update_freq


def as_dict(config: Any) -> dict[str, object]:
    """A step's parameters with values that JSON knows."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(config).items()
    }
