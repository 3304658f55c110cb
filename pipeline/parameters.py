"""The pipeline's parameters, their profiles, and how they are read from a command line.

Each parameter is declared once, with its type, default, choices and help: a step's own in its
config dataclass, where the pipeline's `train_learning_rate` is TrainConfig's `learning_rate`, and
those that only the pipeline knows in `SOURCES`, `SWEEP` and `CLUSTER` below. A profile is a YAML
file with the values that differ from these defaults.
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.binarize.core import BinarizeConfig
from components.common import strict_json
from components.common.cli import options
from components.common.errors import ConfigError
from components.download import known
from components.download.core import DownloadConfig
from components.evaluate.core import EvaluateConfig
from components.gate.core import GateConfig
from components.preprocess.core import PreprocessConfig
from components.select.config import SelectConfig
from components.select.trials import Trial, plan_trials
from components.train.cluster.config import ClusterConfig
from components.train.config import TrainConfig, plan

PROFILES = Path(__file__).parent / "profiles"
DEFAULT_PROFILE = "roberta-large"

# The steps that are configured by their own dataclass, in the order of the DAG. Their paths are no
# parameters: the DAG wires them.
STEPS: dict[str, type] = {
    "preprocess": PreprocessConfig,
    "binarize": BinarizeConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "select": SelectConfig,
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of the pipeline; `type` is str, int, float, bool, list or dict."""

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[Any, ...] | None = None

    @property
    def group(self) -> str:
        """The step that it belongs to, or `cluster`, or `sweep`."""
        return "sweep" if self in SWEEP else self.name.partition("_")[0]

    def parse(self, text: str) -> Any:
        """The value that a command line spells: numbers, true or false, JSON for lists and dicts.

        Raises:
            ConfigError: `text` does not spell one.
        """
        if self.type is str:
            return self.check(text)
        try:
            value = strict_json.loads(text.lower() if self.type is bool else text)
        except ValueError:
            value = text
        return self.check(value)

    def check(self, value: Any) -> Any:
        """`value` in the parameter's own type.

        Raises:
            ConfigError: it is of another type, or not one of the choices.
        """
        if self.type is float and type(value) is int:
            value = float(value)
        if type(value) is not self.type or (type(value) is float and not math.isfinite(value)):
            example = {
                int: "a whole number",
                float: "a number",
                bool: "true or false",
                list: "a JSON list, such as '[]'",
                dict: """a JSON object, such as '{"pool": "a100"}'""",
            }.get(self.type, "text")
            raise ConfigError(f"parameter {self.name}: expected {example}, got {value!r}")
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"parameter {self.name}: {value!r} is none of {', '.join(map(repr, self.choices))}"
            )
        return value


_KNOWN = "its sha256; empty: the known one of the default address, else not checked"
_UNKNOWN = "its sha256; empty: computed and shown, not checked"

SOURCES = (
    Parameter(
        "download_race_url", str, known.RACE, "RACE's archive, at an http(s), s3 or file address"
    ),
    Parameter("download_race_sha256", str, "", _KNOWN),
    Parameter("download_roberta_url", str, known.ROBERTA_LARGE, "archive of a pretrained model.pt"),
    Parameter("download_roberta_sha256", str, "", _UNKNOWN),
    Parameter("download_encoder_json_url", str, known.ENCODER_JSON, "GPT-2's encoder.json"),
    Parameter("download_encoder_json_sha256", str, "", _KNOWN),
    Parameter("download_vocab_bpe_url", str, known.VOCAB_BPE, "GPT-2's vocab.bpe"),
    Parameter("download_vocab_bpe_sha256", str, "", _KNOWN),
    Parameter("download_dict_url", str, known.DICT_TXT, "the pretrained model's dict.txt"),
    Parameter("download_dict_sha256", str, "", _UNKNOWN),
    Parameter(
        "download_mirror_uri",
        str,
        "",
        "s3:// address or folder that keeps what was downloaded; it is looked for there first",
    ),
)

# What each download task fetches: the addresses, whose digests stand beside them.
DOWNLOADS = {
    "download-race": ("download_race_url",),
    "download-roberta": ("download_roberta_url",),
    "download-bpe": (
        "download_encoder_json_url",
        "download_vocab_bpe_url",
        "download_dict_url",
    ),
}

# With one of these lists the pipeline is a sweep, which trains with all pairs of their values.
SWEEP = (
    Parameter(
        "seeds", list, [], "a sweep: train with each of these, such as [1, 2, 3]; else train_seed"
    ),
    Parameter(
        "learning_rates",
        list,
        [],
        "a sweep: train with each of these, such as [1e-5, 2e-5]; else train_learning_rate",
    ),
)

GATE = Parameter(
    "evaluate_min_accuracy",
    float,
    0.0,
    "fail when the accuracy on all test questions is below, in percent",
)

