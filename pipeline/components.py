"""The steps as KFP components: their types, and a body that calls the step's own function.

KFP ships the source text of these functions and of their helpers to the cluster; what they import
lies in the images. So each signature is written out, and imports are inside. A contract test holds
the signatures and the steps' config dataclasses together.
"""
# mypy: allow-untyped-decorators

import functools
from collections.abc import Callable
from typing import Any

from kfp import dsl


def run(
    step: Callable[[Any], Any],
    config: type,
    arguments: dict[str, Any],
    output: dsl.Artifact | None = None,
) -> Any:
    """Run a step with a component's arguments as its command line would, and give its result.

    Artifacts become their paths, and lists tuples; arguments that the config does not know are left
    out. A user's error is one line in the log and the step's exit status, not a traceback.
    """
    import dataclasses
    import logging
    from pathlib import Path

    from components.common.cli import run_step

    names = {field.name for field in dataclasses.fields(config)}
    values = {name: value for name, value in arguments.items() if name in names}
    if output is not None:
        values["output"] = output
    for name, value in values.items():
        several = value if isinstance(value, list) else [value]
        found = [Path(v.path) if isinstance(v, dsl.Artifact) else v for v in several]
        values[name] = tuple(found) if isinstance(value, list) else found[0]
    results: list[Any] = []
    logging.getLogger().handlers.clear()  # KFP's, whose prefix takes up half of each line
    status = run_step(lambda _: results.append(step(config(**values))))
    if status:
        raise SystemExit(status)
    return results[0]


def describe(artifact: dsl.Artifact, files: list[Any]) -> None:
    """Keep the size and digests of downloaded files, and who says so, with their artifact."""
    artifact.metadata["bytes"] = sum(file.bytes for file in files)
    for file in files:
        name = file.url.rpartition("/")[2]
        artifact.metadata[f"sha256 {name}"] = file.sha256
        artifact.metadata[f"checked {name}"] = file.trust


def record(metrics: dsl.Metrics, figures: dict[str, Any]) -> None:
    """Show the numbers among `figures` as the step's metrics, and keep them in a file as well.

    Without that file KFP's local cache would take the artifact for lost and run the step again.
    """
    from pathlib import Path

    from components.common import strict_json

    numbers = {k: v for k, v in figures.items() if isinstance(v, int | float)}
    for name, value in numbers.items():
        metrics.log_metric(name, value)
    strict_json.write(Path(metrics.path), numbers)


def show(page: dsl.HTML, folder: dsl.Artifact) -> None:
    """Make the report in a step's folder an artifact of its own, which KFP's pages show."""
    import shutil

    shutil.copyfile(f"{folder.path}/report.html", page.path)


def tabulate(confusion: dsl.ClassificationMetrics, matrix: list[list[int]]) -> None:
    """Show how often each option was chosen where each was right, and keep it in a file as well."""
    from pathlib import Path

    from components.common import strict_json

    letters = [chr(ord("A") + i) for i in range(len(matrix))]
    if matrix:  # there is none where there was no model
        confusion.log_confusion_matrix(letters, matrix)
    strict_json.write(Path(confusion.path), {"options": letters, "rows": matrix})


component = functools.partial(
    dsl.component,
    base_image="set-when-compiled",  # by pipeline.build
    install_kfp_package=False,  # the images hold it, and a step must not need a package registry
    additional_funcs=[run, describe, record, show, tabulate],
)


@component
def download_race(
    race: dsl.Output[dsl.Dataset], race_url: str, race_sha256: str, mirror_uri: str
) -> None:
    """Fetch, check and unpack RACE."""
    from components.download.core import DownloadConfig, download

    source = {"url": [race_url], "sha256": [race_sha256], "mirror_uri": mirror_uri, "unpack": True}
    describe(race, run(download, DownloadConfig, source, output=race))


