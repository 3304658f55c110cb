"""Training as a step of its own, to be killed and started again, and what has to come out of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from components.train import checkpoints

# What depends on the time that something took, or on what happened on the way.
TIMES = {
    "restarts",
    "seconds",
    "questions_per_second",
    "tokens_per_second",
    "memory_gb",
    "percent_of_peak",
}
# With stock the interval is 3 of 24 updates; the packed engine makes them several times as fast.
ENGINES = {
    "stock": {"engine": "stock", "epochs": 4, "checkpoint_interval": 3},
    "packed": {"engine": "packed", "epochs": 16, "checkpoint_interval": 20},
}


class Step:
    """`python -m components.train` in a folder of its own, as in a new pod.

    Args:
        before: what comes before the command, such as `ip netns exec ...`.
        environment: besides what this process has.
    """

    def __init__(
        self,
        tiny_race: Any,
        folder: Path,
        *,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **parameters: Any,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.output = folder, folder / "out"
        values = {
            **tiny_race.parameters,
            "data": tiny_race.data,
            "pretrained": tiny_race.pretrained,
            "output": self.output,
            # Does not divide the updates of an epoch: an interval goes on in the next one.
            "log_interval": 4,
            **parameters,
        }
        flags = [
            f"--{name.replace('_', '-')}" + (f"={value}" if value is not True else "")
            for name, value in values.items()
        ]
        self.screen = folder / "screen"
        self.started = time.monotonic()
        with self.screen.open("w") as screen:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "components.train", *flags],
                stdout=screen,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
            )

    @property
    def log(self) -> str:
        """What fairseq has printed."""
        # Of a node that does not lead, in a temporary folder.
        for path in self.folder.glob("*/train.log"):
            try:
                return path.read_text()
            except FileNotFoundError:
                break
        return ""

    def wait_for(self, text: str, *, within: float = 120) -> bool:
        """Whether fairseq has printed it; False when the step ends before."""
        while text not in self.log:
            if self.process.poll() is not None:
                return False
            assert time.monotonic() - self.started < within, self.screen.read_text()
            time.sleep(0.02)
        return True

    def descendants(self) -> list[int]:
        """Processes with the folder among their arguments, but for the step itself."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if f"{self.folder}/" in command and int(entry.name) != self.process.pid:
                found.append(int(entry.name))
        return found

    def ranks(self) -> list[int]:
        return [
            pid
            for pid in self.descendants()
            if "components.train.rank.worker" in Path(f"/proc/{pid}/cmdline").read_text()
            and "components.train.supervisor.launch" not in Path(f"/proc/{pid}/cmdline").read_text()
            and "torch.distributed" not in Path(f"/proc/{pid}/cmdline").read_text()
        ]

    def end(self, within: float = 120) -> int:
        """Its exit status; no process is left behind."""
        try:
            status = self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        deadline = time.monotonic() + 15
        while self.descendants() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.descendants() == []
        return status

    def kill(self) -> int:
        """`kill -9` of the process group that the pod's command is; the ranks follow."""
        os.killpg(self.process.pid, signal.SIGKILL)
        return self.end()


def result(output: Path) -> dict[str, Any]:
    """What has to be the same, whatever happened on the way."""
    metrics = json.loads((output / "metrics.json").read_text())
    lines = (output / "train_log.jsonl").read_text().splitlines()
    return {
        "metrics": {k: v for k, v in metrics.items() if k not in TIMES | {"parameters"}},
        "log": [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines],
        **{name: checkpoints.load(output / name)["model"] for name in CHECKPOINTS},
    }


CHECKPOINTS = ("checkpoint_best.pt", "checkpoint_last.pt")


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["log"] == expected["log"]
    assert found["metrics"] == expected["metrics"]
    for name in CHECKPOINTS:
        assert found[name].keys() == expected[name].keys()
        for parameter, value in found[name].items():
            assert torch.equal(value, expected[name][parameter]), (name, parameter)


def run(tiny_race: Any, folder: Path, **parameters: Any) -> dict[str, Any]:
    step = Step(tiny_race, folder, **parameters)
    assert step.end() == 0, step.screen.read_text()
    return result(step.output)
