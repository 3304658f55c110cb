"""Which publications are dead: a publisher says that it lives by an object that it keeps writing.

`alive-<owner>` lies at the address that is published to, or at a folder of such addresses, as long
as its publisher lives. The names of the folders that a publisher fills ("20260131T120000-" and 12
digits) have its name in them. No two clocks are compared: the age of a sign of life is the time
between it and the reader's own one, by the clock of the store.
"""

import contextlib
import datetime
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from components.common.errors import RaceError
from components.common.processes import identity, lives
from components.common.storage.store import Store, brief

BEAT = 5.0  # seconds between two signs of life
STALE = 900.0  # seconds without one, after which any publisher is dead
# Seconds without one, watched by the next publisher at the same address: it is the next attempt at
# the same run, and whoever starts that has reason to think that the one before has ended.
WATCHED = 20.0

_PUBLICATION = re.compile(r"(?:(.*)/)?((\d{8}T\d{6})-([0-9a-f]{8})[0-9a-f]{4})/")
_ALIVE = re.compile(r"(?:.*/)?alive-([0-9a-f]{8})\Z")
_MOST = 1000  # bytes of a sign of life


class Heartbeat(contextlib.AbstractContextManager["Heartbeat"]):
    """The signs of life of one publisher, from its making until `close`, in a thread of its own.

    One that cannot be written is let go: a store that fails shows in what is published.
    """

    def __init__(self, store: Store) -> None:
        self.owner = secrets.token_hex(4)
        self._store = brief(store)
        self._watched: dict[str, tuple[float, float]] = {}  # the others': stamp, and since when
        self._ended = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def folder(self, begun: datetime.datetime) -> str:
        """A name for the folder of a new publication of this publisher."""
        return f"{begun:%Y%m%dT%H%M%S}-{self.owner}{secrets.token_hex(2)}"

    def judge(self, store: Store, signs: Mapping[str, float], *, same: bool) -> dict[str, bool]:
        """Which publishers live, by the keys of the signs of life in a store.

        Those of whom it cannot be said yet, but perhaps can some seconds later, are left out.

        Args:
            same: `store` is where this publisher publishes; elsewhere only long silence is death.

        Raises:
            TransferError, OSError: as `Store` raises them.
        """
        own = _sign(self.owner)
        now = self._store.stamps(own).get(own)
        judged = {key: self._lives(store, key, stamp, now, same) for key, stamp in signs.items()}
        return {key: alive for key, alive in judged.items() if alive is not None}

    def _lives(
        self, store: Store, key: str, stamp: float, now: float | None, same: bool
    ) -> bool | None:
        if owner_of(key) == self.owner:
            return True
        if same:
            runs = lives((store.read(key, _MOST) or b"").decode(errors="replace"))
            if runs is not None:
                return runs
        if now is not None and now - stamp >= STALE:
            return False
        if not same:
            return True
        first, since = self._watched.setdefault(key, (stamp, time.monotonic()))
        if stamp != first:
            self._watched[key] = stamp, time.monotonic()
            return True
        return False if time.monotonic() - since > WATCHED else None

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(RaceError, OSError):
            self._store.remove(_sign(self.owner))

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._ended.wait(BEAT):
            self._beat()

    def _beat(self) -> None:
        with contextlib.suppress(RaceError, OSError):
            self._store.touch(_sign(self.owner), identity().encode())


@contextlib.contextmanager
def adopted(store: Store, folder: str) -> Iterator[None]:
    """While the block removes a publication's folder, its publisher is as alive as this process.

    A publisher that has ended well left no sign of life. Were this process killed halfway, nothing
    would tell what it leaves from what somebody is at.

    Raises:
        TransferError, OSError: as `Store` raises them.
    """
    signs = [_sign(one.owner) for one in publications([f"{folder}/"])]
    missing = [sign for sign in signs if sign not in store.stamps(sign)]
    for sign in missing:
        store.touch(sign, identity().encode())
    yield
    for sign in missing:
        store.remove(sign)


def _sign(owner: str) -> str:
    """The key of a publisher's sign of life."""
    return f"alive-{owner}"


def owner_of(key: str) -> str | None:
    """Whose sign of life a key is; None if it is none."""
    match = _ALIVE.match(key)
    return match[1] if match else None


@dataclass(frozen=True)
class Publication:
    """A folder that a publisher fills or has filled, of the artifact at a key of a store."""

    artifact: str  # "" is the store's own address
    folder: str
    begun: str
    owner: str

    def older(self, seconds: float) -> bool:
        """Whether it was begun so long ago, as far as the clocks here and there agree."""
        try:
            begun = datetime.datetime.strptime(f"{self.begun}Z", "%Y%m%dT%H%M%S%z")
        except ValueError:
            return False
        return (datetime.datetime.now(datetime.UTC) - begun).total_seconds() > seconds


def publications(keys: Iterable[str]) -> set[Publication]:
    """The publications that objects with these keys belong to."""
    matches = (_PUBLICATION.match(key) for key in keys)
    return {Publication(m[1] or "", m[2], m[3], m[4]) for m in matches if m}
