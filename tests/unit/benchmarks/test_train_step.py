"""The comparison of engines loses nothing to a run that fails."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import train_step
from benchmarks.updates import Phase, RunFailed, run_updates
from components.train.config import TrainConfig


def test_a_run_that_fails_costs_only_itself(
    tiny_race: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked = {}

    def run(config: TrainConfig, phases: list[Phase], *, gpus: int, limit: float) -> Any:
        asked[config.engine, config.batch_size] = phases[1].updates, limit
        if config.engine == "stock" and config.batch_size == 1:
            raise RunFailed("it took longer than 600 s")
        timed = {"seconds": 2.0, "cpu_seconds": 1.0, "updates": phases[1].updates}
        return {"phases": {"timed": timed}, "losses": [1.4] * 8, "peak_bytes": 0}, ""

    monkeypatch.setattr(train_step, "run_updates", run)
    monkeypatch.setattr(train_step, "matmul_speed", lambda *_: 1e12)
    curves = tmp_path / "curves.json"
    options = ["--data", str(tiny_race.data), "--layers", "2", "--width", "32"]
    options += ["--stock-batch-size", "1", "--stock-batch-size", "4", "--curves", str(curves)]
    with pytest.raises(SystemExit) as end:
        train_step.main(options)
    assert end.value.code == 1
    said = capsys.readouterr()
    assert "stock, 1 at once failed: it took longer than 600 s" in said.err
    rows = [line for line in said.out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[:3] for row in rows[1:]] == [
        ["| stock, 4 at once", "20", "160.00"],
        ["| packed", "100", "800.00"],
    ]
    assert "packed is 5.00 times as fast as stock, 4 at once (5.00 times in CPU time)" in said.out
    assert json.loads(curves.read_text()).keys() == {"stock, 4 at once", "packed"}
    assert asked["stock", 1] == (20, 600)  # not as many as of the faster engine


def test_a_run_ends_at_its_limit(tiny_race: Any, tmp_path: Path) -> None:
    config = TrainConfig(
        tiny_race.data, tiny_race.pretrained, tmp_path / "out", **tiny_race.parameters
    )
    with pytest.raises(RunFailed, match="it took longer than 1 s"):
        run_updates(config, [Phase("all", 5)], gpus=0, limit=1)
