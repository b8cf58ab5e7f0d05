"""What a finished run looks like: its fields beside the truth, its error over time, its spectra.

B trajectories, T frames, X the cells of all axes, C channels, K shells of the spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ups.core import measures
from ups.core.errors import DataError, UserError
from ups.core.physics import EQUATIONS
from ups.core.types import Predictor, Status
from ups.data.task import Trajectories
from ups.evaluation import field_plots, plots
from ups.evaluation.evaluate import Report, batch_size
from ups.evaluation.metrics import BAND
from ups.evaluation.report import FILE_NAME, load_report, reference_curves
from ups.evaluation.rollout import Rollout, predict
from ups.evaluation.runs import load_result, task_of
from ups.inference.build import load_surrogate
from ups.pages.images import image

TRAJECTORIES = 8
"""test trajectories that are rolled out for the pictures"""
SECONDS = 5.0
"""fewer than `TRAJECTORIES`, but no fewer than three, where the report says that these would take longer"""
_BAND_FROM = 5
"""rollouts; quantiles of fewer say nothing"""


def pictures_of_run(run: Path) -> list[str]:
    """HTML <figure> elements of a finished run, from its checkpoint and its task's test split.

    A typical test trajectory (its error is the median) and the worst: truth, prediction and error with shared
    colours, snapshots, of fields in 2-D an animation; the error over time with a band over trajectories and the lines
    of those who know nothing; energy spectra. Of a steady task the fields alone. A few trajectories are rolled out,
    which takes seconds; everything else comes from report.json. Test trajectories are read.

    Raises:
        UserError: the run is unfinished or did not end well, its data is gone or changed, or its checkpoint is gone.
    """
    result = load_result(run)
    if result.status is not Status.COMPLETE:
        raise UserError(f"{run}: ended {result.status} ({result.reason}); only a run that is COMPLETE has pictures")
    try:
        surrogate, task = load_surrogate(run), task_of(run)
    except DataError as error:
        raise UserError(
            f"{run}: cannot be rolled out ({error}); put the file back, or run the command in the folder that the "
            "run was trained in"
        ) from None
    report = load_report(run / FILE_NAME) if (run / FILE_NAME).is_file() else None
    if report is not None and report.protocol.get("data") != task.fingerprint:
        report = None
    return pictures(surrogate, task.test, report)


def pictures(predictor: Predictor, test: Trajectories, report: Report | None) -> list[str]:
    """The same of any predictor on these trajectories; `report`, if there is one, is about just these."""
    chosen, known_B = _choose(test, report)
    rollouts = predict(predictor, test, chosen)
    order = sorted(range(len(chosen)), key=lambda at: known_B[at] if known_B else rollouts[at].nrmse)
    typical, worst = order[(len(order) - 1) // 2], order[-1]
    steady = EQUATIONS[predictor.spec.equation].steady
    kind = "test sample" if steady else "test trajectory"
    of = "" if known_B else f" of {len(chosen)}"
    figures = _fields(f"Typical {kind}{of} (number {chosen[typical]})", rollouts[typical], whole=True)
    if worst != typical:
        figures += _fields(f"Worst {kind}{of} (number {chosen[worst]})", rollouts[worst], whole=False)
    return figures if steady else [*figures, _error_over_time(rollouts, report), *_spectra(rollouts[typical])]


def _choose(test: Trajectories, report: Report | None) -> tuple[list[int], list[float]]:
    """Numbers of the trajectories to roll out, and their recorded errors where there are some.

    By rank of the error, evenly from the best to the worst, the middle one among them.
    """
    most = min(TRAJECTORIES, len(test), batch_size(test.fields_STXC.shape[1:]))
    errors_S = report.trajectory_nrmse if report is not None else ()
    if report is None or len(errors_S) != len(test):
        return np.unique(np.linspace(0, len(test) - 1, most).round().astype(int)).tolist(), []
    seconds = report.cost.get("rollout_seconds", 0.0)
    count = most if seconds * most <= SECONDS else max(min(most, 3), int(SECONDS / seconds))
    count -= count % 2 == 0 and count > 2  # an odd number of ranks has the median in its middle
    ranks = np.unique(np.linspace(len(test) - 1, 0, count).round().astype(int))
    chosen = np.argsort(errors_S)[ranks].tolist()
    return chosen, [errors_S[number] for number in chosen]


def _fields(name: str, rollout: Rollout, *, whole: bool) -> list[str]:
    """Pictures of the fields of one trajectory; `whole`: every channel, with snapshots or an animation."""
    spec, truth_TXC, prediction_TXC = rollout.spec, rollout.truth_TXC, rollout.prediction_TXC
    equation = EQUATIONS[spec.equation]
    told = ", ".join(f"{name} = {value:.3g}" for name, value in rollout.parameters.items())
    if equation.steady:
        figure = field_plots.steady_maps(
            truth_TXC[0], truth_TXC[1], prediction_TXC[1], channels=equation.channels, dx=spec.dx
        )
        return [image(name, f"{_numbers(rollout, None)} {told}.", plots.png(figure))]
    error_C = np.array([_nrmse(rollout, channel) for channel in range(spec.channels)])
    # one that is not finite is the hardest
    hardest = int(np.argmax(np.where(np.isfinite(error_C), error_C, np.inf)))
    shown = []
    for channel in range(spec.channels) if whole else [hardest]:
        label = f", {equation.channels[channel]}" if spec.channels > 1 else ""
        truth_TX, prediction_TX = truth_TXC[..., channel], prediction_TXC[..., channel]
        said = f"{_numbers(rollout, channel)} {told}."
        if spec.axes == 1:
            figure = field_plots.space_time(truth_TX, prediction_TX, dt=spec.dt, length=spec.length)
            shown.append(image(f"{name}{label}", said, plots.png(figure)))
            figure = field_plots.snapshots(truth_TX, prediction_TX, dt=spec.dt, length=spec.length)
            shown.append(image(f"{name}{label}: snapshots", _at_snapshots(rollout, channel), plots.png(figure)))
            continue
        figure = field_plots.maps_over_time(
            truth_TX[..., None], prediction_TX[..., None], channels=("",), dt=spec.dt, dx=spec.dx, columns=3
        )
        shown.append(image(f"{name}{label}", said, plots.png(figure)))
        if whole and channel == hardest:
            moving = field_plots.animation(truth_TX, prediction_TX, dt=spec.dt, dx=spec.dx)
            shown.append(image(f"{name}{label}: animation", said, moving, "gif"))
    return shown


def _numbers(rollout: Rollout, channel: int | None) -> str:
    """What is seen, in numbers: the ranges, the error and where it is largest."""
    part = slice(None) if channel is None else slice(channel, channel + 1)
    truth_TXC, prediction_TXC = rollout.truth_TXC[1:, ..., part], rollout.prediction_TXC[1:, ..., part]
    error_TXC = np.abs(prediction_TXC - truth_TXC)
    nrmse = rollout.nrmse if channel is None else _nrmse(rollout, channel)
    said = f"nRMSE {_short(nrmse)}. The truth lies between {truth_TXC.min():.3g} and {truth_TXC.max():.3g}"
    if not np.isfinite(prediction_TXC).all():
        first = int(np.flatnonzero(~np.isfinite(prediction_TXC).reshape(len(prediction_TXC), -1).all(axis=1))[0])
        return f"{said}; the prediction is not finite from t = {(first + 1) * rollout.spec.dt:.3g} on."
    said += f", the prediction between {prediction_TXC.min():.3g} and {prediction_TXC.max():.3g}; "
    said += f"the largest error is {error_TXC.max():.3g}"
    if EQUATIONS[rollout.spec.equation].steady:
        return said + "."
    worst = int(error_TXC.reshape(len(error_TXC), -1).max(axis=1).argmax())
    return f"{said}, at t = {(worst + 1) * rollout.spec.dt:.3g}."


def _at_snapshots(rollout: Rollout, channel: int) -> str:
    frames = field_plots.snapshot_frames(len(rollout.truth_TXC))
    errors = (f"{_short(_nrmse(rollout, channel, [at]))} at t = {at * rollout.spec.dt:.3g}" for at in frames)
    return f"Truth and prediction over space; nRMSE {', '.join(errors)}."


def _nrmse(rollout: Rollout, channel: int, frames: Sequence[int] | slice = slice(1, None)) -> float:
    """Of one channel over these frames, by default all that are predicted."""
    pair = (each[frames][None, ..., channel : channel + 1] for each in (rollout.prediction_TXC, rollout.truth_TXC))
    return measures.rollout_nrmse(*(torch.from_numpy(np.ascontiguousarray(each)) for each in pair))


def _error_over_time(rollouts: Sequence[Rollout], report: Report | None) -> str:
    """Mean error of each frame with a band over trajectories, and the lines of the report."""
    quantiles = f"{BAND[0]:.0%} and {BAND[1]:.0%} quantiles"
    curves: Mapping[str, Sequence[float]] = _curves(rollouts)
    whose = of = f"{len(rollouts)} test trajectories"
    if report is not None:
        whose = f"{report.protocol['trajectories']} test trajectories"
        of = whose if "nrmse_low" in report.curves else of
        curves = {**curves, **report.curves}
    spec = rollouts[0].spec
    time = [spec.dt * step for step in range(1, len(rollouts[0].truth_TXC))]
    said = (
        f"Mean nRMSE over {whose}: {_short(curves['nrmse'][0])} at t = {time[0]:.3g}, "
        f"{_short(curves['nrmse'][-1])} at t = {time[-1]:.3g}."
    )
    bands = {}
    if of == whose or len(rollouts) >= _BAND_FROM:
        bands["this run"] = curves["nrmse_low"], curves["nrmse_high"]
        ends = f"{_short(curves['nrmse_low'][-1])} to {_short(curves['nrmse_high'][-1])}"
        said += f" The band lies between the {quantiles} of {of}, in the end {ends}."
    lines = reference_curves(report) if report is not None else {}
    if lines:
        said += f" At the end: {', '.join(f'{name} {_short(values[-1])}' for name, values in lines.items())}."
    figure = plots.error_over_time({"this run": curves["nrmse"]}, lines, time, bands=bands)
    return image("Error over time", said, plots.png(figure))


def _curves(rollouts: Sequence[Rollout]) -> dict[str, list[float]]:
    """Mean and quantiles over the rollouts of the error of each predicted frame."""
    prediction_BTXC = torch.from_numpy(np.stack([rollout.prediction_TXC[1:] for rollout in rollouts]))
    truth_BTXC = torch.from_numpy(np.stack([rollout.truth_TXC[1:] for rollout in rollouts]))
    nrmse_BT = measures.nrmse(prediction_BTXC, truth_BTXC).mean(dim=-1).nan_to_num(nan=math.inf).numpy()
    low_T, high_T = np.quantile(nrmse_BT, BAND, axis=0, method="nearest")
    return {"nrmse": nrmse_BT.mean(axis=0).tolist(), "nrmse_low": low_T.tolist(), "nrmse_high": high_T.tolist()}


def _spectra(typical: Rollout) -> list[str]:
    """Energy spectra of truth and prediction, one figure for each channel; none of a rollout that is not finite.

    Of the typical trajectory: in a mean over few, the worst one hides all others.
    """
    if not np.isfinite(typical.prediction_TXC).all():
        return []
    spec, last = typical.spec, len(typical.truth_TXC) - 1
    frames = sorted({(last + 1) // 2, last})
    truth_FKC, prediction_FKC = (
        measures.energy_spectrum(torch.from_numpy(fields_TXC[None, frames]), spec.boundary)[0].numpy()
        for fields_TXC in (typical.truth_TXC, typical.prediction_TXC)
    )
    periodic = spec.boundary == "periodic"
    waves_K = np.arange(1, truth_FKC.shape[1]) * (1.0 if periodic else 0.5)
    label = "waves in the domain" if periodic else "waves in the domain (half-waves between walls)"
    shown = []
    for channel, name in enumerate(EQUATIONS[spec.equation].channels):
        truth_FK, prediction_FK = truth_FKC[:, 1:, channel], prediction_FKC[:, 1:, channel]
        names = [f"t = {frame * spec.dt:.3g}" for frame in frames]
        figure = plots.spectra(waves_K, truth_FK, prediction_FK, names, label=label)
        share = float(prediction_FK[-1].sum() / max(truth_FK[-1].sum(), np.finfo(float).tiny))
        off = np.flatnonzero(
            np.abs(np.log2(np.maximum(prediction_FK[-1], 1e-300) / np.maximum(truth_FK[-1], 1e-300))) > 1
        )
        said = (
            f"Of the typical test trajectory; the mean of the field is left out. At {names[-1]} the prediction holds "
            f"{share:.3g} times the energy of the truth, and "
        )
        said += (
            f"first differs from it by more than a factor of two at {waves_K[off[0]]:g} waves."
            if len(off)
            else "is within a factor of two of it at every wavenumber."
        )
        more = f", {name}" if spec.channels > 1 else ""
        shown.append(image(f"Energy spectrum{more}", said, plots.png(figure)))
    return shown


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"
