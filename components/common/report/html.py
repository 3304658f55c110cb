"""HTML in which everything is text unless it was made here.

Passages, questions and file names are written by strangers: `tag` escapes whatever is not Markup
already, and a page forbids scripts and the network in its Content-Security-Policy besides.
"""

import html
import re
from collections.abc import Iterable

from components.common.report.style import STYLE

# No script, image, font or connection, whatever gets into the page; an empty icon needs data:.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
    " base-uri 'none'; form-action 'none'"
)

# What HTML may not hold: control characters, halves of surrogate pairs and noncharacters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
# "5 %" and "5 s" stay on one line.
_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|min|h|GiB|MiB)(?!\w))")
_VOID = frozenset({"meta", "link", "br", "hr", "col"})


class Markup(str):
    """Text that is HTML: it is not escaped again."""

    __slots__ = ()


Content = str | int | float | Iterable["Content"] | None


def text(value: object) -> Markup:
    """Any value as text of a page; what a page cannot hold becomes U+FFFD."""
    shown = _UNIT.sub("\u00a0", _UNPRINTABLE.sub("\ufffd", str(value)))
    return Markup(html.escape(shown, quote=True))


def join(content: Content) -> Markup:
    """Markup as it is, everything else as text, one after the other; None is nothing."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str | int | float):
        return text(content)
    return Markup("".join(map(join, content)))


def tag(name: str, /, *content: Content, **attributes: object) -> Markup:
    """An element: `tag("td", 5, class_="n")`.

    Of an attribute's name a last underscore is dropped and others become hyphens; True is an
    attribute without a value, None and False leave it out.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{text(value)}"')
    start = f"<{name}{''.join(written)}>"
    return Markup(start if name in _VOID else f"{start}{join(content)}</{name}>")


def table(
    head: Iterable[Content], rows: Iterable[Iterable[Content]], *, class_: str = "", words: int = 1
) -> Markup:
    """A table that scrolls by itself where it is too wide.

    Args:
        words: columns at the left that hold words; the others hold figures and are set right.
    """

    def cells(row: Iterable[Content], kind: str) -> Iterable[Markup]:
        for column, cell in enumerate(row):
            if isinstance(cell, Markup) and cell.startswith(("<td", "<th")):
                yield cell
            elif kind == "td" and column == 0:
                yield tag("th", cell, scope="row")
            else:
                scope = "col" if kind == "th" else None
                yield tag(kind, cell, class_=None if column < words else "n", scope=scope)

    made = tag(
        "table",
        tag("thead", tag("tr", cells(head, "th"))),
        tag("tbody", [tag("tr", cells(row, "td")) for row in rows]),
        class_=class_ or None,
    )
    # A region that scrolls must be reachable without a mouse.
    return tag("div", made, class_="scroll", tabindex="0")


def section(title: str, *content: Content, note: Content = None) -> Markup:
    """A part of a page; `note` stands under its title."""
    return tag("section", tag("h2", title), note and tag("p", note, class_="note"), *content)


def key_figures(figures: Iterable[tuple[str, Content, Content]]) -> Markup:
    """The few numbers that matter most: (name, value, note)."""
    return tag(
        "dl",
        [
            tag(
                "div",
                tag("dt", name),
                tag("dd", value, class_="value"),
                note and tag("dd", note, class_="note"),
            )
            for name, value, note in figures
        ],
        class_="key",
    )


def definitions(pairs: Iterable[tuple[str, Content]]) -> Markup:
    """Names and values, in as many columns as there is room for."""
    return tag(
        "dl",
        [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs],
        class_="pairs",
    )


def hidden(summary: Content, *content: Content, open_: bool = False) -> Markup:
    """Content that shows when its summary is clicked."""
    return tag("details", tag("summary", summary), *content, open=open_)


def page(title: str, *content: Content, kind: str, lead: Content = None) -> str:
    """A whole page, to be written as UTF-8.

    Args:
        kind: what the page is, in a few words above its title.
        lead: what to know first, in a sentence or two.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title} – {kind}"),
        tag("link", rel="icon", href="data:,"),
        Markup(f"<style>{STYLE}</style>"),
    )
    header = tag(
        "header",
        tag("p", kind, class_="kind"),
        tag("h1", title),
        lead and tag("p", lead, class_="lead"),
    )
    body = tag("body", header, tag("main", *content))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
