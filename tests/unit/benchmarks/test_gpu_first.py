"""The first measurements on a GPU lose nothing to a part that goes wrong."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_first
from benchmarks.gpu import profile, table
from benchmarks.gpu.runner import Part, run_parts

ROOT = Path(__file__).parents[3]


def part(name: str, limit: float = 60) -> Part:
    return Part(name, f"tests.unit.benchmarks.parts:{name}", limit)


def test_a_part_that_goes_wrong_costs_only_itself_and_a_second_call_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    names = ("fails", "is_full", "is_killed", "works_later", "works")
    parts = [part("hangs", limit=4), *map(part, names), part("never", limit=1000)]
    missing = run_parts(parts, tmp_path, 500, rehearse=True, show=said.append)
    assert missing == ["hangs", *names[:-1], "never"]
    records = {r["part"]: r for r in map(json.loads, map(Path.read_text, tmp_path.glob("*.json")))}
    assert sorted(records) == sorted(["hangs", *names])
    assert {name: record["error"].strip() for name, record in records.items()} == {
        "hangs": "it took longer than 4 s",
        "fails": "ValueError: a number is off",
        "is_full": "MemoryError:",
        "is_killed": "killed by signal 9",
        "works_later": "ValueError: not yet",
        "works": "",
    }
    # What was told before is kept.
    assert records["hangs"]["result"] == records["fails"]["result"] == {"half": 0.5}
    assert records["works"]["result"] == {"value": 1}
    assert records["works"]["card"] == "none (CPU)"
    assert "never: not started, it may take 1000 s" in said

    written = (tmp_path / "works.json").stat().st_mtime_ns
    again = [part("works"), part("works_later")]
    assert run_parts(again, tmp_path, 500, rehearse=True) == []
    assert (tmp_path / "works.json").stat().st_mtime_ns == written
    assert json.loads((tmp_path / "works_later.json").read_text())["result"] == {"value": 2}


def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a GPU")
    assert run_parts([part("works")], tmp_path, 500, rehearse=False) == ["works"]
    assert "no GPU" in json.loads((tmp_path / "works.json").read_text())["error"]


def test_figures_of_two_cards_are_not_mixed(tmp_path: Path) -> None:
    other = {
        "part": "other",
        "ok": True,
        "card": "NVIDIA H100 NVL",
        "torch": "2.11.0",
        "result": {},
    }
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert run_parts([part("works")], tmp_path, 500, rehearse=True) == ["works"]
    assert "use another --out" in json.loads((tmp_path / "works.json").read_text())["error"]


SPEED = {
    "engine": "packed",
    "precision": "fp16",
    "at_once": "budget",
    "updates": 30,
    "ms_an_update": 125.0,
    "questions_per_second": 128.0,
    "tflops": 356.2,
    "percent_of_measured": 45.0,
    "percent_of_nominal": None,
    "peak_gb": 27.0,
    "waits_an_update": 1.0,
}


def record(part: str, result: dict[str, Any], **more: Any) -> dict[str, Any]:
    same = {"card": "NVIDIA X1", "torch": "2.11.0+cu130", "rehearsal": False}
    return {"part": part, "ok": True, "error": "", **same, "result": result, **more}


def test_the_table_is_made_of_the_figures(tmp_path: Path) -> None:
    stock = SPEED | {"engine": "stock", "at_once": 16, "ms_an_update": 200.0}
    parts = [record("speed_1", SPEED), record("speed_2", stock)]
    parts.append(record("profile", {"half": 1}, ok=False, error="it took longer than 9 s"))
    for each in parts:
        (tmp_path / f"{each['part']}.json").write_text(json.dumps(each))
    results = tmp_path / "RESULTS.md"
    results.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(results, tmp_path)
    text = results.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "On one NVIDIA X1, torch 2.11.0+cu130." in text
    row = "| packed fp16 | budget | 30 | 125.0 | 128.0 | 356 | 45.0 | unknown | 27.0 | 1.0 | 1.00 |"
    assert row in text
    assert "| 1.60 |" in text
    assert "57 min" in text
    assert "profile failed: it took longer than 9 s" in text
    assert "Several GPUs: owed." in text


@pytest.mark.parametrize("changed", [{"card": "NVIDIA X2"}, {"rehearsal": True}])
def test_no_table_is_made_of_other_machines_or_rehearsals(changed: dict[str, Any]) -> None:
    with pytest.raises(SystemExit):
        table.table([record("speed_1", SPEED), record("speed_2", SPEED, **changed)])


def test_results_have_the_place_of_the_table() -> None:
    text = gpu_first.RESULTS.read_text()
    assert 0 < text.index(table.BEGIN) < text.index(table.END)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>", "attention"),
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_TNT", "matrix products"),
        ("sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>", "optimizer"),
        ("fused_dropout_kernel_vec<c10::Half>", "dropout"),
        ("vectorized_layer_norm_kernel<c10::Half, float>", "layer norm"),
        ("GammaBetaBackwardCUDAKernel", "layer norm"),
        ("vectorized_elementwise_kernel<4, GeluCUDAKernelImpl>", "GELU"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
    ],
)
def test_kernels_have_kinds(kernel: str, kind: str) -> None:
    assert profile.kind_of(kernel) == kind


@pytest.mark.slow
def test_a_rehearsal_leaves_plausible_figures_of_every_part(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_first.py"), "--rehearse"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout
    assert_plausible(tmp_path)


def assert_plausible(out: Path) -> None:
    found = {name: json.loads((out / f"{name}.json").read_text()) for name in NAMES}
    assert all(record["ok"] and record["rehearsal"] for record in found.values())
    figures = {name: record["result"] for name, record in found.items()}
    assert 0.1 < figures["machine"]["copy_gb_s"] < 1000
    assert 1e-4 < figures["machine"]["matmul_fp32_tflops"] < 10
    assert figures["kernels"].keys() == {
        f"{precision}_{what}"
        for precision in ("fp32", "bf16")
        for what in ("all_tokens", "first_tokens", "dropout")
    }
    assert 0 < figures["kernels"]["fp32_dropout"]["query"] < 1e-5
    assert 0 < figures["kernels"]["bf16_all_tokens"]["output"] < 0.03
    assert 0 < figures["agreement"]["gradients"] < 1e-4
    for name in NAMES:
        if name.startswith("speed_"):
            speed = figures[name]
            assert speed.keys() == SPEED.keys() | {"last_loss", "wait_places"}
            assert speed["updates"] * speed["questions_per_second"] > 0
            a_question = speed["ms_an_update"] / 16
            assert math.isclose(a_question * speed["questions_per_second"], 1e3, rel_tol=0.01)
            assert 1.3 < speed["last_loss"] < 1.6
            if speed["precision"] == "fp32":  # in which this machine's products were measured
                assert 0 < speed["percent_of_measured"] < 100
    assert sum(figures["profile"]["percent"].values()) == pytest.approx(100, abs=1)
    assert {"attention", "matrix products", "optimizer"} <= figures["profile"]["percent"].keys()
    for name, apart in (("learning_fp16", 1e-4), ("learning_bf16", 0.02)):
        assert len(figures[name]["packed"]) == len(figures[name]["stock"]) == 5
        assert figures[name]["apart"] < apart
    steps = figures["steps"]
    assert 0 < steps["resumed_at"] < steps["updates"] == 2 * 6
    assert 10 < steps["accuracy"] < 60
    assert min(figures["optimizer"]["medians"].values()) > 0
    assert figures["full_memory"]["budgets"] == [1500, 750, 1500]
    assert figures["ranks"]["apart"] < 1e-4
    assert figures["nccl"]["ms"] > 0


NAMES = [each.name for each in gpu_first.PARTS]
