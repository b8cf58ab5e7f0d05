"""What an equation says about one predicted step: the terms that candidates are judged by, each in its own spread.

H hypotheses (a sample, or one of its beam), K candidates of each, X the cells of all axes, C channels, P parameters.
Fields are physical, in the co-moving frame, at the task's resolution. No term sees the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from ups.core.errors import ConfigError
from ups.core.integrators import INTEGRATORS
from ups.core.physics import EQUATIONS, Equation
from ups.core.schema import Schema
from ups.core.types import FieldSpec

TermName = Literal["conservation", "dissipation", "maximum_principle", "total_variation", "residual", "positivity"]
_TIE = 1e-3
"""weight of the distances within their tolerance: small, so that they decide where no hinge does"""


@dataclass(frozen=True)
class Move:
    """One step: the fields before it and every candidate for after it."""

    spec: FieldSpec
    before_HXC: Tensor
    after_HKXC: Tensor
    parameters_HP: Tensor
    floor_C: Tensor
    """a size below which a field counts as decayed: laws are relative to what is there, and to this at least"""
    sample_H: Tensor
    """which sample of the batch a hypothesis belongs to"""
    number: int
    """of the step, from 1"""
    known_H: dict[str, Tensor] = field(default_factory=dict, compare=False)
    """what terms have found out about the fields before: all candidates of a step share it"""

    @property
    def equation(self) -> Equation:
        return EQUATIONS[self.spec.equation]

    def select(self, rows: Tensor) -> Move:
        """The hypotheses of these rows."""
        return replace(
            self,
            before_HXC=self.before_HXC[rows],
            after_HKXC=self.after_HKXC[rows],
            parameters_HP=self.parameters_HP[rows],
            sample_H=self.sample_H[rows],
            known_H={name: value[rows] for name, value in self.known_H.items()},
        )


@dataclass(frozen=True)
class Judgement:
    """Of each candidate; higher is better."""

    score_HK: Tensor
    """the sum of the weighted hinges, never above 0"""
    merit_HK: Tensor
    """what candidates are chosen by: the score, and between equal scores the distances within their tolerance"""
    density_HKX: Tensor | None
    """the share of every cell in what is wrong, lower is better; the cells of all axes in one; None without a local
    term"""


class Reward(Protocol):
    """What ranks candidates."""

    @property
    def is_local(self) -> bool:
        """Whether `judge` gives a density."""
        ...

    def judge(self, move: Move) -> Judgement: ...


Measured = tuple[Tensor, Tensor | None]
"""violation (H, K) without unit, and its square in every cell (H, K, X) where it is a sum over cells"""


@dataclass(frozen=True)
class Term:
    """One statement about a step; it is hinged at a tolerance that is read off true steps."""

    applies: Callable[[FieldSpec], bool]
    measure: Callable[[Move], Measured]
    is_distance: bool
    """whether a smaller violation is better within the tolerance, too: a distance from what is right, not a bound"""
    is_local: bool


def _conservation(move: Move) -> Measured:
    before, after = _cells(move)
    energy, floor = before.square().mean(-2), move.floor_C.square()
    lost = torch.zeros_like(after[:, :, 0, 0])
    if move.equation.conserves_mean:
        mean = (after.mean(-2) - before.mean(-2)).abs() / (energy + floor).sqrt()
        lost = lost + mean.sum(-1)
    if move.equation.conserves_energy:
        lost = lost + ((after.square().mean(-2) - energy).abs() / (energy + floor)).sum(-1)
    return lost, None


def _dissipation(move: Move) -> Measured:
    before, after = _cells(move)
    energy = before.square().mean(-2)
    return ((after.square().mean(-2) - energy) / (energy + move.floor_C.square())).amax(-1), None


def _maximum_principle(move: Move) -> Measured:
    before, after = _channels(move, move.equation.bounded)
    high, low = before.amax(-2, keepdim=True), before.amin(-2, keepdim=True)
    floor = move.floor_C[[move.equation.channel(name) for name in move.equation.bounded]]
    beyond = torch.maximum(after - high, low - after) / (high - low + floor)
    return beyond.amax((-1, -2)), beyond.clamp_min(0).square().sum(-1)


def _total_variation(move: Move) -> Measured:
    before, after = _cells(move)

    def variation(values: Tensor) -> Tensor:
        return (values - values.roll(1, -2)).abs().sum((-1, -2))

    had = variation(before)
    return (variation(after) - had) / (had + move.floor_C.sum()), None


def _residual(move: Move) -> Measured:
    """The equation in flux form, integrated in time with substeps: u(t + dt) - u(t) + d/dx of the flux's integral.

    In units of the steepness of the field, in which the discretisation error of a shock does not grow with its height:
    the distance is about the share of the domain by which a shock is displaced, on any grid.
    """
    spec, known = move.spec, move.known_H
    if "solved" not in known:
        integrate = INTEGRATORS[spec.equation]
        known["solved"] = integrate(move.before_HXC[..., 0], move.parameters_HP[:, 0], spec.dt, spec.length)
    solved = known["solved"]
    slope_HX = (solved - solved.roll(1, -1)) * solved.shape[-1]
    steepness_H = (slope_HX.square().mean(-1) + move.floor_C.square()).sqrt()
    wrong = (move.after_HKXC[..., 0] - solved[:, None]) / steepness_H[:, None, None]
    return wrong.square().mean(-1).sqrt(), wrong.square()


def _positivity(move: Move) -> Measured:
    before, after = _channels(move, move.equation.positive)
    floor = move.floor_C[[move.equation.channel(name) for name in move.equation.positive]]
    below = -after / (before.square().mean(-2, keepdim=True) + floor.square()).sqrt()
    return below.amax((-1, -2)), below.clamp_min(0).square().sum(-1)


TERMS: dict[TermName, Term] = {
    "conservation": Term(
        lambda spec: EQUATIONS[spec.equation].conserves_mean or EQUATIONS[spec.equation].conserves_energy,
        _conservation,
        is_distance=True,
        is_local=False,
    ),
    "dissipation": Term(
        lambda spec: EQUATIONS[spec.equation].dissipates_energy, _dissipation, is_distance=False, is_local=False
    ),
    "maximum_principle": Term(
        lambda spec: bool(EQUATIONS[spec.equation].bounded), _maximum_principle, is_distance=False, is_local=True
    ),
    "total_variation": Term(
        lambda spec: EQUATIONS[spec.equation].diminishes_variation, _total_variation, is_distance=False, is_local=False
    ),
    "residual": Term(lambda spec: spec.equation in INTEGRATORS, _residual, is_distance=True, is_local=True),
    "positivity": Term(
        lambda spec: bool(EQUATIONS[spec.equation].positive), _positivity, is_distance=False, is_local=True
    ),
}


def applicable(spec: FieldSpec) -> list[TermName]:
    """The terms that hold for a task: facts of its equation."""
    return [name for name in TERMS if holds(name, spec)]


def holds(name: TermName, spec: FieldSpec) -> bool:
    """Whether a term is a law of the task: of its equation, whose facts are those of its own boundary condition."""
    return spec.boundary == EQUATIONS[spec.equation].boundary and TERMS[name].applies(spec)


class AdaptiveReward(Schema):
    """The terms that the equation allows, less those that do not rank candidates on training trajectories."""

    kind: Literal["adaptive"] = "adaptive"
    min_correlation: float = Field(0.2, ge=0, le=1)
    """least rank correlation of a term with the true error"""
    without: tuple[TermName, ...] = ()
    """terms to leave out: without `residual` nothing integrates the equation"""

    def weights(self, spec: FieldSpec) -> dict[TermName, float]:
        """The terms to be fitted, each with weight 1.

        Raises:
            ConfigError: the equation allows none of them.
        """
        names = [name for name in applicable(spec) if name not in self.without]
        if not names:
            raise ConfigError(f"ttc.reward: {spec.equation} has no usable term{_allowed(spec)}")
        return dict.fromkeys(names, 1.0)


class CompositeReward(Schema):
    """A weighted sum of chosen terms, each in units of its own spread."""

    kind: Literal["composite"] = "composite"
    conservation: float = Field(0.0, ge=0)
    dissipation: float = Field(0.0, ge=0)
    maximum_principle: float = Field(0.0, ge=0)
    total_variation: float = Field(0.0, ge=0)
    residual: float = Field(0.0, ge=0)
    positivity: float = Field(0.0, ge=0)

    def weights(self, spec: FieldSpec) -> dict[TermName, float]:
        """The chosen terms.

        Raises:
            ConfigError: none is chosen, or the equation does not obey one that is.
        """
        chosen: dict[TermName, float] = {name: getattr(self, name) for name in TERMS if getattr(self, name) > 0}
        if not chosen:
            raise ConfigError(f"ttc.reward: every weight is 0, give one above 0{_allowed(spec)}")
        for name in chosen:
            if not holds(name, spec):
                raise ConfigError(f"ttc.reward.{name}: not a law of {spec.equation}{_allowed(spec)}")
        return chosen


RewardConfig = AdaptiveReward | CompositeReward


@dataclass(frozen=True)
class FittedTerm:
    """A term as training trajectories calibrated it."""

    name: TermName
    weight: float
    tolerance: float
    """99 % of true steps violate it less"""
    spread: float
    """deviation between candidates of one state"""
    correlation: float
    """mean rank correlation with the true error between candidates of one state"""
    used: bool
    reason: str = ""
    """why it is not used"""


@dataclass(frozen=True)
class FittedReward:
    """A sum of calibrated terms."""

    terms: tuple[FittedTerm, ...]

    @property
    def used(self) -> tuple[FittedTerm, ...]:
        return tuple(term for term in self.terms if term.used)

    @property
    def is_local(self) -> bool:
        return any(TERMS[term.name].is_local for term in self.used)

    def judge(self, move: Move) -> Judgement:
        score = torch.zeros_like(move.after_HKXC.flatten(2)[..., 0])
        merit, density = score, None
        for term in self.used:
            violation, squares = TERMS[term.name].measure(move)
            share = term.weight / term.spread
            hinge = (violation - term.tolerance).clamp_min(0)
            score = score - share * hinge
            if TERMS[term.name].is_distance:
                merit = merit - _TIE * share * violation
            if squares is not None:
                part = share**2 * squares
                density = part if density is None else density + part
        return Judgement(score, score + merit, density)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(term) for term in self.terms]

    @classmethod
    def from_json(cls, data: Sequence[Mapping[str, Any]]) -> FittedReward:
        return cls(tuple(FittedTerm(**each) for each in data))


@dataclass(frozen=True)
class TrueError:
    """The oracle: candidates ranked by their distance from the truth, which no reward can beat over one step."""

    truth_BTXC: Tensor
    """frames 1, 2, ... in the co-moving frame"""

    is_local = True

    def judge(self, move: Move) -> Judgement:
        truth = self.truth_BTXC[move.sample_H, move.number - 1][:, None]
        squares = (move.after_HKXC - truth).square()
        error = -squares.flatten(2).mean(-1).sqrt()
        return Judgement(error, error, squares.sum(-1).flatten(2))


def _cells(move: Move) -> tuple[Tensor, Tensor]:
    """(H, 1, cells, C) and (H, K, cells, C)."""
    return move.before_HXC.flatten(1, -2)[:, None], move.after_HKXC.flatten(2, -2)


def _channels(move: Move, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The same of some fields."""
    chosen = [move.equation.channel(name) for name in names]
    before, after = _cells(move)
    return before[..., chosen], after[..., chosen]


def _allowed(spec: FieldSpec) -> str:
    return f"; {spec.equation} allows: {', '.join(applicable(spec)) or 'none'}"
