import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.common.processes import python
from components.train.node import Node
from components.train.supervisor import supervise

# Starts a child of its own in a new session, prints its process id, and waits.
FAMILY = """
import subprocess, sys, time
code = '''
import signal, time
from components.train.rank.worker import die_with_parent
die_with_parent(signal.SIGKILL)
print("ready", flush=True)
time.sleep(600)
'''
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


class Enough(Exception):
    pass


def gone(pid: int, within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # dead; whoever adopted it has not looked yet
            return True
        time.sleep(0.05)
    return False


def run(code: str, log: Path, on_line: object = None, grace: float = 5.0) -> int:
    return supervise.run(
        [sys.executable, "-c", code],
        env=os.environ,
        log=log,
        on_line=on_line or (lambda line: None),  # type: ignore[arg-type]
        grace=grace,
    )


def test_output_goes_to_the_log_and_line_by_line_to_the_caller(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "import sys; print('one'); print('two', file=sys.stderr); print('three', end='')"
    assert run("import sys; sys.stdout.reconfigure(line_buffering=True); " + code,
               tmp_path / "log", lines.append) == 0  # fmt: skip
    assert sorted(lines) == ["one", "three", "two"]
    assert sorted((tmp_path / "log").read_text().split()) == ["one", "three", "two"]


def test_the_exit_status_is_handed_on(tmp_path: Path) -> None:
    assert run("raise SystemExit(3)", tmp_path / "log") == 3
    assert run("import os; os.kill(os.getpid(), 9)", tmp_path / "log") == -9


def test_everything_is_gone_when_the_caller_stops(tmp_path: Path) -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        if line == "ready":
            raise Enough
        pids.append(int(line))

    with pytest.raises(Enough):
        run(FAMILY, tmp_path / "log", on_line)
    assert len(pids) == 1
    assert gone(pids[0])


def test_a_child_of_a_killed_process_does_not_outlive_it(tmp_path: Path) -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        if line == "ready":
            parent = Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1]
            os.kill(int(parent), 9)
        else:
            pids.append(int(line))

    assert run(FAMILY, tmp_path / "log", on_line) == -9
    assert gone(pids[0])


def test_what_does_not_heed_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    def on_line(line: str) -> None:
        raise Enough

    deaf = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
    start = time.monotonic()
    with pytest.raises(Enough):
        run(deaf, tmp_path / "log", on_line, grace=0.3)
    assert time.monotonic() - start < 60


def test_a_pipe_that_a_survivor_holds_open_does_not_hang(tmp_path: Path) -> None:
    code = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("bye", flush=True)
"""
    lines: list[str] = []
    assert run(code, tmp_path / "log", lines.append) == 0
    assert lines == ["bye"]


def test_ranks_share_the_cores_and_do_not_inherit_another_launchers_rank() -> None:
    cores = len(os.sched_getaffinity(0))
    env = supervise.environment(2, "cpu", {"RANK": "3", "WORLD_SIZE": "4", "HOME": "/root"})
    assert "RANK" not in env
    assert "WORLD_SIZE" not in env
    assert env["HOME"] == "/root"
    assert env["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert supervise.environment(1, "cuda", {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
    assert "CUDA_VISIBLE_DEVICES" not in supervise.environment(1, "cuda", {})


def test_memory_of_a_gpu_is_taken_in_segments_that_grow_unless_told_otherwise() -> None:
    ours = supervise.environment(1, "cuda", {})
    assert ours["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        theirs = supervise.environment(1, "cuda", {name: "max_split_size_mb:64"})
        assert {k: v for k, v in theirs.items() if "ALLOC" in k} == {name: "max_split_size_mb:64"}
    assert "PYTORCH_ALLOC_CONF" not in supervise.environment(1, "cpu", {})


def test_a_rank_whose_parent_ended_before_it_looked_ends(tmp_path: Path) -> None:
    code = """
import signal, time
from components.train.rank.worker import die_with_parent
die_with_parent(signal.SIGKILL)
time.sleep(600)
"""
    environment = supervise.environment(1, "cpu", os.environ)
    assert environment["RACE_TRAIN_PARENT"] == str(os.getpid())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    orphan = {**environment, "RACE_TRAIN_PARENT": str(ended.pid)}
    assert subprocess.run([sys.executable, "-c", code], env=orphan, timeout=60).returncode == -9


SECOND = Node(1, 2, "first.example", 29400)


def test_one_rank_on_one_machine_needs_no_torchrun() -> None:
    assert supervise.command(1, ["worker", "DATA"]) == ["worker", "DATA"]


def test_ranks_of_one_machine_meet_by_themselves() -> None:
    command = supervise.command(2, ["worker", "${local_rank}"])
    assert command[:4] == python("components.train.supervisor.launch")
    assert command[4:7] == ["--standalone", "--nproc-per-node=2", "--max-restarts=0"]
    # It would fill the variable in.
    assert command[7:] == ["--no-python", "worker", "$${local_rank}"]


@pytest.mark.parametrize("processes", [1, 8])
def test_ranks_of_several_nodes_meet_at_node_0(processes: int) -> None:
    command = supervise.command(processes, ["worker", "DATA"], SECOND, patience=600)
    assert set(command[4:]) == {
        *("--nnodes=2", "--node-rank=1", f"--nproc-per-node={processes}", "--max-restarts=0"),
        *("--rdzv-backend=static", "--rdzv-conf=timeout=600"),
        *("--master-addr=first.example", "--master-port=29400"),
        *("--no-python", "worker", "DATA"),
    }


def test_torchrun_is_told_by_its_arguments_alone() -> None:
    inherited = {"PET_NNODES": "2", "PET_RDZV_BACKEND": "c10d", "PET_NPROC_PER_NODE": "8"}
    for node in (Node(), SECOND):
        env = supervise.environment(1, "cuda", inherited, node)
        assert not [name for name in env if name.startswith("PET_")]
        assert "GLOO_SOCKET_IFNAME" not in env, "gloo is for CPUs"


def test_gloo_takes_the_interface_that_leads_to_node_0() -> None:
    here = Node(1, 2, "127.0.0.1", 29400)
    assert supervise.environment(1, "cpu", {}, here)["GLOO_SOCKET_IFNAME"] == "lo"
    chosen = {"GLOO_SOCKET_IFNAME": "eth7"}
    assert supervise.environment(1, "cpu", chosen, here)["GLOO_SOCKET_IFNAME"] == "eth7"
    assert "GLOO_SOCKET_IFNAME" not in supervise.environment(1, "cpu", {})
