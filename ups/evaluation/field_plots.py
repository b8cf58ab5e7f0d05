"""Figures of fields: truth, prediction and error. T frames, X Y cells, C channels.

They are 5.2 inches wide with letters of 9 points and more, so that they can be read on a screen of 400 pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from PIL import Image

from ups.evaluation.plots import GREY, INK, LINES, WIDTH_INCHES, plain, titled

_FIELD, _ERROR, _GIVEN = "viridis", "RdBu_r", "cividis"
_KINDS = ("truth", "prediction", "error")
_MOST_FRAMES = 24
"""of an animation"""
_MOST_BYTES = 900_000


def space_time(
    truth_TX: NDArray[np.floating],
    prediction_TX: NDArray[np.floating],
    *,
    dt: float,
    length: float,
    title: str = "",
) -> Figure:
    """Truth, prediction and error (prediction - truth) side by side, space to the right and time upwards.

    Truth and prediction share their colours; the error has its own scale. Frame 0 is the given one.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 3.7), layout="constrained", facecolor="white")
    row = figure.subplots(1, 3, sharey=True)
    error_TX = prediction_TX - truth_TX
    scale, worst = _range(truth_TX), _worst(error_TX)
    end = dt * (len(truth_TX) - 1)
    images = []
    for axes, field_TX, name, colours, (low, high) in zip(
        row,
        (truth_TX, prediction_TX, error_TX),
        _KINDS,
        (_FIELD, _FIELD, _ERROR),
        (scale, scale, (-worst, worst)),
        strict=True,
    ):
        images.append(
            axes.imshow(
                field_TX,
                origin="lower",
                aspect="auto",
                extent=(0.0, length, -dt / 2, end + dt / 2),
                cmap=colours,
                vmin=low,
                vmax=high,
                interpolation="nearest",
            )
        )
        axes.set_title(name, fontsize=11, color=INK, loc="left")
        axes.set_xlabel("x", color=GREY)
        axes.set_xticks([0, length / 2, length], ["0", f"{length / 2:.3g}", f"{length:.3g}"])
        plain(axes)
    row[0].set_ylabel("time", color=GREY)
    _bar(figure, images[1], list(row[:2]), below=True)
    _bar(figure, images[2], [row[2]], below=True)
    titled(figure, title)
    return figure


def snapshots(
    truth_TX: NDArray[np.floating],
    prediction_TX: NDArray[np.floating],
    *,
    dt: float,
    length: float,
    title: str = "",
) -> Figure:
    """Truth and prediction over space at `snapshot_frames`, all on the same axes."""
    figure = Figure(figsize=(WIDTH_INCHES, 3.8), layout="constrained", facecolor="white")
    frames = snapshot_frames(len(truth_TX))
    grid = figure.subplots(len(frames) // 2 or 1, min(2, len(frames)), sharex=True, sharey=True, squeeze=False).flat
    cells = truth_TX.shape[1]
    x = (np.arange(cells) + 0.5) * length / cells
    for axes, frame in zip(grid, frames, strict=True):
        axes.plot(x, prediction_TX[frame], color=LINES[0], linewidth=2.2, alpha=0.75, label="prediction")
        # on top: it stays visible within a prediction that is noisy
        axes.plot(x, truth_TX[frame], color=INK, linewidth=1.1, linestyle="--", label="truth")
        axes.set_title(f"t = {frame * dt:.3g}", fontsize=11, color=INK, loc="left")
        axes.set_xlim(0, length)
        plain(axes)
        axes.set_xlabel("x", color=GREY)
        axes.label_outer()
    low, high = _range(truth_TX[frames])
    # a prediction that went far astray must not flatten the truth
    least, most = _range(prediction_TX[frames])
    room = 5 * (high - low)
    low, high = min(low, max(least, low - room)), max(high, min(most, high + room))
    axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=10)
    titled(figure, title)
    return figure


def snapshot_frames(count: int) -> list[int]:
    """Frames at about an eighth, a quarter, a half and all of the time: early ones, too, where fields decay.

    Of fewer than five frames the last two, or the last.
    """
    frames = sorted({max(1, round((count - 1) * share)) for share in (1 / 8, 1 / 4, 1 / 2, 1)})
    return frames if len(frames) == 4 else frames[-2:] if len(frames) > 1 else frames


