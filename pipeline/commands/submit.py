"""race submit: a run on a cluster."""

import argparse
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from components.common.errors import ConfigError
from pipeline.client import Api
from pipeline.commands.options import (
    add_assignments,
    add_config,
    add_images,
    add_parallelism,
    add_poll,
    add_server,
    chosen_images,
    command,
    defaults,
    server,
)
from pipeline.commands.runs import watch
from pipeline.display import say
from pipeline.follow import Follower
from pipeline.parameters import (
    Config,
    folded,
    inputs_of,
    is_sweep,
    load_config,
    parameters,
    require_store,
    resolve,
    run_inputs,
    trials,
)
from pipeline.steps import NAME


def add_submit(commands: Any) -> None:
    made = command(
        commands,
        "submit",
        _submit,
        "run all steps on a Kubeflow Pipelines cluster",
        """
        examples:
          race submit --host https://kubeflow.example.org/pipeline --token-file token --wait
          race submit --host http://localhost:8080 --config roberta-base -p epochs=3
          race submit --host http://localhost:8080 --cron "0 0 3 * * 1"
          race submit --host http://localhost:8080 -p seeds=[1,2,3,4,5] --parallelism 5

        The pipeline is compiled with the config and uploaded as a version of race-roberta, with
        seeds or learning_rates one whose name begins with sweep-, unless the server has it. A data
        step is taken from the cache where all that it comes from has a sha256. With --wait the exit
        status is that of the step that failed (2 to 8), 130 when the run was cancelled, and else 1.
        """,
    )
    add_config(made)
    add_assignments(made)
    add_server(made)
    made.add_argument(
        "--experiment", default="race", metavar="NAME", help="experiment of the run (default: race)"
    )
    made.add_argument("--name", help="what the run is called (default: config, time, a number)")
    made.add_argument(
        "--pipeline-root",
        default="",
        metavar="URI",
        help="where artifacts go, such as s3://bucket/path (default: the server's)",
    )
    made.add_argument(
        "--no-cache", action="store_true", help="run every step (default: data steps may be cached)"
    )
    made.add_argument("--wait", action="store_true", help="follow the run until it ends")
    add_poll(made)
    made.add_argument(
        "--retries",
        type=int,
        default=0,
        metavar="N",
        help="with --wait: run what failed again up to N times, where that may help (default: 0)",
    )
    made.add_argument(
        "--pending-timeout",
        type=float,
        metavar="MINUTES",
        help="with --wait: end when a pod has waited this long (default: as long as it can start)",
    )
    made.add_argument(
        "--terminate-stuck",
        action="store_true",
        help="with --wait: terminate a run whose pod cannot start, or has waited too long",
    )
    made.add_argument(
        "--cron",
        default="",
        metavar="TIMES",
        help="start a run again and again: second minute hour day month weekday",
    )
    add_parallelism(made)
    add_images(made)
    made.add_argument(
        "--local-images",
        action="store_true",
        help="the cluster's nodes have the images already (kind, minikube): ask no registry",
    )


def _submit(arguments: argparse.Namespace) -> None:
    from pipeline.caching import cached_on_cluster, uncached_note
    from pipeline.pipeline import compiled
    from pipeline.registry import require_pullable
    from pipeline.workflow_size import require_storable

    if arguments.wait and arguments.cron:
        raise ConfigError("--wait and --cron exclude each other", hint="A schedule has no end")
    _require_cron(arguments.cron)
    if arguments.retries and not arguments.wait:
        raise ConfigError("--retries wants --wait", hint="Only who follows a run sees it fail")
    config = load_config(arguments.config)
    given = folded(arguments.assignments)
    values = resolve(config, given)
    require_store(values)
    sweep = is_sweep(values)
    # What concerns the platform makes another pipeline; everything else is a run's input.
    platform = {n: v for n, v in given.items() if parameters()[n].kind == "platform"}
    compiled_in = defaults(config, platform)
    _require_reachable(config, values, {**compiled_in, **given}, inputs_of(sweep))
    references = chosen_images(arguments)
    if not arguments.local_images:
        require_pullable(references)
    api = Api(server(arguments))
    cached = frozenset() if arguments.no_cache else cached_on_cluster(values)
    package = compiled(
        compiled_in,
        references,
        cached=cached,
        sweep=sweep,
        parallelism=arguments.parallelism,
    )
    inputs = run_inputs(values, compiled_in, sweep)
    if sweep:
        require_storable(package, inputs, len(trials(values)))
    if not arguments.no_cache and (note := uncached_note(values)):
        say(note)
    # The same submission twice makes two runs of one version.
    version = api.pipeline_version(package, NAME, "sweep-" if sweep else "")
    runtime: dict[str, Any] = {"parameters": dict(inputs)}
    if arguments.pipeline_root:
        runtime["pipeline_root"] = arguments.pipeline_root
    what = {"pipeline_version_reference": version, "runtime_config": runtime}
    experiment = api.experiment(arguments.experiment)
    name = arguments.name or _unique(config.name)
    if arguments.cron:
        identity = api.schedule(experiment, name, what, arguments.cron)
    else:
        identity = api.start(experiment, name, what)
    print(api.server.address("recurringrun" if arguments.cron else "runs", identity), flush=True)
    if arguments.wait:
        _follow(api, identity, arguments)


def _unique(profile: str) -> str:
    return f"{profile} {time.strftime('%Y-%m-%d %H:%M:%S')} {uuid.uuid4().hex[:6]}"


def _follow(api: Api, run_id: str, arguments: argparse.Namespace) -> None:
    minutes = arguments.pending_timeout
    follower = Follower(
        api,
        run_id,
        arguments.poll,
        pending_timeout=None if minutes is None else minutes * 60,
        terminate=arguments.terminate_stuck,
    )
    watch(follower, arguments.retries)


def _require_reachable(
    config: Config, values: Mapping[str, Any], known: Mapping[str, Any], inputs: Iterable[str]
) -> None:
    """Refuse inputs that a cluster cannot read."""
    from pipeline.local import local_path

    for name in inputs:
        if name.endswith("_url") and name not in known:
            raise ConfigError(
                f"config {config.name} has no {name}: its sample is made on this machine",
                hint=f"Make it with `race sample`, upload it, and give -p {name}=s3://...",
            )
        if name.endswith("_url") and local_path(values[name]) is not None:
            raise ConfigError(
                f"{name}={values[name]}: a cluster cannot read this machine's files",
                hint="Upload it and give its http or s3 address",
            )
        if name.endswith(("_uri", "resume_from")) and local_path(values[name]) is not None:
            raise ConfigError(
                f"{name}={values[name]}: in a cluster a folder goes with its pod",
                hint="Give an s3:// address",
            )


def _require_cron(times: str) -> None:
    """Refuse what would start runs at other times than meant, or never.

    KFP takes five fields too, and the first of them for seconds (robfig/cron's Parse).
    """
    fields = times.split()
    if not fields or times.startswith("@"):
        return
    if len(fields) == 5:
        raise ConfigError(
            f"--cron {times!r} has five fields, of which Kubeflow Pipelines takes the first for"
            " seconds",
            hint=f"Write '0 {times}'",
        )
    if len(fields) != 6 or not all(re.fullmatch(r"[\w*/,?-]+", field) for field in fields):
        raise ConfigError(
            f"--cron {times!r} is not second minute hour day month weekday",
            hint="Write '0 0 3 * * 1' for each Monday at three",
        )
