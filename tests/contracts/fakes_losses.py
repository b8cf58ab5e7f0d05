"""Small fields that solve, or nearly solve, each equation, and untrained surrogates for them: for the contract suites.

B samples, T frames, X all spatial axes, C channels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ups.core.integrators import integrate_burgers
from ups.core.physics import EQUATIONS
from ups.core.types import FieldSpec
from ups.data.normalization import Normalizer
from ups.inference.build import ModelConfig
from ups.inference.surrogate import Surrogate
from ups.training.batches import Batch

SAMPLES = 4
PARAMETERS = {
    "burgers": (0.01,),
    "reaction_diffusion": (0.01, 1.0),
    "diffusion_reaction": (1e-3, 5e-3, 5e-3),
    "navier_stokes": (0.01,),
    "darcy": (1.0,),
}
MODEL: dict[str, Any] = {
    "latent": {"tokens": 16, "dim": 8},
    "encoder": {"width": 16, "blocks": 1, "kernel": 3},
    "operator": {"kind": "pdet_stack", "mixer": "spectral", "depth": 1, "hidden_dim": 16, "modes": 4},
    "decoder": {"kind": "grid", "width": 16, "blocks": 0, "kernel": 3, "cell_width": 4},
}
POINTS = {"kind": "anypoint", "width": 16, "num_heads": 2, "kernel": 3, "blocks": 0}


def spec_of(equation: str) -> FieldSpec:
    known = EQUATIONS[equation]
    cells = (32,) if known.axes == 1 else (16, 16)
    dt = 1.0 if known.steady else 0.05
    return FieldSpec(equation, cells, len(known.channels), 1.0, dt, known.parameters, known.boundary)


def batch_of(equation: str, frames: int = 4) -> Batch:
    """Fields that have what the equation promises: mean, sign, divergence, values at the walls."""
    spec = spec_of(equation)
    draw = torch.Generator().manual_seed(1)
    parameters = torch.tensor(PARAMETERS[equation]).expand(SAMPLES, -1)
    if equation == "burgers":
        fields = [smooth(spec, draw) + 0.3]
        while len(fields) < frames:
            fields.append(integrate_burgers(fields[-1], parameters[:, 0], spec.dt, spec.length))
        return Batch(torch.stack(fields, 1)[..., None], parameters)
    if equation == "darcy":
        given, solution = smooth(spec, draw).exp(), _bump(spec) * (1 + 0.3 * smooth(spec, draw))
        return Batch(torch.stack([given, solution], 1)[..., None], parameters)
    start, change = (_structured(equation, spec, draw) for _ in range(2))
    steps = torch.arange(frames).view(1, -1, *(1 for _ in start.shape[1:]))
    return Batch(start[:, None] + 0.1 * steps * (change - start)[:, None], parameters)


def surrogate_of(equation: str, *, symmetry: str = "auto", perturbed: float = 0.1, **changes: Any) -> Surrogate:
    """A tiny model; `perturbed` is how far it is from the identity that an untrained operator is."""
    spec = spec_of(equation)
    batch = batch_of(equation)
    given, solved = batch.fields_BTXC[:, 0], batch.fields_BTXC[:, 1:].flatten(0, -2)
    normalizer = Normalizer(tuple(solved.mean(0).tolist()), tuple(solved.std(0).tolist()))
    if EQUATIONS[equation].steady:
        of_given = Normalizer((float(given.mean()),), (float(given.std()),))
        normalizer = Normalizer(normalizer.mean, normalizer.std, of_given)
    torch.manual_seed(0)
    config = ModelConfig.parse({**MODEL, "symmetry": symmetry, **changes})
    surrogate = config.build(spec, normalizer, (PARAMETERS[equation],))
    with torch.no_grad():
        for parameter in surrogate.parameters():
            parameter += perturbed * torch.randn_like(parameter)
    return surrogate.train()


def smooth(spec: FieldSpec, draw: torch.Generator) -> Tensor:
    """(B, X) sums of the two longest waves, even about the walls where there are any."""
    axes = torch.meshgrid(*((torch.arange(cells) + 0.5) / cells for cells in spec.cells), indexing="ij")
    field = torch.zeros(SAMPLES, *spec.cells)
    for wave in (1, 2):
        for place in axes:
            size, phase = torch.rand(2, SAMPLES, *(1 for _ in spec.cells), generator=draw)
            if spec.boundary == "periodic":
                field = field + size * torch.sin(2 * math.pi * (wave * place + phase))
            else:
                field = field + (size - 0.5) * torch.cos(math.pi * wave * place)
    return field


def _structured(equation: str, spec: FieldSpec, draw: torch.Generator) -> Tensor:
    if equation == "reaction_diffusion":
        return smooth(spec, draw).square()[..., None] / 4
    if equation == "diffusion_reaction":
        return torch.stack([smooth(spec, draw), smooth(spec, draw)], -1)
    assert equation == "navier_stokes"
    # a velocity along y that depends on x alone, and the other way round, has no divergence
    across = smooth(spec, draw)
    velocity_x = across.mean(1, keepdim=True).expand_as(across)
    velocity_y = across.mean(2, keepdim=True).expand_as(across)
    positive = smooth(spec, draw).square()
    return torch.stack([velocity_x, velocity_y, positive / positive.mean((1, 2), keepdim=True)], -1)


def _bump(spec: FieldSpec) -> Tensor:
    """Zero at the walls."""
    x, y = torch.meshgrid(*((torch.arange(cells) + 0.5) / cells for cells in spec.cells), indexing="ij")
    return 16 * x * (1 - x) * y * (1 - y)
