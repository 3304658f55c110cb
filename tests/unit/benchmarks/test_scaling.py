"""The model of docs/scaling.md: limits that can be worked out by hand, and its own check."""

import math
import re
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.scaling import __main__ as program
from benchmarks.scaling.config import GPUS, HOUR, Assumptions
from benchmarks.scaling.losses import KFP_RETRIES, Schedule, expected, first_order, simulate
from benchmarks.scaling.model import (
    BATCH,
    Model,
    balanced,
    checkpoints_at,
    daly,
    largest_share,
    lengths_of_race,
    ring,
    untrained_parameters,
    young,
)
from benchmarks.scaling.tables import Results
from components.common.cli import run_step
from components.common.errors import ConfigError
from components.train.config import TrainConfig
from pipeline import docs

PAGE = program.PAGE.read_text(encoding="utf-8")

# Everything that can be is for nothing.
FREE = {"host": 0, "launch": 0, "start": 0, "link_latency": 0, "network_latency": 0}
FREE |= {"checkpoint_rate": 1e12, "store_rate": 1e12, "interval": 0}


@pytest.fixture(scope="module")
def results() -> Results:
    return Results(Assumptions())


@pytest.fixture(scope="module")
def model(results: Results) -> Model:
    return results.model


def test_the_page_and_its_plots_are_fresh(results: Results) -> None:
    for path, text in program.fresh(results).items():
        assert path.read_text(encoding="utf-8") == text, "run python -m benchmarks.scaling --write"


def test_the_defaults_are_those_of_the_train_step_and_the_pipeline() -> None:
    from pipeline.pipeline import RETRIES

    recipe = TrainConfig(Path(), Path(), Path())
    assert Assumptions().interval == recipe.checkpoint_interval
    assert Assumptions().precision == recipe.precision
    assert recipe.effective_batch == BATCH
    assert KFP_RETRIES == RETRIES


def test_what_is_counted_is_what_the_results_say(model: Model) -> None:
    text = (docs.ROOT / "benchmarks" / "RESULTS.md").read_text()
    everything = model.parameters + untrained_parameters(model.shape)
    assert f"has {everything / 1e6:.1f} million parameters" in text
    assert f"| {model.checkpoint_bytes / 1e9:.2f} |" in text
    assert f"| {Model(Assumptions(precision='fp32')).checkpoint_bytes / 1e9:.2f} |" in text
    assert model.total_flops == pytest.approx(1.25e18, rel=0.03)
    assert model.tokens_per_sequence == pytest.approx(370, rel=0.01)


def test_one_gpu_takes_its_operations_over_its_rate_and_its_steps_over_its_memory() -> None:
    model = Model(Assumptions(gpu="A100", peak_share=0.5, memory_share=1, **FREE))
    rate = 0.5 * 312e12
    steps = 27_460 * 32 * model.parameters / 2039e9
    validation = 5 * 4_887 / 3 * model.question_flops / rate
    run = model.run(1)
    assert run.seconds == pytest.approx(model.total_flops / rate + steps + validation, rel=1e-6)
    assert run.dollars == pytest.approx(run.seconds / 3600 * 2.00)
    assert run.updates == 27_460


def test_gpus_that_exchange_gradients_for_nothing_share_the_work() -> None:
    model = Model(Assumptions(link=1e12, network=1e12, **FREE))
    one, sixteen = model.update(1, BATCH), model.update(16, BATCH)
    assert sixteen.reduce == pytest.approx(0, abs=1e-9)
    assert sixteen.compute == pytest.approx(one.compute / 16)
    slowest = largest_share(1, 16, BATCH)
    assert sixteen.compute + sixteen.uneven == pytest.approx(one.compute * slowest)


def test_a_measured_throughput_is_the_update_of_one_gpu() -> None:
    assert Model(Assumptions(throughput=40)).update(1, BATCH).seconds == pytest.approx(16 / 40)
    with pytest.raises(ConfigError, match="throughput is 1e"):
        Model(Assumptions(throughput=1e9))


def test_the_host_bounds_an_update_that_is_small_for_its_gpu() -> None:
    model = Model(Assumptions(gpu="H100", peak_share=1, launch=1e-3, kernels=10))
    update = model.update(8, BATCH)
    assert update.compute + update.uneven == pytest.approx(24 * 10 * 1e-3)


