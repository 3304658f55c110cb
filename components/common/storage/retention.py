"""What stays of a folder of artifacts, such as a run's checkpoints, and what goes."""

import logging
import time
from collections.abc import Callable, Sequence

from components.common.errors import DataError
from components.common.storage.artifact import Artifact, artifacts_in, find_in
from components.common.storage.liveness import (
    WATCHED,
    Heartbeat,
    adopted,
    owner_of,
    publications,
)
from components.common.storage.store import Settings, Store, open_store

log = logging.getLogger(__name__)

DAY = 86_400.0  # seconds


def remove_dead(store: Store, heartbeat: Heartbeat, *, stale: float, same: bool = True) -> None:
    """Remove what dead publishers left at or below an address; see `Heartbeat.judge`.

    `heartbeat`'s own leavings too, which must not be publishing now. What has no sign of life, as
    of earlier versions of this module, is dead after `stale` seconds.

    Raises:
        TransferError, OSError: as `Store` raises them.
    """
    stamps = store.stamps()
    signs = {key: stamp for key, stamp in stamps.items() if owner_of(key)}
    dead = [key for key, lives in heartbeat.judge(store, signs, same=same).items() if not lives]
    known = {owner_of(key) for key in signs} - {heartbeat.owner}
    gone = {owner_of(key) for key in dead} | {heartbeat.owner}
    remaining = set()
    for one in publications([*stamps, *store.uploads()]):
        if one.owner in gone or (one.owner not in known and one.older(stale)):
            below = store.at(one.artifact) if one.artifact else store
            if not _remove_unlisted(below, one.folder):
                remaining.add(one.owner)
    # Last, so that whoever comes after a cleaner that was killed goes on with it: with those that
    # have artifacts too, which may be killed while it removes one.
    for key in dead:
        if owner_of(key) not in remaining:
            store.remove(key)


def _remove_unlisted(store: Store, folder: str) -> bool:
    try:
        artifact = find_in(store)
    except DataError as error:
        log.warning("left alone: %s", error)  # whether it is listed cannot be told
        return False
    if artifact and artifact.manifest.folder == folder:
        return False
    store.remove_folder(folder)
    return True


def prune(store: Store, *, keep: int, heartbeat: Heartbeat, stale: float = DAY) -> list[str]:
    """Remove all but the `keep` newest artifacts in a store; returns the names of those removed.

    What dead publishers left goes too, see `remove_dead`; what may still be going on, and
    what this module did not make, is not touched.

    Raises:
        TransferError, OSError: as `publish` raises them.
    """
    removed = _remove(list(artifacts_in(store))[keep:], store)
    remove_dead(store, heartbeat, stale=stale)
    return removed


def remove_all(
    uri: str,
    *,
    which: Callable[[Artifact], bool] = lambda artifact: True,
    settings: Settings | None = None,
) -> list[str]:
    """Remove the artifacts right below `uri` that `which` picks, and what dead publishers left.

    Returns the names of the artifacts. The newest goes last.

    Takes up to `WATCHED` seconds when another publisher of another machine has written there last,
    of which it cannot be said at once whether it lives.

    Raises:
        ConfigError, TransferError, OSError: as `publish` raises them.
    """
    store = open_store(uri, settings)
    with Heartbeat(store) as heartbeat:
        removed = _remove(list(filter(which, artifacts_in(store))), store)
        remove_dead(store, heartbeat, stale=DAY)
        seen = time.monotonic()  # the silent ones are watched since then at the latest
        last = False
        while not last and not _all_live(store, heartbeat):
            time.sleep(0.5)
            last = time.monotonic() - seen > WATCHED
            remove_dead(store, heartbeat, stale=DAY)
    return removed


def _all_live(store: Store, heartbeat: Heartbeat) -> bool:
    """Whether it can be said of all whose signs of life are there that they live."""
    signs = {key: stamp for key, stamp in store.stamps().items() if owner_of(key)}
    judged = heartbeat.judge(store, signs, same=True)
    return all(judged.get(key) for key in signs)


def _remove(old: Sequence[Artifact], store: Store) -> list[str]:
    """Remove artifacts that are given newest first; a kill leaves the newest of them."""
    for artifact in reversed(old):
        below = store.at(artifact.name)
        with adopted(store, artifact.manifest.folder):
            # First the manifest: without it, no reader begins what it could not finish.
            below.remove("manifest.json")
            below.remove_folder(artifact.manifest.folder)
    return [artifact.name for artifact in old]
