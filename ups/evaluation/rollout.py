"""One predicted trajectory, as a picture or as a file. T frames, X the cells of all axes, C channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from ups.core.errors import UserError
from ups.core.measures import rollout_nrmse
from ups.core.physics import EQUATIONS
from ups.core.runtime import write_atomic
from ups.core.types import FieldSpec, Predictor
from ups.data.pdebench import write_fields
from ups.data.task import Trajectories
from ups.evaluation import plots


@dataclass(frozen=True)
class Rollout:
    """A prediction beside the truth; frame 0 of both is the given one, in steady tasks the coefficient."""

    spec: FieldSpec
    parameters: dict[str, float]
    prediction_TXC: NDArray[np.float32]
    truth_TXC: NDArray[np.float32]
    nrmse: float
    """over the predicted frames"""


def predict_one(predictor: Predictor, trajectories: Trajectories, index: int) -> Rollout:
    """Predict trajectory `index` from its first frame.

    Raises:
        UserError: there is no such trajectory.
    """
    if not 0 <= index < len(trajectories):
        raise UserError(f"--trajectory: must be between 0 and {len(trajectories) - 1}, got {index}")
    truth_TXC = np.array(trajectories.fields_STXC[index], dtype=np.float32)
    given_1XC = torch.from_numpy(truth_TXC[:1])
    parameters_1P = torch.tensor(trajectories.parameters_SP[index : index + 1], dtype=torch.float32)
    with torch.no_grad():
        predicted = predictor.rollout(given_1XC, parameters_1P, len(truth_TXC) - 1).float().cpu()
    return Rollout(
        spec=predictor.spec,
        parameters=dict(zip(predictor.spec.parameter_names, parameters_1P[0].tolist(), strict=True)),
        prediction_TXC=torch.cat([given_1XC, predicted[0]]).numpy(),
        truth_TXC=truth_TXC,
        nrmse=rollout_nrmse(predicted, torch.from_numpy(truth_TXC[None, 1:])),
    )


def save_picture(rollout: Rollout, path: Path, *, title: str) -> None:
    """Truth, prediction and error as a PNG: over space and time in 1-D (first channel), as maps in 2-D."""
    spec, truth_TXC, prediction_TXC = rollout.spec, rollout.truth_TXC, rollout.prediction_TXC
    equation = EQUATIONS[spec.equation]
    title = f"{title}, nRMSE {rollout.nrmse:.3g}"
    if spec.axes == 1:
        figure = plots.space_time(
            truth_TXC[..., 0], prediction_TXC[..., 0], dt=spec.dt, length=spec.length, title=title
        )
    elif equation.steady:
        given_XC, solution_XC = truth_TXC
        figure = plots.steady_maps(
            given_XC, solution_XC, prediction_TXC[1], channels=equation.channels, dx=spec.dx, title=title
        )
    else:
        figure = plots.maps_over_time(
            truth_TXC, prediction_TXC, channels=equation.channels, dt=spec.dt, dx=spec.dx, title=title
        )
    write_atomic(path, plots.png(figure))


def save_fields(rollout: Rollout, path: Path, *, title: str) -> None:
    """The prediction as a file of one trajectory in the layout of its family, with the truth as a dataset beside it.

    `truth` is (1, T, X, C), of fields with one channel (1, T, X); of steady tasks the solution alone, T = 1.
    """
    spec = rollout.spec
    write_fields(
        path,
        spec.equation,
        rollout.prediction_TXC[None],
        dt=spec.dt,
        length=spec.length,
        boundary=spec.boundary,
        **{name: float(f"{value:.6g}") for name, value in rollout.parameters.items()},
    )
    truth_TXC = rollout.truth_TXC[1:] if EQUATIONS[spec.equation].steady else rollout.truth_TXC
    with h5py.File(path, "a") as file:
        file["truth"] = truth_TXC[None, ..., 0] if spec.channels == 1 else truth_TXC[None]
        file.attrs["title"] = title
