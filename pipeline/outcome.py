"""What a step's log says of how far it has come, and of what came of it."""

import re
from collections.abc import Callable, Mapping

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
        if found := pattern.fullmatch(_message(line).strip()):
            return found
    return None


def _message(line: str) -> str:
    """What a line says, in either format of `--log-format`."""
    if not line.startswith("{"):
        return line
    try:
        return str(strict_json.loads(line)["message"])
    except (LookupError, TypeError, ValueError):
        return line
