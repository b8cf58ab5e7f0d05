"""Figures of errors and spectra; no pyplot, so no global state and no display.

Letters have at least 9 points at a width of 5.2 inches, so that they can be read on a screen of 400 pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

INK, GREY, GRID = "#1f2933", "#616e7c", "#e4e7eb"
LINES = ("#0b6e99", "#c2410c", "#27803a", "#862e9c", "#c92a2a", "#4b7a08", "#364fc7", "#a61e4d")
"""letters in these colours, too, have a contrast of at least 4.5 on white"""
WIDTH_INCHES = 5.2


class _PlainNumbers(LogFormatter):
    """The same choice of ticks, all written alike: 0.1 beside 1, not 1e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def error_bars(
    values: Mapping[str, float],
    references: Mapping[str, float],
    *,
    title: str = "",
    label: str = "nRMSE",
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """One error for each name, logarithmic, with its interval where one is known: models in colour, references grey.

    What is not finite says so.
    """
    names = [*values, *references]
    shown = [*values.values(), *references.values()]
    figure = Figure(figsize=(WIDTH_INCHES, 0.42 * len(names) + 1.5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    ends = {name: interval for name, interval in (intervals or {}).items() if min(interval) > 0}
    known = [value for value in (*shown, *(end for each in ends.values() for end in each)) if 0 < value < np.inf]
    least, most = (min(known), max(known)) if known else (0.1, 1.0)
    axes.set_xscale("log")
    axes.set_xlim(least / 2, most * 2)
    for place, value in enumerate(shown):
        colour = LINES[place % len(LINES)] if place < len(values) else GREY
        drawn = value if np.isfinite(value) and value > 0 else (least / 2 if value == 0 else most * 2)
        axes.plot([least / 2, drawn], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
        if names[place] in ends and place < len(values):
            axes.plot(ends[names[place]], [place, place], color=colour, linewidth=7, alpha=0.35, solid_capstyle="butt")
        if np.isfinite(value):
            axes.plot([drawn], [place], "o", color=colour, markersize=6, clip_on=False)
        words = f"{value:.3g}" if np.isfinite(value) else "not finite"
        axes.annotate(
            words, (drawn, place), xytext=(0, 7), textcoords="offset points", color=colour, fontsize=9, ha="center",
            annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(_PlainNumbers(minor_thresholds=(1.5, 0.6)))
    axes.xaxis.set_minor_formatter(_PlainNumbers(minor_thresholds=(1.5, 0.6)))
    axes.set_xlabel(label, color=GREY)
    titled(figure, title)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    plain(axes)
    axes.tick_params(axis="y", labelsize=9, colors=INK)
    return figure


def error_over_time(
    lines: Mapping[str, Sequence[float]],
    references: Mapping[str, Sequence[float]],
    time: Sequence[float],
    *,
    title: str = "",
    label: str = "nRMSE",
) -> Figure:
    """Error of each predicted frame, logarithmic: models as coloured lines, references dashed and grey.

    Each line is named at its end; a value that is not finite breaks its line.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    ends: list[tuple[float, str, str]] = []
    for number, (name, values) in enumerate(lines.items()):
        colour = LINES[number % len(LINES)]
        ends += _line(axes, time, values, name, colour, "-", 2.2)
    for number, (name, values) in enumerate(references.items()):
        ends += _line(axes, time, values, name, GREY, ("--", ":", "-.")[number % 3], 1.2)
    axes.set_yscale("log")
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(_PlainNumbers(minor_thresholds=(1.5, 0.6)))
    axes.set_xlabel("time after the given frame", color=GREY)
    axes.set_ylabel(label, color=GREY)
    titled(figure, title)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(0, max(time))
    plain(axes)
    _name_ends(axes, ends)
    return figure


def error_against_budget(
    candidates: Sequence[int],
    errors: Sequence[float],
    levels: Mapping[str, float],
    *,
    title: str,
    label: str = "rollout nRMSE",
) -> Figure:
    """Error of a search with so many candidates a step, both axes logarithmic; levels are dashed and grey.

    A value that is not finite breaks the line, and a level that is not finite is left out.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    ends = _line(axes, candidates, errors, "with the search", LINES[0], "-", 2.2)
    axes.plot(candidates, errors, "o", color=LINES[0], markersize=5, clip_on=False)
    for number, (name, value) in enumerate(levels.items()):
        if np.isfinite(value) and value > 0:
            ends += _line(axes, candidates, [value] * len(candidates), name, GREY, ("--", ":", "-.")[number % 3], 1.2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(candidates), [str(count) for count in candidates])
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(_PlainNumbers(minor_thresholds=(1.5, 0.6)))
    axes.set_xlabel("candidates judged a step for each hypothesis", color=GREY)
    axes.set_ylabel(label, color=GREY)
    titled(figure, title)
    axes.grid(axis="y", which="both", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(min(candidates), max(candidates))
    plain(axes)
    _name_ends(axes, ends)
    return figure


def spectra(
    waves_K: NDArray[np.floating],
    truth_FK: NDArray[np.floating],
    prediction_FK: NDArray[np.floating],
    names: Sequence[str],
    *,
    label: str,
    title: str = "",
) -> Figure:
    """Energy against wavenumber, both logarithmic: F frames by colour, truth pale and wide, prediction dashed.

    What is below 1e-12 of the truth's largest value is rounding and left out.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 4.4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    most = float(truth_FK.max())
    floor = 1e-12 * most
    for number, (name, truth_K, prediction_K) in enumerate(zip(names, truth_FK, prediction_FK, strict=True)):
        colour = LINES[number % len(LINES)]
        truth: dict[str, Any] = {"linewidth": 4, "alpha": 0.4, "label": f"truth, {name}"}
        prediction: dict[str, Any] = {"linewidth": 1.6, "linestyle": "--", "label": f"prediction, {name}"}
        for energy_K, style in ((truth_K, truth), (prediction_K, prediction)):
            # a line that fell to zero at every second wave, as of a field that repeats itself, would be a comb
            known_K = energy_K > floor
            axes.plot(waves_K[known_K], energy_K[known_K], color=colour, **style)
    shown = np.concatenate([truth_FK, prediction_FK])
    shown = shown[np.isfinite(shown) & (shown > floor)]
    if len(shown):
        axes.set_ylim(shown.min() / 2, max(most, min(shown.max(), 1e6 * most)) * 2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(waves_K[0], waves_K[-1])
    for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        set_formatter(_PlainNumbers(minor_thresholds=(1.5, 0.6)))
    axes.set_xlabel(label, color=GREY)
    axes.set_ylabel("energy", color=GREY)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    plain(axes)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=10, labelcolor=INK)
    titled(figure, title)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG at 200 dots per inch."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(stream, format="png", dpi=200)
    return stream.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file; equal figures give equal files."""
    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "ups"}):
        FigureCanvasSVG(figure).print_figure(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _drawable(values: Sequence[float]) -> NDArray[np.float64]:
    """The values that a logarithmic axis has a place for; NaN for the others."""
    return np.array([value if np.isfinite(value) and value > 0 else np.nan for value in values])


def _line(
    axes: Axes,
    time: Sequence[float],
    values: Sequence[float],
    name: str,
    colour: str,
    style: str,
    width: float,
) -> list[tuple[float, str, str]]:
    """Draw one line; gives (last drawable value, name, colour) for its label, if any."""
    shown = _drawable(values)
    axes.plot(time[: len(shown)], shown, color=colour, linestyle=style, linewidth=width, solid_capstyle="round")
    finite = shown[np.isfinite(shown)]
    suffix = "" if len(finite) == len(shown) else " (not finite)"
    return [(float(finite[-1]), name + suffix, colour)] if len(finite) else []


def _name_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names right of the axes at the height of the lines' ends, pushed apart where they would overlap."""
    low, high = (np.log10(limit) for limit in axes.get_ylim())
    gap, height = 0.052, -np.inf
    for value, name, colour in sorted(ends):
        height = max((np.log10(value) - low) / (high - low), height + gap)
        axes.annotate(
            name, (1.0, height), xycoords="axes fraction", xytext=(8, 0), textcoords="offset points",
            color=colour, fontsize=9, va="center", annotation_clip=False,
        )  # fmt: skip


def titled(figure: Figure, title: str) -> None:
    """The title above the figure, at its left; none where a page tells it."""
    if title:
        figure.suptitle(title, fontsize=10.5, color=INK, x=0.01, ha="left", fontweight="bold", wrap=True)


def plain(axes: Axes) -> None:
    """No frame and no ticks, quiet numbers."""
    axes.tick_params(which="both", labelsize=9, colors=GREY, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
