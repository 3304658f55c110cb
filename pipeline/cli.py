"""The `race` command."""

import argparse
import importlib
import logging
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.common import strict_json
from components.common.cli import (
    Parser,
    add_log_format,
    add_options,
    config_of,
    run_step,
    use_log_format,
)
from components.common.errors import ConfigError, DataError
from components.common.progress import duration
from components.common.remote import at_hand
from components.common.text import columns
from components.export.config import ExportConfig
from components.import_.config import ImportConfig
from components.predict.config import PredictConfig
from pipeline.display import say, step_line, working
from pipeline.estimate import EstimateConfig, estimate, table
from pipeline.images import Images, images
from pipeline.parameters import (
    DEFAULT_CONFIG,
    PARALLELISM,
    Config,
    config_names,
    inputs_of,
    is_sweep,
    load_config,
    parameters,
    parse_assignments,
    require_one_machine,
    require_store,
    resolve,
    run_inputs,
)

PIPELINE_YAML, SWEEP_YAML = Path("pipeline.yaml"), Path("sweep.yaml")

# Modules that import kfp or torch are imported where they are needed: `race --help` is quick.


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # A closed terminal ends a run like SIGTERM does, instead of leaving its steps behind.
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    return run_step(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = _parser()
    arguments = parser.parse_args(argv)
    use_log_format(arguments.log_format)
    if arguments.command is None:
        parser.print_help()
    else:
        arguments.command(arguments)


class _Version(argparse.Action):
    """Prints the version of the installed package."""

    def __call__(self, *_: Any) -> None:
        from importlib import metadata

        print(f"race {metadata.version('race-pipeline')}")
        raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    root = Parser(
        prog="race",
        description=textwrap.dedent(
            """
            Fine-tune RoBERTa on RACE: download, preprocess, binarize, train, evaluate.
            """
        ).strip(),
        epilog=textwrap.dedent(
            """
            to start with:
              race run --config smoke
                  the whole pipeline on this machine in about a minute, on a made-up data set
              race submit --host https://kubeflow.example.org/pipeline --wait
                  fine-tune RoBERTa-large on a cluster

            A single step runs as python -m components.<step>; see its --help.
            """
        ).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    root.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    root.set_defaults(command=None)
    add_log_format(root)
    commands = root.add_subparsers(title="commands", metavar="COMMAND")
    adders = (
        _add_run,
        _add_report,
        _add_compare,
        _add_estimate,
        _add_predict,
        _add_export,
        _add_import,
        _add_submit,
        _add_compile,
        _add_parameters,
        _add_sample,
        _add_containers,
    )
    for add in adders:
        add(commands)
    return root


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], None], help: str, text: str
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog=textwrap.dedent(text).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.set_defaults(command=function)
    return made


def _add_config(made: argparse.ArgumentParser, default: str | None = DEFAULT_CONFIG) -> None:
    made.add_argument(
        "--config",
        default=default,
        metavar="NAME",
        help=f"values to start from: {', '.join(config_names())}, or the path of a YAML file"
        + (f" (default: {default})" if default else ""),
    )
    # What it was called in version 0.1.
    made.add_argument("--profile", dest="config", default=default, help=argparse.SUPPRESS)


def _add_assignments(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "-p",
        dest="assignments",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter; may be repeated (`race parameters` lists them)",
    )


def _add_images(made: argparse.ArgumentParser) -> None:
    for name, steps in (("data", "the data steps"), ("train", "train and evaluate")):
        made.add_argument(
            f"--{name}-image",
            metavar="REFERENCE",
            help=f"image for {steps}, best as name@sha256:... (default: {getattr(images(), name)})",
        )


def _add_parallelism(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--parallelism",
        type=int,
        default=PARALLELISM,
        metavar="N",
        help=f"trials of a sweep at the same time (default: {PARALLELISM})",
    )


def _parallelism(arguments: argparse.Namespace) -> int:
    given: int = arguments.parallelism
    if given < 1:
        raise ConfigError(f"--parallelism {given}: give at least 1")
    return given


