"""race runs fetch: a cluster's run in a folder of this machine."""

import argparse
from pathlib import Path
from typing import Any

from components.common import strict_json
from pipeline.commands.options import add_run, command, found
from pipeline.display import say
from pipeline.fetch import fetch
from pipeline.runs import described


def add_fetch(verbs: Any) -> None:
    made = command(
        verbs,
        "fetch",
        _fetch,
        "bring a run's model, BPE, reports, metrics and logs into a folder",
        """
        examples:
          race runs fetch latest --output runs/from-cluster
          race runs fetch 5a788e68 --output runs/from-cluster --only model,bpe,report

        The folder is as `race run` leaves it: report, compare, predict and export take it. Files
        come from the object store with your own AWS_* variables; minio://bucket/key is read as
        s3://bucket/key at AWS_ENDPOINT_URL. What was cut off goes on when it is asked for again,
        and so does a run that still goes on.
        """,
    )
    add_run(made)
    made.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to fill")
    made.add_argument(
        "--only",
        default="",
        metavar="NAMES",
        help="some artifacts alone: model,bpe,report,data,text,race,roberta,selection,logs",
    )
    made.add_argument("--json", action="store_true", help="print what was done for machines")


def _fetch(arguments: argparse.Namespace) -> None:
    api, run = found(arguments)
    only = [name.strip() for name in arguments.only.split(",") if name.strip()]
    run = api.run(run.run_id)
    missing = fetch(api, run, arguments.output, only=only)
    for line in missing:
        say(f"not fetched: {line}")
    if arguments.json:
        answer = {**described(api, run), "folder": str(arguments.output), "missing": missing}
        print(strict_json.dumps(answer, indent=2))
    else:
        print(arguments.output / "index.html")
