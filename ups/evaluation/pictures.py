"""What a finished run looks like: its fields beside the truth, its error over time, its spectra.

B trajectories, T frames, X the cells of all axes, C channels, K shells of the spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups.core import measures
from ups.core.errors import DataError, UserError
from ups.core.physics import EQUATIONS
from ups.core.types import FieldSpec, Predictor, Status
from ups.data.task import Trajectories
from ups.evaluation import field_plots, plots
from ups.evaluation.beside import Beside, Errors, Measured, beside_table, error_over_time
from ups.evaluation.evaluate import Report, batch_size
from ups.evaluation.metrics import Metrics
from ups.evaluation.report import FILE_NAME, is_steady, load_report, reference_curves
from ups.evaluation.rollout import Rollout, predict
from ups.evaluation.rows import Row, untrained
from ups.evaluation.runs import load_result, task_of
from ups.inference.build import load_surrogate
from ups.pages.images import image
from ups.pages.page import gallery, remark

TRAJECTORIES = 8
"""trajectories that are rolled out for the pictures"""
SECONDS = 5.0
"""fewer than `TRAJECTORIES`, but no fewer than three, where it is known that these would take longer"""
_BAND_FROM = 5
"""rollouts; quantiles of fewer say nothing"""


@dataclass(frozen=True)
class Pictures:
    """What a run looks like, as parts of a page."""

    figures: list[str]
    """HTML <figure> elements"""
    below: str = ""
    """HTML: the table of whoever stands beside it, and remarks"""

    @property
    def html(self) -> str:
        return gallery(self.figures) + self.below


def pictures_of_run(run: Path, split: str, *, name: str = "this run", beside: Sequence[Beside] = ()) -> Pictures:
    """Pictures of a finished run, from its checkpoint and one part of its task's data.

    A typical trajectory (its error is the median) and the worst: truth, prediction and error with shared colours,
    snapshots, of fields in 2-D an animation; the error over time with a band over trajectories and the lines of those
    who know nothing and of those beside it; energy spectra. Of a steady task the fields alone. A few trajectories are
    rolled out, which takes seconds; everything else comes from report.json if that is about the same part of the data,
    and else from these few. Without weights or data the errors of such a report are drawn alone. No other part of the
    data is looked at.

    Args:
        split: `test` or `validation`.
        name: what the run is called in figures and tables.
        beside: runs of the same task, see `load_beside`.

    Raises:
        UserError: the run is unfinished or did not end well; or there is no report on this part of the data, and its
            data is gone or changed, or its checkpoint is gone.
    """
    report = load_report(run / FILE_NAME) if (run / FILE_NAME).is_file() else None
    if report is not None and (report.protocol.get("split") != split or (beside and split != "test")):
        report = None  # of those beside it there are reports on test alone
    try:
        result = load_result(run)
        if result.status is not Status.COMPLETE:
            raise UserError(f"{run}: ended {result.status} ({result.reason}); only a run that is COMPLETE has pictures")
        surrogate, task = load_surrogate(run), task_of(run)
    except UserError as error:
        told = str(error)
        if isinstance(error, DataError):
            told = (
                f"{run}: cannot be rolled out ({error}); put the file back, or run the command in the folder that the "
                "run was trained in"
            )
        if report is None:
            raise UserError(told) from None
        errors = Errors.of_reports(name, report, beside)
        figures = [] if is_steady(report) else [error_over_time(errors)]
        return Pictures(figures, beside_table(errors) + remark(f"Its fields cannot be drawn. {told}."))
    if report is not None and report.protocol.get("data") != task.fingerprint:
        report = None
    trajectories = getattr(task, split)
    step_ms = result.inference_ms or 0.0
    return pictures(surrogate, trajectories, report, split=split, name=name, beside=beside, step_ms=step_ms)


def pictures(
    predictor: Predictor,
    trajectories: Trajectories,
    report: Report | None,
    *,
    split: str = "test",
    name: str = "this run",
    beside: Sequence[Beside] = (),
    step_ms: float = 0.0,
) -> Pictures:
    """The same of any predictor on these trajectories; `report`, if there is one, is about just these.

    Args:
        split: of `trajectories`.
        step_ms: about what a step of one trajectory takes, for when no report tells it.
    """
    spec = predictor.spec
    steady = EQUATIONS[spec.equation].steady
    peers, lost = ({}, "") if report is not None else _load_peers(beside, spec)
    if report is not None:
        seconds = report.cost.get("rollout_seconds", 0.0)
    else:
        step_ms += sum(load_result(each.run).inference_ms or 0.0 for each in beside if each.name in peers)
        seconds = step_ms / 1000 * (trajectories.fields_STXC.shape[1] - 1)
    chosen, known_B = _choose(trajectories, report, seconds)
    rollouts = predict(predictor, trajectories, chosen)
    order = sorted(range(len(chosen)), key=lambda at: known_B[at] if known_B else rollouts[at].nrmse)
    typical, worst = order[(len(order) - 1) // 2], order[-1]
    kind = f"{split} {'sample' if steady else 'trajectory'}"
    of = "" if known_B else f" of {len(chosen)}"
    figures = _fields(f"Typical {kind}{of} (number {chosen[typical]})", rollouts[typical], whole=True)
    if worst != typical:
        figures += _fields(f"Worst {kind}{of} (number {chosen[worst]})", rollouts[worst], whole=False)
    if report is not None:
        errors = Errors.of_reports(name, report, beside)
    else:
        of_peers = {each: (peer, predict(peer, trajectories, chosen)) for each, peer in peers.items()}
        errors = _errors_of({name: (predictor, rollouts), **of_peers}, split, len(trajectories))
    if not steady:
        figures += [error_over_time(errors), *_spectra(rollouts[typical], kind)]
    return Pictures(figures, beside_table(errors) + lost)


def _load_peers(beside: Sequence[Beside], spec: FieldSpec) -> tuple[dict[str, Predictor], str]:
    """Those that can be rolled out, by name, and a remark on each of the others."""
    peers, lost = dict[str, Predictor](), ""
    for each in beside:
        try:
            peer = load_surrogate(each.run)
        except DataError as error:
            lost += remark(f"{each.name} is not shown: {error}.")
            continue
        if peer.spec == spec:
            peers[each.name] = peer
        else:
            lost += remark(f"{each.name} is not shown: its weights are of another task than its report.")
    return peers, lost


def _errors_of(rolled: Mapping[str, tuple[Predictor, Sequence[Rollout]]], split: str, available: int) -> Errors:
    """Of predictors on the same few of so many trajectories, and of those who know nothing on these."""
    first = next(iter(rolled.values()))[1]
    spec, steady = first[0].spec, EQUATIONS[first[0].spec.equation].steady
    models = []
    for name, (predictor, rollouts) in rolled.items():
        metrics = Metrics(spec.dt)
        metrics.add(
            _stacked([each.prediction_TXC[1:] for each in rollouts]),
            _stacked([each.truth_TXC[1:] for each in rollouts]),
        )
        scores = metrics.scores()
        # quantiles of a few say nothing
        curves = {key: values for key, values in scores.curves.items() if key == "nrmse" or len(rollouts) >= _BAND_FROM}
        models.append(Measured(name, scores.values["nrmse"], curves, getattr(predictor, "num_parameters", None)))
    references = {} if steady else _untrained_curves(first)
    count = str(len(first)) if len(first) == available else f"{len(first)} of {available}"
    whose = f"{count} {split} {'samples' if steady else 'trajectories'}"
    time = [spec.dt * step for step in range(1, len(first[0].truth_TXC))]
    return Errors(models, references, time, split, whose)


def _untrained_curves(rollouts: Sequence[Rollout]) -> dict[str, list[float]]:
    """Error of each frame of those who know nothing, on the trajectories of these rollouts."""
    truth_BTXC = _stacked([each.truth_TXC for each in rollouts])
    parameters_BP = torch.tensor([list(each.parameters.values()) for each in rollouts])
    curves = {}
    for name, predictor in untrained(rollouts[0].spec).items():
        row = Row(name, predictor)
        row.add(truth_BTXC, parameters_BP)
        curves[f"{name}_nrmse"] = row.metrics.scores().curves["nrmse"]
    return reference_curves(curves)


def _choose(trajectories: Trajectories, report: Report | None, seconds: float) -> tuple[list[int], list[float]]:
    """Numbers of the trajectories to roll out, and their recorded errors where there are some.

    By rank of the error, evenly from the best to the worst, the middle one among them; without a report evenly by
    number.

    Args:
        seconds: that each takes.
    """
    available = len(trajectories)
    most = min(TRAJECTORIES, available, batch_size(trajectories.fields_STXC.shape[1:]))
    count = most if seconds * most <= SECONDS else max(min(most, 3), int(SECONDS / seconds))
    errors_S = report.trajectory_nrmse if report is not None else ()
    if len(errors_S) != available:
        return np.unique(np.linspace(0, available - 1, count).round().astype(int)).tolist(), []
    count -= count % 2 == 0 and count > 2  # an odd number of ranks has the median in its middle
    ranks = np.unique(np.linspace(available - 1, 0, count).round().astype(int))
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


def _spectra(typical: Rollout, kind: str) -> list[str]:
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
            f"Of the typical {kind}; the mean of the field is left out. At {names[-1]} the prediction holds "
            f"{share:.3g} times the energy of the truth, and "
        )
        said += (
            f"first differs from it by more than a factor of two at the wavenumber {waves_K[off[0]]:g}."
            if len(off)
            else "is within a factor of two of it at every wavenumber."
        )
        more = f", {name}" if spec.channels > 1 else ""
        shown.append(image(f"Energy spectrum{more}", said, plots.png(figure)))
    return shown


def _stacked(fields: Sequence[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(fields))


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"
