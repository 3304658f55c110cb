"""What several subcommands have in common."""

import argparse
import os
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common.errors import ConfigError
from pipeline.images import NAMES, Images, images, read_references, variable
from pipeline.parameters import DEFAULT_CONFIG, PARALLELISM, Config, config_names, resolve

if TYPE_CHECKING:
    from pipeline.client import Api, Run
    from pipeline.server import Server


def command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], None] | None,
    help: str,
    text: str,
) -> argparse.ArgumentParser:
    """A parser for a command, which `function` runs; `text` stands below its options."""
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog=textwrap.dedent(text).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.set_defaults(command=function)
    return made


def group(commands: Any, name: str, help: str, description: str, text: str) -> Any:
    """A command that has commands of its own, which are to be added to what this gives."""
    made = command(commands, name, None, help, text)
    made.description = description
    return made.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_config(made: argparse.ArgumentParser, default: str | None = DEFAULT_CONFIG) -> None:
    made.add_argument(
        "--config",
        default=default,
        metavar="NAME",
        help=f"values to start from: {', '.join(config_names())}, or the path of a YAML file"
        + (f" (default: {default})" if default else ""),
    )
    # What it was called in version 0.1.
    made.add_argument("--profile", dest="config", default=default, help=argparse.SUPPRESS)


class _Assign(argparse.Action):
    """Collects NAME=VALUE in a dictionary of texts."""

    def __call__(self, _: Any, namespace: argparse.Namespace, text: Any, *__: Any) -> None:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"-p {text}: a value is missing", hint="Write it as -p name=value")
        known = getattr(namespace, self.dest)
        setattr(namespace, self.dest, {**known, name.strip(): value.strip()})


def add_assignments(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "-p",
        dest="assignments",
        action=_Assign,
        default={},
        metavar="NAME=VALUE",
        help="set a parameter; may be repeated (`race parameters` lists them)",
    )


def add_images(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--images",
        type=Path,
        metavar="FILE",
        help="file with the images, which `race images push --write` has written",
    )
    for name, steps in (("data", "the data steps"), ("train", "train, evaluate and publish")):
        made.add_argument(
            f"--{name}-image",
            metavar="REFERENCE",
            help=f"image for {steps}, best as name@sha256:... (default: {getattr(images(), name)})",
        )


def add_server(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--host",
        default=os.environ.get("KF_PIPELINES_ENDPOINT", ""),
        metavar="URL",
        help="address of Kubeflow Pipelines (default: $KF_PIPELINES_ENDPOINT)",
    )
    made.add_argument(
        "--namespace",
        default="",
        help="your namespace, where the server has many users (default: that of this pod)",
    )
    made.add_argument(
        "--token-file",
        type=Path,
        metavar="PATH",
        help="file with the bearer token; read again when the server refuses it (default:"
        " $KF_PIPELINES_SA_TOKEN_PATH, or the one that Kubernetes gives a pod)",
    )
    made.add_argument(
        "--ca-file",
        type=Path,
        metavar="PATH",
        help="certificates of the authorities to trust, in PEM (default: $SSL_CERT_FILE, or"
        " $REQUESTS_CA_BUNDLE)",
    )


def add_poll(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--poll", type=seconds, default=10.0, metavar="SECONDS", help="how often (default: 10)"
    )


def seconds(text: str) -> float:
    found = float(text)
    if not 0 <= found <= 86400:  # NaN is neither
        raise ValueError
    return found


def add_output(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--output",
        choices=("table", "json"),
        default="table",
        help="what is printed: for people, or for machines (default: table)",
    )


def server(arguments: argparse.Namespace) -> "Server":
    """The server that the options of `add_server` name."""
    from pipeline.server import Server, own_authorities, own_token

    return Server(
        arguments.host,
        arguments.namespace,
        arguments.token_file or own_token(),
        arguments.ca_file or own_authorities(),
    )


def add_run(made: argparse.ArgumentParser) -> None:
    """RUN, one on a server."""
    made.add_argument("run", metavar="RUN", help="id, beginning of an id, name, or latest")
    add_server(made)


def found(arguments: argparse.Namespace) -> "tuple[Api, Run]":
    """The server, and the run that RUN names."""
    from pipeline.client import Api
    from pipeline.runs import find

    api = Api(server(arguments))
    return api, find(api, arguments.run)


def positive(text: str) -> int:
    found = int(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"{found}: give at least 1")
    return found


def add_parallelism(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--parallelism",
        type=positive,
        default=PARALLELISM,
        metavar="N",
        help=f"trials of a sweep at the same time (default: {PARALLELISM})",
    )


def chosen_images(
    arguments: argparse.Namespace, read: Callable[[Mapping[str, str]], Images] = images
) -> Images:
    given = read_references(arguments.images) if arguments.images else {}
    for name in NAMES:
        if reference := getattr(arguments, f"{name}_image"):
            given[variable(name)] = reference
    return read({**os.environ, **given})


def defaults(config: Config, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values for all parameters but those that the sample stands for."""
    values = resolve(config, given)
    if config.sample:
        return {n: v for n, v in values.items() if n in given or not n.endswith("_url")}
    return values


def missing_package(package: str) -> ConfigError:
    """The error of an installation that only submits and compiles, as pipx makes of the wheel."""
    return ConfigError(
        f"this Python has no {package}, which what trains and uses models needs",
        hint="Run it from a checkout of the code, after `make setup`, or in the containers",
    )