def _images(
    arguments: argparse.Namespace, read: Callable[[Mapping[str, str]], Images] = images
) -> Images:
    given = {
        "RACE_DATA_IMAGE": arguments.data_image or "",
        "RACE_TRAIN_IMAGE": arguments.train_image or "",
    }
    return read({**os.environ, **{name: value for name, value in given.items() if value}})


# -- run


def _add_run(commands: Any) -> None:
    made = _command(
        commands,
        "run",
        _run,
        "run all steps on this machine",
        """
        examples:
          race run --config smoke
          race run --config smoke -p learning_rate=0.002 -p epochs=1
          race run --config roberta-base --output /data/runs
          race run --config smoke -p seeds=[1,2,3]

        With seeds or learning_rates it trains with each of them, one after another, selects the
        best in validation, and says how far they lie apart.

        Data steps whose inputs, parameters and code are those of an earlier run in the same folder
        are not run again. The exit status is that of the step that failed: 2 wrong parameter,
        3 bad input, 4 transfer, 5 output not writable, 6 training, 7 accuracy below the gate.
        """,
    )
    # No default: roberta-large on a laptop would be hours of download and training by mistake.
    _add_config(made, default=None)
    _add_assignments(made)
    made.add_argument(
        "--output",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder for this and other runs, and their cache (default: runs)",
    )
    made.add_argument(
        "--name", help="what the run is called in there (default: its time and config)"
    )
    made.add_argument(
        "--runner",
        choices=("subprocess", "docker"),
        default="subprocess",
        help="a step is a process of this Python, or a container (default: subprocess)",
    )
    made.add_argument("--no-cache", action="store_true", help="run every step")
    _add_images(made)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.config is None:
        raise ConfigError(
            "race run: --config is missing", mend="To try it out: race run --config smoke"
        )
    config = load_config(arguments.config)
    given = parse_assignments(arguments.assignments)
    require_one_machine({**config.values, **given})
    values = resolve(config, given)  # before the sample: a wrong parameter shows at once
    name = arguments.name or f"{time.strftime('%Y-%m-%d.%H-%M-%S')}-{config.name}"
    if Path(name).name != name or name.startswith("."):
        raise ConfigError(f"--name {name}: not a plain name", mend="Leave out slashes")
    # Containers have to hold the code that lies here, not that of the last release.
    from pipeline.image_build import checkout_images

    references = _images(arguments, checkout_images if arguments.runner == "docker" else images)
    logging.getLogger("components").setLevel(logging.WARNING)  # the steps have logs of their own
    if config.sample:
        from pipeline.inputs import sample_inputs

        started = time.monotonic()
        with working("sample"):
            values.update(sample_inputs(given, values, arguments.output))
        if time.monotonic() - started > 1:
            say(step_line("sample", duration(time.monotonic() - started), "made up"))
    from pipeline.local import run_pipeline
    from pipeline.record import report

    run = run_pipeline(
        values,
        references,
        arguments.output,
        name=name,
        runner=arguments.runner,
        cache=not arguments.no_cache,
    )
    print(report(run))
    if run.refused:
        raise run.refused


# -- report, compare


def _add_report(commands: Any) -> None:
    made = _command(
        commands,
        "report",
        _report,
        "write a run's page again, and print where it is",
        """
        example:
          race report runs/latest

        The page leads to the reports on data, training and evaluation, which the steps wrote.
        """,
    )
    made.add_argument("run", type=Path, metavar="DIR", help="folder of a run")


def _report(arguments: argparse.Namespace) -> None:
    from pipeline.report import write_index

    print(write_index(arguments.run))


def _add_compare(commands: Any) -> None:
    made = _command(
        commands,
        "compare",
        _compare,
        "show runs side by side: the settings that differ, and what came of them",
        """
        example:
          race compare runs/first runs/second

        The table is written as a page too. Where runs answered the same questions, it says whether
        chance explains the difference.
        """,
    )
    made.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="folder of a run")
    made.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="page to write (default: compare.html in the folder of the first run's folder)",
    )


