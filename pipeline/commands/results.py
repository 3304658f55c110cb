"""race report, compare and estimate: what came of runs, and what would."""

import argparse
from pathlib import Path
from typing import Any

from components.common.cli import add_options, config_of
from pipeline.commands.options import command
from pipeline.display import say
from pipeline.estimate import EstimateConfig, estimate, table


def add_report(commands: Any) -> None:
    made = command(
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


def add_compare(commands: Any) -> None:
    made = command(
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


def add_estimate(commands: Any) -> None:
    made = command(
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
