"""The two container images of the pipeline: the one place that knows their names.

Names are fixed when the pipeline is compiled. From the strongest to the weakest:

    RACE_DATA_IMAGE, RACE_TRAIN_IMAGE   a whole reference, best pinned: registry/name@sha256:...
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

from components.common.errors import ConfigError

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
        for name in ("data", "train"):
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
        whole = environment.get(f"RACE_{name.upper()}_IMAGE")
        return whole or f"{prefix.rstrip('/')}/race-pipeline-{name}:{tag}"

    return Images(data=reference("data"), train=reference("train"))
