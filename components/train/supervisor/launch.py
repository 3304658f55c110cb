"""The ranks of this machine, through torchrun; all of them end with the process that asked.

python -m components.train.supervisor.launch --nproc-per-node=2 --no-python python WORKER ...
"""

import signal
import sys
from collections.abc import Sequence

from components.train import records
from components.train.node import Node
from components.train.rank.worker import die_with_parent

ENDED = "ENDED "  # and the exit statuses of the ranks that failed, as JSON


def torchrun_arguments(processes: int, node: Node, patience: int) -> list[str]:
    """What torchrun is told before the module that it runs.

    No rank is ever started again by torchrun: all have to go on from the same checkpoint, which
    components.train.supervisor.restarts sees to, or whoever starts the nodes again.

    Args:
        processes: ranks of this machine.
        patience: seconds that the nodes wait for each other at the start.
    """
    meeting = ["--standalone"]
    if not node.alone:
        meeting = [
            f"--nnodes={node.nodes}",
            f"--node-rank={node.rank}",
            "--rdzv-backend=static",
            f"--master-addr={node.master_addr}",
            f"--master-port={node.master_port}",
            f"--rdzv-conf=timeout={patience}",
        ]
    return [*meeting, f"--nproc-per-node={processes}", "--max-restarts=0"]


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
