"""The report of a predictor whose score is known."""

import json
import math

import numpy as np
import pytest
import torch
from fakes_evaluation import (
    DARCY,
    FLOW,
    Diverging,
    Known,
    Oracle,
    darcy_fields,
    flow_fields,
    smooth_fields,
    spec_of,
    task_of,
    trajectories_in,
    trajectories_of,
)

from ups.baselines.persistence import InitialMean, MeanSolution, Persistence
from ups.core import measures
from ups.evaluation import evaluate as module
from ups.evaluation.evaluate import Report, evaluate_run, no_skill_score, score

FIELDS = smooth_fields(samples=5, frames=13)
TRAJECTORIES = trajectories_of(FIELDS)
TRUTH = torch.from_numpy(FIELDS).float().unsqueeze(-1)


def oracle(**changes):
    return Oracle(spec_of(), FIELDS, **changes)


def expected(prediction_STXC, first=1):
    return measures.rollout_nrmse(prediction_STXC, TRUTH[:, first:])


def test_an_oracle_scores_zero_everywhere():
    report = evaluate_run(oracle(), task_of(TRAJECTORIES))
    for name in ("rollout_nrmse", "one_step_nrmse", "pdebench_rollout_nrmse", "rollout_max_error"):
        assert report.metrics[name] == 0, name
    assert report.metrics["skill"] == 1
    assert report.curves["nrmse"] == [0.0] * 12
    assert score(oracle(), TRAJECTORIES) == 0
    assert report.notes == ()


def test_frames_that_are_one_too_late_are_seen():
    report = evaluate_run(oracle(late=1), task_of(TRAJECTORIES))
    late = torch.cat([TRUTH[:, 2:], TRUTH[:, -1:]], dim=1)
    assert report.metrics["rollout_nrmse"] == pytest.approx(expected(late), rel=1e-6)
    assert report.metrics["one_step_nrmse"] == pytest.approx(expected(late), rel=1e-6)
    assert report.metrics["rollout_nrmse"] > 0.01


def test_reference_rows_are_what_they_say():
    metrics = evaluate_run(oracle(), task_of(TRAJECTORIES)).metrics
    parameters = torch.from_numpy(TRAJECTORIES.parameters_SP)
    persistence = Persistence(spec_of()).rollout(TRUTH[:, 0], parameters, 12)
    mean = InitialMean(spec_of()).rollout(TRUTH[:, 0], parameters, 12)
    assert metrics["persistence_rollout_nrmse"] == pytest.approx(expected(persistence), rel=1e-6)
    assert metrics["mean_rollout_nrmse"] == pytest.approx(expected(mean), rel=1e-6)
    assert metrics["persistence_one_step_nrmse"] == pytest.approx(expected(TRUTH[:, :-1]), rel=1e-6)
    assert 0 < metrics["coarse_solver_rollout_nrmse"] < metrics["mean_rollout_nrmse"]


def test_skill_compares_with_the_initial_mean():
    metrics = evaluate_run(Persistence(spec_of()), task_of(TRAJECTORIES)).metrics
    assert metrics["skill"] == pytest.approx(1 - metrics["rollout_nrmse"] / metrics["mean_rollout_nrmse"])
    assert metrics["rollout_nrmse"] == metrics["persistence_rollout_nrmse"]


def test_both_rollouts_of_a_latent_model_are_reported_and_only_of_one():
    metrics = evaluate_run(oracle(has_latent=True), task_of(TRAJECTORIES)).metrics
    assert metrics["latent_rollout_nrmse"] == pytest.approx(0.5, rel=1e-5)
    assert metrics["reencode_rollout_nrmse"] == metrics["rollout_nrmse"] == 0
    assert "latent_rollout_nrmse" not in evaluate_run(oracle(), task_of(TRAJECTORIES)).metrics


def test_pdebench_protocol_starts_from_the_tenth_frame():
    predictor = Persistence(spec_of())
    report = evaluate_run(predictor, task_of(TRAJECTORIES))
    tenth = TRUTH[:, 9:10].expand(-1, 3, -1, -1)
    assert report.metrics["pdebench_rollout_nrmse"] == pytest.approx(expected(tenth, first=10), rel=1e-6)
    assert report.protocol["pdebench_given_frames"] == 10
    assert report.protocol["pdebench_predicted_frames"] == 3