def maps_over_time(
    truth_TXYC: NDArray[np.floating],
    prediction_TXYC: NDArray[np.floating],
    *,
    channels: Sequence[str],
    dt: float,
    dx: float,
    title: str = "",
    columns: int = 4,
) -> Figure:
    """Truth, prediction and error of each channel at a few frames, time to the right; first of all the given frame.

    Truth and prediction of a channel share their colours at each frame, so that what has decayed is still seen; its
    error has one scale for all frames, so that its growth is seen.
    """
    frames = _frames(len(truth_TXYC), columns)
    width, height = truth_TXYC.shape[1] * dx, truth_TXYC.shape[2] * dx
    panel = WIDTH_INCHES / len(frames) - 0.5
    figure = Figure(
        figsize=(WIDTH_INCHES, (panel * height / width + 0.12) * len(_KINDS) * len(channels) + 0.6),
        layout="constrained",
        facecolor="white",
    )
    grid = figure.subplots(len(_KINDS) * len(channels), len(frames), squeeze=False)
    for number, channel in enumerate(channels):
        true_row, predicted_row, error_row = grid[len(_KINDS) * number : len(_KINDS) * (number + 1)]
        worst = _worst(prediction_TXYC[frames, ..., number] - truth_TXYC[frames, ..., number])
        for column, frame in enumerate(frames):
            truth_XY, prediction_XY = truth_TXYC[frame, ..., number], prediction_TXYC[frame, ..., number]
            image = _map(true_row[column], truth_XY, _FIELD, _range(truth_XY), dx)
            pair = [true_row[column]]
            if frame == 0:  # nothing is predicted of it
                for empty in (predicted_row[column], error_row[column]):
                    empty.set(xticks=[], yticks=[])
                    plain(empty)
            else:
                _map(predicted_row[column], prediction_XY, _FIELD, _range(truth_XY), dx)
                own = _map(error_row[column], prediction_XY - truth_XY, _ERROR, (-worst, worst), dx)
                pair.append(predicted_row[column])
            _bar(figure, image, pair)
        _bar(figure, own, [error_row[-1]])
        for row, kind in zip((true_row, predicted_row, error_row), _KINDS, strict=True):
            row[0].set_ylabel(f"{channel}\n{kind}" if len(channels) > 1 else kind, color=INK, fontsize=10)
    for axes, frame in zip(grid[0], frames, strict=True):
        axes.set_title(f"t = {frame * dt:.3g}{' (given)' if frame == 0 else ''}", fontsize=10, color=INK, loc="left")
    titled(figure, title)
    return figure


