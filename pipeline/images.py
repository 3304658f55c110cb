"""The two container images of the pipeline: the one place that knows their names.

Names are fixed when the pipeline is compiled. From the strongest to the weakest:

    RACE_DATA_IMAGE, RACE_TRAIN_IMAGE   a whole reference, best pinned: registry/name@sha256:...
                                        (in the environment, or in a file, which goes first)
    RACE_IMAGE_PREFIX, RACE_IMAGE_TAG   where and what to look for
    localhost/race-pipeline-data:<version of this package>, and -train

The default prefix is `localhost`, which no registry answers to: a pipeline whose images were never
pushed then fails to pull them, instead of running whatever a stranger published under that name.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from components.common.errors import ConfigError
from components.common.files import atomic_file

NAMES = ("data", "train")

# Kubernetes wants lower-case names with an optional tag or digest; a space or a "$" is a slip.
_REFERENCE = re.compile(
    r"[a-z0-9]+([._:-][a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True)
class Images:
    """References of the image for the data steps (no torch) and the one for train and evaluate.

    Raises:
        ConfigError: one of them is not an image reference.
    """

    data: str
    train: str

    def __post_init__(self) -> None:
        for name in NAMES:
            reference = getattr(self, name)
            if not _REFERENCE.fullmatch(reference):
                raise ConfigError(
                    f"{reference!r} is not an image reference ({name} image)",
                    hint="It looks like registry/name:tag or registry/name@sha256:digest",
                )


def images(environment: Mapping[str, str] = os.environ) -> Images:
    """The references that `environment` asks for, see above."""
    prefix = environment.get("RACE_IMAGE_PREFIX") or "localhost"
    tag = environment.get("RACE_IMAGE_TAG") or version("race-pipeline")

    def reference(name: str) -> str:
        whole = environment.get(variable(name))
        return whole or f"{prefix.rstrip('/')}/race-pipeline-{name}:{tag}"

    return Images(data=reference("data"), train=reference("train"))


def variable(name: str) -> str:
    """The variable with the whole reference of the image "data" or "train"."""
    return f"RACE_{name.upper()}_IMAGE"


def write_references(path: Path, references: Mapping[str, str]) -> None:
    """Write a file of references, by name of the image, that `read_references` reads."""
    lines = [f"{variable(name)}={reference}\n" for name, reference in references.items()]
    with atomic_file(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def read_references(path: Path) -> dict[str, str]:
    """The variables in such a file, with their values.

    Raises:
        ConfigError: there is none, or it holds something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(
            f"--images {path}: {reason}", hint=f"Write it: race images push --write {path}"
        ) from error
    found = {name: value for name, _, value in (line.partition("=") for line in lines)}
    if not found or found.keys() - set(map(variable, NAMES)):
        raise ConfigError(
            f"--images {path}: it does not hold the references of images",
            hint=f"Write it: race images push --write {path}",
        )
    return found
