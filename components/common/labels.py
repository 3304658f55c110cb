"""How often each letter is the right one, and what answers are worth that need no reading."""

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


def won(scores: Sequence[float], label: int) -> float:
    """What choosing the option of the highest score is worth: a tie between k counts as 1/k."""
    best = max(scores)
    return (scores[label] == best) / scores.count(best)


def longest_wins(options: Sequence[str], label: int) -> float:
    """What choosing the option of most characters is worth."""
    return won([len(option) for option in options], label)
