"""The `race` command."""

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from importlib.metadata import version

from components.common.cli import Parser, add_log_format, run_step
from pipeline.commands import compile, doctor, images, models, results, run, runs, submit
from pipeline.commands.options import missing_package

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
    if arguments.command is None:
        parser.print_help()
        return
    try:
        arguments.command(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("pipeline", "components")):
            raise
        raise missing_package(str(error.name)) from error


def _parser() -> argparse.ArgumentParser:
    root = Parser(
        prog="race",
        description="Fine-tune RoBERTa on RACE: download, preprocess, binarize, train, evaluate.",
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
    root.add_argument(
        "--version",
        action="version",
        version=f"race {version('race-pipeline')}",
        help="print the version and end",
    )
    root.set_defaults(command=None)
    add_log_format(root)
    commands = root.add_subparsers(title="commands", metavar="COMMAND")
    adders = (
        run.add_run,
        results.add_report,
        results.add_compare,
        results.add_estimate,
        models.add_models,
        doctor.add_doctor,
        submit.add_submit,
        runs.add_runs,
        compile.add_compile,
        compile.add_parameters,
        run.add_sample,
        images.add_images,
    )
    for add in adders:
        add(commands)
    return root


if __name__ == "__main__":
    sys.exit(main())
