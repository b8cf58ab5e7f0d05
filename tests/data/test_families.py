"""The families of two-dimensional files: what each says of itself, what is read of it, and what is refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ups.data.pdebench.reading
from ups.core.errors import DataError
from ups.core.physics import EQUATIONS
from ups.data.pdebench import FAMILY_OF, inspect, read_reduced, write_fields
from ups.data.task import TaskConfig, load_task

S, T, X, Y = 4, 5, 8, 6
RANDOM = np.random.default_rng(0)


def noise(*shape) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def centres(cells, length=1.0, start=0.0):
    return start + (np.arange(cells) + 0.5) * length / cells


def darcy(**changes):
    """As PDEBench's files: two coordinates, the coefficient, the solution."""
    coordinates = {"x-coordinate": centres(X), "y-coordinate": centres(Y, Y / X)}
    return {"nu": 0.1 + noise(S, X, Y) ** 2, "tensor": noise(S, 1, X, Y), **coordinates, **changes}


def groups(**changes):
    """As PDEBench's files: a group for each trajectory on [-1, 1]^2."""
    grid = {"x": centres(X, 2.0, -1.0), "y": centres(X, 2.0, -1.0), "t": np.linspace(0, 0.2, T)}
    each = {f"{number:04d}/data": noise(T, X, X, 2) for number in range(S)}
    grids = {f"{number:04d}/grid/{axis}": values for number in range(S) for axis, values in grid.items()}
    return {**each, **grids, **changes}


def flow(**changes):
    """As PDEBench's files: no coordinates, a row of times for each trajectory."""
    times = np.tile(np.arange(T) * 0.005, (S, 1)).astype(np.float32)
    fields = {"velocity": noise(S, T, X, X, 2), "particles": noise(S, T, X, X, 1) ** 2}
    return {**fields, "t": times, "force": np.zeros((S, X, X, 2), np.float32), **changes}


def without(datasets: dict, *names: str) -> dict:
    return {name: values for name, values in datasets.items() if name not in names}


@pytest.fixture
def raw_file(tmp_path):
    """Writes datasets and attributes exactly as given."""

    def write(datasets: dict, **attributes):
        path = tmp_path / "raw.h5"
        with h5py.File(path, "w") as file:
            file.attrs.update(attributes)
            for key, values in datasets.items():
                file[key] = values
        return path

    return write


def test_a_darcy_file(raw_file):
    datasets = darcy()
    path = raw_file(datasets, beta=0.1)
    info = inspect(path)
    assert (info.family, info.equation, info.shape) == ("darcy", "darcy", (S, 2, X, Y, 1))
    assert (info.length, info.dx, info.dt, info.parameters, info.boundary) == (1.0, 1 / X, 1.0, {"beta": 0.1}, None)
    read_STXYC = read_reduced(path)
    np.testing.assert_array_equal(read_STXYC[:, 0, ..., 0], datasets["nu"].astype(np.float32))
    np.testing.assert_array_equal(read_STXYC[:, 1, ..., 0], datasets["tensor"][:, 0])


def test_a_file_of_groups(raw_file):
    datasets = groups()
    path = raw_file(datasets)
    info = inspect(path)
    assert (info.family, info.equation, info.shape) == ("groups", "diffusion_reaction", (S, T, X, X, 2))
    assert (info.length, info.dt) == (2.0, 0.05)
    assert info.parameters == {"du": 1e-3, "dv": 5e-3, "k": 5e-3}
    assert info.notes == ("no attribute du, dv, k: PDEBench's du 0.001, dv 0.005, k 0.005 assumed",)
    np.testing.assert_array_equal(
        read_reduced(path, trajectories=[3, 1]), np.stack([datasets["0003/data"], datasets["0001/data"]])
    )


def test_groups_are_in_the_order_of_their_numbers(tmp_path):
    with h5py.File(tmp_path / "many.h5", "w") as file:
        for number in (0, 9_999, 10_000, 2):
            file[f"{number:04d}/data"] = np.full((2, 2, 2, 2), number, np.float32)
            file[f"{number:04d}/grid/t"] = np.arange(2.0)
    assert read_reduced(tmp_path / "many.h5")[:, 0, 0, 0, 0].tolist() == [0, 2, 9_999, 10_000]


def test_a_file_of_incompressible_flow(raw_file):
    datasets = flow()
    path = raw_file(datasets, nu=0.01)
    info = inspect(path)
    assert (info.family, info.equation, info.shape) == ("incompressible", "navier_stokes", (S, T, X, X, 3))
    assert (info.length, info.dt, info.parameters) == (1.0, 0.005, {"nu": 0.01})
    assert info.notes == tuple(f"no {axis}-coordinate: a domain of length 1 assumed" for axis in "xy")
    read_STXYC = read_reduced(path)
    np.testing.assert_array_equal(read_STXYC[..., :2], datasets["velocity"])
    np.testing.assert_array_equal(read_STXYC[..., 2:], datasets["particles"])
    assert inspect(raw_file(flow(t=np.arange(T) * 0.25), nu=0.01)).dt == 0.25


