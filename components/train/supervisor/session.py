"""fairseq's processes while they train: what they say, whether they live, and how they end."""

import collections
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.common import strict_json
from components.common.cli import Terminated
from components.common.errors import (
    CollapseError,
    ConfigError,
    DataError,
    OutputError,
    RaceError,
    TrainingError,
)
from components.common.files import scratch_folder
from components.common.processes import python
from components.train.data import vocabulary_size
from components.train.flags import Run, fairseq_arguments
from components.train.rank import hooks
from components.train.rank.worker import FAILED
from components.train.records import RECORD
from components.train.supervisor import supervise
from components.train.supervisor.failure import (
    NodeLost,
    explain,
    is_transient,
    out_of_memory_kills,
    where,
)
from components.train.supervisor.launch import ENDED
from components.train.supervisor.log import Display, TrainLog
from components.train.supervisor.resume import TENSORBOARD, Checkpoints

logger = logging.getLogger(__name__)

TAIL_LINES = 40

# What ranks and torchrun tell, each before a JSON object; see records.write.
_MESSAGES = (RECORD, FAILED, ENDED, hooks.SAVED, hooks.STOPPED)

_A_WEEK = 7 * 24 * 3600  # seconds


def run_fairseq(run: Run, log: TrainLog, folder: Path, published: Checkpoints | None) -> None:
    """Train, in child processes that are gone when this function ends.

    Args:
        log: gets the records.
        folder: gets train.log and, below `control`, what the ranks hand over.
        published: takes the checkpoints over; only on node 0. With `checkpoint_uri` SIGTERM to
            any node lets training end with a checkpoint, without it at once.

    Raises:
        OutputError, TrainingError, or what a rank raised of ours; `transient` if it may pass.
        Terminated: SIGTERM was received, by this node or another; the newest checkpoint is with
            `published`.
    """
    stoppable = bool(run.config.checkpoint_uri)
    # What is being published of an earlier try stays where it is.
    session = _Session(run, log, folder / "control" / str(log.restarts), published)
    session.control.mkdir(parents=True)
    killed_before = out_of_memory_kills()
    # fairseq makes no folder where it finds a link to none.
    for made in (run.save_dir, folder / TENSORBOARD):
        made.mkdir(exist_ok=True)
    processes = run.plan.processes
    # Nodes may start long after each other; until a rank runs, its supervisor has the patience.
    patience = run.config.stall_timeout + 60 if run.config.stall_timeout else _A_WEEK
    stopping = _sigterm(session.ask_to_stop) if stoppable else contextlib.nullcontext()
    try:
        with stopping, scratch_folder() as temporary, scratch_folder() as links:
            # What torch leaves there when it is killed goes with the folder. The paths of sockets
            # that it makes there have 107 characters at most.
            own = {"TMPDIR": str(temporary)} if len(str(temporary)) < 70 else {}
            instructions = _instructions(run, links, saves=stoppable or published is not None)
            strict_json.write(session.control / hooks.INSTRUCTIONS, instructions)
            worker = ("components.train.rank.worker", "--control", str(session.control))
            rank = python(*worker, *fairseq_arguments(run, links))
            status = supervise.run(
                supervise.command(processes, rank, run.node, patience),
                env=supervise.environment(processes, run.plan.device, os.environ | own, run.node),
                log=folder / "train.log",
                on_line=session.on_line,
                on_tick=session.on_tick,
            )
            if status:
                out_of_memory = out_of_memory_kills() > killed_before
                raise session.failure(status, folder.parent, out_of_memory=out_of_memory)
            if session.stop_asked is not None and stoppable:
                waited = time.monotonic() - session.stop_asked
                if published:
                    published.finish(max(1.0, run.config.stop_timeout - waited))
                raise Terminated
    finally:
        if session.display:
            session.display.close()


def _instructions(run: Run, links: Path, *, saves: bool) -> dict[str, Any]:
    """What the ranks are to do, see components.train.rank.hooks."""
    config, patience = run.config, hooks.PATIENCE
    group = fitting = None
    if not run.node.alone:
        group = {"common": dict(run.common), "ended": run.ended}
        # Other nodes see no sign of life of the one that waits, and it hears of no stop from them.
        patience = min(patience, config.stall_timeout / 2 or patience, config.stop_timeout / 2)
    if not run.resumes:
        shape = asdict(config.shape(vocabulary_size(config.data)))
        fitting = {"path": str(run.pretrained), "shape": shape}
    return {
        "links": str(links),
        "fitting": fitting,
        "group": group,
        "boundaries": {
            "interval": config.checkpoint_interval if saves else None,
            "longest": 60 * config.checkpoint_minutes if saves else 0,
            "patience": patience,
        },
    }


