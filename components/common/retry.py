"""The one way of trying again: what may pass is tried again, with growing waits.

Downloads, object storage, Kubernetes and Kubeflow Pipelines differ in what may pass. They say it by
an AttemptError; how often and how long is decided here.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from components.common.errors import RaceError, TransferError

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class AttemptError(Exception):
    """One attempt failed; `retry` decides what follows.

    `cause` is a phrase for the user, free of credentials. `passes` says that the next attempt may
    succeed, `wait` how many seconds the server asked for before it, and `restart` that the bytes
    received so far do not belong to what the server has now.
    """

    final: type[RaceError] = TransferError
    """What it becomes when there is no further attempt."""

    def __init__(
        self,
        cause: str,
        *,
        hint: str = "",
        passes: bool = True,
        wait: float | None = None,
        restart: bool = False,
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint
        self.passes = passes
        self.wait = wait
        self.restart = restart


@dataclass(frozen=True)
class Patience:
    """How long to wait for a source (seconds), and how often to ask again."""

    attempts: int = 6
    connect: float = 10.0
    read: float = 60.0  # without a single byte
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def wait(self, failures: int, asked: float | None = None) -> float:
        """Seconds before the next attempt, after `failures` (1, 2...) in a row.

        Doubles each time. Half of it is random, so that pods which failed together do not come back
        together. What the server asked for goes first, but `longest_wait` is the limit of that too.
        """
        backoff = self.first_wait * 2.0 ** min(failures - 1, 30)
        wait = min(backoff, self.longest_wait) * random.uniform(0.5, 1.0)
        return min(max(wait, asked or 0.0), self.longest_wait)


def retry(
    call: Callable[[], Result],
    *,
    where: str,
    patience: Patience,
    hint: str = "",
    pause: Callable[[float], object] | None = None,
    progressed: Callable[[], bool] = lambda: False,
    warn_from: int | None = None,
) -> Result:
    """The result of `call`, which is tried again where an AttemptError says that this may help.

    Args:
        where: what is asked, for the error: an address without credentials.
        hint: what to do when it fails for good, where the error does not say it.
        pause: waits for this number of seconds; time.sleep where it is None.
        progressed: whether the attempt that has just failed got further than the ones before; the
            count of failures in a row then begins again.
        warn_from: log a warning for this failure in a row and later ones; None is never.

    Raises:
        TransferError: the last attempt failed; or what its error's `final` says.
    """
    attempts = failures = 0
    while True:
        attempts += 1
        try:
            return call()
        except AttemptError as error:
            failures = 1 if progressed() else failures + 1
            if not error.passes or failures >= patience.attempts:
                count = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                raise error.final(
                    f"{where}: {error.cause} ({count})", hint=error.hint or hint
                ) from error
            wait = patience.wait(failures, error.wait)
            if warn_from is not None and failures >= warn_from:
                log.warning("%s: %s; trying again in %.1f s", where, error.cause, wait)
        (pause or time.sleep)(wait)
