"""Pages from Jinja templates, in which everything is text unless a template wrote it.

Passages, questions and file names are written by strangers: all that is filled in is escaped, and a
page forbids scripts and the network in its Content-Security-Policy besides. A template is found by
its path below the folder that holds `components`; those of this package by their names alone.
"""

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common.dataset import LETTERS
from components.common.progress import duration
from components.common.report import axes
from components.common.report.axes import number
from components.common.text import counted

if TYPE_CHECKING:  # loaded only by what writes a page
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_ROOT = Path(__file__).parents[3]

# What HTML may not hold: control characters, halves of surrogate pairs and noncharacters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
# "5 %" and "5 s" stay on one line.
_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|min|h|GiB|MiB)(?!\w))")


def render(template: str, **data: object) -> str:
    """A whole page, to be written as UTF-8; what it cannot hold becomes U+FFFD."""
    return environment().get_template(template).render(data)


@functools.cache
def environment() -> "Environment":
    """What the templates are filled by; a name that they lack is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader([_TEMPLATES, _ROOT]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (number, fixed, percent, share, signed, interval, setting, duration, px)
    made.filters |= {function.__name__: function for function in filters}
    made.filters["plural"] = counted
    drawing = ("WIDTH", "LEFT", "RIGHT", "TOP", "BASE", "Scale", "axis")
    made.globals |= {name: getattr(axes, name) for name in drawing} | {"LETTERS": LETTERS}
    return made


def _finalize(value: Any) -> Any:
    """Any value as text that is then escaped; None is nothing, and markup remains as it is."""
    if value is None or hasattr(value, "__html__"):
        return "" if value is None else value
    return _UNIT.sub("\u00a0", _UNPRINTABLE.sub("\ufffd", str(value)))


# The filters, beside `number` and `duration`. A value that is not known is None.


def fixed(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    return f"{fixed(value, digits)} %"


def share(value: float) -> str:
    """A part of 1 in percent; a small one with more digits."""
    return "0 %" if not value else percent(100 * value, 2 if value < 0.01 else 1)


def signed(value: float, digits: int = 0) -> str:
    return f"{value:+,.{digits}f}".replace("-", "−")


def interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1f}–{ends[1]:.1f}"


def setting(value: object) -> str:
    """A parameter's value."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return number(value)
    return "–" if value in (None, "") else str(value)


def px(value: float) -> str:
    """A length or a place in a drawing."""
    return f"{value:.1f}"
