"""Tiny surrogates whose steps move, fields to start from, and rewards that are simple enough to reason about.

B samples, H hypotheses, K candidates, X all spatial axes, C channels, P parameters.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ups.core.physics import EQUATIONS
from ups.core.types import FieldSpec
from ups.data.normalization import Normalizer
from ups.inference.build import ModelConfig
from ups.inference.rewards import FittedReward, FittedTerm, Judgement, Move, Reward, TermName, applicable
from ups.inference.search import Effort
from ups.inference.surrogate import Correction, Surrogate

PARAMETERS = {
    "burgers": (0.01,),
    "advection": (0.4,),
    "reaction_diffusion": (0.01, 1.0),
    "diffusion_reaction": (1e-3, 5e-3, 5e-3),
    "navier_stokes": (0.01,),
    "darcy": (1.0,),
}
_PARTS: dict[str, Any] = {"kind": "pdet_stack", "mixer": "spectral", "depth": 1, "hidden_dim": 16, "modes": 3}
_MODEL: dict[str, Any] = {
    "latent": {"tokens": 16, "dim": 8},
    "encoder": {"width": 16, "blocks": 1, "kernel": 3},
    "operator": _PARTS,
    "corrector": _PARTS,
    "decoder": {"kind": "grid", "width": 16, "blocks": 0, "kernel": 3, "cell_width": 4},
}


def spec_of(equation: str, cells: int | None = None) -> FieldSpec:
    known = EQUATIONS[equation]
    grid = (cells or (32 if known.axes == 1 else 16),) * known.axes
    dt = 1.0 if known.steady else 0.05
    return FieldSpec(equation, grid, len(known.channels), 1.0, dt, known.parameters, known.boundary)


def surrogate_of(
    equation: str,
    *,
    cells: int | None = None,
    corrections: tuple[str, ...] = ("diffusion", "student"),
    chosen: Correction = "none",
    model: dict[str, Any] | None = None,
    **inference: Any,
) -> Surrogate:
    """A model and corrections with random weights: untrained ones would be the identity and correct nothing."""
    spec = spec_of(equation, cells)
    normalizer = Normalizer((0.0,) * spec.channels, (0.7,) * spec.channels)
    if EQUATIONS[equation].steady:
        normalizer = Normalizer(normalizer.mean, normalizer.std, Normalizer((0.0,), (1.0,)))
    config = ModelConfig.parse({**_MODEL, **(model or {}), "inference": {"sampler_steps": 2, **inference}})
    torch.manual_seed(0)
    surrogate = config.build(spec, normalizer, (PARAMETERS[equation],))
    parts = {name: config.build_correction(name, spec) for name in corrections}
    with torch.no_grad():
        for parameter in [p for part in (surrogate, *parts.values()) for p in part.parameters()]:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for part in parts.values():
            part.scale.fill_(0.2)
    return surrogate.with_corrections(parts, chosen).eval()


def start_of(equation: str, samples: int = 4, *, cells: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Fields (B, X, C) of two long waves with a mean of their own, and parameters (B, P)."""
    spec = spec_of(equation, cells)
    draw = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in spec.cells), indexing="ij")
    start = torch.zeros(samples, *spec.cells, spec.channels)
    for wave in (1, 2):
        for place in axes:
            size, phase = torch.rand(2, samples, *(1 for _ in axes), spec.channels, generator=draw)
            start = start + (size + 0.2) * torch.sin(2 * math.pi * (wave * place[..., None] + phase))
    mean = torch.rand(samples, *(1 for _ in axes), spec.channels, generator=draw)
    return start + mean, torch.tensor(PARAMETERS[equation]).expand(samples, -1)


def comoving(surrogate: Surrogate, start_BXC: Tensor) -> Tensor:
    """The field that `Search.frames` starts from."""
    return start_BXC - surrogate.frame.mean(start_BXC)[:, 0]


def term(name: TermName, weight: float = 1.0, tolerance: float = 0.01, spread: float = 0.1) -> FittedTerm:
    return FittedTerm(name, weight, tolerance, spread, 1.0, True)


def reward_of(equation: str) -> FittedReward:
    """Every term that the equation allows."""
    return FittedReward(tuple(term(name) for name in applicable(spec_of(equation))))


@dataclass(frozen=True)
class Smallest:
    """Small fields are good, everywhere: a local reward that any equation allows."""

    is_local = True

    def judge(self, move: Move) -> Judgement:
        squares = move.after_HKXC.square()
        score = -squares.flatten(2).mean(-1).sqrt()
        return Judgement(score, score, squares.sum(-1).flatten(2))


@dataclass(frozen=True)
class Indifferent:
    """All candidates are equal."""

    is_local = True

    def judge(self, move: Move) -> Judgement:
        nothing = torch.zeros_like(move.after_HKXC.sum(-1).flatten(2))
        return Judgement(nothing[..., 0], nothing[..., 0], nothing)


@dataclass(frozen=True)
class Counting:
    """Counts what it is asked to judge, by sample and by searched step; `effort` is that of the search."""

    reward: Reward
    effort: Effort
    batch: int
    judged: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(sample, searched step)"""

    @property
    def is_local(self) -> bool:
        return self.reward.is_local

    def judge(self, move: Move) -> Judgement:
        step = self.effort.steps // self.batch
        for sample in move.sample_H.tolist():
            self.judged[sample, step] += move.after_HKXC.shape[1]
        return self.reward.judge(move)


def relative(one: Tensor, two: Tensor) -> float:
    """The distance over the size of the second."""
    return float(((one - two).norm() / two.norm()).detach())
