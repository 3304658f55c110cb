"""Build, push and list the two container images, through the Docker engine's own API.

An image is tagged with the last commit that changed anything in it; with uncommitted changes a
digest of what would go into it is added, so that one tag never means two things.
"""

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components.common import strict_json
from components.common.errors import ConfigError, OutputError, TransferError
from pipeline.display import say
from pipeline.images import NAMES, Images, images

CHECKOUT = Path(__file__).parents[1]
# What the images are made of, see .dockerignore.
INGREDIENTS = ("components", "docker", "requirements", ".dockerignore")
FILES_DATE = 315532800  # 1980, which all files in the images have
# Settings of pip that a build shares with this machine where they are addresses; a path would mean
# another place inside the build.
PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST")

_LABEL = "org.opencontainers.image."


@dataclass(frozen=True)
class LocalImage:
    """An image in the engine; sizes in bytes, unpacked."""

    reference: str
    size: int
    own_size: int | None  # without the base image; None where the base is not in the engine
    revision: str
    created: str  # ISO 8601: the commit's date, see `checkout_date`


@contextlib.contextmanager
def engine() -> Iterator[Any]:
    """A client of the Docker engine that DOCKER_HOST or Docker's own default names.

    Raises:
        ConfigError: no engine answers.
    """
    import docker

    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        raise ConfigError(
            f"no Docker engine answers at {address}",
            hint="Start it, let this user reach it, or name another in DOCKER_HOST",
        ) from error
    with contextlib.closing(client):
        yield client


def checkout_tag(checkout: Path = CHECKOUT) -> str:
    """The tag for images of the code in `checkout`: `<commit>` or `<commit>-dirty-<digest>`.

    Outside of a git checkout it is this package's version.
    """

    git = partial(_git, checkout)
    try:
        commit = git("log", "-1", "--abbrev=12", "--format=%h", "--", *INGREDIENTS).strip()
        changes = git("status", "--porcelain", "--", *INGREDIENTS)
        # No commit knows this folder: it lies unpacked inside somebody else's checkout.
        if not commit:
            return version("race-pipeline")
        if not changes:
            return commit
        listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", *INGREDIENTS)
    except (OSError, subprocess.CalledProcessError):
        return version("race-pipeline")
    digest = hashlib.sha256()
    for name in sorted(set(listed.split("\0")) - {""}):
        path = checkout / name
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"{commit}-dirty-{digest.hexdigest()[:8]}"


def checkout_date(checkout: Path = CHECKOUT, environment: Mapping[str, str] = os.environ) -> int:
    """When the images' commit was made, or SOURCE_DATE_EPOCH, in seconds since 1970.

    Raises:
        ConfigError: SOURCE_DATE_EPOCH is no number.
    """
    given = environment.get("SOURCE_DATE_EPOCH", "")
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        given = given or _git(checkout, "log", "-1", "--format=%ct", "--", *INGREDIENTS)
    if given and not given.strip().isdecimal():
        raise ConfigError(
            f"SOURCE_DATE_EPOCH={given:.80}: not seconds since 1970", hint="Correct or unset it"
        )
    return int(given or FILES_DATE)


def _git(checkout: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(checkout), *arguments], check=True, capture_output=True, text=True
    ).stdout


def checkout_images(environment: Mapping[str, str] = os.environ) -> Images:
    """The references that images of this checkout have, unless `environment` asks for others."""
    tag = environment.get("RACE_IMAGE_TAG") or checkout_tag()
    return images({**environment, "RACE_IMAGE_TAG": tag})


