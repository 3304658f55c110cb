"""The blocks of shell commands in README.md and docs/."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

# What a block of commands may need that a test does not have.
NEEDS = ("cluster", "docker", "gpu", "network")


@dataclass(frozen=True)
class Block:
    """A block of shell commands in a page, and what `<!-- needs: ... -->` before it says."""

    page: Path
    line: int
    commands: str
    needs: frozenset[str]


def blocks(page: Path) -> list[Block]:
    """The blocks of shell commands of a page; those without needs are run by a test."""
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(
        r"(?:^ *<!-- needs: (?P<needs>[^\n]*) -->\n)?"
        r"^(?P<indent> *)```sh\n(?P<commands>.*?)^(?P=indent)```$",
        re.MULTILINE | re.DOTALL,
    )
    return [
        Block(
            page,
            text.count("\n", 0, found.start("commands")) + 1,
            textwrap.dedent(found["commands"]),
            frozenset(re.findall(r"\w+", found["needs"] or "")),
        )
        for found in pattern.finditer(text)
    ]
