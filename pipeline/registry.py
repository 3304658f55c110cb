"""Whether registries have the images of a run, asked before it is sent to a cluster.

A pod whose image cannot be pulled waits without end. A registry that says that it lacks an image is
believed; one that does not answer, or not to us, is no reason to stop: the cluster may have rights
and ways that this machine has not.

The API is that of the OCI distribution specification; log-ins are those of Docker's config file.
"""

from typing import Any

import requests

from components.common.errors import ConfigError
from components.common.transfer import root_of
from pipeline.display import say
from pipeline.images import Images

TIMEOUT = (5, 10)  # seconds: to connect, and to read

_KINDS = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
_KINDS += ", application/vnd.docker.distribution.manifest.list.v2+json"
_KINDS += ", application/vnd.docker.distribution.manifest.v2+json"
_HERE = ("localhost", "127.0.0.1")
_LACKING = ("MANIFEST_UNKNOWN", "NAME_UNKNOWN")
_PUSH = "Push it with `race images push --write images.env`, and give --images images.env"


def require_pullable(images: Images) -> None:
    """See that a cluster can pull these images, as far as can be known here.

    Raises:
        ConfigError: one is in no registry, or its registry says that it lacks it.
    """
    for reference in dict.fromkeys((images.data, images.train)):
        if why := doubt(reference):
            say(f"warning: {why}")


def doubt(reference: str) -> str:
    """Why it is not known here whether a cluster can pull an image; "" if its registry has it.

    Raises:
        ConfigError: it is in no registry, or its registry says that it lacks it.
    """
    if reference.startswith("localhost/"):
        raise ConfigError(
            f"{reference} is in no registry: a cluster cannot pull it",
            hint=f"{_PUSH}; or --local-images, where its nodes have it (kind, minikube)",
        )
    try:
        if _lacks(reference):
            raise ConfigError(f"{reference}: the registry lacks it", hint=_PUSH)
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"nobody knows here whether the registry has {reference}: {root_of(error)}"
    return ""


def _lacks(reference: str) -> bool:
    """Whether the registry says that there is no such image.

    Raises:
        OSError, ValueError, LookupError, TypeError: it says nothing, or nothing that we understand.
    """
    import docker.auth

    whole, _, digest = reference.partition("@")
    name, colon, tag = whole.rpartition(":")
    if not colon or "/" in tag:
        name, tag = whole, "latest"
    host, path = docker.auth.resolve_repository_name(name)
    if host == docker.auth.INDEX_NAME:
        host, path = "registry-1.docker.io", path if "/" in path else f"library/{path}"
    # As Docker does: a registry on this machine needs no certificate.
    scheme = "http" if host.partition(":")[0] in _HERE else "https"
    url = f"{scheme}://{host}/v2/{path}/manifests/{digest or tag}"
    with requests.Session() as session:
        session.headers["Accept"] = _KINDS
        # HEAD is no pull to a registry that counts them, but only GET says what is lacking.
        answer = session.head(url, timeout=TIMEOUT)
        if answer.status_code == 401:
            _log_in(session, host, answer.headers["WWW-Authenticate"])
            answer = session.head(url, timeout=TIMEOUT)
        if answer.status_code == 404:
            answer = session.get(url, timeout=TIMEOUT)
            codes = [error["code"] for error in answer.json()["errors"]]
            return any(code in _LACKING for code in codes)
        if answer.status_code != 200:
            raise ValueError(f"it answered {answer.status_code} {answer.reason}")
    return False


def _log_in(session: requests.Session, host: str, challenge: str) -> None:
    """Do what a registry asks for: a name and password, or a token that these get."""
    user = _user(host)
    kind, _, rest = challenge.partition(" ")
    if kind.lower() == "basic":
        session.auth = user
        return
    asked: dict[str, str] = requests.utils.parse_dict_header(rest)  # type: ignore[no-untyped-call]
    realm = asked.pop("realm")
    if not realm.startswith("https://") and host.partition(":")[0] not in _HERE:
        raise ValueError("it wants the log-in sent in the clear")
    answer = session.get(realm, params=asked, auth=user, timeout=TIMEOUT)
    answer.raise_for_status()
    told = answer.json()
    session.headers["Authorization"] = f"Bearer {told.get('token') or told['access_token']}"


def _user(host: str) -> tuple[str, str] | None:
    """Name and password for a registry, as `docker login` has left them."""
    import docker

    index = docker.auth.INDEX_NAME if host == "registry-1.docker.io" else host
    try:
        found: Any = docker.auth.load_config().resolve_authconfig(index) or {}
    except docker.errors.DockerException:
        return None
    # The file's log-ins are spelled otherwise than those of a helper.
    known = {key.lower(): value for key, value in found.items()}
    name, password = known.get("username"), known.get("password")
    return (name, password) if name and password else None
