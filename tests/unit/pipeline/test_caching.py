"""What the keys of a local run's cache hold; what a cluster may cache is in test_submit."""

from pathlib import Path
from typing import Any

import pytest

from components.download import known
from pipeline import caching
from pipeline.parameters import load_config, resolve

URL = "roberta_url"


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Addresses whose content, where it has no sha256, is called "one"."""
    states = {"https://host/roberta.tar.gz": "one"}
    monkeypatch.setattr(caching, "state_of", lambda url: states.get(url, ""))
    digests = "&".join(f"{name}={'0' * 64}" for name in known.BPE_FILES)
    found = resolve(load_config("roberta-large"), {"bpe_url": f"https://host/bpe#{digests}"})
    found["states"] = states  # for the tests to change
    return found | {URL: "https://host/roberta.tar.gz"}


def changed(values: dict[str, Any], **changes: str) -> set[str]:
    """The steps that have another salt when these values, or the address's content, change."""
    before = caching.salts(values)
    values.update(changes)
    after = caching.salts(values)
    return {step for step in caching.CACHEABLE if before[step] != after[step]}


def test_the_same_has_the_same_key(values: dict[str, Any]) -> None:
    assert not changed(values)


def test_other_content_is_another_key(values: dict[str, Any]) -> None:
    before = caching.salts(values)
    values["states"]["https://host/roberta.tar.gz"] = "two"
    after = caching.salts(values)
    assert {step for step in after if before[step] != after[step]} == {"download-roberta"}


def test_what_does_not_say_what_it_has_is_never_the_same(values: dict[str, Any]) -> None:
    values[URL] = "https://silent/roberta.tar.gz"
    assert changed(values) == {"download-roberta"}


def test_with_a_sha256_nobody_is_asked(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    values[URL] += f"#sha256={'0' * 64}"
    monkeypatch.setattr(caching, "state_of", pytest.fail)
    assert not changed(values)


@pytest.mark.parametrize("change", ["edited", "moved"])
def test_other_code_is_another_key(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    module = tmp_path / "__init__.py"
    module.write_text("one")
    monkeypatch.setattr(caching.components, "__file__", str(module))
    before = caching.salts(values)
    if change == "edited":
        module.write_text("two")
    else:
        module.rename(tmp_path / "moved.py")
    after = caching.salts(values)
    assert all(before[step] != after[step] for step in caching.CACHEABLE)
