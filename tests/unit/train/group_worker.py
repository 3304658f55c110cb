"""Ranks of two nodes, one of node 0 and two of node 1, that agree on what to start from.

group_worker.py FOLDER prints, for each case, what each rank has in the end. The ranks are forks of
one process, which has imported torch for all of them.
"""

import json
import os
import random
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from components.common.errors import RaceError
from components.train.rank import group, hooks

CASES = ("fresh", "resumed", "ended", "damaged", "other seed", "stop")
PLACES = ((0, 0), (1, 0), (1, 1))  # node and local rank of each rank


def stop(folder: Path, ranks: group.Group) -> dict[str, Any]:
    """Makes updates until node 1, which is asked to after the third, has all of them stop."""
    control = folder / f"node-{ranks.node}"
    control.mkdir(exist_ok=True)
    boundaries = hooks.Boundaries(control, None, ranks.rank, ranks)
    while boundaries.passed < 20:
        torch.distributed.all_reduce(torch.ones(1))  # as an update's gradients
        boundaries.passed += 1
        if boundaries.passed == 3 and ranks.node == 1:
            (control / hooks.STOP).touch()
        if boundaries._stops():
            break
    ranks.leave()
    return {"stopped after": boundaries.passed}


def agree(folder: Path, case: str) -> dict[str, Any]:
    ranks = group.Group({"parameters.seed": 1}, ended=case == "ended" and os.environ["RANK"] == "0")
    if case == "stop":
        return stop(folder, ranks)
    own = folder / f"node-{ranks.node}"
    resumes = case != "fresh" and ranks.node == 0
    checkpoint = SimpleNamespace(
        save_dir=str(own),
        restore_file=str(own / "checkpoint_last.pt" if resumes else folder / "model.pt"),
        reset_optimizer=not resumes,
        reset_dataloader=not resumes,
        reset_meters=not resumes,
    )
    if case == "other seed" and ranks.node == 1:
        ranks.common = {"parameters.seed": 2}
    if case == "damaged" and ranks.rank == 1:
        told = ranks._broadcast
        flip = lambda values: [byte ^ 1 for byte in values] if len(values) > 2 else values  # noqa: E731
        ranks._broadcast = lambda values: flip(told(values))  # type: ignore[method-assign]
    error = ""
    try:
        ranks.agree(checkpoint)
    except group.Ended as raised:
        error = f"{type(raised).__name__}: {raised}"
        ranks.leave()
    except RaceError as raised:
        error = f"{type(raised).__name__}: {raised}"
    except RuntimeError:
        error = "lost"
    return {"error": error, **vars(checkpoint)}


def main() -> None:
    group.CHUNK = 1000
    found = {}
    for case in CASES:
        folder = Path(sys.argv[1]) / case
        (folder / "node-0").mkdir(parents=True)
        sent = random.Random(1).randbytes(12345)
        (folder / "node-0/checkpoint_last.pt").write_bytes(sent)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3"}
        children = []
        for rank, (node, local) in enumerate(PLACES):
            child = os.fork()
            if not child:
                os.environ |= {"RANK": str(rank), "GROUP_RANK": str(node), "LOCAL_RANK": str(local)}
                torch.distributed.init_process_group("gloo")
                (folder / f"{rank}.json").write_text(json.dumps(agree(folder, case)))
                os._exit(0)
            children.append(child)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        found[case] = [json.loads((folder / f"{r}.json").read_text()) for r in range(len(PLACES))]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
