"""The parameters of training as flags of fairseq-train: one table, read by code, tests and docs.

The seed is the command in fairseq's examples/roberta/README.race.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.common.cli import options
from components.common.dataset import count_options
from components.common.manifest import Scalar
from components.train.config import Plan, TrainConfig
from components.train.node import ALONE, Node

PLUGIN = Path(__file__).parent / "engine"  # the packed engine, for fairseq's --user-dir


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


@dataclass(frozen=True)
class Flag:
    """One flag of fairseq-train.

    Args:
        parameter: of ours, or several.
        seed: its value in the seed's command, "" for a switch, None where the seed lacks it.
        value: gives the value for a run, True for a switch that is on, None or False to leave the
            flag out. Without it the value is the parameter's own.
        when: whether a run has the flag at all.
    """

    name: str
    parameter: str
    seed: str | None = None
    value: Callable[[Run], object] | None = None
    when: Callable[[TrainConfig], object] = lambda config: True


def _fp16(config: TrainConfig) -> bool:
    return config.precision == "fp16"


def _packed(config: TrainConfig) -> bool:
    return config.engine == "packed"


def _num_workers(run: Run) -> int:
    if run.config.num_workers >= 0:
        return run.config.num_workers
    # On the CPU a reader would only take a core from the ranks.
    return 2 if run.plan.device == "cuda" else 0


# "$..." in the seed's column stands where its command has a shell variable of that name.
FLAGS: tuple[Flag, ...] = (
    Flag(
        "--restore-file",
        "pretrained",
        "$ROBERTA_PATH",
        lambda r: r.save_dir / "checkpoint_last.pt" if r.resumes else r.pretrained,
    ),
    Flag("--reset-optimizer", "pretrained", "", lambda r: not r.resumes),
    Flag("--reset-dataloader", "pretrained", "", lambda r: not r.resumes),
    Flag("--reset-meters", "pretrained", "", lambda r: not r.resumes),
    # Every process reads the file itself: fairseq's broadcast of it would pickle its settings.
    Flag("--load-checkpoint-on-all-dp-ranks", "pretrained", None, lambda r: True),
    Flag("--save-dir", "output", None, lambda r: r.save_dir),
    Flag("--arch", "arch", "roberta_large"),
    Flag("--encoder-layers", "encoder_layers", when=lambda c: c.encoder_layers),
    Flag("--encoder-embed-dim", "encoder_embed_dim", when=lambda c: c.encoder_embed_dim),
    Flag(
        "--encoder-ffn-embed-dim", "encoder_ffn_embed_dim", when=lambda c: c.encoder_ffn_embed_dim
    ),
    Flag(
        "--encoder-attention-heads",
        "encoder_attention_heads",
        when=lambda c: c.encoder_attention_heads,
    ),
    Flag("--user-dir", "engine", None, lambda r: PLUGIN, when=_packed),
    Flag(
        "--task",
        "engine",
        "sentence_ranking",
        lambda r: "sentence_ranking_packed" if _packed(r.config) else "sentence_ranking",
    ),
    Flag("--criterion", "engine", "sentence_ranking", lambda r: "sentence_ranking"),
    Flag("--num-classes", "data", "4", lambda r: count_options(r.config.data)),
    Flag("--init-token", "init_token", "0"),
    Flag("--separator-token", "separator_token", "2"),
    Flag("--max-option-length", "max_option_length", "128"),
    Flag("--max-positions", "max_positions", "512"),
    Flag("--shorten-method", "shorten_method", "truncate"),
    Flag("--max-epoch", "epochs", "5"),
    Flag("--max-update", "max_updates", when=lambda c: c.max_updates),
    Flag("--batch-size", "batch_size", "1"),
    Flag("--update-freq", "effective_batch_size", "8", lambda r: r.plan.update_freq),
    Flag("--required-batch-size-multiple", "required_batch_size_multiple", "1"),
    Flag("--seed", "seed"),
    Flag("--optimizer", "adam_beta1, adam_beta2", "adam", lambda r: "adam"),
    Flag(
        "--adam-betas",
        "adam_beta1, adam_beta2",
        "(0.9, 0.98)",
        lambda r: f"({r.config.adam_beta1}, {r.config.adam_beta2})",
    ),
    Flag("--adam-eps", "adam_eps", "1e-06"),
    Flag("--weight-decay", "weight_decay", "0.01"),
    Flag("--clip-norm", "clip_norm", "0.0"),
    Flag("--lr", "learning_rate", "1e-05"),
    Flag("--lr-scheduler", "lr_scheduler", "fixed"),
    Flag("--warmup-updates", "warmup_updates"),
    Flag(
        "--total-num-update",
        "lr_scheduler",
        None,
        lambda r: r.plan.updates,
        when=lambda c: c.lr_scheduler == "polynomial_decay",
    ),
    Flag("--dropout", "dropout", "0.1"),
    Flag("--attention-dropout", "attention_dropout", "0.1"),
    Flag("--fp16", "precision", "", lambda r: _fp16(r.config)),
    Flag("--bf16", "precision", None, lambda r: r.config.precision == "bf16"),
    Flag("--fp16-init-scale", "fp16_init_scale", "4", when=_fp16),
    Flag("--fp16-scale-window", "fp16_scale_window", "128", when=_fp16),
    Flag(
        "--threshold-loss-scale",
        "threshold_loss_scale",
        "1",
        lambda r: f"{r.config.threshold_loss_scale:g}",
        when=_fp16,
    ),
    Flag("--token-budget", "token_budget", when=_packed),
    Flag("--stop-collapsed-after", "stop_collapsed_after", when=_packed),
    Flag("--stop-overflows", "stop_overflows", when=_packed),
    Flag("--ddp-backend", "ddp_backend", "legacy_ddp"),
    Flag("--cpu", "device", None, lambda r: r.plan.device == "cpu"),
    Flag(
        "--distributed-backend",
        "device",
        None,
        lambda r: "gloo" if r.plan.device == "cpu" else "nccl",
    ),
    Flag("--distributed-world-size", "num_nodes, processes", None, lambda r: r.plan.ranks),
    Flag("--best-checkpoint-metric", "best_metric", "accuracy"),
    Flag(
        "--maximize-best-checkpoint-metric",
        "best_metric",
        "",
        lambda r: r.config.best_metric == "accuracy",
    ),
    Flag(
        "--validate-interval-updates",
        "validate_interval_updates",
        when=lambda c: c.validate_interval_updates,
    ),
    Flag(
        "--save-interval-updates", "save_interval_updates", when=lambda c: c.save_interval_updates
    ),
    Flag(
        "--keep-interval-updates",
        "save_interval_updates",
        None,
        lambda r: "1",
        when=lambda c: c.save_interval_updates,
    ),
    Flag(
        "--no-save-optimizer-state", "save_optimizer", None, lambda r: not r.config.save_optimizer
    ),
    # Only the best and the last are outputs; an epoch's own checkpoint would be one more of GBs.
    Flag("--no-epoch-checkpoints", "output", None, lambda r: True),
    Flag("--num-workers", "num_workers", None, _num_workers),
    Flag("--log-interval", "log_interval"),
    Flag("--tensorboard-logdir", "output", None, lambda r: r.save_dir.parent / "tensorboard"),
    Flag("--log-format", "log_interval", None, lambda r: "json"),
)

_IN_FLAGS = {parameter for flag in FLAGS for parameter in flag.parameter.split(", ")}

# Parameters that end up in no flag: what this step does around fairseq.
OURS = tuple(o.name for o in options(TrainConfig) if o.name not in _IN_FLAGS)


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
        value = flag.value(run) if flag.value else getattr(run.config, flag.parameter)
        if not flag.when(run.config) or value is None or value is False:
            continue
        arguments.append(flag.name)
        if isinstance(value, Path):
            arguments.append(named(flag.name.removeprefix("--"), value))
        elif value is not True:
            arguments.append(str(value))
    return arguments


def table() -> list[tuple[str, str, str]]:
    """(parameter, flag of fairseq-train, value in the seed's command) for the documentation."""
    return [(f.parameter, f.name, "(set)" if f.seed == "" else f.seed or "") for f in FLAGS]
