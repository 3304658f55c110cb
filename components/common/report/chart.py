"""Charts as SVG, drawn for about 400 pixels of width: a grid of them fits phones and desks alike.

Colours come from the page's style. A chart has a caption with units, axes, and a tooltip (a title
element) wherever a figure can be read off.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from components.common.report.html import Content, Markup, tag

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 8, 34
ROW = 26  # height of a row of dots

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Format = Callable[[float], str]
Point = tuple[float, float]


def number(value: float) -> str:
    """A number as short as it can be read: 0.25, 1,234 or 2.5 × 10⁻⁵."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        if abs(value) >= 1000 or value == int(value):
            return f"{value:,.0f}".replace("-", "−")
        return f"{value:.4g}".replace("-", "−")
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    mantissa = f"{value / 10**exponent:.3g}".replace("-", "−")
    power = f"10{str(exponent).translate(_SUPERSCRIPT)}"
    return power if mantissa == "1" else f"{mantissa} × {power}"


def percent(value: float) -> str:
    return f"{number(round(value, 2))} %"


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on pixels from `start` to `end`; `log2`: by doublings."""

    low: float
    high: float
    start: float
    end: float
    log2: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log2:
            low, high, at = math.log2(low), math.log2(high), math.log2(at)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        if self.log2:
            low, high = round(math.log2(self.low)), round(math.log2(self.high))
            return [2.0**power for power in range(low, high + 1, math.ceil((high - low) / about))]
        step = _step((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _step(least: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least this."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= least * (1 - 1e-9))


def _rounded(low: float, high: float, about: int = 5) -> tuple[float, float]:
    """The range widened to whole steps."""
    if high <= low:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    step = _step((high - low) / about)
    return step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)


@dataclass(frozen=True)
class Line:
    """A series. `band` (x, lowest, highest) is drawn behind the line; `dots` marks its points."""

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    dots: bool = False


def line(name: str, points: Sequence[Point], *, most: int = 100, dots: bool = False) -> Line:
    """A series of at most `most` points: more are put together, as their means and their range."""
    if len(points) <= most:
        return Line(name, points, dots=dots)
    ends = [round(i * len(points) / most) for i in range(most + 1)]
    means, band = [], []
    for start, end in itertools.pairwise(ends):
        some = points[start:end]
        x = some[-1][0]
        ys = [y for _, y in some]
        means.append((x, math.fsum(ys) / len(ys)))
        band.append((x, min(ys), max(ys)))
    return Line(name, means, band, dots)


def figure(
    title: str,
    drawing: Content,
    *,
    unit: str = "",
    keys: Sequence[str] = (),
    summary: str = "",
    height: float = HEIGHT,
) -> Markup:
    """A chart with its caption; `keys` name the first and the second colour."""
    return tag(
        "figure",
        tag(
            "figcaption",
            title,
            tag(
                "small",
                unit,
                [
                    tag("span", name, class_=f"key-{colour}")
                    for name, colour in zip(keys, ("one", "two"), strict=False)
                ],
            ),
        ),
        tag(
            "svg",
            drawing,
            viewBox=f"0 0 {WIDTH} {height:g}",
            role="img",
            aria_label=f"{title}. {summary}".strip(),
        ),
    )


def lines(
    title: str,
    series: Sequence[Line],
    *,
    x: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    log2: bool = False,
    shown: Format = number,
) -> Markup:
    """One or two series over the same x.

    Args:
        x: what the horizontal axis is.
        low, high: ends of the vertical axis, where the data should not decide.
    """
    values = [y for s in series for _, y in s.points]
    values += [y for s in series for _, *ends in s.band for y in ends]
    xs = [at for s in series for at, _ in s.points]
    if log2:
        bottom = 2.0 ** math.floor(math.log2(min(values)))
        top = max(2.0 ** math.ceil(math.log2(max(values))), 2 * bottom)
    else:
        bottom, top = _rounded(
            min(values) if low is None else low, max(values) if high is None else high
        )
    across = Scale(min(0.0, min(xs)), max(*xs, 1.0), LEFT, WIDTH - RIGHT)
    up = Scale(bottom, top, HEIGHT - BOTTOM, TOP, log2)
    drawing = [*_frame(across, up, x=x, shown=shown)]
    for colour, s in zip(("one", "two"), series, strict=False):
        if s.band:
            there = [f"{across(at):.1f},{up(hi):.1f}" for at, _, hi in s.band]
            back = [f"{across(at):.1f},{up(lo):.1f}" for at, lo, _ in reversed(s.band)]
            drawing.append(tag("polygon", points=" ".join(there + back), class_=f"band-{colour}"))
    for colour, s in zip(("one", "two"), series, strict=False):
        path = " ".join(f"{across(at):.1f},{up(y):.1f}" for at, y in s.points)
        drawing.append(tag("polyline", points=path, class_=f"line {colour}"))
        if s.dots or len(s.points) == 1:
            drawing += [
                tag(
                    "circle",
                    cx=f"{across(at):.1f}",
                    cy=f"{up(y):.1f}",
                    r=3,
                    class_=f"fill-{colour}",
                )
                for at, y in s.points
            ]
    drawing += _tooltips(series, across, up, x, shown)
    ends = ", ".join(f"{s.name} ends at {shown(s.points[-1][1])}" for s in series)
    keys = [s.name for s in series] if len(series) > 1 else []
    return figure(title, drawing, unit=unit, keys=keys, summary=ends)


def _tooltips(
    series: Sequence[Line], across: Scale, up: Scale, x: str, shown: Format
) -> Iterable[Markup]:
    """Upright stripes around the points of the longest series; those of others have dots."""
    main = max(series, key=lambda s: len(s.points))
    at = [across(point[0]) for point in main.points]
    for i, (value, y) in enumerate(main.points):
        left = (at[i - 1] + at[i]) / 2 if i else at[i] - 4
        right = (at[i] + at[i + 1]) / 2 if i + 1 < len(at) else at[i] + 4
        said = f"{x} {number(value)}: {main.name} {shown(y)}"
        if main.band:
            said += f" ({shown(main.band[i][1])} to {shown(main.band[i][2])})"
        yield tag(
            "rect",
            tag("title", said),
            x=f"{left:.1f}",
            y=TOP,
            width=f"{max(right - left, 0.1):.1f}",
            height=HEIGHT - TOP - BOTTOM,
            class_="hit",
        )
    for s in series:
        if s is not main:
            for value, y in s.points:
                yield tag(
                    "circle",
                    tag("title", f"{x} {number(value)}: {s.name} {shown(y)}"),
                    cx=f"{across(value):.1f}",
                    cy=f"{up(y):.1f}",
                    r=8,
                    class_="hit",
                )


def _frame(
    across: Scale, up: Scale, *, x: str, shown: Format, across_shown: Format = number
) -> Iterable[Markup]:
    """Grid, axis and labels."""
    for value in up.ticks():
        y = f"{up(value):.1f}"
        yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
        yield tag("text", shown(value), x=LEFT - 7, y=y, dy="0.35em", text_anchor="end")
    base = HEIGHT - BOTTOM
    yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=base, y2=base, class_="axis")
    for value in across.ticks():
        at = f"{across(value):.1f}"
        yield tag("line", x1=at, x2=at, y1=base, y2=base + 4, class_="axis")
        yield tag("text", across_shown(value), x=at, y=base + 15, text_anchor="middle")
    yield tag("text", x, x=WIDTH - RIGHT, y=base + 31, text_anchor="end")


def histogram(
    title: str,
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    x: str,
    unit: str,
    cut: float | None = None,
    cut_name: str = "",
    split: bool = True,
    shown: Format = number,
) -> Markup:
    """Bars over bins. A line marks `cut`; with `split`, bars beyond it have the second colour."""
    across = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    up = Scale(0, _rounded(0, max(*counts, 1))[1], HEIGHT - BOTTOM, TOP)
    drawing = [*_frame(across, up, x=x, shown=number, across_shown=shown)]
    for i, count in enumerate(counts):
        left, right, top = across(edges[i]), across(edges[i + 1]), up(count)
        beyond = split and cut is not None and edges[i] >= cut
        drawing.append(
            tag(
                "rect",
                x=f"{left + 0.4:.1f}",
                y=f"{top:.1f}",
                width=f"{max(right - left - 0.8, 0.4):.1f}",
                height=f"{HEIGHT - BOTTOM - top:.1f}",
                class_="fill-two" if beyond else "fill-one",
            )
        )
        drawing.append(
            tag(
                "rect",
                tag("title", f"{shown(edges[i])} to {shown(edges[i + 1])} {x}: {count:,}"),
                x=f"{left:.1f}",
                y=TOP,
                width=f"{right - left:.1f}",
                height=HEIGHT - TOP - BOTTOM,
                class_="hit",
            )
        )
    if cut is not None and edges[0] < cut < edges[-1]:
        at = across(cut)
        side = 6 if at < WIDTH / 2 else -6
        drawing.append(tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark"))
        anchor = "start" if side > 0 else "end"
        drawing.append(
            tag("text", cut_name, x=at + side, y=TOP + 9, text_anchor=anchor, class_="title")
        )
    return figure(title, drawing, unit=unit, summary=f"{sum(counts):,} in all")


def reliability(
    title: str,
    edges: Sequence[float],
    confidence: Sequence[float],
    accuracy: Sequence[float],
    questions: Sequence[int],
) -> Markup:
    """Accuracy over confidence, both from 0 to 1, with the diagonal where they agree."""
    across = Scale(0, 100, LEFT, WIDTH - RIGHT)
    up = Scale(0, 100, HEIGHT - BOTTOM, TOP)
    drawing = [*_frame(across, up, x="confidence, %", shown=number)]
    base = HEIGHT - BOTTOM
    bars: list[Markup] = []
    dots: list[Markup] = []
    hits: list[Markup] = []
    for i, count in enumerate(questions):
        if not count:
            continue
        left, right = across(100 * edges[i]) + 0.6, across(100 * edges[i + 1]) - 0.6
        share, sure = 100 * accuracy[i], 100 * confidence[i]
        bars.append(
            tag(
                "rect",
                x=f"{left:.1f}",
                y=f"{up(share):.1f}",
                width=f"{right - left:.1f}",
                height=f"{base - up(share):.1f}",
                class_="soft-one",
            )
        )
        top = f"{up(share):.1f}"
        bars.append(
            tag("line", x1=f"{left:.1f}", x2=f"{right:.1f}", y1=top, y2=top, class_="line one")
        )
        dots.append(
            tag("circle", cx=f"{across(sure):.1f}", cy=f"{up(sure):.1f}", r=3, class_="fill-two")
        )
        hits.append(
            tag(
                "rect",
                tag(
                    "title",
                    f"{count:,} questions: confidence {sure:.1f} %, accuracy {share:.1f} %",
                ),
                x=f"{left:.1f}",
                y=TOP,
                width=f"{right - left:.1f}",
                height=base - TOP,
                class_="hit",
            )
        )
    diagonal = tag("line", x1=across(0), y1=up(0), x2=across(100), y2=up(100), class_="mark")
    drawing += [*bars, diagonal, *dots, *hits]
    return figure(title, drawing, unit="%", keys=("accuracy", "mean confidence"))


@dataclass(frozen=True)
class Dot:
    """A named value, with an interval if it has one; None where there is no value.

    A hollow one stands apart from the others.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    hollow: bool = False


