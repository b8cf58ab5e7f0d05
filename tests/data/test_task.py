"""A task: what it holds, what its fingerprint covers, and what it refuses."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest

import ups.data.task
from ups.core.errors import ConfigError, DataError
from ups.core.physics import EQUATIONS
from ups.data.pdebench import read_reduced, write_tensor_file
from ups.data.task import TaskConfig, load_file, load_task


def config(*files, **changes) -> TaskConfig:
    return TaskConfig.parse(
        {
            "equation": "burgers",
            "files": [str(path) for path in files],
            "train": 6,
            "validation": 2,
            "test": 3,
            **changes,
        }
    )


PARTS = ("train", "validation", "test")


def test_parts_hold_the_trajectories_of_the_manifest(small_file):
    path = small_file()
    task = load_task(config(path, space_stride=2, time_stride=3))
    whole_STXC = read_reduced(path, 2, 3)
    for name in PARTS:
        part = getattr(task, name)
        np.testing.assert_array_equal(part.fields_STXC, whole_STXC[task.manifest[name]])
        assert part.fields_STXC.dtype == np.float32
        assert part.parameters_SP.tolist() == [[np.float32(0.01)]] * len(part)
        assert part.file_S.tolist() == [0] * len(part)


def test_the_spec_counts_strides(small_file):
    task = load_task(config(small_file(dt=0.1, length=4.0), space_stride=2, time_stride=5, frames=2))
    assert (task.spec.cells, task.spec.channels, task.spec.length, task.spec.dx) == ((8,), 1, 4.0, 0.5)
    assert task.spec.dt == task.train.dt == 0.5
    assert task.spec.parameter_names == ("nu",)
    assert task.train.fields_STXC.shape == (6, 2, 8, 1)


def test_normalisation_sees_the_training_part_alone(small_file, tmp_path):
    path = small_file()
    task = load_task(config(path))
    values = task.train.fields_STXC.astype(np.float64)
    np.testing.assert_allclose(task.normalizer.mean, [values.mean()], rtol=1e-9)
    np.testing.assert_allclose(task.normalizer.std, [values.std()], rtol=1e-9)

    altered_STX = read_reduced(path)[..., 0]
    altered_STX[task.manifest["validation"] + task.manifest["test"]] += 100
    altered = load_task(config(small_file("altered.h5", values=altered_STX)))
    assert altered.normalizer == task.normalizer
    assert altered.fingerprint != task.fingerprint


def test_joined_files_share_the_split_and_keep_their_parameters(small_file):
    low, high = small_file("low.h5", seed=1, Nu=0.01), small_file("high.h5", seed=2, shape=(20, 11, 16), Nu=0.1)
    task = load_task(config(low, high))
    for name in PARTS:
        part, numbers = getattr(task, name), task.manifest[name]
        count = len(numbers)
        assert part.file_S.tolist() == [0] * count + [1] * count
        assert np.unique(part.parameters_SP[:count]) == np.float32(0.01)
        assert np.unique(part.parameters_SP[count:]) == np.float32(0.1)
        np.testing.assert_array_equal(part.fields_STXC[:count], read_reduced(low)[numbers])
        np.testing.assert_array_equal(part.fields_STXC[count:], read_reduced(high)[numbers])
    assert task.manifest["available"] == 12
    assert json.loads(json.dumps(task.manifest)) == task.manifest


def test_the_fingerprint_covers_data_parameters_and_split_but_no_path(small_file, tmp_path):
    base = config(small_file())
    name = load_task(base).fingerprint
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(base.files[0], tmp_path / "moved" / "other.h5")
    assert load_task(config(moved)).fingerprint == name
    others = [
        config(small_file("noise.h5", seed=1)),
        config(small_file("nu.h5", Nu=0.02)),
        config(small_file("dt.h5", dt=0.2)),
        base.override({"split_seed": 1}),
        base.override({"train": 5}),
        base.override({"time_stride": 2}),
    ]
    assert len({name, *(load_task(other).fingerprint for other in others)}) == 7


def test_the_second_load_reads_the_cache(small_file, monkeypatch):
    first = load_task(config(small_file()))

    def refuse(*args, **kwargs):
        raise AssertionError("the file was read again")

    monkeypatch.setattr(ups.data.task, "read_trajectories", refuse)
    again = load_task(first.config)
    assert isinstance(again.train.fields_STXC, np.memmap)
    assert (again.fingerprint, again.normalizer, again.manifest) == (
        first.fingerprint,
        first.normalizer,
        first.manifest,
    )
    np.testing.assert_array_equal(again.test.fields_STXC, first.test.fields_STXC)


def test_a_file_that_changed_is_read_again(small_file):
    path = small_file(seed=0)
    before = load_task(config(path))
    small_file(seed=1)
    os.utime(path, ns=(1, 1))
    after = load_task(config(path))
    assert after.fingerprint != before.fingerprint
    np.testing.assert_array_equal(after.train.fields_STXC, read_reduced(path)[after.manifest["train"]])


def test_a_cache_that_cannot_be_written_is_done_without(small_file, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with_cache = load_task(config(small_file()))
    with pytest.warns(UserWarning, match="cannot cache the reduced data"):
        without = load_task(with_cache.config, cache=tmp_path / "file" / "cache")
    assert (without.fingerprint, without.normalizer) == (with_cache.fingerprint, with_cache.normalizer)
    np.testing.assert_array_equal(without.train.fields_STXC, with_cache.train.fields_STXC)


def test_a_damaged_cache_is_made_again(small_file, tmp_path):
    good = load_task(config(small_file()))
    for array in (tmp_path / "cache").glob("*.npy"):
        array.write_bytes(array.read_bytes()[:200])
    again = load_task(good.config)
    assert again.fingerprint == good.fingerprint
    np.testing.assert_array_equal(
        again.validation.fields_STXC, read_reduced(good.config.files[0])[again.manifest["validation"]]
    )


def test_a_refused_file_leaves_nothing_in_the_cache(small_file, tmp_path):
    values = np.ones((12, 11, 16))
    values[:, 10, 3] = np.nan
    with pytest.raises(DataError, match="must be finite"):
        load_task(config(small_file(values=values)))
    assert not list((tmp_path / "cache").iterdir())


def test_of_processes_that_race_for_the_cache_one_reduces(small_file, tmp_path, monkeypatch):
    task = config(small_file(shape=(50, 50, 64)), train=40, validation=5, test=5)
    context = multiprocessing.get_context("fork")
    together, results, reductions = context.Barrier(4), context.SimpleQueue(), context.SimpleQueue()
    fill = ups.data.cache._fill_file

    def counted(*arguments):
        reductions.put(1)
        return fill(*arguments)

    monkeypatch.setattr(ups.data.cache, "_fill_file", counted)

    def load() -> None:
        together.wait()
        loaded = load_task(task)
        results.put((loaded.fingerprint, float(loaded.train.fields_STXC.sum(dtype=np.float64))))

    racing = [context.Process(target=load) for _ in range(4)]
    for process in racing:
        process.start()
    for process in racing:
        process.join(60)
    assert [process.exitcode for process in racing] == [0] * 4
    assert len({results.get() for _ in racing}) == 1
    reductions.get()
    assert reductions.empty()
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".npy"]


def test_a_users_own_array_becomes_a_task(tmp_path):
    x, t = np.arange(32) / 32, np.arange(10) * 0.1
    waves = np.sin(2 * np.pi * (x - 0.5 * t[:, None]) + np.arange(8)[:, None, None])
    write_tensor_file(tmp_path / "mine.h5", waves, dt=0.1, beta=0.5)
    task = load_task(config(tmp_path / "mine.h5", equation="advection", train=4, validation=2, test=2))
    assert task.train.fields_STXC.shape == (4, 10, 32, 1)
    assert task.spec.parameter_names == ("beta",)


def test_every_equation_can_be_a_task():
    assert [config("a.h5", equation=name).equation for name in EQUATIONS] == list(EQUATIONS)


def test_a_layout_that_does_not_suit_the_equation(small_file):
    path = small_file(eta=1.0)
    with pytest.raises(
        DataError, match=r"holds 1 channels on 1 axes in the layout 'tensor', darcy needs 1 on 2 in 'darcy'"
    ):
        load_task(config(path, equation="darcy"))


def test_a_whole_file_without_a_split(small_file):
    path = small_file(Nu=0.3)
    spec, everything = load_file(path, "burgers", space_stride=4, time_stride=2, frames=3)
    np.testing.assert_array_equal(everything.fields_STXC, read_reduced(path, 4, 2, 3))
    assert (spec.cells, spec.dt, everything.dt) == ((4,), 0.2, 0.2)
    assert np.unique(everything.parameters_SP) == np.float32(0.3)


def test_pdebenchs_files_are_read_as_they_are(shared_file):
    task = load_task(
        config(
            *(shared_file(nu) for nu in (0.001, 0.01, 0.1)),
            **{"space_stride": 4, "time_stride": 5, "train": 5, "validation": 1, "test": 2},
        )
    )
    assert (task.spec.cells, task.spec.length, task.spec.dt) == ((256,), 1.0, 0.05)
    assert task.train.fields_STXC.shape == (15, 41, 256, 1)
    # the files share their initial conditions: with one split for all, none is on both sides
    firsts = [{field.tobytes() for field in getattr(task, name).fields_STXC[:, 0]} for name in PARTS]
    assert [len(first) for first in firsts] == [5, 1, 2]
    assert not firsts[0] & firsts[1] | firsts[0] & firsts[2] | firsts[1] & firsts[2]


@pytest.mark.parametrize(
    ("second", "line"),
    [
        ({"Nu": 0.1, "rho": 1.0}, r"second.h5: holds reaction_diffusion, the task's equation is burgers"),
        ({"beta": 0.1}, r"second.h5: holds advection, the task's equation is burgers"),
        ({"eta": 0.1}, r"second.h5: attribute 'nu' expected .* found eta"),
        ({"shape": (12, 11, 32)}, r"second.h5: files of one task must agree in cells"),
        ({"shape": (12, 9, 16)}, r"second.h5: files of one task must agree in cells"),
        ({"dt": 0.2}, r"second.h5: files of one task must agree in cells"),
        ({"length": 2.0}, r"second.h5: files of one task must agree in cells"),
    ],
)
def test_files_that_do_not_belong_together(second, line, small_file):
    with pytest.raises(DataError, match=line):
        load_task(config(small_file(), small_file("second.h5", **second)))


def test_a_file_listed_twice(small_file, tmp_path):
    path = small_file()
    with pytest.raises(DataError, match="stands twice in the task's files"):
        load_task(config(path, tmp_path / "." / ".." / tmp_path.name / path.name))


def test_too_few_trajectories(small_file):
    line = r"small.h5: split: 20 train \+ 2 validation \+ 3 test = 25 trajectories wanted, 12 available"
    with pytest.raises(DataError, match=line):
        load_task(config(small_file(), train=20))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"space_stride": 0}, "space_stride: .*greater than or equal to 1, got 0"),
        ({"frames": 1}, "frames: .*greater than or equal to 2, got 1"),
        ({"train": 0}, "train: .*greater than or equal to 1, got 0"),
        ({"files": []}, "files"),
        ({"equation": "heat"}, "equation: .*'burgers', .* or 'darcy', got 'heat'"),
        ({"strid": 2}, "strid: unknown key"),
    ],
)
def test_configs_that_cannot_be(change, line):
    with pytest.raises(ConfigError, match=line):
        config("a.h5", **change)
