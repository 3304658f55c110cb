"""What losses of nodes cost a run: the exact expectation, and a simulation to check it.

Every node is lost at random, with the same rate at all times (a Poisson process), without notice.
Then the whole group starts again from the newest checkpoint that was published. Publishing takes
place beside training: one checkpoint is on its way, at most one waits, and a newer one takes its
place (components.common.storage.publisher).
"""

import heapq
import itertools
import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A run as losses see it. All in seconds.

    Args:
        start: from asking for the nodes to the first update.
        restart: from a loss to the next update: noticed, started again, checkpoint fetched.
        publishing: of a checkpoint, beside training.
        stretches: training up to each checkpoint, its writing included. The run is over when the
            last one is published.
    """

    start: float
    restart: float
    publishing: float
    stretches: tuple[float, ...]

    def published(self, after: int) -> list[tuple[float, int]]:
        """(time, checkpoint) of each publication of a group that starts behind checkpoint `after`.

        Checkpoints count from 1; 0 is the beginning.
        """
        found: list[tuple[float, int]] = []
        written = 0.0
        idle_at = 0.0  # when nothing is on its way any more
        waiting = 0
        for number in range(after + 1, len(self.stretches) + 1):
            written += self.stretches[number - 1]
            if waiting and idle_at <= written:  # it went on its way before this one was written
                idle_at += self.publishing
                found.append((idle_at, waiting))
                waiting = 0
            if idle_at <= written:
                idle_at = written + self.publishing
                found.append((idle_at, number))
            else:
                waiting = number
        if waiting:
            found.append((idle_at + self.publishing, waiting))
        return found

    def undisturbed(self) -> float:
        """Seconds of a run without losses."""
        return self.start + self.published(0)[-1][0]


def expected(schedule: Schedule, rate: float) -> float:
    """The expected time of a run, exactly.

    Between two publications nothing changes but that time passes, so with rate L, x seconds to the
    next publication and U the expected time from a loss to the end, the expected time to the end is

        V = (1 - exp(-L x)) (1 / L + U) + exp(-L x) V'

    with V' after that publication. After a loss, y = restart + time to the first publication have
    to pass without another one: U = (exp(L y) - 1) / L + V'. Without publishing beside training it
    is Daly's (2006) formula for each stretch.

    Args:
        rate: losses of any node of the group, a second.
    """
    if not rate:
        return schedule.undisturbed()
    count = len(schedule.stretches)
    lost = [0.0] * count  # U, by the newest published checkpoint
    for newest in reversed(range(count)):
        publications = schedule.published(newest)
        rest = 0.0
        for (before, there), (after, _) in reversed(list(itertools.pairwise(publications))):
            rest = _until(after - before, rate, lost[there], rest)
        first = publications[0][0]
        try:
            lost[newest] = math.expm1(rate * (schedule.restart + first)) / rate + rest
        except OverflowError:
            return math.inf
        if newest == 0:
            return _until(schedule.start + first, rate, lost[0], rest)
    raise AssertionError("a schedule has at least one stretch")


def _until(seconds: float, rate: float, lost: float, rest: float) -> float:
    fails = -math.expm1(-rate * seconds)
    return fails * (1 / rate + lost) + (1 - fails) * rest


def first_order(schedule: Schedule, rate: float) -> float:
    """The expected time to first order: a loss costs a restart, half an interval, and what was
    computed while the checkpoint was on its way."""
    whole = schedule.undisturbed()
    interval = sum(schedule.stretches) / len(schedule.stretches)
    return whole * (1 + rate * (schedule.restart + interval / 2 + schedule.publishing))


@dataclass(frozen=True)
class Simulated:
    """What many runs took."""

    mean: float  # seconds
    error: float  # standard error of the mean
    late: float  # seconds that one run in twenty exceeds
    losses: float  # of a run, on the average
    many: float  # share of runs with more than `KFP_RETRIES` losses


KFP_RETRIES = 3  # pipeline.pipeline.RETRIES, which a test compares


def simulate(schedule: Schedule, rate: float, nodes: int, runs: int, seed: int) -> Simulated:
    """Play runs event by event.

    Args:
        rate: losses of one node, a second.
        nodes: each is lost on its own, and replaced.
    """
    chance = random.Random(seed)
    took: list[float] = []
    counts: list[int] = []
    for _ in range(runs):
        seconds, losses = _play(schedule, rate, nodes, chance)
        took.append(seconds)
        counts.append(losses)
    mean = math.fsum(took) / runs
    deviation = math.sqrt(math.fsum((t - mean) ** 2 for t in took) / (runs - 1))
    return Simulated(
        mean=mean,
        error=deviation / math.sqrt(runs),
        late=sorted(took)[math.ceil(0.95 * runs) - 1],
        losses=sum(counts) / runs,
        many=sum(count > KFP_RETRIES for count in counts) / runs,
    )


# Events; of two at once the first in this order comes first.
_PUBLISHED, _WRITTEN, _READY, _LOST = range(4)


def _play(schedule: Schedule, rate: float, nodes: int, chance: random.Random) -> tuple[float, int]:
    """Seconds and losses of one run.

    A queue of events, and what is in the hands of the group: nothing of `expected` is used.
    """
    events: list[tuple[float, int, int, int]] = []  # time, event, attempt or node, checkpoint
    if rate:
        for node in range(nodes):
            events.append((chance.expovariate(rate), _LOST, node, 0))
    events.append((schedule.start, _READY, 0, 0))
    heapq.heapify(events)
    attempt = losses = stored = 0
    sending = waiting = 0  # checkpoints; 0 is none
    while True:
        now, event, which, number = heapq.heappop(events)
        if event == _LOST:
            losses += 1
            attempt += 1  # what the last one had begun comes to nothing
            sending = waiting = 0
            heapq.heappush(events, (now + chance.expovariate(rate), _LOST, which, 0))
            heapq.heappush(events, (now + schedule.restart, _READY, attempt, stored))
        elif which != attempt:
            continue
        elif event == _READY:
            heapq.heappush(
                events, (now + schedule.stretches[number], _WRITTEN, attempt, number + 1)
            )
        elif event == _WRITTEN:
            if number < len(schedule.stretches):
                following = now + schedule.stretches[number]
                heapq.heappush(events, (following, _WRITTEN, attempt, number + 1))
            if sending:
                waiting = number
            else:
                sending = number
                heapq.heappush(events, (now + schedule.publishing, _PUBLISHED, attempt, number))
        else:
            stored = number
            if stored == len(schedule.stretches):
                return now, losses
            sending, waiting = waiting, 0
            if sending:
                heapq.heappush(events, (now + schedule.publishing, _PUBLISHED, attempt, sending))
