"""What vectorisation brings, and what a search costs beyond the networks it calls.

B batch, H = B hypotheses, K candidates of each, N tokens, D latent width, X cells, C channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from pairs import Data
from torch import Tensor

from ups.config import RunConfig
from ups.data.task import Task, load_task
from ups.evaluation.evaluate import batches
from ups.inference.build import load_surrogate
from ups.inference.candidates import Draws
from ups.inference.reward_fit import fit_search
from ups.inference.rewards import FittedReward, Judgement, Move, Reward
from ups.inference.search import Effort, Search
from ups.inference.search_config import SearchConfig
from ups.inference.stretch import Stretch
from ups.inference.surrogate import Surrogate
from ups.models.latent import LatentModel

SOURCES: dict[str, dict[str, Any]] = {
    "noise": {"noise_std": 0.002},
    "student": {"source": "student", "noise_std": 0.0},
}
LEAST_SPREAD = 1e-6


def work(request: Data, folder: Path) -> Data:
    """In the process of a job that has the machine for itself."""
    config = RunConfig.parse(request["config"])
    task, surrogate = load_task(config.task), load_surrogate(folder.parent / request["run"])
    repeats, steps = request["repeats"], request["steps"]
    wall, cpu = time.perf_counter(), time.process_time()
    found: Data = {"one_call": [], "overhead": []}
    for source, draws in SOURCES.items():
        settings = SearchConfig().override(draws)
        for reward_name, reward in _rewards(surrogate, settings, task).items():
            names = {"source": source, "reward": reward_name}
            found["one_call"].append(names | one_call(surrogate, settings, reward, task, request["many"], repeats))
            for batch in request["batches"]:
                search = Search(settings, reward)
                found["overhead"].append(names | overhead(surrogate, search, task, batch, steps, repeats))
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
    return found | {"core_share": busy}


def _rewards(surrogate: Surrogate, config: SearchConfig, task: Task) -> dict[str, Reward]:
    """Every term that the equation allows, and all but the one that integrates it; how they rank does not matter."""
    fitted = fit_search(surrogate, config, task.train).reward
    assert isinstance(fitted, FittedReward)
    terms = [replace(term, used=True, spread=max(term.spread, LEAST_SPREAD)) for term in fitted.terms]
    return {
        "with residual": FittedReward(tuple(terms)),
        "without residual": FittedReward(tuple(term for term in terms if term.name != "residual")),
    }


# one call of many against many of one


def one_call(surrogate: Surrogate, config: SearchConfig, reward: Reward, task: Task, many: int, repeats: int) -> Data:
    """Milliseconds of `many` candidates of one state: drawn, decoded and judged together, and one by one.

    What terms find out about the state itself is found out once in either, so that it favours neither.
    """
    step = _Step.enter(surrogate, config, reward, task)

    def one_by_one() -> None:
        fresh = step.fresh()
        for number in range(many):
            fresh.judged(number, 1)

    together, alone = timed([lambda: step.fresh().judged(0, many), one_by_one], repeats)
    return {"candidates": many, "together_ms": 1e3 * together, "one_by_one_ms": 1e3 * alone, "ratio": alone / together}


@dataclass(frozen=True)
class _Step:
    """The first step of one trajectory, up to where candidates are drawn."""

    model: LatentModel
    stretch: Stretch
    draws: Draws
    centre_HND: Tensor
    move: Move
    reward: Reward

    @classmethod
    def enter(cls, surrogate: Surrogate, config: SearchConfig, reward: Reward, task: Task) -> _Step:
        assert isinstance(surrogate.model, LatentModel)
        fields_BTXC, parameters_BP = next(batches(task.test))
        start_BXC, parameters_BP = _entered(surrogate, fields_BTXC[:1, 0]), parameters_BP[:1]
        with torch.no_grad():
            stretch = Stretch.enter(surrogate, start_BXC, parameters_BP, 1, None).encode(surrogate.model, False)
            assert stretch.latent is not None
            base_HND = surrogate.model.advance(stretch.latent, stretch.features)
            stretch, _ = stretch.land(surrogate.model, base_HND[:, None])
            draws = Draws(config, surrogate, stretch, base_HND, (0, 0, 1), 1)
            draws.around(base_HND, 0, 1, 0)  # what is computed once for all draws
        sample_H = torch.zeros(1, dtype=torch.long)
        move = surrogate.move(start_BXC, start_BXC[:, None], parameters_BP, sample_H, 1)
        return cls(surrogate.model, stretch, draws, base_HND, move, reward)

    def fresh(self) -> _Step:
        """The same without what was found out about the state when it was judged before."""
        return replace(self, move=replace(self.move, known_H={}))

    def judged(self, first: int, count: int) -> Judgement:
        """Draws `first`, `first + 1`, ... drawn, decoded and judged in one call."""
        with torch.no_grad():
            latent_HKND = self.draws.around(self.centre_HND, first, count, 0)
            _, canonical_HKXC = self.stretch.land(self.model, latent_HKND)
            wide = self.stretch.map(lambda value: value.repeat_interleave(count, 0))
            after_HKXC = wide.physical(canonical_HKXC.flatten(0, 1)).view_as(canonical_HKXC)
            return self.reward.judge(replace(self.move, after_HKXC=after_HKXC))


# a search against the networks that it calls


def overhead(surrogate: Surrogate, search: Search, task: Task, batch: int, steps: int, repeats: int) -> Data:
    """Seconds of a searched rollout, of the same numbers of operator, source and decoder calls, each in one call a
    step, and of the encoder that a re-encoded rollout calls anyway; and where the search's time goes."""
    model = surrogate.model
    assert isinstance(model, LatentModel)
    start_BXC, parameters_BP = _batch(surrogate, task, batch)
    effort = Effort()
    replace(search, effort=effort).frames(surrogate, start_BXC, parameters_BP, steps, (0, 0))
    rows = {name: getattr(effort, name) // steps for name in ("operator", "source", "decoder")}

    with torch.no_grad():
        stretch = Stretch.enter(surrogate, start_BXC, parameters_BP, 1, None).encode(model, False)
    assert stretch.latent is not None
    latent_BND, features_BF, source = stretch.latent, stretch.features, search.config.source
    calls_per_latent = surrogate.calls_of(source) if source != "none" else 1

    def repeated(value: Tensor, count: int) -> Tensor:
        return value.repeat(-(-count // batch), *(1 for _ in value.shape[1:]))[:count]

    decoded_RND = repeated(latent_BND, rows["decoder"])
    advanced_RND, advanced_RF = repeated(latent_BND, rows["operator"]), repeated(features_BF, rows["operator"])
    drawn = rows["source"] // calls_per_latent
    drawn_RND, drawn_RF = repeated(latent_BND, drawn), repeated(features_BF, drawn)

    def by_hand() -> None:
        with torch.no_grad():
            for _ in range(steps):
                model.advance(advanced_RND, advanced_RF)
                if drawn:
                    surrogate.flow_end(source, drawn_RND, drawn_RND, drawn_RND, drawn_RF)
                model.decode(decoded_RND)

    def encoded() -> None:
        with torch.no_grad():
            for _ in range(steps):
                model.encode(stretch.canonical)

    def run() -> None:
        search.frames(surrogate, start_BXC, parameters_BP, steps, (0, 0))

    whole, calls, encoder = timed([run, by_hand, encoded], repeats)
    return {
        **{"batch": batch, "steps": steps, "candidates": search.config.candidates},
        **{f"{name}_rows": count for name, count in rows.items()},
        **{"search_ms": 1e3 * whole, "calls_ms": 1e3 * calls, "encoder_ms": 1e3 * encoder},
        **{"ratio": whole / calls, "ratio_with_encoder": whole / (calls + encoder)},
        "parts": parts(surrogate, search, start_BXC, parameters_BP, steps),
    }


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(*given: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            found = call(*given, **named)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
            return found

        return clocked


@dataclass(frozen=True)
class _Clocked:
    """A reward whose time is counted."""

    reward: Reward
    clock: _Clock

    @property
    def is_local(self) -> bool:
        return self.reward.is_local

    def judge(self, move: Move) -> Judgement:
        found = self.clock.around("reward", self.reward.judge)(move)
        assert isinstance(found, Judgement)
        return found


def parts(surrogate: Surrogate, search: Search, start_BXC: Tensor, parameters_BP: Tensor, steps: int) -> Data:
    """Share of a searched rollout's time by what it was spent on."""
    clock = _Clock()
    with _clocks(surrogate, clock):
        begin = time.perf_counter()
        replace(search, reward=_Clocked(search.reward, clock)).frames(
            surrogate, start_BXC, parameters_BP, steps, (0, 0)
        )
        whole = time.perf_counter() - begin
    shares = {name: seconds / whole for name, seconds in clock.seconds.items()}
    return shares | {"the rest": 1 - sum(shares.values())}


@contextmanager
def _clocks(surrogate: Surrogate, clock: _Clock) -> Iterator[None]:
    model = surrogate.model
    with ExitStack() as stack:
        for call, name in (("encode", "encoder"), ("advance", "operator"), ("decode", "decoder")):
            stack.enter_context(patch.object(model, call, clock.around(name, getattr(model, call))))
        stack.enter_context(patch.object(surrogate, "flow_end", clock.around("source", surrogate.flow_end)))
        # looked up on the class: the draws of a step are built inside the search
        normal = clock.around("drawing noise", Draws._normal)
        stack.enter_context(patch.object(Draws, "_normal", lambda self, *given: normal(self, *given)))
        yield


def timed(calls: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each, called in turn, after one call of each that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(repeats + 1):
        for call, found in zip(calls, seconds, strict=True):
            begin = time.perf_counter()
            call()
            if number:
                found.append(time.perf_counter() - begin)
    return [median(found) for found in seconds]


def _batch(surrogate: Surrogate, task: Task, batch: int) -> tuple[Tensor, Tensor]:
    fields_BTXC, parameters_BP = next(batches(task.test))
    rows = torch.arange(batch) % len(fields_BTXC)
    return _entered(surrogate, fields_BTXC[rows, 0]), parameters_BP[rows]


def _entered(surrogate: Surrogate, initial_BXC: Tensor) -> Tensor:
    return initial_BXC - surrogate.frame.mean(initial_BXC)[:, 0]