def _compare(arguments: argparse.Namespace) -> None:
    from pipeline.report import COMPARISON, as_text, compare, write_comparison

    comparison = compare(arguments.runs)
    output = arguments.output or arguments.runs[0].parent / COMPARISON
    write_comparison(comparison, output)
    print(as_text(comparison))
    say(f"wrote {output}")


# -- estimate


def _add_estimate(commands: Any) -> None:
    made = _command(
        commands,
        "estimate",
        _estimate,
        "reckon a training's time and cost on other GPUs from a measured speed",
        """
        examples:
          race estimate --questions-per-second 128 --price 3
          race estimate runs/latest --gpus 8 16 --network 40
          race estimate runs/latest --questions 87866 --epochs 5

        The first is RoBERTa-large on all of RACE on 1, 2, 4 and 8 GPUs, of which one makes 128
        questions a second. The others take speed, GPUs, questions, epochs and batch from a run.
        Computing divides over the GPUs; adding up the gradients takes 2 (p - 1) / p times their
        size over the bandwidth. docs/scaling.md has the formula and what it leaves out.
        """,
    )
    made.add_argument(
        "run", type=Path, nargs="?", metavar="RUN", help="a run's folder, or the one train wrote"
    )
    add_options(made, EstimateConfig)


def _estimate(arguments: argparse.Namespace) -> None:
    config = config_of(EstimateConfig, arguments)
    print(table(estimate(config, arguments.run), config.price))


# -- predict, export, import


def _step(config_class: type, module: str, function: str) -> Callable[[argparse.Namespace], None]:
    """What runs a step whose parameters are the command's."""

    def command(arguments: argparse.Namespace) -> None:
        config: Any = config_of(config_class, arguments)
        step = getattr(importlib.import_module(module), function)
        with at_hand(config) as local:
            step(local)

    return command


def _add_predict(commands: Any) -> None:
    made = _command(
        commands,
        "predict",
        _step(PredictConfig, "components.predict.core", "predict"),
        "answer questions with a trained model",
        """
        examples:
          race predict --model runs/latest < questions.jsonl > answers.jsonl
          race predict --model runs/latest --passage "Ann has a cat." \\
            --question "Ann has a _." --option dog --option cat --option cow --option hen

        Each line of the input is a JSON object: {"article": "...", "question": "...",
        "options": ["...", ...]}, with "id" and "answer" (a letter) where they are known, or what a
        RACE file holds. Bad lines are reported and left out; the exit status is 3 then.
        """,
    )
    add_options(made, PredictConfig)


def _add_export(commands: Any) -> None:
    made = _command(
        commands,
        "export",
        _step(ExportConfig, "components.export.core", "export"),
        "turn a trained model into one that Hugging Face's transformers load",
        """
        example:
          race export --model runs/latest --output exported

        The folder holds a model card too, which says how to ask the model.
        """,
    )
    add_options(made, ExportConfig)


def _add_import(commands: Any) -> None:
    made = _command(
        commands,
        "import",
        _step(ImportConfig, "components.import_.core", "import_model"),
        "take a Hugging Face RoBERTa as the pretrained checkpoint",
        """
        example:
          race import --source roberta-large --output roberta

        The folder then serves as --pretrained of train and as --bpe of binarize.
        """,
    )
    add_options(made, ImportConfig)


# -- submit


