"""Files that a run was not trained on: coinciding frames, cells, extrapolation."""

import numpy as np
import pytest
from fakes_evaluation import NU, Oracle, smooth_fields, spec_of

from ups.core.errors import DataError, UserError
from ups.data.pdebench import write_tensor_file
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
    report = evaluate_file(oracle(training_parameters=(0.01, 0.1)), write(tmp_path / "a.h5"), cache=cache)
    assert report.protocol["extrapolation"] is True
    assert report.protocol["training_parameters"] == [0.01, 0.1]
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
