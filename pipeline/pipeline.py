"""The DAG: which step follows which, and what a cluster gives to each.

download_race ───── preprocess ──┐
download_bpe ────────────────────┴─ binarize ──┐
download_roberta ──────────────────────────────┴─ train ─── evaluate ─── gate

and that of a sweep, whose loop has an iteration for each trial:

                              trials ──────────┐
download_race ───── preprocess ──┐             │    ┌ for each trial ───┐
download_bpe ────────────────────┴─ binarize ──┼────┤ train ── evaluate ├─── select ─── gate
download_roberta ──────────────────────────────┘    └───────────────────┘
"""

import inspect
import itertools
import tempfile
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from components.common.storage.client import S3_VARIABLES
from components.train.cluster.config import SHM_SIZE, USER
from pipeline import components
from pipeline.caching import CACHEABLE, cached_on_cluster
from pipeline.images import Images
from pipeline.parameters import PARALLELISM, SET_BY_SWEEP, is_sweep, parameters_of

NAME = "race-roberta"
DESCRIPTION = "Fine-tune RoBERTa on RACE with fairseq, and measure its accuracy on the test sets."

SWEEP_NAME = "race-roberta-sweep"
SWEEP_DESCRIPTION = (
    "Fine-tune RoBERTa on RACE with several seeds and learning rates, select the best on dev, and"
    " measure it and an ensemble on the test sets."
)

DATA_STEPS = ("download-race", "download-bpe", "download-roberta", "preprocess", "binarize")
GPU_STEPS = ("train", "evaluate")
# What judges figures: little work, in the image of the data steps.
JUDGING_STEPS = ("trials", "select", "gate")


HOUR = 3600  # seconds
DAY = 24 * HOUR

# How long one attempt of a step may take before its pod is ended: one that hangs would hold its
# node, or its GPUs, for good.
TIMEOUTS = {
    "download-race": 6 * HOUR,
    "download-bpe": 6 * HOUR,
    "download-roberta": 6 * HOUR,
    "preprocess": 2 * HOUR,
    "binarize": 2 * HOUR,
    "train": 3 * DAY,
    "evaluate": 6 * HOUR,
    "trials": HOUR,
    "select": 2 * HOUR,
    "gate": HOUR,
}

RETRIES = 3
# KFP counts this window from the start of the first attempt, and its default is one hour: training
# that fails after that would never be tried again. Four attempts of three days fit into this one.
RETRY_WINDOW = 14 * DAY

# Steps that would say the same a second time.
ONCE = ("trials", "gate")

Configure = Callable[[Any, str, Mapping[str, Any]], None]


def on_cluster(task: Any, step: str, p: Mapping[str, Any]) -> None:
    """Give a task its resources, retries, secrets and place in a Kubernetes cluster."""
    group = step if step in GPU_STEPS else "data"
    cpu, memory = p[f"cluster_{group}_cpu"], p[f"cluster_{group}_memory"]
    # Requests equal limits: the pod is then the last to be evicted when its node runs short.
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    # KFP's compiler overlooks resources when it gathers the parameters that a loop needs.
    task.register_pipeline_channels([cpu, memory])
    if step in GPU_STEPS:
        kind, count = p["cluster_gpu_type"], p[f"cluster_{step}_gpus"]
        task.set_accelerator_type(kind).set_accelerator_limit(count)
        task.register_pipeline_channels([kind, count])
        kubernetes.add_node_selector_json(task, p["cluster_gpu_node_selector"])
        kubernetes.add_toleration_json(task, p["cluster_gpu_tolerations"])
        kubernetes.empty_dir_mount(
            task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=SHM_SIZE
        )
    if step not in ONCE:
        task.set_retry(
            num_retries=RETRIES,
            backoff_duration="60s",
            backoff_factor=2.0,
            backoff_max_duration=f"{RETRY_WINDOW}s",
        )
    kubernetes.set_timeout(task, seconds=TIMEOUTS[step])
    kubernetes.use_secret_as_env(
        task,
        secret_name=p["cluster_s3_secret"],
        secret_key_to_env={name: name for name in S3_VARIABLES},
        optional=True,
    )
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_image_pull_secrets(task, [p["cluster_image_pull_secret"]])
    # KFP itself drops all capabilities, forbids privilege escalation and sets a seccomp profile.
    kubernetes.set_security_context(task, run_as_user=USER, run_as_non_root=True)


