"""What training trajectories say about the terms of a reward: tolerance, spread, and whether a term ranks candidates.

S trajectories, T frames, H states, K candidates of a state, X the cells of all axes, C channels, P parameters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups.core.errors import UserError
from ups.core.measures import spearman
from ups.data.task import Trajectories
from ups.inference.rewards import TERMS, FittedReward, FittedTerm, Judgement, Move, TermName, TrueError
from ups.inference.search import Pool, Search
from ups.inference.search_config import SearchConfig
from ups.inference.surrogate import Surrogate

_QUANTILE = 0.995
"""of the training steps that tolerances are read off, so that 99 % of others, too, stay below"""
_TRAJECTORIES = 128
_ROLLED_OUT = 16
_STATES = 8
_CANDIDATES = 8
_KEPT = 16
_TOLERANCES: dict[str, dict[TermName, float]] = {}
"""by `_digest`; of the latest tasks of this process"""


class NoReward(UserError):
    """No term of the reward tells candidates apart."""


def fit_search(surrogate: Surrogate, config: SearchConfig, training: Trajectories) -> Search:
    """The search with its reward calibrated on training trajectories; equal calls give equal searches.

    Raises:
        ConfigError: the reward names no law of the equation.
        NoReward: no term is left to judge candidates by.
        UserError: the surrogate cannot be searched with this config.
    """
    weights = config.reward.weights(surrogate.spec)
    surrogate = surrogate.with_search(Search(config, FittedReward(())))
    if config.candidates == 1:
        return Search(config, FittedReward(()))
    tolerances = _tolerances(surrogate, training, list(weights))
    pools = _pools(surrogate, config, training)
    terms = tuple(_fit(name, weight, tolerances[name], pools) for name, weight in weights.items())
    if config.reward.kind == "adaptive":
        terms = tuple(_judged(term, config.reward.min_correlation) for term in terms)
    reward = FittedReward(terms)
    if not reward.used:
        told = "; ".join(f"{term.name}: {term.reason}" for term in terms)
        raise NoReward(f"ttc.reward: nothing tells candidates apart on training trajectories ({told})")
    return Search(config, reward)


def term_values(name: TermName, tolerance: float, move: Move) -> Tensor:
    """What a term ranks candidates by, (H, K), lower is better: a distance as it is, a bound above its tolerance."""
    violation, _ = TERMS[name].measure(move)
    return violation if TERMS[name].is_distance else (violation - tolerance).clamp_min(0)


def _tolerances(surrogate: Surrogate, training: Trajectories, names: list[TermName]) -> dict[TermName, float]:
    """What 99 % of true steps violate each term by at most; no bound is made narrower than its law.

    A fact of the task: a process that fits one search after the other on the same data measures it once.
    """
    fields_STXC, parameters_SP = _first(training, _TRAJECTORIES, surrogate.reference_F.device)
    known = _digest(surrogate, names, fields_STXC, parameters_SP)
    if known not in _TOLERANCES:
        while len(_TOLERANCES) >= _KEPT:
            del _TOLERANCES[next(iter(_TOLERANCES))]
        _TOLERANCES[known] = _measured_tolerances(surrogate, names, fields_STXC, parameters_SP)
    return _TOLERANCES[known]


def _digest(surrogate: Surrogate, names: list[TermName], fields_STXC: Tensor, parameters_SP: Tensor) -> str:
    """Fingerprint of all that the tolerances depend on."""
    facts = [sorted(names), surrogate.spec.to_json(), repr(surrogate.frame), surrogate.floor_C.tolist()]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for values in (fields_STXC, parameters_SP):
        digest.update(str(values.device.type).encode())
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _measured_tolerances(
    surrogate: Surrogate, names: list[TermName], fields_STXC: Tensor, parameters_SP: Tensor
) -> dict[TermName, float]:
    violations: dict[TermName, list[NDArray[np.float32]]] = {name: [] for name in names}
    for fields_TXC, parameters_P in zip(fields_STXC, parameters_SP, strict=True):
        moving_TXC = _entered(surrogate, fields_TXC[None])[0]
        steps = len(moving_TXC) - 1
        sample_H = torch.zeros(steps, dtype=torch.long, device=moving_TXC.device)
        parameters_HP = parameters_P.expand(steps, -1)
        move = surrogate.move(moving_TXC[:-1], moving_TXC[1:, None], parameters_HP, sample_H, 1)
        for name in names:
            violations[name].append(TERMS[name].measure(move)[0][:, 0].cpu().numpy())
    quantiles = {name: float(np.quantile(np.concatenate(each), _QUANTILE)) for name, each in violations.items()}
    return {name: max(0.0, quantile) for name, quantile in quantiles.items()}


class Indifferent:
    """Every candidate is as good as the other, so that the plain one is taken."""

    is_local = False

    def judge(self, move: Move) -> Judgement:
        nothing = torch.zeros_like(move.after_HKXC.flatten(2)[..., 0])
        return Judgement(nothing, nothing, None)


def watch_plain(
    surrogate: Surrogate,
    config: SearchConfig,
    start_SXC: Tensor,
    parameters_SP: Tensor,
    steps: int,
    observe: Callable[[Pool], None],
) -> None:
    """Show what would be drawn in every step of the plain rollout: candidate 0 of a state is the step that it takes.

    Args:
        config: its draws, and how many; neither rounds, nor recombination, nor a beam.
        start_SXC: frame 0 in the co-moving frame.
    """
    drawn = config.override({
        "steps": None, "choice": "sample", "rounds": 1, "beam_width": 1, "horizon": 1, "early_stop": None,
        "max_evaluations": config.candidates,
    })  # fmt: skip
    search = Search(drawn, Indifferent(), observe=observe)
    search.frames(surrogate, start_SXC, parameters_SP, steps, (0, 0))


def _pools(
    surrogate: Surrogate, config: SearchConfig, training: Trajectories
) -> list[tuple[Move, NDArray[np.float64]]]:
    """Candidates at states of the plain rollout, and their true errors (H, K)."""
    fields_STXC, parameters_SP = _first(training, _ROLLED_OUT, surrogate.reference_F.device)
    truth_STXC = _entered(surrogate, fields_STXC)
    steps = truth_STXC.shape[1] - 1
    chosen = set(np.linspace(1, steps, _STATES).round().astype(int).tolist())
    found: list[tuple[Move, NDArray[np.float64]]] = []

    def observe(pool: Pool) -> None:
        move = pool.move
        if move.number in chosen:
            error_HK = -TrueError(truth_STXC[:, 1:]).judge(move).score_HK
            found.append((move, error_HK.double().cpu().numpy()))

    many = config.override({"candidates": max(_CANDIDATES, config.candidates)})
    watch_plain(surrogate, many, truth_STXC[:, 0], parameters_SP, steps, observe)
    return found


def _fit(name: TermName, weight: float, tolerance: float, pools: list[tuple[Move, NDArray[np.float64]]]) -> FittedTerm:
    values_HK = np.concatenate([term_values(name, tolerance, move).double().cpu().numpy() for move, _ in pools])
    errors_HK = np.concatenate([errors for _, errors in pools])
    # a rollout that left the finite range says nothing of the others
    known_H = np.isfinite(values_HK).all(axis=1) & np.isfinite(errors_HK).all(axis=1)
    if not known_H.any():
        return FittedTerm(name, weight, tolerance, 0.0, 0.0, False, "no candidate is finite")
    values_HK, errors_HK = values_HK[known_H], errors_HK[known_H]
    spread = float(np.sqrt(values_HK.var(axis=1).mean()))
    correlation = float(spearman(values_HK.T, errors_HK.T).mean())
    # rounding makes what is conserved exactly differ in the last digits
    silent = spread <= 1e-7
    reason = "does not differ between candidates" if silent else ""
    return FittedTerm(name, weight, tolerance, spread, correlation, not silent, reason)


def _judged(term: FittedTerm, least: float) -> FittedTerm:
    if not term.used or term.correlation >= least:
        return term
    return replace(term, used=False, reason=f"rank correlation with the true error {term.correlation:.2f}")


def _first(training: Trajectories, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Trajectories (S, T, X, C) evenly over the split, so that every file has its share."""
    rows = np.unique(np.linspace(0, len(training) - 1, min(count, len(training))).round().astype(int))
    fields_STXC = torch.from_numpy(np.array(training.fields_STXC[rows], dtype=np.float32))
    parameters_SP = torch.tensor(np.array(training.parameters_SP[rows]), dtype=torch.float32)
    return fields_STXC.to(device), parameters_SP.to(device)


def _entered(surrogate: Surrogate, fields_STXC: Tensor) -> Tensor:
    """Frames 0, 1, ... in the co-moving frame."""
    return surrogate.frame.enter(fields_STXC, surrogate.frame.mean(fields_STXC[:, 0]))
