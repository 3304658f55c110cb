"""The pipeline's parameters, the config files with their values, and how both are read.

Most are declared in the steps' config dataclasses: the pipeline's `train_dropout` is TrainConfig's
`dropout`. What people change between runs of one uploaded pipeline has a short name and is an input
of the pipeline (`epochs`); every other parameter of a step goes into one of four inputs, JSON
objects such as `train_settings`; what concerns the platform is fixed when the pipeline is compiled.
A config file is YAML with the values that differ from the defaults.
"""

import contextlib
import difflib
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from components.common import strict_json
from components.common.cli import Option, option, options
from components.common.errors import ConfigError
from components.common.program import settings
from components.download import known
from components.train.cluster.config import ClusterConfig
from components.trials.core import Trials, plan_trials
from pipeline.platform import Platform, require_platform
from pipeline.steps import STEPS, SWEEP_ONLY, Step

CONFIGS = Path(__file__).parent / "configs"
DEFAULT_CONFIG = "roberta-large"

# Trials at the same time, where nothing else is said. It is fixed when the pipeline is compiled.
PARALLELISM = 2

# What a sweep sets itself: a trial that collapsed must not stop the others, only what may be
# selected is kept of each, and no two trials can go on from one training.
SET_BY_SWEEP: Mapping[str, Any] = {
    "train_on_collapse": "mark",
    "train_keep_last": False,
    "resume_from": "",
}

# What the DAG gives to a step itself.
_WIRED = ("run_id", "trial")

Kind = Literal["input", "sweep", "setting", "platform"]


@dataclass(frozen=True, kw_only=True)
class Parameter(Option):
    """One parameter of the pipeline: an option under the pipeline's name for it.

    Args:
        kind: an input of the pipeline; one of the sweep alone; part of a step's settings; or fixed
            when the pipeline is compiled.
        step: whose program has it; "" for what is the pipeline's own.
    """

    kind: Kind
    step: str = ""

    def parse(self, text: str) -> Any:
        """The value that a command line spells: numbers, true or false, JSON for lists and dicts.

        Raises:
            ConfigError: `text` does not spell one.
        """
        value: Any = text
        with contextlib.suppress(ValueError):
            if self.type is float:
                value = float(text)
            elif self.type is not str:
                value = strict_json.loads(text.lower() if self.type is bool else text)
        return self.check(value)


def _parameter(name: str, known: Option, kind: Kind, step: str = "") -> Parameter:
    return Parameter(**{**vars(known), "name": name}, kind=kind, step=step)


@dataclass(frozen=True)
class Inputs:
    """Inputs of the pipeline that are no step's own parameter."""

    race_url: str = option(
        known.RACE,
        help="RACE's archive or tables of questions, at an http(s), s3 or file address, which"
        " #sha256= and a digest may end; or hf://datasets/OWNER/NAME",
    )
    roberta_url: str = option(
        known.ROBERTA_LARGE,
        help="archive of a pretrained model.pt; #sha256=... may end it; or hf://OWNER/MODEL",
    )
    bpe_url: str = option(
        known.BPE,
        help="folder with encoder.json, vocab.bpe and dict.txt; #dict.txt=DIGEST&... may end it",
    )
    mirror_uri: str = option(
        "",
        help="s3:// address or folder that keeps what was downloaded; it is looked for there first",
    )
    train_gpus: int = option(2, help="GPUs of train, one process on each")
    s3_secret: str = option(
        "race-s3",
        help="Secret with AWS_ACCESS_KEY_ID and so on, for s3:// addresses; it may be absent",
    )


@functools.cache
def parameters() -> Mapping[str, Parameter]:
    """All parameters by name: inputs, then settings step by step, then those of the platform."""
    own = {o.name: _parameter(o.name, o, "input") for o in options(Inputs)}
    found = {n: p for n, p in own.items() if n.endswith(("_url", "_uri"))}
    for step in STEPS.values():
        by_name = {o.name: o for o in step.parameters}
        for field, name in step.given.items():
            kind: Kind = "sweep" if step.name in SWEEP_ONLY else "input"
            if name not in _WIRED and name not in own:
                # What train has, trials takes in its place.
                found[name] = _parameter(name, by_name[field], kind, step.name)
    found |= own
    for step in STEPS.values():
        for o in step.configurable:
            name = step.own(o)
            fixed = o.name in step.compiled
            found[name] = _parameter(name, o, "platform" if fixed else "setting", step.name)
    for o in [*options(Platform), *options(ClusterConfig)]:
        if o.name not in own:
            name = f"cluster_{o.name}"
            found.setdefault(name, _parameter(name, o, "platform"))
    return found