def test_attributes_come_before_what_the_layout_points_to(raw_file):
    info = inspect(raw_file(groups(), equation="Gray-Scott", boundary="periodic", Du=0.5, k=1))
    assert (info.equation, info.boundary, info.parameters) == ("gray_scott", "periodic", {"du": 0.5, "k": 1.0})
    assert inspect(raw_file(groups(), Du=0.5, k=1)).parameters == {"du": 0.5, "dv": 5e-3, "k": 1.0}
    assert inspect(raw_file(flow(), boundary=np.bytes_("dirichlet"))).boundary == "dirichlet"


@settings(max_examples=30)
@given(
    st.sampled_from(sorted(EQUATIONS)),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from([16, 2**9, 2**20]),
)
def test_reduced_is_the_strided_array_whatever_the_block(tmp_path_factory, equation, space, time, frames, block):
    known = EQUATIONS[equation]
    count = 2 if known.steady else 7
    time = 1 if known.steady else time
    fields_STXC = RANDOM.uniform(1, 2, (3, count, *(8, 12)[: known.axes], len(known.channels))).astype(np.float32)
    parameters = dict.fromkeys(known.parameters, 0.5)
    path = tmp_path_factory.mktemp("reduced") / "a.h5"
    write_fields(path, equation, fields_STXC, dt=0.5, length=2.0, **parameters)
    thin = (slice(None), slice(None, None, time), *[slice(None, None, space)] * known.axes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ups.data.pdebench.reading, "_BLOCK_BYTES", block)
        np.testing.assert_array_equal(read_reduced(path, space, time, frames), fields_STXC[thin][:, :frames])


@pytest.mark.parametrize("equation", EQUATIONS)
def test_ten_lines_make_a_task_of_an_array(equation, tmp_path):
    known = EQUATIONS[equation]
    fields_STXC = RANDOM.uniform(1, 2, (8, 2, *[8] * known.axes, len(known.channels))).astype(np.float32)
    path = write_fields(tmp_path / "mine.h5", equation, fields_STXC, length=2.0, **dict.fromkeys(known.parameters, 0.5))
    task = load_task(TaskConfig(equation=equation, files=(str(path),), train=4, validation=2, test=2))
    np.testing.assert_array_equal(task.test.fields_STXC, fields_STXC[task.manifest["test"]])
    assert (task.spec.cells, task.spec.length, task.spec.dt) == ((8,) * known.axes, 2.0, 1.0)
    assert (task.spec.boundary, task.spec.channels) == (known.boundary, len(known.channels))
    assert np.unique(task.train.parameters_SP) == [0.5]


@pytest.mark.parametrize(
    ("shape", "equation", "parameters", "line"),
    [
        ((4, 2, 8, 8, 1), "diffusion_reaction", {}, r"must have shape \(trajectories, frames, cells, cells, 2\), got"),
        ((4, 3, 8, 8, 1), "darcy", {"beta": 1.0}, r"must have shape \(trajectories, 2, cells, cells, 1\), got"),
        ((4, 2, 8, 8, 1), "darcy", {}, "darcy has the parameters beta, got none"),
        ((4, 2, 8, 8, 1), "darcy", {"beta": 1.0, "nu": 1.0}, "darcy has the parameters beta, got beta, nu"),
        ((4, 2, 8, 1), "heat", {}, "equation must be one of burgers, .*, got 'heat'"),
    ],
)
def test_arrays_that_do_not_fit_their_equation(shape, equation, parameters, line, tmp_path):
    with pytest.raises(DataError, match=line):
        write_fields(tmp_path / "mine.h5", equation, np.ones(shape), **parameters)
    assert not list(tmp_path.iterdir())


def test_every_equation_has_a_layout():
    assert set(FAMILY_OF) == set(EQUATIONS)


