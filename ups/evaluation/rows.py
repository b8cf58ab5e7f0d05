"""The rows of a report: one predictor under one protocol each. B batch, T frames, X all spatial axes, C channels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ups.baselines.coarse_solver import Array64, CoarseSolver, Solve
from ups.baselines.persistence import InitialMean, MeanSolution, Persistence
from ups.core.physics import EQUATIONS
from ups.core.types import FieldSpec, Predictor
from ups.data.generators.advection import solve_advection
from ups.data.generators.burgers import solve_burgers
from ups.data.generators.reaction_diffusion import solve_reaction_diffusion
from ups.data.normalization import Normalizer
from ups.evaluation.metrics import Metrics

PDEBENCH_GIVEN = 10
"""given frames of PDEBench's protocol; a predictor of one frame starts from the last of them"""
COARSENING = 4
"""cells of the task per cell of the coarse solver"""


def _solve_reaction_diffusion(
    initial_SX: Array64, nu: float, rho: float, dt: float, frames: int, *, length: float
) -> Array64:
    # single precision leaves zeros of a file's field slightly below, where the equation has no solution
    return solve_reaction_diffusion(np.maximum(initial_SX, 0.0), nu, rho, dt, frames, length=length)


_SOLVERS: dict[str, Solve] = {
    "burgers": solve_burgers,
    "advection": solve_advection,
    "reaction_diffusion": _solve_reaction_diffusion,
}
"""of periodic fields with one axis and one channel"""


@dataclass
class Row:
    """One predictor under one protocol, and what was measured of it so far."""

    name: str
    predictor: Predictor
    mode: str | None = None
    start: int = 0
    """index of the given frame"""
    one_step: bool = False
    metrics: Metrics = field(init=False)
    seconds: float = 0.0
    trajectories: int = 0

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.predictor.spec.dt)

    @property
    def seconds_per_trajectory(self) -> float:
        return self.seconds / self.trajectories

    def add(self, fields_BTXC: Tensor, parameters_BP: Tensor) -> None:
        """Predict one batch of physical fields on the predictor's device and measure it on the CPU."""
        device = _device(self.predictor)
        fields_BTXC, parameters_BP = fields_BTXC[:, self.start :].to(device), parameters_BP.to(device)
        predict = self._one_step if self.one_step else self._rollout
        if not self.trajectories:  # compiling kernels is not the cost of a trajectory
            self._rollout(fields_BTXC[:1, :2], parameters_BP[:1])
        begin = time.perf_counter()
        prediction_BTXC = predict(fields_BTXC, parameters_BP).float().cpu()
        self.seconds += time.perf_counter() - begin
        self.trajectories += len(fields_BTXC)
        self.metrics.add(prediction_BTXC, fields_BTXC[:, 1:].cpu())

    @torch.no_grad()
    def _rollout(self, fields_BTXC: Tensor, parameters_BP: Tensor) -> Tensor:
        return self.predictor.rollout(fields_BTXC[:, 0], parameters_BP, fields_BTXC.shape[1] - 1, self.mode)

    @torch.no_grad()
    def _one_step(self, fields_BTXC: Tensor, parameters_BP: Tensor) -> Tensor:
        """Every frame but the first, each predicted from the true frame before it."""
        steps = range(fields_BTXC.shape[1] - 1)
        return torch.cat([self.predictor.rollout(fields_BTXC[:, t], parameters_BP, 1, self.mode) for t in steps], dim=1)


def rows_of(predictor: Predictor, frames: int, normalizer: Normalizer | None) -> Iterator[Row]:
    """What is measured of a predictor on trajectories of so many frames, and of those who know nothing.

    A steady task has one step, from a coefficient to its solution: there is no rollout to tell from it, and
    persistence would compare two different quantities.
    """
    spec = predictor.spec
    known = untrained(spec, normalizer)
    yield Row("rollout", predictor)
    yield Row("mean_rollout", known["mean_rollout"])
    if EQUATIONS[spec.equation].steady:
        return
    yield Row("one_step", predictor, one_step=True)
    if getattr(predictor, "search", None) is not None:
        # a mode that is named is rolled out without the search
        yield Row("plain_rollout", predictor, mode=predictor.inference.rollout)  # type: ignore[attr-defined]
    if getattr(predictor, "has_latent", False):
        yield Row("latent_rollout", predictor, mode="latent")
        yield Row("reencode_rollout", predictor, mode="reencode")
    if frames > PDEBENCH_GIVEN:
        yield Row("pdebench_rollout", predictor, start=PDEBENCH_GIVEN - 1)
    yield Row("persistence_rollout", known["persistence_rollout"])
    yield Row("persistence_one_step", known["persistence_rollout"], one_step=True)
    if "coarse_solver_rollout" in known:
        yield Row("coarse_solver_rollout", known["coarse_solver_rollout"])


def untrained(spec: FieldSpec, normalizer: Normalizer | None = None) -> dict[str, Predictor]:
    """Those that need no training, by the names of their rows; only some equations have a coarse solver.

    Args:
        normalizer: of the training split; only steady tasks need it.
    """
    found: dict[str, Predictor] = {"mean_rollout": no_skill(spec, normalizer)}
    if EQUATIONS[spec.equation].steady:
        return found
    found["persistence_rollout"] = Persistence(spec)
    if spec.equation in _SOLVERS and spec.boundary == "periodic":
        found["coarse_solver_rollout"] = CoarseSolver(spec, coarse_cells(spec), _SOLVERS[spec.equation])
    return found


def no_skill(spec: FieldSpec, normalizer: Normalizer | None) -> Predictor:
    """The predictor that skill is measured against: the initial mean, or the mean solution of a steady task.

    Args:
        normalizer: of the training split; only steady tasks need it.
    """
    if not EQUATIONS[spec.equation].steady:
        return InitialMean(spec)
    assert normalizer is not None, "the mean solution of the training split is not known"
    return MeanSolution(spec, normalizer.mean)


def coarse_cells(spec: FieldSpec) -> int:
    """Cells of the coarse solver's grid."""
    cells = spec.cells[0]
    return cells // COARSENING if cells % COARSENING == 0 else cells


def _device(predictor: Predictor) -> torch.device:
    if isinstance(predictor, nn.Module):
        for tensor in (*predictor.parameters(), *predictor.buffers()):
            return tensor.device
    return torch.device("cpu")
