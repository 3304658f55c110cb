"""How often each letter is the right one."""

from collections import Counter
from collections.abc import Sequence

from components.common.dataset import LETTERS

# A label that comes this many times as often as the rarest leans.
LEANS = 1.5
# Chance alone makes a split lean that has fewer questions for each option.
FEW = 100


def usual(labels: Sequence[int]) -> int:
    """The label that comes most often; 0 of none."""
    return Counter(labels).most_common(1)[0][0] if labels else 0


def shares(labels: Sequence[int], options: int) -> list[float]:
    """Of each label, from 0 to 1."""
    counts = Counter(labels)
    return [counts[n] / max(len(labels), 1) for n in range(options)]


def leaning(split: str, labels: Sequence[int], options: int) -> str:
    """What to say of a split whose labels lean to one letter; "" where they do not."""
    found = shares(labels, options)
    if len(labels) < FEW * options or min(found) * LEANS >= max(found):
        return ""
    most, least = found.index(max(found)), found.index(min(found))
    return (
        f"in {split} {LETTERS[most]} is right in {max(found):.1%} of the questions,"
        f" {LETTERS[least]} in {min(found):.1%}"
    )
