"""A made-up data set, a BPE and an untrained model: all that a run needs, offline and from a seed.

The files have the formats of the real ones (RACE's archive, GPT-2's BPE, fairseq's RoBERTa), so the
pipeline treats both alike. The same seed gives the same bytes.

Passages are short and use few words, so that a tiny model learns within a minute on two CPU cores
which of the options the passage names. Nothing else tells: the right answer's letter is drawn
first, then the options without regard to it, and the passage is written last.
"""

import argparse
import contextlib
import csv
import gzip
import hashlib
import io
import itertools
import math
import random
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import yaml

from components.binarize.bpe import byte_characters
from components.common import strict_json
from components.common.dataset import LETTERS, OPTIONS
from components.common.errors import ConfigError
from components.common.files import atomic_folder, scratch_folder


@dataclass(frozen=True)
class Shape:
    """The size of a RoBERTa encoder, by fairseq's names; `max_positions` is in tokens."""

    encoder_layers: int
    encoder_embed_dim: int
    encoder_ffn_embed_dim: int
    encoder_attention_heads: int
    max_positions: int


# One head of all 32 dimensions separates a word from the others better than two of 16 do.
TINY = Shape(
    encoder_layers=2,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=64,
    encoder_attention_heads=1,
    max_positions=512,
)
# How many facts a passage of each level states; it asks one question about each of them.
FACTS = {"middle": 3, "high": 4}

WORDS = Path(__file__).with_suffix(".yaml")
PHRASES = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
MOST_OPTIONS = min(len(topic["words"]) for topic in PHRASES["topics"])

# Which of its files stands for which input of the pipeline.
INPUTS = {"race_url": "RACE.tar.gz", "roberta_url": "roberta.tiny.tar.gz", "bpe_url": "bpe"}


def sample_inputs(
    given: Mapping[str, Any], values: Mapping[str, Any], runs: Path
) -> dict[str, str]:
    """Paths for the inputs that are not `given`; the sample is made below `runs` if need be.

    Its model has the size that `values` ask for, and fits the dictionary, where one is given. Its
    questions have as many options as `values` ask for.

    Raises:
        RaceError: the dictionary that is given cannot be fetched, or the sample cannot have so
            many options.
        OSError: `runs` cannot be written.
    """
    missing = INPUTS.keys() - given.keys()
    if not missing:
        return {}
    options = values["preprocess_options"] or OPTIONS
    if options > MOST_OPTIONS:
        raise ConfigError(
            f"preprocess_options is {options}, but a sample has at most {MOST_OPTIONS}",
            hint="Give race_url data with this number of options",
        )
    shape = Shape(**{name: values[f"train_{name}"] or size for name, size in asdict(TINY).items()})
    with scratch_folder() as scratch:
        sources = [Path(__file__), WORDS]
        dictionary = None
        if "roberta_url" in missing and "bpe_url" in given:
            # What makes a sample and trains with it goes without what downloads.
            from components.download.core import DownloadConfig, download

            config = DownloadConfig(
                url=(given["bpe_url"],), files=("dict.txt",), output=scratch / "bpe"
            )
            dictionary = download(config)[0].path
            sources.append(dictionary)
        # The same sample has the same name, and is made once.
        digest = hashlib.sha256(repr((shape, options)).encode())
        for path in sources:
            digest.update(path.read_bytes())
        folder = runs / f"sample-{digest.hexdigest()[:8]}"
        if not folder.exists():
            # Another run may make the same one meanwhile.
            with contextlib.suppress(FileExistsError):
                make_sample(folder, options=options, shape=shape, dictionary=dictionary)
    return {name: str(folder / INPUTS[name]) for name in missing}


def make_sample(
    output: Path,
    seed: int = 1,
    *,
    passages: int = 2000,
    options: int = OPTIONS,
    shape: Shape = TINY,
    dictionary: Path | None = None,
) -> None:
    """Fill the new folder `output`.

        RACE.tar.gz           RACE/{train,dev,test}/{middle,high}/N.txt
        exam.csv              the same questions as one table, without splits and levels
        bpe/                  encoder.json, vocab.bpe, dict.txt
        roberta.tiny.tar.gz   roberta.tiny/{model.pt,dict.txt}

    Args:
        passages: how many to train on, half of them middle and half high; dev and test have an
            eighth of that each. The default makes 7,000, 875 and 875 questions.
        options: of each question, 2 to MOST_OPTIONS.
        shape: the size of the model.
        dictionary: a dict.txt that the model is to fit, for runs on other text; the sample's own
            by default.

    Raises:
        OSError: `output` cannot be written or holds something already, or `dictionary` cannot be
            read.
    """
    dataset = make_dataset(seed, passages, options)
    pieces = Counter(piece for text in dataset.values() for piece in _pieces(text))
    merges = learn_merges(pieces)
    encoder, own_dictionary = _vocabulary(merges, pieces)
    model_dictionary = dictionary.read_bytes() if dictionary else own_dictionary.encode()
    model = make_checkpoint(len(model_dictionary.splitlines()), seed, shape)
    with atomic_folder(output) as folder:
        _write_archive(
            folder / "RACE.tar.gz", {f"RACE/{name}": text for name, text in dataset.items()}
        )
        _write_table(folder / "exam.csv", dataset.values(), options)
        bpe = folder / "bpe"
        bpe.mkdir()
        (bpe / "encoder.json").write_text(strict_json.dumps(encoder), encoding="utf-8")
        (bpe / "vocab.bpe").write_text(
            "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8"
        )
        (bpe / "dict.txt").write_text(own_dictionary, encoding="utf-8")
        _write_archive(
            folder / "roberta.tiny.tar.gz",
            {"roberta.tiny/model.pt": model, "roberta.tiny/dict.txt": model_dictionary},
        )


