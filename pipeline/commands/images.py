"""race images: build, push and list the container images."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.common.errors import ConfigError
from components.common.text import columns
from pipeline.commands.options import command, group
from pipeline.display import say
from pipeline.images import NAMES, variable, write_references


def add_images(commands: Any) -> None:
    verbs = group(
        commands,
        "images",
        "build, push and list the two container images",
        "Build, push and list the container images of the data and training steps.",
        """
        RACE_IMAGE_PREFIX is where they are kept, such as registry.example.org/team. The tag is
        the commit that last changed them; uncommitted changes add a digest to it.
        """,
    )
    build = command(
        verbs,
        "build",
        _build_images,
        "build the images in the Docker engine and print their references",
        """
        examples:
          race images build
          race images build train --torch cpu
          race images build --base-image registry.example.org/python:3.11-slim-bookworm

        pip's settings PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and PIP_TRUSTED_HOST hold
        in the builds too, where they are http addresses.
        """,
    )
    build.add_argument(
        "--base-image", default="", metavar="REFERENCE", help="image to build upon, see docker/"
    )
    build.add_argument(
        "--torch",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: the build of torch without CUDA, where pip finds one (default: cuda)",
    )
    build.add_argument(
        "--parquet",
        action="store_true",
        help="the data image also reads Parquet, and has more than twice the size",
    )
    build.add_argument(
        "--network", default="", metavar="NAME", help="network of the builds, such as host"
    )
    build.add_argument("--no-cache", action="store_true", help="build every layer again")
    push = command(
        verbs,
        "push",
        _push_images,
        "push the images and print their references by digest",
        """
        example:
          export RACE_IMAGE_PREFIX=registry.example.org/team
          race images build
          race images push --write images.env
          race submit --images images.env --host https://kubeflow.example.org/pipeline

        The file has RACE_DATA_IMAGE=... and RACE_TRAIN_IMAGE=... and is there only when all is
        pushed; without --write they are printed. A tag may come to mean something else, a digest
        never does.
        """,
    )
    push.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="file for the references, for --images of `race submit` and `race compile`",
    )
    for verb in (build, push):
        verb.add_argument("names", nargs="*", metavar="NAME", help="data or train (default: both)")
        verb.add_argument("--tag", default="", help="a tag of your own")
    command(
        verbs,
        "list",
        _list_images,
        "list the images that were built here",
        """
        example:
          race images list

        An asterisk marks those that hold the code as it is now, which `race run --runner docker`
        uses.
        """,
    )


def _chosen(arguments: argparse.Namespace) -> Sequence[str]:
    if unknown := sorted(set(arguments.names) - set(NAMES)):
        raise ConfigError(f"no image is called {unknown[0]}", hint=f"Names: {', '.join(NAMES)}")
    return tuple(dict.fromkeys(arguments.names)) or NAMES


def _build_images(arguments: argparse.Namespace) -> None:
    from pipeline.image_build import build

    for image in build(
        _chosen(arguments),
        tag=arguments.tag,
        base_image=arguments.base_image,
        torch=arguments.torch,
        parquet=arguments.parquet,
        network=arguments.network,
        cache=not arguments.no_cache,
    ):
        print(image.reference)


def _push_images(arguments: argparse.Namespace) -> None:
    from pipeline.image_build import push

    if arguments.write:
        # A push that fails is not to leave the images of an earlier one.
        arguments.write.unlink(missing_ok=True)
    pushed = push(_chosen(arguments), tag=arguments.tag)
    if arguments.write:
        write_references(arguments.write, pushed)
        say(f"wrote {arguments.write}")
        return
    for name, reference in pushed.items():
        print(f"{variable(name)}={reference}")


def _list_images(arguments: argparse.Namespace) -> None:
    from pipeline.image_build import checkout_images, local_images

    current = checkout_images()
    rows = [("", "image", "size", "without its base", "dated")]
    for image in local_images():
        mark = "*" if image.reference in (current.data, current.train) else ""
        own = "" if image.own_size is None else f"{image.own_size / 1e6:,.0f} MB"
        made = image.created[:16].replace("T", " ")
        rows.append((mark, image.reference, f"{image.size / 1e6:,.0f} MB", own, made))
    print(*columns(rows, left=2, gap=" "), sep="\n")
