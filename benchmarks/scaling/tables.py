"""The tables of docs/scaling.md, as Markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from benchmarks.scaling.config import GB, GPUS, GPUS_PER_NODE, HOUR, Assumptions, GpuName
from benchmarks.scaling.losses import Simulated, expected, first_order, simulate
from benchmarks.scaling.model import (
    BATCH,
    STEP_BYTES,
    STEP_BYTES_FP32,
    Model,
    Run,
    daly,
    efficiency,
    nodes_of,
    young,
)
from benchmarks.train_step import RACE_QUESTIONS
from pipeline.docs import markdown

SAME = (1, 2, 4, 8, 16)  # GPUs that divide the recipe's 16 questions
GROWN = (16, 32, 64)
KNEE = 0.5  # efficiency below which further GPUs are mostly wasted
HOPELESS = 10  # times as long with losses as without: nobody would wait for that
# Updates between checkpoints that are compared; 0 is none but each epoch's.
INTERVALS = (100, 150, 250, 400, 600, 800, 1000, 1500, 2500, 4000, 0)

Row = Sequence[str]


def short(value: float) -> str:
    """Three digits: 1,230, 123, 12.3, 1.23."""
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def minutes(seconds: float) -> str:
    return f"{short(seconds / 60)} min"


def dollars(value: float) -> str:
    return f"${short(value)}"


def percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def every(rate: float) -> str:
    """Losses in an hour, in words."""
    return "1 h" if rate == 1 else f"{short(1 / rate).rstrip('0').rstrip('.')} h"


@dataclass(frozen=True)
class Loss:
    """A run on spot nodes: expected and simulated."""

    run: Run
    rate: float  # losses of a node in an hour
    expected: float  # seconds
    simulated: Simulated | None  # None: hopeless
    first_order: float

    @property
    def deviation(self) -> float:
        return self.simulated.mean / self.expected - 1 if self.simulated else 0.0

    @property
    def errors(self) -> float:
        """The deviation in standard errors of the simulation's mean; 0 where no run lost a node."""
        if not (self.simulated and self.simulated.error):
            return 0.0
        return (self.simulated.mean - self.expected) / self.simulated.error


@dataclass(frozen=True)
class Sweep:
    """Several seeds on a number of GPUs, each run on so many of them."""

    run: Run
    at_once: int
    rounds: int
    seeds: int

    @property
    def seconds(self) -> float:
        return self.rounds * self.run.seconds

    @property
    def dollars(self) -> float:
        """GPUs that have nothing left to do are given back."""
        return self.seeds * self.run.dollars


