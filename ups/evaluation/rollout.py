"""One predicted trajectory, as a picture or as a file. T frames, X the cells of all axes, C channels."""

from __future__ import annotations

from collections.abc import Sequence
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
from ups.evaluation import field_plots, plots


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
    return predict(predictor, trajectories, [index])[0]


def predict(predictor: Predictor, trajectories: Trajectories, indices: Sequence[int]) -> list[Rollout]:
    """Predict these trajectories from their first frames, all at once."""
    truth_BTXC = np.array(trajectories.fields_STXC[list(indices)], dtype=np.float32)
    given_BXC = torch.from_numpy(truth_BTXC[:, 0])
    parameters_BP = torch.tensor(trajectories.parameters_SP[list(indices)], dtype=torch.float32)
    with torch.no_grad():
        predicted_BTXC = predictor.rollout(given_BXC, parameters_BP, truth_BTXC.shape[1] - 1).float().cpu()
    names = predictor.spec.parameter_names
    return [
        Rollout(
            spec=predictor.spec,
            parameters=dict(zip(names, parameters_P.tolist(), strict=True)),
            prediction_TXC=np.concatenate([truth_TXC[:1], predicted_TXC.numpy()]),
            truth_TXC=truth_TXC,
            nrmse=rollout_nrmse(predicted_TXC[None], torch.from_numpy(truth_TXC[None, 1:])),
        )
        for truth_TXC, predicted_TXC, parameters_P in zip(truth_BTXC, predicted_BTXC, parameters_BP, strict=True)
    ]


def save_picture(rollout: Rollout, path: Path, *, title: str) -> None:
    """Truth, prediction and error as a PNG: over space and time in 1-D (first channel), as maps in 2-D."""
    spec, truth_TXC, prediction_TXC = rollout.spec, rollout.truth_TXC, rollout.prediction_TXC
    equation = EQUATIONS[spec.equation]
    title = f"{title}, nRMSE {rollout.nrmse:.3g}"
    if spec.axes == 1:
        figure = field_plots.space_time(
            truth_TXC[..., 0], prediction_TXC[..., 0], dt=spec.dt, length=spec.length, title=title
        )
    elif equation.steady:
        given_XC, solution_XC = truth_TXC
        figure = field_plots.steady_maps(
            given_XC, solution_XC, prediction_TXC[1], channels=equation.channels, dx=spec.dx, title=title
        )
    else:
        figure = field_plots.maps_over_time(
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
