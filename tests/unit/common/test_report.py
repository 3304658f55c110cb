"""The building blocks of reports: escaping, numbers, scales, charts."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import components
import pipeline
from components.common.report import axes
from components.common.report.page import environment, setting

PAGE = """{% extends "base.html" %}{% from "macros.html" import table %}
{% block kind %}{{ kind }}{% endblock %}{% block title %}{{ title }}{% endblock %}
{% block main %}<p title="{{ value }}">{{ content }}</p>{{ table(["a"], [[1]]) }}{% endblock %}"""


def made(template: str, **data: Any) -> str:
    return environment().from_string(template).render(data)


def chart(name: str, *arguments: Any, **more: Any) -> str:
    return str(getattr(environment().get_template("charts.html").module, name)(*arguments, **more))


class Seen(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(), st.text())
def test_no_text_makes_a_tag_or_ends_an_attribute(content: str, value: str) -> None:
    seen = Seen(made('<p title="{{ value }}">{{ content }}</p>', content=content, value=value))
    assert seen.tags == ["p"]
    assert "\x00" not in seen.text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"])))
def test_text_is_shown_as_it_was_written(content: str) -> None:
    shown = Seen(made("{{ content }}|", content=content)).text[:-1]
    assert shown.replace("\xa0", " ") == content.replace("\xa0", " ")


def test_what_a_page_cannot_hold_is_replaced() -> None:
    assert made("{{ x }}", x="\x00\x1b\ud800\ufffe\tx") == "\ufffd\ufffd\ufffd\ufffd\tx"
    made(PAGE, title="\ud800", kind="\udfff", value="\ud800", content="\0").encode()


def test_a_number_stays_with_its_unit() -> None:
    assert made("{{ x }}", x="5 % of 3 s in 2 h") == "5\xa0% of 3\xa0s in 2\xa0h"
    assert made("{{ x }}", x="5 students") == "5 students"


def test_a_page_forbids_everything_but_its_own_style() -> None:
    page = made(PAGE, title="title", kind="kind", value="", content=None)
    assert page.startswith("<!doctype html>")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert not re.search(r"https?://|@import|url\(|<script", page)


def test_no_template_marks_anything_safe_and_all_templates_are_there() -> None:
    roots = [Path(package.__path__[0]) for package in (components, pipeline)]
    found = [path for root in roots for path in root.rglob("templates/*")]
    kinds = {".html", ".css", ".jinja", ".json"}  # pages, a model card, a tokenizer's files
    assert {path.suffix for path in found} == kinds
    for path in found:
        assert not re.search(r"\|\s*safe|autoescape|Markup", path.read_text()), path


@pytest.mark.parametrize(
    ("value", "shown"),
    [(True, "on"), (0, "0"), (1e-5, "10⁻⁵"), ("", "–"), (None, "–"), ("x", "x"), ([1], "[1]")],
)
def test_settings_are_shown_as_people_write_them(value: object, shown: str) -> None:
    assert setting(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((0, "0"), (1, "1"), (0.25, "0.25"), (1234, "1,234"), (999999, "999,999")),
        *((1e-5, "10⁻⁵"), (2.5e-5, "2.5 × 10⁻⁵"), (-0.5, "−0.5"), (2e6, "2 × 10⁶")),
    ],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert axes.number(value) == shown


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_an_axis_has_a_few_round_ticks_within_its_ends(low: float, width: float) -> None:
    scale = axes.Scale(low, low + width, 0, 100)
    if scale.high - scale.low < 1e-9 * max(abs(low), 1):
        return  # closer than a chart could tell
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 7
    margin = (scale.high - scale.low) * 1e-6 + abs(low) * 1e-12
    assert all(scale.low - margin <= tick <= scale.high + margin for tick in ticks)


def test_many_points_become_means_within_their_range() -> None:
    points = [(float(x), float(x % 7)) for x in range(1000)]
    line = axes.line("x", points, most=90)
    assert len(line.points) == len(line.band) == 90
    assert line.points[-1][0] == 999
    for (x, mean), (at, low, high) in zip(line.points, line.band, strict=True):
        assert x == at
        assert low <= mean <= high


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-1.0, 1.0], [1e-7, 2e-7]])
def test_a_chart_of_any_few_values_lies_within_its_frame(values: list[float]) -> None:
    drawn = chart("lines", "t", axes.plot([axes.Line("a", list(enumerate(values)))]), "x")
    path = re.search(r'points="([^"]*)"', drawn)
    assert path is not None
    for x, y in (map(float, pair.split(",")) for pair in path[1].split()):
        assert axes.LEFT <= x <= axes.RIGHT
        assert axes.TOP <= y <= axes.BASE


@pytest.mark.parametrize("value", [None, 0.0, 25.0, 100.0])
def test_dots_lie_within_their_frame_and_say_what_they_are(value: float | None) -> None:
    rows = [axes.Dot("one", 99.5, (98.0, 100.0)), axes.Dot("a < longer name", value, hollow=True)]
    drawn = chart("dots", "t", rows, "%", hollow_means="lost", mark=25.0, mark_name="guess")
    heights = re.findall(r' cy="([\d.]+)"', drawn)
    assert len(heights) == (1 if value is None else 2)
    assert drawn.count('class="hollow"') == (0 if value is None else 1)
    places = re.findall(r' (?:cx|x1|x2)="([\d.]+)"', drawn)
    assert all(0 <= float(x) <= axes.WIDTH for x in places)
    assert "<title>one: 99.50 (98.0 to 100.0)</title>" in drawn
    shown = "none" if value is None else f"{value:.2f}"
    assert f"<title>a &lt; longer name: {shown}, lost</title>" in drawn
    assert drawn.count(">lost</text>") == (1 if value is None else 0)
