"""Rolling a surrogate out with a search at test time, and finding out what the search, its reward and its budget do.

B batch, S trajectories, T frames, H states, K candidates of a state, X the cells of all axes, C channels, P parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups.core.integrators import INTEGRATORS
from ups.core.measures import nrmse, spearman
from ups.data.task import Trajectories
from ups.evaluation.evaluate import Report, batches
from ups.evaluation.paired import Paired, paired_of_one_run
from ups.evaluation.search_report import BudgetPoint, Cost, SearchReport, TermReport
from ups.inference.reward_fit import term_values, watch_plain
from ups.inference.rewards import FittedReward, Move, Reward, TrueError
from ups.inference.search import Effort, Pool, Search
from ups.inference.search_config import SearchConfig
from ups.inference.surrogate import Surrogate

EXAMINED = 64
"""most trajectories that oracles, correlations and the curve are measured on"""
WIDEST = 16
"""candidates up to which the curve goes on, where that is at most `MULTIPLE` times what is configured"""
MULTIPLE = 4


def with_search(report: Report, surrogate: Surrogate, trajectories: Trajectories) -> Report:
    """The report with the section of the surrogate's own search and its notes; as it is if there is no search."""
    search = surrogate.search
    if search is None:
        return report
    found = evaluate_search(surrogate, search, trajectories)
    words = found.words(
        report.metrics.get("coarse_solver_rollout_nrmse"), report.cost.get("coarse_solver_rollout_seconds")
    )
    return replace(report, ttc=found, notes=(*report.notes, *words))


def evaluate_search(
    surrogate: Surrogate, search: Search, trajectories: Trajectories, examined: int = EXAMINED
) -> SearchReport:
    """The search beside the plain rollout, beside what any reward could win, and beside other budgets.

    The reward is taken as it was fitted. A search of one candidate is the plain rollout: it has no oracle and no curve
    beyond the first point.

    Args:
        examined: most trajectories, evenly over `trajectories`, for whatever costs another rollout.
    """
    config, reward = search.config, search.reward
    plain = _rolled_out(surrogate, trajectories)
    found = _rolled_out(surrogate, trajectories, config, reward)
    rows = np.unique(np.linspace(0, len(trajectories) - 1, min(examined, len(trajectories))).round().astype(int))
    part = _select(trajectories, rows)
    solver = _solver(surrogate, reward, trajectories)
    oracles: dict[str, float] = {}
    ranks, one_step = _Ranks(reward), _OneStep(reward)
    if config.candidates > 1:
        for choice in ("sample", "token") if config.choice == "token" else ("sample",):
            oracle = _rolled_out(surrogate, part, config.override({"choice": choice}))
            oracles[choice] = float(oracle.nrmse_S.mean())
        ranks.watch(surrogate, config, part)
        one_step.visit(surrogate, config, part)
    return SearchReport(
        config=config.model_dump(mode="json", exclude={"enabled"}),
        nrmse=float(found.nrmse_S.mean()),
        plain_nrmse=float(plain.nrmse_S.mean()),
        gain=_gain(found.nrmse_S, plain.nrmse_S),
        cost=_cost(found),
        plain_cost=_cost(replace(plain, effort=_plain_effort(surrogate, config, part))),
        examined=len(part),
        examined_nrmse=float(found.nrmse_S[rows].mean()),
        examined_plain_nrmse=float(plain.nrmse_S[rows].mean()),
        oracle_nrmse=oracles,
        one_step_oracle=one_step.oracle,
        one_step_reward=one_step.reward,
        correlation=ranks.merit,
        terms=ranks.terms(),
        curve=tuple(_curve(surrogate, search, part, plain.select(rows), found.select(rows))),
        solver_nrmse=None if solver is None else float(solver.nrmse_S.mean()),
        solver_seconds=None if solver is None else solver.seconds,
    )


@dataclass(frozen=True)
class _RolledOut:
    nrmse_S: NDArray[np.float64]
    """mean over frames and channels; inf where a prediction is not finite"""
    seconds: float
    """of one trajectory"""
    effort: Effort

    def select(self, rows: NDArray[np.int64]) -> _RolledOut:
        return replace(self, nrmse_S=self.nrmse_S[rows])


def _rolled_out(
    surrogate: Surrogate, trajectories: Trajectories, config: SearchConfig | None = None, reward: Reward | None = None
) -> _RolledOut:
    """Every frame after the first predicted from the first.

    Args:
        config: of the search; None for the plain rollout.
        reward: of the search; None for the oracle.
    """
    errors: list[Tensor] = []
    effort, seconds = Effort(), 0.0
    for fields_BTXC, parameters_BP, truth_BTXC in _entered(surrogate, trajectories):
        steps = fields_BTXC.shape[1] - 1
        search, warm = (None if config is None else Search(config, reward or TrueError(truth_BTXC)) for _ in range(2))
        if not errors:  # compiling kernels is not the cost of a trajectory
            surrogate.with_search(warm).rollout(fields_BTXC[:1, 0], parameters_BP[:1], 1)
        searched = surrogate.with_search(search)
        begin = time.perf_counter()
        prediction_BTXC = searched.rollout(fields_BTXC[:, 0], parameters_BP, steps).cpu()
        seconds += time.perf_counter() - begin
        errors.append(_nrmse_of(prediction_BTXC, fields_BTXC))
        if search is not None:
            effort = _sum(effort, search.effort)
    return _RolledOut(torch.cat(errors).numpy(), seconds / len(trajectories), effort)


