"""What a search at test time brought and what it cost: the record, its JSON, and what it says in words.

Errors are rollout nRMSE in physical units, in the frame of the laboratory, as everywhere in a report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ups.evaluation.paired import CONFIDENCE, Paired


@dataclass(frozen=True)
class Cost:
    """Of one trajectory."""

    seconds: float
    """wall time in batches; not part of what must repeat"""
    operator: float
    """states that A was applied to"""
    source: float
    """latents that the network of a correction or of the source was applied to"""
    decoder: float
    """latents that were decoded"""
    evaluations: float
    """states that were judged"""
    most: int
    """the most states that were judged in one step"""


@dataclass(frozen=True)
class BudgetPoint:
    """The same search with another number of candidates, on the examined trajectories."""

    candidates: int
    nrmse: float
    evaluations: float
    """states judged in a searched step of one trajectory, on average"""
    seconds: float
    """wall time of one trajectory"""


@dataclass(frozen=True)
class TermReport:
    """One term of the reward, as it was fitted and as it ranked what the search judged."""

    name: str
    weight: float
    tolerance: float
    spread: float
    training_correlation: float
    """with the true error, on training trajectories; what the term was chosen by"""
    correlation: float | None
    """the same among the candidates that this search judged; None where it judged one for each state"""
    used: bool
    reason: str
    """why it is not used"""


@dataclass(frozen=True)
class SearchReport:
    """One search on the trajectories of one report; `to_json` is the section `ttc` of `evaluate --json`.

    `examined` trajectories, evenly over the split, carry what costs a rollout for every line: the oracles, the curve,
    the correlations, and `examined_nrmse` and `examined_plain_nrmse` to hold them against.
    """

    config: dict[str, Any]
    """the settings of the search, `SearchConfig`"""
    nrmse: float
    """inf where a rollout left the finite range"""
    plain_nrmse: float
    """without the search"""
    gain: Paired | None
    """the search beside the plain rollout, paired over trajectories; None if there is one, or an error is not finite"""
    cost: Cost
    plain_cost: Cost
    examined: int
    examined_nrmse: float
    examined_plain_nrmse: float
    oracle_nrmse: dict[str, float]
    """by choice, sample or token: the same search with the true error of each step as its reward"""
    one_step_oracle: float
    """error of the best candidate over that of the plain one at the states of the plain rollout, mean over frames"""
    one_step_reward: float
    """the same of the candidate that the reward prefers"""
    correlation: float | None
    """rank correlation of the merit and the true error between the candidates of a state, 1 for a perfect reward"""
    terms: tuple[TermReport, ...]
    curve: tuple[BudgetPoint, ...]
    """error against budget, ascending; the first point is the plain rollout"""
    solver_nrmse: float | None
    """of all trajectories, rolled out by the solver in the term `residual` alone; None where that is not used"""
    solver_seconds: float | None
    """its wall time of one trajectory"""

    @property
    def ratio(self) -> float | None:
        return self.nrmse / self.plain_nrmse if 0 < self.plain_nrmse < math.inf else None

    @property
    def slowdown(self) -> float:
        """Wall time with the search over that without."""
        return self.cost.seconds / max(self.plain_cost.seconds, 1e-12)

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not finite becomes null."""
        return {**_plain(asdict(self)), "ratio": _plain(self.ratio)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchReport:
        """The inverse of `to_json`; a null error comes back as inf."""
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        errors = (
            "nrmse",
            "plain_nrmse",
            "examined_nrmse",
            "examined_plain_nrmse",
            "one_step_oracle",
            "one_step_reward",
        )
        gain, solver = known["gain"], known["solver_seconds"]
        return cls(
            **{
                **known,
                **{name: _infinite(known[name]) for name in errors},
                "solver_nrmse": None if solver is None else _infinite(known["solver_nrmse"]),
                "oracle_nrmse": {name: _infinite(value) for name, value in known["oracle_nrmse"].items()},
                "gain": None if gain is None else Paired(**{**gain, "per_seed": tuple(gain["per_seed"])}),
                "cost": Cost(**known["cost"]),
                "plain_cost": Cost(**known["plain_cost"]),
                "terms": tuple(
                    TermReport(**{**each, **{name: _infinite(each[name]) for name in ("tolerance", "spread")}})
                    for each in known["terms"]
                ),
                "curve": tuple(BudgetPoint(**{**each, "nrmse": _infinite(each["nrmse"])}) for each in known["curve"]),
            }
        )

    def words(self, coarse_solver_nrmse: float | None, coarse_solver_seconds: float | None) -> list[str]:
        """What the numbers say, one line each: whether it helped, how far any reward could go, and what it rests on.

        Args:
            coarse_solver_nrmse: of the coarse solver's row of the same report, None where it has none.
            coarse_solver_seconds: wall time of one trajectory there.
        """
        lines = [f"search: {self._gain_in_words()}"]
        if self.config["candidates"] == 1:
            lines.append("search: one candidate is the plain rollout; there is nothing to choose from")
            return lines
        lines.append(f"search: {self._oracle_in_words()}")
        if self.solver_nrmse is not None and self.solver_seconds is not None:
            coarse = ""
            if coarse_solver_nrmse is not None and coarse_solver_seconds is not None:
                coarse = f", the coarse solver {_short(coarse_solver_nrmse)} in {coarse_solver_seconds:.2g} s"
            lines.append(
                "search: the reward's term `residual` integrates the equation on the task's grid: it holds a solver, "
                f"which alone has {_short(self.solver_nrmse)} in {self.solver_seconds:.2g} s a trajectory{coarse}"
            )
        return lines

    def _gain_in_words(self) -> str:
        told = f"rollout nRMSE {_short(self.nrmse)}, without {_short(self.plain_nrmse)}"
        if self.gain is None:
            return f"{told}; no interval: it needs two trajectories and finite errors"
        gain = self.gain
        ratio = f"ratio {gain.ratio:.3f}, " if gain.ratio is not None else ""
        told += (
            f" ({ratio}difference {gain.difference:.2g}, {CONFIDENCE:.0%} interval {gain.low:.2g} to {gain.high:.2g} "
            f"over {gain.trajectories} trajectories of this run)"
        )
        if gain.typical_ratio is not None and gain.typical_low is not None and gain.typical_high is not None:
            # a single trajectory that runs away can make up the whole mean
            told += f"; typical ratio of a trajectory {gain.typical_ratio:.3f}"
            told += f" ({gain.typical_low:.3f} to {gain.typical_high:.3f})"
        if not gain.decided:
            return f"{told}; undecided, {gain.reason}"
        return f"{told}; it {'helps' if gain.difference < 0 else 'harms'}, {gain.reason}"

    def _oracle_in_words(self) -> str:
        oracles = ", ".join(f"{_short(value)} by {choice}" for choice, value in self.oracle_nrmse.items())
        told = f"chosen by the true error the same candidates reach {oracles}"
        best = min(self.oracle_nrmse.values(), default=math.inf)
        could = self.examined_plain_nrmse - best
        if math.isfinite(could) and could > 0 and math.isfinite(self.examined_nrmse):
            share = (self.examined_plain_nrmse - self.examined_nrmse) / could
            told += f"; the reward {'wins' if share >= 0 else 'loses'} {abs(share):.0%} of what that would win"
        else:
            told += "; these candidates hold nothing to be won"
        if self.correlation is not None:
            told += f"; rank correlation of the reward and the true error {self.correlation:.2f}"
        return told


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value
