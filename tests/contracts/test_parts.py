"""What every encoder, operator, decoder and baseline must do, whatever it is: one suite over all of them.

Each part stands in a whole model of fields on one or two axes, periodic or between walls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ups.baselines.fno import Fno
from ups.baselines.unet import Unet
from ups.core.types import FieldSpec
from ups.models.decoder import Decoder
from ups.models.encoder import GridEncoder, LatentConfig
from ups.models.latent import LatentModel
from ups.models.operator import Operator

SPECS = {
    "line": FieldSpec("burgers", (32,), 1, 1.0, 0.05, ("nu",)),
    "torus": FieldSpec("navier_stokes", (16, 16), 3, 1.0, 0.1, ("nu",)),
    "box": FieldSpec("diffusion_reaction", (16, 16), 2, 1.0, 0.1, ("du", "dv", "k"), "neumann"),
    "steady": FieldSpec("darcy", (16, 16), 1, 1.0, 1.0, ("beta",), "dirichlet"),
}
Plain = dict[str, Any]
ENCODERS: dict[str, Plain] = {
    "stem": {"blocks": 1, "kernel": 3},
    "plain": {"blocks": 0},
    "pooled": {"patch": 2, "num_heads": 2},
    "positions": {"positions": "fourier"},
}
SMALL: Plain = {"hidden_dim": 16, "num_heads": 2, "modes": 3, "kernel": 3}
OPERATORS: dict[str, Plain] = {
    **{
        f"{mixer}-{block}": {"kind": "pdet_stack", "depth": 2, "mixer": mixer, "block": block}
        for mixer in ("attention", "conv", "spectral", "hybrid")
        for block in ("fused", "serial")
    },
    "groups": {"kind": "pdet_stack", "depth": 1, "mixer": "attention", "group_size": 8},
    "windows": {"kind": "pdet_stack", "depth": 2, "mixer": "attention", "window": 2},
    "drop": {"kind": "pdet_stack", "depth": 2, "drop_path": 0.1},
    "unet": {"kind": "pdet_unet"},
    "unet-groups": {"kind": "pdet_unet", "depths": [1, 2, 0], "group_size": 4, "block": "serial"},
    "unet-hybrid": {"kind": "pdet_unet", "depths": [1, 1, 1], "mixer": "hybrid"},
}
DECODERS: dict[str, Plain] = {
    "grid": {"kind": "grid", "cell_width": 4},
    "window": {"kind": "anypoint", "num_heads": 2, "window": 2},
    "global": {"kind": "anypoint", "num_heads": 3, "locality": "global"},
    "clamped": {"kind": "grid", "cell_width": 4, "log_clamp": 5.0},
}
BASELINES: dict[str, Any] = {
    "fno": Fno.Config(width=8, modes=4, depth=2),
    "unet": Unet.Config(width=8, levels=2),
}
PARTS = [
    *(f"encoder:{name}" for name in ENCODERS),
    *(f"operator:{name}" for name in OPERATORS),
    *(f"decoder:{name}" for name in DECODERS),
    *(f"baseline:{name}" for name in BASELINES),
]
every_part = pytest.mark.parametrize("part", PARTS)
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def build(part: str, spec: FieldSpec) -> nn.Module:
    """A model with that part, the others small and plain."""
    torch.manual_seed(0)
    role, name = part.split(":")
    if role == "baseline":
        return BASELINES[name].build(spec, 2)
    encoder = ENCODERS[name] if role == "encoder" else {"blocks": 0}
    operator = OPERATORS[name] if role == "operator" else {"kind": "pdet_stack", "depth": 1}
    decoder = DECODERS[name] if role == "decoder" else DECODERS["grid"]
    return LatentModel(
        GridEncoder.Config.parse({"width": 16, **encoder}),
        TypeAdapter(Operator).validate_python({**SMALL, **operator}),
        TypeAdapter(Decoder).validate_python({"width": 16, **decoder}),
        LatentConfig(tokens=16, dim=16),
        spec,
        2,
    )


def batch(spec: FieldSpec, samples: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(samples, *spec.cells, spec.channels), torch.randn(samples, 2)


def scramble(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def two_specs(part: str) -> list[FieldSpec]:
    """The line, and one of the others in turn: training all on all would take a minute."""
    return [SPECS["line"], SPECS[["torus", "box", "steady"][PARTS.index(part) % 3]]]


@pytest.mark.parametrize(
    ("part", "spec"),
    [pytest.param(part, spec, id=f"{part}-{spec.equation}") for part in PARTS for spec in two_specs(part)],
)
def test_overfits_one_batch(part: str, spec: FieldSpec) -> None:
    """Towards the field a quarter of a period further: one that no part can represent before it has learned."""
    model = build(part, spec)
    x = torch.stack(torch.meshgrid(*(torch.arange(count) / count for count in spec.cells), indexing="ij"), dim=-1)
    phases = torch.rand(2, 1, spec.channels) * 2 * torch.pi
    field = (2 * torch.pi * x.sum(-1).flatten()[None, :, None] + phases).sin().view(2, *spec.cells, spec.channels)
    target, (_, features) = 0.7 * field.roll(spec.cells[0] // 4, 1), batch(spec)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    no_change = float((field - target).square().mean())
    for _ in range(120):
        optimizer.zero_grad()
        loss = (model.step(field, features) - target).square().mean()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.1 * no_change:
            return
    pytest.fail(f"{loss.item() / no_change:.2f} of the error of no change is left after 120 steps")


@every_spec
@every_part
def test_gradients_reach_every_parameter(part: str, spec: FieldSpec) -> None:
    model = scramble(build(part, spec)).eval()
    field, features = batch(spec)
    loss = model.step(field, features).square().mean()
    if isinstance(model, LatentModel):
        # what a decoder adds everywhere cancels in the decoded change; reconstruction trains it
        loss = loss + model.decode(model.encode(field)).square().mean()
        if model.steady:
            loss = loss + (model.encode_solution(field) - 0.3).square().mean()
    loss.backward()
    silent = [name for name, each in model.named_parameters() if each.grad is None or not bool(each.grad.any())]
    assert silent == []


@every_spec
@every_part
def test_saves_and_reloads_to_equal_outputs(part: str, spec: FieldSpec, tmp_path: Path) -> None:
    model, other = scramble(build(part, spec)).eval(), build(part, spec).eval()
    field, features = batch(spec)
    save_file(model.state_dict(), tmp_path / "part.safetensors")
    assert not torch.equal(other.step(field, features), model.step(field, features))
    other.load_state_dict(load_file(tmp_path / "part.safetensors"))
    assert torch.equal(other.step(field, features), model.step(field, features))


@every_spec
@every_part
def test_builds_and_runs_without_memory(part: str, spec: FieldSpec) -> None:
    with torch.device("meta"):
        model = build(part, spec)
    assert all(each.is_meta for each in model.state_dict().values())
    field, features = (each.to("meta") for each in batch(spec))
    assert model.step(field, features).shape == field.shape


@every_spec
@every_part
def test_a_sample_does_not_see_the_others_of_its_batch(part: str, spec: FieldSpec) -> None:
    model = scramble(build(part, spec)).eval()
    field, features = batch(spec, samples=3)
    alone = model.step(field[1:2], features[1:2])
    torch.testing.assert_close(model.step(field, features)[1:2], alone, atol=1e-4, rtol=1e-4)


@every_spec
@every_part
def test_runs_in_bfloat16(part: str, spec: FieldSpec) -> None:
    model = scramble(build(part, spec)).eval()
    field, features = batch(spec)
    plain = model.step(field, features)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.step(field, features)
    assert (rough - plain).square().mean().sqrt() < 0.1 * plain.square().mean().sqrt()


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize(
    ("part", "spec"),
    [
        ("operator:hybrid-serial", "torus"),
        ("operator:windows", "box"),
        ("decoder:window", "box"),
        ("baseline:unet", "line"),
    ],
)
def test_compiles_as_one_graph(part: str, spec: str) -> None:
    torch._dynamo.reset()
    model = scramble(build(part, SPECS[spec])).eval()
    field, features = batch(SPECS[spec])
    compiled = torch.compile(model.step, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(field, features), model.step(field, features), atol=1e-5, rtol=1e-4)
