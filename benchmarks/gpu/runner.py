"""Runs parts one after the other, each in a process of its own that costs only itself."""

import importlib
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.setting import Setting
from components.common.files import atomic_file
from components.common.processes import running

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Part:
    """A function of a Setting, as module:name, that returns figures."""

    name: str
    function: str
    limit: float  # seconds
    options: dict[str, Any] = field(default_factory=dict)


def run_parts(
    parts: Sequence[Part],
    out: Path,
    budget: float,
    rehearse: bool,
    show: Callable[[str], None] = lambda line: print(line, flush=True),
) -> list[str]:
    """Run what `out` lacks; a file NAME.json is there after each part.

    A part is started only where its limit fits into what is left of the budget, so that the budget
    holds. Parts that failed before are tried again.

    Args:
        budget: seconds.

    Returns:
        The names of the parts that have no figures yet.
    """
    (out / "logs").mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + budget
    missing = []
    for part in parts:
        file = out / f"{part.name}.json"
        if file.exists() and _done(json.loads(file.read_text()), rehearse):
            continue
        if end - time.monotonic() < part.limit:
            show(f"{part.name}: not started, it may take {part.limit:.0f} s")
            missing.append(part.name)
            continue
        record = _run(part, out, rehearse)
        with atomic_file(file) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n")
        if not record["ok"]:
            missing.append(part.name)
        figures = record["error"] or json.dumps(record["result"])
        show(f"{part.name}: {record['seconds']:.1f} s: {figures[:300]}")
    return missing


def _done(record: dict[str, Any], rehearse: bool) -> bool:
    return bool(record["ok"]) and record["rehearsal"] == rehearse


def _run(part: Part, out: Path, rehearse: bool) -> dict[str, Any]:
    """The record of a part: what it told, also where it failed after that."""
    told = out / "logs" / f"{part.name}.told"
    told.unlink(missing_ok=True)
    job = {"part": asdict(part), "out": str(out), "rehearse": rehearse}
    command = [sys.executable, "-m", "benchmarks.gpu.runner", json.dumps(job)]
    started = time.monotonic()
    error = ""
    with (
        (out / "logs" / f"{part.name}.log").open("wb") as log,
        running(command, grace=2, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            if status := process.wait(part.limit):
                error = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            error = f"it took longer than {part.limit:.0f} s"
    figures = json.loads(told.read_text()) if told.exists() else {}
    return {
        "part": part.name,
        "ok": not error,
        "error": figures.pop("error", error) if error else "",
        "rehearsal": rehearse,
        "seconds": round(time.monotonic() - started, 1),
        "card": figures.pop("card", None),
        "torch": figures.pop("torch", None),
        "result": figures,
    }


def main() -> None:
    job = json.loads(sys.argv[1])
    part = Part(**job["part"])
    setting = Setting(Path(job["out"]), part.name, job["rehearse"])
    try:
        setting.require_one_card()
        module, _, name = part.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        setting.tell(**function(setting, **part.options))
    except Exception as error:
        traceback.print_exc()
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        # Of a failed run, what it said last is the reason.
        setting.tell(error=f"{type(error).__name__}: {lines[0]} {lines[-1] if lines[1:] else ''}")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
