"""Laws of the parts: identity at the start, equivariance, unit latents, any point, exact symmetries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ups.core.errors import ConfigError
from ups.core.layers import rms_norm
from ups.core.physics import spectral_shift
from ups.core.types import FieldSpec
from ups.data.normalization import Normalizer
from ups.inference.build import ModelConfig
from ups.inference.surrogate import Surrogate
from ups.models.encoder import resolve_patch
from ups.models.frame import CanonicalFrame

SPEC = FieldSpec("burgers", (64,), 1, 1.0, 0.05, ("nu",))
NORMALIZER = Normalizer((0.2,), (0.7,))
SMALL: dict[str, Any] = {
    "latent": {"tokens": 16, "dim": 8},
    "encoder": {"width": 16},
    "operator": {"depth": 2, "hidden_dim": 16, "modes": 6},
    "decoder": {"kind": "grid", "width": 16},
}


def build(**sections: Any) -> Surrogate:
    torch.manual_seed(0)
    return ModelConfig.parse(SMALL | sections).build(SPEC, NORMALIZER, ((0.01,),))


def scramble(surrogate: Surrogate) -> Surrogate:
    """Give the zero-initialised layers weights, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in surrogate.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return surrogate


def smooth_fields(batch: int = 3, cells: int = 64, mean: float = 0.3) -> torch.Tensor:
    torch.manual_seed(2)
    x = (torch.arange(cells) + 0.5) / cells
    waves = torch.stack([torch.sin(2 * torch.pi * n * x + p) for n, p in ((1, 0.3), (2, 1.0), (3, 2.0))])
    return (torch.rand(batch, 3) @ waves + mean)[..., None]


PARAMETERS = torch.full((3, 1), 0.01)
KINDS = [{"kind": "grid", "width": 16}, {"kind": "anypoint", "width": 16}, {"kind": "anypoint", "locality": "global"}]


@pytest.mark.parametrize("mixer", ["attention", "conv", "spectral", "hybrid"])
@pytest.mark.parametrize("mode", ["latent", "reencode"])
def test_untrained_model_predicts_no_change_in_its_frame(mixer: str, mode: str) -> None:
    surrogate = build(operator={**SMALL["operator"], "mixer": mixer})
    start = smooth_fields(mean=0.0)
    start = start - start.mean(1, keepdim=True)
    frames = surrogate.rollout(start, PARAMETERS, 3, mode)
    torch.testing.assert_close(frames, start[:, None].expand_as(frames), atol=2e-5, rtol=0)


@pytest.mark.parametrize("decoder", KINDS, ids=str)
@pytest.mark.parametrize("tokens", [16, 8, 32])
def test_shift_by_a_token_and_a_patch_is_carried_through(decoder: dict[str, Any], tokens: int) -> None:
    # 16 tokens with patches of 2: the encoder pools 32 patches into 16 tokens
    patch = {"patch": 2, "width": 16}
    surrogate = scramble(build(decoder=decoder, encoder=patch, latent={"tokens": tokens, "dim": 8}))
    start = smooth_fields(mean=0.0)
    shift = 64 // tokens * 3
    plain = surrogate.rollout(start, PARAMETERS, 2)
    moved = surrogate.rollout(start.roll(shift, 1), PARAMETERS, 2)
    torch.testing.assert_close(moved, plain.roll(shift, 2), atol=2e-4, rtol=1e-3)
    assert (plain[:, 0] - start).abs().max() > 1e-3


def test_latents_have_unit_rms_whatever_the_scale_of_their_layer() -> None:
    surrogate = scramble(build())
    field = smooth_fields()
    before = surrogate.model.encode(field)
    with torch.no_grad():
        for parameter in surrogate.model.encoder.to_latent.parameters():
            parameter *= 100
    after = surrogate.model.encode(field)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(rms_norm(after), after, atol=1e-4, rtol=1e-3)


@given(amplitude=st.floats(0.05, 20.0), mean=st.floats(-3.0, 3.0))
@settings(max_examples=20, deadline=None)
def test_burgers_scaling_and_galilean_symmetry_are_exact(amplitude: float, mean: float) -> None:
    """u -> s u with nu -> s nu, dt -> dt / s is the same problem; u -> u + m is the same, seen moving."""
    surrogate = scramble(build())
    start = smooth_fields(mean=0.0)
    plain = surrogate.rollout(start, PARAMETERS, 2)
    spec = FieldSpec("burgers", (64,), 1, 1.0, SPEC.dt / amplitude, ("nu",))
    other = Surrogate(surrogate.model, spec, NORMALIZER, "auto", surrogate.inference, ((0.01,),))
    other.reference_F = surrogate.reference_F
    scaled = other.rollout(amplitude * start, amplitude * PARAMETERS, 2)
    torch.testing.assert_close(scaled / amplitude, plain, atol=2e-3, rtol=2e-3)
    boosted = surrogate.rollout(start + mean, PARAMETERS, 2) - mean
    moved = torch.stack(
        [spectral_shift(plain[:, k, :, 0], torch.full((3,), mean * (k + 1) * SPEC.dt), 1.0) for k in range(2)],
        dim=1,
    )
    torch.testing.assert_close(boosted[..., 0], moved, atol=5e-3, rtol=5e-3)