def _solver(surrogate: Surrogate, reward: Reward, trajectories: Trajectories) -> _RolledOut | None:
    """What the solver in the term `residual` does on its own; None where the reward does not use it."""
    if not (isinstance(reward, FittedReward) and any(term.name == "residual" for term in reward.used)):
        return None
    spec, integrate = surrogate.spec, INTEGRATORS[surrogate.spec.equation]
    errors, seconds = [], 0.0
    for fields_BTXC, parameters_BP, _ in _entered(surrogate, trajectories):
        begin = time.perf_counter()
        state_BX, frames = fields_BTXC[:, 0, :, 0], []
        for _ in range(fields_BTXC.shape[1] - 1):
            state_BX = integrate(state_BX, parameters_BP[:, 0], spec.dt, spec.length)
            frames.append(state_BX)
        prediction_BTXC = torch.stack(frames, dim=1)[..., None].cpu()
        seconds += time.perf_counter() - begin
        errors.append(_nrmse_of(prediction_BTXC, fields_BTXC))
    return _RolledOut(torch.cat(errors).numpy(), seconds / len(trajectories), Effort())


def _nrmse_of(prediction_BTXC: Tensor, fields_BTXC: Tensor) -> Tensor:
    """Mean over frames and channels of every trajectory; inf where a prediction is not finite."""
    error_BTC = nrmse(prediction_BTXC.double(), fields_BTXC[:, 1:].cpu().double())
    return error_BTC.nan_to_num(torch.inf, posinf=torch.inf).mean(dim=(1, 2))


def _sum(one: Effort, two: Effort) -> Effort:
    total = {name: getattr(one, name) + getattr(two, name) for name in vars(one)}
    return Effort(**{**total, "most": max(one.most, two.most)})


def _entered(surrogate: Surrogate, trajectories: Trajectories) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches on the surrogate's device: fields, parameters, and frames 1, 2, ... in the co-moving frame."""
    device = surrogate.reference_F.device
    for fields_BTXC, parameters_BP in batches(trajectories):
        fields_BTXC, parameters_BP = fields_BTXC.to(device), parameters_BP.to(device)
        mean = surrogate.frame.mean(fields_BTXC[:, 0])
        yield fields_BTXC, parameters_BP, surrogate.frame.enter(fields_BTXC, mean)[:, 1:]


def _select(trajectories: Trajectories, rows: NDArray[np.int64]) -> Trajectories:
    return replace(
        trajectories,
        fields_STXC=trajectories.fields_STXC[rows],
        parameters_SP=trajectories.parameters_SP[rows],
        file_S=trajectories.file_S[rows],
    )


def _gain(first_S: NDArray[np.float64], second_S: NDArray[np.float64]) -> Paired | None:
    if len(first_S) < 2 or not (np.isfinite(first_S).all() and np.isfinite(second_S).all()):
        return None
    return paired_of_one_run(first_S, second_S)


# cost and budget


def _cost(found: _RolledOut) -> Cost:
    effort = found.effort
    count = max(effort.trajectories, 1)
    return Cost(
        seconds=found.seconds,
        operator=effort.operator / count,
        source=effort.source / count,
        decoder=effort.decoder / count,
        evaluations=effort.evaluations / count,
        most=effort.most,
    )


def _plain_effort(surrogate: Surrogate, config: SearchConfig, part: Trajectories) -> Effort:
    """Of the plain rollout, counted where a search of one candidate takes the same steps."""
    single = with_candidates(config, 1).override({"beam_width": 1, "horizon": 1})
    counted = _rolled_out(surrogate, _select(part, np.zeros(1, dtype=np.int64)), single).effort
    # nothing is judged where there is nothing to choose from
    return replace(counted, evaluations=0, most=0)


def with_candidates(config: SearchConfig, candidates: int) -> SearchConfig:
    """The same search with more or fewer candidates; its budget grows with them, so that it does not cut them off."""
    budget = max(config.max_evaluations, math.ceil(config.max_evaluations * candidates / config.candidates))
    rounds = min(config.rounds, candidates)
    return config.override({"candidates": candidates, "max_evaluations": budget, "rounds": rounds})


def budgets(configured: int) -> list[int]:
    """The numbers of candidates of the curve: powers of two and the configured one."""
    if configured == 1:
        return [1]
    widest = min(MULTIPLE * configured, max(configured, WIDEST))
    return sorted({configured, *(2**power for power in range(widest.bit_length()))})


