"""JSON from outside, changed at random: it is read, or refused with one line, and never more."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.binarize.bpe import read_encoder
from components.common import manifest
from components.common.errors import DataError
from components.preprocess import passage
from components.train import resume

PASSAGE = {
    "article": "Tom has a dog. The dog's name is «Rex».",
    "questions": ["What is it called?", "Tom has a _ ."],
    "options": [["Rex", "Tom", "dog", "cat"], ["dog", "cat", "cow", "car"]],
    "answers": ["A", "A"],
    "id": "high1.txt",
}
PROGRESS = {"update": 12, "epoch": 3, "best": "", "skipped_updates": 0, "seconds": 1.5}
RECORD = {"split": "train", "epoch": 1, "update": 2, "loss": 1.4, "seconds": 0.3}
ENCODER = {"Ġ": 0, "a": 1, "b": 2, "ab": 3}
MANIFEST = json.loads(
    manifest.Manifest(
        files=(manifest.FileEntry("a/b", 3, "0" * 64),),
        folder="20260131T120000-0123456789ab",
        created="2026-01-31T12:00:00Z",
    ).to_json()
)

NASTY = [
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"-Infinity", b'""', b"[]", b"{}", b'"\\ud800"'),
    *(b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"\0", b"9" * 5000, b'"\\u0000"', b"\xf0"),
]
VALUES = [None, True, -1, 2**70, [], {}, "x", 1e308, "\udc80", [[]], ["a", 1], {"a": {}}, ""]


def fuzzed(value: object, chance: random.Random) -> bytes:
    """JSON in which a value is another one, or some bytes are."""
    if chance.random() < 0.5:
        changed = json.loads(json.dumps(value))
        places = list(_places(changed))
        for container, key in chance.sample(places, min(len(places), chance.choice((1, 1, 2)))):
            container[key] = chance.choice(VALUES)
        return json.dumps(changed, ensure_ascii=chance.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    data = bytearray(json.dumps(value, ensure_ascii=False).encode())
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) + 1)
        end = start + chance.choice((0, 1, 1, 2, 8, len(data)))
        data[start:end] = chance.choice(
            (b"", bytes([chance.randrange(256)]), chance.choice(NASTY), data[:end])
        )
    return bytes(data)


def _places(value: object) -> Iterator[tuple[object, object]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[arg-type]
    for key, below in list(items):
        yield value, key
        if isinstance(below, dict | list):
            yield from _places(below)


def seal(data: bytes) -> bytes:
    """A manifest with its own sha256, as whoever may write there can make it."""
    try:
        value = json.loads(data)
        value.pop("sha256", None)
        return json.dumps({**value, "sha256": manifest._seal(value)}).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return data


def read_passage(path: Path) -> None:
    passage.parse(path.read_bytes())


def read_bpe(path: Path) -> None:
    (path.parent / "vocab.bpe").write_text("#version: 0.2\na b\n")
    read_encoder(path, path.parent / "vocab.bpe")


def read_manifest(path: Path) -> None:
    manifest.parse(seal(path.read_bytes()), where="s3://bucket/run/manifest.json")


@pytest.mark.parametrize(
    ("reader", "value", "refusal"),
    [
        (read_passage, PASSAGE, passage.InvalidPassage),
        (read_bpe, ENCODER, DataError),
        (read_manifest, MANIFEST, DataError),
        (lambda path: resume.read_progress(path, "s3://bucket/run"), PROGRESS, DataError),
        (lambda path: resume.read_records(path, "s3://bucket/run"), RECORD, DataError),
    ],
    ids=["passage", "encoder", "manifest", "progress", "record"],
)
def test_what_is_not_read_is_refused_in_one_line(
    tmp_path: Path, reader: Callable[[Path], None], value: object, refusal: type[Exception]
) -> None:
    chance = random.Random(6)
    path = tmp_path / "file"
    refusals = []
    for _ in range(450):
        path.write_bytes(fuzzed(value, chance))
        try:
            reader(path)
        except refusal as error:
            refusals.append(str(error))
    assert len(refusals) > 150
    assert max(map(len, refusals)) < 500