def dots(
    title: str,
    rows: Sequence[Dot],
    *,
    unit: str,
    hollow_means: str,
    mark: float | None = None,
    mark_name: str = "",
) -> Markup:
    """Values one below the other, each named at the left; a line marks `mark`.

    Args:
        hollow_means: what is said of a hollow dot, and of a row without a value.
    """
    ends = [end for row in rows for end in row.interval or ()] + [mark, *(r.value for r in rows)]
    known = [end for end in ends if end is not None] or [0.0]
    left = LEFT + 4.5 * max(len(row.name) for row in rows)
    height = TOP + ROW * len(rows) + BOTTOM + 6
    base = height - BOTTOM
    across = Scale(*_rounded(min(known), max(known)), left, WIDTH - RIGHT)
    drawing = []
    for value in across.ticks():
        x = f"{across(value):.1f}"
        drawing.append(tag("line", x1=x, x2=x, y1=TOP, y2=base, class_="grid"))
        drawing.append(tag("text", number(value), x=x, y=base + 15, text_anchor="middle"))
    if mark is not None:
        x = f"{across(mark):.1f}"
        drawing.append(tag("line", x1=x, x2=x, y1=TOP, y2=base, class_="mark"))
        drawing.append(tag("text", mark_name, x=x, y=base + 31, text_anchor="middle"))
    for place, row in enumerate(rows):
        y = TOP + ROW * (place + 0.5)
        said = "none" if row.value is None else f"{row.value:.2f}"
        said = f"{row.name}: {said}"
        middle = {"dy": "0.35em"}
        drawing.append(
            tag("text", row.name, x=left - 10, y=y, text_anchor="end", class_="title", **middle)
        )
        if row.interval:
            low, high = row.interval
            said += f" ({low:.1f} to {high:.1f})"
            drawing.append(
                tag(
                    "line",
                    x1=f"{across(low):.1f}",
                    x2=f"{across(high):.1f}",
                    y1=y,
                    y2=y,
                    class_="whisker",
                )
            )
        if row.value is not None:
            kind = "hollow" if row.hollow else "fill-one"
            drawing.append(tag("circle", cx=f"{across(row.value):.1f}", cy=y, r=4, class_=kind))
        else:
            drawing.append(tag("text", hollow_means, x=left + 6, y=y, **middle))
        if row.hollow:
            said += f", {hollow_means}"
        drawing.append(
            tag(
                "rect",
                tag("title", said),
                x=0,
                y=y - ROW / 2,
                width=WIDTH,
                height=ROW,
                class_="hit",
            )
        )
    summary = ", ".join(
        f"{row.name} {hollow_means if row.value is None else f'{row.value:.2f}'}" for row in rows
    )
    return figure(title, drawing, unit=unit, summary=summary, height=height)