def _curve(
    surrogate: Surrogate, search: Search, part: Trajectories, plain: _RolledOut, found: _RolledOut
) -> Iterator[BudgetPoint]:
    config, reward = search.config, search.reward
    for candidates in budgets(config.candidates):
        if candidates == 1:
            yield BudgetPoint(1, float(plain.nrmse_S.mean()), 1.0, plain.seconds)
            continue
        point = found
        if candidates != config.candidates:
            point = _rolled_out(surrogate, part, with_candidates(config, candidates), reward)
        evaluations = point.effort.evaluations / max(point.effort.steps, 1)
        yield BudgetPoint(candidates, float(point.nrmse_S.mean()), evaluations, point.seconds)


# what the reward knows


def _errors(move: Move, truth_BTXC: Tensor) -> Tensor:
    """True RMSE of every candidate, (H, K)."""
    return -TrueError(truth_BTXC).judge(move).score_HK


class _Ranks:
    """Rank correlations with the true error, mean over states; gathered pool by pool."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self._terms = reward.terms if isinstance(reward, FittedReward) else ()
        self._of_merit: list[NDArray[np.float64]] = []
        self._of_term: dict[str, list[NDArray[np.float64]]] = {term.name: [] for term in self._terms}

    def watch(self, surrogate: Surrogate, config: SearchConfig, trajectories: Trajectories) -> None:
        """Roll out once more, without a clock, and take in every step's candidates."""
        for fields_BTXC, parameters_BP, truth_BTXC in _entered(surrogate, trajectories):
            search = Search(config, self._reward, observe=partial(self._add, truth_BTXC))
            surrogate.with_search(search).rollout(fields_BTXC[:, 0], parameters_BP, fields_BTXC.shape[1] - 1)

    def _add(self, truth_BTXC: Tensor, pool: Pool) -> None:
        error_HK = _errors(pool.move, truth_BTXC)
        self._of_merit += _correlations(-pool.judgement.merit_HK, error_HK, pool.judged_HK)
        for term in self._terms:
            value_HK = term_values(term.name, term.tolerance, pool.move)
            self._of_term[term.name] += _correlations(value_HK, error_HK, pool.judged_HK)

    @property
    def merit(self) -> float | None:
        return _mean(self._of_merit)

    def terms(self) -> tuple[TermReport, ...]:
        return tuple(
            TermReport(
                name=term.name,
                weight=term.weight,
                tolerance=term.tolerance,
                spread=term.spread,
                training_correlation=term.correlation,
                correlation=_mean(self._of_term[term.name]),
                used=term.used,
                reason=term.reason,
            )
            for term in self._terms
        )


def _correlations(value_HK: Tensor, error_HK: Tensor, judged_HK: Tensor) -> list[NDArray[np.float64]]:
    """Of every state with two judged candidates or more; a candidate that left the finite range ranks last."""
    value, error = (
        each.double().nan_to_num(torch.inf, posinf=torch.inf).cpu().numpy() for each in (value_HK, error_HK)
    )
    judged = judged_HK.cpu().numpy()
    found = []
    # samples that stopped early have judged fewer: states with the same candidates are ranked together
    for pattern in np.unique(judged, axis=0):
        if pattern.sum() >= 2:
            states = (judged == pattern).all(axis=1)
            found.append(spearman(value[states][:, pattern].T, error[states][:, pattern].T))
    return found


def _mean(parts: list[NDArray[np.float64]]) -> float | None:
    return float(np.concatenate(parts).mean()) if parts else None


class _OneStep:
    """What one choice is worth: the errors of the best and of the preferred candidate over that of the plain one."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self._best: list[Tensor] = []
        self._preferred: list[Tensor] = []

    def visit(self, surrogate: Surrogate, config: SearchConfig, trajectories: Trajectories) -> None:
        """Draw candidates at every state of the plain rollout that the search would search from."""
        for fields_BTXC, parameters_BP, truth_BTXC in _entered(surrogate, trajectories):
            steps = min(truth_BTXC.shape[1], config.steps or truth_BTXC.shape[1])
            start_BXC = surrogate.frame.enter(fields_BTXC[:, :1], surrogate.frame.mean(fields_BTXC[:, 0]))[:, 0]
            observe = partial(self._add, truth_BTXC)
            watch_plain(surrogate, config, start_BXC, parameters_BP, steps, observe)

    def _add(self, truth_BTXC: Tensor, pool: Pool) -> None:
        move = pool.move
        error_HK = _errors(move, truth_BTXC).double().nan_to_num(torch.inf)
        preferred_H1 = self._reward.judge(move).merit_HK.nan_to_num(-torch.inf).argmax(1, keepdim=True)
        plain_H = error_HK[:, 0].clamp_min(torch.finfo(error_HK.dtype).tiny)
        self._best.append((error_HK.amin(1) / plain_H).cpu())
        self._preferred.append((error_HK.gather(1, preferred_H1)[:, 0] / plain_H).cpu())

    @property
    def oracle(self) -> float:
        return _ratio(self._best)

    @property
    def reward(self) -> float:
        return _ratio(self._preferred)


def _ratio(parts: list[Tensor]) -> float:
    """1 where there was nothing to choose from."""
    return float(torch.cat(parts).mean()) if parts else 1.0
