"""The steps of the pipeline, a row for each: the one place that has a step's facts.

The DAG, the parameters, the documentation, the local runner and what is shown of a run are made
from these rows. A new step is its folder in components/, its row here, and its edge in
pipeline.pipeline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from components.binarize.core import BinarizeConfig
from components.common.cli import Option, options
from components.download.core import DownloadConfig
from components.evaluate.core import EvaluateConfig
from components.gate.core import GateConfig
from components.preprocess.core import PreprocessConfig
from components.publish.core import PublishConfig
from components.select.core import SelectConfig
from components.train.cluster.config import ClusterConfig, NodesConfig
from components.train.config import TrainConfig
from components.trials.core import TrialsConfig

# Of both pipelines: KFP looks for cached steps under this name.
NAME = "race-roberta"
# Artifacts that hold what is in their step's folder too.
COPIES = ("Metrics", "ClassificationMetrics", "HTML")

_CLUSTER = {o.name for o in options(ClusterConfig)}

HOUR = 3600  # seconds
DAY = 24 * HOUR


@dataclass(frozen=True)
class Step:
    """What is known of a step besides its program, `python -m components.<program>`.

    Args:
        config: the program's parameters.
        inputs: the parameters that are artifacts, with their kinds (classes of kfp.dsl).
        outputs: the artifacts, of which the first is the program's `output`.
        result: type of the one output parameter, if it has one.
        given: the parameters that are inputs of the pipeline, or of the sweep's loop, by their
            names there.
        fixed: parameters that every run gives the same value.
        settings: whether one input of the pipeline, a JSON object, may set all other parameters.
        compiled: parameters that are fixed when the pipeline is compiled.
        image: of the container.
        resources: what a cluster gives: the group `cluster_<resources>_*` of parameters.
        gpus: the pipeline's parameter with how many; "" where it uses none.
        timeout: seconds that one attempt may take. One that hangs would hold its node for good.
        retries: attempts after a failure; none where it would say the same a second time.
        cached: whether the result of an earlier run with the same inputs is as good.
        summary: what it did, by the figures of its outputs (`mib` of their bytes), the pipeline's
            parameters, the sweep's `trials`, and properties of the `execution`.
        without_figures: that of one whose outputs lack them.
        module: of the program, where it is not the one in the step's folder.
    """

    name: str
    config: type
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    result: type | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    settings: bool = False
    compiled: tuple[str, ...] = ()
    image: Literal["data", "train"] = "data"
    resources: Literal["data", "small", "train", "evaluate", "publish"] = "data"
    gpus: str = ""
    timeout: int = HOUR
    retries: int = 3
    cached: bool = False
    summary: str = ""
    without_figures: str = ""
    module: str = ""

    @property
    def program(self) -> str:
        """Module of the program; several steps may have the same."""
        return self.module or f"components.{self.group}"

    @property
    def group(self) -> str:
        return self.name.partition("-")[0]

    @property
    def reads_stores(self) -> bool:
        """Whether it may read or write s3:// addresses itself; artifacts are moved by KFP."""
        return any(name.endswith(("_url", "_uri")) for name in self.given.values())

    @property
    def reads_hub(self) -> bool:
        """Whether it may read or write hf:// addresses itself."""
        return any(name.endswith("_url") or name == "publish_uri" for name in self.given.values())

    @property
    def parameters(self) -> list[Option]:
        """The program's parameters that are no paths: the DAG wires those."""
        return [o for o in options(self.config) if not o.is_path]

    @property
    def configurable(self) -> list[Option]:
        """Those that are set under the name `<step>_<parameter>`."""
        free = [o for o in self.parameters if o.name not in self.given]
        return free if self.settings else [o for o in free if o.name in self.compiled]

    def own(self, parameter: Option) -> str:
        """The pipeline's name of one of them."""
        group = "cluster" if parameter.name in _CLUSTER else self.group
        return f"{group}_{parameter.name}"


def _download(name: str, kind: str, **fixed: Any) -> Step:
    return Step(
        name=f"download-{name}",
        config=DownloadConfig,
        outputs={name: kind},
        given={"url": f"{name}_url", "mirror_uri": "mirror_uri"},
        fixed=fixed,
        timeout=6 * HOUR,
        cached=True,
        summary="{mib:,.1f} MiB",
    )