@pytest.mark.parametrize(
    ("datasets", "line"),
    [
        (darcy(nu=noise(S, X)), r"'nu' must hold floats of shape \(trajectories, cells, cells\), got float32 \(4, 8\)"),
        (darcy(nu=noise(S, X, X)), r"got \(4, 8, 8\) and \(4, 1, 8, 6\)"),
        (darcy(tensor=noise(S, X, Y)), r"'tensor' must hold floats of shape .*, 1, .* got float32 \(4, 8, 6\)"),
        (darcy(tensor=noise(S, 3, X, Y)), r"'tensor' of shape \(trajectories, 1, cells, cells\) expected"),
        (darcy(**{"x-coordinate": centres(7)}), "'x-coordinate' must hold 8 numbers, found"),
        (darcy(**{"y-coordinate": centres(Y)}), "squares, dataset 'x-coordinate' has .* 0.125 and 'y-coordinate' 0.16"),
        (groups(**{"0000/grid/y": centres(X, 3.0)}), "squares, dataset 'grid/x' has the spacing 0.25 and 'grid/y'"),
        (groups(**{"0000/grid/t": np.arange(9.0)}), "'grid/t' must hold 5 or 6 numbers"),
        (without(groups(), "0000/grid/t"), "'grid/t' expected in each group with 5 times, there is none"),
        (without(groups(), "0000/data"), r"'0000/data' of shape .* expected, there is none"),
        (without(flow(), "particles"), "'particles' of shape .* expected, there is none"),
        (without(flow(), "t"), r"'t' of shape \(4, 5\) or \(5,\) expected, found none"),
        (flow(t=np.zeros((S, T + 2))), r"'t' of shape \(4, 5\) or \(5,\) expected, found \(4, 7\)"),
        (flow(t=np.arange(T) * np.ones((S, 1)) * [[1], [1], [2], [1]]), "'t' must have the same spacing in every"),
        (flow(velocity=noise(S, T, X, X, 3)), r"'velocity' of shape .*, 2\) .* got \(4, 5, 8, 8, 3\)"),
        (flow(particles=noise(S, T, X, Y, 1)), r"'particles' with one channel on the same grid expected, got"),
        (flow(force=noise(S, X, X, 2)), "'force' must be zero, trajectory 0 is forced; forced flows are not supported"),
    ],
)
def test_other_content_is_refused_in_one_line(datasets, line, raw_file):
    path = raw_file(datasets, nu=0.1)
    with pytest.raises(DataError, match=line) as caught:
        inspect(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_boundary_that_nobody_knows(raw_file):
    with pytest.raises(DataError, match="attribute 'boundary' must be one of periodic, neumann, dirichlet, got 'open'"):
        inspect(raw_file(darcy(), boundary="open"))


def test_a_group_that_differs_from_the_first(raw_file):
    path = raw_file(groups(**{"0002/data": noise(T, X, Y, 2)}))
    assert read_reduced(path, trajectories=[0, 1]).shape == (2, T, X, X, 2)
    with pytest.raises(DataError, match=r"'0002/data' must hold floats of the first group's shape .* \(5, 8, 6, 2\)"):
        read_reduced(path)


@pytest.mark.parametrize(
    ("datasets", "name", "place", "found"),
    [
        (darcy(), "nu", (2, 1, 1), "dataset 'nu' .* trajectory 2, frame 0"),
        (darcy(), "tensor", (1, 0, 2, 2), "dataset 'tensor' .* trajectory 1, frame 1"),
        (groups(), "0003/data", (4, 1, 1, 1), "dataset '0003/data' .* trajectory 3, frame 4"),
        (flow(), "velocity", (1, 2, 3, 3, 1), "dataset 'velocity' .* trajectory 1, frame 2"),
        (flow(), "particles", (3, 2, 3, 3, 0), "dataset 'particles' .* trajectory 3, frame 2"),
    ],
)
def test_values_that_are_not_finite(datasets, name, place, found, raw_file):
    spoilt = datasets[name].copy()
    spoilt[place] = np.nan
    with pytest.raises(DataError, match=found):
        read_reduced(raw_file({**datasets, name: spoilt}, nu=0.1))


@pytest.mark.parametrize(
    ("reduction", "line"),
    [
        ({"space_stride": 4}, "space_stride must divide the 8 x 6 cells and leave 2 or more, got 4"),
        ({"time_stride": 2}, "time_stride must leave at least 2 of the 2 frames, got 2"),
        ({"frames": 3}, "3 frames wanted, time_stride 1 leaves 2"),
    ],
)
def test_reductions_that_do_not_fit(reduction, line, raw_file):
    with pytest.raises(DataError, match=line):
        read_reduced(raw_file(darcy()), **reduction)


def test_large_trajectories_are_never_whole_in_memory(tmp_path, monkeypatch):
    datasets = flow()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.update(datasets)
    frame_bytes = X * X * 3 * 8
    monkeypatch.setattr(ups.data.pdebench.reading, "_BLOCK_BYTES", 2 * frame_bytes)
    sizes: list[int] = []
    plain = h5py.Dataset.__getitem__

    def watched(self, key):
        found = plain(self, key)
        sizes.append(found.size)
        return found

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    read_reduced(tmp_path / "a.h5", space_stride=4)
    assert max(sizes) == 2 * X * X * 2
