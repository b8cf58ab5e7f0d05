"""Milliseconds of a step: what is timed, how it is counted, and that a run records it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes_evaluation import DARCY, darcy_fields, smooth_fields, trajectories_in, trajectories_of
from hypothesis import given
from hypothesis import strategies as st

from ups.config import RunConfig
from ups.core.types import Status
from ups.evaluation import latency
from ups.evaluation.latency import MOST_STEPS, REPEATS, SECONDS, inference_ms
from ups.evaluation.runs import RESULT, load_result
from ups.run import train_run


class Timed:
    """A predictor with a clock of its own: rollout n takes costs[n] a step, later ones the last."""

    reference_F = torch.zeros(1)

    def __init__(self, costs: list[float]) -> None:
        self.costs, self.calls, self.now = costs, [], 0.0

    def rollout(self, initial_BXC, parameters_BP, steps, mode=None):
        assert mode is None, "a mode that is named is rolled out without the search"
        assert len(initial_BXC) == len(parameters_BP) == 1
        self.now += self.costs[min(len(self.calls), len(self.costs) - 1)] * steps
        self.calls.append(steps)

    def measure(self, split: Any) -> float:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: self.now))
            return inference_ms(self, split)


def burgers(frames: int = 13) -> Any:
    return trajectories_of(smooth_fields(frames=frames))


def test_the_warm_up_does_not_count_and_the_fastest_does():
    assert Timed([0.0, 0.004, 0.002, 0.003]).measure(burgers()) == pytest.approx(2.0)


@given(cost=st.floats(1e-6, 10))
def test_no_more_is_rolled_out_than_it_takes(cost):
    predictor = Timed([cost])
    assert predictor.measure(burgers()) == pytest.approx(1000 * cost)
    assert 2 <= len(predictor.calls) <= 1 + REPEATS
    assert len(predictor.calls) == 1 + REPEATS or predictor.now > SECONDS
    assert predictor.now - 12 * cost <= SECONDS + 12 * cost


@pytest.mark.parametrize(("frames", "steps"), [(4, 3), (40, MOST_STEPS)])
def test_rollouts_are_as_long_as_the_data_and_bounded(frames, steps):
    predictor = Timed([0.001])
    assert predictor.measure(burgers(frames)) == pytest.approx(1.0)
    assert set(predictor.calls) == {steps}


def test_a_steady_task_has_one_prediction():
    predictor = Timed([0.001])
    assert predictor.measure(trajectories_in(DARCY, darcy_fields())) == pytest.approx(1.0)
    assert set(predictor.calls) == {1}


def test_a_run_records_it_with_its_memory(tiny: dict[str, Any], tmp_path: Path):
    config = RunConfig.parse(tiny)
    first = train_run(config, tmp_path / "a", evaluate_on="none", store=tmp_path / "store")
    assert first.status is Status.COMPLETE
    assert first.inference_ms > 0
    assert first.peak_memory_gib > 0
    assert train_run(config, tmp_path / "a", resume=True) == first, "what was measured is not measured again"
    found = train_run(config, tmp_path / "b", evaluate_on="none", store=tmp_path / "store")
    assert found.reused_stages == ("operator",)
    assert found.peak_memory_gib == first.peak_memory_gib, "that of its training"
    assert found.inference_ms > 0


def test_a_result_without_it_is_read(tmp_path: Path):
    plain = {"status": "COMPLETE", "reason": "", "score": 0.1, "milestones": {}, "seconds": 1.0, "parameters": 7}
    (tmp_path / RESULT).write_text(json.dumps({**plain, "folder": None, "reused_stages": []}))
    assert load_result(tmp_path).inference_ms is None
