"""The parameters of training as flags of fairseq-train: one table, read by code, tests and docs.

The seed is the command in fairseq's examples/roberta/README.race.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.common.dataset import count_options
from components.common.manifest import Scalar
from components.train.config import Plan, TrainConfig
from components.train.node import ALONE, Node


@dataclass(frozen=True)
class Engine:
    """What fairseq is told to compute with; `plugin` is a folder for its --user-dir."""

    task: str
    criterion: str
    plugin: Path | None = None


ENGINES = {
    "stock": Engine("sentence_ranking", "sentence_ranking"),
    "packed": Engine(
        "sentence_ranking_packed", "sentence_ranking", Path(__file__).parent / "engine"
    ),
}


@dataclass(frozen=True)
class Run:
    """All that a flag's value may depend on."""

    config: TrainConfig
    plan: Plan
    pretrained: Path  # the file
    save_dir: Path
    resumes: bool = False  # from save_dir's checkpoint_last.pt, which is there
    node: Node = ALONE
    # What the nodes have to have in common, where there are several.
    common: Mapping[str, Scalar] = field(default_factory=dict)
    ended: bool = False  # when it was resumed, nothing was left to do

    @property
    def engine(self) -> Engine:
        return ENGINES[self.config.engine]


@dataclass(frozen=True)
class Flag:
    """One flag of fairseq-train.

    `seed` is its value in the seed's command, "" for a switch, None where the seed lacks it.
    `value` gives the value for a run, "" for a switch that is on, None to leave the flag out.
    """

    name: str
    parameter: str
    seed: str | None
    value: Callable[[Run], object | None]


def _switch(on: bool) -> str | None:
    return "" if on else None


def _fp16(value: Callable[[TrainConfig], object]) -> Callable[[Run], object | None]:
    return lambda run: value(run.config) if run.config.precision == "fp16" else None


def _size(value: Callable[[TrainConfig], int]) -> Callable[[Run], object | None]:
    return lambda run: value(run.config) or None


def _polynomial(value: Callable[[Run], object]) -> Callable[[Run], object | None]:
    return lambda run: value(run) if run.config.lr_scheduler == "polynomial_decay" else None


def _packed(value: Callable[[TrainConfig], object]) -> Callable[[Run], object | None]:
    return lambda run: value(run.config) if run.config.engine == "packed" else None


# Parameters that end up in no flag: what this step does around fairseq.
OURS = (
    "checkpoint_uri",
    "run_id",
    "trial",
    "resume_from",
    "checkpoint_interval",
    "checkpoint_minutes",
    "max_restarts",
    "keep_checkpoints",
    "keep_checkpoints_after_end",
    "on_collapse",
    "on_doubtful_data",
    "keep_last",
    "stall_timeout",
    "stop_timeout",
)

