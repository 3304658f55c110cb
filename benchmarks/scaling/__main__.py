"""Time and cost of fine-tuning RoBERTa-large on RACE on 1 to 64 GPUs.

python -m benchmarks.scaling --gpu H100 --network 400
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.scaling.config import Assumptions, Output
from benchmarks.scaling.plots import PLOTS
from benchmarks.scaling.tables import TABLES, Results
from components.common.cli import add_options, config_of, parser, run_step, use_log_format
from components.common.errors import ConfigError, DataError
from components.common.files import atomic_file
from pipeline import docs

PAGE = docs.ROOT / "docs" / "scaling.md"
FOLDER = docs.ROOT / "docs" / "scaling"


def read(argv: Sequence[str] | None = None) -> tuple[Assumptions, Output]:
    """What a command line says.

    Raises:
        ConfigError: it is wrong.
    """
    arguments = parser(
        Assumptions,
        prog="python -m benchmarks.scaling",
        description="""
            Time and cost of fine-tuning RoBERTa-large on RACE on 1 to 64 GPUs, as docs/scaling.md
            models them: prints its tables for these assumptions, as Markdown.
        """,
        epilog="""
            example, with what benchmarks/train_step.py printed on one GPU:
              python -m benchmarks.scaling --gpu H100 --throughput 140 --price 2.5 --plots plots
        """,
    )
    add_options(arguments, Output)
    given = arguments.parse_args(argv)
    use_log_format(given.log_format)
    assumptions, output = config_of(Assumptions, given), config_of(Output, given)
    if (output.write or output.check) and assumptions != Assumptions():
        raise ConfigError(
            "docs/scaling.md has the default assumptions",
            mend="Leave the others out, or leave out --write and --check",
        )
    return assumptions, output


def main(argv: Sequence[str] | None = None) -> None:
    assumptions, output = read(argv)
    results = Results(assumptions)
    if output.write or output.check:
        write(fresh(results), check=output.check)
        return
    if output.plots:
        write({output.plots / name: plot(results) for name, plot in PLOTS.items()})
    for name, table in TABLES.items():
        print(f"## {name.removeprefix('scaling, ')}\n\n{table(results)}\n")


def fresh(results: Results) -> dict[Path, str]:
    """The page and the plots as they should be."""
    parts = {name: lambda table=table: table(results) for name, table in TABLES.items()}
    found = docs.written({PAGE: PAGE.read_text(encoding="utf-8")}, parts)
    return found | {FOLDER / name: plot(results) for name, plot in PLOTS.items()}


def write(texts: Mapping[Path, str], *, check: bool = False) -> None:
    """Write what is not there yet.

    Raises:
        DataError: with `check`, something would have to be written.
    """
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            raise DataError(
                f"{path.relative_to(docs.ROOT)} is not up to date",
                mend="Run python -m benchmarks.scaling --write",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(run_step(main))
