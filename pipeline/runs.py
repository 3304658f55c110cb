"""The runs on a server: which one a user means, and what is said of each."""

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.common.errors import ConfigError, one_line
from components.common.progress import duration
from components.common.text import columns
from pipeline.client import ENDED, Api, Run
from pipeline.outcome import SCORED, accuracy
from pipeline.steps import NAME
from pipeline.workflow import read_workflow

LATEST = "latest"
CANDIDATES = 5  # shown of the runs that a name may mean
SHORT = 8  # characters of an id
_ID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")


def state_of(run: Run) -> str:
    """In a word. A run that its user has ended is FAILED to the server."""
    if run.state in ENDED and run.canceled:
        return "cancelled"
    return "cancelling" if run.state == "CANCELING" else run.state.lower() or "pending"


def ours(api: Api) -> Callable[[Run], bool]:
    """Tells runs of this pipeline that are not archived from others."""
    pipeline = api.pipeline(NAME)
    return lambda run: bool(pipeline) and run.pipeline == pipeline and not run.archived


def find(api: Api, which: str) -> Run:
    """The run with this id, beginning of an id, or name; or the `latest` of this pipeline.

    Raises:
        ConfigError: there is none, or more than one.
    """
    if _ID.fullmatch(which):
        return api.run(which)
    host = api.server.host
    if which == LATEST:
        if newest := api.runs(limit=1, wanted=ours(api)):
            return newest[0]
        raise ConfigError(f"{host} has no run of {NAME}", hint="Start one with `race submit`")

    def meant(run: Run) -> bool:
        return run.name == which or (which != "" and run.run_id.startswith(which))

    found = api.runs(limit=CANDIDATES + 1, wanted=meant)
    if not found:
        raise ConfigError(
            f"{host} has no run with the id or name {which!r:.80}",
            hint="`race runs list --all` shows them",
        )
    if len(found) > 1:
        shown = [f"{run.run_id} ({run.name}, {state_of(run)})" for run in found[:CANDIDATES]]
        more = " and more" if len(found) > CANDIDATES else ""
        raise ConfigError(
            f"{which!r:.80} may be {', '.join(shown)}{more}", hint="Give more of the id"
        )
    return found[0]


def described(api: Api, run: Run) -> dict[str, Any]:
    """A run for machines; `seconds` from when it was made to its end, or until now."""
    return {
        "id": run.run_id,
        "name": run.name,
        "state": state_of(run),
        "created": run.created,
        "finished": run.finished or None,
        "seconds": _seconds(run),
        "url": api.server.address("runs", run.run_id),
    }


def _seconds(run: Run) -> float | None:
    try:
        start = datetime.datetime.fromisoformat(run.created)
        end = datetime.datetime.now(datetime.UTC)
        if run.finished:
            end = datetime.datetime.fromisoformat(run.finished)
        return max((end - start).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


def accuracy_of(api: Api, run: Run) -> float | None:
    """The accuracy on the test sets (percent) of a run that has ended, as far as its log is kept.

    That of a sweep is the selected model's, and no trial's.
    """
    if run.state not in ENDED:
        return None
    workflow = read_workflow(api.manifest(run.run_id))
    whole = [s for s in workflow.steps if s.pods and s.trial is None] if workflow else []
    steps = {status.name: status for status in whole}
    for name in SCORED:
        if name in steps:
            return accuracy(name, api.log(run.run_id, steps[name].pods[-1].node))
    return None


def heading(run: Mapping[str, Any]) -> list[str]:
    """A described run, above its steps."""
    spent = "" if run["seconds"] is None else f", {duration(run['seconds'])}"
    return [one_line(f"{run['name']} ({run['id']}): {run['state']}{spent}"), run["url"], ""]


def table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Described runs, with their `accuracy`, as lines."""
    if not runs:
        return ["no runs"]
    rows = [["name", "id", "state", "started (UTC)", "took", "accuracy"]]
    for run in runs:
        score = "" if run["accuracy"] is None else f"{run['accuracy']:.2f} %"
        spent = "" if run["seconds"] is None else duration(run["seconds"])
        started = run["created"][:16].replace("T", " ")
        rows.append([one_line(run["name"]), run["id"][:SHORT], run["state"], started, spent, score])
    return columns(rows, left=4)
