"""Training to its end, over failures that pass.

Only on one machine: the ranks of several nodes have to start together, which whoever started the
nodes sees to.
"""

import dataclasses
import logging
from pathlib import Path

from components.common.errors import RaceError
from components.train.flags import Run
from components.train.supervisor.log import TrainLog
from components.train.supervisor.resume import Checkpoints
from components.train.supervisor.session import run_fairseq

logger = logging.getLogger(__name__)


def train_with_restarts(
    run: Run, log: TrainLog, folder: Path, checkpoints: Checkpoints | None
) -> None:
    """Train, and start the ranks again from the newest checkpoint when a failure may pass.

    It gives up after `max_restarts` of them, and when no update was made since the failure before
    that had not been made then: what happens at the same place again will not pass.

    Raises:
        RaceError: what `run_fairseq` raised last.
    """
    furthest = -1
    while True:
        try:
            return run_fairseq(run, log, folder, checkpoints)
        except RaceError as error:
            if not (error.transient and checkpoints and run.config.restartable):
                raise
            before, furthest = furthest, max(log.update, checkpoints.kept())
            if log.restarts == run.config.max_restarts or furthest <= before:
                if log.restarts:
                    said = "once" if log.restarts == 1 else f"{log.restarts} times"
                    why = "" if furthest > before else ", and came no further than before"
                    logger.warning("it was started again %s%s", said, why)
                raise
            progress = checkpoints.go_back()
            log.restarts += 1
            logger.warning(
                "%s; going on from update %d (restart %d of at most %d)",
                error.what,
                progress.update if progress else 0,
                log.restarts,
                run.config.max_restarts,
            )
            if progress and progress.ends(run.config):
                return None
            run = dataclasses.replace(run, resumes=progress is not None)
