"""race runs: what becomes of a run on a cluster after it was submitted."""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from components.common import storage, strict_json
from components.common.errors import ConfigError, one_line
from pipeline.artifacts import Stored, artifacts_of, read_log
from pipeline.client import ENDED, Api, Run
from pipeline.commands.fetch import add_fetch
from pipeline.commands.options import (
    add_output,
    add_poll,
    add_run,
    add_server,
    command,
    found,
    group,
    server,
)
from pipeline.curve import curves_of, drawn, figures
from pipeline.display import say
from pipeline.fetch import held_by, require_endpoint
from pipeline.follow import Follower, RunError
from pipeline.logs import read_logs
from pipeline.runs import accuracy_of, described, heading, ours, state_of, table


def add_runs(commands: Any) -> None:
    verbs = group(
        commands,
        "runs",
        "list, show, cancel, retry, fetch and delete runs on a cluster; their logs",
        "What becomes of a run on a cluster after `race submit`.",
        """
        examples:
          race runs list
          race runs show latest

        RUN is a run's id, the beginning of one, its name, or latest: the newest of this
        pipeline. Set KF_PIPELINES_ENDPOINT to type --host no more.
        """,
    )
    adders = (_add_list, _add_show, _add_logs, _add_cancel, _add_retry, add_fetch, _add_delete)
    for add in adders:
        add(verbs)


def add_verb(
    verbs: Any, name: str, function: Callable[[argparse.Namespace], None], help: str, text: str
) -> argparse.ArgumentParser:
    """A command about one run, which it is given as RUN."""
    made = command(verbs, name, function, help, text)
    add_run(made)
    add_output(made)
    return made


def _add_wait(made: argparse.ArgumentParser, help: str) -> None:
    made.add_argument("--wait", "--follow", action="store_true", help=help)
    add_poll(made)


def _print(arguments: argparse.Namespace, answer: Any, *lines: str) -> None:
    print(strict_json.dumps(answer, indent=2) if arguments.output == "json" else "\n".join(lines))


# -- list


def _add_list(verbs: Any) -> None:
    made = command(
        verbs,
        "list",
        _list,
        "list the runs, the newest first",
        """
        examples:
          race runs list
          race runs list --state failed --limit 50 --output json

        Accuracy is that on the test sets, where the log that tells it is kept.
        """,
    )
    add_server(made)
    made.add_argument(
        "--limit", type=int, default=10, metavar="N", help="at most so many (default: 10)"
    )
    made.add_argument(
        "--state",
        choices=("pending", "running", "cancelling", "succeeded", "failed", "cancelled"),
        help="only those in this state",
    )
    made.add_argument(
        "--all", action="store_true", help="those of other pipelines too, and archived ones"
    )
    add_output(made)


def _list(arguments: argparse.Namespace) -> None:
    if arguments.limit < 1:
        raise ConfigError(f"--limit {arguments.limit}: give at least 1")
    api = Api(server(arguments))
    belongs = (lambda run: True) if arguments.all else ours(api)

    def wanted(run: Run) -> bool:
        return belongs(run) and arguments.state in (None, state_of(run))

    rows: list[Mapping[str, Any]] = [
        {**described(api, run), "accuracy": accuracy_of(api, run)}
        for run in api.runs(limit=arguments.limit, wanted=wanted)
    ]
    _print(arguments, rows, *table(rows))


# -- show


def _add_show(verbs: Any) -> None:
    made = add_verb(
        verbs,
        "show",
        _show,
        "show a run's steps: states, attempts, what they wait for, why they failed",
        """
        examples:
          race runs show latest
          race runs show 5a788e68 --wait

        With --wait the exit status is as that of `race submit --wait`.
        """,
    )
    _add_wait(made, "go on until the run ends")


def _show(arguments: argparse.Namespace) -> None:
    api, run = found(arguments)
    follower = Follower(api, run.run_id, arguments.poll)
    failed = None
    if arguments.wait:
        try:
            watch(follower)
        except RunError as error:
            failed = error
    if not arguments.wait or arguments.output == "json":
        run, steps = follower.look()
        ending = failed or follower.error(run, steps)
        rows = [
            {
                "step": follower.label(status),
                "state": status.state,
                "attempts": len(status.pods),
                "seconds": status.seconds or None,
                "said": follower.why(status) or None,
            }
            for status in steps
        ]
        answer = described(api, run)
        curves = curves_of(run, steps)
        lines = [*heading(answer), *map(follower.line, steps), *([str(ending)] if ending else [])]
        lines += drawn(curves, plot=sys.stdout.isatty())
        answer |= {"steps": rows, "error": ending and ending.what, "training": figures(curves)}
        _print(arguments, answer, *lines)
    if failed:
        raise failed


# -- logs


def _add_logs(verbs: Any) -> None:
    made = add_verb(
        verbs,
        "logs",
        _logs,
        "print what a run's steps have said",
        """
        examples:
          race runs logs latest train --follow
          race runs logs 5a788e68 "train (seed 2)"

        They come from the server while it has them, and then from the run's artifacts, for which
        the AWS variables say where the store is and who asks. With --output json each line is an
        object.
        """,
    )
    made.add_argument(
        "step",
        nargs="?",
        default="",
        metavar="STEP",
        help="a step, or one of a trial (default: all)",
    )
    made.add_argument(
        "--raw", action="store_true", help="with what KFP's launcher says of its work"
    )
    _add_wait(made, "go on until the run ends")


