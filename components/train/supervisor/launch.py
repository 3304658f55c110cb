"""The ranks of this machine, through torchrun; all of them end with the process that asked.

python -m components.train.supervisor.launch --nproc-per-node=2 --no-python python WORKER ...
"""

import signal
import sys
from collections.abc import Sequence

from components.train import records
from components.train.rank.worker import die_with_parent

ENDED = "ENDED "  # and the exit statuses of the ranks that failed, as JSON


def main(argv: Sequence[str] | None = None) -> None:
    # torchrun ends its ranks when it is told to end; should it be killed, they notice themselves.
    die_with_parent(signal.SIGTERM)

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(sys.argv[1:] if argv is None else argv)
    except ChildFailedError as error:
        statuses = [failure.exitcode for failure in error.failures.values()]
        # torchrun itself ends the others by SIGTERM.
        first = [status for status in statuses if status != -signal.SIGTERM] or statuses
        records.write(ENDED, {"statuses": first})
        raise


if __name__ == "__main__":
    main()
