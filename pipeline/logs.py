"""The logs of a run's steps: from the server while it has them, then from the run's artifacts."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from components.common.errors import ConfigError, DataError, RaceError
from pipeline.client import ENDED
from pipeline.follow import Follower
from pipeline.outcome import own_lines
from pipeline.steps import STEPS
from pipeline.workflow import StepStatus

WHOLE = 1 << 26  # bytes of a log that are shown, at its end
_FINAL = ("Succeeded", "Failed", "Error")

# What all attempts at a step have said by the run's artifacts, by its name and the trial's index.
Archive = Callable[[str, int | None], str]


class Line(NamedTuple):
    """A line; `source` is a step's name, with its trial, and its attempt from the second on."""

    source: str
    text: str


def read_logs(
    follower: Follower, step: str, archive: Archive, *, follow: bool = False, raw: bool = False
) -> Iterator[Line]:
    """The lines of one step, of one trial's ("train (seed 2)"), or with "" of all that have run.

    Args:
        follow: wait for new lines until the run ends.
        raw: with what KFP's launcher says.

    Raises:
        ConfigError: the run has no such step.
        DataError: no log is kept.
        TransferError: what is kept cannot be fetched.
    """
    seen: dict[str, int] = {}
    done: set[str] = set()
    while True:
        run, steps = follower.look()
        ended = run.state in ENDED
        chosen = [s for s in steps if step in ("", s.name, follower.label(s))]
        if not chosen and (ended or not follow or step.partition(" ")[0] not in STEPS):
            known = ", ".join(dict.fromkeys(map(follower.label, steps)))
            what = f"the run has no step {step!r:.80}" if step else "no step has run"
            raise ConfigError(what, hint=f"It has {known}" if known else "")
        for status, attempt, source in _attempts(follower, chosen):
            if source not in done:
                final = ended or status.pods[attempt].phase in _FINAL
                lines = _lines(follower.log(status, attempt, WHOLE), final, raw)
                yield from (Line(source, line) for line in lines[seen.get(source, 0) :])
                seen[source] = max(len(lines), seen.get(source, 0))
                done |= {source} if final else set()
        if ended or not follow:
            break
        time.sleep(follower.every)
    told = {follower.label(s) for s, _, source in _attempts(follower, chosen) if seen[source]}
    # Of a step that was cached another run has the log: it is fetched for who asks for that step.
    left = [s for s in chosen if follower.label(s) not in told and (s.pods or step)]
    alone = not told
    for line in _archived(follower, left, archive, raw, alone=alone and ended):
        alone = False
        yield line
    if alone and not ended:
        raise DataError("nothing has been said yet", hint="--follow waits for it")


def _attempts(
    follower: Follower, steps: Sequence[StepStatus]
) -> Iterator[tuple[StepStatus, int, str]]:
    for status in steps:
        for attempt in range(len(status.pods)):
            label = follower.label(status)
            yield status, attempt, f"{label}, attempt {attempt + 1}" if attempt else label


def _lines(log: str, final: bool, raw: bool) -> list[str]:
    """The whole lines of a log."""
    if not final:
        log = log[: log.rfind("\n") + 1]
    lines = log.splitlines() if raw else own_lines(log)
    return [
        "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in x) for x in lines
    ]


def _archived(
    follower: Follower, steps: Sequence[StepStatus], archive: Archive, raw: bool, *, alone: bool
) -> Iterator[Line]:
    """The lines of steps whose pods are gone; an error only where there is nothing else to show."""
    failure: RaceError | None = None
    for status in steps:
        try:
            for line in _lines(archive(status.name, status.trial), True, raw):
                alone = False
                yield Line(follower.label(status), line)
        except RaceError as error:
            failure = error
    if alone and failure:
        raise failure
    if alone:
        which = f"of {follower.label(steps[0])} " if len(steps) == 1 else ""
        raise DataError(
            f"no log {which}is kept: the pods are gone, and the store has none",
            hint=f"Its page: {follower.api.server.address('runs', follower.run_id)}",
        )
