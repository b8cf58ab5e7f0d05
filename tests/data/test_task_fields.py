"""Tasks of several channels, two axes, given fields and boundaries."""

from __future__ import annotations

import numpy as np
import pytest

from ups.core.errors import DataError
from ups.core.physics import EQUATIONS
from ups.data.pdebench import read_reduced, write_fields
from ups.data.task import TaskConfig, load_file, load_task

PARTS = ("train", "validation", "test")


def config(*files, equation: str, **changes) -> TaskConfig:
    names = [str(path) for path in files]
    return TaskConfig.parse({"equation": equation, "files": names, "train": 6, "validation": 2, "test": 3, **changes})


@pytest.fixture
def field_file(tmp_path):
    """Writes 12 trajectories of noise in the layout of an equation and returns the path."""

    def write(name, equation="darcy", *, frames=2, cells=8, seed=0, boundary=None, dt=1.0, **parameters):
        known = EQUATIONS[equation]
        shape = (12, frames, *[cells] * known.axes, len(known.channels))
        fields_STXC = np.random.default_rng(seed).normal(1.0, 2.0, shape)
        return write_fields(tmp_path / name, equation, fields_STXC, dt=dt, boundary=boundary, **parameters)

    return write


def test_a_steady_task_normalises_the_given_field_by_itself(field_file):
    task = load_task(config(field_file("a.h5", beta=0.5), equation="darcy", space_stride=2))
    given, solution = task.train.fields_STXC[:, 0].astype(np.float64), task.train.fields_STXC[:, 1].astype(np.float64)
    assert (task.train.fields_STXC.shape, task.spec.dt) == ((6, 2, 4, 4, 1), 1.0)
    np.testing.assert_allclose(task.normalizer.mean, [solution.mean()], rtol=1e-9)
    np.testing.assert_allclose(task.normalizer.std, [solution.std()], rtol=1e-9)
    assert task.normalizer.given is not None
    np.testing.assert_allclose(task.normalizer.given.mean, [given.mean()], rtol=1e-9)
    np.testing.assert_allclose(task.normalizer.given.std, [given.std()], rtol=1e-9)
    # the same from the cache
    assert load_task(task.config).normalizer == task.normalizer


def test_channels_are_normalised_one_by_one(field_file):
    task = load_task(config(field_file("a.h5", "navier_stokes", nu=0.5, frames=3), equation="navier_stokes"))
    values = task.train.fields_STXC.astype(np.float64)
    np.testing.assert_allclose(task.normalizer.mean, values.mean(axis=(0, 1, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(task.normalizer.std, values.std(axis=(0, 1, 2, 3)), rtol=1e-9)
    assert task.normalizer.given is None


def test_three_viscosities_share_the_split(field_file):
    viscosities = (0.001, 0.01, 0.1)
    files = [field_file(f"{nu}.h5", "navier_stokes", nu=nu, seed=seed) for seed, nu in enumerate(viscosities)]
    task = load_task(config(*files, equation="navier_stokes"))
    for name in PARTS:
        part, numbers = getattr(task, name), task.manifest[name]
        assert part.file_S.tolist() == [file for file in range(3) for _ in numbers]
        for file, nu in enumerate(viscosities):
            assert np.unique(part.parameters_SP[part.file_S == file]) == np.float32(nu)
            np.testing.assert_array_equal(part.fields_STXC[part.file_S == file], read_reduced(files[file])[numbers])
    swapped = load_task(config(*files[::-1], equation="navier_stokes"))
    assert swapped.manifest["test"] == task.manifest["test"]
    assert (
        len({task.fingerprint, swapped.fingerprint, load_task(config(files[0], equation="navier_stokes")).fingerprint})
        == 3
    )


def test_the_boundary_is_the_files_or_else_the_equations(field_file):
    plain, walls = (
        field_file("a.h5", "navier_stokes", nu=1.0),
        field_file("b.h5", "navier_stokes", nu=1.0, boundary="dirichlet"),
    )
    tasks = [load_task(config(path, equation="navier_stokes")) for path in (plain, walls)]
    assert [task.spec.boundary for task in tasks] == ["periodic", "dirichlet"]
    assert tasks[0].fingerprint != tasks[1].fingerprint
    with pytest.raises(DataError, match=r"b.h5: files of one task must agree in .* and boundary, got .*'dirichlet'"):
        load_task(config(plain, walls, equation="navier_stokes"))


def test_parameters_that_pdebench_leaves_unsaid(field_file):
    task = load_task(config(field_file("a.h5", "diffusion_reaction", dv=0.25), equation="diffusion_reaction"))
    assert task.spec.parameter_names == ("du", "dv", "k")
    np.testing.assert_allclose(task.test.parameters_SP, np.tile([1e-3, 0.25, 5e-3], (3, 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("equation", "file", "line"),
    [
        ("navier_stokes", {"equation": "darcy", "beta": 1.0}, "holds darcy, the task's equation is navier_stokes"),
        ("darcy", {"equation": "darcy", "beta": -1.0}, "attribute 'beta' must be a positive number, got -1"),
        ("advection", {"equation": "advection", "beta": np.inf}, "attribute 'beta' must be a finite number, got inf"),
        ("burgers", {"equation": "burgers", "nu": 0.0}, "attribute 'nu' must be a positive number, got 0"),
    ],
)
def test_files_that_do_not_suit_their_equation(equation, file, line, field_file):
    with pytest.raises(DataError, match=line):
        load_task(config(field_file("a.h5", **file), equation=equation))


def test_a_whole_file_of_two_dimensions(field_file):
    path = field_file("a.h5", "navier_stokes", nu=0.3, frames=5, dt=0.1)
    spec, everything = load_file(path, "navier_stokes", space_stride=4, time_stride=2, frames=3)
    np.testing.assert_array_equal(everything.fields_STXC, read_reduced(path, 4, 2, 3))
    assert (spec.cells, spec.dt, spec.axes) == ((2, 2), 0.2, 2)
