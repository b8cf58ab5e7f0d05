"""What a reward is fitted at, in which units, and that neither the parts of a batch nor a look-ahead lose anything."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fakes_search import comoving, reward_of, spec_of, start_of, surrogate_of
from torch import Tensor

from ups.inference import search as module
from ups.inference.reward_fit import watch_plain
from ups.inference.rewards import TERMS, Move, TrueError
from ups.inference.search import Pool, Search
from ups.inference.search_config import SearchConfig
from ups.inference.surrogate import Correction

MODES: dict[str, dict[str, Any]] = {
    "reencode": {},
    "reencode-2": {"reencode_every": 2},
    "latent": {"rollout": "latent"},
}
NOISY = SearchConfig(candidates=4, noise_std=0.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chosen", ["none", "diffusion", "student"])
def test_candidate_0_is_the_step_of_the_plain_rollout(mode: str, chosen: Correction) -> None:
    surrogate = surrogate_of("burgers", chosen=chosen, **MODES[mode])
    start, parameters = start_of("burgers")
    start = comoving(surrogate, start)
    seen: list[Pool] = []
    with torch.no_grad():
        plain = surrogate.unroll(start, parameters, 5)
    watch_plain(surrogate, NOISY, start, parameters, 5, seen.append)
    assert [pool.move.number for pool in seen] == [1, 2, 3, 4, 5]
    for pool, frame in zip(seen, plain.unbind(1), strict=True):
        torch.testing.assert_close(pool.move.after_HKXC[:, 0], frame, rtol=1e-5, atol=1e-5)
        assert (pool.move.after_HKXC[:, 1:] - frame[:, None]).abs().amax() > 1e-3


@pytest.mark.parametrize("values", [1, 32 * 4 * 3])
def test_parts_of_a_batch_change_nothing(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    """With the truth of each sample as its reward: a sample that is taken for another would be judged by that one's."""
    surrogate = surrogate_of("burgers")
    start, parameters = start_of("burgers", 5)
    start = comoving(surrogate, start)
    truth = surrogate.unroll(start, parameters, 3).detach() * 0.9
    config = SearchConfig(candidates=4, noise_std=0.1, horizon=2)
    whole = Search(config, TrueError(truth)).frames(surrogate, start, parameters, 3, (0, 0))
    monkeypatch.setattr(module, "_STEP_VALUES", values)
    seen: list[Pool] = []
    parts = Search(config, TrueError(truth), observe=seen.append).frames(surrogate, start, parameters, 3, (0, 0))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    assert len(seen) > 3
    assert {int(sample) for pool in seen for sample in pool.move.sample_H} == set(range(5))


def test_a_look_ahead_kills_no_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that looks ahead from few of them."""
    kept: list[Tensor] = []
    survivors = module._Rollout._survivors

    def watched(self: Any, made: Any, stretch: Any, merit_BW: Tensor, *rest: Any) -> Any:
        kept.append(merit_BW)
        return survivors(self, made, stretch, merit_BW, *rest)

    monkeypatch.setattr(module._Rollout, "_survivors", watched)
    config = SearchConfig(candidates=4, noise_std=0.1, beam_width=3, horizon=2, max_evaluations=10)
    surrogate = surrogate_of("burgers")
    start, parameters = start_of("burgers")
    search = Search(config, reward_of("burgers"))
    search.frames(surrogate, comoving(surrogate, start), parameters, 4, (0, 0))
    assert [merit_BW.shape[1] for merit_BW in kept] == [3, 3, 3, 3]
    assert all(bool(merit_BW.isfinite().all()) for merit_BW in kept)


def residual_of(cells: int, size: float) -> float:
    """Of a wave that has not moved at all where it should have."""
    spec = spec_of("advection", cells)
    wave = size * torch.sin(2 * math.pi * (torch.arange(cells) + 0.5) / cells).view(1, cells, 1)
    move = Move(spec, wave, wave[:, None], torch.tensor([[1.0]]), torch.tensor([1e-3]), torch.zeros(1).long(), 1)
    return float(TERMS["residual"].measure(move)[0])


def test_the_residual_is_the_same_on_any_grid() -> None:
    coarse, middle, fine = (residual_of(cells, 1.0) for cells in (32, 64, 256))
    # the share of the domain by which the wave should have moved, as far as its chord tells
    assert coarse == pytest.approx(0.05, rel=0.02)
    assert middle == pytest.approx(coarse, rel=0.01)
    assert fine == pytest.approx(coarse, rel=0.01)


def test_a_field_that_has_decayed_breaks_no_law() -> None:
    assert residual_of(64, 1e-9) < 1e-4 * residual_of(64, 1.0)
