"""race doctor: what would stop a first run on a cluster."""

import argparse
import dataclasses
from typing import Any

from components.common import strict_json
from components.common.errors import ConfigError
from pipeline.commands.options import (
    add_assignments,
    add_config,
    add_images,
    add_output,
    add_server,
    chosen_images,
    command,
)
from pipeline.parameters import folded, load_config, resolve


def add_doctor(commands: Any) -> None:
    made = command(
        commands,
        "doctor",
        _doctor,
        "look for what would stop a run on a cluster, before the first one",
        """
        example:
          race doctor --host https://kubeflow.example.org/pipeline --images images.env \\
              --store s3://bucket/race

        A line for each check: ok, unknown, or problem and what to do. The status is 2 if there is
        a problem. Nothing is left behind, on the server and in the store.
        """,
    )
    add_server(made)
    add_config(made)
    add_assignments(made)
    add_images(made)
    made.add_argument(
        "--local-images", action="store_true", help="ask no registry, as `race submit` has it"
    )
    made.add_argument(
        "--store",
        action="append",
        default=[],
        metavar="URI",
        help="write below this address; may be repeated (default: the config's addresses)",
    )
    add_output(made)


def _doctor(arguments: argparse.Namespace) -> None:
    from pipeline.doctor import Examination
    from pipeline.server import own_authorities, own_token

    values = resolve(load_config(arguments.config), folded(arguments.assignments))
    uris = [values[name] for name in ("mirror_uri", "checkpoint_uri", "publish_uri")]
    stores = arguments.store or [uri for uri in uris if uri.startswith("s3://")]
    images = chosen_images(arguments)
    examination = Examination(
        arguments.host,
        arguments.namespace,
        arguments.token_file or own_token(),
        arguments.ca_file or own_authorities(),
        list(dict.fromkeys(stores)),
        [] if arguments.local_images else list(dict.fromkeys((images.data, images.train))),
    )
    found = []
    for finding in examination.findings():
        found.append(finding)
        if arguments.output == "table":
            print(finding.line, flush=True)
    if arguments.output == "json":
        print(strict_json.dumps([dataclasses.asdict(finding) for finding in found], indent=2))
    if problems := sum(finding.state == "problem" for finding in found):
        raise ConfigError(f"{problems} of {len(found)} checks found a problem")
