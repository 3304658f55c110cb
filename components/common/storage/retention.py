"""What stays of a folder of artifacts, such as a run's checkpoints, and what goes."""

import logging
import time
from collections.abc import Callable, Sequence

from components.common.storage.artifact import DAY, Artifact, artifacts_in, remove_dead
from components.common.storage.liveness import WATCHED, Heartbeat, adopted, owner_of
from components.common.storage.store import Settings, Store, open_store

log = logging.getLogger(__name__)


def prune(
    store: Store,
    *,
    keep: int,
    heartbeat: Heartbeat,
    stale: float = DAY,
) -> list[str]:
    """Remove all but the `keep` newest artifacts in a store; returns the names of those removed.

    What dead publishers left goes too, see `artifact.remove_dead`; what may still be going on, and
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