def test_pdebench_protocol_needs_eleven_frames():
    short = trajectories_of(FIELDS[:, :10])
    report = evaluate_run(oracle(), task_of(short))
    assert "pdebench_rollout_nrmse" not in report.metrics
    assert report.protocol["pdebench_predicted_frames"] is None


def test_contract_names_are_there():
    report = evaluate_run(oracle(has_latent=True), task_of(TRAJECTORIES)).to_json()
    assert {
        "rollout_nrmse",
        "one_step_nrmse",
        "latent_rollout_nrmse",
        "reencode_rollout_nrmse",
        "persistence_rollout_nrmse",
        "mean_rollout_nrmse",
        "coarse_solver_rollout_nrmse",
        "pdebench_rollout_nrmse",
        "rollout_nrmse_median",
    } <= report["metrics"].keys()
    assert report["protocol"] | {"files": ["a.h5"]} == report["protocol"] | {
        "equation": "burgers",
        "files": ["a.h5"],
        "split": "test",
        "split_seed": 7,
        "data": "f00d",
        "trajectories": 5,
        "cells": 32,
        "frames": 13,
        "dt": 0.1,
        "given_frames": 1,
        "predicted_frames": 12,
        "parameters": [{"nu": 0.05}],
        "coarse_solver_cells": 8,
    }


def test_memory_bound_changes_no_number(monkeypatch):
    whole = evaluate_run(oracle(late=1), task_of(TRAJECTORIES))
    monkeypatch.setattr(module, "_BATCH_VALUES", 2 * 13 * 32)
    cut = evaluate_run(oracle(late=1), task_of(TRAJECTORIES))
    assert cut.metrics == pytest.approx(whole.metrics, rel=1e-9)
    assert cut.protocol == whole.protocol


def test_a_batch_never_exceeds_its_bound():
    for shape in [(41, 256, 1), (201, 1024, 1), (2, 8, 1), (100_000, 1024, 1)]:
        size = module.batch_size(shape)
        assert size == 1 or size * math.prod(shape) <= module._BATCH_VALUES


def test_evaluation_leaves_the_data_alone():
    trajectories = trajectories_of(FIELDS)
    trajectories.fields_STXC.flags.writeable = False
    evaluate_run(oracle(), task_of(trajectories))


def test_a_rollout_that_diverges_is_reported_and_not_hidden():
    report = evaluate_run(Diverging(spec_of()), task_of(TRAJECTORIES))
    assert report.metrics["rollout_nrmse"] == math.inf
    assert math.isfinite(report.metrics["one_step_nrmse"])
    assert score(Diverging(spec_of()), TRAJECTORIES) == math.inf
    assert any("rollout: 5 of 5 trajectories left the finite range" in note for note in report.notes)
    plain = report.to_json()
    assert plain["metrics"]["rollout_nrmse"] is None
    assert plain["curves"]["nrmse"][0] > 0
    assert plain["curves"]["nrmse"][1] is None
    json.dumps(plain, allow_nan=False)


def test_report_survives_json():
    report = evaluate_run(oracle(late=1), task_of(TRAJECTORIES))
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_files_of_a_joined_task_are_reported_one_by_one():
    joined = trajectories_of(np.concatenate([FIELDS[:2], 2 * FIELDS[2:4]]), files=2)
    report = evaluate_run(Persistence(spec_of()), task_of(joined, files=("a.h5", "b.h5")))
    assert list(report.by_file) == ["a.h5", "b.h5"]
    first = measures.rollout_nrmse(TRUTH[:2, :1].expand(-1, 12, -1, -1), TRUTH[:2, 1:])
    assert report.by_file["a.h5"] == pytest.approx(first, rel=1e-6)
    assert np.mean(list(report.by_file.values())) == pytest.approx(report.metrics["rollout_nrmse"], rel=1e-9)


def test_only_what_repeats_is_a_metric():
    first, second = (evaluate_run(oracle(late=1), task_of(TRAJECTORIES)) for _ in range(2))
    assert first.metrics == second.metrics
    assert first.protocol == second.protocol
    assert all("seconds" not in name for name in first.metrics)
    assert first.cost["coarse_solver_rollout_seconds"] > 0


