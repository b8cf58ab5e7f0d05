"""Training windows: exact symmetries of each equation, equal shares of each file, and nothing but the step decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ups.core.integrators import integrate_burgers
from ups.core.physics import EQUATIONS, Boundary
from ups.data.task import Trajectories
from ups.training.batches import WindowSampler, augmented


def trajectories(cells: tuple[int, ...], files: tuple[int, ...] = (8,)) -> Trajectories:
    """Random values that differ everywhere; the parameter tells the row."""
    count = sum(files)
    values = np.random.default_rng(0).normal(size=(count, 5, *cells, 1)).astype(np.float32)
    rows = np.arange(count, dtype=np.float32)[:, None]
    return Trajectories(values, rows, np.repeat(np.arange(len(files)), files), 0.1)


def smooth(cells: tuple[int, ...], channels: int, boundary: Boundary) -> Tensor:
    """(B, T, X, C) random fields of long waves that keep the boundary condition."""
    draw = torch.Generator().manual_seed(0)
    axes = torch.meshgrid(*((torch.arange(n).double() + 0.5) / n for n in cells), indexing="ij")
    field = torch.zeros(8, 2, *cells, channels, dtype=torch.float64)
    for _ in range(4):
        size = torch.randn(8, 2, *(1 for _ in cells), channels, generator=draw, dtype=torch.float64)
        wave = torch.ones(8, 1, *cells, 1, dtype=torch.float64)
        for place in axes:
            k = torch.randint(0, 3, (8, 1, *(1 for _ in cells), 1), generator=draw)
            phase = torch.rand(8, 1, *(1 for _ in cells), 1, generator=draw).double()
            periodic = torch.sin(2 * math.pi * (k * place[..., None] + phase))
            wave = wave * (periodic if boundary == "periodic" else torch.cos(math.pi * k * place[..., None]))
        field = field + size * wave
    return field


def slope(field: Tensor, dim: int, boundary: Boundary) -> Tensor:
    """Central differences; beyond a wall lies the mirror image."""
    ahead, behind = field.roll(-1, dim), field.roll(1, dim)
    if boundary != "periodic":
        last = field.shape[dim] - 1
        ahead = torch.cat([field.narrow(dim, 1, last), field.narrow(dim, last, 1)], dim)
        behind = torch.cat([field.narrow(dim, 0, 1), field.narrow(dim, 0, last)], dim)
    return (ahead - behind) / 2


def tendency(equation: str, field: Tensor, boundary: Boundary) -> Tensor:
    """A right-hand side with the terms of the equation that tell its symmetries apart."""
    if equation == "burgers":
        return -slope(field.square() / 2, 2, boundary)
    if equation == "advection":
        return -slope(field, 2, boundary)
    if equation == "reaction_diffusion":
        return slope(slope(field, 2, boundary), 2, boundary) + field * (1 - field)
    laplacian = sum(slope(slope(field, dim, boundary), dim, boundary) for dim in (2, 3))
    if equation == "diffusion_reaction":
        u, v = field.unbind(-1)
        return laplacian + torch.stack([u - u**3 - v, u - v], -1)
    assert equation == "navier_stokes"
    vx, vy = field[..., :1], field[..., 1:2]
    return laplacian - vx * slope(field, 2, boundary) - vy * slope(field, 3, boundary)


@pytest.mark.parametrize("name", ["burgers", "advection", "reaction_diffusion", "diffusion_reaction", "navier_stokes"])
def test_what_is_moved_solves_the_equation_too(name: str) -> None:
    """The tendency of the moved field is the moved tendency: augmentation commutes with the equation."""
    equation = EQUATIONS[name]
    cells = (24,) if equation.axes == 1 else (12, 12)
    field = smooth(cells, len(equation.channels), equation.boundary)
    rate = tendency(name, field, equation.boundary)
    for seed in range(4):
        moved, moved_rate = (
            augmented(each, equation, equation.boundary, True, torch.Generator().manual_seed(seed))
            for each in (field, rate)
        )
        assert not torch.equal(moved, field)
        torch.testing.assert_close(tendency(name, moved, equation.boundary), moved_rate)


def test_moved_burgers_windows_follow_each_other() -> None:
    field = smooth((64,), 1, "periodic")[:, :1].float()
    nu_B = torch.full((8,), 0.05)
    window = torch.stack([field[:, 0], integrate_burgers(field[:, 0, :, 0], nu_B, 0.05, 1.0)[..., None]], 1)
    moved = augmented(window, EQUATIONS["burgers"], "periodic", True, torch.Generator().manual_seed(1))
    after = integrate_burgers(moved[:, 0, :, 0], nu_B, 0.05, 1.0)
    torch.testing.assert_close(after, moved[:, 1, :, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "boundary", "expected"),
    [
        # shifts, and each reflection and exchange twice as many
        ("burgers", "periodic", 8 * 2),
        ("advection", "periodic", 8),
        ("diffusion_reaction", "neumann", 8),
        ("darcy", "dirichlet", 8),
        ("navier_stokes", "periodic", 4 * 4 * 8),
    ],
)
def test_every_symmetry_is_drawn(name: str, boundary: Boundary, expected: int) -> None:
    equation = EQUATIONS[name]
    cells = (8,) if equation.axes == 1 else (4, 4)
    field = torch.randn(1, 1, *cells, len(equation.channels), generator=torch.Generator().manual_seed(0))
    many = field.expand(4000, *field.shape[1:])
    seen = augmented(many, equation, boundary, True, torch.Generator().manual_seed(0))
    assert len({each.numpy().tobytes() for each in seen}) == expected


def test_walls_keep_their_places() -> None:
    equation = EQUATIONS["diffusion_reaction"]
    field = torch.randn(64, 2, 6, 10, 2)
    draw = torch.Generator().manual_seed(0)
    # not square, and the cells do not lie symmetric: nothing is left
    assert torch.equal(augmented(field, equation, "neumann", False, draw), field)
    reflected = augmented(field, equation, "neumann", True, draw)
    assert not torch.equal(reflected, field)
    corners = [each[:, :, [0, -1]][:, :, :, [0, -1]].flatten(2, 3).sort(dim=2).values for each in (field, reflected)]
    assert torch.equal(*corners)


def test_a_batch_is_a_function_of_its_index() -> None:
    sampler = WindowSampler(trajectories((8,)), "burgers", 4, 2, 0, True)
    again = WindowSampler(trajectories((8,)), "burgers", 4, 2, 0, True)
    late = again.batch(7, 3)
    for index in range(8):
        early = sampler.batch(index, 3)
    assert torch.equal(early.fields_BTXC, late.fields_BTXC)
    assert torch.equal(early.parameters_BP, late.parameters_BP)
    assert not torch.equal(sampler.batch(0, 3).fields_BTXC, late.fields_BTXC)
    other = WindowSampler(trajectories((8,)), "burgers", 4, 2, 1, True)
    assert not torch.equal(other.batch(7, 3).fields_BTXC, late.fields_BTXC)


def rows_of(sampler: WindowSampler, epoch: int = 0) -> list[list[int]]:
    first = epoch * sampler.batches_per_epoch
    batches = range(first, first + sampler.batches_per_epoch)
    return [[int(row) for row in sampler.batch(index, 2).parameters_BP[:, 0]] for index in batches]


@pytest.mark.parametrize("windows", [1, 3])
def test_an_epoch_sees_every_trajectory_equally_often(windows: int) -> None:
    sampler = WindowSampler(trajectories((8,), files=(6, 6)), "burgers", 4, windows, 0, False)
    rows = [row for batch in rows_of(sampler) for row in batch]
    assert sorted(rows) == sorted(list(range(12)) * windows)
    assert rows != [row for batch in rows_of(sampler, epoch=1) for row in batch]


@pytest.mark.parametrize(("files", "batch"), [((6, 6, 6), 6), ((8, 8), 4), ((9, 3), 4), ((6, 6, 6), 4)])
def test_every_batch_has_equal_shares_of_each_file(files: tuple[int, ...], batch: int) -> None:
    """Also where files differ in size, and to within one window where the batch cannot be divided."""
    data = trajectories((8,), files=files)
    sampler = WindowSampler(data, "burgers", batch, 2, 0, False)
    for rows in rows_of(sampler):
        shares = np.bincount(data.file_S[rows], minlength=len(files))
        assert shares.max() - shares.min() <= (0 if batch % len(files) == 0 else 1)


def test_a_batch_larger_than_the_data_is_still_full() -> None:
    sampler = WindowSampler(trajectories((8,), files=(2, 1)), "burgers", 8, 1, 0, False)
    assert sampler.batches_per_epoch == 1
    assert len(sampler.batch(0, 2).fields_BTXC) == 8
