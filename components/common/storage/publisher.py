"""Publication in the background, for a step that must not wait for it: training."""

import contextlib
import itertools
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from components.common.errors import ConfigError, RaceError
from components.common.manifest import Scalar
from components.common.storage.artifact import DAY, Artifact, publish, remove_dead
from components.common.storage.liveness import Heartbeat
from components.common.storage.retention import prune
from components.common.storage.store import Settings, Store, open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    source: Path
    name: str
    producer: Mapping[str, Scalar]
    inputs: Mapping[str, Scalar]
    submitted: float = field(default_factory=time.monotonic)


@dataclass
class Publisher:
    """Publishes folders as artifacts `uri/<name>` in a thread of its own, and keeps the newest few.

        with Publisher(checkpoint_uri, keep=2) as publisher:
            ...
            publisher.submit(folder, "update-000500")

    At most one waits while one is sent: a newer one takes its place, as only the newest matters. So
    a slow store costs checkpoints, never memory or disk; who wants none to be passed over submits
    the next one when the folder of the last is gone. A publication that fails is logged, and the
    next one is tried; leaving the block waits for the last, and raises when that one failed.
    Leaving it by an exception stops at once.

    One publisher writes to a `uri` at a time. Should two (a pod that was thought dead), each
    artifact is still whole, and the last one to write a name has it. What a publisher that was
    killed left at `uri` is removed at once, beside it (at `uri/../other`) when it is stale.
    """

    uri: str
    keep: int = 2
    settings: Settings = field(default_factory=lambda: Settings(workers=2))
    published: Artifact | None = None
    """The last one that was published."""
    failure: Exception | None = None
    """Why the last publication failed; None if it did not."""

    def __post_init__(self) -> None:
        open_store(
            self.uri, self.settings
        )  # a wrong address is found now, not after the first hour
        self._changed = threading.Condition()
        self._waiting: _Job | None = None
        self._busy = False
        self._closed = False
        self._stop = threading.Event()
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
        job = _Job(source, name, dict(producer or {}), dict(inputs or {}))
        with self._changed:
            if self._closed:
                raise RuntimeError("the publisher is closed")
            passed_over, self._waiting = self._waiting, job
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
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if not self.wait(timeout):
            self._stop.set()
        self._thread.join()
        if self.failure:
            raise self.failure

    def stop(self) -> None:
        """End the thread as soon as that is possible, whatever is left undone."""
        self._stop.set()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.stop()

    def _run(self) -> None:
        with Heartbeat(self.uri, self.settings) as heartbeat:
            self._tidy(lambda: remove_dead(self._store(self.uri), heartbeat, stale=DAY))
            for number in itertools.count():
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._closed)
                    job, self._waiting = self._waiting, None
                    if job is None:
                        return
                    self._busy = True
                try:
                    published = self._publish(job, heartbeat)
                finally:
                    shutil.rmtree(job.source, ignore_errors=True)
                if published:
                    self._tidy(lambda: self._prune(heartbeat))
                if number == 0:
                    self._tidy(lambda: self._remove_stale_beside(heartbeat))
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _publish(self, job: _Job, heartbeat: Heartbeat) -> bool:
        try:
            self.published = publish(
                job.source,
                f"{self.uri.rstrip('/')}/{job.name}",
                producer=job.producer,
                inputs=job.inputs,
                overwrite=True,
                show_progress=False,
                settings=self.settings,
                stop=self._stop,
                heartbeat=heartbeat,
            )
        except (RaceError, OSError) as error:
            self.failure = error
            log.warning("%s was not published: %s", job.name, error)
            return False
        except Exception as error:
            # A defect of ours must be seen, but must not end the thread: the next one may work.
            self.failure = error
            log.exception("%s was not published", job.name)
            return False
        self.failure = None
        mib, seconds = self.published.manifest.size / (1 << 20), time.monotonic() - job.submitted
        log.info("published %s: %.1f MiB in %.1f s", job.name, mib, seconds)
        return True

    def _prune(self, heartbeat: Heartbeat) -> None:
        prune(
            self.uri, keep=self.keep, settings=self.settings, stop=self._stop, heartbeat=heartbeat
        )

    def _remove_stale_beside(self, heartbeat: Heartbeat) -> None:
        """Remove what other runs left unfinished that nobody starts again."""
        parent, _, own = self.uri.rstrip("/").rpartition("/")
        with contextlib.suppress(ConfigError):  # a bucket or "/" is no place for runs
            beside = self._store(parent)
            for name in set(beside.folders()) - {own}:
                other = beside.at(name)
                if other.stamps("alive-", deep=False):
                    remove_dead(other, heartbeat, stale=math.inf, same=False)

    def _store(self, uri: str) -> Store:
        return open_store(uri, self.settings, self._stop)

    def _tidy(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (RaceError, OSError) as error:
            log.warning("what is old or unfinished was not removed: %s", error)