@component
def download_roberta(
    roberta: dsl.Output[dsl.Model], roberta_url: str, roberta_sha256: str, mirror_uri: str
) -> None:
    """Fetch, check and unpack the pretrained model."""
    from components.download.core import DownloadConfig, download

    source = {
        "url": [roberta_url],
        "sha256": [roberta_sha256],
        "mirror_uri": mirror_uri,
        "unpack": True,
    }
    describe(roberta, run(download, DownloadConfig, source, output=roberta))


@component
def download_bpe(
    bpe: dsl.Output[dsl.Artifact],
    encoder_json_url: str,
    encoder_json_sha256: str,
    vocab_bpe_url: str,
    vocab_bpe_sha256: str,
    dict_url: str,
    dict_sha256: str,
    mirror_uri: str,
) -> None:
    """Fetch and check the three files of the byte-pair encoding."""
    from components.download.core import DownloadConfig, download

    source = {
        "url": [encoder_json_url, vocab_bpe_url, dict_url],
        "sha256": [encoder_json_sha256, vocab_bpe_sha256, dict_sha256],
        "mirror_uri": mirror_uri,
    }
    describe(bpe, run(download, DownloadConfig, source, output=bpe))


@component
def preprocess(
    race: dsl.Input[dsl.Dataset],
    text: dsl.Output[dsl.Dataset],
    counts: dsl.Output[dsl.Metrics],
    options: int,
    invalid: str,
) -> None:
    """RACE's JSON to columns of text."""
    arguments = locals()
    from components.preprocess.core import PreprocessConfig, preprocess

    summary = run(preprocess, PreprocessConfig, arguments, output=text)
    by_part = {part.path.replace("/", "_"): count for part, count in summary.counts.items()}
    found = {f"{name}_questions": count.questions for name, count in by_part.items()}
    found["questions"] = sum(found.values())
    found["passages"] = sum(count.passages for count in summary.counts.values())
    record(counts, {**found, "skipped_files": len(summary.skipped)})


@component
def binarize(
    text: dsl.Input[dsl.Dataset],
    bpe: dsl.Input[dsl.Artifact],
    data: dsl.Output[dsl.Dataset],
    size: dsl.Output[dsl.Metrics],
    data_report: dsl.Output[dsl.HTML],
    max_unknown: float,
    workers: int,
) -> None:
    """Text to the token numbers that fairseq trains on."""
    arguments = locals()
    from components.binarize.core import BinarizeConfig, binarize

    summary = run(binarize, BinarizeConfig, arguments, output=data)
    files = [file for splits in summary.counts.values() for file in splits.values()]
    tokens, unknown = sum(f.tokens for f in files), sum(f.unknown for f in files)
    record(size, {"tokens": tokens, "unknown_tokens": unknown, "symbols": summary.symbols})
    show(data_report, data)