def _write_table(path: Path, passages: Iterable[str], options: int) -> None:
    with path.open("x", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["article", "question", *LETTERS[:options], "answer"])
        for text in passages:
            found: Passage = strict_json.loads(text)
            asked = zip(found["questions"], found["options"], found["answers"], strict=True)
            rows.writerows([found["article"], q, *given, answer] for q, given, answer in asked)


# The data set


class Passage(TypedDict):
    """One of RACE's files, its fields in RACE's order."""

    answers: list[str]
    options: list[list[str]]
    questions: list[str]
    article: str
    id: str


def make_dataset(seed: int, passages: int, options: int = OPTIONS) -> dict[str, str]:
    """The JSON text of each file, by its path below RACE/."""
    rng = random.Random(seed)
    held_out = math.ceil(passages / 8)
    numbers = itertools.count(1)
    dataset = {}
    for split, size in (("train", passages), ("dev", held_out), ("test", held_out)):
        for level, facts in FACTS.items():
            count = math.ceil(size / 2)
            # A shuffled deck: each letter is right equally often.
            answers = [i % options for i in range(count * facts)]
            rng.shuffle(answers)
            for start in range(0, len(answers), facts):
                name = f"{next(numbers)}.txt"
                right = answers[start : start + facts]
                passage = _make_passage(rng, level, right, options, level + name)
                dataset[f"{split}/{level}/{name}"] = strict_json.dumps(passage)
    return dataset


def _make_passage(
    rng: random.Random, level: str, answers: list[int], count: int, id: str
) -> Passage:
    name, he, his = rng.choice(PHRASES["people"])
    person = {"name": name, "he": he, "his": his, "He": he.capitalize(), "His": his.capitalize()}
    sentences, asked = [], []
    # Topics do not repeat within a passage, so no wrong option stands anywhere in it.
    for topic, answer in zip(rng.sample(PHRASES["topics"], len(answers)), answers, strict=True):
        statement, asking, cloze = rng.choice(topic["facts"])
        words = rng.sample(topic["words"], count)
        if rng.random() < 0.5:
            question, options = cloze, words
        else:
            question, options = asking, [topic["option"].format(x=word) for word in words]
        sentences.append(statement.format(x=words[answer], **person))
        asked.append((LETTERS[answer], options, question.format(**person)))
    sentences.insert(0, rng.choice(PHRASES["openings"]).format(**person))
    if level == "high":
        for aside in rng.sample(PHRASES["asides"], 2):
            sentences.insert(rng.randrange(1, len(sentences) + 1), aside.format(**person))
        sentences.append(rng.choice(PHRASES["closings"]).format(**person))
    rng.shuffle(asked)
    # Some passages have paragraphs, as RACE's do.
    gaps = (" ", " ", "\n") if rng.random() < 0.5 else (" ",)
    article = sentences[0] + "".join(rng.choice(gaps) + sentence for sentence in sentences[1:])
    return {
        "answers": [answer for answer, _, _ in asked],
        "options": [options for _, options, _ in asked],
        "questions": [question for _, _, question in asked],
        "article": article,
        "id": id,
    }


# The BPE


# GPT-2's pattern (fairseq/data/encoders/gpt2_bpe_utils.py) in the terms of the standard library.
_PIECE = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
_ALPHABET = byte_characters()


def _pieces(passage: str) -> Iterator[str]:
    """The words, each with the space before it, that preprocessing makes of a RACE file."""
    content: Passage = strict_json.loads(passage)
    yield from _PIECE.findall(content["article"].replace("\n", " "))
    for question, options in zip(content["questions"], content["options"], strict=True):
        for option in options:
            filled = question.replace("_", option) if "_" in question else f"{question} {option}"
            yield from _PIECE.findall(filled)


def _symbols(piece: str) -> list[str]:
    return [_ALPHABET[b] for b in piece.encode()]


