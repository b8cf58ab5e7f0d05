"""Figures of fields and errors; no pyplot, so no global state and no display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

INK, GREY, GRID = "#1f2933", "#7b8794", "#e4e7eb"
LINES = ("#0b6e99", "#d9480f", "#2b8a3e", "#862e9c", "#c92a2a", "#5c940d", "#364fc7", "#a61e4d")
_FIELD, _ERROR = "viridis", "RdBu_r"


def space_time(
    truth_TX: NDArray[np.floating],
    prediction_TX: NDArray[np.floating],
    *,
    dt: float,
    length: float,
    title: str,
) -> Figure:
    """Truth, prediction and error side by side, space to the right and time upwards.

    Truth and prediction share their colours; the error has its own scale. Frame 0 is the given one.
    """
    figure = Figure(figsize=(11.5, 4.2), layout="constrained", facecolor="white")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    error_TX = prediction_TX - truth_TX
    low, high = float(truth_TX.min()), float(truth_TX.max())
    worst = float(np.nanmax(np.abs(error_TX), initial=0.0)) if np.isfinite(error_TX).any() else 1.0
    end = dt * (len(truth_TX) - 1)
    extent = (0.0, length, -dt / 2, end + dt / 2)

    def draw(axes: Axes, field_TX: NDArray[np.floating], name: str, colours: str, lowest: float, highest: float):
        image = axes.imshow(
            field_TX,
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap=colours,
            vmin=lowest,
            vmax=highest if highest > lowest else lowest + 1e-12,
            interpolation="nearest",
        )
        axes.set_title(name, fontsize=11, color=INK, loc="left")
        axes.set_xlabel("x", color=GREY)
        _plain(axes)
        return image

    draw(left, truth_TX, "truth", _FIELD, low, high)
    shared = draw(middle, prediction_TX, "prediction", _FIELD, low, high)
    own = draw(right, error_TX, "prediction − truth", _ERROR, -worst, worst)
    left.set_ylabel("time", color=GREY)
    for image, axes in ((shared, [left, middle]), (own, [right])):
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, aspect=28)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=GREY, length=0)
    figure.suptitle(title, fontsize=12, color=INK, x=0.008, ha="left", fontweight="bold")
    return figure


def error_over_time(
    lines: Mapping[str, Sequence[float]],
    references: Mapping[str, Sequence[float]],
    time: Sequence[float],
    *,
    title: str,
    label: str = "nRMSE",
) -> Figure:
    """Error of each predicted frame, logarithmic: models as coloured lines, references dashed and grey.

    Each line is named at its end; a value that is not finite breaks its line.
    """
    figure = Figure(figsize=(8.2, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    ends: list[tuple[float, str, str]] = []
    for number, (name, values) in enumerate(lines.items()):
        ends += _line(axes, time, values, name, LINES[number % len(LINES)], "-", 2.2)
    for number, (name, values) in enumerate(references.items()):
        ends += _line(axes, time, values, name, GREY, ("--", ":", "-.")[number % 3], 1.2)
    axes.set_yscale("log")
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(LogFormatter(minor_thresholds=(1.5, 0.6)))
    axes.set_xlabel("time after the given frame", color=GREY)
    axes.set_ylabel(label, color=GREY)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", fontweight="bold")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(0, max(time))
    _plain(axes)
    _name_ends(axes, ends)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG at 150 dots per inch."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(stream, format="png", dpi=150)
    return stream.getvalue()


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
    shown = np.array([value if np.isfinite(value) and value > 0 else np.nan for value in values])
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


def _plain(axes: Axes) -> None:
    axes.tick_params(which="both", labelsize=8, colors=GREY, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
