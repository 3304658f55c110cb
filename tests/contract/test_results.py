"""The names in metrics.json are spelled in one place; nothing else puts them together or apart."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWNER = "components/common/results/"
FIGURE = re.compile(r"(accuracy|questions|correct|loss)_\Z")


def texts(path: Path) -> Iterator[str]:
    """The texts in a program, also those in f-strings; of a template the quoted ones."""
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    else:
        yield from re.findall(r'"([^"\n]*)"', path.read_text(encoding="utf-8"))


def test_names_of_figures_are_spelled_by_their_owner_only() -> None:
    files = [p for top in ("components", "pipeline") for p in (ROOT / top).rglob("*")]
    found = [
        f"{name}: {text!r}"
        for path in files
        if path.suffix in (".py", ".html")
        and not (name := path.relative_to(ROOT).as_posix()).startswith(OWNER)
        for text in texts(path)
        if FIGURE.search(text) or text in ("predictions.jsonl", "metrics.json")
    ]
    assert not found


def test_what_is_shared_does_not_import_a_step() -> None:
    for path in (ROOT / "components" / "common").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        imported = set(re.findall(r"^\s*(?:from|import) (components\.\w+|pipeline)\b", text, re.M))
        assert imported <= {"components.common"}, path
