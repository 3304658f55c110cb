"""The parts of README.md and docs/ that are written from the code:

    python -m pipeline.docs            write them
    python -m pipeline.docs --check    write nothing, fail if they are not up to date

Each stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`, in one place of one page.
"""

import argparse
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.common import errors
from components.common.cli import options, run_step
from components.common.errors import DataError, OutputError
from components.common.program import Program
from components.train.cluster.config import DEADLINE, SHM_SIZE
from components.train.flags import table
from pipeline.parameters import parameters
from pipeline.pipeline import RETRY_WINDOW
from pipeline.steps import DAY, HOUR, STEPS

ROOT = Path(__file__).parents[1]


def programs() -> dict[str, Program]:
    """The program in each folder of components/, by what the documentation calls it."""
    folders = sorted(path.parent.name for path in (ROOT / "components").glob("*/__main__.py"))
    return {
        name.rstrip("_"): importlib.import_module(f"components.{name}.__main__").main
        for name in folders
    }


def pages() -> list[Path]:
    """README.md, and what docs/ holds."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def flags() -> str:
    """Training's parameters, the flags of fairseq-train, and the value of fairseq's own recipe."""
    rows = [("parameter", "flag of fairseq-train", "in fairseq's recipe")]
    for parameter, flag, seed in table():
        names = ", ".join(f"`{_spelled(name)}`" for name in parameter.split(", "))
        rows.append((names, f"`{flag}`", f"`{seed}`" if seed and seed != "(set)" else seed))
    return markdown(rows)


def _spelled(field: str) -> str:
    # Paths are no parameters of the pipeline: it wires them.
    name = STEPS["train"].given.get(field, f"train_{field}")
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
    rows = [("step", "CPUs", "memory", "GPUs", "longest attempt")]
    for step in STEPS.values():
        cpu, memory = (_default(f"cluster_{step.resources}_{what}") for what in ("cpu", "memory"))
        hours = step.timeout / HOUR
        longest = f"{hours / 24:g} days" if step.timeout > DAY else f"{hours:g} hours"
        longest = longest.removesuffix("s") if hours == 1 else longest
        rows.append((step.name, cpu, memory, _default(step.gpus) if step.gpus else "", longest))
    cpu, memory, gpus = (_default(f"cluster_node_{what}") for what in ("cpu", "memory", "gpus"))
    rows.append(("each of several nodes", cpu, memory, gpus, f"{DEADLINE // HOUR} hours"))
    once = [step.name for step in STEPS.values() if not step.retries]
    return (
        f"{markdown(rows)}\n\nA step is tried again up to"
        f" {max(step.retries for step in STEPS.values())} times within"
        f" {RETRY_WINDOW // DAY} days of its first start, but for {' and '.join(once)}; after"
        "\nwhich failures is up to the server, see [below](#interruptions-and-spot-nodes)."
        "\n/dev/shm of train and evaluate may take"
        f" {SHM_SIZE} of their memory."
    )


def _default(name: str) -> str:
    return str(parameters()[name].default)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _parts() -> dict[str, str]:
    found = {"flags": flags(), "resources": resources()}
    for name, main in programs().items():
        found[f"parameters of {name}"] = parameters_of(main.config)
        found[f"errors of {name}"] = errors_of(main.config, main.function)
    return found


def written(texts: Mapping[Path, str]) -> dict[Path, str]:
    """Pages with their generated parts up to date.

    Raises:
        DataError: a part has no place, or several.
    """
    fresh = dict(texts)
    for name, part in _parts().items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        place = re.compile(f"{begin}.*?{end}", re.DOTALL)
        found = [path for path, text in fresh.items() for _ in place.findall(text)]
        if len(found) != 1:
            raise DataError(
                f"README.md and docs/ have {len(found)} places for {name}",
                hint=f"They need one: <!-- {name}: begin --> and <!-- {name}: end -->",
            )
        before, after = place.split(fresh[found[0]])
        fresh[found[0]] = f"{before}{begin}{part}\n{end}{after}"
    return fresh


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if they are not up to date")
    check = parser.parse_args(argv).check
    texts = {path: path.read_text(encoding="utf-8") for path in pages()}
    for path, text in written(texts).items():
        if text == texts[path]:
            continue
        if check:
            raise DataError(f"{path.relative_to(ROOT)} is not up to date", hint="Run `make docs`")
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(run_step(main))
