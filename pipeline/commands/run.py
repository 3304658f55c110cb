"""race run and race sample: on this machine."""

import argparse
import logging
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from components.common.errors import ConfigError
from components.common.progress import duration
from pipeline.commands.options import (
    add_assignments,
    add_config,
    add_images,
    chosen_images,
    command,
    missing_package,
    positive,
)
from pipeline.display import say, step_line, working
from pipeline.images import images
from pipeline.parameters import folded, load_config, resolve


def add_run(commands: Any) -> None:
    made = command(
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
    add_config(made, default=None)
    add_assignments(made)
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
    add_images(made)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.config is None:
        raise ConfigError(
            "race run: --config is missing", hint="To try it out: race run --config smoke"
        )
    absent = [name for name in ("torch", "fairseq") if find_spec(name) is None]
    if absent and arguments.runner == "subprocess":
        raise missing_package(" and no ".join(absent))
    config = load_config(arguments.config)
    given = folded(arguments.assignments)
    values = resolve(config, given, here=True)  # a wrong one shows before the sample is made
    name = arguments.name or f"{time.strftime('%Y-%m-%d.%H-%M-%S')}-{config.name}"
    if Path(name).name != name or name.startswith("."):
        raise ConfigError(f"--name {name}: not a plain name", hint="Leave out slashes")
    from pipeline.local import require_carried, run_pipeline

    require_carried(arguments.output / name, values)
    # Containers have to hold the code that lies here, not that of the last release.
    from pipeline.image_build import checkout_images

    references = chosen_images(
        arguments, checkout_images if arguments.runner == "docker" else images
    )
    logging.getLogger("components").setLevel(logging.WARNING)  # the steps have logs of their own
    if config.sample:
        from pipeline.sample import sample_inputs

        started = time.monotonic()
        with working("sample"):
            values.update(sample_inputs(given, values, arguments.output))
        if time.monotonic() - started > 1:
            say(step_line("sample", duration(time.monotonic() - started), "made up"))
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


def add_sample(commands: Any) -> None:
    made = command(
        commands,
        "sample",
        _sample,
        "make up a data set, a BPE and a tiny untrained model, offline",
        """
        example:
          race sample --output sample

        It holds RACE.tar.gz, bpe/ and roberta.tiny.tar.gz, in the formats of the real ones, and the
        questions as a table, exam.csv. The same seed gives the same bytes.
        """,
    )
    made.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder for it")
    made.add_argument("--seed", type=int, default=1, metavar="N", help="default: 1")
    made.add_argument(
        "--passages",
        type=positive,
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
