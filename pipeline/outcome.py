"""What a step's log says of how far it has come, of what came of it, and of why it failed."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from components.common import strict_json
from components.common.errors import one_line

# The last line that matches, in words.
RESULTS: Mapping[str, tuple[str, Callable[[re.Match[str]], str]]] = {
    "train": (
        r"trained (\d+) updates in .*: best validation accuracy (?P<best>.+)"
        r"|(?P<going>epoch \d+/.+)",
        lambda m: m["going"] or f"{int(m[1]):,} updates, accuracy {m['best']} in validation",
    ),
    "evaluate": (
        r"all +[\d,]+ +[\d,]+ +(?P<accuracy>[\d.]+) %.*",
        lambda m: f"accuracy {m['accuracy']} % on test",
    ),
    "select": (
        r"best: (.*?) +(?:[\d.]+ %|–) .*?(?P<accuracy>[\d.]+) %",
        lambda m: f"best {m[1]}, accuracy {m['accuracy']} % on test",
    ),
}
_DRIVER = re.compile(r"^KFP driver: driver\.\w+\(.*?\) failed: ")
_LAUNCHER = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ [\w.-]+:\d+\] (.*)")
SCORED = ("select", "evaluate")  # whose accuracy is the run's, the first that there is


def outcome(step: str, log: str) -> str:
    """What came of a step, in a few words; "" if its log does not say it."""
    found = _last(step, log)
    return one_line(RESULTS[step][1](found)) if found else ""


def accuracy(step: str, log: str) -> float | None:
    """The accuracy on the test sets (percent) that evaluate or select has told."""
    found = _last(step, log)
    return float(found["accuracy"]) if found else None


def _last(step: str, log: str) -> re.Match[str] | None:
    pattern = re.compile(RESULTS[step][0])
    for line in reversed(log.splitlines()):
        if found := pattern.fullmatch(_said(line)[1].strip()):
            return found
    return None


def _said(line: str) -> tuple[str, str]:
    """The level and the message of a line in either format of `--log-format`."""
    if line.startswith("{"):
        try:
            said = strict_json.loads(line)
            return str(said.get("level", "")), str(said["message"])
        except (AttributeError, LookupError, TypeError, ValueError):
            pass
    message = line.removeprefix("error: ")
    return "ERROR" if message != line else "", message


@dataclass(frozen=True)
class Failure:
    """What a failed pod's log says: its own last error, and its program's exit status if known."""

    error: str
    exit_status: int | None


def read_failure(log: str) -> Failure:
    """What a log of a driver or of an executor says at its end.

    The container's exit code is always that of KFP's launcher, 1; the program's stands in what the
    launcher writes last.
    """
    error, own, fatal, status = "", "", "", None
    for line in log.splitlines():
        level, message = _said(line)
        if launcher := _LAUNCHER.match(line):
            told = re.findall(r"exit status (\d+)", launcher[2])
            status = int(told[-1]) if told else status
            fatal = launcher[2] if launcher[1] == "F" else fatal
        elif level == "ERROR" and message:
            error = message
        elif re.match(r"\s*\w", line):  # the launcher's own JSON begins otherwise
            own = line.strip()
    error = error or (own if status is not None else fatal)
    return Failure(_DRIVER.sub("KFP's driver: ", one_line(error)), status)


def own_lines(log: str) -> list[str]:
    """The lines of a log but for what KFP's launcher says of its work; with its errors."""
    found, within = [], False  # the JSON of the step's inputs and outputs
    for line in log.splitlines():
        launcher = _LAUNCHER.match(line)
        if within:
            within = line != "}"
        elif launcher and launcher[1] == "I":
            within = line.endswith("{")
        else:
            found.append(line)
    return found