def test_a_ring_moves_each_byte_twice_but_for_ones_own() -> None:
    assert ring(8, 4, 2, 0) == pytest.approx(2 * 3 / 4 * 8 / 2)
    assert ring(0, 4, 2, 0.5) == pytest.approx(6 * 0.5)
    assert ring(8, 1, 2, 0.5) == 0


def test_an_all_reduce_between_nodes_is_the_sum_worked_out_by_hand(model: Model) -> None:
    gigabytes = 2 * model.parameters / 1e9
    assert gigabytes == pytest.approx(0.7107, abs=1e-4)
    within = 2 * 7 / 8 * gigabytes / (0.7 * 300) + 14 * 5e-6
    assert model.reduce(8) == pytest.approx(within)
    between = 2 * 1 / 2 * gigabytes / (0.85 * 12.5) + 2 * 25e-6
    assert model.reduce(16) == pytest.approx(within + between)
    flat = 2 * 15 / 16 * gigabytes / (0.85 * 12.5) + 30 * 25e-6
    assert model.reduce(16, algorithm="ring") == pytest.approx(flat)
    assert model.reduce(1) == 0


def test_what_the_train_step_refuses_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="effective_batch 16 does not divide over 4 nodes"):
        model.run(32)


def test_the_engine_reduces_gradients_in_the_type_of_its_parameters(model: Model) -> None:
    import torch

    from components.train import compat

    compat.import_fairseq()
    from components.train.fairseq_plugin.optimizer import PackedAdam

    adam = {"adam_betas": (0.9, 0.98), "lr": [1e-5], "adam_eps": 1e-6, "weight_decay": 0.01}
    cfg = SimpleNamespace(optimizer=SimpleNamespace(**adam))
    for kind, assumptions in (
        (torch.bfloat16, Assumptions(precision="bf16")),
        (torch.float32, Assumptions(precision="fp32")),
    ):
        optimizer = PackedAdam(cfg, [torch.nn.Parameter(torch.zeros(3, dtype=kind))])
        size = optimizer.gradients.element_size()
        assert Model(assumptions).gradient_bytes == size * model.parameters


def test_ranks_get_the_questions_that_the_engine_gives_them() -> None:
    from components.train import compat

    compat.import_fairseq()
    from components.train.fairseq_plugin.batch import balance

    sizes = np.random.default_rng(0).integers(100, 2049, (40, 16))
    for ranks in (1, 2, 3, 8, 16):
        owners = balanced(sizes, ranks)
        for row, owner in zip(sizes, owners, strict=True):
            shares = [np.flatnonzero(owner == rank).tolist() for rank in range(ranks)]
            assert shares == balance(row.tolist(), ranks)


def test_the_peaks_are_those_that_the_engine_knows() -> None:
    from components.train import compat

    compat.import_fairseq()
    from components.train.fairseq_plugin.memory import _PEAK_FLOPS

    assert {name: gpu.peak for name, gpu in GPUS.items()} == {
        name: _PEAK_FLOPS[name] for name in GPUS
    }