STEPS: Mapping[str, Step] = {
    step.name: step
    for step in (
        _download("race", "Dataset", pack=True),
        _download("bpe", "Artifact", files=["encoder.json", "vocab.bpe", "dict.txt"]),
        _download("roberta", "Model", unpack=True),
        Step(
            name="preprocess",
            config=PreprocessConfig,
            inputs={"race": "Dataset"},
            outputs={"text": "Dataset", "counts": "Metrics"},
            settings=True,
            timeout=2 * HOUR,
            cached=True,
            summary="{questions:,.0f} questions about {passages:,.0f} passages",
        ),
        Step(
            name="binarize",
            config=BinarizeConfig,
            inputs={"text": "Dataset", "bpe": "Artifact"},
            outputs={"data": "Dataset", "size": "Metrics", "data_report": "HTML"},
            settings=True,
            timeout=2 * HOUR,
            cached=True,
            summary="{tokens:,.0f} tokens",
        ),
        Step(
            name="trials",
            config=TrialsConfig,
            result=list,
            given={name: name for name in ("seeds", "learning_rates", "seed", "learning_rate")},
            resources="small",
            retries=0,
            summary="{trials}",
        ),
        Step(
            name="train",
            config=TrainConfig,
            inputs={"data": "Dataset", "pretrained": "Model"},
            outputs={"model": "Model", "curve": "Metrics", "training_report": "HTML"},
            given={
                "epochs": "epochs",
                "learning_rate": "learning_rate",
                "effective_batch_size": "effective_batch_size",
                "seed": "seed",
                "precision": "precision",
                "checkpoint_uri": "checkpoint_uri",
                "resume_from": "resume_from",
                "run_id": "run_id",
                "trial": "trial",
            },
            settings=True,
            compiled=("num_nodes",),
            image="train",
            resources="train",
            gpus="train_gpus",
            timeout=3 * DAY,
            summary="{updates:,.0f} updates, accuracy {best_valid_accuracy:.1f} % in validation",
        ),
        Step(
            name="evaluate",
            config=EvaluateConfig,
            inputs={"data": "Dataset", "model": "Model", "text": "Dataset"},
            outputs={
                "report": "Artifact",
                "accuracy": "Metrics",
                "confusion": "ClassificationMetrics",
                "evaluation_report": "HTML",
            },
            settings=True,
            image="train",
            resources="evaluate",
            gpus="cluster_evaluate_gpus",
            timeout=6 * HOUR,
            summary="accuracy {accuracy:.1f} % on test",
            without_figures="nothing to evaluate",
        ),
        Step(
            name="select",
            config=SelectConfig,
            inputs={"models": "list[Model]", "evaluations": "list[Artifact]"},
            outputs={
                "selection": "Artifact",
                "model": "Model",
                "scores": "Metrics",
                "sweep_report": "HTML",
            },
            compiled=("ensemble",),
            timeout=2 * HOUR,
            summary="best {accuracy:.1f} %, ensemble {ensemble_accuracy:.1f} % on test",
        ),
        Step(
            name="gate",
            config=GateConfig,
            inputs={"evaluation": "Artifact"},
            given={"min_accuracy": "min_accuracy"},
            resources="small",
            retries=0,
            summary="accuracy is at least {min_accuracy:g} %",
        ),
        Step(
            name="publish",
            config=PublishConfig,
            inputs={"model": "Model", "bpe": "Artifact", "evaluation": "Artifact"},
            given={"publish_uri": "publish_uri", "run_id": "run_id"},
            image="train",
            resources="publish",
            timeout=6 * HOUR,
            summary="{execution.published}",
        ),
    )
}

# Those of the pipeline that trains once, and what a sweep has besides.
SWEEP_ONLY = ("trials", "select")


def on_nodes(train: Step) -> Step:
    """The train step where it makes a job of several nodes."""
    return replace(
        train,
        config=NodesConfig,
        given={**train.given, "s3_secret": "s3_secret"},
        module="components.train.cluster",
    )
