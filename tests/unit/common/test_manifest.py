"""A manifest says all that a reader needs, and a reader believes none of it unchecked."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.errors import ConfigError, DataError
from components.common.manifest import MAX_BYTES, FileEntry, Manifest, parse, path_fault

EMPTY = hashlib.sha256(b"").hexdigest()


def manifest(*paths: str, **changes: Any) -> Manifest:
    return Manifest(
        files=tuple(FileEntry(path, 0, EMPTY) for path in paths or ("model.pt",)),
        folder="20260131T120000-0123456789ab",
        created="2026-01-31T12:00:00Z",
        producer={"step": "train", "updates": 500, "lr": 1e-5, "cuda": False, "image": None},
        inputs={"data": EMPTY},
        **changes,
    )


def sealed(value: dict[str, Any]) -> bytes:
    """The JSON of a manifest whose own sha256 is right, whatever else is in it."""
    value.pop("sha256", None)
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return json.dumps(value | {"sha256": digest}).encode()


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(manifest("model.pt", "a/b.txt").to_json())
    change(value)
    return sealed(value)


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    written = manifest("model.pt", "log/ünïcode ☃.txt", "a b/c#d?e%20f")
    assert parse(written.to_json(), where="here") == written


def test_the_digest_tells_contents_apart_and_nothing_else() -> None:
    one = manifest("a", "b")
    assert one.digest == dataclasses.replace(one, created="2027-01-01T00:00:00Z").digest
    assert one.digest == dataclasses.replace(one, files=one.files[::-1], inputs={}).digest
    assert one.digest != manifest("a", "c").digest
    assert one.size == 0


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "./a", "a/.", "a//b", "a/"),
        *("a\\..\\b", "a\0b", "a\nb", "\x7f", "\ud800", "x" * 256, "/".join(["x" * 100] * 8)),
    ],
)
def test_a_path_that_could_leave_the_folder_is_refused(path: str) -> None:
    assert path_fault(path)
    with pytest.raises(DataError):
        parse(changed(lambda m: m["files"][0].update(path=path)), where="here")
    with pytest.raises(ConfigError):
        manifest(path).to_json()


@pytest.mark.parametrize(
    "paths", [("a", "a"), ("a", "a/b"), ("a/b/c", "x", "a/b"), ("a!", "a/b", "a")]
)
def test_a_path_may_not_occur_twice_nor_be_a_file_and_a_folder(paths: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="twice"):
        manifest(*paths).to_json()


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "version": lambda m: m.update(version=2),
    "version true": lambda m: m.update(version=True),
    "no version": lambda m: m.pop("version"),
    "no files": lambda m: m.pop("files"),
    "empty files": lambda m: m.update(files=[]),
    "files an object": lambda m: m.update(files={"model.pt": 1}),
    "too many files": lambda m: m.update(files=[{}] * 100_001),
    "file not an object": lambda m: m.update(files=["model.pt"]),
    "path a list": lambda m: m["files"][0].update(path=["model.pt"]),
    "size negative": lambda m: m["files"][0].update(size=-1),
    "size true": lambda m: m["files"][0].update(size=True),
    "size a float": lambda m: m["files"][0].update(size=1.0),
    "size a string": lambda m: m["files"][0].update(size="1"),
    "size huge": lambda m: m["files"][0].update(size=10**30),
    "sha256 short": lambda m: m["files"][0].update(sha256="00"),
    "sha256 upper": lambda m: m["files"][0].update(sha256=EMPTY.upper()),
    "sha256 with newline": lambda m: m["files"][0].update(sha256=EMPTY + "\n"),
    "folder climbs": lambda m: m.update(folder=".."),
    "folder elsewhere": lambda m: m.update(folder="other/20260131T120000-0123456789ab"),
    "folder a number": lambda m: m.update(folder=1),
    "created": lambda m: m.update(created="yesterday"),
    "producer a list": lambda m: m.update(producer=[]),
    "producer deep": lambda m: m.update(producer={"a": {"b": 1}}),
    "inputs surrogate": lambda m: m.update(inputs={"a": "\ud800"}),
    "inputs many": lambda m: m.update(inputs={str(i): 0 for i in range(1001)}),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_field_of_the_wrong_kind_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(DataError, match="here is not a valid manifest: "):
        parse(changed(change), where="here")


TEXTS = {
    "empty": b"",
    "not JSON": b"<html>",
    "not UTF-8": b'{"version": "\xff"}',
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "long number": b'{"version": ' + b"9" * 10_000 + b"}",
    "not a number": b'{"version": NaN}',
    "overflowing number": b'{"version": 1e999}',
    "twice": b'{"version": 1, "version": 1}',
    "large": b" " * (MAX_BYTES + 1),
    "byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_not_a_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(DataError, match="here is not a valid manifest: "):
        parse(text, where="here")


def test_every_flipped_bit_is_found() -> None:
    good = manifest("model.pt", "a/b.txt")
    data = good.to_json()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        try:
            found = parse(bytes(flipped), where="here")
        except DataError:
            continue
        assert found == good  # white space between two values


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "version": st.just(1) | json_values,
            "folder": st.just("20260131T120000-0123456789ab") | json_values,
            "created": st.just("2026-01-31T12:00:00Z") | json_values,
            "producer": st.just({}) | json_values,
            "inputs": st.just({}) | json_values,
            "files": json_values
            | st.lists(
                st.fixed_dictionaries(
                    {
                        "path": st.sampled_from(["a", "a/b", "../a"]) | json_values,
                        "size": st.just(1) | json_values,
                        "sha256": st.just(EMPTY) | json_values,
                    }
                ),
                max_size=3,
            ),
        },
    )
)
def test_any_json_is_a_manifest_or_a_data_error(value: dict[str, Any]) -> None:
    with contextlib.suppress(DataError):
        assert parse(sealed(value), where="here").files


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_data_error(data: bytes) -> None:
    with pytest.raises(DataError):
        parse(data, where="here")


@pytest.mark.parametrize("note", [{"a": float("nan")}, {"a": {}}, {"a": b"x"}, {"a": "\ud800"}])
def test_notes_that_are_not_flat_json_are_refused_when_written(note: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be published"):
        dataclasses.replace(manifest(), producer=note).to_json()
