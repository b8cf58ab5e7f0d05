"""Predictors whose scores are known, and small tasks."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch

from ups.core.errors import UserError
from ups.core.types import FieldSpec
from ups.data.generators import solve_burgers
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


def task_of(trajectories, files=("a.h5",)):
    config = SimpleNamespace(files=files, split_seed=7)
    return SimpleNamespace(config=config, test=trajectories, validation=trajectories, fingerprint="f00d")


@dataclass
class Oracle:
    """Knows the trajectories: finds the given frame among them and returns what follows, `late` frames too late."""

    spec: FieldSpec
    fields_STX: np.ndarray
    late: int = 0
    has_latent: bool = False
    finer: np.ndarray | None = None
    training_parameters: tuple[float, ...] = (NU,)

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
        assert self.finer.shape[2] == cells
        return replace(self, spec=replace(self.spec, cells=(cells,)), fields_STX=self.finer)


@dataclass
class Diverging:
    """Right for one step, then not a number."""

    spec: FieldSpec

    def rollout(self, initial_BXC, parameters_BP, steps, mode=None):
        frames = initial_BXC.unsqueeze(1).repeat(1, steps, 1, 1)
        frames[:, 1:] = torch.nan
        return frames