# "$..." in the seed's column stands where its command has a shell variable of that name.
FLAGS: tuple[Flag, ...] = (
    Flag(
        "--restore-file",
        "pretrained",
        "$ROBERTA_PATH",
        lambda r: r.save_dir / "checkpoint_last.pt" if r.resumes else r.pretrained,
    ),
    Flag("--reset-optimizer", "pretrained", "", lambda r: _switch(not r.resumes)),
    Flag("--reset-dataloader", "pretrained", "", lambda r: _switch(not r.resumes)),
    Flag("--reset-meters", "pretrained", "", lambda r: _switch(not r.resumes)),
    # Every process reads the file itself: fairseq's broadcast of it would pickle its settings.
    Flag("--load-checkpoint-on-all-dp-ranks", "pretrained", None, lambda r: ""),
    Flag("--save-dir", "output", None, lambda r: r.save_dir),
    Flag("--arch", "arch", "roberta_large", lambda r: r.config.arch),
    Flag("--encoder-layers", "encoder_layers", None, _size(lambda c: c.encoder_layers)),
    Flag("--encoder-embed-dim", "encoder_embed_dim", None, _size(lambda c: c.encoder_embed_dim)),
    Flag(
        "--encoder-ffn-embed-dim",
        "encoder_ffn_embed_dim",
        None,
        _size(lambda c: c.encoder_ffn_embed_dim),
    ),
    Flag(
        "--encoder-attention-heads",
        "encoder_attention_heads",
        None,
        _size(lambda c: c.encoder_attention_heads),
    ),
    Flag("--user-dir", "engine", None, lambda r: r.engine.plugin),
    Flag("--task", "engine", "sentence_ranking", lambda r: r.engine.task),
    Flag("--criterion", "engine", "sentence_ranking", lambda r: r.engine.criterion),
    Flag("--num-classes", "data", "4", lambda r: count_options(r.config.data)),
    Flag("--init-token", "init_token", "0", lambda r: r.config.init_token),
    Flag("--separator-token", "separator_token", "2", lambda r: r.config.separator_token),
    Flag("--max-option-length", "max_option_length", "128", lambda r: r.config.max_option_length),
    Flag("--max-positions", "max_positions", "512", lambda r: r.config.max_positions),
    Flag("--shorten-method", "shorten_method", "truncate", lambda r: r.config.shorten_method),
    Flag("--max-epoch", "epochs", "5", lambda r: r.config.epochs),
    Flag("--max-update", "max_updates", None, lambda r: r.config.max_updates or None),
    Flag("--batch-size", "batch_size", "1", lambda r: r.config.batch_size),
    Flag("--update-freq", "effective_batch_size", "8", lambda r: r.plan.update_freq),
    Flag(
        "--required-batch-size-multiple",
        "required_batch_size_multiple",
        "1",
        lambda r: r.config.required_batch_size_multiple,
    ),
    Flag("--seed", "seed", None, lambda r: r.config.seed),
    Flag("--optimizer", "adam_beta1, adam_beta2", "adam", lambda r: "adam"),
    Flag(
        "--adam-betas",
        "adam_beta1, adam_beta2",
        "(0.9, 0.98)",
        lambda r: f"({r.config.adam_beta1}, {r.config.adam_beta2})",
    ),
    Flag("--adam-eps", "adam_eps", "1e-06", lambda r: r.config.adam_eps),
    Flag("--weight-decay", "weight_decay", "0.01", lambda r: r.config.weight_decay),
    Flag("--clip-norm", "clip_norm", "0.0", lambda r: r.config.clip_norm),
    Flag("--lr", "learning_rate", "1e-05", lambda r: r.config.learning_rate),
    Flag("--lr-scheduler", "lr_scheduler", "fixed", lambda r: r.config.lr_scheduler),
    Flag("--warmup-updates", "warmup_updates", None, lambda r: r.config.warmup_updates),
    Flag("--total-num-update", "lr_scheduler", None, _polynomial(lambda r: r.plan.updates)),
    Flag("--dropout", "dropout", "0.1", lambda r: r.config.dropout),
    Flag("--attention-dropout", "attention_dropout", "0.1", lambda r: r.config.attention_dropout),
    Flag("--fp16", "precision", "", lambda r: _switch(r.config.precision == "fp16")),
    Flag("--bf16", "precision", None, lambda r: _switch(r.config.precision == "bf16")),
    Flag("--fp16-init-scale", "fp16_init_scale", "4", _fp16(lambda c: c.fp16_init_scale)),
    Flag("--fp16-scale-window", "fp16_scale_window", "128", _fp16(lambda c: c.fp16_scale_window)),
    Flag(
        "--threshold-loss-scale",
        "threshold_loss_scale",
        "1",
        _fp16(lambda c: f"{c.threshold_loss_scale:g}"),
    ),
    Flag("--token-budget", "token_budget", None, _packed(lambda c: c.token_budget)),
    Flag(
        "--stop-collapsed-after",
        "stop_collapsed_after",
        None,
        _packed(lambda c: c.stop_collapsed_after),
    ),
    Flag("--stop-overflows", "stop_overflows", None, _packed(lambda c: c.stop_overflows)),
    Flag("--ddp-backend", "ddp_backend", "legacy_ddp", lambda r: r.config.ddp_backend),
    Flag("--cpu", "device", None, lambda r: _switch(r.plan.device == "cpu")),
    Flag(
        "--distributed-backend",
        "device",
        None,
        lambda r: "gloo" if r.plan.device == "cpu" else "nccl",
    ),
    Flag("--distributed-world-size", "num_nodes, processes", None, lambda r: r.plan.ranks),
    Flag("--best-checkpoint-metric", "best_metric", "accuracy", lambda r: r.config.best_metric),
    Flag(
        "--maximize-best-checkpoint-metric",
        "best_metric",
        "",
        lambda r: _switch(r.config.best_metric == "accuracy"),
    ),
    Flag(
        "--validate-interval-updates",
        "validate_interval_updates",
        None,
        lambda r: r.config.validate_interval_updates or None,
    ),
    Flag(
        "--save-interval-updates",
        "save_interval_updates",
        None,
        lambda r: r.config.save_interval_updates or None,
    ),
    Flag(
        "--keep-interval-updates",
        "save_interval_updates",
        None,
        lambda r: 1 if r.config.save_interval_updates else None,
    ),
    Flag(
        "--no-save-optimizer-state",
        "save_optimizer",
        None,
        lambda r: _switch(not r.config.save_optimizer),
    ),
    # Only the best and the last are outputs; an epoch's own checkpoint would be one more of GBs.
    Flag("--no-epoch-checkpoints", "output", None, lambda r: ""),
    Flag("--num-workers", "num_workers", None, lambda r: _num_workers(r)),
    Flag("--log-interval", "log_interval", None, lambda r: r.config.log_interval),
    Flag("--tensorboard-logdir", "output", None, lambda r: r.save_dir.parent / "tensorboard"),
    Flag("--log-format", "log_interval", None, lambda r: "json"),
)


def _num_workers(run: Run) -> int:
    if run.config.num_workers >= 0:
        return run.config.num_workers
    # On the CPU a reader would only take a core from the ranks.
    return 2 if run.plan.device == "cuda" else 0


def fairseq_arguments(run: Run, folder: Path | None = None) -> list[str]:
    """The arguments of fairseq-train for a run.

    fairseq splits paths at colons, and omegaconf expands "${...}" in them. In `folder` each gets a
    link that is called like its flag, for ranks that work there: no path can be misread then.

    Raises:
        DataError: the number of options cannot be told from the data.
    """

    def named(name: str, path: Path) -> str:
        if folder is None:
            return str(path)
        (folder / name).symlink_to(path.absolute())
        return name

    arguments = [named("data", run.config.data.absolute())]
    for flag in FLAGS:
        value = flag.value(run)
        if value is not None:
            if isinstance(value, Path):
                value = named(flag.name.removeprefix("--"), value)
            arguments.append(flag.name)
            if value != "":
                arguments.append(str(value))
    return arguments


def table() -> list[tuple[str, str, str]]:
    """(parameter, flag of fairseq-train, value in the seed's command) for the documentation."""
    return [
        (
            flag.parameter,
            flag.name,
            "" if flag.seed is None else flag.seed or "(set)",
        )
        for flag in FLAGS
    ]
