"""One predicted trajectory as a picture and as a file of its family."""

import h5py
import numpy as np
import pytest
from fakes_evaluation import (
    DARCY,
    FLOW,
    Known,
    Oracle,
    darcy_fields,
    flow_fields,
    smooth_fields,
    spec_of,
    trajectories_in,
    trajectories_of,
)
from matplotlib.image import imread

from ups.core.errors import UserError
from ups.core.types import FieldSpec
from ups.data.pdebench import inspect, read_reduced
from ups.evaluation.rollout import Rollout, predict_one, save_fields, save_picture

REACTION = FieldSpec("diffusion_reaction", (16, 12), 2, 2.0, 0.25, ("du", "dv", "k"), "neumann")


def line() -> Rollout:
    fields = smooth_fields()
    return predict_one(Oracle(spec_of(), fields, late=1), trajectories_of(fields), 1)


def flow() -> Rollout:
    return predict_one(Known(FLOW, flow_fields(), 0.9), trajectories_in(FLOW, flow_fields(), 0.01), 1)


def reaction() -> Rollout:
    fields = flow_fields()[..., :2].copy()
    return predict_one(Known(REACTION, fields, 0.9), trajectories_in(REACTION, fields, 1e-3), 1)


def steady() -> Rollout:
    return predict_one(Known(DARCY, darcy_fields(), 0.9), trajectories_in(DARCY, darcy_fields()), 1)


KINDS = pytest.mark.parametrize("kind", [line, flow, reaction, steady], ids=lambda kind: kind.__name__)


@KINDS
def test_a_file_is_read_back_as_what_was_predicted(kind, tmp_path):
    rollout, path = kind(), tmp_path / "a.h5"
    save_fields(rollout, path, title="a title")
    info = inspect(path)
    assert info.equation == rollout.spec.equation
    assert info.cells == rollout.spec.cells
    assert info.dt == pytest.approx(rollout.spec.dt)
    assert info.length == pytest.approx(rollout.spec.length)
    assert {name: info.parameters[name] for name in rollout.spec.parameter_names} == pytest.approx(rollout.parameters)
    np.testing.assert_array_equal(read_reduced(path)[0], rollout.prediction_TXC)
    with h5py.File(path) as file:
        truth = file["truth"][0]
        assert file.attrs["title"] == "a title"
    wanted = rollout.truth_TXC[1:] if kind is steady else rollout.truth_TXC
    np.testing.assert_array_equal(truth.reshape(wanted.shape), wanted)


@KINDS
def test_the_given_frame_stands_first_and_the_error_is_of_the_rest(kind):
    rollout = kind()
    np.testing.assert_array_equal(rollout.prediction_TXC[0], rollout.truth_TXC[0])
    if kind is not line:
        assert rollout.nrmse == pytest.approx(0.1, rel=1e-4)
        np.testing.assert_allclose(rollout.prediction_TXC[1:], 0.9 * rollout.truth_TXC[1:], rtol=1e-5)


@KINDS
def test_a_picture_is_drawn(kind, tmp_path):
    save_picture(kind(), tmp_path / "a.png", title="a title")
    assert imread(tmp_path / "a.png").std() > 0.01


def test_there_is_no_other_trajectory():
    with pytest.raises(UserError, match="between 0 and 2, got 3"):
        predict_one(Known(FLOW, flow_fields()), trajectories_in(FLOW, flow_fields()), 3)
