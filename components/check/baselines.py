"""Answers that are found without reading the passage, or only by counting its words."""

import string

from components.check.columns import Split
from components.common.asked import Asked
from components.common.labels import longest_wins, won

# What each is called in the table.
NAMES = {"usual": "usual letter", "longest": "longest option", "overlap": "most words"}

_KEPT = f"{string.ascii_letters}{string.digits}_'".encode()
_SPACES = bytes(code if code in _KEPT else ord(" ") for code in range(256))


def accuracies(split: Split, usual: int) -> dict[str, float]:
    """How often they are right, in percent: a tie between k options counts as 1/k where one is.

    usual: the letter that is right most often in train; longest: the option of most characters;
    overlap: the option of whose words most, as a share, are in the passage.
    """
    right = {"usual": 0.0, "longest": 0.0, "overlap": 0.0}
    bounds = [*split.starts[1:], len(split.labels)]
    for passage, start, end in zip(split.normal, split.starts, bounds, strict=True):
        words = {*_words(passage)}
        for asked, label in zip(split.asked[start:end], split.labels[start:end], strict=True):
            right["usual"] += label == usual
            right["longest"] += longest_wins(asked.options, label)
            right["overlap"] += won(_overlaps(asked, words), label)
    return {name: 100 * count / max(len(split.labels), 1) for name, count in right.items()}


def _overlaps(asked: Asked, words: set[bytes]) -> list[float]:
    found = [_words(option.lower().encode()) for option in asked.options]
    return [sum(w in words for w in option) / max(len(option), 1) for option in found]


def _words(text: bytes) -> list[bytes]:
    return text.translate(_SPACES).split()