class Results:
    """All that the tables and plots show, for some assumptions."""

    def __init__(self, assumptions: Assumptions) -> None:
        self.assumptions = assumptions
        self.model = Model(assumptions)

    @cached_property
    def models(self) -> dict[GpuName, Model]:
        """One for each kind of GPU; what was given for this GPU alone is left out."""
        found = {}
        for name in GPUS:
            own = name == self.assumptions.gpu
            kind = replace(self.assumptions, gpu=name)
            found[name] = Model(kind if own else replace(kind, throughput=0.0, price=0.0, link=0.0))
        return found

    @cached_property
    def same(self) -> dict[GpuName, list[Run]]:
        """Runs with the recipe's effective batch."""
        return {name: [model.run(gpus) for gpus in SAME] for name, model in self.models.items()}

    @cached_property
    def grown(self) -> dict[GpuName, list[Run]]:
        return {
            name: [model.run(gpus, model.grown_batch(gpus)) for gpus in (GPUS_PER_NODE, *GROWN)]
            for name, model in self.models.items()
        }

    @property
    def runs(self) -> list[Run]:
        return self.same[self.assumptions.gpu]

    def knee(self, name: GpuName) -> Run:
        """The most GPUs whose time is still spent well."""
        runs = self.same[name]
        good = [r for r, share in zip(runs, efficiency(runs), strict=True) if share >= KNEE]
        return max(good, key=lambda run: run.gpus)

    @cached_property
    def losses(self) -> list[Loss]:
        found = []
        for gpus, batch in ((1, BATCH), (8, BATCH), (16, BATCH), (64, self.model.grown_batch(64))):
            for rate in self.assumptions.losses:
                found.append(self.loss(self.model.run(gpus, batch), rate))
        return found

    def loss(self, run: Run, rate: float) -> Loss:
        nodes = nodes_of(run.gpus)
        return Loss(
            run,
            rate,
            expected(run.schedule, nodes * rate / HOUR),
            self.played(run, rate, self.assumptions.runs),
            first_order(run.schedule, nodes * rate / HOUR),
        )

    def played(self, run: Run, rate: float, runs: int) -> Simulated | None:
        """What so many simulated runs take; None where that would hardly come to an end."""
        nodes = nodes_of(run.gpus)
        if expected(run.schedule, nodes * rate / HOUR) > HOPELESS * run.seconds:
            return None
        seed = self.assumptions.random_seed
        return simulate(run.schedule, rate / HOUR, nodes, runs, seed)

    def by_interval(self, gpus: int, rate: float) -> dict[int, float]:
        """The expected seconds of a run, by the updates between two checkpoints."""
        runs = {interval: self.model.run(gpus, interval=interval) for interval in INTERVALS}
        losses = nodes_of(gpus) * rate / HOUR
        return {interval: expected(run.schedule, losses) for interval, run in runs.items()}

    @cached_property
    def sweeps(self) -> list[Sweep]:
        """Seeds on two nodes."""
        gpus, seeds = 2 * GPUS_PER_NODE, self.assumptions.seeds
        return [
            Sweep(run, min(gpus // run.gpus, seeds), -(-seeds // (gpus // run.gpus)), seeds)
            for run in self.runs
        ]

    def break_even(self) -> float:
        """Gb/s with which an update takes as long on two nodes as on one; inf if it never does."""
        one, two = (self.model.update(gpus, BATCH) for gpus in (8, 16))
        wire = two.reduce - self.model.reduce(8)
        room = one.seconds - (two.seconds - wire)
        return self.assumptions.network * wire / room if room > 0 else math.inf


def headline(r: Results) -> str:
    """What to know first."""
    a, name = r.assumptions, r.assumptions.gpu
    runs = {run.gpus: run for run in r.runs}
    one, eight, two_nodes = runs[1], runs[8], runs[16]
    cheapest = min(r.runs, key=lambda run: run.dollars)
    fastest = min(r.runs, key=lambda run: run.seconds)
    most = r.grown[name][-1]
    best = min(r.sweeps, key=lambda sweep: sweep.seconds)
    spread = r.sweeps[-1]
    without = r.model.run(8, interval=0)
    worst = max(r.losses, key=lambda row: abs(row.deviation))
    against = two_nodes.seconds / eight.seconds
    compared = (
        f"{against:.1f} times as long as" if against >= 1 else f"{1 / against:.1f} times as fast as"
    )
    even = "No network makes an update as fast on both."
    if r.break_even() < math.inf:
        even = f"With {short(r.break_even())} Gb/s an update takes as long on both."
    knees = ", ".join(f"{r.knee(kind).gpus} x {kind}" for kind in GPUS)
    said = {
        "Cheapest": f"{cheapest.gpus} x {name}, {minutes(cheapest.seconds)},"
        f" {dollars(cheapest.dollars)}.",
        "Fastest with the same result": f"{fastest.gpus} x {name}, {minutes(fastest.seconds)},"
        f" {dollars(fastest.dollars)}: {one.seconds / fastest.seconds:.1f} times as fast as one.",
        f"Two nodes of 8 over {a.network:g} Gb/s": f"{minutes(two_nodes.seconds)},"
        f" {compared} one of them alone. The all-reduce is"
        f" {percent(two_nodes.update.reduce / two_nodes.update.seconds)} of an update"
        f" ({percent(eight.update.reduce / eight.update.seconds)} on one node)."
        f" {even}",
        f"{most.gpus} GPUs": f"only with another recipe, {most.batch} questions an update, whose"
        f" result is to be checked: {minutes(most.seconds)}, {dollars(most.dollars)}.",
        "The knee": f"the most GPUs with an efficiency of at least {percent(KNEE)}: {knees}.",
        "Checkpoints": f"with one every {a.interval:,} updates, a run waits for them"
        f" {percent(one.waiting / one.seconds)} of its time on one {name} and"
        f" {percent(eight.waiting / eight.seconds)} on eight; with those after each epoch alone,"
        f" {percent(without.waiting / without.seconds)} on eight.",
        f"{a.seeds} seeds on 16 GPUs": f"side by side with {best.run.gpus} each they take"
        f" {minutes(best.seconds)} and {dollars(best.dollars)}; one after the other with all 16,"
        f" {minutes(spread.seconds)} and {dollars(spread.dollars)}.",
        "The check": "expected times with losses and simulated ones differ by"
        f" {percent(abs(worst.deviation), 2)} at most.",
    }
    return "\n".join(f"- **{what}:** {text}" for what, text in said.items())


def choice(r: Results) -> str:
    """What to take."""
    runs = {run.gpus: run for run in r.runs}
    most = r.grown[r.assumptions.gpu][-1]

    def row(what: str, run: Run, when: str) -> Row:
        good = runs[1].gpu_hours / run.gpu_hours
        return (what, minutes(run.seconds), dollars(run.dollars), percent(good), when)

    when = f"the network has far more than {short(r.break_even())} Gb/s, and time is all"
    if r.break_even() == math.inf:
        when = "never"
    return markdown(
        [
            ("", f"time on {r.assumptions.gpu}", "cost", "efficiency", "take it when"),
            row("1 GPU", runs[1], "money counts, or several seeds are to be trained"),
            row("2 GPUs", runs[2], "the recipe's own set-up; seeds side by side, and a bit sooner"),
            row("8 GPUs, one node", runs[8], "one result is wanted soon"),
            row(
                "2 nodes, same batch",
                runs[16],
                when,
            ),
            row(
                f"{nodes_of(most.gpus)} nodes, batch {most.batch}",
                most,
                "minutes count, money does not, and the result is checked",
            ),
        ]
    )


def assumptions(r: Results) -> str:
    """What goes in, and how well it is known."""
    a, m = r.assumptions, r.model
    rows: list[Row] = [("what", "value", "flag", "how it is known")]

    def add(what: str, value: str, flag: str, how: str) -> None:
        rows.append((what, value, f"`--{flag}`" if flag else "", how))

    add(
        "training questions, epochs",
        f"{RACE_QUESTIONS:,}, {m.epochs}",
        "",
        "public: RACE, fairseq's recipe",
    )
    add(
        "tokens of a sequence, four a question",
        f"{m.tokens_per_sequence:.0f}",
        "random-seed",
        "made up with RACE's lengths (benchmarks/race_data.py)",
    )
    add(
        "operations of the whole run",
        f"{m.total_flops / 1e18:.2f} EFLOP",
        "",
        "counted: matrix products of the packed engine (benchmarks/train_step.py)",
    )
    add("trained parameters", f"{m.parameters / 1e6:.1f} M", "", "counted")
    narrow = a.precision != "fp32"
    add(
        "gradients that are reduced",
        f"{m.gradient_bytes / GB:.3f} GB",
        "precision",
        f"counted: {2 if narrow else 4} bytes a parameter, once an update",
    )
    add(
        "checkpoint",
        f"{m.checkpoint_bytes / GB:.2f} GB",
        "precision",
        "counted, and measured on a tiny model (benchmarks/RESULTS.md)",
    )
    add(
        "memory traffic of a step",
        f"{STEP_BYTES if narrow else STEP_BYTES_FP32} bytes a parameter",
        "precision",
        "counted in fairseq_plugin/optimizer.py",
    )
    add(
        "checkpoint written",
        f"{a.checkpoint_rate:g} GB/s",
        "checkpoint-rate",
        "measured on a busy CPU with 2 cores; on a GPU's machine owed",
    )
    add(
        "checkpoint published, fetched",
        f"{a.store_rate:g} GB/s",
        "store-rate",
        "assumed for object storage; measured to a folder: 0.2 GB/s at least",
    )
    add(
        "share of the peak",
        percent(a.peak_share),
        "peak-share",
        "assumed, 25 to 55 % likely; a measured `--throughput` replaces it",
    )
    add("share of the memory's bandwidth", percent(a.memory_share), "memory-share", "assumed")
    add("share of NVLink or PCIe", percent(a.link_share), "link-share", "assumed")
    add(
        "network of a node",
        f"{a.network:g} Gb/s, {percent(a.network_share)} of it",
        "network",
        "given; share assumed",
    )
    add(
        "latency of a ring's step",
        f"{1e6 * a.link_latency:g} µs in a node, {1e6 * a.network_latency:g} µs between",
        "network-latency",
        "assumed; hardly matters",
    )
    add(
        "kernels of a layer, both ways",
        f"{a.kernels}, {1e6 * a.launch:g} µs each",
        "launch",
        "assumed: the host needs so long to issue them",
    )
    add("host of an update", f"{1e3 * a.host:g} ms", "host", "assumed")
    add(
        "start: node, image, data, model",
        f"{a.start:g} s",
        "start",
        "assumed; fairseq itself takes 4 s, measured",
    )
    add("a loss is noticed", f"{a.detect:g} s", "detect", "assumed")
    add(
        "losses of a spot node",
        "once in " + ", ".join(every(rate) for rate in a.losses),
        "losses",
        "given",
    )
    add("price of spot", f"{percent(a.spot_share)} of on demand", "spot-share", "assumed")
    return markdown(rows)


def gpus(r: Results) -> str:
    """Public figures, and prices that are an example."""
    rows: list[Row] = [
        ("GPU", "peak, TFLOP/s", "memory, GB/s", "link, GB/s one way", "example: $ an hour")
    ]
    for name, gpu in GPUS.items():
        price = r.models[name].assumptions.gpu_hour
        rows.append(
            (
                name,
                f"{gpu.peak / 1e12:.0f}",
                f"{gpu.memory / GB:,.0f}",
                f"{gpu.link / GB:.0f}, {gpu.joined}",
                f"{price:.2f}",
            )
        )
    return markdown(rows)


def update(r: Results) -> str:
    """Where the time of an update goes."""
    rows: list[Row] = [
        (
            "GPUs",
            "batch",
            "compute, ms",
            "uneven",
            "all-reduce",
            "step",
            "host",
            "update",
            "all-reduce's share",
        )
    ]
    for run in (*r.runs, *r.grown[r.assumptions.gpu]):
        u = run.update
        parts = (u.compute, u.uneven, u.reduce, u.step, u.host, u.seconds)
        rows.append((str(run.gpus), str(run.batch), *map(ms, parts), percent(u.reduce / u.seconds)))
    return markdown(rows)


def runs(r: Results) -> str:
    """Whole runs on every kind of GPU."""
    heads = [f"{count}" for count in SAME]
    heads += [f"{run.gpus}, batch {run.batch}" for run in r.grown[r.assumptions.gpu]]
    rows: list[Row] = [("GPU", *heads, "knee")]
    for name in GPUS:
        cells = [
            f"{minutes(run.seconds)}, {dollars(run.dollars)}"
            for run in (*r.same[name], *r.grown[name])
        ]
        rows.append((name, *cells, str(r.knee(name).gpus)))
    return markdown(rows)


def network(r: Results) -> str:
    """All-reduce between nodes, and what a run makes of it."""
    m = r.model
    heads = ("network of a node", "all-reduce, 2 nodes", "the same, one flat ring", "8 nodes")
    rows: list[Row] = [(*heads, "16 GPUs, batch 16", f"64 GPUs, batch {m.grown_batch(64)}")]
    for speed in (25.0, 100.0, 400.0, 3200.0):
        other = Model(replace(r.assumptions, network=speed))
        rows.append(
            (
                f"{speed:g} Gb/s",
                f"{ms(m.reduce(16, algorithm='hierarchical', network=speed))} ms",
                f"{ms(m.reduce(16, algorithm='ring', network=speed))} ms",
                f"{ms(m.reduce(64, algorithm='hierarchical', network=speed))} ms",
                minutes(other.run(16).seconds),
                minutes(other.run(64, m.grown_batch(64)).seconds),
            )
        )
    eight = r.runs[SAME.index(8)]
    return (
        f"{markdown(rows)}\n\nOne node of 8 alone: {ms(m.reduce(8))} ms,"
        f" {minutes(eight.seconds)} with batch {BATCH}."
    )


def sensitivity(r: Results) -> str:
    """What other assumptions would make of the main figures."""
    a = r.assumptions
    cases = [
        ("as assumed", a),
        ("share of the peak 25 %", replace(a, peak_share=0.25, throughput=0.0)),
        ("share of the peak 55 %", replace(a, peak_share=0.55, throughput=0.0)),
        ("a kernel issued in 16 µs", replace(a, launch=16e-6)),
        ("host 10 ms of an update", replace(a, host=10e-3)),
        ("share of the link 35 %", replace(a, link_share=0.35)),
        ("checkpoint written at 1 GB/s", replace(a, checkpoint_rate=1.0)),
        ("start in 600 s", replace(a, start=600.0)),
    ]
    counts = (1, 8, 16)
    rows: list[Row] = [("", *(f"{n} GPU{'s' if n > 1 else ''}" for n in counts), "8 over 1")]
    for name, case in cases:
        model = Model(case)
        found = [model.run(count) for count in counts]
        cells = [f"{minutes(run.seconds)}, {dollars(run.dollars)}" for run in found]
        rows.append((name, *cells, f"{found[0].seconds / found[1].seconds:.1f} times"))
    return markdown(rows)


def intervals(r: Results) -> str:
    """The best time between checkpoints, by formula and by the whole model."""
    rows: list[Row] = [
        (
            "GPUs",
            "a node is lost once in",
            "Young",
            "Daly",
            "best of the model",
            "time with that",
            f"time with {r.assumptions.interval or 'none'}",
        )
    ]
    for count in (1, 8, 16):
        seconds = r.model.update(count, BATCH).seconds
        for rate in r.assumptions.losses:
            losses = nodes_of(count) * rate / HOUR
            found = r.by_interval(count, rate)
            best = min(found, key=lambda interval: found[interval])
            here = expected(r.model.run(count).schedule, losses)
            rows.append(
                (
                    str(count),
                    every(rate),
                    short(young(r.model.writing, losses) / seconds),
                    short(daly(r.model.writing, losses) / seconds),
                    f"{best:,}" if best else "each epoch",
                    minutes(found[best]),
                    minutes(here),
                )
            )
    return markdown(rows)


def losses(r: Results) -> str:
    """Expected and simulated times on spot nodes."""
    rows: list[Row] = [
        (
            "GPUs",
            "batch",
            "lost once in",
            "no loss",
            "first order",
            "expected",
            "simulated",
            "differ",
            "1 in 20 exceeds",
            "losses",
            "over 3 losses",
            "cost, spot",
            "on demand",
        )
    ]
    a = r.assumptions
    for row in r.losses:
        run, s = row.run, row.simulated
        start = (str(run.gpus), str(run.batch), every(row.rate), minutes(run.seconds))
        demand = dollars(run.dollars)
        if s is None:
            hopeless = f"over {minutes(HOPELESS * run.seconds)}"
            rows.append((*start, minutes(row.first_order), hopeless, *[""] * 6, demand))
            continue
        rows.append(
            (
                *start,
                minutes(row.first_order),
                minutes(row.expected),
                f"{short(s.mean / 60)} ± {short(s.error / 60)}",
                f"{100 * row.deviation:+.2f} %".replace("-", "−"),
                minutes(s.late),
                short(s.losses),
                percent(s.many, 1),
                dollars(run.gpus * row.expected / HOUR * a.gpu_hour * a.spot_share),
                demand,
            )
        )
    worst = max(r.losses, key=lambda row: abs(row.deviation))
    return (
        f"{markdown(rows)}\n\nThe largest difference is {percent(abs(worst.deviation), 2)};"
        f" the largest in standard errors of the simulation (± above) is"
        f" {max(abs(row.errors) for row in r.losses):.1f}, of"
        f" {sum(row.simulated is not None for row in r.losses)} rows with {a.runs:,} runs each."
    )


def seeds(r: Results) -> str:
    """Several seeds on two nodes."""
    rows: list[Row] = [
        ("GPUs of a run", "runs at once", "rounds", "a run", f"all {r.assumptions.seeds}", "cost")
    ]
    for sweep in r.sweeps:
        rows.append(
            (
                str(sweep.run.gpus),
                str(sweep.at_once),
                str(sweep.rounds),
                minutes(sweep.run.seconds),
                minutes(sweep.seconds),
                dollars(sweep.dollars),
            )
        )
    return markdown(rows)


TABLES: Mapping[str, Callable[[Results], str]] = {
    "scaling, in short": headline,
    "scaling, what to choose": choice,
    "scaling, assumptions": assumptions,
    "scaling, GPUs": gpus,
    "scaling, an update": update,
    "scaling, runs": runs,
    "scaling, networks": network,
    "scaling, other assumptions": sensitivity,
    "scaling, intervals": intervals,
    "scaling, losses": losses,
    "scaling, seeds": seeds,
}