def _add_submit(commands: Any) -> None:
    made = _command(
        commands,
        "submit",
        _submit,
        "run all steps on a Kubeflow Pipelines cluster",
        """
        examples:
          race submit --host https://kubeflow.example.org/pipeline --token-file token --wait
          race submit --host http://localhost:8080 --config roberta-base -p epochs=3
          race submit --host http://localhost:8080 --cron "0 0 3 * * 1"
          race submit --host http://localhost:8080 -p seeds=[1,2,3,4,5] --parallelism 5

        The pipeline is compiled with the config and uploaded as a version of race-roberta, or of
        race-roberta-sweep with seeds or learning_rates, unless the server has it. A data step is
        taken from the cache where all that it comes from has a sha256. With --wait the exit status
        is 1 when the run fails.
        """,
    )
    _add_config(made)
    _add_assignments(made)
    made.add_argument(
        "--host",
        default=os.environ.get("KF_PIPELINES_ENDPOINT", ""),
        metavar="URL",
        help="address of Kubeflow Pipelines (default: $KF_PIPELINES_ENDPOINT)",
    )
    made.add_argument(
        "--namespace", default="", help="your namespace, where the server has many users"
    )
    made.add_argument(
        "--token-file",
        type=Path,
        metavar="PATH",
        help="file with the bearer token; read again when the server refuses it",
    )
    made.add_argument(
        "--experiment", default="race", metavar="NAME", help="experiment of the run (default: race)"
    )
    made.add_argument("--name", help="what the run is called (default: config, time, a number)")
    made.add_argument(
        "--pipeline-root",
        default="",
        metavar="URI",
        help="where artifacts go, such as s3://bucket/path (default: the server's)",
    )
    made.add_argument(
        "--no-cache", action="store_true", help="run every step (default: data steps may be cached)"
    )
    made.add_argument("--wait", action="store_true", help="follow the run until it ends")
    made.add_argument(
        "--poll", type=float, default=10.0, metavar="SECONDS", help="how often (default: 10)"
    )
    made.add_argument(
        "--cron",
        default="",
        metavar="TIMES",
        help="start a run again and again: second minute hour day month weekday",
    )
    _add_parallelism(made)
    _add_images(made)


def _submit(arguments: argparse.Namespace) -> None:
    from pipeline.caching import cached_on_cluster, uncached_note
    from pipeline.pipeline import NAME, SWEEP_NAME, compiled
    from pipeline.submit import Api, Server, follow, submit, unique_name

    parallelism = _parallelism(arguments)
    if arguments.wait and arguments.cron:
        raise ConfigError("--wait and --cron exclude each other", mend="A schedule has no end")
    config = load_config(arguments.config)
    given = parse_assignments(arguments.assignments)
    values = resolve(config, given)
    require_store(values)
    sweep = is_sweep(values)
    # What concerns the platform makes another pipeline; everything else is a run's input.
    platform = {n: v for n, v in given.items() if parameters()[n].kind == "platform"}
    compiled_in = _defaults(config, platform)
    _require_reachable(config, values, {**compiled_in, **given}, inputs_of(sweep))
    server = Server(arguments.host, arguments.namespace, arguments.token_file)
    api = Api(server)
    cached = frozenset() if arguments.no_cache else cached_on_cluster(values)
    package = compiled(
        compiled_in, _images(arguments), cached=cached, sweep=sweep, parallelism=parallelism
    )
    if not arguments.no_cache and (note := uncached_note(values)):
        say(note)
    identity = submit(
        api,
        package,
        run_inputs(values, compiled_in, sweep),
        pipeline=SWEEP_NAME if sweep else NAME,
        experiment=arguments.experiment,
        name=arguments.name or unique_name(config.name),
        pipeline_root=arguments.pipeline_root,
        cron=arguments.cron,
    )
    print(server.address("recurringrun" if arguments.cron else "runs", identity), flush=True)
    if arguments.wait:
        try:
            follow(api, identity, every=arguments.poll)
        except KeyboardInterrupt:
            say("the run goes on; it is stopped on its page")
            raise
        say("the run succeeded")


def _require_reachable(
    config: Config, values: Mapping[str, Any], known: Mapping[str, Any], inputs: Iterable[str]
) -> None:
    """Refuse inputs that a cluster cannot read."""
    from pipeline.local import local_path

    for name in inputs:
        if name.endswith("_url") and name not in known:
            raise ConfigError(
                f"config {config.name} has no {name}: its sample is made on this machine",
                mend=f"Make it with `race sample`, upload it, and give -p {name}=s3://...",
            )
        if name.endswith("_url") and local_path(values[name]) is not None:
            raise ConfigError(
                f"{name}={values[name]}: a cluster cannot read this machine's files",
                mend="Upload it and give its http or s3 address",
            )


# -- compile


