"""RESULTS.md's part about a GPU, from the files that gpu_first.py left."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.setting import Setting

BEGIN, END = "<!-- gpu_first: begin -->", "<!-- gpu_first: end -->"
RACE_QUESTIONS, EPOCHS = 87_866, 5

Figures = Mapping[str, Mapping[str, Any]]


def write(results: Path, folder: Path) -> None:
    """Put the table between the markers of `results`.

    Raises:
        SystemExit: there are no figures, or they are of several machines.
    """
    text = results.read_text(encoding="utf-8")
    made = re.sub(
        f"{BEGIN}.*{END}",
        lambda _: f"{BEGIN}\n{table(Setting.records(folder))}\n{END}",
        text,
        flags=re.DOTALL,
    )
    if END not in text:
        raise SystemExit(f"{results} has no {BEGIN} and {END}")
    results.write_text(made, encoding="utf-8")


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The figures of parts; those that failed are named with their reason."""
    machines = {(record["card"], record["torch"]) for record in records if record["ok"]}
    if len(machines) != 1:
        raise SystemExit(f"figures of one card and torch are needed, not {machines or 'none'}")
    if any(record["rehearsal"] for record in records):
        raise SystemExit("these are of a rehearsal on the CPU, which measures nothing")
    ((card, torch),) = machines
    found = {record["part"]: record["result"] for record in records if record["ok"]}
    lines = [f"On one {card}, torch {torch}{_machine(found)}.", ""]
    lines += _speeds(found)
    lines += [f"- {line}" for line in _findings(found)]
    lines += [f"- {r['part']} failed: {r['error'][:200]}" for r in records if not r["ok"]]
    lines.append("- Several GPUs: owed.")
    return "\n".join(lines)


def _machine(found: Figures) -> str:
    if "machine" not in found:
        return ""
    told = found["machine"]
    nominal = told["nominal_tflops"]
    return (
        f", driver {told['driver']}, Python {told['python']};"
        f" it copies {told['copy_gb_s']:.0f} GB/s and multiplies"
        f" {told['matmul_fp16_tflops']:.0f} TFLOP/s in fp16 and"
        f" {told['matmul_bf16_tflops']:.0f} in bf16, of nominally"
        f" {'unknown' if nominal is None else nominal}"
    )


def _speeds(found: Figures) -> list[str]:
    rows = [figures for part, figures in found.items() if part.startswith("speed_")]
    if not rows:
        return []
    head = ("engine", "at once", "updates", "ms an update", "questions/s", "TFLOP/s")
    head += ("% of measured", "% of nominal", "peak GB", "waits an update", "times slower")
    best = [row["ms_an_update"] for row in rows if row["engine"] == "packed"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for part, row in found.items():
        if not part.startswith("speed_"):
            continue
        note = ", fixed segments" if part == "speed_allocator" else ""
        cells = [f"{row['engine']} {row['precision']}{note}", row["at_once"], row["updates"]]
        cells += [row["ms_an_update"], row["questions_per_second"], f"{row['tflops']:.0f}"]
        cells += ["unknown" if row[name] is None else row[name] for name in _SHARES]
        cells += [row["peak_gb"], row["waits_an_update"]]
        cells.append(f"{row['ms_an_update'] / min(best):.2f}" if best else "")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if best:
        minutes = EPOCHS * RACE_QUESTIONS / 16 * min(best) / 60_000
        lines += ["", f"Five epochs of RACE take {minutes:.0f} min at the fastest of these."]
    return [*lines, ""]


_SHARES = ("percent_of_measured", "percent_of_nominal")


def _findings(found: Figures) -> Iterator[str]:
    if "kernels" in found:
        worst = max(e["output"] for n, e in found["kernels"].items() if n.startswith("fp16"))
        yield f"Kernels against float64: output in fp16 is off by {worst:.1e} of its norm at most."
    if "agreement" in found:
        told = found["agreement"]
        yield (
            f"roberta_large in float32, packed against stock:"
            f" logits differ by {told['logits']:.1e}, all gradients by {told['gradients']:.1e}."
        )
    for part in ("learning_fp16", "learning_bf16"):
        if part in found:
            told = found[part]
            yield (
                f"60 updates in {part[-4:]}: losses of both engines are {told['apart']:.4f} nats"
                f" apart in the first 20; packed ends at {told['packed'][-1]:.3f}."
            )
    if "steps" in found:
        told = found["steps"]
        yield (
            f"The steps: train, killed and gone on at update {told['resumed_at']} of"
            f" {told['updates']}, then evaluate ({told['precision_of_evaluate']}):"
            f" {told['accuracy']:.1f} % right."
        )
    if "profile" in found:
        told = found["profile"]
        kinds = ", ".join(f"{kind} {share} %" for kind, share in told["percent"].items())
        yield f"An update's kernels: {kinds}. Idle: {told['idle_percent']} %."
    if "optimizer" in found:
        medians = found["optimizer"]["medians"].items()
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in medians)
        yield f"The optimizer's step: {times}."
    if "full_memory" in found:
        budgets = found["full_memory"]["budgets"]
        yield f"A full memory: {', '.join(map(str, budgets))} tokens at once, one after the other."
    if "ranks" in found:
        yield f"Two ranks on the card, by gloo: losses are {found['ranks']['apart']:.1e} apart."
    if "nccl" in found:
        told = found["nccl"]
        yield f"NCCL {told['version']} with one rank: 0.71 GB reduced in {told['ms']:.2f} ms."
    if "cudnn" in found:
        told = found["cudnn"]
        yield (
            f"cuDNN's attention on packed sequences: {told['cudnn']}, {told['cudnn_ms']} ms;"
            f" FlashAttention {told['flash_ms']} ms."
        )
