"""The trials of a sweep: which settings each trains with, and what it is called."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.common.cli import option
from components.common.errors import ConfigError
from components.common.executor import Outcome


@dataclass(frozen=True)
class Trial:
    """One training of a sweep. `label` is for people: seed 2, or seed 2, lr 1e-05."""

    seed: int
    learning_rate: float
    label: str

    @property
    def name(self) -> str:
        """For files and addresses: seed-2, or seed-2-lr-1e-05."""
        return self.label.replace(", ", "-").replace(" ", "-")


@dataclass(frozen=True)
class TrialsConfig:
    """The values to train with; KFP makes 1.0 of 1.

    Raises:
        ConfigError: a value is not of its kind, or is given twice.
    """

    seeds: list[Any] = option([], help="train with each of these; else with `seed`")
    learning_rates: list[Any] = option(
        [], help="train with each of these; else with `learning_rate`"
    )
    seed: int = option(1, help="where there are no `seeds`")
    learning_rate: float = option(1e-5, help="where there are no `learning_rates`")

    def __post_init__(self) -> None:
        self.pairs()

    def pairs(self) -> list[tuple[int, float]]:
        """All pairs of seeds and learning rates, learning rate by learning rate."""
        seeds = _numbers("seeds", self.seeds, int, "[1, 2, 3]") or [self.seed]
        rates = _numbers("learning_rates", self.learning_rates, float, "[1e-5, 2e-5]")
        return [(seed, rate) for rate in rates or [self.learning_rate] for seed in seeds]


class Trials(tuple[Trial, ...]):
    """All trainings of a sweep."""

    @property
    def outcome(self) -> Outcome:
        return Outcome(parameters={"Output": [{**asdict(t), "trial": t.name} for t in self]})


def plan_trials(config: TrialsConfig) -> Trials:
    """The trials of a sweep, learning rate by learning rate."""
    pairs = config.pairs()
    return Trials(Trial(*pair, label) for pair, label in zip(pairs, labels(pairs), strict=True))


def labels(pairs: Sequence[tuple[int, float]]) -> list[str]:
    """A label for each pair of seed and learning rate: what differs, and the seed of one alone."""
    shown = [
        (f"{kind} {{{place}!r}}")
        for place, kind in enumerate(("seed", "lr"))
        if len({pair[place] for pair in pairs}) > 1
    ]
    pattern = ", ".join(shown) or "seed {0!r}"
    return [pattern.format(*pair) for pair in pairs]


def _numbers(name: str, values: list[Any], kind: type[int] | type[float], such: str) -> list[Any]:
    """Numbers from 0 on, each of which is there once."""
    found: list[Any] = []
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0 or kind(value) != value:
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(
                f"{name}: {value!r} is not {what} from 0 on", hint=f"Give a list such as {such}"
            )
        if value in found:
            raise ConfigError(
                f"{name}: {kind(value)!r} is given twice", hint="Give each value once"
            )
        found.append(kind(value))
    return found
