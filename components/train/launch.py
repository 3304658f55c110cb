"""Several ranks on this machine, through torchrun; all of them end with the process that asked.

python -m components.train.launch 2 DATA --arch roberta_large ...
"""

import signal
import sys
from collections.abc import Sequence

from components.train.worker import die_with_parent


def main(argv: Sequence[str] | None = None) -> None:
    processes, *arguments = sys.argv[1:] if argv is None else argv
    # torchrun ends its ranks when it is told to end; should it be killed, they notice themselves.
    die_with_parent(signal.SIGTERM)

    from torch.distributed import run

    run.main(
        [
            "--standalone",
            f"--nproc-per-node={processes}",
            "--max-restarts=0",
            "-m",
            "components.train.worker",
            *arguments,
        ]
    )


if __name__ == "__main__":
    main()