def steady_maps(
    given_XYC: NDArray[np.floating],
    truth_XYC: NDArray[np.floating],
    prediction_XYC: NDArray[np.floating],
    *,
    channels: Sequence[str],
    dx: float,
    title: str = "",
) -> Figure:
    """The true and the predicted solution of each channel, below them the given coefficient and the error.

    Truth and prediction share their colours; the coefficient and the error have scales of their own.
    """
    width, height = truth_XYC.shape[0] * dx, truth_XYC.shape[1] * dx
    rows = 2 * len(channels)
    size = (WIDTH_INCHES, 2.2 * height / width * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.subplots(rows, 2, squeeze=False)
    for number, channel in enumerate(channels):
        places = [*grid[2 * number], *grid[2 * number + 1]]
        given_XY, truth_XY = given_XYC[..., min(number, given_XYC.shape[-1] - 1)], truth_XYC[..., number]
        error_XY = prediction_XYC[..., number] - truth_XY
        scale, worst = _range(truth_XY), _worst(error_XY)
        _map(places[0], truth_XY, _FIELD, scale, dx)
        shared = _map(places[1], prediction_XYC[..., number], _FIELD, scale, dx)
        coefficient = _map(places[2], given_XY, _GIVEN, _range(given_XY), dx)
        error = _map(places[3], error_XY, _ERROR, (-worst, worst), dx)
        for image, axes in ((shared, places[:2]), (coefficient, [places[2]]), (error, [places[3]])):
            _bar(figure, image, axes)
        names = (f"{channel}, truth", f"{channel}, prediction", "given coefficient", "error")
        for axes, name in zip(places, names, strict=True):
            axes.set_title(name, fontsize=11, color=INK, loc="left")
    titled(figure, title)
    return figure


def animation(truth_TXY: NDArray[np.floating], prediction_TXY: NDArray[np.floating], *, dt: float, dx: float) -> bytes:
    """Truth, prediction and error of one channel as a GIF of 3 to 4 seconds that repeats, below `_MOST_BYTES`.

    The colours are those of the whole trajectory, so that decay and growth are seen.
    """
    frames = _frames(len(truth_TXY), _MOST_FRAMES)
    for dots_per_inch in (90, 70, 50, 35):
        shown = _animate(truth_TXY, prediction_TXY, frames, dt=dt, dx=dx, dots_per_inch=dots_per_inch)
        if len(shown) <= _MOST_BYTES:
            break
    return shown


def _animate(
    truth_TXY: NDArray[np.floating],
    prediction_TXY: NDArray[np.floating],
    frames: NDArray[np.intp],
    *,
    dt: float,
    dx: float,
    dots_per_inch: int,
) -> bytes:
    error_TXY = prediction_TXY - truth_TXY
    scale, worst = _range(truth_TXY), _worst(error_TXY)
    height = 1.6 * truth_TXY.shape[2] / truth_TXY.shape[1] + 0.9
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=dots_per_inch, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    row = figure.subplots(1, 3)
    fields = (truth_TXY, prediction_TXY, error_TXY)
    images = [
        _map(axes, field_TXY[0], colours, limits, dx)
        for axes, field_TXY, colours, limits in zip(
            row, fields, (_FIELD, _FIELD, _ERROR), (scale, scale, (-worst, worst)), strict=True
        )
    ]
    for axes, kind in zip(row, _KINDS, strict=True):
        axes.set_title(kind, fontsize=11, color=INK, loc="left")
    _bar(figure, images[1], list(row[:2]), below=True)
    _bar(figure, images[2], [row[2]], below=True)
    clock = figure.suptitle("t = 0", fontsize=11, color=INK, x=0.99, ha="right")
    drawn = []
    for frame in frames:
        for image, field_TXY in zip(images, fields, strict=True):
            image.set_data(field_TXY[frame].T)
        clock.set_text(f"t = {frame * dt:.3g}")
        canvas.draw()
        figure.set_layout_engine("none")  # laid out once: nothing may jump from frame to frame
        drawn.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette())
    first, *others = (_with_palette(image, palette) for image in drawn)
    stream = io.BytesIO()
    milliseconds = [3000 // len(frames)] * len(others) + [900]
    first.save(stream, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, optimize=False)
    return stream.getvalue()


def _with_palette(image: Image.Image, palette: Image.Image) -> Image.Image:
    """The picture in the colours of all frames, without dither: what does not move costs nothing then."""
    # Pillow takes the nearest colour of a coarse grid: the ground would be grey
    index = np.array(image.quantize(palette=palette, dither=Image.Dither.NONE))
    index[(np.asarray(image) == 255).all(axis=-1)] = 255
    found = Image.fromarray(index)
    found.putpalette(palette.getpalette() or [])
    return found


def _palette() -> list[int]:
    """The 256 colours of an animation: those of fields and of errors, and for letters from ink to white, the last."""
    ink, ground = (np.array(to_rgba(colour)) for colour in (INK, "white"))
    letters = ink + np.linspace(0, 1, 36)[:, None] * (ground - ink)
    colours = [colormaps[_FIELD](np.linspace(0, 1, 120)), colormaps[_ERROR](np.linspace(0, 1, 100)), letters]
    return [round(255 * value) for value in np.concatenate(colours)[:, :3].ravel()]


def _frames(count: int, wanted: int) -> NDArray[np.intp]:
    """So many frames of `count`, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(int))


def _map(axes: Axes, field_XY: NDArray[np.floating], colours: str, limits: tuple[float, float], dx: float) -> AxesImage:
    """One field seen from above, x to the right and y upwards, without ticks."""
    extent = (0.0, field_XY.shape[0] * dx, 0.0, field_XY.shape[1] * dx)
    image = axes.imshow(
        field_XY.T, origin="lower", extent=extent, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[])
    plain(axes)
    return image


def _bar(figure: Figure, image: AxesImage, axes: Sequence[Axes], *, below: bool = False) -> None:
    place = "bottom" if below else "right"
    bar = figure.colorbar(image, ax=axes, location=place, fraction=0.05, pad=0.02, aspect=28)
    bar.outline.set_visible(False)
    bar.ax.locator_params(nbins=4 if below and len(axes) == 1 else 5)
    bar.ax.tick_params(labelsize=9, colors=INK, length=0)


def _range(field: NDArray[np.floating]) -> tuple[float, float]:
    """Limits of the colours; never empty."""
    low, high = float(field.min()), float(field.max())
    return low, high if high > low else low + 1e-12


def _worst(error: NDArray[np.floating]) -> float:
    """The largest finite error; 1 where there is none to show."""
    worst = float(np.abs(error[np.isfinite(error)]).max(initial=0.0))
    return worst if worst > 0 else 1.0