def _add_compile(commands: Any) -> None:
    made = _command(
        commands,
        "compile",
        _compile,
        "write the pipeline as YAML, for the Kubeflow Pipelines page or API",
        """
        examples:
          race compile
          race compile --check
          race compile --config roberta-base --output base.yaml \\
            --train-image registry.example.org/race-pipeline-train@sha256:...
          race compile -p seeds=[1,2,3] --parallelism 3 --output seeds.yaml

        Without --output it writes pipeline.yaml, which trains once, and sweep.yaml, where seeds and
        learning_rates can be set. With --output it writes one file: a sweep if one of them is set.
        """,
    )
    _add_config(made)
    _add_assignments(made)
    made.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help=f"file to write (default: {PIPELINE_YAML} and {SWEEP_YAML})",
    )
    made.add_argument(
        "--check", action="store_true", help="write nothing, fail if a file is not up to date"
    )
    _add_parallelism(made)
    _add_images(made)


def _compile(arguments: argparse.Namespace) -> None:
    from pipeline.pipeline import compiled

    parallelism = _parallelism(arguments)
    given = parse_assignments(arguments.assignments)
    defaults = _defaults(load_config(arguments.config), given)
    outputs = {PIPELINE_YAML: False, SWEEP_YAML: True}
    if arguments.output:
        outputs = {arguments.output: is_sweep(defaults)}
    for output, sweep in outputs.items():
        if output.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"--output {output}: not YAML", mend="Let its name end with .yaml")
        content = compiled(defaults, _images(arguments), sweep=sweep, parallelism=parallelism)
        if not arguments.check:
            output.write_text(content, encoding="utf-8")
            say(f"wrote {output}")
        elif not output.is_file() or output.read_text(encoding="utf-8") != content:
            raise DataError(f"{output} is not up to date", mend="Write it with `race compile`")
        else:
            say(f"{output} is up to date")