def spelled(value: Any) -> str:
    """A value as `-p name=value` wants it."""
    return value if isinstance(value, str) else strict_json.dumps(value)


def steps_of(sweep: bool) -> list[Step]:
    """The steps of the pipeline that trains once, or of the sweep."""
    return [s for s in STEPS.values() if sweep or s.name not in SWEEP_ONLY]


def inputs_of(sweep: bool) -> Mapping[str, Parameter]:
    """The inputs of the pipeline that trains once, or of the sweep, but for the settings."""
    kinds = ("input", "sweep") if sweep else ("input",)
    taken = SET_BY_SWEEP if sweep else {}
    return {n: p for n, p in parameters().items() if p.kind in kinds and n not in taken}


def settings_of(step: Step) -> str:
    """Name of the input that has a step's settings."""
    return f"{step.name}_settings"


SETTINGS = {settings_of(step): step for step in STEPS.values() if step.settings}


def is_sweep(values: Mapping[str, Any]) -> bool:
    """Whether these values ask for several trainings."""
    return bool(values.get("seeds") or values.get("learning_rates"))


def trials(values: Mapping[str, Any]) -> Trials:
    """The trainings of a sweep; what a run was not given is the default.

    Raises:
        ConfigError: a seed or a learning rate is not a number, or is given twice.
    """
    return plan_trials(step_config(STEPS["trials"], values))


@dataclass(frozen=True)
class Config:
    """The values of a config file.

    `sample` says that inputs which are not given come from the made-up sample, see pipeline.sample.
    """

    name: str
    description: str
    sample: bool
    values: Mapping[str, Any]


def config_names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load_config(name: str) -> Config:
    """A config file of this package by its name, or any other by its path.

    Raises:
        ConfigError: there is none of that name, or it is not a config file.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not path.is_file():
        names = config_names()
        raise ConfigError(
            f"there is no config {name!r}",
            hint=_nearest(name, names) + f"There are {', '.join(names)}, or any YAML file's path",
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        unknown = set(content) - {"description", "sample", "parameters"}
        if unknown:
            raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
        given = dict(content.get("parameters") or {})
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a config file: {error}",
            hint="It holds description, parameters (name: value) and, if it likes, sample: true",
        ) from error
    try:
        values = folded({str(name): value for name, value in given.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.what}", hint=error.hint) from error
    return Config(
        name=path.stem,
        description=str(content.get("description", "")),
        sample=content.get("sample") is True,
        values=values,
    )


def folded(given: Mapping[str, Any]) -> dict[str, Any]:
    """Checked values, with each entry of a settings object under its own name.

    A text is what a command line spells, see `Parameter.parse`.

    Raises:
        ConfigError: an unknown name, or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        if step := SETTINGS.get(name):
            entries = settings(value if isinstance(value, str) else strict_json.dumps(value))
            for entry, one in entries.items():
                p = parameter(f"{step.group}_{entry}")
                if p.kind != "setting":
                    raise ConfigError(f"{name}: {entry} is fixed when the pipeline is compiled")
                values[p.name] = p.check(one)
        else:
            p = parameter(name)
            # YAML takes 1e-5 for text, for it wants 1.0e-5.
            values[name] = p.parse(value) if isinstance(value, str) else p.check(value)
    return values


def resolve(config: Config, overrides: Mapping[str, Any], *, here: bool = False) -> dict[str, Any]:
    """Every parameter's value: the default, or the config file's, or the override.

    This is the one place where they are checked, by the steps' own rules and by those of
    Kubernetes, so that a contradiction shows before anything is compiled, sent or run. The steps
    check their own again when they start.

    Args:
        here: whether they are for a run on this machine.

    Raises:
        ConfigError: a step or Kubernetes refuses its values, or this machine has to be several.
    """
    defaults = {name: p.default for name, p in parameters().items()}
    values = {**defaults, **config.values, **overrides}
    if here and (nodes := values["train_num_nodes"]) > 1:
        raise ConfigError(
            f"train_num_nodes is {nodes}, but `race run` has this machine alone",
            hint="Use `race submit`; or train_processes, for several processes here",
        )
    configs = {step.name: step_config(step, values) for step in STEPS.values()}
    for trial in trials(values) if is_sweep(values) else ():
        step_config(STEPS["train"], {**values, **vars(trial)}, trial.label)
    if is_sweep(values) and values["resume_from"]:
        raise ConfigError(
            "resume_from is about one training, and this is a sweep",
            hint="Leave it empty, or resume that training alone, without seeds and learning_rates",
        )
    require_platform(values, configs["train"], here=here)
    return values