CLUSTER = (
    Parameter("cluster_data_cpu", str, "4", "CPUs of each data step"),
    Parameter("cluster_data_memory", str, "8Gi", "memory of each data step"),
    Parameter("cluster_train_cpu", str, "8", "CPUs of train"),
    Parameter("cluster_train_memory", str, "64Gi", "memory of train, /dev/shm included"),
    Parameter("cluster_train_gpus", int, 2, "GPUs of train, one process on each"),
    Parameter("cluster_evaluate_cpu", str, "4", "CPUs of evaluate"),
    Parameter("cluster_evaluate_memory", str, "32Gi", "memory of evaluate"),
    Parameter("cluster_evaluate_gpus", int, 1, "GPUs of evaluate"),
    Parameter("cluster_node_cpu", str, "32", "with train_nodes: CPUs of each node"),
    Parameter("cluster_node_memory", str, "256Gi", "memory of each node, /dev/shm included"),
    Parameter("cluster_node_gpus", int, 8, "GPUs of each node, one process on each"),
    Parameter(
        "cluster_node_runtime", str, "race-torch", "Kubeflow Trainer's ClusterTrainingRuntime"
    ),
    Parameter(
        "cluster_node_service_account",
        str,
        "",
        "service account of the nodes; empty: their namespace's default",
    ),
    Parameter("cluster_gpu_type", str, "nvidia.com/gpu", "resource name of a GPU"),
    Parameter(
        "cluster_gpu_node_selector",
        dict,
        {},
        'labels of the nodes for train and evaluate, such as {"pool": "a100"}',
    ),
    Parameter(
        "cluster_gpu_tolerations",
        list,
        [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "taints that train and evaluate tolerate: a list of Kubernetes tolerations",
    ),
    Parameter(
        "cluster_s3_secret",
        str,
        "race-s3",
        "Secret with AWS_ACCESS_KEY_ID and so on, for s3:// addresses; it may be absent",
    ),
    Parameter(
        "cluster_image_pull_secret",
        str,
        "race-registry",
        "Secret for pulling the images; it may be absent where none is needed",
    ),
)


@functools.cache
def parameters() -> Mapping[str, Parameter]:
    """All parameters by name, in the order of the DAG."""
    found = list(SOURCES)
    for step, config_class in STEPS.items():
        if step == "select":
            found += (GATE, *SWEEP)
        found += [
            Parameter(
                name=f"{step}_{o.name}",
                type=list if o.repeated else o.type,
                default=list(o.default) if o.repeated else o.default,
                help=o.help,
                choices=o.choices,
            )
            for o in options(config_class)
            if o.type is not Path
        ]
    found += CLUSTER
    return {p.name: p for p in found}


# Trials at the same time, where nothing else is said. It is fixed when the pipeline is compiled.
PARALLELISM = 2

# What a sweep sets itself: a trial that collapsed must not stop the others, only what may be
# selected is kept of each, and no two trials can go on from one training.
SET_BY_SWEEP: Mapping[str, Any] = {
    "train_on_collapse": "mark",
    "train_keep_last": False,
    "train_resume_from": "",
}


def parameters_of(sweep: bool) -> Mapping[str, Parameter]:
    """Those of the pipeline that trains once, or of the sweep."""
    if sweep:
        return {n: p for n, p in parameters().items() if n not in SET_BY_SWEEP}
    return {n: p for n, p in parameters().items() if p.group not in ("sweep", "select")}


def is_sweep(values: Mapping[str, Any]) -> bool:
    """Whether these values ask for several trainings."""
    return any(values.get(p.name) for p in SWEEP)


def trials(values: Mapping[str, Any]) -> list[Trial]:
    """The trainings of a sweep.

    Raises:
        ConfigError: a seed or a learning rate is not a number, or is given twice.
    """
    return plan_trials(
        values["seeds"],
        values["learning_rates"],
        seed=values["train_seed"],
        learning_rate=values["train_learning_rate"],
    )


@dataclass(frozen=True)
class Profile:
    """A named set of values.

    `sample` says that inputs which are not given come from the made-up sample, see pipeline.inputs.
    """

    name: str
    description: str
    sample: bool
    values: Mapping[str, Any]


def profile_names() -> list[str]:
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """A profile of this package by its name, or any other by the path of its YAML file.

    Raises:
        ConfigError: there is none of that name, or it is not a profile.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        names = profile_names()
        raise ConfigError(
            f"there is no profile {name!r}",
            mend=_nearest(name, names) + f"There are {', '.join(names)}, or any YAML file's path",
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        unknown = set(content) - {"description", "sample", "parameters"}
        if unknown:
            raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
        values = dict(content.get("parameters") or {})
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a profile: {error}",
            mend="It holds description, parameters (name: value) and, if it likes, sample: true",
        ) from error
    try:
        for key, value in values.items():
            p = parameter(str(key))
            # YAML takes 1e-5 for text, for it wants 1.0e-5.
            values[key] = p.parse(value) if isinstance(value, str) else p.check(value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.what}", mend=error.mend) from error
    return Profile(
        name=path.stem,
        description=str(content.get("description", "")),
        sample=content.get("sample") is True,
        values=values,
    )


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """The values that `-p name=value` options spell.

    Raises:
        ConfigError: an unknown name, a value of the wrong type, or no `=`.
    """
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(
                f"-p {assignment}: a value is missing", mend="Write it as -p name=value"
            )
        values[name] = parameter(name.strip()).parse(text.strip())
    return values


def resolve(profile: Profile, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter's value: the default, or the profile's, or the override.

    The steps' own rules are checked here too, so that a contradiction shows before anything runs.

    Raises:
        ConfigError: a step refuses its values.
    """
    values = {name: p.default for name, p in parameters().items()}
    values.update(profile.values)
    values.update(overrides)
    for step, urls in DOWNLOADS.items():
        digests = (url.replace("_url", "_sha256") for url in urls)
        _check(
            step,
            DownloadConfig,
            url=tuple(values[url] for url in urls),
            sha256=tuple(values[digest] for digest in digests),
        )
    for step, config_class in STEPS.items():
        prefix = f"{step}_"
        own = {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
        _check(step, config_class, **own)
    _check("evaluate", GateConfig, min_accuracy=values[GATE.name])
    for trial in trials(values):
        own = {"seed": trial.seed, "learning_rate": trial.learning_rate}
        _check(trial.label, TrainConfig, **own)
    if is_sweep(values) and values["train_resume_from"]:
        raise ConfigError(
            "train_resume_from is about one training, and this is a sweep",
            mend="Leave it empty, or resume that training alone, without seeds and learning_rates",
        )
    if values["train_nodes"] > 1:
        _check_nodes(values)
    return values


def _check_nodes(values: Mapping[str, Any]) -> None:
    """Whether these values fit a training on several nodes."""
    if values["cluster_train_gpus"]:
        raise ConfigError(
            f"with train_nodes {values['train_nodes']} the train step only waits for the nodes,"
            f" and its {values['cluster_train_gpus']} GPUs would be idle",
            mend="Set cluster_train_gpus to 0; each node gets cluster_node_gpus",
        )
    fields = (f for f in dataclasses.fields(ClusterConfig) if f.default is dataclasses.MISSING)
    ClusterConfig(**{f.name: values[f"cluster_{f.name}"] for f in fields})
    own = {n.removeprefix("train_"): v for n, v in values.items() if n.startswith("train_")}
    config = _check("train", TrainConfig, **own)
    try:
        plan(config, gpus=values["cluster_node_gpus"], questions=1 << 40)
    except ConfigError as error:
        raise ConfigError(f"train: {error.what}", mend=error.mend) from error


def require_store(values: Mapping[str, Any]) -> None:
    """See that several nodes have a place that they share, which a profile cannot know.

    Raises:
        ConfigError: they have none.
    """
    nodes, uri = values["train_nodes"], values["train_checkpoint_uri"]
    if nodes > 1 and not uri.startswith("s3://"):
        raise ConfigError(
            f"train_nodes is {nodes}, and train_checkpoint_uri is {uri!r}: nodes share data,"
            " checkpoints and output through object storage",
            mend="Give -p train_checkpoint_uri=s3://bucket/folder",
        )


def require_one_machine(values: Mapping[str, Any]) -> None:
    """Refuse what only a cluster can do.

    Raises:
        ConfigError: several nodes are asked for.
    """
    if (nodes := values.get("train_nodes", 1)) > 1:
        raise ConfigError(
            f"train_nodes is {nodes}, but `race run` has this machine alone",
            mend="Use `race submit`; or train_processes, for several processes here",
        )


def _check(step: str, config_class: type, **values: Any) -> Any:
    """Let a step's config dataclass check its values; the config."""
    arguments: dict[str, Any] = {}
    for o in options(config_class):
        if o.type is Path:
            arguments[o.name] = () if o.repeated else Path("unknown")
        elif o.name in values:
            arguments[o.name] = tuple(values[o.name]) if o.repeated else values[o.name]
    try:
        return config_class(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{step}: {error.what}", mend=error.mend) from error


def parameter(name: str) -> Parameter:
    """The parameter of that name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    existing = parameters()
    if name not in existing:
        raise ConfigError(
            f"there is no parameter {name!r}",
            mend=_nearest(name, existing) + "`race parameters` lists all of them",
        )
    return existing[name]


def _nearest(name: str, names: Iterable[str]) -> str:
    # `learning_rate` is more likely meant to be train_learning_rate than learning_rates.
    close = [n for n in names if n.endswith(f"_{name}")] if name else []
    close = close or difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}? " if close else ""
