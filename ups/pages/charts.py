"""Small charts as inline SVG: sharp at any width, nothing to load, readable by a screen reader and without colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

from matplotlib.ticker import LogLocator, MaxNLocator

BLUE, RED, GREY, AMBER, PALE = "#1f5fa8", "#b3261e", "#6b6b6b", "#8a5a00", "#b9c4d0"
"""all but PALE have a contrast of at least 4.5 on white; PALE is for lines in the background"""

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 48
LOG_FROM = 12.0
"""an axis of positive values becomes logarithmic when its largest is this many times its smallest"""


@dataclass(frozen=True)
class Axis:
    """One axis: its label, and the names of its places if it is categorical (values are then their indices)."""

    label: str
    categories: tuple[str, ...] = ()
    log: bool | None = None
    """None: chosen from the values"""
    whole: bool = False
    """ticks only at whole numbers"""


@dataclass(frozen=True)
class Points:
    """Marks at (x, y); y None: no value, drawn on the strip above the axis. `titles` appear on hovering."""

    x: Sequence[float]
    y: Sequence[float | None]
    label: str
    colour: str = BLUE
    mark: Literal["dot", "ring", "cross"] = "dot"
    titles: Sequence[str] = ()


@dataclass(frozen=True)
class Line:
    """A line through (x, y); `steps` holds each value until the next x; no label: not in the legend."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    colour: str = BLUE
    dashed: bool = False
    steps: bool = False
    thin: bool = False


@dataclass(frozen=True)
class Interval:
    """A vertical bar from `low` to `high` at each x."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    label: str
    colour: str = BLUE


Layer = Points | Line | Interval


def chart(title: str, description: str, x: Axis, y: Axis, layers: Sequence[Layer]) -> str:
    """A <figure> with one chart; `description` says in words what it shows and is read out in its place."""
    across = _Scale(x, [value for layer in layers for value in layer.x], LEFT, WIDTH - RIGHT)
    heights = [value for layer in layers for value in _heights(layer)]
    strip = any(value is None for layer in layers if isinstance(layer, Points) for value in layer.y)
    up = _Scale(y, heights, HEIGHT - BOTTOM, TOP + (22 if strip else 0))
    parts = [*_frame(across, up, x, y, strip), *(_draw(layer, across, up) for layer in layers)]
    legend = "".join(_legend(layer) for layer in layers if layer.label)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{title}. {description}")}">{"".join(parts)}</svg>'
        f'<ul class="legend">{legend}</ul><p class="note">{escape(description)}</p></figure>'
    )


def short(value: float) -> str:
    """Three significant digits, without the noise of trailing zeros."""
    return f"{value:.3g}"


class _Scale:
    """Data values -> pixels, with ticks; values that do not fit the scale (not finite) are the caller's to drop."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if axis.categories:
            low, high = -0.5, len(axis.categories) - 0.5
        self.log = low > 0 and high >= LOG_FROM * low if axis.log is None else axis.log and low > 0
        if self.log:
            low, high = math.log10(low), math.log10(high)
        room = 0.05 * (high - low) or abs(high) * 0.1 or 0.5
        if axis.categories:
            room = 0.0
        self.low, self.high, self.start, self.end = low - room, high + room, start, end
        self.ticks = self._ticks(axis)

    def __call__(self, value: float) -> float:
        place = math.log10(value) if self.log else value
        return self.start + (place - self.low) / (self.high - self.low) * (self.end - self.start)

    def _ticks(self, axis: Axis) -> list[tuple[float, str]]:
        if axis.categories:
            return [(float(index), name) for index, name in enumerate(axis.categories)]
        if not self.log:
            values = MaxNLocator(5, integer=axis.whole, min_n_ticks=1).tick_values(self.low, self.high)
            return [(float(value), f"{value:g}") for value in values if self.low <= value <= self.high]
        few_decades = self.high - self.low < 2
        subs = (1.0, 2.0, 5.0) if few_decades else (1.0,)
        values = LogLocator(subs=subs, numticks=7).tick_values(10**self.low, 10**self.high)
        inside = [float(v) for v in values if self.low <= math.log10(v) <= self.high]
        return [(value, f"{value:g}") for value in inside]


