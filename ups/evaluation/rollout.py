"""One predicted trajectory, as a picture or as a file. T frames, X cells, C channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ups.core.errors import UserError
from ups.core.measures import rollout_nrmse
from ups.core.runtime import write_atomic
from ups.core.types import FieldSpec, Predictor
from ups.data.pdebench import tensor_file
from ups.data.task import Trajectories
from ups.evaluation import plots


@dataclass(frozen=True)
class Rollout:
    """A prediction beside the truth; frame 0 of both is the given one."""

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
    """Truth, prediction and error over space and time (first channel) as a PNG."""
    figure = plots.space_time(
        rollout.truth_TXC[..., 0],
        rollout.prediction_TXC[..., 0],
        dt=rollout.spec.dt,
        length=rollout.spec.length,
        title=f"{title}, nRMSE {rollout.nrmse:.3g}",
    )
    write_atomic(path, plots.png(figure))


def save_fields(rollout: Rollout, path: Path, *, title: str) -> None:
    """The prediction as a PDEBench-format file of one trajectory, with the truth as the dataset `truth`."""
    frames, cells, _ = rollout.prediction_TXC.shape
    attributes = {name: float(f"{value:.6g}") for name, value in rollout.parameters.items()}
    with tensor_file(
        path,
        (1, frames, cells),
        dt=rollout.spec.dt,
        length=rollout.spec.length,
        attributes={**attributes, "equation": rollout.spec.equation, "title": title},
    ) as tensor:
        tensor[0] = rollout.prediction_TXC[..., 0]
        tensor.file["truth"] = rollout.truth_TXC[None, ..., 0]