def _defaults(config: Config, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values for all parameters but those that the sample stands for."""
    values = resolve(config, given)
    if config.sample:
        from pipeline.inputs import SAMPLE

        missing = SAMPLE.keys() - given.keys()
        values = {name: value for name, value in values.items() if name not in missing}
    return values


# -- parameters


def _add_parameters(commands: Any) -> None:
    made = _command(
        commands,
        "parameters",
        _parameters,
        "list the parameters, their values and what they mean",
        """
        examples:
          race parameters
          race parameters --config smoke
        """,
    )
    _add_config(made)


def _parameters(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config)
    print(f"config {config.name}: {config.description}")
    group = ""
    for p in parameters().values():
        if (kind := _GROUPS[p.kind].format(step=p.step)) != group:
            group = kind
            print(f"\n{group}")
        value = config.values.get(p.name, p.default)
        mark = "*" if p.name in config.values else " "
        print(f" {mark}{p.name} = {_spelled(value)}")
        choices = f" ({', '.join(p.choices)})" if p.choices else ""
        print(
            textwrap.fill(p.help + choices, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
        )
    print("\n* set by the config file")


_GROUPS = {
    "input": "inputs of the pipeline",
    "sweep": "inputs of a sweep",
    "setting": "{step}, each also an entry of {step}_settings",
    "platform": "fixed when the pipeline is compiled",
}


def _spelled(value: Any) -> str:
    """A value as `-p name=value` wants it."""
    return value if isinstance(value, str) else strict_json.dumps(value)


# -- sample


def _add_sample(commands: Any) -> None:
    made = _command(
        commands,
        "sample",
        _sample,
        "make up a data set, a BPE and a tiny untrained model, offline",
        """
        example:
          race sample --output sample

        It holds RACE.tar.gz, bpe/ and roberta.tiny.tar.gz, in the formats of the real ones. The
        same seed gives the same bytes.
        """,
    )
    made.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder for it")
    made.add_argument("--seed", type=int, default=1, metavar="N", help="default: 1")
    made.add_argument(
        "--passages",
        type=int,
        default=2000,
        metavar="N",
        help="passages to train on (default: 2000)",
    )
    made.add_argument(
        "--options", type=int, default=4, metavar="N", help="of each question (default: 4)"
    )
    made.add_argument(
        "--dictionary",
        type=Path,
        metavar="PATH",
        help="a dict.txt that the model has to fit, for other text than the sample's",
    )


def _sample(arguments: argparse.Namespace) -> None:
    from pipeline.sample import MOST_OPTIONS, make_sample

    if arguments.passages < 1:
        raise ConfigError(f"--passages {arguments.passages}: give at least 1")
    if not 2 <= arguments.options <= MOST_OPTIONS:
        raise ConfigError(f"--options {arguments.options}: give 2 to {MOST_OPTIONS}")
    with working("sample"):
        make_sample(
            arguments.output,
            arguments.seed,
            passages=arguments.passages,
            options=arguments.options,
            dictionary=arguments.dictionary,
        )
    say(f"wrote {arguments.output}")


# -- images


def _add_containers(commands: Any) -> None:
    made = commands.add_parser(
        "images",
        help="build, push and list the two container images",
        description="Build, push and list the container images of the data and training steps.",
        epilog=textwrap.dedent(
            """
            RACE_IMAGE_PREFIX is where they are kept, such as registry.example.org/team. The tag is
            the commit that last changed them; uncommitted changes add a digest to it.
            """
        ).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    build = _command(
        verbs,
        "build",
        _build_images,
        "build the images in the Docker engine and print their references",
        """
        examples:
          race images build
          race images build train --torch cpu
          race images build --base-image registry.example.org/python:3.11-slim-bookworm

        pip's settings PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and PIP_TRUSTED_HOST hold
        in the builds too, where they are http addresses.
        """,
    )
    build.add_argument(
        "--base-image", default="", metavar="REFERENCE", help="image to build upon, see docker/"
    )
    build.add_argument(
        "--torch",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: the build of torch without CUDA, where pip finds one (default: cuda)",
    )
    build.add_argument(
        "--network", default="", metavar="NAME", help="network of the builds, such as host"
    )
    build.add_argument("--no-cache", action="store_true", help="build every layer again")
    push = _command(
        verbs,
        "push",
        _push_images,
        "push the images and print their references by digest",
        """
        example:
          export RACE_IMAGE_PREFIX=registry.example.org/team
          race images build
          export $(race images push)
          race submit --host https://kubeflow.example.org/pipeline

        It prints RACE_DATA_IMAGE=... and RACE_TRAIN_IMAGE=..., which `race compile` and `race
        submit` read. A tag may come to mean something else, a digest never does.
        """,
    )
    for verb in (build, push):
        verb.add_argument(
            "names", nargs="*", metavar="NAME", help="data or train (default: both)", default=[]
        )
        verb.add_argument("--tag", default="", help="a tag of your own")
    _command(
        verbs,
        "list",
        _list_images,
        "list the images that were built here",
        """
        example:
          race images list

        An asterisk marks those that hold the code as it is now, which `race run --runner docker`
        uses.
        """,
    )


def _image_names(arguments: argparse.Namespace) -> Sequence[str]:
    from pipeline.image_build import NAMES

    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        raise ConfigError(f"no image is called {unknown[0]}", mend=f"Names: {', '.join(NAMES)}")
    return tuple(dict.fromkeys(arguments.names)) or NAMES


def _build_images(arguments: argparse.Namespace) -> None:
    from pipeline.image_build import build

    for image in build(
        _image_names(arguments),
        tag=arguments.tag,
        base_image=arguments.base_image,
        torch=arguments.torch,
        network=arguments.network,
        cache=not arguments.no_cache,
    ):
        print(image.reference)


def _push_images(arguments: argparse.Namespace) -> None:
    from pipeline.image_build import push

    for name, reference in push(_image_names(arguments), tag=arguments.tag).items():
        print(f"RACE_{name.upper()}_IMAGE={reference}")


def _list_images(arguments: argparse.Namespace) -> None:
    from pipeline.image_build import checkout_images, local_images

    current = checkout_images()
    rows = [("", "image", "size", "without its base", "made")]
    for image in local_images():
        mark = "*" if image.reference in (current.data, current.train) else ""
        own = "" if image.own_size is None else f"{image.own_size / 1e6:,.0f} MB"
        made = image.created[:16].replace("T", " ")
        rows.append((mark, image.reference, f"{image.size / 1e6:,.0f} MB", own, made))
    print(*columns(rows, left=2, gap=" "), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
