"""The plots of docs/scaling.md: SVG files that stand alone, light and dark."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.scaling.config import GPUS_PER_NODE, HOUR, GpuName
from benchmarks.scaling.losses import expected
from benchmarks.scaling.model import Run, nodes_of
from benchmarks.scaling.tables import Results, every, minutes, percent, short
from components.common.report.chart import Format, Point, Scale, number
from components.common.report.html import Content, Markup, tag
from components.common.report.style import STYLE

WIDTH = 860
_GAP, _LEFT, _RIGHT = 14, 46, 62  # around a panel's axes; right of them stand the lines' names
_HEAD, _FOOT = 50, 42
_APART = 14  # least distance of two names

# The first four kinds of lines. A page's style has two; the others are its colours too.
COLOURS = ("one", "two", "three", "four")
# An image cannot see the page's style, and a site's dark mode need not be the system's: it has its
# own colours, and a background of its own.
_ROOT = STYLE.partition("* {")[0]
_MORE = """
.paper { fill: var(--paper); stroke: var(--rule); }
svg .head { fill: var(--ink); font-size: 13px; font-weight: 600; }
svg .three { stroke: var(--right); } svg .fill-three { fill: var(--right); }
svg .four { stroke: var(--quiet); } svg .fill-four { fill: var(--quiet); }
svg .name-one { fill: var(--one); } svg .name-two { fill: var(--two); }
svg .name-three { fill: var(--right); } svg .name-four { fill: var(--quiet); }
svg .rest { fill: var(--rule); }
svg .dashed { stroke-dasharray: 5 4; }
svg .ring { fill: var(--paper); stroke-width: 1.75; }
svg .error { stroke-width: 1.25; }
"""


def _style() -> str:
    rules = [line for line in STYLE.splitlines() if line.startswith("svg")]
    return "\n".join([_ROOT, *rules, _MORE])


def document(title: str, drawing: Content, height: float) -> str:
    """A whole SVG file."""
    svg = tag(
        "svg",
        tag("title", title),
        tag("style", Markup(_style())),
        tag("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=6, class_="paper"),
        drawing,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height:g}",
        width=WIDTH,
        height=f"{height:g}",
        role="img",
        aria_label=title,
    )
    return f"{svg}\n"


@dataclass(frozen=True)
class Series:
    """A line; with `only_dots`, its points alone. `errors` are half the lengths of bars there."""

    name: str
    points: Sequence[Point]
    colour: str
    dashed: bool = False
    dots: bool = True
    only_dots: bool = False
    errors: Sequence[float] = ()


@dataclass(frozen=True)
class Mark:
    """An upright line with a name."""

    at: float
    name: str


def panel(
    left: float,
    width: float,
    height: float,
    *,
    title: str,
    about: str,
    x: str,
    series: Sequence[Series],
    across: tuple[float, float],
    up: tuple[float, float],
    log2_up: bool = True,
    shown: Format = number,
    across_shown: Format = number,
    across_ticks: Sequence[float] = (),
    marks: Sequence[Mark] = (),
) -> Iterable[Markup]:
    """Axes with lines; x is by doublings."""
    start, end = left + _LEFT, left + width - _RIGHT
    base = height - _FOOT
    horizontal = Scale(*across, start, end, log2=True)
    vertical = Scale(*up, base, _HEAD + 12, log2=log2_up)
    yield tag("text", title, x=left + _GAP, y=24, class_="head")
    yield tag("text", about, x=left + _GAP, y=41)
    for value in vertical.ticks(6):
        y = f"{vertical(value):.1f}"
        yield tag("line", x1=start, x2=end, y1=y, y2=y, class_="grid")
        yield tag("text", shown(value), x=start - 7, y=y, dy="0.35em", text_anchor="end")
    yield tag("line", x1=start, x2=end, y1=base, y2=base, class_="axis")
    for value in across_ticks or horizontal.ticks(6):
        at = f"{horizontal(value):.1f}"
        yield tag("line", x1=at, x2=at, y1=base, y2=base + 4, class_="axis")
        yield tag("text", across_shown(value), x=at, y=base + 16, text_anchor="middle")
    yield tag("text", x, x=end, y=base + 32, text_anchor="end")
    for mark in marks:
        at = f"{horizontal(mark.at):.1f}"
        yield tag("line", x1=at, x2=at, y1=_HEAD + 12, y2=base, class_="mark")
        yield tag("text", mark.name, x=f"{horizontal(mark.at) + 5:.1f}", y=_HEAD + 20)
    for s in series:
        yield from _drawn(s, horizontal, vertical, x, shown)
    yield from _names(series, horizontal, vertical)


def _drawn(
    s: Series, horizontal: Scale, vertical: Scale, x: str, shown: Format
) -> Iterable[Markup]:
    places = [(horizontal(at), vertical(value)) for at, value in s.points]
    if not s.only_dots:
        path = " ".join(f"{at:.1f},{y:.1f}" for at, y in places)
        yield tag("polyline", points=path, class_=f"line {s.colour}{' dashed' if s.dashed else ''}")
    for (at, value), half in zip(s.points, s.errors, strict=False):
        here = f"{horizontal(at):.1f}"
        y1, y2 = (f"{vertical(value + sign * half):.1f}" for sign in (-1, 1))
        yield tag("line", x1=here, x2=here, y1=y1, y2=y2, class_=f"error {s.colour}")
    if s.dots or s.only_dots:
        for (at, y), (gpus, value) in zip(places, s.points, strict=True):
            hollow = s.only_dots or s.dashed
            kind = f"ring {s.colour}" if hollow else f"fill-{s.colour}"
            said = tag("title", f"{s.name}: {x} {number(gpus)}, {shown(value)}")
            yield tag("circle", said, cx=f"{at:.1f}", cy=f"{y:.1f}", r=3, class_=kind)


def _names(series: Sequence[Series], horizontal: Scale, vertical: Scale) -> Iterable[Markup]:
    """At the right ends of the lines, moved apart where they would touch."""
    named = sorted(
        ((vertical(s.points[-1][1]), horizontal(s.points[-1][0]), s) for s in series if s.name),
        key=lambda found: found[0],
    )
    for left, group in itertools.groupby(sorted(named, key=lambda n: n[1]), key=lambda n: n[1]):
        ys: list[float] = []
        here = sorted(group, key=lambda n: n[0])
        for y, _, _ in here:
            ys.append(max(y, ys[-1] + _APART) if ys else y)
        # As far up as the last was moved down, on the average.
        moved = sum(new - old for new, (old, _, _) in zip(ys, here, strict=True)) / len(ys)
        for y, (_, _, s) in zip(ys, here, strict=True):
            yield tag(
                "text",
                s.name,
                x=f"{left + 8:.1f}",
                y=f"{y - moved:.1f}",
                dy="0.35em",
                class_=f"name-{s.colour}",
            )


def time_plot(r: Results) -> str:
    """Minutes and dollars by the number of GPUs, for several kinds."""
    others: list[GpuName] = ["A100", "H100", "L4", "T4"]
    kinds = [r.assumptions.gpu, *(kind for kind in others if kind != r.assumptions.gpu)]
    found: dict[str, list[Series]] = {"minutes": [], "dollars": []}
    of: Mapping[str, Callable[[Run], float]] = {
        "minutes": lambda run: run.seconds / 60,
        "dollars": lambda run: run.dollars,
    }
    for colour, kind in zip(COLOURS, kinds, strict=False):
        for what, value in of.items():
            same = [(float(run.gpus), value(run)) for run in r.same[kind]]
            grown = [(float(run.gpus), value(run)) for run in r.grown[kind]]
            found[what] += [
                Series("", same, colour),
                Series(kind, grown, colour, dashed=True),
            ]
    height = 340
    half = WIDTH / 2
    about = "full dots: 16 questions an update, as the recipe; rings: {} for each GPU"
    drawing = [
        *panel(
            0,
            half,
            height,
            title="Time of a run, minutes",
            about=about.format(r.assumptions.questions_per_gpu),
            x="GPUs, 8 in a node",
            series=found["minutes"],
            across=(1, 64),
            up=_doublings(found["minutes"]),
        ),
        *panel(
            half,
            half,
            height,
            title="Its cost, dollars",
            about="at the example's prices on demand",
            x="GPUs, 8 in a node",
            series=found["dollars"],
            across=(1, 64),
            up=_doublings(found["dollars"]),
            shown=lambda value: f"${number(value)}",
        ),
    ]
    return document("Time and cost of a run by the number of GPUs", drawing, height)


def _doublings(series: Sequence[Series]) -> tuple[float, float]:
    values = [value for s in series for _, value in s.points]
    low, high = 1.0, 2.0
    while low > min(values):
        low /= 2
    while low * 2 <= min(values):
        low *= 2
    while high < max(values):
        high *= 2
    return low, high


_PARTS = (
    ("compute", "fill-one"),
    ("uneven", "soft-one"),
    ("reduce", "fill-two"),
    ("step", "fill-four"),
    ("host", "rest"),
)
_PART_NAMES = {
    "compute": "forward and backward",
    "uneven": "waiting for the slowest rank",
    "reduce": "all-reduce",
    "step": "optimizer's step",
    "host": "host",
}
_BAR = 22


def update_plot(r: Results) -> str:
    """Where the time of an update goes, as shares."""
    groups = (
        (f"{r.runs[0].batch} questions an update", r.runs),
        (f"{r.assumptions.questions_per_gpu} for each GPU", r.grown[r.assumptions.gpu]),
    )
    count = sum(len(runs) for _, runs in groups)
    height = 100 + _BAR * (count + 2)
    left, right = 190.0, WIDTH - 90.0
    across = Scale(0, 1, left, right)
    title = f"Where the time of an update goes, on {r.assumptions.gpu}"
    drawing = [tag("text", title, x=_GAP, y=24, class_="head")]
    x = float(_GAP)
    for name, kind in _PARTS:
        drawing.append(tag("rect", x=f"{x:.1f}", y=36, width=11, height=11, class_=kind))
        drawing.append(tag("text", _PART_NAMES[name], x=f"{x + 16:.1f}", y=46))
        x += 36 + 6.1 * len(_PART_NAMES[name])
    y = 62.0
    drawing.append(tag("text", "an update", x=WIDTH - _GAP, y=y + 12, text_anchor="end"))
    for about, runs in groups:
        drawing.append(tag("text", about, x=_GAP, y=f"{y + 12:.1f}", class_="title"))
        y += _BAR
        for run in runs:
            drawing += _bar(run, y, across)
            y += _BAR
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = f"{across(share):.1f}"
        drawing.append(tag("text", percent(share), x=at, y=f"{y + 16:.1f}", text_anchor="middle"))
    return document(title, drawing, height)


def _bar(run: Run, y: float, across: Scale) -> Iterable[Markup]:
    nodes = nodes_of(run.gpus)
    name = f"{run.gpus} GPU{'s' if run.gpus > 1 else ''}"
    if nodes > 1:
        name += f", {nodes} nodes"
    yield tag(
        "text", name, x=across.start - 10, y=f"{y + _BAR / 2:.1f}", dy="0.35em", text_anchor="end"
    )
    whole = run.update.seconds
    before = 0.0
    for part, kind in _PARTS:
        share = getattr(run.update, part) / whole
        said = f"{name}: {_PART_NAMES[part]} {1e3 * share * whole:.1f} ms, {percent(share)}"
        yield tag(
            "rect",
            tag("title", said),
            x=f"{across(before):.1f}",
            y=f"{y + 3:.1f}",
            width=f"{max(across(before + share) - across(before), 0):.1f}",
            height=_BAR - 6,
            class_=kind,
        )
        before += share
    yield tag(
        "text",
        f"{1e3 * whole:.0f} ms",
        x=WIDTH - _GAP,
        y=f"{y + _BAR / 2:.1f}",
        dy="0.35em",
        text_anchor="end",
    )


def losses_plot(r: Results) -> str:
    """The time that losses and checkpoints add, by the interval between checkpoints."""
    height = 340
    half = WIDTH / 2
    a = r.assumptions
    drawing: list[Markup] = []
    intervals = [100 * 2 ** (step / 2) for step in range(12)]
    for place, gpus in enumerate((1, GPUS_PER_NODE)):
        clean = r.model.run(gpus, interval=0)
        least = clean.seconds - clean.waiting
        series = []
        for colour, rate in zip(COLOURS, sorted(a.losses), strict=False):
            line, dots, errors = [], [], []
            for number_of, exact in enumerate(intervals):
                interval = round(exact)
                run = r.model.run(gpus, interval=interval)
                seconds = expected(run.schedule, nodes_of(gpus) * rate / HOUR)
                line.append((float(interval), 100 * (seconds / least - 1)))
                if number_of % 2 == 0:
                    played = r.played(run, rate, max(a.runs // 20, 2))
                    if played is not None:
                        dots.append((float(interval), 100 * (played.mean / least - 1)))
                        errors.append(100 * 2 * played.error / least)
            series.append(Series(every(rate), line, colour, dots=False))
            series.append(Series("", dots, colour, only_dots=True, errors=errors))
        top = max(value for s in series for _, value in s.points)
        drawing += panel(
            place * half,
            half,
            height,
            title=f"{gpus} x {a.gpu}, one node that is lost once in ...",
            about="time added to a run, %; lines expected, rings simulated (± 2 errors)",
            x="updates between checkpoints",
            series=series,
            across=(intervals[0], round(intervals[-1])),
            up=(0, _step_up(top)),
            log2_up=False,
            across_ticks=[100, 200, 400, 800, 1600, 3200],
            marks=[Mark(a.interval, f"default, {number(a.interval)}")] if a.interval else [],
        )
    return document("Time that losses and checkpoints add to a run", drawing, height)


def _step_up(value: float) -> float:
    # Beyond the last, a line runs along the top.
    return next((top for top in (10, 20, 25, 50, 100, 200, 500) if top >= value), 1000)


def seeds_plot(r: Results) -> str:
    """Several seeds on two nodes, by the GPUs of each run."""
    rows = r.sweeps
    height = 104 + 30 * len(rows)
    left, right = 190.0, WIDTH - 170.0
    top = max(sweep.seconds for sweep in rows)
    across = Scale(0, top, left, right)
    title = f"{r.assumptions.seeds} seeds on 16 x {r.assumptions.gpu}, two nodes"
    drawing = [
        tag("text", title, x=_GAP, y=24, class_="head"),
        tag("text", "bars: rounds of runs side by side; the time until all are done", x=_GAP, y=41),
    ]
    best = min(rows, key=lambda sweep: sweep.seconds)
    y = 58.0
    for sweep in rows:
        gpus = sweep.run.gpus
        name = f"{gpus} GPU{'s' if gpus > 1 else ''} a run, {sweep.at_once} at once"
        middle = {"y": f"{y + 15:.1f}", "dy": "0.35em"}
        drawing.append(tag("text", name, x=left - 10, text_anchor="end", class_="title", **middle))
        for round_ in range(sweep.rounds):
            start, end = (across(sweep.run.seconds * n) for n in (round_, round_ + 1))
            drawing.append(
                tag(
                    "rect",
                    tag("title", f"round {round_ + 1}: {minutes(sweep.run.seconds)}"),
                    x=f"{start + 0.75:.1f}",
                    y=f"{y + 4:.1f}",
                    width=f"{end - start - 1.5:.1f}",
                    height=22,
                    class_="fill-one" if sweep is best else "soft-one",
                )
            )
        said = f"{minutes(sweep.seconds)}, ${short(sweep.dollars)}"
        drawing.append(tag("text", said, x=f"{across(sweep.seconds) + 10:.1f}", **middle))
        y += 30
    drawing.append(
        tag("text", "GPUs with nothing left to do are given back", x=_GAP, y=f"{y + 22:.1f}")
    )
    return document(title, drawing, height)


PLOTS: Mapping[str, Callable[[Results], str]] = {
    "time.svg": time_plot,
    "update.svg": update_plot,
    "losses.svg": losses_plot,
    "seeds.svg": seeds_plot,
}
