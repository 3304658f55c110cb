"""What stays of a folder of artifacts, such as a run's checkpoints, and what goes."""

import logging
import time
from collections.abc import Callable, Sequence

from components.common.errors import ConfigError
from components.common.storage.artifact import DAY, Artifact, artifacts, remove_dead
from components.common.storage.liveness import WATCHED, Heartbeat, adopted, owner_of
from components.common.storage.store import Settings, Stop, Store, open_store

log = logging.getLogger(__name__)


def prune(
    uri: str,
    *,
    keep: int,
    stale: float = DAY,
    settings: Settings | None = None,
    stop: Stop | None = None,
    heartbeat: Heartbeat | None = None,
) -> list[str]:
    """Remove all but the `keep` newest artifacts below `uri`; returns the names of those removed.

    What dead publishers left goes too, see `artifact.remove_dead`; what may still be going on, and
    what this module did not make, is not touched.

    Raises:
        ConfigError, TransferError, OSError: as `publish` raises them.
    """
    if keep < 1:
        raise ConfigError(f"{keep} artifacts to keep", hint="Keep at least 1")
    settings = settings or Settings()
    if heartbeat is None:
        with Heartbeat(uri, settings) as own:
            return prune(uri, keep=keep, stale=stale, settings=settings, stop=stop, heartbeat=own)
    store = open_store(uri, settings, stop)
    removed = _remove(list(artifacts(uri, settings=settings, stop=stop))[keep:], store)
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
    settings = settings or Settings()
    store = open_store(uri, settings)
    with Heartbeat(uri, settings) as heartbeat:
        removed = _remove(list(filter(which, artifacts(uri, settings=settings))), store)
        started = time.monotonic()
        while True:
            remove_dead(store, heartbeat, stale=DAY)
            signs = {key: stamp for key, stamp in store.stamps().items() if owner_of(key)}
            decided = heartbeat.judge(store, signs, same=True)
            if len(decided) == len(signs) or time.monotonic() - started > WATCHED + 1:
                return removed
            time.sleep(0.5)


def _remove(old: Sequence[Artifact], store: Store) -> list[str]:
    """Remove artifacts that are given newest first; a kill leaves the newest of them."""
    for artifact in reversed(old):
        below = store.at(artifact.name)
        with adopted(store, artifact.manifest.folder):
            # First the manifest: without it, no reader begins what it could not finish.
            below.remove("manifest.json")
            below.remove_folder(artifact.manifest.folder)
    return [artifact.name for artifact in old]
