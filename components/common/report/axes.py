"""What charts are drawn by: short numbers, scales with round ticks, series of few points.

The charts themselves are macros, templates/charts.html.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

# A chart's frame, in pixels of a chart that is WIDTH wide.
WIDTH, LEFT, RIGHT, TOP, BASE = 400, 48, 390, 8, 196
TICKS = 5  # about as many on an axis
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

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

    def ticks(self, about: int = TICKS) -> list[float]:
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


def axis(values: Sequence[float], start: float, end: float, *, log2: bool = False) -> Scale:
    """A scale that holds all values, widened to whole steps or, with `log2`, to powers of two."""
    low, high = min(values), max(values)
    if log2:
        low = 2.0 ** math.floor(math.log2(low))
        return Scale(low, max(2.0 ** math.ceil(math.log2(high)), 2 * low), start, end, log2=True)
    if high <= low:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    step = _step((high - low) / TICKS)
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    return Scale(low, high, start, end)


@dataclass(frozen=True)
class Line:
    """A series. `band` (x, lowest, highest) is drawn behind the line; `dots` marks its points."""

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    dots: bool = False

    @property
    def values(self) -> list[float]:
        """All heights that are drawn."""
        return [y for _, y in self.points] + [y for _, *ends in self.band for y in ends]


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


@dataclass(frozen=True)
class Plot:
    """One or two lines over the same x."""

    series: Sequence[Line]
    across: Scale
    up: Scale

    @property
    def main(self) -> Line:
        """The line with the most points."""
        return max(self.series, key=lambda line: len(line.points))


def plot(series: Sequence[Line], *, ends: Sequence[float] = (), log2: bool = False) -> Plot:
    """The lines in the frame of a chart; the upright axis holds `ends` besides."""
    places = [x for line in series for x, _ in line.points]
    heights = [y for line in series for y in line.values]
    across = Scale(min(0.0, *places), max(1.0, *places), LEFT, RIGHT)
    return Plot(series, across, axis([*heights, *ends], BASE, TOP, log2=log2))


@dataclass(frozen=True)
class Dot:
    """A named value, with an interval if it has one; None where there is no value.

    A hollow one stands apart from the others.
    """

    name: str
    value: float | None
    interval: Sequence[float] = ()
    hollow: bool = False

    @property
    def values(self) -> list[float]:
        """All places that are drawn."""
        return [*([] if self.value is None else [self.value]), *self.interval]
