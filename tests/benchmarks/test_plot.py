"""Plots are SVG with labelled axes, and every point is inside."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from benchmarks.plot import Axis, Bar, bars, lines, number, ticks


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("}text")]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (3.14, "3.1"), (42.42, "42.4"), (1500, "1,500"), (20_000, "20k"), (1e6, "1M")],
)
def test_number_is_short(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("low", "high"), [(0, 7), (0, 9857), (0, 0.03), (3, 100), (0, 1)])
def test_ticks_begin_at_zero_and_reach_the_highest(low: float, high: float) -> None:
    found = ticks(low, high, log=False)
    assert found[0] == 0
    assert found[-1] >= high
    assert 3 <= len(found) <= 8


def test_ticks_of_a_logarithmic_axis_are_powers_of_ten_around_the_values() -> None:
    assert ticks(0.3, 450, log=True) == [0.1, 1, 10, 100, 1000]


def test_lines_name_axes_and_series_and_stay_inside() -> None:
    x = Axis("clients", log=True, at=(1, 10, 100, 500))
    svg = lines("A title", x, Axis("writes per second"), {"a & b": [(1, 10), (500, 9000)]})
    for text in ("A title", "clients", "writes per second", "a & b", "500"):
        assert text in _texts(svg)
    circles = [element for element in ET.fromstring(svg).iter() if element.tag.endswith("}circle")]
    assert [float(one.attrib["cx"]) for one in circles] == [76, 740]
    assert all(74 <= float(one.attrib["cy"]) <= 342 for one in circles)
    assert float(circles[1].attrib["cy"]) < float(circles[0].attrib["cy"])


def test_bars_write_each_value_and_leave_a_gap_where_there_is_none() -> None:
    svg = bars(
        "A title",
        "",
        Axis("milliseconds", log=True),
        ["put\n+5 ms", "read"],
        {"ours": [Bar(2.5, 40), Bar(0.4)], "theirs": [Bar(12.5), None]},
    )
    texts = _texts(svg)
    assert {"put", "+5 ms", "read", "2.5", "40", "0.4", "12.5"} <= set(texts)
    rects = [element for element in ET.fromstring(svg).iter() if element.tag.endswith("}rect")]
    assert len(rects) == 1 + 2 + 3  # the ground, the legend, the bars
    assert all(float(one.attrib["height"]) > 10 for one in rects)


def test_plots_have_colours_for_light_and_for_dark() -> None:
    assert "prefers-color-scheme: dark" in lines("", Axis(""), Axis(""), {"a": [(1, 1)]})