def test_files_that_do_not_count_the_same_are_our_mistake():
    joined = trajectories_of(FIELDS[:3], files=2)
    with pytest.raises(AssertionError):
        evaluate_run(Persistence(spec_of()), task_of(joined, files=("a.h5", "b.h5")))


def test_the_no_skill_score_is_that_of_the_initial_mean():
    task = task_of(TRAJECTORIES)
    assert no_skill_score(task) == score(InitialMean(spec_of()), TRAJECTORIES)
    assert no_skill_score(task) == evaluate_run(oracle(), task, "validation").metrics["mean_rollout_nrmse"]


FLOW_FIELDS = flow_fields()
FLOW_TASK = task_of(trajectories_in(FLOW, FLOW_FIELDS), spec=FLOW)


def test_a_flow_is_scored_channel_by_channel():
    report = evaluate_run(Known(FLOW, FLOW_FIELDS, (0.9, 1.0, 1.3)), FLOW_TASK)
    channels = [report.metrics[f"rollout_nrmse[{name}]"] for name in ("vx", "vy", "s")]
    assert channels == pytest.approx([0.1, 0, 0.3], abs=1e-6)
    assert report.metrics["rollout_nrmse"] == pytest.approx(np.mean(channels), rel=1e-6)
    assert report.protocol["cells"] == [16, 12]
    assert report.protocol["coarse_solver_cells"] is None
    assert "coarse_solver_rollout_nrmse" not in report.metrics
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_one_channel_has_no_second_name():
    assert not any("[" in name for name in evaluate_run(oracle(), task_of(TRAJECTORIES)).metrics)


def test_rows_of_a_flow_are_what_they_say():
    metrics = evaluate_run(Known(FLOW, FLOW_FIELDS), FLOW_TASK).metrics
    truth = torch.from_numpy(FLOW_FIELDS)
    mean = truth[:, :1].mean(dim=(2, 3), keepdim=True).expand(-1, 4, 16, 12, -1)
    persistence = truth[:, :1].expand(-1, 4, -1, -1, -1)
    assert metrics["mean_rollout_nrmse"] == pytest.approx(measures.rollout_nrmse(mean, truth[:, 1:]), rel=1e-6)
    expected = measures.rollout_nrmse(persistence, truth[:, 1:])
    assert metrics["persistence_rollout_nrmse"] == pytest.approx(expected, rel=1e-6)
    assert metrics["latent_rollout_nrmse"] == metrics["one_step_nrmse"] == 0


DARCY_FIELDS = darcy_fields()
DARCY_TASK = task_of(trajectories_in(DARCY, DARCY_FIELDS), spec=DARCY, mean=(0.3,))


def test_a_steady_task_has_one_step_and_its_own_no_skill_line():
    report = evaluate_run(Known(DARCY, DARCY_FIELDS, 0.8), DARCY_TASK)
    truth = torch.from_numpy(DARCY_FIELDS[:, 1:])
    no_skill = measures.rollout_nrmse(torch.full_like(truth, 0.3), truth)
    assert report.metrics["rollout_nrmse"] == pytest.approx(0.2, rel=1e-5)
    assert report.metrics["mean_rollout_nrmse"] == pytest.approx(no_skill, rel=1e-6)
    assert report.metrics["skill"] == pytest.approx(1 - 0.2 / no_skill, rel=1e-4)
    assert no_skill_score(DARCY_TASK) == report.metrics["mean_rollout_nrmse"]
    words = ("persistence", "one_step", "latent", "reencode", "pdebench", "correlation_time", "coarse")
    assert [name for name in report.metrics if any(word in name for word in words)] == []
    assert report.protocol["predicted_frames"] == 1
    assert report.curves["time"] == [1.0]
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_the_coefficient_is_no_part_of_the_steady_score():
    """Another unit of what is given changes no number."""
    scaled = DARCY_FIELDS * np.array([1e6, 1.0], np.float32).reshape(2, 1, 1, 1)
    here = evaluate_run(Known(DARCY, DARCY_FIELDS, 0.8), DARCY_TASK).metrics
    there = task_of(trajectories_in(DARCY, scaled), spec=DARCY, mean=(0.3,))
    assert evaluate_run(Known(DARCY, scaled, 0.8), there).metrics == here
    assert evaluate_run(MeanSolution(DARCY, (0.3,)), DARCY_TASK).metrics["skill"] == 0
