"""Every equation's generator through one contract: generate, inspect, load as a task."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ups.core.errors import ConfigError, DataError
from ups.core.physics import EQUATIONS
from ups.data.generators import GENERATORS, generate
from ups.data.pdebench import inspect, read_reduced, write_fields
from ups.data.task import TaskConfig, load_task

STEADY = [name for name, known in EQUATIONS.items() if known.steady]
UNSTEADY = [name for name in EQUATIONS if name not in STEADY]


def small(equation: str, **changes) -> dict:
    times = {} if EQUATIONS[equation].steady else {"frames": 3, "dt": 0.02}
    return {"trajectories": 6, "cells": 8, **times, **changes}


def layout(path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item.shape}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_every_equation_has_a_generator_with_all_its_parameters():
    assert list(GENERATORS) == list(EQUATIONS)
    for name, generator in GENERATORS.items():
        assert set(generator.parameters) == set(EQUATIONS[name].parameters)
        assert EQUATIONS[name].defaults.items() <= generator.parameters.items()


@pytest.mark.parametrize("equation", EQUATIONS)
def test_a_generated_file_describes_itself_and_becomes_a_task(equation, tmp_path):
    known, generator = EQUATIONS[equation], GENERATORS[equation]
    parameters = {name: 0.5 * value for name, value in generator.parameters.items()}
    path = generate(equation, tmp_path / "out.h5", parameters=parameters, **small(equation))
    info = inspect(path)
    frames, dt = (2, 1.0) if known.steady else (3, 0.02)
    assert (info.equation, info.shape) == (equation, (6, frames, *[8] * known.axes, len(known.channels)))
    assert (info.dt, info.length, info.notes) == (dt, generator.length, ())
    assert info.parameters == pytest.approx(parameters)
    task = load_task(TaskConfig(equation=equation, files=(str(path),), train=3, validation=1, test=2))
    assert (task.spec.boundary, task.spec.parameter_names) == (known.boundary, known.parameters)
    np.testing.assert_array_equal(task.test.fields_STXC, read_reduced(path)[task.manifest["test"]])
    for name in known.positive:
        solved = task.train.fields_STXC[:, 1:, ..., known.channel(name)]
        assert solved.min() >= 0
    assert task.train.fields_STXC[:, 1].std() > 0


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("reaction_diffusion", {"tensor": (6, 3, 8), "t-coordinate": (4,), "x-coordinate": (8,)}),
        ("darcy", {"tensor": (6, 1, 8, 8), "nu": (6, 8, 8), "x-coordinate": (8,), "y-coordinate": (8,)}),
        (
            "navier_stokes",
            {"velocity": (6, 3, 8, 8, 2), "particles": (6, 3, 8, 8, 1), "t": (6, 3), "force": (6, 8, 8, 2)},
        ),
        (
            "diffusion_reaction",
            {"0005/data": (3, 8, 8, 2), "0005/grid/x": (8,), "0005/grid/y": (8,), "0005/grid/t": (3,)},
        ),
    ],
)
def test_the_layout_is_pdebenchs(equation, expected, tmp_path):
    assert expected.items() <= layout(generate(equation, tmp_path / "out.h5", **small(equation))).items()


@pytest.mark.parametrize("equation", EQUATIONS)
def test_what_is_not_said_is_the_equations_own(equation, tmp_path):
    generator = GENERATORS[equation]
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(total)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(equation, tmp_path / "never.h5", cells=8, oversample=1, on_progress=stop)
    assert seen == [generator.trajectories]
    info = inspect(generate(equation, tmp_path / "one.h5", trajectories=1, cells=8))
    assert (info.frames, info.dt) == (generator.frames, generator.dt)
    assert info.parameters == pytest.approx(generator.parameters)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_trajectories_depend_on_the_seed_and_their_number_alone(equation, tmp_path):
    many, few, other = (
        read_reduced(generate(equation, tmp_path / name, **small(equation, **changes)))
        for name, changes in (("a.h5", {}), ("b.h5", {"trajectories": 2}), ("c.h5", {"trajectories": 2, "seed": 1}))
    )
    np.testing.assert_array_equal(many[:2], few)
    assert np.abs(few[:, 0] - other[:, 0]).max() > 0.05
    assert np.abs(many[0, 0] - many[1, 0]).max() > 0.05


@pytest.mark.parametrize("equation", EQUATIONS)
def test_first_frames_are_shared_across_parameters(equation, tmp_path):
    one, other = (
        read_reduced(
            generate(
                equation,
                tmp_path / f"{factor}.h5",
                parameters={name: factor * value for name, value in GENERATORS[equation].parameters.items()},
                **small(equation),
            )
        )
        for factor in (1, 3)
    )
    np.testing.assert_array_equal(one[:, 0], other[:, 0])
    assert np.abs(one[:, 1] - other[:, 1]).max() > 1e-5


@pytest.mark.parametrize("equation", EQUATIONS)
def test_first_frames_of_a_file_are_evolved_again(equation, tmp_path):
    source = generate(equation, tmp_path / "source.h5", **small(equation))
    again = generate(equation, tmp_path / "again.h5", initial=source, **{**small(equation), "trajectories": None})
    np.testing.assert_array_equal(read_reduced(again), read_reduced(source))
    assert (inspect(again).length, inspect(again).cells) == (inspect(source).length, inspect(source).cells)


@pytest.mark.parametrize("equation", [name for name, each in EQUATIONS.items() if each.boundary == "periodic"])
def test_oversampling_is_striding_a_finer_file(equation, tmp_path):
    fine = generate(equation, tmp_path / "fine.h5", **small(equation, cells=16, trajectories=2))
    coarse = generate(equation, tmp_path / "coarse.h5", oversample=2, **small(equation, trajectories=2))
    np.testing.assert_array_equal(read_reduced(coarse), read_reduced(fine, space_stride=2))
    assert inspect(coarse).length == inspect(fine).length


@pytest.mark.parametrize(
    ("equation", "change", "line"),
    [
        ("darcy", {"frames": 3}, "frames: darcy is steady: 2 frames, dt 1; got 3 and 1"),
        ("darcy", {"oversample": 2}, "oversample: keeps the first of 2 cells along each axis, which between the walls"),
        ("darcy", {"dt": 0.1}, "frames: darcy is steady: 2 frames, dt 1; got 2 and 0.1"),
        ("darcy", {"parameters": {"beta": -1.0}}, "beta: must be a positive number, got -1.0"),
        ("diffusion_reaction", {"parameters": {"k": 0.0}}, "k: must be a positive number, got 0.0"),
        ("diffusion_reaction", {"parameters": {"nu": 1.0}}, "has no nu, its parameters are du, dv, k"),
        ("diffusion_reaction", {"parameters": {"k": 1e200}}, "k 1e.200: the solution .* does not stay finite on 8"),
        ("navier_stokes", {"dt": float("inf")}, "dt: must be a positive number, got inf"),
        ("reaction_diffusion", {"parameters": {"rho": float("nan")}}, "rho: must be a positive number, got nan"),
    ],
)
def test_what_cannot_be_solved_is_refused(equation, change, line, tmp_path):
    with pytest.raises(ConfigError, match=line):
        generate(equation, tmp_path / "out.h5", **small(equation, **change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("equation", "source", "fields", "line"),
    [
        ("darcy", "burgers", np.ones((1, 2, 8, 1)), "darcy needs 1 channels on 2 axes .*, the file has 1 on 8 cells"),
        ("darcy", "darcy", np.zeros((1, 2, 8, 8, 1)), "the coefficient of darcy must be positive, got 0"),
        ("darcy", "darcy", np.ones((1, 2, 8, 4, 1)), "axes of as many cells, the file has 1 on 8 x 4 cells"),
        ("reaction_diffusion", "burgers", -np.ones((1, 2, 8, 1)), "u .* must not be negative in the first"),
    ],
)
def test_first_frames_that_do_not_fit_are_refused(equation, source, fields, line, tmp_path):
    parameters = GENERATORS[source].parameters
    path = write_fields(tmp_path / "source.h5", source, fields, **parameters)
    with pytest.raises(DataError, match=line):
        generate(equation, tmp_path / "out.h5", initial=path)