@component
def train(
    data: dsl.Input[dsl.Dataset],
    pretrained: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    curve: dsl.Output[dsl.Metrics],
    training_report: dsl.Output[dsl.HTML],
    arch: str,
    engine: str,
    encoder_layers: int,
    encoder_embed_dim: int,
    encoder_ffn_embed_dim: int,
    encoder_attention_heads: int,
    epochs: int,
    max_updates: int,
    effective_batch: int,
    batch_size: int,
    token_budget: int,
    nodes: int,
    processes: int,
    seed: int,
    learning_rate: float,
    lr_scheduler: str,
    warmup_updates: int,
    adam_beta1: float,
    adam_beta2: float,
    adam_eps: float,
    weight_decay: float,
    clip_norm: float,
    dropout: float,
    attention_dropout: float,
    precision: str,
    fp16_init_scale: int,
    fp16_scale_window: int,
    threshold_loss_scale: float,
    stop_collapsed_after: int,
    stop_overflows: int,
    on_collapse: str,
    init_token: int,
    separator_token: int,
    max_option_length: int,
    max_positions: int,
    shorten_method: str,
    best_metric: str,
    validate_interval_updates: int,
    save_interval_updates: int,
    checkpoint_uri: str,
    resume_from: str,
    checkpoint_interval: int,
    keep_checkpoints: int,
    publish_uri: str,
    stall_timeout: int,
    stop_timeout: int,
    save_optimizer: bool,
    keep_last: bool,
    ddp_backend: str,
    required_batch_size_multiple: int,
    num_workers: int,
    log_interval: int,
    run_id: str,
    trial: str,
    cluster_node_runtime: str,
    cluster_node_cpu: str,
    cluster_node_memory: str,
    cluster_node_gpus: int,
    cluster_node_service_account: str,
    cluster_gpu_type: str,
    cluster_gpu_node_selector: dict,  # type: ignore[type-arg]
    cluster_gpu_tolerations: list,  # type: ignore[type-arg]
    cluster_s3_secret: str,
    cluster_image_pull_secret: str,
) -> None:
    """Fine-tune the pretrained model with fairseq."""
    arguments = locals()
    from components.train.core import TrainConfig, train

    # A retry has its run's id, and so finds what the attempt before it left; no other run does, and
    # no other trial of a sweep.
    for name in ("checkpoint_uri", "publish_uri"):
        if arguments[name]:
            parts = [arguments[name].rstrip("/"), run_id, *([trial] if trial else [])]
            arguments[name] = "/".join(parts)

    def on_nodes(config: TrainConfig) -> Any:
        from components.train.cluster.core import ClusterConfig, launch

        prefix = "cluster_"
        cluster = {n.removeprefix(prefix): v for n, v in arguments.items() if n.startswith(prefix)}
        return launch(config, ClusterConfig(**cluster))

    result = run(on_nodes if nodes > 1 else train, TrainConfig, arguments, output=model)
    record(curve, result.metrics)
    show(training_report, model)


@component
def evaluate(
    data: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    text: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    accuracy: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    evaluation_report: dsl.Output[dsl.HTML],
    engine: str,
    precision: str,
    batch_tokens: int,
) -> None:
    """Measure the accuracy on the test sets."""
    arguments = locals()
    from components.evaluate.core import EvaluateConfig, evaluate

    evaluation = run(evaluate, EvaluateConfig, arguments, output=report)
    record(accuracy, evaluation.metrics)
    tabulate(confusion, evaluation.metrics.get("confusion", []))
    show(evaluation_report, report)


@component
def trials(
    seeds: list,  # type: ignore[type-arg]
    learning_rates: list,  # type: ignore[type-arg]
    seed: int,
    learning_rate: float,
) -> list:  # type: ignore[type-arg]
    """All pairs of seeds and learning rates."""
    import dataclasses

    from components.common.cli import run_step
    from components.select.trials import plan_trials

    found = []

    def plan(_: object) -> None:
        found.extend(plan_trials(seeds, learning_rates, seed=seed, learning_rate=learning_rate))

    if status := run_step(plan):
        raise SystemExit(status)
    return [{**dataclasses.asdict(one), "trial": one.name} for one in found]


@component
def select(
    models: dsl.Input[list[dsl.Model]],
    evaluations: dsl.Input[list[dsl.Artifact]],
    selection: dsl.Output[dsl.Artifact],
    model: dsl.Output[dsl.Model],
    scores: dsl.Output[dsl.Metrics],
    sweep_report: dsl.Output[dsl.HTML],
    ensemble: int,
) -> None:
    """Take the trial that is the best on dev, and measure the best few together on test."""
    arguments = locals()
    import shutil

    from components.select.core import SelectConfig, select

    result = run(select, SelectConfig, arguments, output=selection)
    shutil.move(f"{selection.path}/model", model.path)
    record(scores, result.metrics)
    show(sweep_report, selection)


@component
def gate(evaluation: dsl.Input[dsl.Artifact], min_accuracy: float) -> None:
    """Refuse a model that is not good enough."""
    arguments = locals()
    from components.gate.core import GateConfig, gate

    run(gate, GateConfig, arguments)
