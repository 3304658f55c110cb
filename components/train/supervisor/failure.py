"""Why a training ended before its time, and whether a second try may end better.

What decides is typed: exit statuses and signals, what a rank raised, the kernel's count of killed
processes. The text of messages only explains.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.common import errors
from components.common.disk import no_space
from components.common.errors import CollapseError, TrainingError
from components.train.node import ALONE, Node
from components.train.supervisor.log import TrainLog

# Where the kernel counts for the container (cgroup v2, v1) whose processes it killed.
_KILLED = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")


def out_of_memory_kills(paths: Iterable[str] = _KILLED) -> int:
    """How many processes of this container were killed for its memory; 0 where none tells."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in Path(path).read_text().splitlines())
            return int(counts.get("oom_kill", 0))
    return 0


def is_transient(failures: Sequence[Mapping[str, Any]], statuses: Sequence[int]) -> bool:
    """Whether a training that failed so may end well when it goes on from its newest checkpoint.

    A rank that lost another one raises a RuntimeError; of any other error, the rank says.

    Args:
        failures: what ranks raised, as components.train.rank.worker tells it.
        statuses: exit statuses of ranks that failed, negative for signals.
    """
    passing = [failure["transient"] for failure in failures]
    lasting = [f for f in failures if not f["transient"] and f["type"] != "RuntimeError"]
    return not lasting and (any(passing) or any(status < 0 for status in statuses))


_MEMORY_HINT = "Lower batch_size or max_positions, or use a GPU with more memory"

# (pattern in what failed, what to do about it), the first that matches.
_HINTS = (
    (r"out of memory", _MEMORY_HINT),
    (
        r"[Mm]inimum loss scale|gradients are Nan/Inf",
        "Lower learning_rate, set warmup_updates, or use precision bf16 or fp32",
    ),
    (
        r"NCCL|ncclUnhandled|ProcessGroupNCCL",
        "Set NCCL_DEBUG=INFO to see why; a small /dev/shm is a common cause",
    ),
    (r"DataLoader worker .* is killed|bus error", "Give the step more memory and /dev/shm"),
    (r"No such file or directory", "Check the path"),
)

# What the other ranks see of a rank that failed; the cause is in the failure of that one.
_SECONDARY = re.compile(
    r"[Cc]onnection (closed|reset|refused)|Broken pipe|timed? ?out|gloo|recv, got 0 bytes"
    r"|ncclRemoteError|remote process"
)


class NodeLost(TrainingError):
    """The cause is on another machine."""


def explain(
    statuses: Sequence[int],
    failures: list[dict[str, Any]],
    tail: list[str],
    log: TrainLog,
    node: Node = ALONE,
    folder: Path = Path(),
    *,
    out_of_memory: bool = False,
) -> errors.RaceError:
    """The error for a training in `folder` whose ranks ended with such statuses.

    Args:
        tail: the last lines of its log.
        out_of_memory: a process was killed because the container's memory was not enough.
    """
    place = where(log, node)
    failure = next((f for f in failures if not _SECONDARY.search(f["message"])), None)
    signal_number = next((-status for status in statuses if status < 0), None)
    if failure is None and signal_number is None and failures:
        failure = failures[0]
        if not node.alone:
            said = _short(failure["message"].strip(), 140)
            return NodeLost(
                f"training stopped {place}: another node failed or was lost ({said})",
                hint="Its own log has the cause; started again together, the nodes go on from the"
                " newest checkpoint",
            )
    if failure is None:
        if full := no_space("\n".join(tail), folder):
            return full
        if out_of_memory:
            return TrainingError(
                f"training stopped {place}: the memory was not enough, and a process was killed",
                hint="Give the step more memory, or set num_workers to 0",
            )
        if signal_number == 9:
            return TrainingError(
                f"training stopped {place}: a process was killed (signal 9)",
                hint="If it happens again: often the memory is not enough; give the step more",
            )
        cause = f"signal {signal_number}" if signal_number else f"exit status {statuses[0]}"
        return TrainingError(
            f"training stopped {place}: a process ended with {cause}",
            hint="The last lines of its log are above",
        )
    ours = getattr(errors, failure["type"], None)
    if isinstance(ours, type) and issubclass(ours, errors.RaceError):
        return ours(failure["message"], hint=failure["hint"])
    message = failure["message"].strip() or "no message"
    if full := no_space(message, folder):
        return full
    message = _short(message, 300)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, message)), "")
    # What fairseq raises for too many overflows, and for gradients that are no numbers.
    kind = CollapseError if failure["type"] == "FloatingPointError" else TrainingError
    return kind(
        f"training stopped {place}, rank {failure['rank']}: {failure['type']}: {message}",
        hint=hint or "The last lines of its log are above",
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "..."


def where(log: TrainLog, node: Node) -> str:
    if not node.leads:  # which alone knows the updates
        return f"on {node}"
    if not log.records:
        return "before the first record"
    return f"after update {log.records[-1]['update']}"
