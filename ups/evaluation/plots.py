"""Figures of fields and errors; no pyplot, so no global state and no display. T frames, X Y cells, C channels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

INK, GREY, GRID = "#1f2933", "#7b8794", "#e4e7eb"
LINES = ("#0b6e99", "#d9480f", "#2b8a3e", "#862e9c", "#c92a2a", "#5c940d", "#364fc7", "#a61e4d")
_FIELD, _ERROR, _GIVEN = "viridis", "RdBu_r", "cividis"


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
    low, high, worst = *_range(truth_TX), _worst(error_TX)
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
            vmax=highest,
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
        _bar(figure, image, axes)
    figure.suptitle(title, fontsize=12, color=INK, x=0.008, ha="left", fontweight="bold")
    return figure


def maps_over_time(
    truth_TXYC: NDArray[np.floating],
    prediction_TXYC: NDArray[np.floating],
    *,
    channels: Sequence[str],
    dt: float,
    dx: float,
    title: str,
    columns: int = 4,
) -> Figure:
    """Truth, prediction and error of each channel at a few frames, time to the right; first of all the given frame.

    Truth and prediction of a channel share their colours at each frame, so that what has decayed is still seen; its
    error has one scale for all frames, so that its growth is seen.
    """
    frames = np.unique(np.linspace(0, len(truth_TXYC) - 1, columns).round().astype(int))
    kinds = ("truth", "prediction", "prediction − truth")
    width, height = truth_TXYC.shape[1] * dx, truth_TXYC.shape[2] * dx
    panel = 2.1
    figure = Figure(
        figsize=((panel + 0.5) * len(frames) + 0.6, panel * height / width * len(kinds) * len(channels) + 0.7),
        layout="constrained",
        facecolor="white",
    )
    grid = figure.subplots(len(kinds) * len(channels), len(frames), squeeze=False)
    for number, channel in enumerate(channels):
        true_row, predicted_row, error_row = grid[len(kinds) * number : len(kinds) * (number + 1)]
        worst = _worst(prediction_TXYC[frames, ..., number] - truth_TXYC[frames, ..., number])
        for column, frame in enumerate(frames):
            truth_XY, prediction_XY = truth_TXYC[frame, ..., number], prediction_TXYC[frame, ..., number]
            image = _map(true_row[column], truth_XY, _FIELD, _range(truth_XY), dx)
            pair = [true_row[column]]
            if frame == 0:  # nothing is predicted of it
                for empty in (predicted_row[column], error_row[column]):
                    empty.set(xticks=[], yticks=[])
                    _plain(empty)
            else:
                _map(predicted_row[column], prediction_XY, _FIELD, _range(truth_XY), dx)
                own = _map(error_row[column], prediction_XY - truth_XY, _ERROR, (-worst, worst), dx)
                pair.append(predicted_row[column])
            _bar(figure, image, pair)
        _bar(figure, own, [error_row[-1]])
        for row, kind in zip((true_row, predicted_row, error_row), kinds, strict=True):
            row[0].set_ylabel(f"{channel}\n{kind}" if len(channels) > 1 else kind, color=INK, fontsize=9)
    for axes, frame in zip(grid[0], frames, strict=True):
        axes.set_title(f"t = {frame * dt:.3g}{' (given)' if frame == 0 else ''}", fontsize=10, color=INK, loc="left")
    figure.suptitle(title, fontsize=12, color=INK, x=0.008, ha="left", fontweight="bold")
    return figure


def steady_maps(
    given_XYC: NDArray[np.floating],
    truth_XYC: NDArray[np.floating],
    prediction_XYC: NDArray[np.floating],
    *,
    channels: Sequence[str],
    dx: float,
    title: str,
) -> Figure:
    """The given coefficient, the true and the predicted solution, and its error; one row for each channel.

    Truth and prediction share their colours; the coefficient and the error have scales of their own.
    """
    width, height = truth_XYC.shape[0] * dx, truth_XYC.shape[1] * dx
    figure = Figure(figsize=(13.5, 2.8 * height / width * len(channels) + 0.9), layout="constrained", facecolor="white")
    grid = figure.subplots(len(channels), 4, squeeze=False)
    for number, (row, channel) in enumerate(zip(grid, channels, strict=True)):
        given_XY, truth_XY = given_XYC[..., min(number, given_XYC.shape[-1] - 1)], truth_XYC[..., number]
        prediction_XY = prediction_XYC[..., number]
        error_XY = prediction_XY - truth_XY
        scale, worst = _range(truth_XY), _worst(error_XY)
        coefficient = _map(row[0], given_XY, _GIVEN, _range(given_XY), dx)
        _map(row[1], truth_XY, _FIELD, scale, dx)
        shared = _map(row[2], prediction_XY, _FIELD, scale, dx)
        error = _map(row[3], error_XY, _ERROR, (-worst, worst), dx)
        for image, axes in ((coefficient, [row[0]]), (shared, list(row[1:3])), (error, [row[3]])):
            _bar(figure, image, axes)
        names = ("given coefficient", f"{channel}, truth", f"{channel}, prediction", "prediction − truth")
        for axes, name in zip(row, names, strict=True):
            axes.set_title(name, fontsize=11, color=INK, loc="left")
    figure.suptitle(title, fontsize=12, color=INK, x=0.008, ha="left", fontweight="bold")
    return figure


def error_bars(
    values: Mapping[str, float], references: Mapping[str, float], *, title: str, label: str = "nRMSE"
) -> Figure:
    """One error for each name, logarithmic: models in colour, references grey; what is not finite says so."""
    names = [*values, *references]
    shown = [*values.values(), *references.values()]
    figure = Figure(figsize=(8.2, 0.42 * len(names) + 1.5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    known = [value for value in shown if np.isfinite(value) and value > 0]
    least, most = (min(known), max(known)) if known else (0.1, 1.0)
    axes.set_xscale("log")
    axes.set_xlim(least / 2, most * 2)
    for place, value in enumerate(shown):
        colour = LINES[place % len(LINES)] if place < len(values) else GREY
        drawn = value if np.isfinite(value) and value > 0 else (least / 2 if value == 0 else most * 2)
        axes.plot([least / 2, drawn], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
        if np.isfinite(value):
            axes.plot([drawn], [place], "o", color=colour, markersize=6, clip_on=False)
        words = f"{value:.3g}" if np.isfinite(value) else "not finite"
        axes.annotate(
            words, (drawn, place), xytext=(8, 0), textcoords="offset points", color=colour, fontsize=9, va="center",
            annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(LogFormatter(minor_thresholds=(1.5, 0.6)))
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.6)))
    axes.set_xlabel(label, color=GREY)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", fontweight="bold")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    _plain(axes)
    axes.tick_params(axis="y", labelsize=9, colors=INK)
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
    figure = Figure(figsize=(8.2, 4.2), layout="constrained", facecolor="white")
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
        set_formatter(LogFormatter(minor_thresholds=(1.5, 0.6)))
    axes.set_xlabel("candidates judged a step for each hypothesis", color=GREY)
    axes.set_ylabel(label, color=GREY)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", fontweight="bold")
    axes.grid(axis="y", which="both", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(min(candidates), max(candidates))
    _plain(axes)
    _name_ends(axes, ends)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG at 150 dots per inch."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(stream, format="png", dpi=150)
    return stream.getvalue()


def _map(axes: Axes, field_XY: NDArray[np.floating], colours: str, limits: tuple[float, float], dx: float) -> AxesImage:
    """One field seen from above, x to the right and y upwards, without ticks."""
    extent = (0.0, field_XY.shape[0] * dx, 0.0, field_XY.shape[1] * dx)
    image = axes.imshow(
        field_XY.T, origin="lower", extent=extent, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[])
    _plain(axes)
    return image


def _bar(figure: Figure, image: AxesImage, axes: Sequence[Axes]) -> None:
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, aspect=28)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=GREY, length=0)


def _range(field: NDArray[np.floating]) -> tuple[float, float]:
    """Limits of the colours; never empty."""
    low, high = float(field.min()), float(field.max())
    return low, high if high > low else low + 1e-12


def _worst(error: NDArray[np.floating]) -> float:
    """The largest finite error; 1 where there is none to show."""
    worst = float(np.abs(error[np.isfinite(error)]).max(initial=0.0))
    return worst if worst > 0 else 1.0


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