class _Session:
    """What the supervisor knows of the ranks."""

    def __init__(
        self, run: Run, log: TrainLog, control: Path, published: Checkpoints | None
    ) -> None:
        self.config, self.log, self.control, self.published = run.config, log, control, published
        self.node = run.node
        # Only node 0 hears of updates.
        self.display = (
            Display(run.plan, run.config.epochs, logger.info, restarts=log.restarts)
            if self.node.leads
            else None
        )
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self.failures: list[dict[str, Any]] = []
        self.statuses: list[int] = []  # of the ranks that failed, where torchrun tells
        self.stop_asked: float | None = None
        self.sign_of_life = time.monotonic()
        self.touched = 0

    def on_line(self, line: str) -> None:
        self.sign_of_life = time.monotonic()
        kind = next((kind for kind in _MESSAGES if line.startswith(kind)), None)
        if kind is None:
            self.tail.append(line)
            return
        told = strict_json.loads(line.removeprefix(kind))
        if kind == FAILED:
            self.failures.append(told)
        elif kind == ENDED:
            self.statuses = told["statuses"]
        elif kind == hooks.SAVED:
            if self.published:
                self.published.saved(told)
        elif kind == hooks.STOPPED:
            if self.stop_asked is None:
                logger.info("another node was told to end; so all do")
                self.stop_asked = time.monotonic()
        elif record := self.log.add(told):
            if self.display:
                self.display.update(record)
            if self.published:
                self.published.logged(record)

    def failure(self, status: int, folder: Path, *, out_of_memory: bool) -> RaceError:
        """The error for ranks that ended so; shows the end of their log where it may say more."""
        statuses = self.statuses or [status]
        error = explain(
            statuses,
            self.failures,
            list(self.tail),
            self.log,
            self.node,
            folder,
            out_of_memory=out_of_memory,
        )
        lasts = out_of_memory or self.stop_asked is not None or isinstance(error, OutputError)
        error.transient = not lasts and is_transient(self.failures, statuses)
        # A collapse that is to be marked is no surprise, what is wrong with an input is told by the
        # error, and of another node's end the log of this one says nothing.
        marked = isinstance(error, CollapseError) and self.config.on_collapse == "mark"
        if not (marked or isinstance(error, NodeLost | ConfigError | DataError)):
            self.show_tail()
        return error

    def on_tick(self) -> None:
        """Raises what ends a training that hangs, or that does not stop in time."""
        now = time.monotonic()
        if self.stop_asked is not None and now - self.stop_asked > self.config.stop_timeout:
            logger.warning("training did not stop within %d s", self.config.stop_timeout)
            raise Terminated
        with contextlib.suppress(FileNotFoundError):
            touched = (self.control / hooks.ALIVE).stat().st_mtime_ns
            if touched != self.touched:  # a clock that is set does not matter so
                self.touched, self.sign_of_life = touched, now
        silent = now - self.sign_of_life
        if 0 < self.config.stall_timeout < silent:
            self.show_tail()
            if not self.node.alone and not self.touched:
                raise TrainingError(
                    f"{self.node} has waited {silent:.0f} s for the others at"
                    f" {self.node.master_addr}:{self.node.master_port}",
                    hint="Start all nodes, and see that they reach that address; if they take so"
                    " long, raise stall_timeout",
                )
            hangs = TrainingError(
                f"training hangs {where(self.log, self.node)}: no sign of life for {silent:.0f} s",
                hint="The last lines of its log are above; if an update may take so long, raise"
                " stall_timeout",
            )
            hangs.transient = self.stop_asked is None
            raise hangs

    def ask_to_stop(self, signum: int, frame: object) -> None:
        """What SIGTERM does: the ranks end at the next update's end; a second one ends them now."""
        if self.stop_asked is not None:
            raise Terminated
        self.stop_asked = time.monotonic()
        (self.control / hooks.STOP).touch()

    def show_tail(self) -> None:
        print(*self.tail, sep="\n", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _sigterm(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Within the block, SIGTERM calls `handler`; only the main thread can receive signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