def build_arguments(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The build arguments that tell pip where to look."""
    found = {}
    for name in PIP_SETTINGS:
        value = environment.get(name, "")
        if value and (name == "PIP_TRUSTED_HOST" or _is_remote(value)):
            found[name] = value
        elif value:
            say(f"{name}={value}: a build does not see this machine's files, and goes without it")
    return found


def _is_remote(value: str) -> bool:
    return all(word.startswith(("http://", "https://")) for word in value.split())


def build(
    names: Iterable[str] = NAMES,
    *,
    tag: str = "",
    base_image: str = "",
    torch: str = "cuda",
    parquet: bool = False,
    network: str = "",
    cache: bool = True,
    environment: Mapping[str, str] = os.environ,
) -> list[LocalImage]:
    """Build the images called `names` ("data", "train"), tagged for this checkout or with `tag`.

    Args:
        base_image: what to build upon; empty for the Dockerfile's own.
        torch: "cuda", which is torch's default build, or "cpu".
        parquet: the data image reads Parquet, and has more than twice the size.
        network: the network of the builds, such as "host"; empty for the engine's default.
        cache: reuse what an earlier build has made.

    Raises:
        ConfigError: no engine answers, or this is an installed package without its Dockerfiles.
        OutputError: a build failed; its last lines have been shown.
    """
    if not (CHECKOUT / "docker" / "data.Dockerfile").is_file():  # a package is called docker too
        raise ConfigError("there are no Dockerfiles here", hint="Build from a checkout of the code")
    revision = checkout_tag()
    references = _references(tag or revision, environment)
    date = checkout_date(environment=environment)
    arguments = {
        **build_arguments(environment),
        "VERSION": version("race-pipeline"),
        "REVISION": revision,
    }
    if base_image:
        arguments["BASE_IMAGE"] = base_image
    made = []
    with engine() as client:
        for name in names:
            print(f"building {references[name]}", file=sys.stderr)
            own = {"TORCH": "cpu"} if name == "train" and torch == "cpu" else {}
            own |= {"PARQUET": "1"} if name == "data" and parquet else {}
            log = client.api.build(
                path=str(CHECKOUT),
                dockerfile=f"docker/{name}.Dockerfile",
                tag=references[name],
                buildargs={**arguments, **own},
                network_mode=network or None,
                nocache=not cache,
                rm=True,
                forcerm=True,
                decode=True,
            )
            _follow(log, f"docker/{name}.Dockerfile")
            _date(client, references[name], date)
            made.append(_describe(client, client.images.get(references[name]), references[name]))
    return made


def _date(client: Any, reference: str, seconds: int) -> None:
    """Give an image this date, so that the same layers and settings always have the same id.

    The engine is handed a config that names layers it has, and nothing of them. One that cannot
    take that keeps the image with the date of its build.
    """
    import docker

    image = client.images.get(reference)
    config = strict_json.dumps(_config(client, image, seconds), sort_keys=True).encode()
    name = hashlib.sha256(config).hexdigest()
    if image.id == f"sha256:{name}":
        return
    layers = [f"{number}/layer.tar" for number in range(len(image.attrs["RootFS"]["Layers"]))]
    listed = [{"Config": f"{name}.json", "RepoTags": [reference], "Layers": layers}]
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path, data in (
            (f"{name}.json", config),
            ("manifest.json", strict_json.dumps(listed).encode()),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    try:
        client.images.load(content.getvalue())
        if client.images.get(reference).id == f"sha256:{name}":
            # Its parents stay: they are the cache of the next build.
            client.images.remove(image.id, noprune=True)
    except docker.errors.DockerException as error:
        say(f"{reference} keeps the date of its build: {error}")


def _config(client: Any, image: Any, seconds: int) -> dict[str, Any]:
    """An image's config (https://github.com/opencontainers/image-spec/blob/main/config.md).

    What differs between two builds is left out, or has the date.
    """
    attrs = image.attrs
    date = _instant(seconds)
    base = image.labels.get(_LABEL + "base.name", "")
    below = len(client.images.get(base).history()) if base and _exists(client, base) else 0
    entries = image.history()[::-1]
    history = [
        {"created": date if number >= below else _instant(entry["Created"])}
        | {"created_by": entry["CreatedBy"], "comment": entry["Comment"]}
        | ({} if entry["Size"] else {"empty_layer": True})
        for number, entry in enumerate(entries)
    ]
    settings = {key: value for key, value in attrs["Config"].items() if value and key != "Image"}
    return {
        "architecture": attrs["Architecture"],
        "config": settings,
        "created": date,
        "history": history,
        "os": attrs["Os"],
        "rootfs": {"type": "layers", "diff_ids": attrs["RootFS"]["Layers"]},
    }


def _instant(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _references(tag: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Name of the image to its reference; whole references are for compiling, not for building."""
    prefix = environment.get("RACE_IMAGE_PREFIX", "")
    named = images({"RACE_IMAGE_PREFIX": prefix, "RACE_IMAGE_TAG": tag})
    return {name: getattr(named, name) for name in NAMES}


def _follow(log: Iterator[dict[str, Any]], dockerfile: str) -> None:
    """Show each step of a build, and the end of its output where it fails."""
    output: list[str] = []
    for entry in log:
        text = entry.get("stream", "")
        output = [*output, *text.splitlines()][-40:]
        if text.startswith("Step "):
            print("  " + text.splitlines()[0][:96], file=sys.stderr)
        if "error" in entry:
            print("\n".join(line for line in output if line.strip()), file=sys.stderr)
            # The engine repeats the failed command here, which may be a screen long.
            code = entry.get("errorDetail", {}).get("code")
            what = f"a command failed with status {code}" if code else str(entry["error"])
            raise OutputError(
                f"{dockerfile}: {what}",
                hint="See the output above; a base image or package index that cannot be reached "
                "can be replaced, see race images build --help",
            )


def push(
    names: Iterable[str] = NAMES,
    *,
    tag: str = "",
    environment: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Push the images and give their references by digest, which is what a cluster should run.

    The registry is the prefix in RACE_IMAGE_PREFIX; the engine's own log-ins are used.

    Raises:
        ConfigError: no engine answers, an image was not built, or the prefix names no registry.
        TransferError: the registry refused or could not be reached.
    """
    references = _references(tag or checkout_tag(), environment)
    if references["data"].startswith("localhost/"):
        raise ConfigError(
            f"{references['data']} names no registry",
            hint="Set RACE_IMAGE_PREFIX to one, such as registry.example.org/team, and build",
        )
    with engine() as client:
        return {name: _push(client, references[name]) for name in names}


def _push(client: Any, reference: str) -> str:
    import docker

    if not _exists(client, reference):
        raise ConfigError(
            f"there is no image {reference} in the engine",
            hint="Build it: race images build (with the same RACE_IMAGE_PREFIX)",
        )
    print(f"pushing {reference}", file=sys.stderr)
    digest = ""
    try:
        for entry in client.images.push(reference, stream=True, decode=True):
            if "error" in entry:
                raise TransferError(
                    f"{reference}: {entry['error']}",
                    hint="Check the log-in (docker login) and the repository's permissions",
                )
            digest = entry.get("aux", {}).get("Digest", digest)
    except docker.errors.APIError as error:
        raise TransferError(
            f"{reference}: {error.explanation or error}", hint="Check RACE_IMAGE_PREFIX"
        ) from error
    return f"{reference.rpartition(':')[0]}@{digest}"


def local_images(environment: Mapping[str, str] = os.environ) -> list[LocalImage]:
    """The images that were built on this machine under the prefix in use, newest first."""
    repositories = {r.rpartition(":")[0] for r in _references("x", environment).values()}
    with engine() as client:
        found = [
            _describe(client, image, reference)
            for image in client.images.list()
            for reference in image.tags
            if reference.rpartition(":")[0] in repositories
        ]
    return sorted(found, key=lambda image: (image.created, image.reference), reverse=True)


def _exists(client: Any, reference: str) -> bool:
    import docker

    try:
        client.images.get(reference)
    except docker.errors.ImageNotFound:
        return False
    return True


def _describe(client: Any, image: Any, reference: str) -> LocalImage:
    labels = image.labels or {}
    base = labels.get(_LABEL + "base.name", "")
    size, own_size = image.attrs["Size"], None
    if base and _exists(client, base):
        below = client.images.get(base).attrs
        layers = below["RootFS"]["Layers"]
        if image.attrs["RootFS"]["Layers"][: len(layers)] == layers:
            own_size = size - below["Size"]
    return LocalImage(
        reference=reference,
        size=size,
        own_size=own_size,
        revision=labels.get(_LABEL + "revision", ""),
        created=image.attrs["Created"],
    )
