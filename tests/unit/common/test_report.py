"""The building blocks of reports: escaping, numbers, scales."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.report import chart
from components.common.report.html import POLICY, Markup, join, page, section, table, tag, text


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
    seen = Seen(tag("p", content, title=value))
    assert seen.tags == ["p"]
    assert "\x00" not in seen.text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"])))
def test_text_is_shown_as_it_was_written(content: str) -> None:
    assert Seen(text(content)).text.replace("\xa0", " ") == content.replace("\xa0", " ")


def test_what_a_page_cannot_hold_is_replaced() -> None:
    assert text("\x00\x1b\ud800\ufffe\tx") == "\ufffd\ufffd\ufffd\ufffd\tx"
    page("\ud800", kind="\udfff").encode()


def test_markup_is_not_escaped_twice_and_none_is_nothing() -> None:
    assert join(["a<", Markup("<b>"), None, 1, ["&"]]) == "a&lt;<b>1&amp;"
    made = tag("a", "x", class_="n", data_x=1, hidden=True, title=None, open=False)
    assert made == '<a class="n" data-x="1" hidden>x</a>'


def test_a_number_stays_with_its_unit() -> None:
    assert text("5 % of 3 s in 2 h") == "5\xa0% of 3\xa0s in 2\xa0h"
    assert text("5 students") == "5 students"


def test_a_page_forbids_everything_but_its_own_style() -> None:
    made = page("title", section("x", table(["a"], [[1]])), kind="kind")
    assert made.startswith("<!doctype html>")
    assert f'content="{text(POLICY)}"' in made
    assert "default-src 'none'" in POLICY
    assert "script-src" not in POLICY
    assert not re.search(r"https?://|@import|url\(|<script", made)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((0, "0"), (1, "1"), (0.25, "0.25"), (1234, "1,234"), (999999, "999,999")),
        *((1e-5, "10⁻⁵"), (2.5e-5, "2.5 × 10⁻⁵"), (-0.5, "−0.5"), (2e6, "2 × 10⁶")),
    ],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert chart.number(value) == shown


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_an_axis_has_a_few_round_ticks_within_its_ends(low: float, width: float) -> None:
    scale = chart.Scale(low, low + width, 0, 100)
    if scale.high - scale.low < 1e-9 * max(abs(low), 1):
        return  # closer than a chart could tell
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 7
    margin = (scale.high - scale.low) * 1e-6 + abs(low) * 1e-12
    assert all(scale.low - margin <= tick <= scale.high + margin for tick in ticks)


def test_many_points_become_means_within_their_range() -> None:
    points = [(float(x), float(x % 7)) for x in range(1000)]
    line = chart.line("x", points, most=90)
    assert len(line.points) == len(line.band) == 90
    assert line.points[-1][0] == 999
    for (x, mean), (at, low, high) in zip(line.points, line.band, strict=True):
        assert x == at
        assert low <= mean <= high


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-1.0, 1.0], [1e-7, 2e-7]])
def test_a_chart_of_any_few_values_lies_within_its_frame(values: list[float]) -> None:
    made = chart.lines("t", [chart.Line("a", list(enumerate(values)))], x="x")
    path = re.search(r'points="([^"]*)"', made)
    assert path is not None
    for x, y in (map(float, pair.split(",")) for pair in path[1].split()):
        assert chart.LEFT <= x <= chart.WIDTH
        assert 0 <= y <= chart.HEIGHT


@pytest.mark.parametrize("value", [None, 0.0, 25.0, 100.0])
def test_dots_lie_within_their_frame_and_say_what_they_are(value: float | None) -> None:
    rows = [
        chart.Dot("one", 99.5, (98.0, 100.0)),
        chart.Dot("a < longer name", value, hollow=True),
    ]
    made = chart.dots("t", rows, unit="%", hollow_means="lost", mark=25.0, mark_name="guess")
    heights = [float(y) for y in re.findall(r' cy="([\d.]+)"', made)]
    assert len(heights) == (1 if value is None else 2)
    assert made.count('class="hollow"') == (0 if value is None else 1)
    assert all(0 <= float(x) <= chart.WIDTH for x in re.findall(r' (?:cx|x1|x2)="([\d.]+)"', made))
    assert "<title>one: 99.50 (98.0 to 100.0)</title>" in made
    shown = "none" if value is None else f"{value:.2f}"
    assert f"<title>a &lt; longer name: {shown}, lost</title>" in made
    assert made.count(">lost</text>") == (1 if value is None else 0)
