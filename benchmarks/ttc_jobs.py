"""What the jobs of ttc.py measure of one trained surrogate: the oracle, the grid of settings, the test split.

S trajectories, B of one batch, T frames, H states, K candidates, X cells, C channels, P parameters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from common import finite
from numpy.typing import NDArray
from pairs import Data
from torch import Tensor

from ups.baselines.coarse_solver import CoarseSolver, Solve
from ups.config import RunConfig
from ups.core.integrators import INTEGRATORS
from ups.core.measures import nrmse, spearman
from ups.core.types import Predictor
from ups.data.generators.advection import solve_advection
from ups.data.generators.burgers import solve_burgers
from ups.data.task import Task, Trajectories, load_task
from ups.evaluation.evaluate import batches
from ups.inference.build import load_surrogate
from ups.inference.reward_fit import NoReward, fit_search, term_values
from ups.inference.rewards import FittedReward, Judgement, Move, TrueError, applicable
from ups.inference.search import Effort, Pool, Search
from ups.inference.search_config import SearchConfig
from ups.inference.surrogate import Surrogate

PREDICTORS: dict[str, dict[str, Any]] = {
    "deployed": {},
    "operator": {"corrector": "none"},
    "diffusion 0": {"corrector": "diffusion", "temperature": 0.0},
    "diffusion 0.5": {"corrector": "diffusion", "temperature": 0.5},
    "diffusion 1": {"corrector": "diffusion", "temperature": 1.0},
    "student 0": {"corrector": "student", "temperature": 0.0},
    "student 0.5": {"corrector": "student", "temperature": 0.5},
    "student 1": {"corrector": "student", "temperature": 1.0},
}
"""name -> how a trained surrogate is rolled out without a search"""
SAMPLED = {
    f"{source} {temperature:g}": {
        **{"source": source, "around": "operator", "temperature": temperature, "noise_std": 0.0}
    }
    for source in ("diffusion", "student")
    for temperature in (0.5, 1.0)
}
DRAWS: dict[str, dict[str, Any]] = {
    **SAMPLED,
    **{f"noise {std:g}": {"noise_std": std} for std in (0.001, 0.004)},
}
"""name -> where the candidates of the oracle come from"""
WHOLE_CURVE = ("diffusion 1", "student 1", "noise 0.004")
"""draws whose rollout by the oracle is measured for every K; of the others one K is enough"""
CANDIDATES = 8
STATES = 8
SOLVERS: dict[str, Solve] = {"burgers": solve_burgers, "advection": solve_advection}
COARSE_CELLS = (64, 256)
UNLIMITED = 4096
"""a budget that no setting here reaches"""

ONLY_DRAWN = {
    **{"choice": "sample", "rounds": 1, "beam_width": 1, "horizon": 1, "steps": 1, "early_stop": None},
    "max_evaluations": UNLIMITED,
}
"""one step whose candidates are neither recombined nor refined: the first K of more are those of fewer"""

Predict = Callable[[Tensor, Tensor], Tensor]
"""predict(fields (B, T, X, C), parameters (B, P)) -> frames 1, 2, ...; only an oracle looks at more than frame 0"""


class Integrated:
    """The solver inside the residual term, rolled out from the first frame as the term sees it: co-moving, float32."""

    def __init__(self, surrogate: Surrogate) -> None:
        self.spec, self.frame = surrogate.spec, surrogate.frame
        self.integrate = INTEGRATORS[self.spec.equation]

    def rollout(self, initial_BXC: Tensor, parameters_BP: Tensor, steps: int, mode: str | None = None) -> Tensor:
        """Frames 1..steps as (B, steps, X, 1)."""
        mean = self.frame.mean(initial_BXC)
        field_BX, frames = (initial_BXC - mean[:, 0])[..., 0], []
        for _ in range(steps):
            field_BX = self.integrate(field_BX, parameters_BP[:, 0], self.spec.dt, self.spec.length)
            frames.append(field_BX[..., None])
        return self.frame.leave(torch.stack(frames, 1), mean, first=1)


def grid(candidates: int = CANDIDATES) -> dict[str, dict[str, Any]]:
    """Every setting that validation chooses among, none with more than `candidates` evaluations a step."""
    found: dict[str, dict[str, Any]] = {}
    for draws, settings in _grid_draws().items():
        for rounds in (1,) if draws.startswith("diffusion") else (1, 2):
            for choice in ("token", "sample"):
                more = {"candidates": candidates, "choice": choice, "rounds": rounds}
                found[f"{draws}, {choice}, {rounds} rounds"] = settings | more
        if draws.startswith("noise"):
            half = {"candidates": candidates // 2}
            found[f"{draws}, token, beam 2"] = settings | half | {"beam_width": 2}
            found[f"{draws}, token, horizon 2"] = settings | half | {"horizon": 2, "max_evaluations": candidates}
    return found


def _grid_draws() -> dict[str, dict[str, Any]]:
    noise = {f"noise {std:g}": {"source": "none", "noise_std": std} for std in (0.001, 0.002, 0.004, 0.008)}
    sources = {
        f"{source} {scale:g}": {"source": source, "source_scale": scale, "noise_std": 0.0}
        for source in ("student", "diffusion")
        for scale in (0.3, 1.0)
    }
    return noise | sources


def work(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    config = RunConfig.parse(request["config"])
    task, surrogate = load_task(config.task), load_surrogate(folder.parent / request["run"])
    measured = {"oracle": _oracle_job, "select": _select_job, "test": _test_job}
    wall, cpu = time.perf_counter(), time.process_time()
    found = measured[request["kind"]](request, folder, task, surrogate)
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
    return found | {"core_share": busy, "seconds": time.perf_counter() - wall}


# measuring


def scored(trajectories: Trajectories, predict: Predict) -> Data:
    """nRMSE of each trajectory, mean over its frames; and what a trajectory costs."""
    errors: list[float] = []
    seconds = 0.0
    for fields_BTXC, parameters_BP in batches(trajectories):
        begin = time.perf_counter()
        with torch.no_grad():
            prediction_BTXC = predict(fields_BTXC, parameters_BP)
        seconds += time.perf_counter() - begin
        error_BTC = nrmse(prediction_BTXC.double(), fields_BTXC[:, 1:].double())
        errors += error_BTC.nan_to_num(torch.inf).mean((1, 2)).tolist()
    return {"errors": [finite(error) for error in errors], "ms_per_trajectory": 1e3 * seconds / len(trajectories)}


def of(predictor: Predictor) -> Predict:
    """As it is rolled out from the first frame."""
    return lambda fields, parameters: predictor.rollout(fields[:, 0], parameters, fields.shape[1] - 1)


def searched(surrogate: Surrogate, search: Search, trajectories: Trajectories) -> Data:
    """The deployed rollout with a search, and its effort for each trajectory and step."""
    found = scored(trajectories, of(surrogate.with_search(search)))
    return found | per_step(search.effort)


def per_step(effort: Effort) -> Data:
    names = ("operator", "source", "decoder", "evaluations")
    return {**{f"{name}_per_step": getattr(effort, name) / effort.steps for name in names}, "most": effort.most}


def by_truth(surrogate: Surrogate, config: SearchConfig) -> Predict:
    """The search with the true error as its reward: greedy over the whole rollout."""

    def predict(fields_BTXC: Tensor, parameters_BP: Tensor) -> Tensor:
        moving_BTXC = surrogate.frame.enter(fields_BTXC, surrogate.frame.mean(fields_BTXC[:, 0]))
        search = Search(config, TrueError(moving_BTXC[:, 1:]))
        steps = fields_BTXC.shape[1] - 1
        return surrogate.with_search(search).rollout(fields_BTXC[:, 0], parameters_BP, steps)

    return predict


def drawn(
    surrogate: Surrogate, config: SearchConfig, trajectories: Trajectories, states: int = STATES
) -> Iterator[tuple[Move, NDArray[np.float64]]]:
    """The candidates that are drawn at states of the plain rollout, and their true errors (H, K)."""
    plain = config.override(ONLY_DRAWN)
    for fields_BTXC, parameters_BP in batches(trajectories):
        truth_BTXC = surrogate.frame.enter(fields_BTXC, surrogate.frame.mean(fields_BTXC[:, 0]))
        steps = truth_BTXC.shape[1] - 1
        with torch.no_grad():
            rolled_BTXC = surrogate.unroll(truth_BTXC[:, 0], parameters_BP, steps)
        for number in sorted(set(np.linspace(0, steps - 1, states).round().astype(int).tolist())):
            state_BXC = rolled_BTXC[:, number - 1] if number else truth_BTXC[:, 0]
            seen: list[Pool] = []
            # a reward without terms finds all equal
            search = Search(plain, FittedReward(()), observe=seen.append)
            search.frames(surrogate, state_BXC, parameters_BP, 1, (0, number))
            move = seen[0].move
            error_HK = (move.after_HKXC - truth_BTXC[:, number + 1, None]).square().flatten(2).mean(-1).sqrt()
            yield move, error_HK.double().numpy()


@dataclass(frozen=True)
class SecondOperator:
    """A judge that learned from the training trajectories: distance to what another trained surrogate would do."""

    other: Surrogate
    is_local = True

    def judge(self, move: Move) -> Judgement:
        if "predicted" not in move.known_H:
            move.known_H["predicted"] = self.other.unroll(move.before_HXC, move.parameters_HP, 1)[:, 0]
        squares = (move.after_HKXC - move.known_H["predicted"][:, None]).square()
        error_HK = -squares.flatten(2).mean(-1).sqrt()
        return Judgement(error_HK, error_HK, squares.sum(-1).flatten(2))


def mean_of_both(one: Surrogate, other: Surrogate) -> Predict:
    """Every step goes on from the mean of what two surrogates predict."""

    def predict(fields_BTXC: Tensor, parameters_BP: Tensor) -> Tensor:
        mean = one.frame.mean(fields_BTXC[:, 0])
        field_BXC, frames = fields_BTXC[:, 0] - mean[:, 0], []
        for _ in range(fields_BTXC.shape[1] - 1):
            field_BXC = (one.unroll(field_BXC, parameters_BP, 1) + other.unroll(field_BXC, parameters_BP, 1))[:, 0] / 2
            frames.append(field_BXC)
        return one.frame.leave(torch.stack(frames, 1), mean, first=1)

    return predict


def mean_of_candidates(surrogate: Surrogate, config: SearchConfig) -> Predict:
    """Every step goes on from the mean of the fields that a search would choose among: no reward at all."""
    plain = config.override(ONLY_DRAWN)

    def predict(fields_BTXC: Tensor, parameters_BP: Tensor) -> Tensor:
        mean = surrogate.frame.mean(fields_BTXC[:, 0])
        field_BXC, frames = fields_BTXC[:, 0] - mean[:, 0], []
        for number in range(fields_BTXC.shape[1] - 1):
            seen: list[Pool] = []
            search = Search(plain, FittedReward(()), observe=seen.append)
            search.frames(surrogate, field_BXC, parameters_BP, 1, (0, number))
            field_BXC = seen[0].move.after_HKXC.mean(1)
            frames.append(field_BXC)
        return surrogate.frame.leave(torch.stack(frames, 1), mean, first=1)

    return predict


# the jobs


def _oracle_job(request: Data, folder: Path, task: Task, surrogate: Surrogate) -> Data:
    """What rollouts without a search score, and what any reward could win over them."""
    bare = surrogate.with_search(None)
    plain = {
        name: {
            split: _short(scored(trajectories, of(bare.with_inference(**how))))
            for split, trajectories in (("validation", task.validation), ("test", task.test))
        }
        for name, how in request["predictors"].items()
    }
    counts: list[int] = request["counts"]
    some = _first(task.test, request["oracle_trajectories"])
    base = _mean(scored(some, of(bare)))
    return {
        "correction": surrogate.correction,
        "plain": plain,
        "one_step": {
            name: _best_of(drawn(surrogate, _config(draws, max(counts)), some), counts)
            for name, draws in request["draws"].items()
        },
        "rollout": {
            name: {
                f"{choice} {count}": _ratio(
                    _mean(scored(some, by_truth(surrogate, _config(draws | {"choice": choice}, count)))), base
                )
                for choice, count in _oracle_settings(name, counts)
            }
            for name, draws in request["draws"].items()
        },
    }


def _oracle_settings(draws: str, counts: Sequence[int]) -> Iterator[tuple[str, int]]:
    middle = min(counts, key=lambda count: abs(count - CANDIDATES))
    for count in counts if draws in WHOLE_CURVE else [middle]:
        yield "sample", count
    if draws in WHOLE_CURVE or draws.startswith("noise"):
        yield "token", middle


def _best_of(pools: Iterator[tuple[Move, NDArray[np.float64]]], counts: Sequence[int]) -> Data:
    """Mean error of the best of the first K over that of the plain proposal."""
    errors_HK = np.concatenate([errors for _, errors in pools])
    return {str(count): float(errors_HK[:, :count].min(1).mean() / errors_HK[:, 0].mean()) for count in counts}


def _select_job(request: Data, folder: Path, task: Task, surrogate: Surrogate) -> Data:
    """The validation error of every setting of the grid."""
    plain = _mean(scored(task.validation, of(surrogate.with_search(None))))
    settings: Data = {}
    # a reward is fitted to what is drawn; neither how it is chosen nor in how many rounds enters it
    searches: dict[tuple[object, ...], Search | NoReward] = {}
    for name, setting in request["settings"].items():
        config = SearchConfig().override(setting)
        draws = (config.source, config.source_scale, config.noise_std)
        if draws not in searches:
            try:
                searches[draws] = fit_search(surrogate, config, task.train)
            except NoReward as error:
                searches[draws] = error
        fitted = searches[draws]
        if isinstance(fitted, NoReward):
            settings[name] = {"error": None, "reason": str(fitted)}
        else:
            settings[name] = _short(searched(surrogate, Search(config, fitted.reward), task.validation))
    return {"plain": plain, "settings": settings}


def _told(surrogate: Surrogate, task: Task, trajectories: Trajectories, config: SearchConfig) -> Data:
    """Mean error and cost of a fitted search, or the reason why there is none."""
    begin = time.perf_counter()
    try:
        search = fit_search(surrogate, config, task.train)
    except NoReward as error:
        return {"error": None, "reason": str(error)}
    seconds = time.perf_counter() - begin
    found = searched(surrogate, search, trajectories)
    return {**_short(found), "fit_seconds": seconds}


def _test_job(request: Data, folder: Path, task: Task, surrogate: Surrogate) -> Data:
    """The selected setting beside everything that competes with it, in one process."""
    chosen = SearchConfig().override(request["setting"])
    search = fit_search(surrogate, chosen, task.train)
    bare = surrogate.with_search(None)
    test = task.test
    predictions: dict[str, Predict] = {
        "plain": of(bare),
        "wide operator": of(load_surrogate(folder.parent / request["wide_run"])),
        **_ensembles(bare, chosen, request["members"]),
        **_solvers(surrogate),
    }
    if request["best_plain"]:
        predictions["best plain"] = of(bare.with_inference(**request["best_plain"]))
    for fields_BTXC, parameters_BP in batches(test):  # compiling kernels is not the cost of a trajectory
        for name, predict in predictions.items():
            if name.startswith("solver"):
                predict(fields_BTXC[:1, :2], parameters_BP[:1])
        break
    rows = {"ttc": searched(surrogate, search, test)}
    if request["judge_run"]:
        judge = load_surrogate(folder.parent / request["judge_run"])
        rows["ttc, judged by a second operator"] = searched(bare, Search(chosen, SecondOperator(judge)), test)
        predictions["mean of both operators"] = mean_of_both(bare, judge)
    rows |= {name: scored(test, predict) for name, predict in predictions.items()}
    return {
        "rows": rows,
        "budget": _budget(request, task, surrogate, chosen),
        "rewards": _rewards(task, surrogate, chosen),
        "terms": _terms(search, surrogate, test),
    }


def _ensembles(surrogate: Surrogate, chosen: SearchConfig, members: int) -> dict[str, Predict]:
    """The same number of samples, averaged instead of chosen."""

    def mean_of(inference: Mapping[str, Any]) -> Predict:
        drawing = surrogate.with_inference(**inference)

        def predict(fields_BTXC: Tensor, parameters_BP: Tensor) -> Tensor:
            steps = fields_BTXC.shape[1] - 1
            return drawing.sample(fields_BTXC[:, 0], parameters_BP, steps, members=members).mean(0)

        return predict

    names = [f"{source} {temperature:g}" for source in ("diffusion", "student") for temperature in (0.5, 1.0)]
    averaged = {name: SearchConfig().override(SAMPLED[name] | {"candidates": members}) for name in names}
    averaged["selected draws"] = chosen.override({"candidates": members, "rounds": 1})
    found = {f"ensemble, {name}": mean_of(PREDICTORS[name]) for name in names}
    found |= {f"mean of each step, {name}": mean_of_candidates(surrogate, how) for name, how in averaged.items()}
    return found


def _solvers(surrogate: Surrogate) -> dict[str, Predict]:
    spec = surrogate.spec
    found = {
        f"solver of the data, {cells} cells": of(CoarseSolver(spec, cells, SOLVERS[spec.equation]))
        for cells in COARSE_CELLS
        if spec.cells[0] % cells == 0
    }
    return found | {f"solver of the residual term, {spec.cells[0]} cells": of(Integrated(surrogate))}


def _budget(request: Data, task: Task, surrogate: Surrogate, chosen: SearchConfig) -> Data:
    """Error against candidates, everything else as selected; and the most of them in four rounds."""
    counts: list[int] = [1, *request["counts"]]
    ways = {str(count): (count, min(chosen.rounds, count)) for count in counts}
    if chosen.around == "proposal" and max(counts) >= 4:
        ways[f"4 x {max(counts) // 4}"] = (max(counts), 4)
    return {
        name: _told(
            surrogate,
            task,
            task.test,
            chosen.override({"candidates": count, "rounds": rounds, "max_evaluations": UNLIMITED}),
        )
        for name, (count, rounds) in ways.items()
    }


def _rewards(task: Task, surrogate: Surrogate, chosen: SearchConfig) -> Data:
    """The same search by other rewards: each term alone, without the one that integrates the equation, by the truth."""
    found: Data = {}
    for name in applicable(surrogate.spec):
        alone = {**chosen.model_dump(mode="json"), "reward": {"kind": "composite", name: 1.0}}
        found[name] = _told(surrogate, task, task.test, SearchConfig.parse(alone))
    without = chosen.override({"reward.without": ["residual"]})
    found["adaptive, without residual"] = _told(surrogate, task, task.test, without)
    truth = scored(task.test, by_truth(surrogate, chosen))
    found["true error"] = _short(truth)
    return found


def _terms(search: Search, surrogate: Surrogate, trajectories: Trajectories) -> list[Data]:
    """Every term as training calibrated it, and how it ranks candidates on these trajectories."""
    assert isinstance(search.reward, FittedReward)
    pools = list(drawn(surrogate, search.config, trajectories))
    errors_HK = np.concatenate([errors for _, errors in pools])

    def correlation(values: list[Tensor]) -> float:
        values_HK = torch.cat(values).double().numpy()
        return float(spearman(values_HK.T, errors_HK.T).mean())

    found: list[Data] = []
    for term in search.reward.terms:
        measured = correlation([term_values(term.name, term.tolerance, move) for move, _ in pools])
        found.append(
            {"name": term.name, "training": term.correlation, "here": measured, "used": term.used}
            | {"reason": term.reason}
        )
    merit = correlation([-search.reward.judge(move).merit_HK for move, _ in pools])
    found.append({"name": "the reward", "training": None, "here": merit, "used": True, "reason": ""})
    return found


def _first(trajectories: Trajectories, count: int) -> Trajectories:
    held = {name: getattr(trajectories, name)[:count] for name in ("fields_STXC", "parameters_SP", "file_S")}
    return replace(trajectories, **held)


def _ratio(error: float | None, base: float | None) -> float | None:
    return None if error is None or base is None else error / base


def _config(draws: Mapping[str, Any], candidates: int) -> SearchConfig:
    how = {"choice": "sample", "candidates": candidates, "max_evaluations": UNLIMITED}
    return SearchConfig().override(how | dict(draws))


def _short(found: Mapping[str, Any]) -> Data:
    """The mean error instead of that of each trajectory."""
    return {"error": _mean(found), **{name: value for name, value in found.items() if name != "errors"}}


def _mean(found: Mapping[str, Any]) -> float | None:
    errors = found["errors"]
    return None if None in errors else fmean(errors)
