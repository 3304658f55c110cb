"""race report, compare and estimate: what came of runs, and what would."""

import argparse
from pathlib import Path
from typing import Any

from components.common.cli import add_options, config_of
from pipeline.commands.options import add_server, command, server
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
        examples:
          race compare runs/first runs/second
          race compare runs/first 5a788e68 --host https://kubeflow.example.org/pipeline

        The table is written as a page too. Where runs answered the same questions, it says whether
        chance explains the difference. Of a cluster's run, metrics and answers are fetched.
        """,
    )
    made.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run, or a cluster's run (see race runs)"
    )
    made.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="page to write (default: compare.html beside the first run's folder, or here)",
    )
    add_server(made)


def _compare(arguments: argparse.Namespace) -> None:
    from pipeline.report import COMPARISON, as_text, compare, write_comparison

    first = Path(arguments.runs[0])
    comparison = compare(_folders(arguments))
    output = arguments.output or (first.parent if first.is_dir() else Path()) / COMPARISON
    write_comparison(comparison, output)
    print(as_text(comparison))
    say(f"wrote {output}")


def _folders(arguments: argparse.Namespace) -> list[Path]:
    """The runs' folders, of a cluster's runs too, where a server is named."""
    given = list(map(Path, arguments.runs))
    if not arguments.host or len(given) < 2 or all(path.is_dir() for path in given):
        return given
    from pipeline.client import Api
    from pipeline.fetch import fetch_figures
    from pipeline.runs import find

    api = Api(server(arguments))
    return [
        path if path.is_dir() else fetch_figures(api, api.run(find(api, which).run_id))
        for path, which in zip(given, arguments.runs, strict=True)
    ]


# -- estimate


def add_estimate(commands: Any) -> None:
    made = command(
        commands,
        "estimate",
        _estimate,
        "estimate a training's time and cost on other GPUs from a measured speed",
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
