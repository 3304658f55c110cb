"""Binary data shaped like RACE's, with random tokens: what the speed of training depends on.

Lengths follow RACE after GPT-2's BPE: passages of 375 tokens on average, so that a fifth of the
sequences is cut at 512, and sequences of about 370 tokens on average; the options of a question
share its passage and are of like length.
"""

from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 50265  # rows of roberta's embedding, with <mask>
_SPECIAL = 5


def make_data(folder: Path, questions: dict[str, int], seed: int = 1, longest: int = 512) -> None:
    """Write input0..4 and label for splits of these sizes, as `components.binarize` does.

    Args:
        questions: how many each split has.
        longest: tokens at which a sequence is cut; all lengths are in proportion to it.
    """
    import torch
    from fairseq.data import Dictionary, indexed_dataset

    rng = np.random.default_rng(seed)
    dictionary = Dictionary()
    for word in range(VOCABULARY - _SPECIAL):
        dictionary.add_symbol(f"word{word}", n=VOCABULARY - word)
    for column in range(5):
        (folder / f"input{column}").mkdir(parents=True)
        dictionary.save(str(folder / f"input{column}" / "dict.txt"))
    (folder / "label").mkdir()
    scale = longest / 512
    for split, count in questions.items():
        right = rng.integers(4, size=count)
        (folder / "label" / f"{split}.label").write_text("".join(f"{r}\n" for r in right))
        for column, wanted in enumerate(make_lengths(rng, count)):
            prefix = folder / f"input{column}" / split
            builder = indexed_dataset.make_builder(
                f"{prefix}.bin", impl="mmap", vocab_size=VOCABULARY
            )
            for length in np.maximum(1, (wanted * scale).astype(int)).tolist():
                tokens = rng.integers(4, VOCABULARY - 1, size=length + 1, dtype=np.int32)
                tokens[-1] = dictionary.eos()
                builder.add_item(torch.from_numpy(tokens))
            builder.finalize(f"{prefix}.idx")


def make_lengths(rng: np.random.Generator, questions: int) -> list[np.ndarray[Any, Any]]:
    """Tokens of the passages and of the four options with their questions, before anything is cut:
    five of (questions,), not rounded."""
    passages = np.clip(rng.lognormal(5.85, 0.4, questions), 60, 1200)
    stems = np.clip(rng.normal(12, 5, questions), 3, 40)
    options = [stems + np.clip(rng.normal(8, 4, questions), 1, 40) for _ in range(4)]
    return [passages, *options]