def test_mass_is_conserved_exactly_by_the_frame() -> None:
    start = smooth_fields(mean=1.5)
    frames = scramble(build()).rollout(start, PARAMETERS, 5)
    torch.testing.assert_close(frames.mean(2), start.mean(1)[:, None].expand(-1, 5, -1), atol=1e-5, rtol=1e-5)
    loose = scramble(build(symmetry="none")).rollout(start, PARAMETERS, 5)
    assert (loose.mean(2) - start.mean(1)[:, None]).abs().max() > 1e-3


@given(mean=st.floats(-2, 2), first=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_leaving_the_frame_undoes_entering_it(mean: float, first: int) -> None:
    frame = CanonicalFrame(SPEC, "auto")
    fields = smooth_fields(mean=mean)[:, None].expand(-1, 4, -1, -1)
    m = frame.mean(fields[:, 0])
    torch.testing.assert_close(frame.leave(frame.enter(fields, m, first), m, first), fields, atol=1e-4, rtol=1e-4)


def test_conditioning_reaches_the_prediction() -> None:
    surrogate = scramble(build())
    start = smooth_fields(mean=0.0)
    thick = surrogate.rollout(start, 10 * PARAMETERS, 1)
    assert (thick - surrogate.rollout(start, PARAMETERS, 1)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("decoder", "cells"), [(KINDS[0], 128), (KINDS[1], 32), (KINDS[1], 128), (KINDS[2], 32)], ids=str
)
def test_other_grids_see_the_same_prediction(decoder: dict[str, Any], cells: int) -> None:
    """A smooth field on another grid of the same first point gives the same values where both have points."""
    surrogate = scramble(build(decoder=decoder, symmetry="none"))
    start = smooth_fields()
    other_start = torch.fft.irfft(torch.fft.rfft(start, dim=1), n=128, dim=1) * 2 if cells == 128 else start[:, ::2]
    change = surrogate.rollout(start, PARAMETERS, 1)[:, 0] - start
    other = surrogate.with_cells(cells).rollout(other_start, PARAMETERS, 1)[:, 0] - other_start
    if decoder["kind"] == "grid":
        # interpolation leaves the shortest wave out, whose phase between the cells is not known
        spectrum = torch.fft.rfft(change, dim=1)
        spectrum[:, -1] = 0
        change = torch.fft.irfft(spectrum, n=64, dim=1)
    common = (other[:, ::2], change) if cells == 128 else (other, change[:, ::2])
    torch.testing.assert_close(*common, atol=1e-4, rtol=1e-3)
    assert change.abs().max() > 1e-2


def test_anypoint_field_is_continuous_in_the_point() -> None:
    surrogate = scramble(build(decoder={"kind": "anypoint", "width": 16, "window": 3}))
    latent = surrogate.model.encode(smooth_fields())
    points = torch.linspace(0, 0.9999, 20_000)[:, None]
    with torch.no_grad():
        values = surrogate.model.decoder(latent, points)
    assert values.diff(dim=1).abs().max() < 0.02 * values.abs().max()


@pytest.mark.parametrize(
    ("patch", "cells", "tokens", "expected"),
    [("auto", 64, 16, 4), ("auto", 64, 20, 2), (8, 64, 8, 8), ("auto", 60, 16, 3)],
)
def test_patch(patch: Any, cells: int, tokens: int, expected: int) -> None:
    assert resolve_patch(patch, (cells,), tokens) == expected


@pytest.mark.parametrize(("patch", "tokens"), [("auto", 65), (8, 16), (5, 4)])
def test_patch_refusals(patch: Any, tokens: int) -> None:
    with pytest.raises(ConfigError, match=r"latent\.tokens|encoder\.patch"):
        resolve_patch(patch, (64,), tokens)


def test_grid_decoder_refuses_tokens_that_do_not_divide() -> None:
    with pytest.raises(ConfigError, match="divisor of the 64 cells"):
        build(latent={"tokens": 20, "dim": 8})


def test_fno_is_a_field_model_in_the_same_frame() -> None:
    surrogate = scramble(build(baseline={"kind": "fno", "width": 8, "modes": 4, "depth": 2}))
    start = smooth_fields(mean=1.0)
    frames = surrogate.rollout(start, PARAMETERS, 3)
    torch.testing.assert_close(frames.mean(2), start.mean(1)[:, None].expand(-1, 3, -1), atol=1e-5, rtol=1e-5)
    # latent mode is what it is for a model without latents
    torch.testing.assert_close(surrogate.rollout(start, PARAMETERS, 3, "latent"), frames)
