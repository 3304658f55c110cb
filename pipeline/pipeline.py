"""The DAG: which step follows which, and what a cluster gives to each.

download_race ───── preprocess ──┐
download_bpe ────────────────────┴─ binarize ──┐
download_roberta ──────────────────────────────┴─ train ─── evaluate ─── gate ─── publish

and that of a sweep, whose loop has an iteration for each trial:

                              trials ──────────┐
download_race ───── preprocess ──┐             │    ┌ for each trial ───┐
download_bpe ────────────────────┴─ binarize ──┼────┤ train ── evaluate ├─ select ─ gate ─ publish
download_roberta ──────────────────────────────┘    └───────────────────┘

publish is only run where publish_uri says where to.
"""

import itertools
from collections.abc import Callable, Container, Mapping
from typing import Any

from kfp import compiler, dsl, kubernetes

from components.common.files import scratch_folder
from pipeline.caching import CACHEABLE, cached_on_cluster
from pipeline.components import compiled_flags, component, keywords
from pipeline.images import Images
from pipeline.parameters import (
    PARALLELISM,
    SET_BY_SWEEP,
    Parameter,
    inputs_of,
    is_sweep,
    settings_of,
    steps_of,
)
from pipeline.pods import give_access, give_place, give_resources
from pipeline.steps import DAY, NAME, Step, on_nodes

DESCRIPTION = "Fine-tune RoBERTa on RACE with fairseq, and measure its accuracy on the test sets."

SWEEP_DESCRIPTION = (
    "Fine-tune RoBERTa on RACE with several seeds and learning rates, select the best in"
    " validation, and measure it and an ensemble on the test sets."
)

# KFP counts this window from the start of the first attempt, and its default is one hour: training
# that fails after that would never be tried again. Four attempts of three days fit into this one.
RETRY_WINDOW = 14 * DAY

Configure = Callable[[Any, Step, Mapping[str, Any], Mapping[str, Any]], None]


def on_cluster(task: Any, step: Step, values: Mapping[str, Any], p: Mapping[str, Any]) -> None:
    """Give a task its resources, retries, secrets and place in a Kubernetes cluster."""
    give_resources(task, step, values, p)
    give_place(task, step, values)
    give_access(task, step, values, p)
    if step.retries:
        task.set_retry(
            num_retries=step.retries,
            backoff_duration="60s",
            backoff_factor=2.0,
            backoff_max_duration=f"{RETRY_WINDOW}s",
        )
    kubernetes.set_timeout(task, seconds=step.timeout)


def build(
    values: Mapping[str, Any],
    images: Images,
    configure: Configure = on_cluster,
    *,
    cached: Container[str] = CACHEABLE,
    sweep: bool | None = None,
    parallelism: int = PARALLELISM,
) -> Any:
    """The pipeline as a KFP component, with `values` compiled in and as its inputs' defaults.

    An input that `values` lacks has to be given with each run. `configure(task, step, values, p)`
    is called once for each task, with the pipeline's inputs as `p`.

    Args:
        values: by parameter; what they lack otherwise has its default.
        cached: the steps that may be taken from KFP's cache. A training that was asked for is not.
        sweep: whether it trains several times; None: if `values` ask for it.
        parallelism: with a sweep, the most trials at the same time.
    """
    sweep = is_sweep(values) if sweep is None else sweep
    inputs = inputs_of(sweep)
    compiled = {**values, **(SET_BY_SWEEP if sweep else {})}
    steps = {step.name: step for step in steps_of(sweep)}
    if values.get("train_num_nodes", 1) > 1:
        steps["train"] = on_nodes(steps["train"])
    settings = [settings_of(step) for step in steps.values() if step.settings]

    def race(*channels: Any) -> None:
        p = dict(zip([*inputs, *settings], channels, strict=True))

        def add(name: str, **given: Any) -> Any:
            step = steps[name]
            image = getattr(images, step.image)
            known = {**SET_BY_SWEEP, **p}
            for field, source in step.given.items():
                given.setdefault(field, known.get(source, ""))
            if step.settings:
                given["settings"] = p[settings_of(step)]
            task = component(step, image, compiled_flags(step, compiled))(**given)
            task.set_env_variable("RACE_IMAGE", image)  # a container does not know its own
            task.set_caching_options(name in cached)
            configure(task, step, values, p)
            return task

        race = add("download-race")
        bpe = add("download-bpe")
        roberta = add("download-roberta")
        text = add("preprocess", race=race.outputs["race"])
        data = add("binarize", text=text.outputs["text"], bpe=bpe.outputs["bpe"])

        def train(**given: Any) -> tuple[Any, Any]:
            """A training and its evaluation."""
            model = add(
                "train",
                data=data.outputs["data"],
                pretrained=roberta.outputs["roberta"],
                run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                **given,
            )
            evaluation = add(
                "evaluate",
                data=data.outputs["data"],
                model=model.outputs["model"],
                text=text.outputs["text"],
            )
            return model.outputs["model"], evaluation.outputs["report"]

        if sweep:
            trials = add("trials")
            # Without a name of its own, which some servers take for that of the task.
            with dsl.ParallelFor(trials.output, parallelism=parallelism) as trial:
                model, report = train(
                    seed=trial.seed, learning_rate=trial.learning_rate, trial=trial.trial
                )
            selected = add("select", models=dsl.Collected(model), evaluations=dsl.Collected(report))
            published, result = selected.outputs["model"], selected.outputs["selection"]
        else:
            published, result = train()
        # A step that fails leaves nothing behind: what it judges must be another's output.
        passed = add("gate", evaluation=result)
        with dsl.If(p["publish_uri"] != "", name="publish"):
            add(
                "publish",
                model=published,
                bpe=bpe.outputs["bpe"],
                evaluation=result,
                run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            ).after(passed)

    kinds = {name: p.type for name, p in inputs.items()} | dict.fromkeys(settings, dict)
    defaults = {**values, **{name: {} for name in settings}}
    race.__signature__ = keywords(kinds, defaults)  # type: ignore[attr-defined]
    description = SWEEP_DESCRIPTION if sweep else DESCRIPTION
    about = {name: p.help for name, p in inputs.items()}
    about |= {name: f"other parameters of {name.partition('_')[0]}, by name" for name in settings}
    race.__doc__ = "\n".join(
        [description, "", "Args:", *(f"    {name}: {text}" for name, text in about.items())]
    )
    ttl = values.get("cluster_ttl") or None
    made = dsl.pipeline(
        name=NAME,
        description=description,
        pipeline_config=dsl.PipelineConfig(ttl_seconds_after_finished=ttl),
    )(race)
    if values.get("cluster_drop_downs"):
        _offer_choices(made, inputs)
    return made


def _offer_choices(made: Any, inputs: Mapping[str, Parameter]) -> None:
    """Write the choices of inputs into the compiled pipeline, for which KFP's SDK has no words."""
    found = made.pipeline_spec.root.input_definitions.parameters
    for name, p in inputs.items():
        for choice in p.choices or ():
            found[name].literals.add(string_value=choice)


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
    return as_yaml(build(values, images, cached=cached, sweep=sweep, parallelism=parallelism))


def as_yaml(made: Any) -> str:
    """A pipeline or a component as YAML."""
    with scratch_folder() as folder:
        path = folder / "made.yaml"
        compiler.Compiler().compile(made, str(path))
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # KFP heads the file with a list of the inputs that spells dictionaries in an order of chance.
    return HEADER + "".join(itertools.dropwhile(lambda line: line.startswith("#"), lines))
