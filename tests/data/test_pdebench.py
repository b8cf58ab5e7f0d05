"""The reader on `tensor` files: every layout, strides, and one clear line for whatever is wrong with a file."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ups.core.errors import DataError
from ups.data.pdebench import inspect, read_reduced, read_trajectories, write_tensor_file


@pytest.fixture
def raw_file(tmp_path):
    """Writes datasets and attributes exactly as given."""

    def write(datasets: dict, name="raw.h5", **attributes):
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            file.attrs.update(attributes)
            for key, values in datasets.items():
                file[key] = values
        return path

    return write


def fields(trajectories=3, frames=5, cells=8):
    return np.random.default_rng(0).normal(size=(trajectories, frames, cells)).astype(np.float32)


def coordinates(frames=5, cells=8, dt=0.25, length=2.0):
    x = (np.arange(cells) + 0.5) * length / cells
    return {"x-coordinate": x, "t-coordinate": np.arange(frames + 1) * dt}


@pytest.mark.parametrize("attributes", [{"Nu": 0.5}, {"nu": 0.5}, {"NU": np.array([0.5], np.float32)}])
def test_attributes_are_found_in_any_case(attributes, raw_file):
    info = inspect(raw_file({"tensor": fields(), **coordinates()}, **attributes))
    assert info.parameters == {"nu": 0.5}
    assert info.equation == "burgers"


def test_what_a_file_says_of_itself(raw_file):
    info = inspect(raw_file({"tensor": fields(), **coordinates()}, beta=0.4))
    assert (info.family, info.shape, info.dt, info.length, info.dx) == ("tensor", (3, 5, 8, 1), 0.25, 2.0, 0.25)
    assert (info.equation, info.parameters, info.notes) == ("advection", {"beta": 0.4}, ())


def test_reaction_diffusion_is_not_taken_for_burgers(raw_file):
    info = inspect(raw_file({"tensor": fields(), **coordinates()}, Nu=0.5, rho=1.0))
    assert info.equation == "reaction_diffusion"


@pytest.mark.parametrize("extra", [0, 1])
def test_times_may_be_as_many_as_frames_or_one_more(extra, raw_file):
    times = {"t-coordinate": np.arange(5 + extra) * 0.25}
    assert inspect(raw_file({"tensor": fields(), **coordinates(), **times})).dt == 0.25


def test_missing_coordinates_follow_pdebench_where_they_can(raw_file):
    info = inspect(raw_file({"tensor": fields(frames=201)}))
    assert (info.dt, info.length, len(info.notes)) == (0.01, 1.0, 2)
    with pytest.raises(DataError, match="'t-coordinate' expected with 5 or 6 times, there is none"):
        inspect(raw_file({"tensor": fields()}))


@settings(max_examples=30)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 5), st.integers(1, 3), st.sampled_from([None, "gzip"]))
def test_reduced_is_the_strided_array(tmp_path_factory, space, time, frames, compression):
    path = tmp_path_factory.mktemp("reduced") / "a.h5"
    u_STX = fields(4, 11, 8)
    with h5py.File(path, "w") as file:
        file.create_dataset("tensor", data=u_STX, compression=compression)
        file.update(coordinates(frames=11))
    frames = min(frames, (11 - 1) // time + 1)
    np.testing.assert_array_equal(
        read_reduced(path, space, time, frames)[..., 0], u_STX[:, ::time][:, :frames, ::space]
    )


def test_chosen_trajectories_are_read_in_the_order_asked(raw_file):
    u_STX = fields()
    path = raw_file({"tensor": u_STX, **coordinates()})
    np.testing.assert_array_equal(read_reduced(path, trajectories=[2, 0])[..., 0], u_STX[[2, 0]])


def test_a_chunk_is_unpacked_once(tmp_path, monkeypatch):
    u_STX = fields(40, 11, 8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("tensor", data=u_STX, compression="gzip", chunks=(16, 3, 4))
        file.update(coordinates(frames=11))
    reads: list[object] = []
    plain = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: reads.append(key) or plain(self, key))
    reader = read_trajectories(inspect(tmp_path / "a.h5"), trajectories=[0, 3, 15, 17, 39])
    reads.clear()
    np.testing.assert_array_equal(np.stack(list(reader))[..., 0], u_STX[[0, 3, 15, 17, 39]])
    assert len(reads) == 3


def test_double_precision_becomes_single(raw_file):
    path = raw_file({"tensor": fields().astype(np.float64), **coordinates()})
    assert read_reduced(path).dtype == np.float32


def test_ten_lines_make_a_file_of_an_array(tmp_path):
    u_STX = fields()
    path = write_tensor_file(tmp_path / "mine.h5", u_STX, dt=0.1, length=3.0, nu=0.02)
    info = inspect(path)
    assert (info.equation, info.dt, info.length, info.parameters) == ("burgers", 0.1, 3.0, {"nu": 0.02})
    np.testing.assert_array_equal(read_reduced(path)[..., 0], u_STX)
    with pytest.raises(DataError, match=r"\(trajectories, frames, cells\), got \(5, 8\)"):
        write_tensor_file(tmp_path / "flat.h5", u_STX[0], dt=0.1)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"absent.h5: no such file$"):
        inspect(tmp_path / "absent.h5")


def test_a_folder(tmp_path):
    with pytest.raises(DataError, match="is a folder, expected an HDF5 file"):
        inspect(tmp_path)


def test_another_kind_of_file(tmp_path):
    path = tmp_path / "notes.h5"
    path.write_text("not HDF5 at all\n" * 100)
    with pytest.raises(DataError, match=r"notes.h5: not an HDF5 file"):
        inspect(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"notes.h5: "):
        inspect(path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file(share, raw_file):
    path = raw_file({"tensor": fields(20, 11, 64), **coordinates(11, 64)}, Nu=0.1)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"raw.h5: truncated HDF5 file"):
        inspect(path)


def test_damage_inside_a_compressed_dataset(tmp_path):
    path = tmp_path / "damaged.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("tensor", data=fields(20, 11, 64), compression="gzip", chunks=(1, 11, 64))
        file.update(coordinates(11, 64))
        chunk = data.id.get_chunk_info(7)
    with open(path, "r+b") as stream:
        stream.seek(chunk.byte_offset + 10)
        stream.write(b"\0" * 200)
    with pytest.raises(DataError, match=r"damaged.h5: dataset 'tensor' is damaged near trajectory 7"):
        read_reduced(path)


def test_no_permission_to_read(raw_file, monkeypatch):
    path = raw_file({"tensor": fields(), **coordinates()})

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    # the superuser may read everything, so the refusal is played
    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(DataError, match=r"raw.h5: no permission to read it"):
        inspect(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value, raw_file):
    u_STX = fields()
    u_STX[1, 3, 5] = value
    path = raw_file({"tensor": u_STX, **coordinates()})
    with pytest.raises(DataError, match=r"raw.h5: dataset 'tensor' must be finite.*trajectory 1, frame 3"):
        read_reduced(path)


@pytest.mark.parametrize(
    ("datasets", "line"),
    [
        (
            {"tensor": np.zeros((3, 5, 8, 8), np.float32)},
            r"\(trajectories, frames, cells\), got float32 \(3, 5, 8, 8\)",
        ),
        ({"tensor": np.zeros((5, 8), np.float32)}, r"\(trajectories, frames, cells\), got float32 \(5, 8\)"),
        ({"tensor": np.zeros((0, 5, 8), np.float32)}, r"got float32 \(0, 5, 8\)"),
        ({"tensor": np.zeros((3, 5, 8), np.int32)}, r"must hold floats.*got int32"),
        ({"tensor/data": fields()}, "'tensor' must be a dataset, it is a group"),
        ({"other": fields()}, "'tensor' or 'velocity', or groups .* expected, the file holds other"),
        ({}, "'tensor' or 'velocity', or groups .* expected, the file holds nothing"),
        ({"tensor": fields(), "x-coordinate": np.arange(7.0)}, "'x-coordinate' must hold 8 numbers, found"),
        ({"tensor": fields(), "x-coordinate": np.arange(8.0) ** 2}, "'x-coordinate' must increase in equal steps"),
        ({"tensor": fields(), "x-coordinate": np.full(8, np.nan)}, "'x-coordinate' must increase in equal steps"),
        ({"tensor": fields(), "t-coordinate": np.arange(9.0)}, "'t-coordinate' must hold 5 or 6 numbers, found"),
        ({"tensor": fields(), "t-coordinate": -np.arange(6.0)}, "'t-coordinate' must increase in equal steps"),
        ({"density": fields()}, "compressible flow .* is not supported yet"),
        ({"0000/data": fields()}, "diffusion-sorption is not supported yet"),
        ({"0000/data": np.zeros((5, 8, 8, 1), np.float32)}, "shallow water is not supported yet"),
        ({"t0_fields/u": fields()}, "The Well .* is not supported yet"),
    ],
)
def test_other_content_is_refused_in_one_line(datasets, line, raw_file):
    with pytest.raises(DataError, match=line) as caught:
        inspect(raw_file(datasets, Nu=0.1))
    assert str(caught.value).startswith(str(raw_file({}, name="raw.h5")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reduction", "line"),
    [
        ({"space_stride": 3}, "space_stride must divide the 8 cells and leave 2 or more, got 3"),
        ({"space_stride": 16}, "space_stride must divide the 8 cells and leave 2 or more, got 16"),
        ({"space_stride": 8}, "leave 2 or more, got 8"),
        ({"time_stride": 5}, "time_stride must leave at least 2 of the 5 frames, got 5"),
        ({"time_stride": 2, "frames": 4}, "4 frames wanted, time_stride 2 leaves 3"),
    ],
)
def test_reductions_that_do_not_fit(reduction, line, raw_file):
    path = raw_file({"tensor": fields(), **coordinates()})
    with pytest.raises(DataError, match=line):
        read_reduced(path, **reduction)


_READ = """
import sys
from pathlib import Path
from ups.data.task import TaskConfig, load_file, load_task

config = TaskConfig(
    equation="burgers", files=(sys.argv[1],), space_stride=4, time_stride=5, train=2000, validation=100, test=100
)
task = load_task(config)
spec, everything = load_file(sys.argv[1], "burgers", space_stride=16, time_stride=20, frames=2)
assert len(everything) == 10000 and len(task.train) == 2000
# of this program alone: ru_maxrss also remembers the process that it was forked from
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_eight_gigabytes_are_never_in_memory(tmp_path):
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        # contiguous and never filled: a hole of 8.2 GB that costs no disk
        data = file.create_dataset("tensor", (10_000, 201, 1024), np.float32, fill_time="never")
        file.attrs["Nu"] = 0.01
        file.update(coordinates(201, 1024, dt=0.01, length=1.0))
        data[9_999, 200, 1023] = 1.0
    assert path.stat().st_size > 8e9
    done = subprocess.run([sys.executable, "-c", _READ, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.5 * 2**20, f"peak of {int(done.stdout) / 2**20:.2f} GiB"
