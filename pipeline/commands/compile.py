"""race compile and race parameters: the pipeline as YAML, and what can be set in it."""

import argparse
import textwrap
from pathlib import Path
from typing import Any

from components.common.errors import ConfigError, DataError
from pipeline.commands.options import (
    add_assignments,
    add_config,
    add_images,
    add_parallelism,
    chosen_images,
    command,
    defaults,
)
from pipeline.display import say
from pipeline.parameters import folded, is_sweep, load_config, parameters, spelled

PIPELINE_YAML, SWEEP_YAML = Path("pipeline.yaml"), Path("sweep.yaml")
COMPONENTS = Path("components")


def add_compile(commands: Any) -> None:
    made = command(
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

        Without --output it writes pipeline.yaml, which trains once, sweep.yaml, where seeds and
        learning_rates can be set, and components/<step>/component.yaml, for pipelines of your own.
        With --output it writes one file: a sweep if seeds or learning_rates are set.
        """,
    )
    add_config(made)
    add_assignments(made)
    made.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help=f"file to write (default: {PIPELINE_YAML}, {SWEEP_YAML} and the components)",
    )
    made.add_argument(
        "--check", action="store_true", help="write nothing, fail if a file is not up to date"
    )
    add_parallelism(made)
    add_images(made)


def _compile(arguments: argparse.Namespace) -> None:
    from pipeline.components import published
    from pipeline.pipeline import as_yaml, compiled

    given = folded(arguments.assignments)
    values = defaults(load_config(arguments.config), given)
    references = chosen_images(arguments)
    outputs = {PIPELINE_YAML: False, SWEEP_YAML: True}
    components = {} if arguments.output else published(references)
    for name in components:
        _require_ours(COMPONENTS / name / "component.yaml", name)
    if arguments.output:
        outputs = {arguments.output: is_sweep(values)}
    for output, sweep in outputs.items():
        if output.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"--output {output}: not YAML", hint="Let its name end with .yaml")
        _write(
            output,
            compiled(values, references, sweep=sweep, parallelism=arguments.parallelism),
            check=arguments.check,
        )
    for name, made in components.items():
        _write(COMPONENTS / name / "component.yaml", as_yaml(made), check=arguments.check)


def _require_ours(path: Path, name: str) -> None:
    """Refuse to write over a component of the user's own, in a folder that is called like ours."""
    if path.is_file() and f"- components.{name}\n" not in path.read_text(encoding="utf-8"):
        raise ConfigError(
            f"{path} is another's component",
            hint="Compile in a folder of its own, or one file alone with --output",
        )


def _write(output: Path, content: str, *, check: bool) -> None:
    if not check:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(content, encoding="utf-8")
        say(f"wrote {output}")
    elif not output.is_file() or output.read_text(encoding="utf-8") != content:
        raise DataError(f"{output} is not up to date", hint="Write it with `race compile`")
    else:
        say(f"{output} is up to date")


def add_parameters(commands: Any) -> None:
    made = command(
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
    add_config(made)


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
        print(f" {mark}{p.name} = {spelled(value)}")
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
