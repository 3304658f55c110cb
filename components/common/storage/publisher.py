"""Publication in the background, for a step that must not wait for it: training."""

import contextlib
import itertools
import logging
import math
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.common.errors import ConfigError, RaceError
from components.common.manifest import Scalar
from components.common.storage.liveness import Heartbeat
from components.common.storage.publication import files_of, put
from components.common.storage.retention import DAY, prune, remove_dead
from components.common.storage.store import Settings, Store, open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    source: Path
    name: str
    producer: Mapping[str, Scalar]
    inputs: Mapping[str, Scalar]
    submitted: float = field(default_factory=time.monotonic)


class Publisher:
    """Publishes folders as artifacts `uri/<name>` in a thread of its own, and keeps the newest few.

    At most one waits while one is sent: a newer one takes its place, as only the newest matters. So
    a slow store costs checkpoints, never memory or disk; who wants none to be passed over submits
    the next one when the folder of the last is gone. A publication that fails is logged, and the
    next one is tried. It ends by `close`, or at once by `stop`.

    One publisher writes to a `uri` at a time. Should two (a pod that was thought dead), each
    artifact is still whole, and the last one to write a name has it. What a publisher that was
    killed left at `uri` is removed at once, beside it (at `uri/../other`) when it is stale.

    Raises:
        ConfigError: `uri` cannot be used.
    """

    def __init__(self, uri: str, *, keep: int, settings: Settings | None = None) -> None:
        self.failure: Exception | None = None  # why the last publication failed, if it did
        self._uri, self._keep = uri, keep
        self._settings = settings or Settings(workers=2)
        self._stop = threading.Event()
        self._store(uri)  # a wrong address is found now, not after the first hour
        self._changed = threading.Condition()
        self._waiting: _Job | None = None
        self._busy = False
        self._closed = False
        # A daemon: a process that ends by an error nobody caught must not wait for it.
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def submit(
        self,
        source: Path,
        name: str,
        *,
        producer: Mapping[str, Scalar] | None = None,
        inputs: Mapping[str, Scalar] | None = None,
    ) -> None:
        """Publish the folder `source` as `uri/<name>`; returns at once.

        `source` then belongs to the publisher: nobody may write to it, and it is removed when it
        was published, has failed, or was passed over for a newer one.
        """
        with self._changed:
            passed_over = self._waiting
            self._waiting = _Job(source, name, producer or {}, inputs or {})
            self._changed.notify_all()
        if passed_over:
            log.info("%s was not published: %s is newer", passed_over.name, name)
            shutil.rmtree(passed_over.source, ignore_errors=True)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all that was submitted is dealt with; False when `timeout` (s) ends first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and not self._waiting, timeout)

    def close(self, timeout: float | None = None) -> None:
        """Deal with what was submitted, for `timeout` seconds at most, and end the thread.

        Raises:
            RaceError, OSError: the last publication failed, or was stopped.
        """
        if not self.wait(timeout):
            self._stop.set()
        self._end()
        if self.failure:
            raise self.failure

    def stop(self) -> None:
        """End the thread as soon as that is possible, whatever is left undone."""
        self._stop.set()
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        with Heartbeat(self._store(self._uri)) as heartbeat:
            with _only_logged():
                remove_dead(self._store(self._uri), heartbeat, stale=DAY)
            for number in itertools.count():
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._closed)
                    job, self._waiting = self._waiting, None
                    if job is None:
                        return
                    self._busy = True
                try:
                    self.failure = self._publish(job, heartbeat)
                finally:
                    shutil.rmtree(job.source, ignore_errors=True)
                if not self.failure:
                    with _only_logged():
                        prune(self._store(self._uri), keep=self._keep, heartbeat=heartbeat)
                if number == 0:
                    with _only_logged():
                        self._remove_stale_beside(heartbeat)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _publish(self, job: _Job, heartbeat: Heartbeat) -> Exception | None:
        """Publish a folder; what went wrong, which was logged."""
        try:
            published = put(
                files_of(job.source),
                self._store(self._uri).at(job.name),
                heartbeat,
                producer=job.producer,
                inputs=job.inputs,
                overwrite=True,
            )
        except (RaceError, OSError) as error:
            log.warning("%s was not published: %s", job.name, error)
            return error
        except Exception as error:
            # A defect of ours must be seen, but must not end the thread: the next one may work.
            log.exception("%s was not published", job.name)
            return error
        mib, seconds = published.manifest.size / (1 << 20), time.monotonic() - job.submitted
        log.info("published %s: %.1f MiB in %.1f s", job.name, mib, seconds)
        return None

    def _remove_stale_beside(self, heartbeat: Heartbeat) -> None:
        """Remove what other runs left unfinished that nobody starts again."""
        parent, _, own = self._uri.rstrip("/").rpartition("/")
        with contextlib.suppress(ConfigError):  # a bucket or "/" is no place for runs
            beside = self._store(parent)
            for name in set(beside.folders()) - {own}:
                other = beside.at(name)
                if other.stamps("alive-"):
                    remove_dead(other, heartbeat, stale=math.inf, same=False)

    def _store(self, uri: str) -> Store:
        return open_store(uri, self._settings, self._stop)


@contextlib.contextmanager
def _only_logged() -> Iterator[None]:
    try:
        yield
    except (RaceError, OSError) as error:
        log.warning("what is old or unfinished was not removed: %s", error)