def strip(low: float, value: float, high: float, mark: float | None, said: str) -> Markup:
    """A table's cell: an interval with its middle on an axis of 0 to 100; `mark` is a diamond."""
    drawing = [
        *(tag("line", x1=f"{at}%", x2=f"{at}%", y1="0", y2="100%", class_="grid") for at in TICKS),
        tag("line", x1=f"{low:.2f}%", x2=f"{high:.2f}%", y1="50%", y2="50%", class_="whisker"),
        tag("circle", cx=f"{value:.2f}%", cy="50%", r=3.5, class_="fill-one"),
    ]
    if mark is not None:
        diamond = tag("path", d="M0 -5L5 0L0 5L-5 0Z", class_="diamond")
        drawing.append(tag("svg", diamond, x=f"{mark:.2f}%", y="50%", overflow="visible"))
    svg = tag("svg", tag("title", said), *drawing, role="img", aria_label=said)
    return tag("td", svg, class_="strip")


TICKS = (0, 25, 50, 75, 100)


def strip_axis(name: str) -> Markup:
    """The head of a column of strips."""
    labels = [
        tag(
            "text",
            at,
            x=f"{at}%",
            y="100%",
            text_anchor={0: "start", 100: "end"}.get(at, "middle"),
            class_="wide-only" if at in (25, 75) else None,
        )
        for at in TICKS
    ]
    return tag(
        "th", tag("svg", *labels, role="img", aria_label=name), class_="strip axis", scope="col"
    )
