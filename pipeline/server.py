"""Where Kubeflow Pipelines answers, and what this machine, or pod, has to get in there."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import urllib3

from components.common.errors import ConfigError

# Where Kubernetes puts them in a pod: a token for Kubeflow Pipelines alone, which kfp's client too
# looks for there, and the namespace.
TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_token(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file with the token that KF_PIPELINES_SA_TOKEN_PATH names, or that a pod was given."""
    if given := environment.get("KF_PIPELINES_SA_TOKEN_PATH"):
        return Path(given)
    return TOKEN if TOKEN.is_file() else None


def own_authorities(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file with the certificates that programs here are to trust."""
    given = environment.get("SSL_CERT_FILE") or environment.get("REQUESTS_CA_BUNDLE")
    return Path(given) if given else None


def own_namespace() -> str:
    """The namespace of this pod; "" outside of a cluster."""
    return NAMESPACE.read_text(encoding="ascii").strip() if NAMESPACE.is_file() else ""


@dataclass(frozen=True)
class Server:
    """Where Kubeflow Pipelines answers, and as whom to ask.

    Raises:
        ConfigError: `host` is no http address, `token_file` does not hold a token, or `ca_file` no
            certificates.
    """

    host: str
    namespace: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError(
                "no Kubeflow Pipelines server is given",
                hint="Give its address as --host https://..., or in KF_PIPELINES_ENDPOINT",
            )
        try:
            address = urllib3.util.parse_url(self.host)
        except urllib3.exceptions.LocationParseError:
            address = urllib3.util.Url()
        if address.scheme not in ("http", "https") or not address.host:
            raise ConfigError(
                f"--host {self.host} is not an address", hint="Write it as https://host or http://"
            )
        self.token()
        if self.ca_file:
            try:
                ssl.create_default_context(cafile=self.ca_file)
            except OSError as error:  # ssl's own errors are some
                ours = "it holds no certificates in PEM"
                reason = ours if isinstance(error, ssl.SSLError) else error.strerror
                raise ConfigError(
                    f"--ca-file {self.ca_file}: {reason}", hint="Give the authority's certificate"
                ) from error

    def token(self) -> str:
        """The token as the file has it now: whoever issues tokens renews them."""
        if self.token_file is None:
            return ""
        try:
            token = self.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"--token-file {self.token_file}: {reason}") from error
        if not token or any(character.isspace() for character in token):
            raise ConfigError(f"--token-file {self.token_file}: it does not hold one token")
        return token

    def address(self, kind: str, identity: str) -> str:
        """Where the user interface shows a run or a recurring run."""
        return f"{self.host.rstrip('/')}/#/{kind}/details/{identity}"
