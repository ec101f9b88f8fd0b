"""Plots as SVG, pure: numbers in, text out.  They bring their ground, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Axis", "Bar", "bars", "lines", "number", "ticks"]

_WIDTH, _HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 20, 74, 58
_PLOT_W, _PLOT_H = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

_STYLE = """
svg { font: 13px system-ui, sans-serif; }
.ground { fill: #ffffff; } .text { fill: #24292f; } .soft { fill: #57606a; } .value { font-size: 10px; }
.inside { fill: #ffffff; }
.grid { stroke: #d8dee4; } .axis { stroke: #57606a; } .upper { stroke: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.f0 { fill: #1f6feb; } .f1 { fill: #d9730d; } .f2 { fill: #2f9e63; } .f3 { fill: #9a6dd7; }
.l0 { stroke: #1f6feb; } .l1 { stroke: #d9730d; } .l2 { stroke: #2f9e63; } .l3 { stroke: #9a6dd7; }
.l0, .l1, .l2, .l3 { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117; } .text { fill: #e6edf3; } .soft { fill: #9da7b1; }
.grid { stroke: #30363d; } .axis { stroke: #9da7b1; } .upper { stroke: #e6edf3; }
}
"""


@dataclass(frozen=True)
class Axis:
    """What an axis shows, its unit in the label.  at: where it is marked, instead of round numbers."""

    label: str
    log: bool = False
    at: tuple[float, ...] = ()


@dataclass(frozen=True)
class Bar:
    """A value, and the end of the thin line above it (a high percentile) where there is one."""

    value: float
    upper: float | None = None


def number(value: float) -> str:
    """A number as it is read: 0.25, 3.1, 42, 1,500, 20k, 1M."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:.3g}M"
    if value >= 10_000:
        return f"{value / 1000:.3g}k"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Round marks from at most low to at least high; of a logarithmic axis, powers of ten.

    Both are above zero where log is set.  Otherwise the marks begin at zero.
    """
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return [10.0**power for power in range(first, max(last, first + 1) + 1)]
    if high <= 0:
        return [0.0, 1.0]
    rough = high / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    return [step * index for index in range(math.ceil(high / step * 0.999) + 1)]


class _Scale:
    """Places of values on an axis of so many pixels."""

    def __init__(self, axis: Axis, values: Sequence[float], pixels: float, *, zero: bool) -> None:
        self._log, self._pixels = axis.log, pixels
        known = [value for value in values if value > 0 or not axis.log] or [1.0]
        self.marks = list(axis.at) or ticks(min(known), max(known), log=axis.log)
        low, high = min([*self.marks, *known]), max([*self.marks, *known])
        if zero and not axis.log:
            low = min(low, 0.0)
        self._low, self._high = self._of(low), self._of(high)

    def _of(self, value: float) -> float:
        return math.log10(max(value, 1e-9)) if self._log else value

    def __call__(self, value: float) -> float:
        spread = self._high - self._low
        share = (self._of(value) - self._low) / spread if spread else 0.5
        return min(max(share, 0.0), 1.0) * self._pixels


def _text(x: float, y: float, text: str, kind: str = "text", anchor: str = "middle", more: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _frame(title: str, y_label: str, y: _Scale, names: Sequence[str]) -> list[str]:
    """Ground, title, legend, and the vertical axis with its grid."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{_HEIGHT}"/>',
        _text(_LEFT, 26, title, "text title", "start"),
    ]
    x = float(_LEFT)
    for index, name in enumerate(names):
        out.append(f'<rect class="f{index}" x="{x:.1f}" y="41" width="12" height="12"/>')
        out.append(_text(x + 18, 52, name, "text", "start"))
        x += 18 + 7.4 * len(name) + 22
    for mark in y.marks:
        at = _TOP + _PLOT_H - y(mark)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(_text(_LEFT - 8, at + 4, number(mark), "soft", "end"))
    middle = _TOP + _PLOT_H / 2
    out.append(_text(18, middle, y_label, "soft", more=f' transform="rotate(-90 18 {middle:.1f})"'))
    bottom = _TOP + _PLOT_H
    out.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    return out


def lines(title: str, x: Axis, y: Axis, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One line for each series of points, at most four."""
    points = [point for each in series.values() for point in each]
    across = _Scale(x, [point[0] for point in points], _PLOT_W, zero=False)
    up = _Scale(y, [point[1] for point in points], _PLOT_H, zero=True)
    out = _frame(title, y.label, up, list(series))
    bottom = _TOP + _PLOT_H
    for mark in across.marks:
        at = _LEFT + across(mark)
        out.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        out.append(_text(at, bottom + 20, number(mark), "soft"))
    out.append(_text(_LEFT + _PLOT_W / 2, _HEIGHT - 14, x.label, "soft"))
    for index, each in enumerate(series.values()):
        places = [(_LEFT + across(a), bottom - up(b)) for a, b in sorted(each)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        out.append(f'<polyline class="l{index}" points="{path}"/>')
        if len(places) <= 30:
            out += [f'<circle class="f{index}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in places]
    return "\n".join([*out, "</svg>", ""])


def bars(
    title: str, x_label: str, y: Axis, groups: Sequence[str], series: Mapping[str, Sequence[Bar | None]]
) -> str:
    """Bars side by side in groups, one for each series, at most four; None leaves a gap.

    Every value is written above its bar, so that short ones are read too; with a line above it, the value
    stands inside the bar and that of the line's end above the line.
    """
    known = [bar for each in series.values() for bar in each if bar is not None]
    values = [value for bar in known for value in (bar.value, bar.upper or bar.value)]
    if y.log:
        values += [bar.value / 2 for bar in known]  # no bar is flat, and a number fits in each
    up = _Scale(y, values, _PLOT_H, zero=True)
    out = _frame(title, y.label, up, list(series))
    bottom, room = _TOP + _PLOT_H, _PLOT_W / max(1, len(groups))
    width = min(46.0, room * 0.8 / max(1, len(series)))
    for number_of_group, group in enumerate(groups):
        middle = _LEFT + room * (number_of_group + 0.5)
        for row, part in enumerate(group.split("\n")):
            out.append(_text(middle, bottom + 18 + 15 * row, part, "soft"))
        for index, each in enumerate(series.values()):
            bar = each[number_of_group]
            if bar is None:
                continue
            left = middle + (index - len(series) / 2) * width
            out += _bar(bar, left, width, bottom, up, index)
    out.append(_text(_LEFT + _PLOT_W / 2, _HEIGHT - 8, x_label, "soft"))
    return "\n".join([*out, "</svg>", ""])


def _bar(bar: Bar, left: float, width: float, bottom: float, up: _Scale, index: int) -> list[str]:
    height, middle = up(bar.value), left + width / 2
    out = [
        f'<rect class="f{index}" x="{left + 1:.1f}" y="{bottom - height:.1f}" width="{width - 2:.1f}"'
        f' height="{height:.1f}"/>'
    ]
    top = bottom - height
    if bar.upper is None:
        return [*out, _text(middle, top - 5, number(bar.value), "text value")]
    end = bottom - up(bar.upper)
    return [
        *out,
        f'<line class="upper" x1="{middle:.1f}" x2="{middle:.1f}" y1="{top:.1f}" y2="{end:.1f}"/>',
        f'<line class="upper" x1="{middle - 4:.1f}" x2="{middle + 4:.1f}" y1="{end:.1f}" y2="{end:.1f}"/>',
        _text(middle, end - 5, number(bar.upper), "text value"),
        _text(middle, bottom - 5, number(bar.value), "inside value"),
    ]
