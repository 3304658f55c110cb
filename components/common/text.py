"""Text for a terminal."""

from collections.abc import Sequence


def counted(number: int, what: str) -> str:
    """So many of a thing: 1 finding, 2 findings."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def columns(rows: Sequence[Sequence[str]], *, left: int = 1, gap: str = "  ") -> list[str]:
    """Rows as lines of one width: the first `left` columns set to the left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        gap.join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
