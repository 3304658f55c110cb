"""What would stop a first run on a cluster, as far as that can be seen before it and from here.

Not seen is what only the cluster knows: the Secret with the pods' keys, their service account, and
whether nodes have room.
"""

import base64
import datetime
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from components.common import strict_json
from components.common.errors import ConfigError, RaceError, TransferError
from components.common.retry import Patience
from components.common.storage.store import Settings, open_store, parse_address
from pipeline.client import Api
from pipeline.registry import doubt
from pipeline.server import Server

Subject = TypeVar("Subject")

BRIEF = Patience(attempts=2, connect=5, read=15, first_wait=1)
OLDEST, STARTS_AGAIN = (2, 14), (2, 17)  # versions of Kubeflow Pipelines, see docs/operations.md
_RETRIES = "with `race submit --wait --retries 3` that does not matter"


@dataclass(frozen=True)
class Finding:
    """What came of a check; `hint` says what to do about a problem."""

    check: str
    state: Literal["ok", "unknown", "problem"]
    said: str
    hint: str = ""

    @property
    def line(self) -> str:
        hint = f". {self.hint}" if self.hint else ""
        return f"{self.state:<7}  {self.check:<9}  {self.said}{hint}"


class _UnknownError(Exception):
    """A check cannot find it out."""


@dataclass(frozen=True)
class Examination:
    """What is to be looked at: the fields of `Server`, addresses to write below, and images."""

    host: str
    namespace: str
    token_file: Path | None
    ca_file: Path | None
    stores: Sequence[str]
    images: Sequence[str]

    def findings(self) -> Iterator[Finding]:
        """Make all checks, each whatever came of the others."""
        first = [
            _checked("address", _address, self.host),
            _checked("token", _token, self.token_file),
            _checked("authority", _authority, self.ca_file),
        ]
        yield from first
        apis: list[Api] = []
        if bad := [finding.check for finding in first if finding.state == "problem"]:
            yield Finding("server", "unknown", f"not asked, because of the {bad[0]}")
        else:
            yield _checked("server", self._server, apis)
        if apis:
            yield _checked("rights", _rights, apis[0])
        else:
            yield Finding("rights", "unknown", "not asked, because of the server")
        if not self.stores:
            yield Finding("store", "unknown", "no address is given: --store s3://bucket/folder")
        yield from (_checked("store", _store, uri) for uri in self.stores)
        yield from (_checked("image", _image, reference) for reference in self.images)

    def _server(self, apis: list[Api]) -> str:
        api = Api(Server(self.host, self.namespace, self.token_file, self.ca_file), BRIEF)
        apis.append(api)
        known = re.match(r"v?(\d+)\.(\d+)", api.version)
        if not known:
            return (
                f"answers, not with its version: it may not start a deleted pod again; {_RETRIES}"
            )
        version = int(known[1]), int(known[2])
        if version < OLDEST:
            raise ConfigError(
                f"Kubeflow Pipelines {api.version}",
                hint="The pipeline wants {}.{} or later".format(*OLDEST),
            )
        again = "starts" if version >= STARTS_AGAIN else "does not start"
        return f"Kubeflow Pipelines {api.version}, which {again} a deleted pod again; {_RETRIES}"


def _checked(check: str, look: Callable[[Subject], str], at: Subject) -> Finding:
    try:
        return Finding(check, "ok", look(at))
    except _UnknownError as error:
        return Finding(check, "unknown", str(error))
    except RaceError as error:
        return Finding(check, "problem", error.what, error.hint)


def _address(host: str) -> str:
    Server(host)
    plain = host.startswith("http://")
    return host + (", without encryption" if plain else "")


def _token(file: Path | None) -> str:
    token = Server("http://localhost", token_file=file).token()
    if not token:
        return "none is given, as fits a server without a log-in"
    end = _expiry(token)
    if end and end < datetime.datetime.now(datetime.UTC):
        raise ConfigError(f"{file}: expired at {end}", hint="Get a new one")
    return f"{file}" + (f", valid until {end}" if end else "")


def _authority(file: Path | None) -> str:
    Server("http://localhost", ca_file=file)
    return str(file or "those that Python trusts")


def _expiry(token: str) -> datetime.datetime | None:
    """When a JSON Web Token ends; None for another one."""
    try:
        claims = strict_json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        return datetime.datetime.fromtimestamp(claims["exp"], datetime.UTC)
    except (LookupError, OverflowError, OSError, TypeError, ValueError):
        return None


def _rights(api: Api) -> str:
    where = f"namespace {api.server.namespace}" if api.server.namespace else "one user for all"
    if api.may_start():
        return f"this user may start runs ({where})"
    raise _UnknownError(f"runs are listed, whether they may be started is not seen ({where})")


def _store(uri: str) -> str:
    if parse_address(uri).bucket is None:
        raise ConfigError(
            f"{uri}: in a cluster a folder goes with its pod", hint="Give an s3:// address"
        )
    store, key = open_store(uri, Settings(BRIEF)), f"race-doctor-{secrets.token_hex(8)}"
    store.write(key, b"race doctor", exclusive=False)
    try:
        if key not in store.stamps(key) or store.read(key, 64) != b"race doctor":
            raise TransferError(f"{uri}: what was written is not there", hint="Check the store")
    finally:
        store.remove(key)
    return f"{uri}: written, listed, read and removed with this machine's keys, not with the pods'"


def _image(reference: str) -> str:
    if why := doubt(reference):
        raise _UnknownError(why)
    return f"{reference}: the registry has it"
