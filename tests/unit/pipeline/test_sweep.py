"""Sweeps on the command line: which pipeline is made, with what, and what is shown of trials."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.common.errors import ConfigError
from components.common.results.metrics import Ensemble, Selection, Trial
from components.common.results.scores import Group, Scores
from components.train.core import TrainConfig
from pipeline import cli
from pipeline.parameters import folded, load_config, resolve, trials


def resolved(*assignments: str) -> dict[str, Any]:
    return resolve(load_config("smoke"), folded(dict(each.split("=", 1) for each in assignments)))


# Parameters


def test_seeds_and_learning_rates_make_trials() -> None:
    found = trials(resolved("seeds=[1,2]", "learning_rates=[1e-5, 2]", "seed=9"))
    assert [(t.seed, t.learning_rate) for t in found] == [(1, 1e-5), (2, 1e-5), (1, 2.0), (2, 2.0)]


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["seeds=[1,2,1]"], "seeds: 1 is given twice"),
        (["seeds=[1.5]"], "seeds: 1.5 is not a whole number"),
        (['seeds=["1"]'], "seeds: '1' is not a whole number"),
        (["seeds=[true]"], "seeds: True is not a whole number"),
        (["seeds=1"], "parameter seeds: expected a JSON list"),
        (["seeds={}"], "parameter seeds: expected a JSON list"),
        (["seeds=1,2,3"], "parameter seeds: expected a JSON list"),
        (['learning_rates=["low"]'], "learning_rates: 'low' is not a number"),
        (["learning_rates=[1e-5,0.00001]"], "learning_rates: 1e-05 is given twice"),
        (["seeds=[1,2]", "resume_from=s3://bucket/x"], "resume_from is about one training"),
        (["select_ensemble=0"], "select: ensemble is 0"),
    ],
)
def test_what_makes_no_sweep_is_refused_at_once(assignments: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        resolved(*assignments)


# race compile


def inputs(path: Path) -> Any:
    spec = next(yaml.safe_load_all(path.read_text()))
    return spec["root"]["inputDefinitions"]["parameters"]


@pytest.mark.slow
def test_compile_writes_both_pipelines_and_checks_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compile"]) == 0
    assert "seeds" not in inputs(Path("pipeline.yaml"))
    assert inputs(Path("sweep.yaml"))["seeds"]["defaultValue"] == []
    assert cli.main(["compile", "--check"]) == 0
    Path("sweep.yaml").write_text("old")
    assert cli.main(["compile", "--check"]) == 3
    assert "sweep.yaml is not up to date" in capsys.readouterr().err


def test_compile_with_seeds_makes_a_sweep_with_them(tmp_path: Path) -> None:
    output = tmp_path / "seeds.yaml"
    assert cli.main(["compile", "-p", "seeds=[4,5]", "--output", str(output)]) == 0
    assert inputs(output)["seeds"]["defaultValue"] == [4, 5]
    assert "parallelismLimit: 2\n" in output.read_text()
    arguments = ["compile", "-p", "seeds=[4,5]", "--parallelism", "7", "--output", str(output)]
    assert cli.main(arguments) == 0
    assert "parallelismLimit: 7\n" in output.read_text()


@pytest.mark.parametrize("command", [["compile"], ["submit", "--host", "http://localhost"]])
def test_at_least_one_trial_has_to_run(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, "--parallelism", "0"]) == 2
    assert "--parallelism: 0: give at least 1" in capsys.readouterr().err


# race submit


def test_a_sweep_is_a_version_of_its_own_with_its_own_parameters(kubeflow: Any) -> None:
    submit = ["submit", "--host", kubeflow.host, "--local-images"]
    assert cli.main([*submit, "-p", "seeds=[1,2]"]) == 0
    assert cli.main(submit) == 0
    assert [made["display_name"] for made in kubeflow.pipelines] == ["race-roberta"]
    first, second = (made["display_name"] for made in kubeflow.versions)
    assert re.fullmatch("sweep-[0-9a-f]{12}", first)
    assert re.fullmatch("[0-9a-f]{12}", second)
    sweep, single = (run["runtime_config"]["parameters"] for run in kubeflow.runs)
    assert sweep["seeds"] == [1, 2]
    assert "resume_from" not in sweep
    assert "seeds" not in single
    assert "resume_from" in single
    for package, given in zip(kubeflow.packages, (sweep, sweep, single), strict=True):
        known = next(yaml.safe_load_all(package))["root"]["inputDefinitions"]["parameters"]
        assert known.keys() == given.keys()


# What a trial's training is given


@pytest.mark.parametrize(
    ("trial", "address"),
    [("", "s3://bucket/race/run-7"), ("seed-2", "s3://bucket/race/run-7/seed-2")],
)
def test_each_trial_has_a_place_of_its_own_for_its_checkpoints(trial: str, address: str) -> None:
    config = TrainConfig(
        *(Path(name) for name in ("data", "pretrained", "output")),
        checkpoint_uri="s3://bucket/race/",
        run_id="run-7",
        trial=trial,
    )
    assert config.checkpoint_uri == address
    assert dataclasses.replace(config) == config


# The page of a run, and runs side by side


def make_sweep(folder: Path) -> Path:
    """The folder of a sweep: seed 1 was selected, seed 2 collapsed, seed 3 failed."""

    def write(name: str, content: dict[str, Any]) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    scores = Scores.together([Group(name, 100, 80, 0.5) for name in ("middle", "high")])
    evaluation = {**scores.to_metrics(), "chance": 25.0}
    training = {"best_valid_accuracy": 81.0, "updates": 9, "collapsed": ""}
    for place in ("", "trials/seed-1/"):
        write(f"{place}model/metrics.json", training)
        write(f"{place}report/metrics.json", evaluation)
        (folder / place / "report" / "report.html").touch()
    marked = {"best_valid_accuracy": None, "updates": 3, "collapsed": "it guesses"}
    write("trials/seed-2/model/metrics.json", marked)
    write("trials/seed-2/report/metrics.json", {"absent": "it guesses"})
    together = Scores.together([Group(name, 200, 161) for name in ("middle", "high")])
    trials = (
        Trial("seed 1", accuracies={"all": 80.0}),
        Trial("seed 2", collapsed="it guesses", accuracies={"all": None}),
    )
    selection = Selection(
        scores=scores,
        chance=25.0,
        interval=scores.interval,
        selected="seed 1",
        validation_accuracy=81.0,
        median_accuracy=80.0,
        mean_accuracy=80.0,
        collapsed=1,
        trials=trials,
        spread={},
        parameters={},
        ensemble=Ensemble(["seed 1", "seed 4"], together, together.interval, 0.5),
        ensemble_accuracy=together.all.accuracy,
    )
    write("selection/metrics.json", selection.to_metrics())
    (folder / "selection" / "report.html").touch()
    steps = [
        {
            "name": f"{name} (seed {seed})",
            "trial": f"seed-{seed}",
            "log": f"{name}-seed-{seed}.log",
            "seconds": 60.0,
            "cached": False,
            "exit_status": 137 if seed == 3 else 0,
        }
        for seed in (1, 2, 3)
        for name in ("train", "evaluate")
    ]
    record = {"state": "failed", "runner": "subprocess", "steps": steps, "parameters": {}}
    write("run.json", record)
    (folder / "logs").mkdir()
    (folder / "logs" / "train-seed-2.log").touch()
    return folder


def test_the_page_of_a_sweep_leads_to_each_trial(tmp_path: Path) -> None:
    run = make_sweep(tmp_path / "run")
    assert cli.main(["report", str(run)]) == 0
    page = (run / "index.html").read_text()
    for path in (
        "selection/report.html",
        "trials/seed-1/report/report.html",
        "logs/train-seed-2.log",
    ):
        assert f'href="{path}"' in page
    rows = re.findall(r'<th scope="row">(seed \d)</th><td[^>]*>([a-z]*)</td>', page)
    assert rows == [("seed 1", "selected"), ("seed 2", "collapsed"), ("seed 3", "failed")]
    plain = page.replace("\xa0", " ")
    assert "ensemble of 2" in plain
    assert "80.5 %" in plain
    assert "1 of 2 collapsed" in plain


def test_sweeps_are_compared_by_their_selected_model_and_their_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_sweep(tmp_path / name) for name in ("one", "two")]
    assert cli.main(["compare", *map(str, runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {name: values for name, *values in (re.split(r"\s{2,}", s.strip()) for s in lines)}
    assert rows["all test questions, %"] == ["80.00", "80.00"]
    assert rows["trials"] == ["3", "3"]
    assert rows["collapsed"] == ["1", "1"]
    assert rows["median of the trials, %"] == ["80.00", "80.00"]
    assert rows["ensemble, %"] == ["80.50", "80.50"]
    assert rows["time of train"] == ["3 min 00 s", "3 min 00 s"]
