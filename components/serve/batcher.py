"""One thread that answers what many requests ask, as many of them together as there are.

A forward costs much that does not depend on the number of questions, and the packed engine pads
nothing: questions of any length share one. While a batch is computed others gather.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from components.predict.core import Read, Reader
from components.predict.questions import Question


@dataclass(eq=False)
class Job:
    """The questions of a request; `answered` becomes their answers, in their order."""

    questions: list[Question]
    answered: "Future[list[dict[str, Any]]]" = field(default_factory=Future)
    read: list[Read] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(len(sequence) for read in self.read for sequence in read.sequences)


class Batcher:
    """The thread that has the model.

    Args:
        load: gives the model; called in the thread.
        max_tokens: of a batch; a request is always let in.
        max_wait: seconds that a request waits for others.
        ready: called with the model when it is loaded.
        failed: called when the thread ends by an error, which `stop` raises.
    """

    def __init__(
        self,
        load: Callable[[], Reader],
        max_tokens: int,
        max_wait: float,
        ready: Callable[[Reader], None] = lambda reader: None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.reader: Reader | None = None
        self._load, self._ready, self._failed = load, ready, failed
        self._max_tokens, self._max_wait = max_tokens, max_wait
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wait until all that was asked is answered; raise what ended the thread before."""
        self._jobs.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def ask(self, questions: list[Question]) -> "Future[list[dict[str, Any]]]":
        """The answers to come; who no longer wants them cancels."""
        job = Job(questions)
        self._jobs.put(job)
        return job.answered

    def _run(self) -> None:
        try:
            self.reader = self._load()
            self._ready(self.reader)
            together = 1
            while batch := self._gathered(self.reader, together):
                self._answer(self.reader, batch)
                together = len(batch)
        except BaseException as error:
            self._error = error
            self._failed()

    def _gathered(self, reader: Reader, usual: int) -> list[Job]:
        """The next requests to be answered together; none at the end.

        Those are taken that are there. It is waited for more only while there are fewer than
        `usual`, those of the last batch: a lone client, who asks again when it has its answer,
        never waits.
        """
        batch: list[Job] = []
        job, deadline, tokens = self._jobs.get(), time.monotonic() + self._max_wait, 0
        while job is not None:
            if _read(reader, job):
                batch.append(job)
                tokens += job.tokens
            left = deadline - time.monotonic() if len(batch) < usual else 0
            try:
                if tokens >= self._max_tokens:
                    return batch
                job = self._jobs.get(timeout=max(0, left) if batch else None)
            except queue.Empty:
                return batch
        if batch:
            self._jobs.put(None)  # for the next call
        return batch

    def _answer(self, reader: Reader, batch: list[Job]) -> None:
        try:
            together = [read for job in batch for read in job.read]
            found = iter(reader.answers(together, self._max_tokens))
        except Exception as error:
            if len(batch) == 1:
                batch[0].answered.set_exception(error)
                return
            for job in batch:  # what fails one request fails no other
                self._answer(reader, [job])
        else:
            for job in batch:
                job.answered.set_result([next(found).fields() for _ in job.read])


def _read(reader: Reader, job: Job) -> bool:
    """Turn a request into tokens; false if nobody waits for it any more, or it failed."""
    if not job.answered.set_running_or_notify_cancel():
        return False
    try:
        job.read = reader.read(job.questions)
    except Exception as error:
        job.answered.set_exception(error)
        return False
    return True