def test_a_rank_with_one_question_waits_for_the_longest_one() -> None:
    assert largest_share(1, 1, 16) == 1
    assert 1 / 8 < largest_share(1, 8, 16) < largest_share(1, 16, 16) * 2
    tokens = lengths_of_race(1).sum(1)[: 87_866 // 16 * 16].reshape(-1, 16)
    longest = (tokens.max(1) / tokens.sum(1)).mean()
    # Operations grow a little faster than tokens.
    assert largest_share(1, 16, 16) == pytest.approx(longest, rel=0.02)


def test_checkpoints_are_every_interval_and_after_each_epoch() -> None:
    assert checkpoints_at(10, 2, 4) == [4, 8, 10, 12, 16, 20]
    assert checkpoints_at(10, 2, 5) == [5, 10, 15, 20]
    assert checkpoints_at(10, 2, 0) == [10, 20]


def test_without_losses_a_run_is_its_parts(model: Model) -> None:
    run = model.run(8)
    parts = 210 + run.training + run.validation + run.waiting
    assert run.seconds == pytest.approx(parts + model.publishing)  # of the last checkpoint
    assert run.waiting == pytest.approx(32 * model.checkpoint_bytes / 0.25e9)


def test_a_newer_checkpoint_takes_the_place_of_one_that_waits() -> None:
    schedule = Schedule(start=0, restart=0, publishing=25, stretches=(10.0,) * 5)
    assert schedule.published(0) == [(35, 1), (60, 3), (85, 5)]
    assert schedule.published(3) == [(35, 4), (60, 5)]
    assert Schedule(7, 0, 1, (10.0, 10.0)).undisturbed() == 28


def test_one_stretch_takes_what_daly_says() -> None:
    rate, restart, work = 1 / 1000, 50, 700
    schedule = Schedule(restart, restart, 0, (work,))
    daly_2006 = (math.exp(rate * (work + restart)) - 1) / rate
    assert expected(schedule, rate) == pytest.approx(daly_2006)
    assert expected(schedule, 0) == work + restart
    assert expected(schedule, 1e-12) == pytest.approx(work + restart)
    assert expected(schedule, 10) == math.inf


SCHEDULES = {
    "published at once": Schedule(20, 30, 0, (100.0,) * 8),
    "published beside training": Schedule(20, 30, 40, (100.0, 60.0, 100.0, 60.0, 100.0)),
    "published too slowly": Schedule(5, 30, 90, (25.0,) * 12),
    "one checkpoint": Schedule(0, 10, 5, (300.0,)),
}


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_simulated_and_expected_times_agree(schedule: Schedule, nodes: int) -> None:
    rate = 1 / 600
    played = simulate(schedule, rate, nodes, runs=4000, seed=3)
    assert played.error > 0
    assert abs(played.mean - expected(schedule, nodes * rate)) < 4 * played.error
    # As many losses as the time of all nodes says.
    losses = played.mean * nodes * rate
    assert played.losses == pytest.approx(losses, rel=0.05)


def test_a_simulation_without_losses_is_exact() -> None:
    for schedule in SCHEDULES.values():
        played = simulate(schedule, 0, 3, runs=2, seed=1)
        assert played.mean == pytest.approx(schedule.undisturbed())
        assert played.losses == 0


def test_the_simulation_would_find_a_mistake() -> None:
    """Were what is lost on the way forgotten, or a restart, the agreement above would break."""
    schedule = SCHEDULES["published beside training"]
    played = simulate(schedule, 1 / 600, 1, runs=4000, seed=3)
    for wrong in (
        Schedule(20, 30, 0, schedule.stretches),
        Schedule(20, 0, 40, schedule.stretches),
    ):
        assert abs(played.mean - expected(wrong, 1 / 600)) > 8 * played.error


def test_to_first_order_rare_losses_cost_what_the_exact_formula_says() -> None:
    schedule = Schedule(100, 100, 20, (200.0,) * 50)
    rate = 1e-6
    added = expected(schedule, rate) - schedule.undisturbed()
    assert first_order(schedule, rate) - schedule.undisturbed() == pytest.approx(added, rel=0.03)


def test_the_best_interval_is_that_of_young_and_daly() -> None:
    assert young(11.39, 1 / 3600) == pytest.approx(286.4, abs=0.1)
    assert daly(11.39, 1 / 3600) == pytest.approx(
        286.4 * (1 + math.sqrt(11.39 / 7200) / 3 + 11.39 / 7200 / 9) - 11.39, abs=0.1
    )
    assert daly(7200, 1 / 3600) == 3600

    def added(interval: float) -> float:
        count = round(100_000 / interval)
        return expected(Schedule(0, 0, 0, (100_000 / count + 11.39,) * count), 1 / 3600)

    # Daly's is of the training between two checkpoints, without writing them.
    best = daly(11.39, 1 / 3600)
    assert added(best) < min(added(best / 1.3), added(best * 1.3))


def test_the_tables_of_losses_agree_within_the_statistical_error(results: Results) -> None:
    assert len(results.losses) == 12
    assert max(abs(row.errors) for row in results.losses) < 4
    assert max(abs(row.deviation) for row in results.losses) < 0.02
    for row in results.losses:
        assert row.expected > row.run.seconds


def test_what_the_page_says_of_its_figures_is_so(results: Results) -> None:
    runs = {run.gpus: run for run in results.runs}
    # Two nodes are slower than one, as long as the network is the one assumed.
    assert runs[16].seconds > runs[8].seconds
    faster = Model(Assumptions(network=results.break_even()))
    assert faster.update(16, BATCH).seconds == pytest.approx(
        faster.update(8, BATCH).seconds, rel=1e-3
    )
    # Where the host is what an update waits for, further nodes never help.
    assert Results(Assumptions(launch=1e-4)).break_even() == math.inf
    # One GPU is the cheapest, for each kind.
    for kind in GPUS:
        costs = [run.dollars for run in results.same[kind]]
        assert costs == sorted(costs)
        assert costs[0] < costs[1]
    # Seeds side by side, not one after the other.
    best = min(results.sweeps, key=lambda sweep: sweep.seconds)
    assert best.at_once == Assumptions().seeds
    # A checkpoint after each epoch is enough on eight GPUs.
    by_interval = results.by_interval(8, 1.0)
    assert min(by_interval, key=lambda interval: by_interval[interval]) == 0


@pytest.mark.parametrize("gpus", [1, 8, 16])
@pytest.mark.parametrize("rate", Assumptions().losses)
def test_the_interval_that_the_page_advises_is_nearly_the_best(
    results: Results, gpus: int, rate: float
) -> None:
    model, losses = results.model, -(-gpus // 8) * rate / HOUR
    updates = daly(model.writing, losses) / model.update(gpus, BATCH).seconds
    advised = 0 if updates > 87_866 / 16 / 2 else round(updates)
    seconds = expected(model.run(gpus, interval=advised).schedule, losses)
    assert seconds < 1.015 * min(results.by_interval(gpus, rate).values())


def test_a_run_that_hardly_ever_ends_is_said_to_be_hopeless() -> None:
    hopeless = Results(Assumptions(throughput=0.1, losses=(2.0,), runs=2))
    assert all(row.simulated is None for row in hopeless.losses if row.run.gpus == 1)
    assert "| over " in program.TABLES["scaling, losses"](hopeless)
    assert "<svg" in program.PLOTS["losses.svg"](hopeless)


def test_losses_cost_more_on_more_nodes(model: Model) -> None:
    added = []
    for gpus in (8, 16):
        run = model.run(gpus)
        nodes = gpus // 8
        added.append(expected(run.schedule, nodes / HOUR) / run.seconds)
    assert added[0] < added[1]


def test_the_program_gives_the_same_bytes_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for folder in ("one", "two"):
        program.main(["--gpu", "H100", "--runs", "40", "--plots", str(tmp_path / folder)])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "time on H100" in said[0]
    plots = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert plots == sorted(path.name for path in program.FOLDER.iterdir())
    for name in plots:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    program.main(["--gpu", "H100", "--runs", "40", "--random-seed", "2"])
    assert capsys.readouterr().out != said[0]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--write", "--gpu", "H100"], 2, "has the default assumptions"),
        (["--peak-share", "1.5"], 2, "peak_share is 1.5"),
        (["--losses", "0"], 2, "losses has 0.0"),
        (["--network", "-1"], 2, "network is -1.0"),
        (["--runs", "1"], 2, "runs is 1"),
        (["--gpu", "H300"], 2, "invalid choice"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_step(program.main, arguments) == status
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_stale_page_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.md"
    path.write_text("old")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    with pytest.raises(program.DataError, match=r"page\.md is not up to date"):
        program.write({path: "new"}, check=True)
    assert path.read_text() == "old"
    program.write({path: "new"})
    assert path.read_text() == "new"
    program.write({path: "new"}, check=True)


def test_the_commands_of_the_page_are_understood() -> None:
    found = re.findall(r"^    python -m benchmarks\.scaling(.*)$", PAGE, re.MULTILINE)
    assert len(found) == 3
    for command in found:
        assumptions, output = program.read(shlex.split(command))
        assert output.write or assumptions != Assumptions()


def test_every_plot_stands_on_the_page() -> None:
    shown = re.findall(r"!\[[^]]+\]\(scaling/([^)]+)\)", PAGE)
    assert sorted(shown) == sorted(path.name for path in program.FOLDER.iterdir())


@pytest.mark.parametrize("path", sorted(program.FOLDER.glob("*.svg")), ids=lambda path: path.name)
def test_a_plot_can_be_read_on_light_and_dark_pages(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    # A background of its own: whatever a page's is, letters have their contrast.
    background = root.find(f"{space}rect")
    assert background is not None
    assert background.attrib["class"] == "paper"
    assert float(background.attrib["width"]) == width - 1
    assert "@media (prefers-color-scheme: dark)" in text
    # Nothing from elsewhere: sites show images without it.
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in text
    defined = set(re.findall(r"(--[a-z-]+):", text))
    assert set(re.findall(r"var\((--[a-z-]+)\)", text)) <= defined
    for label in root.iter(f"{space}text"):
        assert 0 <= float(label.attrib["x"]) <= width
        assert 0 <= float(label.attrib["y"]) <= height