def _heights(layer: Layer) -> list[float]:
    if isinstance(layer, Interval):
        return [*layer.low, *layer.high]
    return [value for value in layer.y if value is not None]


def _frame(across: _Scale, up: _Scale, x: Axis, y: Axis, strip: bool) -> list[str]:
    bottom, top, right = HEIGHT - BOTTOM, TOP, WIDTH - RIGHT
    parts = []
    for value, name in up.ticks:
        at = up(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(name)}</text>')
    for value, name in across.ticks:
        at = across(value)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(_clip(name, len(across.ticks)))}</text>'
        )
    parts.append(f'<path class="axis" fill="none" d="M{LEFT} {top}V{bottom}H{right}"/>')
    if strip:
        parts.append(f'<text x="{LEFT - 6}" y="{TOP + 12}" text-anchor="end">no score</text>')
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{TOP + 20}" y2="{TOP + 20}"/>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>')
    centre = (top + bottom) / 2
    parts.append(f'<text transform="translate(13 {centre}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>')
    return parts


def _clip(name: str, places: int) -> str:
    """A tick's name cut to the room there is, about 7 pixels a letter."""
    letters = max(4, int((WIDTH - LEFT - RIGHT) / max(places, 1) / 7))
    return name if len(name) <= letters else name[: letters - 1] + "…"


def _draw(layer: Layer, across: _Scale, up: _Scale) -> str:
    if isinstance(layer, Interval):
        bars = [
            f"M{across(x):.1f} {up(low):.1f}V{up(high):.1f}M{across(x) - 5:.1f} {up(low):.1f}h10"
            f"M{across(x) - 5:.1f} {up(high):.1f}h10"
            for x, low, high in zip(layer.x, layer.low, layer.high, strict=True)
        ]
        return f'<path fill="none" stroke="{layer.colour}" stroke-width="2" d="{"".join(bars)}"/>'
    if isinstance(layer, Line):
        return _line(layer, across, up)
    titles = layer.titles or [""] * len(layer.x)
    marks = [
        _mark(layer, across(x), TOP + 8 if y is None else up(y), title)
        for x, y, title in zip(layer.x, layer.y, titles, strict=True)
    ]
    return "".join(marks)


def _line(layer: Line, across: _Scale, up: _Scale) -> str:
    places = [(across(x), up(y)) for x, y in zip(layer.x, layer.y, strict=True)]
    if not places:
        return ""
    path = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
    for (_, _), (right, height) in pairwise(places):
        path += f"H{right:.1f}V{height:.1f}" if layer.steps else f"L{right:.1f} {height:.1f}"
    dashes = ' stroke-dasharray="6 4"' if layer.dashed else ""
    width = 1.2 if layer.thin else 2.2
    return f'<path fill="none" stroke="{layer.colour}" stroke-width="{width}"{dashes} d="{path}"/>'


def _mark(layer: Points, x: float, y: float, title: str) -> str:
    inside = f"<title>{escape(title)}</title>" if title else ""
    if layer.mark == "cross":
        return (
            f'<path stroke="{layer.colour}" stroke-width="1.8" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8">'
            f"{inside}</path>"
        )
    fill = layer.colour if layer.mark == "dot" else "#ffffff"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{layer.colour}" stroke-width="1.5">'
        f"{inside}</circle>"
    )


def _legend(layer: Layer) -> str:
    if isinstance(layer, Points):
        sample = _mark(layer, 11, 7, "")
    elif isinstance(layer, Line):
        dashes = ' stroke-dasharray="6 4"' if layer.dashed else ""
        sample = f'<path stroke="{layer.colour}" stroke-width="2.2"{dashes} d="M0 7h22"/>'
    else:
        sample = f'<path stroke="{layer.colour}" stroke-width="2" fill="none" d="M11 1v12M6 1h10M6 13h10"/>'
    return (
        f'<li><svg width="22" height="14" viewBox="0 0 22 14" aria-hidden="true">{sample}</svg>'
        f"{escape(layer.label)}</li>"
    )
