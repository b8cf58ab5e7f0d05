"""Small charts as inline SVG: sharp at any width, nothing to load, readable by a screen reader and without colour."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

from matplotlib.ticker import LogLocator, MaxNLocator

BLUE, RED, GREY, AMBER, PALE = "#1f5fa8", "#b3261e", "#6b6b6b", "#8a5a00", "#b9c4d0"
GREEN, PURPLE, TEAL = "#27803a", "#862e9c", "#0b7285"
"""all but PALE have a contrast of at least 4.5 on white; PALE is for lines in the background"""

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 74, 14, 14, 48
LOG_FROM = 12.0
"""an axis of positive values becomes logarithmic when its largest is this many times its smallest"""
TITLED = 200
"""marks of a layer that can say on hovering what they are; more of them are drawn as one shape, as a page has to open
quickly, and nobody hovers over a thousand"""
_PALE_SHARE = 0.2
"""opacity of an area"""
CROWD = 300
"""marks of a layer from which on they are drawn smaller"""
STYLE = """
svg text { font: 13.5px system-ui, sans-serif; fill: #1b2530 }
svg .axis { stroke: #55606b; fill: none } svg .grid { stroke: #e6eaee; fill: none }
svg .halo { paint-order: stroke; stroke: #fff; stroke-width: 4px; stroke-linejoin: round }
svg .soft { fill: #55606b } svg .inverse { fill: #fff }
"""
"""what the drawings need of a page's style; colours are written out, as a drawing may become a file of its own"""

Mark = Literal["dot", "ring", "cross"]


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
    """Marks at (x, y); y None: no value, drawn on the strip above the axis. `titles` appear on hovering, if there are
    no more than `TITLED`; without them, marks that would cover each other are drawn once."""

    x: Sequence[float]
    y: Sequence[float | None]
    label: str
    colour: str = BLUE
    mark: Mark = "dot"
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
class Bundle:
    """Many thin lines of one kind in the background; a piece that several have in common is drawn once."""

    lines: Sequence[Sequence[tuple[float, float]]]
    label: str = ""
    colour: str = PALE

    @property
    def x(self) -> list[float]:
        return [x for line in self.lines for x, _ in line]


@dataclass(frozen=True)
class Bars:
    """A rectangle from (left, low) to (right, high) for each entry; to stack them is the caller's."""

    left: Sequence[float]
    right: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    label: str
    colour: str = BLUE

    @property
    def x(self) -> list[float]:
        return [*self.left, *self.right]


@dataclass(frozen=True)
class Interval:
    """A vertical bar from `low` to `high` at each x."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    label: str
    colour: str = BLUE


@dataclass(frozen=True)
class Area:
    """What lies between `low` and `high` over x, pale, for lines to be drawn over it."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    label: str
    colour: str = BLUE


Layer = Points | Line | Bundle | Bars | Interval | Area


def chart(title: str, description: str, x: Axis, y: Axis, layers: Sequence[Layer]) -> str:
    """A <figure> with one chart; `description` says in words what it shows and is read out in its place."""
    across = _Scale(x, [value for layer in layers for value in layer.x], LEFT, WIDTH - RIGHT)
    heights = [value for layer in layers for value in _heights(layer)]
    strip = any(value is None for layer in layers if isinstance(layer, Points) for value in layer.y)
    up = _Scale(y, heights, HEIGHT - BOTTOM, TOP + (22 if strip else 0))
    parts = [*_frame(across, up, x, y, strip), *(_draw(layer, across, up) for layer in layers)]
    legend = [legend_key(_sample(layer), layer.label) for layer in layers if layer.label]
    lines = len(wrapped(x.label, WIDTH - LEFT - RIGHT))
    return figure(title, description, "".join(parts), (WIDTH, HEIGHT + 16 * (lines - 1)), legend)


def figure(title: str, description: str, drawing: str, size: tuple[float, float], legend: Sequence[str] = ()) -> str:
    """A <figure> around any drawing: SVG elements in a box of `size`, width and height."""
    width, height = size
    entries = f'<ul class="legend">{"".join(legend)}</ul>' if legend else ""
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {px(width)} {px(height)}" role="img" '
        f'aria-label="{escape(f"{title}. {description}")}">{drawing}</svg>'
        f'{entries}<p class="note">{escape(description)}</p></figure>\n'
    )


def legend_key(sample: str, label: str) -> str:
    """An entry of a legend; `sample` is drawn in a box of 22 by 14."""
    return f'<li><svg width="22" height="14" viewBox="0 0 22 14" aria-hidden="true">{sample}</svg>{escape(label)}</li>'


def px(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")


def wrapped(text: str, room: float) -> list[str]:
    """The text in lines of so many pixels, some 7 a letter: smaller letters would not be read on a narrow screen."""
    return textwrap.wrap(text, max(int(room / 7.2), 1)) or [""]


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
    if isinstance(layer, Interval | Bars | Area):
        return [*layer.low, *layer.high]
    if isinstance(layer, Bundle):
        return [y for line in layer.lines for _, y in line]
    return [value for value in layer.y if value is not None]


def _frame(across: _Scale, up: _Scale, x: Axis, y: Axis, strip: bool) -> list[str]:
    bottom, top, right = HEIGHT - BOTTOM, TOP, WIDTH - RIGHT
    parts = []
    for value, name in up.ticks:
        height = px(up(value))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{height}" y2="{height}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{px(up(value) + 4)}" text-anchor="end">{escape(name)}</text>')
    for value, name in across.ticks:
        place = px(across(value))
        parts.append(f'<line class="axis" x1="{place}" x2="{place}" y1="{bottom}" y2="{bottom + 4}"/>')
        clipped = escape(_clip(name, len(across.ticks)))
        parts.append(f'<text x="{place}" y="{bottom + 17}" text-anchor="middle">{clipped}</text>')
    parts.append(f'<path class="axis" fill="none" d="M{LEFT} {top}V{bottom}H{right}"/>')
    if strip:
        parts.append(f'<text x="{LEFT - 6}" y="{TOP + 12}" text-anchor="end">no score</text>')
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{TOP + 20}" y2="{TOP + 20}"/>')
    middle = (LEFT + right) / 2
    for line, text in enumerate(wrapped(x.label, right - LEFT)):
        parts.append(f'<text x="{middle}" y="{HEIGHT - 8 + 16 * line}" text-anchor="middle">{escape(text)}</text>')
    centre = (top + bottom) / 2
    parts.append(f'<text transform="translate(11 {centre}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>')
    return parts


def _clip(name: str, places: int) -> str:
    """A tick's name cut to the room there is, about 7 pixels a letter."""
    letters = max(4, int((WIDTH - LEFT - RIGHT) / max(places, 1) / 7))
    return name if len(name) <= letters else name[: letters - 1] + "…"


def _draw(layer: Layer, across: _Scale, up: _Scale) -> str:
    if isinstance(layer, Interval):
        bars = [
            f"M{px(across(x))} {px(up(low))}V{px(up(high))}M{px(across(x) - 5)} {px(up(low))}h10"
            f"M{px(across(x) - 5)} {px(up(high))}h10"
            for x, low, high in zip(layer.x, layer.low, layer.high, strict=True)
        ]
        return f'<path fill="none" stroke="{layer.colour}" stroke-width="2" d="{"".join(bars)}"/>'
    if isinstance(layer, Bars):
        corners = zip(layer.left, layer.right, layer.low, layer.high, strict=True)
        boxes = [
            f"M{px(across(left))} {px(up(low))}H{px(across(right))}V{px(up(high))}H{px(across(left))}z"
            for left, right, low, high in corners
            if high > low
        ]
        return f'<path fill="{layer.colour}" stroke="#fff" stroke-width=".5" d="{"".join(boxes)}"/>'
    if isinstance(layer, Area):
        there = [f"{px(across(x))} {px(up(y))}" for x, y in zip(layer.x, layer.high, strict=True)]
        back = [f"{px(across(x))} {px(up(y))}" for x, y in zip(layer.x, layer.low, strict=True)]
        outline = "L".join([*there, *reversed(back)])
        return f'<path fill="{layer.colour}" fill-opacity="{_PALE_SHARE}" d="M{outline}z"/>'
    if isinstance(layer, Bundle):
        lines = [[(across(x), up(y)) for x, y in line] for line in layer.lines]
        return f'<path fill="none" stroke="{layer.colour}" d="{bundle(lines)}"/>'
    if isinstance(layer, Line):
        return _line(layer, across, up)
    places = [(across(x), TOP + 8 if y is None else up(y)) for x, y in zip(layer.x, layer.y, strict=True)]
    if layer.titles and len(places) <= TITLED:
        return "".join(
            f"<g><title>{escape(title)}</title>{_marks([place], layer)}</g>"
            for place, title in zip(places, layer.titles, strict=True)
        )
    # of marks within two pixels of each other nobody sees more than one
    return _marks({(round(x / 2), round(y / 2)): (x, y) for x, y in places}.values(), layer)


def bundle(lines: Iterable[Sequence[tuple[float, float]]]) -> str:
    """The `d` of one path through all lines, in whole pixels; what several have in common stands there once."""
    drawn: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    steps: list[str] = []
    for line in lines:
        pen = None
        for start, end in pairwise((round(x), round(y)) for x, y in line):
            if start == end or (start, end) in drawn:
                continue
            drawn.add((start, end))
            if pen != start:
                steps.append(f"M{start[0]} {start[1]}")
            steps.append(f"l{end[0] - start[0]} {end[1] - start[1]}")
            pen = end
    return "".join(steps)


def _line(layer: Line, across: _Scale, up: _Scale) -> str:
    places = [(across(x), up(y)) for x, y in zip(layer.x, layer.y, strict=True)]
    if not places:
        return ""
    path = f"M{px(places[0][0])} {px(places[0][1])}"
    for (_, _), (right, height) in pairwise(places):
        path += f"H{px(right)}V{px(height)}" if layer.steps else f"L{px(right)} {px(height)}"
    dashes = ' stroke-dasharray="6 4"' if layer.dashed else ""
    width = 1.2 if layer.thin else 2.2
    return f'<path fill="none" stroke="{layer.colour}" stroke-width="{width}"{dashes} d="{path}"/>'


def _marks(places: Iterable[tuple[float, float]], layer: Points) -> str:
    """All marks of a layer as one path."""
    if layer.mark == "cross":
        steps = "".join(f"M{px(x - 4)} {px(y - 4)}l8 8m0-8l-8 8" for x, y in places)
        return f'<path fill="none" stroke="{layer.colour}" stroke-width="1.8" d="{steps}"/>'
    # an arc that all but closes; dots have a pale rim, by which one is told from the next
    radius, fill, rim, width = (
        (4, "#fff", layer.colour, 1.5) if layer.mark == "ring" else (5, layer.colour, "#fff", 0.8)
    )
    steps = "".join(f"M{px(x)} {px(y - radius)}a{radius} {radius} 0 1 0 .1 0z" for x, y in places)
    return f'<path fill="{fill}" stroke="{rim}" stroke-width="{width}" d="{steps}"/>'


def _sample(layer: Layer) -> str:
    if isinstance(layer, Points):
        return _marks([(11, 7)], layer)
    if isinstance(layer, Line | Bundle):
        dashes = ' stroke-dasharray="6 4"' if isinstance(layer, Line) and layer.dashed else ""
        return f'<path stroke="{layer.colour}" stroke-width="2.2"{dashes} d="M0 7h22"/>'
    if isinstance(layer, Bars):
        return f'<path fill="{layer.colour}" d="M4 1h14v12h-14z"/>'
    if isinstance(layer, Area):
        return f'<path fill="{layer.colour}" fill-opacity="{_PALE_SHARE}" d="M0 1h22v12h-22z"/>'
    return f'<path stroke="{layer.colour}" stroke-width="2" fill="none" d="M11 1v12M6 1h10M6 13h10"/>'
