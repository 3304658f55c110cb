"""The parts of README.md and docs/ that are written from the code:

    python -m pipeline.docs            write them anew
    python -m pipeline.docs --check    write nothing, fail if they are not up to date

Each stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`, in one place of one page.
"""

import argparse
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.binarize.core import BinarizeConfig, binarize
from components.common import errors
from components.common.cli import options, run_step
from components.common.errors import DataError, OutputError
from components.download.core import DownloadConfig, download
from components.evaluate.core import EvaluateConfig, evaluate
from components.export.config import ExportConfig
from components.export.core import export
from components.gate.core import GateConfig, gate
from components.import_.config import ImportConfig
from components.import_.core import import_model
from components.predict.config import PredictConfig
from components.predict.core import predict
from components.preprocess.core import PreprocessConfig, preprocess
from components.select.core import SelectConfig, select
from components.train.cluster.config import DEADLINE, SHM_SIZE
from components.train.config import TrainConfig
from components.train.core import train
from components.train.flags import table
from pipeline.estimate import EstimateConfig, estimate
from pipeline.estimate import table as estimates
from pipeline.parameters import CLUSTER, parameters
from pipeline.pipeline import (
    DATA_STEPS,
    DAY,
    GPU_STEPS,
    HOUR,
    JUDGING_STEPS,
    ONCE,
    RETRIES,
    RETRY_WINDOW,
    TIMEOUTS,
)

ROOT = Path(__file__).parents[1]

# Each step's parameters, and its function.
STEPS: Mapping[str, tuple[type, Callable[..., Any]]] = {
    "download": (DownloadConfig, download),
    "preprocess": (PreprocessConfig, preprocess),
    "binarize": (BinarizeConfig, binarize),
    "train": (TrainConfig, train),
    "evaluate": (EvaluateConfig, evaluate),
    "select": (SelectConfig, select),
    "gate": (GateConfig, gate),
    "predict": (PredictConfig, predict),
    "export": (ExportConfig, export),
    "import": (ImportConfig, import_model),
}


# What a block of commands may need that a test does not have.
NEEDS = ("cluster", "docker", "gpu", "network")


@dataclass(frozen=True)
class Block:
    """A block of shell commands in a page, and what `<!-- needs: ... -->` before it says."""

    page: Path
    line: int
    commands: str
    needs: frozenset[str]


def pages() -> list[Path]:
    """README.md, and what docs/ holds."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The blocks of shell commands of a page; those without needs are run by a test."""
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(
        r"(?:^ *<!-- needs: (?P<needs>[^\n]*) -->\n)?"
        r"^(?P<indent> *)```sh\n(?P<commands>.*?)^(?P=indent)```$",
        re.MULTILINE | re.DOTALL,
    )
    return [
        Block(
            page,
            text.count("\n", 0, found.start("commands")) + 1,
            textwrap.dedent(found["commands"]),
            frozenset(re.findall(r"\w+", found["needs"] or "")),
        )
        for found in pattern.finditer(text)
    ]


def flags() -> str:
    """Training's parameters, the flags of fairseq-train, and the value of fairseq's own recipe."""
    rows = [("parameter", "flag of fairseq-train", "in fairseq's recipe")]
    for parameter, flag, seed in table():
        names = ", ".join(f"`{_spelled(name)}`" for name in parameter.split(", "))
        rows.append((names, f"`{flag}`", f"`{seed}`" if seed and seed != "(set)" else seed))
    return markdown(rows)


def _spelled(field: str) -> str:
    # Paths are no parameters of the pipeline: it wires them.
    name = f"train_{field}"
    return name if name in parameters() else f"--{field}"


def parameters_of(config: type) -> str:
    """A step's parameters as its command line has them."""
    rows = [("parameter", "default", "what it is")]
    for o in options(config):
        if o.required:
            default = "required"
        elif o.type is bool:
            default = "on" if o.default else "off"
        else:
            default = "" if o.default in ("", None, ()) else f"`{o.default}`"
        about = o.help.replace("|", "\\|")
        if o.choices:
            about += f" ({', '.join(f'`{choice}`' for choice in o.choices)})"
        if o.repeated:
            about += "; may be repeated"
        rows.append((f"`{o.flag}`", default, about))
    return markdown(rows)


