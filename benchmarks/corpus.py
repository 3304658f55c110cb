"""A made-up data set for measurements: files, counts and lengths of RACE, no meaning."""

import json
import random
from fractions import Fraction
from pathlib import Path

import numpy as np

from components.preprocess.core import OFFICIAL, Count, Part

# Mean words of passage, question and option (Lai et al. 2017, table 3); the spread is ours.
WORDS = {"middle": (231, 9, 3.9), "high": (353, 10.4, 5.8)}


def make_corpus(race: Path, bpe: Path, scale: Fraction, seed: int) -> tuple[int, int]:
    """Write RACE's folders with `scale` times its passages and questions; returns their numbers."""
    passages = asked = 0
    words = Words(bpe, seed)
    rng = random.Random(seed)
    for part, official in OFFICIAL.items():
        folder = race / part.folder / part.level
        folder.mkdir(parents=True)
        count = Count(round(official.passages * scale), round(official.questions * scale))
        for number, questions in enumerate(share_out(rng, part, count), start=1):
            passage = make_passage(rng, words, part.level, questions)
            passage["id"] = f"{part.level}{number}.txt"
            # RACE's files are written with escapes.
            (folder / f"{number}.txt").write_text(json.dumps(passage))
        passages += count.passages
        asked += count.questions
    return passages, asked


def share_out(rng: random.Random, part: Part, count: Count) -> list[int]:
    """How many questions each passage has: as RACE, one to six and two without any."""
    empty = 2 if part == ("train", "high") and count.passages > 100 else 0
    shares = [1] * (count.passages - empty)
    open_shares = list(range(len(shares)))
    for _ in range(count.questions - len(shares)):
        i = rng.randrange(len(open_shares))
        shares[open_shares[i]] += 1
        if shares[open_shares[i]] == 6:
            open_shares[i] = open_shares[-1]
            open_shares.pop()
    shares += [0] * empty
    rng.shuffle(shares)
    return shares


class Words:
    """Draws words by Zipf's law: first the words among the BPE's tokens, then made-up rare ones."""

    def __init__(self, bpe: Path, seed: int, vocabulary: int = 100_000) -> None:
        pieces = json.loads((bpe / "encoder.json").read_text(encoding="utf-8"))
        known = [p[1:] for p in pieces if p[:1] == "Ġ" and p[1:].isascii() and p[1:].isalpha()]
        rng = random.Random(seed)
        parts = [c + v for c in (*"bcdfghklmnprstvw", "st", "tr", "pl", "ch") for v in "aeiou"]
        rare = {
            "".join(rng.choices(parts, k=rng.randint(2, 4)))
            + rng.choice(["", "n", "s", "ed", "ing"])
            for _ in range(max(0, vocabulary - len(known)))
        }
        self._words = [*known, *sorted(rare)]
        weights = 1 / (np.arange(len(self._words)) + 2.7)
        self._edges = np.cumsum(weights / weights.sum())
        self._rng = np.random.default_rng(seed)
        self._drawn: list[str] = []

    def draw(self, n: int) -> list[str]:
        if len(self._drawn) < n:
            picks = self._edges.searchsorted(self._rng.random(1 << 20))
            self._drawn = [self._words[i] for i in picks.clip(max=len(self._words) - 1)]
        drawn = self._drawn[-n:]
        del self._drawn[-n:]
        return drawn


def make_passage(rng: random.Random, words: Words, level: str, questions: int) -> dict[str, object]:
    passage, question, option = WORDS[level]
    sentences = []
    typeset = rng.random() < 0.2
    gap = "  " if rng.random() < 0.2 else " "
    left = max(40, round(rng.gauss(passage, passage / 4)))
    while left > 0:
        n = min(left, rng.randint(6, 24))
        sentence = " ".join(words.draw(n)).capitalize()
        if n > 12 and rng.random() < 0.7:
            sentence = sentence.replace(" ", ", ", 1)
        if rng.random() < 0.1:
            sentence += f" in {rng.randint(1900, 2020)}"
        if typeset and rng.random() < 0.2:
            sentence = f"\u201c{sentence},\u201d he said, it\u2019s a caf\u00e9"
        sentences += [sentence, rng.choice([".", ".", ".", ".\n", "?", " .", "! It's"]) + gap]
        left -= n
    return {
        "article": "".join(sentences),
        "questions": [
            " ".join(words.draw(max(2, round(rng.gauss(question, 3))))).capitalize()
            + rng.choice(["?", "?", " _ .", " because _"])
            for _ in range(questions)
        ],
        "options": [
            [" ".join(words.draw(max(1, round(rng.gauss(option, 2))))) for _ in range(4)]
            for _ in range(questions)
        ],
        "answers": [rng.choice("ABCD") for _ in range(questions)],
    }