def step_config(step: Step, values: Mapping[str, Any], label: str = "") -> Any:
    """A step's config with these values, and paths that mean nothing.

    Raises:
        ConfigError: it refuses them.
    """
    given = {field: values[name] for field, name in step.given.items() if name in values}
    given |= step.fixed
    given |= {o.name: values[step.own(o)] for o in step.configurable}
    for o in options(step.config):
        if o.is_path:
            given[o.name] = () if o.repeated else Path("unknown")
        elif o.repeated and o.name in given:
            value = given[o.name]
            given[o.name] = tuple(value) if isinstance(value, list) else (value,)
    try:
        return step.config(**given)
    except ConfigError as error:
        raise ConfigError(f"{label or step.name}: {error.what}", hint=error.hint) from error


def run_inputs(
    values: Mapping[str, Any], compiled: Mapping[str, Any], sweep: bool
) -> dict[str, Any]:
    """The inputs of a run with these values, of a pipeline that others were compiled into."""
    found: dict[str, Any] = {name: values[name] for name in inputs_of(sweep)}
    for name, step in SETTINGS.items():
        own = {o.name: step.own(o) for o in step.configurable}
        found[name] = {o: values[n] for o, n in own.items() if values[n] != compiled.get(n)}
    return found


def require_store(values: Mapping[str, Any]) -> None:
    """See that several nodes have a place that they share, which a config file cannot know.

    Raises:
        ConfigError: they have none.
    """
    nodes, uri = values["train_num_nodes"], values["checkpoint_uri"]
    if nodes > 1 and not uri.startswith("s3://"):
        raise ConfigError(
            f"train_num_nodes is {nodes}, and checkpoint_uri is {uri!r}: nodes share data,"
            " checkpoints and output through object storage",
            hint="Give -p checkpoint_uri=s3://bucket/folder",
        )


# Names that people know from elsewhere, and those of version 0.1.0 that do not follow from a row.
_SYNONYMS = {
    "lr": "learning_rate",
    "batch_size": "effective_batch_size",
    "train_effective_batch": "effective_batch_size",
    "train_nodes": "train_num_nodes",
    "gradient_accumulation_steps": "effective_batch_size",
    "per_device_train_batch_size": "train_batch_size",
    "num_train_epochs": "epochs",
    "fp16": "precision",
    "bf16": "precision",
    "gpus": "train_gpus",
    "download_race_sha256": "race_url",
    "download_roberta_sha256": "roberta_url",
    "download_encoder_json_url": "bpe_url",
    "download_vocab_bpe_url": "bpe_url",
    "download_dict_url": "bpe_url",
    "download_race_url": "race_url",
    "download_roberta_url": "roberta_url",
    "evaluate_min_accuracy": "min_accuracy",
    "cluster_train_gpus": "train_gpus",
    "cluster_s3_secret": "s3_secret",
}


@functools.cache
def _renamed() -> Mapping[str, str]:
    found = dict(_SYNONYMS)
    for step in STEPS.values():
        found |= {f"{step.group}_{field}": name for field, name in step.given.items()}
    return {old: new for old, new in found.items() if old not in parameters()}


def parameter(name: str) -> Parameter:
    """The parameter of that name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    existing = parameters()
    if name in existing:
        return existing[name]
    if name in _renamed():
        raise ConfigError(
            f"there is no parameter {name!r}", hint=f"It is called {_renamed()[name]!r} here"
        )
    raise ConfigError(
        f"there is no parameter {name!r}",
        hint=_nearest(name, existing) + "`race parameters` lists all of them",
    )


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    close = [n for n in names if n.endswith(f"_{name}")] if name else []
    # An input has no step before its name.
    for spelled, cutoff in ((name.partition("_")[2], 0.8), (name, 0.5)):
        close = close or difflib.get_close_matches(spelled, names, n=1, cutoff=cutoff)
    return f"Did you mean {close[0]!r}? " if close else ""
