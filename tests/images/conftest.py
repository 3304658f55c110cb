"""The images of this checkout, run in a Docker engine.

Where no engine answers, or the images were not built from the code as it is (`make images`), these
tests are skipped; with RACE_REQUIRE_IMAGES=1 they fail instead.
"""

import contextlib
import gc
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError
from pipeline.containers import require_image
from pipeline.image_build import checkout_images, engine
from pipeline.images import Images

# What a strict cluster imposes, as `docker run`'s flags.
HARDENED = {
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "user": "10001",
}


@pytest.fixture(autouse=True)
def _collect_sockets() -> Iterator[None]:
    """The SDK leaves the socket of a log that it followed to the garbage collector."""
    yield
    _collect()


def _collect() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _absent(reason: str) -> None:
    if os.environ.get("RACE_REQUIRE_IMAGES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        reason = ""
        try:
            client = stack.enter_context(engine())
        except ConfigError as error:
            reason = str(error)
        if reason:
            # Outside of the handler: pytest keeps what is raised here to the end, and with it the
            # socket that the SDK could not connect, which it does not close.
            _collect()
            _absent(reason)
        yield client


@pytest.fixture(scope="session")
def built(docker_engine: Any) -> Images:
    """The references of both images."""
    images = checkout_images()
    for reference in (images.data, images.train):
        try:
            require_image(docker_engine, reference)
        except ConfigError as error:
            _absent(str(error))
    return images


@dataclass(frozen=True)
class Ended:
    """A container that ran to its end; `inspected` is what the engine knew about it."""

    status: int
    stdout: str
    stderr: str
    inspected: Mapping[str, Any] = field(repr=False)


@pytest.fixture(scope="session")
def run_in(docker_engine: Any) -> Callable[..., Ended]:
    """Run a command in an image by hand, hardened and without a network unless told otherwise."""

    def run(image: str, *command: str, data: Path | None = None, **arguments: Any) -> Ended:
        volumes = {str(data): {"bind": "/data", "mode": "rw"}} if data else {}
        container = docker_engine.containers.create(
            image,
            list(command),
            **{"network_mode": "none", "volumes": volumes, **HARDENED, **arguments},
        )
        try:
            container.start()
            status = container.wait()["StatusCode"]
            container.reload()
            return Ended(
                status=status,
                stdout=container.logs(stdout=True, stderr=False).decode(),
                stderr=container.logs(stdout=False, stderr=True).decode(),
                inspected=container.attrs,
            )
        finally:
            container.remove(force=True, v=True)

    return run