def learn_merges(pieces: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first, until every piece is one symbol.

    GPT-2 stops far earlier; here a word must be one token, because a tiny model compares tokens.
    """
    words = [_symbols(piece) for piece in pieces]
    weights = list(pieces.values())
    counts: Counter[tuple[str, str]] = Counter()
    holders: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # words, by pair

    def count(word: int, sign: int) -> None:
        for pair in itertools.pairwise(words[word]):
            counts[pair] += sign * weights[word]
            holders[pair].add(word)

    for word in range(len(words)):
        count(word, 1)
    merges = []
    while counts and counts[best := min(counts, key=lambda pair: (-counts[pair], pair))]:
        merges.append(best)
        for word in holders.pop(best):
            count(word, -1)
            words[word] = _merged(words[word], best)
            count(word, 1)
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for symbol in word:
        if result and (result[-1], symbol) == pair:
            result[-1] += symbol
        else:
            result.append(symbol)
    return result


def _vocabulary(merges: list[tuple[str, str]], pieces: Counter[str]) -> tuple[dict[str, int], str]:
    """encoder.json's content, and dict.txt: '<id> <count>' lines, most frequent first."""
    symbols = [*sorted(_ALPHABET), *(a + b for a, b in merges), "<|endoftext|>"]
    encoder = {symbol: i for i, symbol in enumerate(symbols)}
    counts = dict.fromkeys(symbols, 0)
    counts.update({"".join(_symbols(piece)): count for piece, count in pieces.items()})
    order = sorted(symbols, key=lambda symbol: (-counts[symbol], encoder[symbol]))
    return encoder, "".join(f"{encoder[symbol]} {counts[symbol]}\n" for symbol in order)


# The model


def make_checkpoint(symbols: int, seed: int, shape: Shape = TINY) -> bytes:
    """An untrained RoBERTa in the format of the published model.pt.

    The format is the one of 2019: a Namespace of arguments, "decoder." and "emb_layer_norm" in the
    names, and one in_proj matrix for queries, keys and values; fairseq upgrades it while it loads.

    The weights are random and know nothing of words or answers. One thing is given: the queries and
    keys of the first layer are the tokens themselves, so that a token attends to its like from the
    start, which is one of the first things that pre-training would have taught.

    Args:
        symbols: the number of lines of the dict.txt that it is for.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int, std: float) -> torch.Tensor:
        return torch.empty(size).normal_(std=std, generator=generator)

    dim, ffn = shape.encoder_embed_dim, shape.encoder_ffn_embed_dim
    std = dim**-0.5  # keeps the variance of what a matrix is applied to
    # fairseq adds <s>, <pad>, </s>, <unk> in front and the task <mask> at the end; <pad> is 1.
    # Positions are smaller than tokens, or else they would hide that two tokens are alike.
    tokens = normal(4 + symbols + 1, dim, std=0.05)
    positions = normal(shape.max_positions + 2, dim, std=0.015)
    tokens[1] = positions[1] = 0.0

    model: dict[str, torch.Tensor] = {}

    def add_linear(name: str, weight: torch.Tensor, joint: str = ".") -> None:
        model[f"{name}{joint}weight"] = weight
        model[f"{name}{joint}bias"] = torch.zeros(len(weight))

    def add_norm(name: str) -> None:
        model[f"{name}.weight"] = torch.ones(dim)
        model[f"{name}.bias"] = torch.zeros(dim)

    encoder = "decoder.sentence_encoder"
    model[f"{encoder}.embed_tokens.weight"] = tokens
    model[f"{encoder}.embed_positions.weight"] = positions
    add_norm(f"{encoder}.emb_layer_norm")
    for i in range(shape.encoder_layers):
        layer = f"{encoder}.layers.{i}"
        query, key, value = normal(3, dim, dim, std=std)
        if i == 0:
            query = key = 1.5 * torch.eye(dim)
        add_linear(f"{layer}.self_attn.in_proj", torch.cat([query, key, value]), joint="_")
        add_linear(f"{layer}.self_attn.out_proj", normal(dim, dim, std=std))
        add_norm(f"{layer}.self_attn_layer_norm")
        add_linear(f"{layer}.fc1", normal(ffn, dim, std=std))
        add_linear(f"{layer}.fc2", normal(dim, ffn, std=std))
        add_norm(f"{layer}.final_layer_norm")
    add_linear("decoder.lm_head.dense", normal(dim, dim, std=std))
    add_norm("decoder.lm_head.layer_norm")
    model["decoder.lm_head.weight"] = tokens
    model["decoder.lm_head.bias"] = torch.zeros(len(tokens))

    state = {
        "args": argparse.Namespace(
            arch="roberta_base",
            task="masked_lm",
            criterion="masked_lm",
            tokens_per_sample=shape.max_positions,
            **asdict(shape),
        ),
        "model": model,
        "optimizer_history": [
            {
                "criterion_name": "MaskedLmLoss",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {},
                "num_updates": 0,
            }
        ],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def _write_archive(path: Path, members: dict[str, str | bytes]) -> None:
    """A .tar.gz without times, owners or file names in its headers: the same bytes every time."""
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