def build(
    values: Mapping[str, Any],
    images: Images,
    configure: Configure = on_cluster,
    *,
    cached: Container[str] = CACHEABLE,
    sweep: bool | None = None,
    parallelism: int = PARALLELISM,
) -> Any:
    """The pipeline as a KFP component, with `values` as its parameters' defaults.

    A parameter that `values` lacks has to be given with each run. `configure(task, step, p)` is
    called once for each task, with the pipeline's parameters.

    Args:
        cached: the steps that may be taken from KFP's cache. A training that was asked for is not.
        sweep: whether it trains several times; None: if `values` ask for it.
        parallelism: with a sweep, the most trials at the same time.
    """
    sweep = is_sweep(values) if sweep is None else sweep
    known = parameters_of(sweep)

    def race(*channels: Any) -> None:
        p = dict(zip(known, channels, strict=True)) | (dict(SET_BY_SWEEP) if sweep else {})

        def add(component: Any, **given: Any) -> Any:
            # `encoder_json_url` of `download_bpe` is the pipeline's `download_encoder_json_url`;
            # what concerns the cluster has the same name in both.
            group = component.name.partition("-")[0]
            for name in sorted(component.component_spec.inputs.keys() - given.keys()):
                given[name] = p[name if name.startswith("cluster_") else f"{group}_{name}"]
            task = component(**given)
            image = images.train if task.name in GPU_STEPS else images.data
            task.set_container_image(image)
            task.set_env_variable("RACE_IMAGE", image)  # a container does not know its own
            task.set_caching_options(task.name in cached)
            configure(task, task.name, p)
            return task

        race = add(components.download_race)
        bpe = add(components.download_bpe)
        roberta = add(components.download_roberta)
        text = add(components.preprocess, race=race.outputs["race"])
        data = add(components.binarize, text=text.outputs["text"], bpe=bpe.outputs["bpe"])

        def train(**given: Any) -> tuple[Any, Any]:
            """A training and its evaluation."""
            model = add(
                components.train,
                data=data.outputs["data"],
                pretrained=roberta.outputs["roberta"],
                run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                **given,
            )
            evaluation = add(
                components.evaluate,
                data=data.outputs["data"],
                model=model.outputs["model"],
                text=text.outputs["text"],
            )
            return model.outputs["model"], evaluation.outputs["report"]

        if sweep:
            trials = add(
                components.trials,
                seeds=p["seeds"],
                learning_rates=p["learning_rates"],
                seed=p["train_seed"],
                learning_rate=p["train_learning_rate"],
            )
            # Without a name of its own, which some servers take for that of the task.
            with dsl.ParallelFor(trials.output, parallelism=parallelism) as trial:
                model, report = train(
                    seed=trial.seed, learning_rate=trial.learning_rate, trial=trial.trial
                )
            selected = add(
                components.select,
                models=dsl.Collected(model),
                evaluations=dsl.Collected(report),
            )
            result = selected.outputs["selection"]
        else:
            _, result = train(trial="")
        # A step that fails leaves nothing behind: what it judges must be another's output.
        add(components.gate, evaluation=result, min_accuracy=p["evaluate_min_accuracy"])

    # The parameters are declared in the steps' dataclasses; KFP reads them from a signature.
    race.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                p.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=p.type,
                default=values.get(p.name, inspect.Parameter.empty),
            )
            for p in known.values()
        ]
    )
    name, description = (SWEEP_NAME, SWEEP_DESCRIPTION) if sweep else (NAME, DESCRIPTION)
    race.__doc__ = "\n".join(
        [description, "", "Args:", *(f"    {p.name}: {p.help}" for p in known.values())]
    )
    return dsl.pipeline(name=name, description=description)(race)


HEADER = """\
# Written by `race compile`: a change here would be lost. `race parameters` explains the inputs.
"""


def compiled(
    values: Mapping[str, Any],
    images: Images,
    *,
    cached: Container[str] | None = None,
    sweep: bool | None = None,
    parallelism: int = PARALLELISM,
) -> str:
    """The pipeline as YAML, see `build`; the same arguments give the same text on every machine.

    Without `cached` it is what the values allow: a run with others should have its own.
    """
    cached = cached_on_cluster(values) if cached is None else cached
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        made = build(values, images, cached=cached, sweep=sweep, parallelism=parallelism)
        compiler.Compiler().compile(made, str(path))
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # KFP heads the file with a list of the inputs that spells dictionaries in an order of chance.
    return HEADER + "".join(itertools.dropwhile(lambda line: line.startswith("#"), lines))
