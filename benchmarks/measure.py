"""What a command takes: wall time, CPU time and memory of all its processes."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Cost(NamedTuple):
    """Wall and CPU time in seconds, peak memory in MiB; CPU and memory are of all processes."""

    wall: float
    cpu: float
    memory: float

    def after(self, other: "Cost") -> "Cost":
        """What both take, one after the other."""
        return Cost(self.wall + other.wall, self.cpu + other.cpu, max(self.memory, other.memory))


def measure(command: list[str]) -> Cost:
    """Run a command to its end and say what it took."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    sampler = MemorySampler(process.pid)
    sampler.start()
    assert process.stdout is not None
    output = process.stdout.read()
    # Counts the children that the process itself has waited for.
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    sampler.finish()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{output[-3000:]}")
    # Not ru_maxrss: it starts from what the forking process had.
    return Cost(wall, usage.ru_utime + usage.ru_stime, sampler.peak)


class MemorySampler(threading.Thread):
    """Watches the memory of a process and all below it.

    The peak is the largest sum over the processes of what is resident, shared pages counted once
    (PSS), or the largest peak of a single one, which the kernel keeps exactly (VmHWM).
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self._pid = pid
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.1):
            processes = list(tree(self._pid))
            resident = sum(mebibytes(pid, "smaps_rollup", "Pss:") for pid in processes)
            largest = max(mebibytes(pid, "status", "VmHWM:") for pid in processes)
            self.peak = max(self.peak, resident, largest)

    def finish(self) -> None:
        self._over.set()
        self.join()


def tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from tree(int(child))
    except OSError:  # it has just ended
        return


def mebibytes(pid: int, file: str, field: str) -> float:
    try:
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    except OSError:  # it has just ended
        pass
    return 0.0
