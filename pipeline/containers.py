"""How `race run --runner docker` starts each step's container, through KFP's DockerRunner.

KFP chooses the command, the environment and the folder for outputs. Its own way of starting a
container takes one that vanished for one that ended well (kubeflow/pipelines#13332), leaves it
running when the user interrupts, and keeps its log to itself.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from components.common.errors import ConfigError
from components.common.hub import TOKEN
from components.common.storage.client import S3_VARIABLES

# How long a container may take to end when it is asked to, in seconds, before it is killed.
GRACE = 20

TICK = 0.2  # seconds between two looks whether a container is to be ended

# Training's processes exchange batches and gradients through it; the engine's default is 64 MB.
SHM_SIZE = "2g"

GPU_DEVICE = Path("/dev/nvidiactl")

# What a step may want from the caller's environment; nothing else is handed on.
PASSED_ON = (*S3_VARIABLES, "AWS_REGION", TOKEN, "HF_ENDPOINT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")


def container_arguments(
    client: Any, *, readable: Iterable[Path], environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Arguments of the SDK's `containers.run` for every step.

    A step has what a strict cluster would give it: no capability, no new privileges, a read-only
    root file system. It runs as the caller, who then owns what it writes. It shares the network of
    this machine, so that an address means the same as it does without containers.

    Args:
        client: a client of the engine.
        readable: files and folders of this machine that steps read, mounted at the same paths.
    """
    import docker

    arguments = {
        "user": f"{os.getuid()}:{os.getgid()}",
        "read_only": True,
        "tmpfs": {"/tmp": "exec,mode=1777"},  # torch may compile kernels there
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges", *_unlabelled(client)],
        "network_mode": "host",
        "shm_size": SHM_SIZE,
        "mounts": [mount(path) for path in _outermost(readable)],
        "environment": {name: environment[name] for name in PASSED_ON if name in environment},
    }
    if has_gpus(client):
        arguments["device_requests"] = [
            docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])
        ]
    return arguments


def mount(path: Path, *, read_only: bool = True) -> Any:
    """What shows a container a path of this machine, whatever it is called.

    A volume's text, host:container:mode, is split at colons, and so can have none in its paths.
    """
    import docker

    return docker.types.Mount(target=str(path), source=str(path), type="bind", read_only=read_only)


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """The paths that lie below no other of them, absolute and without repetition."""
    everything = sorted({Path(os.path.abspath(path)) for path in paths})
    return [p for p in everything if not any(q in p.parents for q in everything)]


def _unlabelled(client: Any) -> list[str]:
    """The option for an SELinux that keeps containers from files without its label for them.

    Only volumes can be relabelled, and a user's own inputs are not ours to label.
    """
    selinux = "name=selinux" in (client.info().get("SecurityOptions") or [])
    return ["label=disable"] if selinux else []


def has_gpus(client: Any) -> bool:
    """Whether this machine has GPUs and NVIDIA's toolkit, which hands them to containers."""
    toolkit = "nvidia" in client.info().get("Runtimes", {}) or bool(
        shutil.which("nvidia-container-runtime-hook")
    )
    return toolkit and GPU_DEVICE.exists()


def require_image(client: Any, reference: str) -> None:
    """Make sure that the engine has an image, and pull it where it names a registry.

    Raises:
        ConfigError: it has not, and cannot get it.
    """
    import docker

    with contextlib.suppress(docker.errors.ImageNotFound):
        client.images.get(reference)
        return
    if reference.startswith("localhost/"):
        raise ConfigError(
            f"the Docker engine has no image {reference}", hint="Build it first: make images"
        )
    try:
        client.images.pull(reference)
    except docker.errors.APIError as error:
        raise ConfigError(
            f"{reference} cannot be pulled: {error.explanation or error}",
            hint="Check the reference and the log-in (docker login), or build it: make images",
        ) from error


def run_container(
    client: Any,
    image: str,
    command: Sequence[str],
    log: Path,
    stopping: Callable[[], bool] = lambda: False,
    **arguments: Any,
) -> int:
    """Run a container to its end with its output in `log`; its exit status. Nothing of it is left.

    125 is the status of one that the engine could not run, or that somebody else removed.

    Args:
        stopping: says when it is to be ended early.
        arguments: of the SDK's `containers.create`.
    """
    import docker
    import requests

    with log.open("ab") as file:
        try:
            return _run(client, image, command, arguments, file, stopping)
        except docker.errors.NotFound:
            file.write(b"\nerror: the container was removed before it had ended\n")
        except docker.errors.APIError as error:
            reason = " ".join(str(error.explanation or error).split())
            file.write(f"\nerror: the Docker engine refused: {reason}\n".encode())
        except requests.RequestException:
            file.write(b"\nerror: the Docker engine does not answer any more\n")
        return 125


def _run(
    client: Any,
    image: str,
    command: Sequence[str],
    arguments: Mapping[str, Any],
    log: BinaryIO,
    stopping: Callable[[], bool],
) -> int:
    container = client.containers.create(image, list(command), **arguments)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(TICK):
            if stopping():
                with contextlib.suppress(Exception):
                    container.stop(timeout=GRACE)
                return

    try:
        container.start()
        threading.Thread(target=watch, daemon=True).start()
        with contextlib.closing(container.logs(stream=True, follow=True)) as output:
            for chunk in output:
                log.write(chunk)
                log.flush()
        return int(container.wait()["StatusCode"])
    except BaseException:
        with contextlib.suppress(Exception):
            container.stop(timeout=GRACE)
        raise
    finally:
        ended.set()
        with contextlib.suppress(Exception):
            container.remove(force=True, v=True)
