"""Predictors whose scores are known, and small tasks."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch

from ups.core.errors import UserError
from ups.core.types import FieldSpec
from ups.data.generators import solve_burgers
from ups.data.normalization import Normalizer
from ups.data.task import Trajectories

NU = 0.05


def spec_of(cells=32, dt=0.1, equation="burgers", parameter="nu"):
    return FieldSpec(equation, (cells,), 1, 1.0, dt, (parameter,))


def smooth_fields(samples=3, cells=32, frames=13, dt=0.1, nu=NU, seed=0):
    """Burgers trajectories (S, T, X) from a few waves, solved on four times the cells."""
    random = np.random.default_rng(seed)
    x = (np.arange(4 * cells) + 0.5) / (4 * cells)
    amplitude, phase = random.uniform(0.2, 1, (2, samples, 3, 1))
    waves = amplitude * np.sin(2 * np.pi * (np.arange(1, 4)[:, None] * x + phase))
    fields = solve_burgers(waves.sum(axis=1) + 0.3, nu, dt, frames)
    return fields.reshape(samples, frames, cells, 4).mean(axis=-1)


def trajectories_of(fields_STX, dt=0.1, parameter=NU, files=1):
    samples = len(fields_STX)
    return Trajectories(
        fields_STXC=fields_STX[..., None].astype(np.float32),
        parameters_SP=np.full((samples, 1), parameter, np.float32),
        file_S=np.arange(samples) * files // samples,
        dt=dt,
    )


def task_of(trajectories, files=("a.h5",), spec=None, mean=(0.0,)):
    config = SimpleNamespace(files=files, split_seed=7)
    return SimpleNamespace(
        config=config,
        spec=spec or spec_of(),
        test=trajectories,
        validation=trajectories,
        fingerprint="f00d",
        normalizer=Normalizer(mean, (1.0,) * len(mean)),
    )


FLOW = FieldSpec("navier_stokes", (16, 12), 3, 2.0, 0.25, ("nu",))
DARCY = FieldSpec("darcy", (16, 16), 1, 1.0, 1.0, ("beta",), "dirichlet")


def flow_fields(samples=3, frames=5, cells=(16, 12), seed=0):
    """Travelling waves with three channels of different size, (S, T, X, Y, 3)."""
    random = np.random.default_rng(seed)
    x, y = (np.arange(n) / n for n in cells)
    time = np.arange(frames)
    phase, speed = random.uniform(0, 1, (2, samples, 1, 1, 1, 3))
    waves = np.array([1, 2, 1]) * x[:, None, None] + np.array([1, 1, 2]) * y[:, None]
    field = np.sin(2 * np.pi * (waves + phase + speed * time[:, None, None, None]))
    return ((field + 0.2) * np.array([1.0, 10.0, 0.1])).astype(np.float32)


def darcy_fields(samples=4, cells=16, seed=0):
    """A coefficient of two values and a bump in its stead for the solution, (S, 2, X, Y, 1)."""
    random = np.random.default_rng(seed)
    x = (np.arange(cells) + 0.5) / cells
    bump = np.sin(np.pi * x)[:, None] * np.sin(np.pi * x)
    angle = random.uniform(0, 2 * np.pi, (samples, 1, 1))
    given = np.where(np.cos(angle) * (x[:, None] - 0.5) + np.sin(angle) * (x - 0.5) > 0, 1.0, 0.1)
    solution = random.uniform(0.5, 1.5, (samples, 1, 1)) * bump
    return np.stack([given, solution], axis=1)[..., None].astype(np.float32)


def trajectories_in(spec, fields_STXC, parameter=1.0, file_S=None):
    samples = len(fields_STXC)
    return Trajectories(
        fields_STXC=fields_STXC,
        parameters_SP=np.full((samples, len(spec.parameter_names)), parameter, np.float32),
        file_S=np.zeros(samples, np.int64) if file_S is None else file_S,
        dt=spec.dt,
    )


@dataclass
class Known:
    """Knows the trajectories (S, T, X.., C) of any number of axes and returns what follows, times `factor`."""

    spec: FieldSpec
    fields_STXC: np.ndarray
    factor: float | tuple[float, ...] = 1.0
    """of all channels, or of each"""
    normalizer: Normalizer | None = None
    training_parameters: tuple[tuple[float, ...], ...] = ()
    has_latent: bool = True

    def rollout(self, initial_BXC, parameters_BP, steps, mode=None):
        out = []
        for initial in initial_BXC.numpy():
            same = (self.fields_STXC == initial).all(axis=tuple(range(2, self.fields_STXC.ndim)))
            ((sample, frame), *_) = np.argwhere(same)
            out.append(self.fields_STXC[sample, frame + 1 : frame + 1 + steps])
        return torch.from_numpy(np.stack(out)) * torch.tensor(self.factor)


@dataclass
class Oracle:
    """Knows the trajectories: finds the given frame among them and returns what follows, `late` frames too late."""

    spec: FieldSpec
    fields_STX: np.ndarray
    late: int = 0
    has_latent: bool = False
    finer: np.ndarray | None = None
    training_parameters: tuple[tuple[float, ...], ...] = ((NU,),)

    def rollout(self, initial_BXC, parameters_BP, steps, mode=None):
        fields = torch.from_numpy(self.fields_STX).float()
        out = []
        for initial in initial_BXC[..., 0]:
            distance = (fields - initial).abs().amax(dim=-1)
            sample, frame = divmod(int(distance.argmin()), fields.shape[1])
            assert distance.min() == 0, "not a true frame"
            wanted = frame + 1 + self.late + torch.arange(steps)
            out.append(fields[sample, wanted.clamp(max=fields.shape[1] - 1)])
        result = torch.stack(out).unsqueeze(-1)
        return result * 1.5 if mode == "latent" else result

    def with_cells(self, cells):
        if self.finer is None:
            raise UserError("fixed grid")
        assert self.finer.shape[2:] == cells
        return replace(self, spec=replace(self.spec, cells=cells), fields_STX=self.finer)


@dataclass
class Diverging:
    """Right for one step, then not a number."""

    spec: FieldSpec

    def rollout(self, initial_BXC, parameters_BP, steps, mode=None):
        frames = initial_BXC.unsqueeze(1).repeat(1, steps, 1, 1)
        frames[:, 1:] = torch.nan
        return frames
