"""Laws of encoder, decoder and the whole latent model on one and two axes, periodic, between walls, and steady."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ups.core.errors import ConfigError, UserError
from ups.core.layers import grid_centres, rms_norm
from ups.core.types import FieldSpec
from ups.models.decoder import AnyPointDecoder, Decoder, GridDecoder, log_clamp
from ups.models.encoder import GridEncoder, LatentConfig, token_grid
from ups.models.frame import CanonicalFrame
from ups.models.latent import LatentModel, grid_points, resample
from ups.models.operator import PdetStack

LINE = FieldSpec("burgers", (64,), 1, 1.0, 0.05, ("nu",))
TORUS = FieldSpec("navier_stokes", (16, 16), 3, 1.0, 0.1, ("nu",))
BOX = FieldSpec("diffusion_reaction", (16, 16), 2, 1.0, 0.1, ("du", "dv", "k"), "neumann")
STEADY = FieldSpec("darcy", (16, 16), 1, 1.0, 1.0, ("beta",), "dirichlet")
SPECS = {spec.equation: spec for spec in (LINE, TORUS, BOX, STEADY)}
GRID = GridDecoder.Config(width=8, cell_width=4)
WINDOW = AnyPointDecoder.Config(width=8, window=2)
GLOBAL = AnyPointDecoder.Config(width=8, locality="global")
DECODERS = {"grid": GRID, "window": WINDOW, "global": GLOBAL}
FEATURES = 2


def build(spec: FieldSpec, decoder: Decoder = GRID, tokens: int = 16, **encoder: Any) -> LatentModel:
    """A model with scrambled weights, as after training."""
    torch.manual_seed(0)
    operator = PdetStack.Config(hidden_dim=8, depth=1, modes=4)
    shape = LatentConfig(tokens=tokens, dim=6)
    model = LatentModel(GridEncoder.Config(width=8, **encoder), operator, decoder, shape, spec, FEATURES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def batch(spec: FieldSpec) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(2, *spec.cells, spec.channels), torch.randn(2, FEATURES)


def smooth(spec: FieldSpec, cells: tuple[int, ...]) -> Tensor:
    """The same long waves on a grid of `cells`, which starts at the same point as that of `spec`."""
    points = grid_points(cells, spec.cells, spec.boundary, torch.device("cpu"))
    waves = [torch.sin(2 * math.pi * (points * n).sum(-1) + n) for n in range(1, spec.channels + 1)]
    return torch.stack(waves, dim=-1).view(1, *cells, spec.channels)


@pytest.mark.parametrize(
    ("tokens", "cells", "expected"),
    [
        (16, (128,), (16,)),
        (16, (128, 128), (4, 4)),
        (32, (128, 128), (4, 8)),
        (256, (128, 128), (16, 16)),
        (32, (64, 128), (4, 8)),
        (32, (128, 64), (8, 4)),
        # 4 x 10 divides the cells where the squarer 5 x 8 does not
        (40, (100, 100), (4, 10)),
        (9, (16, 16), (3, 3)),
    ],
)
def test_token_grid(tokens: int, cells: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert token_grid(tokens, cells) == expected


@pytest.mark.parametrize("tokens", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("cells", [(256,), (300,), (32, 32), (20, 30)], ids=str)
def test_any_number_of_tokens_comes_out_of_the_encoder(tokens: int, cells: tuple[int, ...]) -> None:
    """Also when they do not divide the patches; patches of one cell are pooled."""
    spec = FieldSpec("burgers", cells, 1, 1.0, 0.05, ("nu",))
    for patch in ("auto", 1):
        encoder = GridEncoder.Config(width=8, patch=patch, blocks=0).build(spec, LatentConfig(tokens=tokens, dim=6))
        latent = encoder(torch.randn(2, *cells, 1))
        assert latent.shape == (2, tokens, 6)
        torch.testing.assert_close(rms_norm(latent), latent, atol=1e-3, rtol=1e-3)
        # the tokens differ: pooling did not spread one vector over all of them
        assert latent.std(1).min() > 1e-4


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("patch", ["auto", 2])
@pytest.mark.parametrize("shift", [(4, 0), (8, 12)])
def test_shift_by_a_token_along_each_axis_is_carried_through(
    decoder: Decoder, patch: Any, shift: tuple[int, int]
) -> None:
    """With patches of 2 cells the encoder pools 8 x 8 patches into 4 x 4 tokens."""
    model = build(TORUS, decoder, patch=patch)
    field, features = batch(TORUS)
    plain = model.step(field, features)
    torch.testing.assert_close(
        model.step(field.roll(shift, (1, 2)), features), plain.roll(shift, (1, 2)), atol=2e-4, rtol=1e-3
    )
    assert (plain - field).abs().max() > 1e-2


def test_positions_tell_equal_patches_apart_only_where_they_are_wanted() -> None:
    equal = torch.ones(1, 16, 16, 2)
    options: dict[str, Any] = {"blocks": 0}
    torus = FieldSpec("diffusion_reaction", (16, 16), 2, 1.0, 0.1, ("du", "dv", "k"))
    for spec, positions, differ in (
        (torus, "auto", False),
        (torus, "none", False),
        (torus, "fourier", True),
        (BOX, "auto", True),
        (BOX, "none", False),
        (BOX, "fourier", True),
    ):
        latent = build(spec, positions=positions, **options).encode(equal)
        assert bool(latent.std(1).max() > 1e-2) == differ, (spec.boundary, positions)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("decoder", [WINDOW, GLOBAL], ids=["window", "global"])
def test_anypoint_at_the_centres_is_the_field_on_the_grid(spec: FieldSpec, decoder: Decoder) -> None:
    model = build(spec, decoder)
    latent = model.encode(batch(spec)[0])
    field = model.decode(latent)
    assert field.shape == (2, *spec.cells, spec.channels)
    points = grid_centres(spec.cells, latent.device)
    at_points = model.decode(latent, points=points)
    torch.testing.assert_close(at_points, field.flatten(1, -2), atol=1e-5, rtol=1e-4)
    chosen = torch.tensor([5, 3, 11])
    torch.testing.assert_close(model.decode(latent, points=points[chosen]), at_points[:, chosen], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_points_may_be_read_in_pieces(spec: FieldSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(spec, WINDOW)
    latent = model.encode(batch(spec)[0])
    whole = model.decode(latent)
    monkeypatch.setattr("ups.models.decoder._AT_ONCE", 1000)
    torch.testing.assert_close(model.decode(latent), whole, atol=1e-5, rtol=1e-4)


def test_grid_decoder_has_no_values_at_points() -> None:
    model = build(LINE)
    with pytest.raises(UserError, match=r"points: .* choose decoder\.kind anypoint"):
        model.decode(torch.randn(1, 16, 6), points=torch.rand(3, 1))


@pytest.mark.parametrize("spec", [TORUS, BOX], ids=["torus", "box"])
@pytest.mark.parametrize("window", [1, 3, 4])
def test_anypoint_field_is_continuous_along_any_line(spec: FieldSpec, window: int) -> None:
    model = build(spec, AnyPointDecoder.Config(width=8, window=window))
    latent = model.encode(batch(spec)[0])
    along = torch.linspace(0, 0.9999, 5000)
    with torch.no_grad():
        values = model.decode(latent, points=torch.stack([along, (0.2 + 0.7 * along) % 1], dim=-1))
    # one token per window has nothing to fade to: the value itself jumps
    jump = values.diff(dim=1).abs().max() / values.abs().max()
    assert bool(jump < 0.05) == (window > 1)


def test_windows_read_the_nearest_tokens_along_each_axis() -> None:
    model = build(BOX, WINDOW, blocks=0)
    assert isinstance(model.decoder, AnyPointDecoder)
    model.decoder.stem = torch.nn.Sequential()
    latent = torch.randn(1, 16, 6, requires_grad=True)
    # tokens lie at 1/8, 3/8, ..; the point is between the first two of one axis and the last two of the other
    model.decode(latent, points=torch.tensor([[0.25, 0.76]])).sum().backward()
    assert latent.grad is not None
    read = latent.grad.abs().sum((0, 2)).view(4, 4) > 0
    assert read.nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize(("spec", "cells"), [(LINE, (128,)), (TORUS, (32, 32)), (TORUS, (24, 24))], ids=str)
def test_other_periodic_grids_see_the_same_prediction(
    decoder: Decoder, spec: FieldSpec, cells: tuple[int, ...]
) -> None:
    """The change of a smooth field on another grid is that on the trained grid, interpolated."""
    model = build(spec, decoder)
    features = batch(spec)[1][:1]
    start, other_start = smooth(spec, spec.cells), smooth(spec, cells)
    torch.testing.assert_close(resample(start, cells), other_start, atol=1e-5, rtol=1e-4)
    change = model.step(start, features) - start
    other = model.step(other_start, features) - other_start
    if cells[0] == 2 * spec.cells[0]:
        common = (slice(None), *(slice(None, None, 2) for _ in cells))
        expected = resample(resample(change, cells), spec.cells) if decoder.kind == "grid" else change
        torch.testing.assert_close(other[common], expected, atol=1e-4, rtol=1e-3)
    else:
        assert other.shape == other_start.shape
    assert change.abs().max() > 1e-2


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("spec", [BOX, STEADY], ids=["neumann", "dirichlet"])
def test_other_grids_between_walls_start_at_the_same_point(spec: FieldSpec, decoder: Decoder) -> None:
    model = build(spec, decoder)
    start, features = batch(spec)
    fine = resample(start, (32, 32), spec.boundary)
    assert torch.equal(fine[:, ::2, ::2], start)
    torch.testing.assert_close(model.encode(fine), model.encode(start))
    latent = model.encode(start)
    torch.testing.assert_close(model.decode(latent, (32, 32))[:, ::2, ::2], model.decode(latent), atol=1e-4, rtol=1e-4)
    assert model.step(fine, features).shape == fine.shape


def test_linear_resampling_is_exact_for_linear_fields_and_constant_past_the_last_point() -> None:
    ramp = torch.arange(4.0).view(1, 4, 1)
    fine = resample(ramp, (8,), "neumann")[0, :, 0]
    assert fine.tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]


@given(value=st.floats(-50, 50), limit=st.floats(0.1, 20))
@settings(max_examples=40, deadline=None)
def test_log_clamp_is_odd_monotone_and_the_identity_near_zero(value: float, limit: float) -> None:
    y = torch.tensor([value, value + 0.5, -value, 1e-3 * limit], dtype=torch.float64)
    clamped = log_clamp(y, limit)
    assert clamped[2] == -clamped[0]
    assert clamped[1] > clamped[0]
    assert clamped[0].abs() <= y[0].abs() * (1 + 1e-12) + 1e-300  # a subnormal number rounds coarsely
    assert float(clamped[3] / y[3]) == pytest.approx(1, abs=1e-3)
    assert torch.equal(log_clamp(y, None), y)


@pytest.mark.parametrize("kind", ["grid", "anypoint"])
def test_log_clamp_is_the_last_thing_that_a_decoder_does(kind: str) -> None:
    decoder: Any = GRID if kind == "grid" else WINDOW
    plain, clamped = build(LINE, decoder), build(LINE, decoder.model_copy(update={"log_clamp": 0.3}))
    latent = plain.encode(batch(LINE)[0])
    torch.testing.assert_close(clamped.decode(latent), log_clamp(plain.decode(latent), 0.3))


def test_a_steady_model_predicts_the_solution_itself_and_has_an_encoder_for_it() -> None:
    model = build(STEADY)
    given_field, features = batch(STEADY)
    latent = model.advance(model.encode(given_field), features)
    torch.testing.assert_close(model.step(given_field, features), model.decode(latent))
    assert model.steady
    solution = model.encode_solution(given_field)
    assert solution.shape == latent.shape
    assert (solution - model.encode(given_field)).abs().max() > 1e-2
    assert not hasattr(build(TORUS), "solution_encoder")
    with pytest.raises(AssertionError):
        build(TORUS).encode_solution(batch(TORUS)[0])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_latent_before_its_norm(spec: FieldSpec) -> None:
    model = build(spec)
    field, _ = batch(spec)
    torch.testing.assert_close(rms_norm(model.encode_unnormalised(field)), model.encode(field))
    assert model.cells == spec.cells
    assert math.prod(model.grid) == 16


@pytest.mark.parametrize(
    ("tokens", "decoder", "encoder", "message"),
    [
        (24, GRID, {}, r"latent\.tokens: the grid decoder needs a divisor of the 16 x 16 cells, got 24 \(4 x 6\)"),
        (257, WINDOW, {}, r"latent\.tokens: at most one token for each of the 16 x 16 cells, got 257"),
        (32, WINDOW, {"patch": 4}, r"latent\.tokens: at most the 16 patches of 4 cells, got 32"),
        (16, GRID, {"patch": 3}, r"encoder\.patch: must divide the 16 x 16 cells, got 3"),
        (16, GRID, {"patch": 2, "num_heads": 3}, r"encoder\.width: must be divisible by encoder\.num_heads"),
        (16, AnyPointDecoder.Config(width=4, num_heads=6), {}, r"decoder\.width: at least one channel"),
    ],
)
def test_refusals(tokens: int, decoder: Decoder, encoder: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TORUS, decoder, tokens, **encoder)


def test_a_decoder_256_wide_may_have_6_heads() -> None:
    decoder = AnyPointDecoder.Config(width=256, num_heads=6).build(LINE, LatentConfig(tokens=16, dim=6))
    assert decoder(torch.randn(1, 16, 6)).shape == (1, 64, 1)
    assert decoder.value.out_features == 252


def test_the_frame_leaves_alone_what_has_no_such_symmetry() -> None:
    advection = FieldSpec("advection", (16,), 1, 1.0, 0.05, ("beta",))
    for spec, symmetry, expected in (
        (LINE, "auto", (True, True, True)),
        (LINE, "none", (False, False, False)),
        (advection, "auto", (True, False, True)),
        (FieldSpec("burgers", (16,), 1, 1.0, 0.05, ("nu",), "dirichlet"), "auto", (False, False, False)),
        (TORUS, "auto", (False, False, False)),
        (STEADY, "auto", (False, False, False)),
    ):
        frame = CanonicalFrame(spec, symmetry)
        assert (frame.subtracts_mean, frame.moves, frame.scales) == expected, spec
        fields = torch.randn(2, 3, *spec.cells, spec.channels)
        mean = frame.mean(fields[:, 0])
        assert mean.shape == (2, 1, *(1 for _ in spec.cells), spec.channels)
        entered = frame.enter(fields, mean)
        if not expected[0]:
            assert torch.equal(entered, fields)
        elif not expected[1]:
            torch.testing.assert_close(frame.leave(entered, mean), fields)
            assert entered[:, 0].mean(1).abs().max() < 1e-6
