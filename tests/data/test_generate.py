"""Generated files: PDEBench's layout, reproducible trajectories, nothing half-written."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ups.core.errors import ConfigError, DataError
from ups.data.generators import generate, solve_burgers
from ups.data.generators.initial import draw_initial
from ups.data.pdebench import inspect, read_reduced

SMALL = {"trajectories": 5, "cells": 64, "frames": 6}


def tensor(path) -> np.ndarray:
    with h5py.File(path) as file:
        return file["tensor"][:]


def layout(path, trajectories: int) -> dict:
    with h5py.File(path) as file:
        shapes = {name: (data.shape[1:], data.dtype) for name, data in file.items()}
        coordinates = {name: file[name][:] for name in ("x-coordinate", "t-coordinate")}
        assert len(file["tensor"]) == trajectories
        return {"shapes": shapes, "Nu": float(file.attrs["Nu"]), **{n: c.tolist() for n, c in coordinates.items()}}


def test_layout_is_pdebenchs(shared_file, tmp_path):
    out = generate("burgers", tmp_path / "ours.h5", parameters={"nu": 0.1}, trajectories=2)
    ours, theirs = layout(out, 2), layout(shared_file(0.1), 8)
    for name in ("x-coordinate", "t-coordinate"):
        np.testing.assert_allclose(ours.pop(name), theirs.pop(name), rtol=1e-6)
    assert ours == theirs


@pytest.mark.parametrize(
    ("equation", "parameters"), [("burgers", {"nu": 0.01}), ("burgers", {"nu": 0.5}), ("advection", {"beta": -0.4})]
)
def test_the_file_describes_itself(equation, parameters, tmp_path):
    info = inspect(generate(equation, tmp_path / "out.h5", parameters=parameters, dt=0.02, seed=3, **SMALL))
    assert (info.equation, info.shape, info.length, info.dt) == (equation, (5, 6, 64, 1), 1.0, 0.02)
    assert info.parameters == parameters


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path):
    one, again, other = (
        tensor(generate("burgers", tmp_path / name, parameters={"nu": 0.05}, seed=seed, **SMALL))
        for name, seed in (("one.h5", 1), ("again.h5", 1), ("other.h5", 2))
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1


def test_a_trajectory_does_not_depend_on_how_many_there_are(tmp_path):
    many = tensor(generate("burgers", tmp_path / "many.h5", parameters={"nu": 0.05}, **SMALL))
    few = tensor(generate("burgers", tmp_path / "few.h5", parameters={"nu": 0.05}, **{**SMALL, "trajectories": 3}))
    np.testing.assert_array_equal(many[:3], few)


def test_initial_conditions_are_shared_across_parameters_and_equations(tmp_path):
    firsts = [
        tensor(generate(equation, tmp_path / f"{number}.h5", parameters=parameters, **SMALL))[:, 0]
        for number, (equation, parameters) in enumerate(
            (("burgers", {"nu": 0.01}), ("burgers", {"nu": 1.0}), ("advection", {"beta": 0.3}))
        )
    ]
    np.testing.assert_array_equal(firsts[0], firsts[1])
    np.testing.assert_array_equal(firsts[0], firsts[2])


def test_initial_frames_of_a_file_are_evolved_again(tmp_path):
    source = generate("burgers", tmp_path / "source.h5", parameters={"nu": 0.05}, **SMALL)
    again = generate("burgers", tmp_path / "again.h5", parameters={"nu": 0.05}, frames=6, initial=source)
    np.testing.assert_array_equal(tensor(again), tensor(source))
    fewer = generate("burgers", tmp_path / "fewer.h5", parameters={"nu": 0.2}, frames=4, trajectories=2, initial=source)
    assert tensor(fewer).shape == (2, 4, 64)
    np.testing.assert_array_equal(tensor(fewer)[:, 0], tensor(source)[:2, 0])


def test_oversampling_is_striding_a_finer_file(tmp_path):
    fine = generate("burgers", tmp_path / "fine.h5", parameters={"nu": 0.02}, **{**SMALL, "cells": 256})
    coarse = generate("burgers", tmp_path / "coarse.h5", parameters={"nu": 0.02}, oversample=4, **SMALL)
    np.testing.assert_array_equal(tensor(coarse), read_reduced(fine, space_stride=4)[..., 0])
    plain = tensor(generate("burgers", tmp_path / "plain.h5", parameters={"nu": 0.02}, **SMALL))
    assert np.abs(plain - tensor(coarse)).max() > 1e-3
    assert inspect(coarse).length == 1.0


def test_large_viscosity_agrees_with_the_explicit_scheme(tmp_path):
    exact = tensor(generate("burgers", tmp_path / "exact.h5", parameters={"nu": 0.5}, **SMALL))
    explicit = solve_burgers(exact[:, 0], 0.5, 0.01, SMALL["frames"])
    np.testing.assert_allclose(exact, explicit, atol=0.02)


def test_progress_counts_every_trajectory(tmp_path):
    seen: list[tuple[int, int]] = []
    generate(
        "advection", tmp_path / "a.h5", parameters={"beta": 1.0}, on_progress=lambda *done: seen.append(done), **SMALL
    )
    assert seen == [(n, 5) for n in range(1, 6)]


def test_an_interrupted_generation_leaves_nothing_and_spares_the_old_file(tmp_path):
    out = tmp_path / "out.h5"
    out.write_text("what was there before")

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate("burgers", out, parameters={"nu": 0.05}, on_progress=interrupt, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]
    assert out.read_text() == "what was there before"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"parameters": {"nu": -1.0}}, "nu: must be a positive number, got -1.0"),
        ({"parameters": {"nu": float("nan")}}, "nu: must be a positive number"),
        ({"parameters": {"rho": 1.0}}, "rho: burgers has no rho, its parameters are nu"),
        ({"frames": 1}, "frames: must be at least 2, got 1"),
        ({"cells": 0}, "cells: must be at least 4, got 0"),
        ({"trajectories": 0}, "trajectories: must be at least 1, got 0"),
        ({"oversample": 0}, "oversample: must be at least 1, got 0"),
        ({"seed": -1}, "seed: must be at least 0, got -1"),
        ({"dt": 0.0}, "dt: must be a positive number, got 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(change, line, tmp_path):
    with pytest.raises(ConfigError, match=line):
        generate("burgers", tmp_path / "out.h5", **{"parameters": {"nu": 0.01}, **SMALL, **change})
    assert not list(tmp_path.iterdir())


def test_unknown_equations_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"equation: must be one of burgers, .*, darcy, got 'heat'"):
        generate("heat", tmp_path / "out.h5")


def test_an_initial_file_that_does_not_fit_is_refused(tmp_path):
    source = generate("burgers", tmp_path / "source.h5", parameters={"nu": 0.05}, **SMALL)
    with pytest.raises(DataError, match=r"source.h5: has 64 cells, wanted are 48 times oversample 1"):
        generate("burgers", tmp_path / "out.h5", parameters={"nu": 0.05}, cells=48, initial=source)
    with pytest.raises(DataError, match=r"source.h5: 9 trajectories wanted, the file has 5"):
        generate("burgers", tmp_path / "out.h5", parameters={"nu": 0.05}, trajectories=9, initial=source)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"out.h5: cannot be written"):
        generate("burgers", tmp_path / "file" / "out.h5", parameters={"nu": 0.05}, **SMALL)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        generate("burgers", tmp_path / "folder", parameters={"nu": 0.05}, **SMALL)


def test_initial_conditions_follow_pdebenchs_statistics():
    x_X = (np.arange(256) + 0.5) / 256
    fields_SX = np.stack([draw_initial(0, i, x_X) for i in range(2000)])
    amplitudes_SK = np.abs(np.fft.rfft(fields_SX)) / 256
    plain_S = amplitudes_SK[:, 9:].max(axis=1) < 1e-10
    # neither |u| nor a window: 0.81, and |u| of a field without zeros shows nothing
    assert 0.78 < plain_S.mean() < 0.88
    # two draws of four modes: wavenumber n once (n = 1..4) or 2n from a double draw, at most two of them
    strong_SK = amplitudes_SK[plain_S] > 1e-10
    assert strong_SK[:, 1:].sum(axis=1).max() == 2
    assert not strong_SK[:, [5, 7]].any()
    double_S = strong_SK[:, 1:].sum(axis=1) == 1
    assert 0.21 < double_S.mean() < 0.29
    # undrawn modes are constants
    assert fields_SX.mean(axis=1).std() > 0.3
    assert abs(np.sign(fields_SX.mean(axis=1)).mean()) < 0.1
    assert np.abs(fields_SX).max() <= 4
