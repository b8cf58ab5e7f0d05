"""Files that a run was not trained on: coinciding frames, cells, extrapolation."""

import numpy as np
import pytest
from fakes_evaluation import DARCY, FLOW, NU, Known, Oracle, darcy_fields, flow_fields, smooth_fields, spec_of

from ups.core.errors import DataError, UserError
from ups.core.types import FieldSpec
from ups.data.normalization import Normalizer
from ups.data.pdebench import write_fields, write_tensor_file
from ups.evaluation.foreign import evaluate_file

# 64 cells, dt 0.05: the run has 32 cells and dt 0.1 of it
FINE = smooth_fields(samples=3, cells=64, frames=9, dt=0.05)


def write(path, fields=FINE, dt=0.05, length=1.0, **attributes):
    return write_tensor_file(path, fields.astype(np.float32), dt=dt, length=length, **(attributes or {"Nu": NU}))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def oracle(dt=0.1, cells=32, **changes):
    known = FINE[:, :: round(dt / 0.05), :: 64 // cells].astype(np.float32)
    finer = FINE[:, :: round(dt / 0.05)].astype(np.float32)
    return Oracle(spec_of(cells=cells, dt=dt), known, **{"finer": finer, **changes})


def test_frames_and_cells_are_strided_to_the_runs(tmp_path, cache):
    report = evaluate_file(oracle(), write(tmp_path / "a.h5"), cache=cache)
    assert report.metrics["rollout_nrmse"] == 0
    assert report.protocol["cells"] == 32
    assert report.protocol["frames"] == 5
    assert report.protocol["trajectories"] == 3
    assert report.protocol["space_stride"] == 2
    assert report.protocol["time_stride"] == 2
    assert report.protocol["extrapolation"] is False
    assert report.notes == ()


def test_a_second_row_has_the_files_own_cells(tmp_path, cache):
    report = evaluate_file(oracle(), write(tmp_path / "a.h5"), cache=cache)
    assert report.zero_shot is not None
    assert report.zero_shot.protocol["cells"] == 64
    assert report.zero_shot.metrics["rollout_nrmse"] == 0
    assert any("zero-shot: 64 cells, the run was trained on 32" in note for note in report.zero_shot.notes)


def test_a_fixed_grid_has_no_second_row_and_says_so(tmp_path, cache):
    report = evaluate_file(oracle(finer=None), write(tmp_path / "a.h5"), cache=cache)
    assert report.zero_shot is None
    assert any("no row at the file's own 64 cells: fixed grid" in note for note in report.notes)


def test_a_run_with_shorter_steps_is_compared_where_frames_coincide(tmp_path, cache):
    path = write(tmp_path / "a.h5", FINE[:, ::2], dt=0.1)
    report = evaluate_file(oracle(dt=0.05, cells=64), path, cache=cache)
    assert report.metrics["rollout_nrmse"] == 0
    assert report.metrics["one_step_nrmse"] == 0
    assert report.protocol["dt"] == pytest.approx(0.1)
    assert report.protocol["run_dt"] == 0.05
    assert report.zero_shot is None
    assert any("2 steps of the run" in note for note in report.notes)


def test_a_file_coarser_than_the_run_is_scored_on_its_own_cells(tmp_path, cache):
    path = write(tmp_path / "a.h5", FINE[:, :, ::4])
    known = FINE[:, ::2, ::4].astype(np.float32)
    report = evaluate_file(oracle(finer=known), path, cache=cache)
    assert report.protocol["cells"] == 16
    assert report.metrics["rollout_nrmse"] == 0
    with pytest.raises(UserError, match="fixed grid"):
        evaluate_file(oracle(finer=None), path, cache=cache)


@pytest.mark.parametrize("dt", [0.03, 0.07, 0.15])
def test_spacings_must_divide(tmp_path, cache, dt):
    with pytest.raises(UserError, match=r"multiple or a divisor of the run's dt 0\.1"):
        evaluate_file(oracle(), write(tmp_path / "a.h5", dt=dt), cache=cache)


def test_foreign_parameters_are_flagged(tmp_path, cache):
    report = evaluate_file(oracle(training_parameters=((0.1,), (0.01,))), write(tmp_path / "a.h5"), cache=cache)
    assert report.protocol["extrapolation"] is True
    assert report.protocol["training_parameters"] == [{"nu": 0.01}, {"nu": 0.1}]
    assert any("nu is 0.05, the run was trained on 0.01, 0.1" in note for note in report.notes)


def test_the_runs_own_file_is_flagged(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "a.h5")
    monkeypatch.chdir(tmp_path)
    report = evaluate_file(oracle(), path, trained_on=("a.h5",), cache=cache)
    assert any("was trained on are among these" in note for note in report.notes)


def test_other_equations_and_domains_are_refused(tmp_path, cache):
    with pytest.raises(DataError, match="advection"):
        evaluate_file(oracle(), write(tmp_path / "a.h5", beta=0.1), cache=cache)
    with pytest.raises(DataError, match="the run's length 1, got 2"):
        evaluate_file(oracle(), write(tmp_path / "b.h5", length=2.0), cache=cache)
    with pytest.raises(DataError, match="no such file"):
        evaluate_file(oracle(), tmp_path / "c.h5", cache=cache)


def write_flow(path, fields_STXC, nu=0.01):
    return write_fields(path, "navier_stokes", fields_STXC, dt=FLOW.dt, length=FLOW.length, nu=nu)


def test_planes_are_strided_along_both_axes(tmp_path, cache):
    fine = flow_fields(cells=(32, 24))
    known = Known(FLOW, fine[:, :, ::2, ::2], training_parameters=((0.01,), (0.1,)))
    report = evaluate_file(known, write_flow(tmp_path / "a.h5", fine), cache=cache)
    assert report.metrics["rollout_nrmse"] == 0
    assert report.protocol["cells"] == [16, 12]
    assert report.protocol["space_stride"] == 2
    assert report.protocol["extrapolation"] is False
    assert any("no row at the file's own 32 x 24 cells: Known has a fixed grid of 16 x 12" in n for n in report.notes)


def test_another_shape_of_the_plane_is_refused(tmp_path, cache):
    square = write_flow(tmp_path / "a.h5", flow_fields(cells=(16, 16)))
    with pytest.raises(DataError, match=r"length 2 x 1\.5, got 2 x 2"):
        evaluate_file(Known(FLOW, flow_fields()), square, cache=cache)


def test_a_steady_file_is_scored_against_the_mean_solution_of_the_training_split(tmp_path, cache):
    fields = darcy_fields()
    path = write_fields(tmp_path / "a.h5", "darcy", fields, beta=1.0)
    trained_on = Known(DARCY, fields, 0.9, Normalizer((0.3,), (1.0,)), ((2.0,),))
    report = evaluate_file(trained_on, path, cache=cache)
    solution = fields[:, 1, ..., 0].astype(np.float64)
    size = np.sqrt((solution**2).mean(axis=(1, 2)))
    expected = (np.sqrt(((solution - 0.3) ** 2).mean(axis=(1, 2))) / size).mean()
    assert report.metrics["rollout_nrmse"] == pytest.approx(0.1, rel=1e-5)
    assert report.metrics["mean_rollout_nrmse"] == pytest.approx(expected, rel=1e-5)
    assert any("extrapolation: beta is 1, the run was trained on 2" in note for note in report.notes)


def test_of_several_parameters_those_that_differ_are_told(tmp_path, cache):
    fields = np.abs(flow_fields()[..., :2])
    spec = FieldSpec("diffusion_reaction", (16, 12), 2, 2.0, 0.25, ("du", "dv", "k"), "neumann")
    path = write_fields(tmp_path / "a.h5", spec.equation, fields, dt=spec.dt, length=2.0, du=2e-3)
    seen = ((1e-3, 5e-3, 5e-3), (1e-3, 5e-3, 1e-2))
    report = evaluate_file(Known(spec, fields, training_parameters=seen), path, cache=cache)
    assert any("du, k are 0.002, 0.005, the run was trained on 0.001, 0.005; 0.001, 0.01" in n for n in report.notes)
    assert (
        evaluate_file(Known(spec, fields, training_parameters=((2e-3, 5e-3, 5e-3),)), path, cache=cache).protocol[
            "extrapolation"
        ]
        is False
    )
