"""Run a tree of processes, hand on what it prints, and never leave any of it behind."""

import os
import selectors
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from components.common.processes import python, running
from components.train.node import ALONE, PREFIX, Node, interface_to
from components.train.rank.worker import PARENT

# torchrun gives its ranks 30 s to end; a rank that runs on a GPU needs a few at most.
GRACE_SECONDS = 10.0

# Variables with settings of torch's allocator, the first of which is its name since torch 2.9.
ALLOCATOR = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}

# How often (seconds) `run` calls `on_tick` when nothing is printed.
TICK_SECONDS = 0.25


def command(
    processes: int, rank: Sequence[str], node: Node = ALONE, patience: int = 0
) -> list[str]:
    """The command that trains with this number of ranks on this node.

    No rank is ever started again by torchrun: all have to go on from the same checkpoint, which
    components.train.supervisor.restarts sees to, or whoever starts the nodes again.

    Args:
        rank: the command of one of them.
        patience: seconds that nodes wait for each other at the start.
    """
    if processes == 1 and node.alone:
        return list(rank)
    torchrun = [f"--nproc-per-node={processes}", "--max-restarts=0", "--no-python"]
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
    # torchrun fills "$" expressions in.
    escaped = [argument.replace("$", "$$") for argument in rank]
    return python("components.train.supervisor.launch", *meeting, *torchrun, *escaped)


def environment(
    processes: int, device: str, inherited: Mapping[str, str], node: Node = ALONE
) -> dict[str, str]:
    """The environment for the ranks of this node."""
    # A launcher further up must not make the ranks believe that they are its own, and torchrun is
    # told all that it needs by its arguments.
    rank_variables = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    result = {
        name: value
        for name, value in inherited.items()
        if name not in rank_variables and not name.startswith(PREFIX)
    }
    result["PYTHONUNBUFFERED"] = "1"
    result[PARENT] = str(os.getpid())
    # Ranks on the CPU share its cores; without this each would start a thread for every core.
    cores = len(os.sched_getaffinity(0))
    result.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    # Threads that spin while they wait make a small model several times slower on a busy machine.
    result.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A rank that waits for one that failed must not hang for torch's default of ten minutes.
    result.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    if device == "cuda" and not ALLOCATOR.intersection(result):
        # Every update has another shape; in segments of a fixed size, memory would be left over.
        result["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    if device == "cpu":
        result["CUDA_VISIBLE_DEVICES"] = ""
        if not node.alone and (interface := interface_to(node.master_addr)):
            result.setdefault("GLOO_SOCKET_IFNAME", interface)
    return result


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    on_line: Callable[[str], None],
    on_tick: Callable[[], None] = lambda: None,
    grace: float = GRACE_SECONDS,
) -> int:
    """Run a command to its end; its output goes to `log` and, line by line, to `on_line`.

    `on_tick` is called several times a second; it ends the command by raising. Whatever ends this
    function (the command, an exception from `on_line` or `on_tick`, a signal that raises),
    the processes that it started are gone afterwards: told to end, killed after `grace` seconds.

    Returns:
        The exit status, negative for a signal.
    """
    with (
        log.open("ab") as log_file,
        running(
            command, grace=grace, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
    ):
        _follow(process, log_file, on_line, on_tick)
        return process.wait()


def _follow(
    process: subprocess.Popen[bytes],
    log: BinaryIO,
    on_line: Callable[[str], None],
    on_tick: Callable[[], None],
) -> None:
    assert process.stdout is not None
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            on_tick()
            if selector.select(timeout=TICK_SECONDS):
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    break
                log.write(chunk)
                log.flush()
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    on_line(line.decode("utf-8", "replace"))
            elif process.poll() is not None:
                # Something that it started still holds the pipe; nothing more is to be awaited.
                break
    if pending:
        on_line(pending.decode("utf-8", "replace"))
