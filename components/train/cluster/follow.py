"""The log of a node, line by line as it is written, through cuts and restarts."""

import contextlib
import datetime
import logging
import re
import threading
from collections.abc import Callable
from typing import Any

from components.common.errors import RaceError
from components.train.cluster.api import AnswerError, Api, CutError
from components.train.cluster.manifest import CONTAINER, rank_of

logger = logging.getLogger(__name__)

# RFC 3339 with nanoseconds, whose zeros at the end may be left out.
_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")


class LogFollower:
    """Hands on the lines of node 0's log in a thread of its own, each of them once.

    The API sends a log again from a whole second on, so after a cut the lines that were
    taken already come again: those are known by their times (nanoseconds), and among lines of one
    time by their number. When the container was restarted, the rest of its old log is read first;
    when the whole pod was replaced, its old log is gone with it, and the new one is read.

    Args:
        emit: called with each line, without its end.
        pause: seconds between two looks at a pod that has nothing new.
        silence: seconds without a line after which the connection is taken for dead.
    """

    def __init__(
        self,
        api: Api,
        job: str,
        emit: Callable[[str], None],
        *,
        pause: float = 2.0,
        silence: float = 60.0,
    ) -> None:
        self._api, self._job, self._emit = api, job, emit
        self._pause, self._silence = pause, silence
        self._pod = ""  # uid of the one that is read
        self._restarts = 0  # of the container that is read
        self._last, self._same = 0, 0  # time of the last line, and how many lines had it
        self._drained = False
        self._warned = False
        self._ended, self._given_up = threading.Event(), threading.Event()
        # A daemon: a process that ends must not wait for a silent connection.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """The job has ended: hand on what is left of the log, for so long at most."""
        self._ended.set()
        self._thread.join(seconds)
        self._given_up.set()

    def _run(self) -> None:
        while True:
            ended = self._ended.is_set()  # what comes after this look is not of interest any more
            try:
                drained = self._look()
            except (AnswerError, CutError) as error:
                logger.debug("the log of %s: %s", self._job, error)
                drained = False
            except RaceError as error:
                drained = False
                if not self._warned:  # training goes on, and its end is known without its log
                    logger.warning("the log cannot be read: %s", error)
                self._warned = True
            if self._given_up.is_set() or (ended and drained):
                return
            (self._given_up if ended else self._ended).wait(self._pause)

    def _look(self) -> bool:
        """Read what there is to read; whether that was all that this pod will ever say."""
        pod = next((p for p in self._api.pods(self._job) if rank_of(p) == 0), None)
        if pod is None:
            return True
        status = container_status(pod, CONTAINER)
        uid, restarts = pod["metadata"]["uid"], status.get("restartCount", 0)
        if uid != self._pod:
            self._pod, self._restarts = uid, restarts
            self._last = self._same = 0
            self._drained = False
        name = pod["metadata"]["name"]
        if restarts > self._restarts:
            # If it is gone, there is nothing to be done about it.
            with contextlib.suppress(AnswerError):
                self._read(name, previous=True, ended=True)
            self._restarts, self._drained = restarts, False
        state = status.get("state", {})
        if not self._drained and ("running" in state or "terminated" in state):
            self._read(name, previous=False, ended="terminated" in state)
            self._drained = "terminated" in state
        return self._drained

    def _read(self, pod: str, *, previous: bool, ended: bool) -> None:
        """Hand on the new lines of a log, as long as they come.

        Args:
            ended: it will not grow any more, so a last line without its end is whole.
        """
        since, skip, seen = self._last, self._same, 0
        with self._api.log(
            pod,
            since=_second(since) if since else "",
            follow=not ended,
            previous=previous,
            silence=self._silence,
        ) as lines:
            for line in lines:
                if not (line.endswith(b"\n") or ended) or self._given_up.is_set():
                    return  # it comes again, and whole
                moment, text = timed(line)
                if moment is None or moment < since:
                    continue  # not a line of the program; or one that was taken before the cut
                if moment == since and seen < skip:
                    seen += 1
                    continue
                self._same = self._same + 1 if moment == self._last else 1
                self._last = moment
                self._emit(text)


def container_status(pod: dict[str, Any], container: str) -> dict[str, Any]:
    """What a pod says of one of its containers; empty before that has a status."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status["name"] == container), {})


def timed(line: bytes) -> tuple[int | None, str]:
    """When a line was written (nanoseconds since 1970), None where it has no time; and its text."""
    found = _TIME.match(line)
    if not found:
        return None, line.decode("utf-8", "replace").rstrip("\r\n")
    day, fraction, zone = (part.decode() if part else "" for part in found.groups())
    seconds = datetime.datetime.fromisoformat(f"{day}{zone}").timestamp()
    moment = int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)
    return moment, line[found.end() :].decode("utf-8", "replace").rstrip("\r\n")


def _second(moment: int) -> str:
    """The whole second of a time, as the API takes it."""
    found = datetime.datetime.fromtimestamp(moment // 1_000_000_000, datetime.UTC)
    return found.strftime("%Y-%m-%dT%H:%M:%SZ")