def _logs(arguments: argparse.Namespace) -> None:
    api, run = found(arguments)

    @functools.cache
    def stored() -> list[Stored]:
        artifacts = artifacts_of(api, run.run_id)
        require_endpoint(artifacts)
        return artifacts

    lines = read_logs(
        Follower(api, run.run_id, arguments.poll),
        arguments.step,
        lambda step, trial: read_log(stored(), step, trial),
        follow=arguments.wait,
        raw=arguments.raw,
    )
    before = None
    for source, text in lines:
        if arguments.output == "json":
            print(strict_json.dumps({"source": source, "line": text}), flush=True)
            continue
        if source != before and (before or not arguments.step or source != arguments.step):
            print(f"==> {source} <==")
        print(text, flush=True)
        before = source


def watch(follower: Follower, retries: int = 0) -> None:
    """Follow a run to its end.

    Raises:
        RunError, AnswerError: see `Follower.follow`.
    """
    try:
        follower.follow_on(retries)
    except KeyboardInterrupt:
        say(f"the run goes on; `race runs cancel {follower.run_id}` ends it")
        raise
    say("the run succeeded")


# -- cancel, retry, delete


def _add_cancel(verbs: Any) -> None:
    made = add_verb(
        verbs,
        "cancel",
        _cancel,
        "end a run that goes on",
        """
        example:
          race runs cancel latest --wait

        Of a run that has ended already it says so. What it has trained stays where checkpoint_uri
        says: `race runs retry` goes on from there.
        """,
    )
    _add_wait(made, "wait until it has ended")


def _cancel(arguments: argparse.Namespace) -> None:
    api, run = found(arguments)
    if run.state in ENDED:
        say(one_line(f"{run.name} had ended already"))
    elif run.state != "CANCELING":
        api.terminate(run.run_id)
        run = api.run(run.run_id)
    while arguments.wait and run.state not in ENDED:
        time.sleep(arguments.poll)
        run = api.run(run.run_id)
    state = state_of(run) if run.state in ENDED else "cancelling"
    _print(arguments, {**described(api, run), "state": state}, one_line(f"{run.name}: {state}"))


def _add_retry(verbs: Any) -> None:
    made = add_verb(
        verbs,
        "retry",
        _retry,
        "run again what failed in a run, which keeps its id",
        """
        examples:
          race runs retry latest --wait
          race runs retry 5a788e68

        What has succeeded is not run again, and with checkpoint_uri training goes on from its
        newest checkpoint: the model is the one that an uninterrupted run makes.
        """,
    )
    _add_wait(made, "follow the run until it ends")


def _retry(arguments: argparse.Namespace) -> None:
    api, run = found(arguments)
    if run.state not in ENDED or run.state == "SUCCEEDED":
        goes = "succeeded" if run.state in ENDED else f"is {state_of(run)}"
        raise ConfigError(
            f"{run.name} {goes}: only what has failed can be retried",
            hint=f"`race runs show {run.run_id}` tells how it stands",
        )
    api.retry(run.run_id)
    if not arguments.wait:
        answer = {**described(api, run), "state": "running", "finished": None}
        watch_it = f"{run.name} goes on; watch it: race runs show {run.run_id} --wait"
        _print(arguments, answer, one_line(watch_it))
        return
    time.sleep(arguments.poll)  # until then it may still be told of as failed
    try:
        watch(Follower(api, run.run_id, arguments.poll))
    finally:
        if arguments.output == "json":
            _print(arguments, described(api, api.run(run.run_id)))


def _add_delete(verbs: Any) -> None:
    made = add_verb(
        verbs,
        "delete",
        _delete,
        "remove the server's record of a run that has ended",
        """
        example:
          race runs delete 5a788e68 --yes

        Its artifacts and checkpoints stay in the store, unless --artifacts removes them. A later
        run that takes a data step of this one from the cache fails then.
        """,
    )
    made.add_argument(
        "--artifacts",
        action="store_true",
        help="remove what it has stored too; it is listed first",
    )
    made.add_argument("--yes", action="store_true", help="do not ask")


def _delete(arguments: argparse.Namespace) -> None:
    api, run = found(arguments)
    if run.state not in ENDED:
        raise ConfigError(
            f"{run.name} is {state_of(run)}",
            hint=f"End it first: `race runs cancel {run.run_id} --wait`",
        )
    held = held_by(api, api.run(run.run_id)) if arguments.artifacts else {}
    for address, sizes in held.items():
        say(f"{address}: {len(sizes):,} objects, {sum(sizes.values()) / (1 << 20):,.1f} MiB")
    what = "record and these artifacts" if held else "record"
    require_consent(arguments, f"delete the {what} of {run.name} ({run.run_id})?")
    answer = {**described(api, run), "removed": [*held]}
    for address in held:  # before the record, which alone tells where they are
        storage.remove_objects(address)
    api.delete(run.run_id)
    _print(arguments, answer, one_line(f"deleted {run.name}"))


def require_consent(arguments: argparse.Namespace, question: str) -> None:
    """Go on where the user says so, on the terminal or by --yes.

    Raises:
        ConfigError: otherwise.
    """
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{question[:-1]}: nobody can be asked here", hint="Give --yes")
    print(f"{one_line(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was deleted")
