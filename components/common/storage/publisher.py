"""Publication in the background, for a step that must not wait for it: training."""

import logging
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from components.common.errors import RaceError
from components.common.manifest import Scalar
from components.common.storage.artifact import Artifact, prune, publish
from components.common.storage.store import Settings, open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    source: Path
    name: str
    producer: Mapping[str, Scalar]
    inputs: Mapping[str, Scalar]


@dataclass
class Publisher:
    """Publishes folders as artifacts `uri/<name>` in a thread of its own, and keeps the newest few.

        with Publisher(checkpoint_uri, keep=2) as publisher:
            ...
            publisher.submit(folder, "update-000500")

    At most one waits while one is sent: a newer one takes its place, as only the newest matters. So
    a slow store costs checkpoints, never memory, disk or training time. A publication that fails is
    logged, and the next one is tried; leaving the block waits for the last, and raises when that
    one failed. Leaving it by an exception stops at once.

    One publisher writes to a `uri` at a time. Should two (a pod that was thought dead), each
    artifact is still whole, and the last one to write a name has it.
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
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                job, self._waiting = self._waiting, None
                if job is None:
                    return
                self._busy = True
            try:
                self._publish(job)
            finally:
                shutil.rmtree(job.source, ignore_errors=True)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _publish(self, job: _Job) -> None:
        uri = f"{self.uri.rstrip('/')}/{job.name}"
        started = time.monotonic()
        try:
            self.published = publish(
                job.source,
                uri,
                producer=job.producer,
                inputs=job.inputs,
                overwrite=True,
                show_progress=False,
                settings=self.settings,
                stop=self._stop,
            )
            self.failure = None
            mib, seconds = self.published.manifest.size / (1 << 20), time.monotonic() - started
            log.info("published %s: %.1f MiB in %.1f s", job.name, mib, seconds)
            self._prune()
        except (RaceError, OSError) as error:
            self.failure = error
            log.warning("%s was not published: %s", job.name, error)
        except Exception as error:
            # A defect of ours must be seen, but must not end the thread: the next one may work.
            self.failure = error
            log.exception("%s was not published", job.name)

    def _prune(self) -> None:
        try:
            prune(self.uri, keep=self.keep, settings=self.settings, stop=self._stop)
        except (RaceError, OSError) as error:
            log.warning("old artifacts were not removed: %s", error)