def errors_of(config: type, function: Callable[..., Any]) -> str:
    """How a step fails, by what the docstrings of its function and its config say."""
    found: dict[str, list[str]] = {}
    for documented in (config, function):
        _, _, raises = (inspect.getdoc(documented) or "").partition("Raises:\n")
        for names, about in re.findall(
            r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", raises.partition("\n\n")[0], re.MULTILINE
        ):
            for name in names.split(", "):
                found.setdefault(name, []).append(" ".join(about.split()).rstrip("."))
    rows = [("exit status", "error", "when")]
    rows += [(_status(name), f"`{name}`", "; ".join(about)) for name, about in found.items()]
    return markdown([rows[0], *sorted(rows[1:], key=lambda row: int(row[0]))])


def _status(error: str) -> str:
    # An OSError is shown as an OutputError; Terminated is SIGTERM's.
    return "143" if error == "Terminated" else str(getattr(errors, error, OutputError).exit_status)


def resources() -> str:
    """What a cluster gives each step by default, and for how long."""
    of = {p.name: p.default for p in CLUSTER}
    rows = [("step", "CPUs", "memory", "GPUs", "longest attempt")]
    for step in (*DATA_STEPS, *GPU_STEPS, *JUDGING_STEPS):
        group = step if step in GPU_STEPS else "data"
        hours = TIMEOUTS[step] / HOUR
        longest = f"{hours / 24:g} days" if TIMEOUTS[step] > DAY else f"{hours:g} hours"
        longest = longest.removesuffix("s") if hours == 1 else longest
        cpu, memory = of[f"cluster_{group}_cpu"], of[f"cluster_{group}_memory"]
        rows.append((step, cpu, memory, str(of.get(f"cluster_{step}_gpus", "")), longest))
    nodes = f"{DEADLINE // HOUR} hours"
    cpu, memory, gpus = (str(of[f"cluster_node_{what}"]) for what in ("cpu", "memory", "gpus"))
    rows.append(("each of several nodes", cpu, memory, gpus, nodes))
    return (
        f"{markdown(rows)}\n\nA step that fails is tried again up to {RETRIES} times within"
        f" {RETRY_WINDOW // DAY} days of its first start, but for {' and '.join(ONCE)}."
        "\n/dev/shm of train and evaluate may take"
        f" {SHM_SIZE} of their memory."
    )


def example_estimate() -> str:
    """What `race estimate --questions-per-second 128` prints."""
    return f"```\n{estimates(estimate(EstimateConfig(questions_per_second=128)), 0)}\n```"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


PARTS: Mapping[str, Callable[[], str]] = {
    "flags": flags,
    **{
        f"parameters of {step}": functools.partial(parameters_of, config)
        for step, (config, _) in STEPS.items()
    },
    **{
        f"errors of {step}": functools.partial(errors_of, config, function)
        for step, (config, function) in STEPS.items()
    },
    "resources": resources,
    "estimate": example_estimate,
}


def written(
    texts: Mapping[Path, str], parts: Mapping[str, Callable[[], str]] = PARTS
) -> dict[Path, str]:
    """Pages with their generated parts written anew.

    Raises:
        DataError: a part has no place, or several.
    """
    anew = dict(texts)
    for name, make in parts.items():
        place = re.compile(f"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
        found = [path for path, text in anew.items() for _ in place.findall(text)]
        if len(found) != 1:
            raise DataError(
                f"README.md and docs/ have {len(found)} places for {name}",
                mend=f"They need one: <!-- {name}: begin --> and <!-- {name}: end -->",
            )
        made = make()
        anew[found[0]] = place.sub(lambda m, made=made: f"{m[1]}{made}\n{m[2]}", anew[found[0]])  # type: ignore[misc]
    return anew


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if they are not up to date")
    check = parser.parse_args(argv).check
    texts = {path: path.read_text(encoding="utf-8") for path in pages()}
    for path, text in written(texts).items():
        if text == texts[path]:
            continue
        if check:
            raise DataError(f"{path.relative_to(ROOT)} is not up to date", mend="Run `make docs`")
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(run_step(main))
