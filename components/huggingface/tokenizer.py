"""A byte-level BPE as fairseq has it, and as Hugging Face's tokenizers have it.

fairseq takes two steps: encoder.json and vocab.bpe take text to GPT-2's ids, and dict.txt takes an
id, as a symbol, to the model's index. Hugging Face's vocab.json takes a piece to the index at once.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.binarize.bpe import byte_characters, read_bpe
from components.common import strict_json
from components.common.dictionary import SPECIAL
from components.common.errors import DataError
from components.common.vocabulary import Vocabulary, read_vocabulary

MASK = "<mask>"  # which fairseq's tasks add at the end of the dictionary
_TEMPLATES = Path(__file__).parent / "templates"
_PADDING = re.compile(r"madeupword\d+")  # fairseq's, to round up the size of a dictionary


def to_huggingface(bpe: Path, max_length: int) -> dict[str, str]:
    """The files of a RobertaTokenizer, by name, for encoder.json, vocab.bpe and dict.txt.

    Args:
        max_length: tokens of the longest sequence.

    Raises:
        DataError: a file is missing, damaged, or does not fit the others.
    """
    encoder, dictionary, _ = read_bpe(bpe)
    pieces, merges, symbols = encoder.pieces, encoder.merges, dictionary.symbols
    named = {str(number): piece for piece, number in pieces.items()}
    names = [named.get(symbol, symbol) for symbol in symbols[len(SPECIAL) :]]
    vocabulary = {name: index for index, name in enumerate([*SPECIAL, *names, MASK])}
    if len(vocabulary) != len(symbols) + 1:
        raise DataError(f"{bpe}: two symbols of dict.txt are the same piece", hint=_HINT)
    made = {*byte_characters(), *("".join(pair) for pair in merges)}
    if missing := made - vocabulary.keys():
        raise DataError(
            f"{bpe}: dict.txt lacks {len(missing)} pieces that the BPE makes, such as"
            f" {min(missing)!r}, for which a Hugging Face tokenizer has no place",
            hint=_HINT,
        )
    tokenizer = strict_json.read(_TEMPLATES / "tokenizer.json")  # of the tokenizers library
    tokenizer["model"] |= {"vocab": vocabulary, "merges": merges}
    tokenizer["added_tokens"][-1]["id"] = vocabulary[MASK]
    # With split_special_tokens: text that looks like a special token is text, as it is to fairseq.
    settings = strict_json.read(_TEMPLATES / "tokenizer_config.json")
    settings["model_max_length"] = max_length
    special = {name: token for name, token in settings.items() if name.endswith("_token")}
    return {
        "vocab.json": strict_json.dumps(vocabulary, ensure_ascii=False) + "\n",
        "merges.txt": _merges(merges),
        "tokenizer.json": _pretty(tokenizer),
        "tokenizer_config.json": _pretty(settings),
        "special_tokens_map.json": _pretty(special),
    }


_HINT = "Use the encoder.json, vocab.bpe and dict.txt that belong together"


def _pretty(content: object) -> str:
    return strict_json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _merges(merges: Sequence[tuple[str, str]]) -> str:
    """The content of vocab.bpe, which is that of merges.txt."""
    return "".join(["#version: 0.2\n", *(f"{left} {right}\n" for left, right in merges)])


def write_bpe(bpe: Mapping[str, str], source: Path, folder: Path) -> Vocabulary:
    """Write what `from_huggingface` has made of a Hugging Face folder; its vocabulary."""
    for name, text in bpe.items():
        (folder / name).write_text(text, encoding="utf-8")
    return dataclasses.replace(read_vocabulary(folder), where=source)


def from_huggingface(source: Path) -> dict[str, str]:
    """encoder.json, vocab.bpe and dict.txt for the tokenizer in a Hugging Face folder.

    GPT-2's ids are not in there, but follow from its merges: first the bytes, then what each merge
    makes, then all else. dict.txt has no counts then: they are 0.

    Raises:
        DataError: files are missing or damaged, or the tokenizer is not RoBERTa's.
    """
    vocabulary, merges = _read(source)
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[name] for name in names] != list(range(len(names))):
        raise DataError(f"{source}: the indices of its tokens have gaps", hint=_SOURCE_HINT)
    if tuple(names[: len(SPECIAL)]) != SPECIAL or names[-1] != MASK:
        raise DataError(
            f"{source}: its tokens do not start with {' '.join(SPECIAL)} and end with {MASK}",
            hint=_SOURCE_HINT,
        )
    pieces = names[len(SPECIAL) : -1]
    # The bytes as GPT-2's encoder.json has them: those that are visible in Latin-1, then others.
    made = dict.fromkeys([*sorted(byte_characters()), *(left + right for left, right in merges)])
    if missing := made.keys() - vocabulary.keys():
        raise DataError(
            f"{source}: {len(missing)} pieces that its merges make, such as {min(missing)!r}, have"
            " no index",
            hint=_SOURCE_HINT,
        )
    others = [name for name in pieces if name not in made and not _PADDING.fullmatch(name)]
    ids = {name: number for number, name in enumerate([*made, *others])}
    symbols = [str(ids.get(name, name)) for name in pieces]
    return {
        "encoder.json": strict_json.dumps(ids),
        "vocab.bpe": _merges(merges),
        "dict.txt": "".join(f"{symbol} 0\n" for symbol in symbols),
    }


_SOURCE_HINT = "Give a folder with RoBERTa's own tokenizer"


def _read(source: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token to index, and the merges, of vocab.json and merges.txt or else of tokenizer.json."""
    try:
        if (source / "vocab.json").is_file() and (source / "merges.txt").is_file():
            vocabulary = strict_json.read(source / "vocab.json")
            lines = (source / "merges.txt").read_text(encoding="utf-8").split("\n")
            start = 1 if lines[0].startswith("#version") else 0
            merges = [row.split(" ") for row in lines[start:] if row]
        else:
            content = strict_json.read(source / "tokenizer.json")
            if content["model"]["type"] != "BPE":
                raise DataError(f"{source}: its tokenizer is no BPE", hint=_SOURCE_HINT)
            vocabulary = content["model"]["vocab"]
            vocabulary |= {token["content"]: token["id"] for token in content["added_tokens"]}
            merges = [
                row.split(" ") if isinstance(row, str) else row
                for row in content["model"]["merges"]
            ]
        if not all(type(index) is int for index in vocabulary.values()):
            raise TypeError
        return vocabulary, [(str(left), str(right)) for left, right in merges]
    except FileNotFoundError:
        raise DataError(
            f"{source}: holds neither vocab.json and merges.txt nor tokenizer.json",
            hint=_SOURCE_HINT,
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{source}: its tokenizer's files are damaged", hint=_SOURCE_HINT) from None
