"""Flows in latent space: the diffusion residual and its student. B batch, N tokens, D latent width, F features.

A flow carries Gaussian noise at tau = 0 to data at tau = 1 along x_tau = (1 - tau) noise + tau data (conditional flow
matching, Lipman et al. 2023, arXiv:2210.02747). The network predicts the end point; its velocity is
(end - x_tau) / (1 - tau). An untrained network predicts the end point 0 whatever the noise: no correction.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ups.core.layers import periodic_features, rms_norm
from ups.core.types import FieldSpec
from ups.models.encoder import LatentConfig
from ups.models.operator import Operator

Solver = Literal["euler", "heun"]
_WAVES = 4


class Corrector(nn.Module):
    """Velocity network v(x_tau, tau | A(z), z, condition) of a flow over scaled residuals: what A(z) lacks."""

    scale: Tensor
    """root mean square of the residuals it was trained on"""

    def __init__(self, config: Operator, spec: FieldSpec, latent: LatentConfig, features: int) -> None:
        super().__init__()
        grid = latent.grid(spec.cells)
        self.trunk = config.build_trunk(3 * latent.dim, latent.dim, features + 2 * _WAVES, grid, spec.boundary)
        self.register_buffer("scale", torch.ones(()))

    def end_point(self, x_BND: Tensor, tau_B: Tensor, base_BND: Tensor, latent_BND: Tensor, features: Tensor) -> Tensor:
        """The expected data (B, N, D), in units of `scale`, given x_tau."""
        # half waves, so that 0 and 1 differ
        where = periodic_features(tau_B / 2, _WAVES).to(features.dtype)
        return self.trunk(torch.cat([x_BND, base_BND, latent_BND], dim=-1), torch.cat([features, where], dim=-1))

    def velocity(self, x_BND: Tensor, tau_B: Tensor, base_BND: Tensor, latent_BND: Tensor, features: Tensor) -> Tensor:
        """dx/dtau at tau < 1."""
        end = self.end_point(x_BND, tau_B, base_BND, latent_BND, features)
        return (end - x_BND) / (1 - tau_B)[:, None, None]

    def integrate(
        self, noise_BND: Tensor, base_BND: Tensor, latent_BND: Tensor, features: Tensor, steps: int, solver: Solver
    ) -> Tensor:
        """States (B, steps + 1, N, D) of the flow at tau = 0, 1/steps, ..., 1, in units of `scale`.

        Heun's last step is Euler's: the velocity at tau = 1 is a quotient of zeros.
        """
        x, states = noise_BND, [noise_BND]
        for step in range(steps):
            tau_B = x.new_full((len(x),), step / steps)
            slope = self.velocity(x, tau_B, base_BND, latent_BND, features)
            ahead = x + slope / steps
            if solver == "heun" and step + 1 < steps:
                slope_ahead = self.velocity(ahead, tau_B + 1 / steps, base_BND, latent_BND, features)
                ahead = x + (slope + slope_ahead) / (2 * steps)
            x = ahead
            states.append(x)
        return torch.stack(states, dim=1)

    def apply_to(self, base_BND: Tensor, data_BND: Tensor) -> Tensor:
        """The corrected latent, of unit rms again; `data` is the end of the flow."""
        return rms_norm(base_BND + self.scale * data_BND)

    def data_of(self, base_BND: Tensor, target_BND: Tensor) -> Tensor:
        """What the flow must end at for `apply_to` to give the target."""
        return (target_BND - base_BND) / self.scale


class Student(Corrector):
    """The same network as a map from any point of the teacher's trajectory to that trajectory's end."""

    def few_steps(
        self, noise_BND: Tensor, base_BND: Tensor, latent_BND: Tensor, features: Tensor, steps: int
    ) -> Tensor:
        """The end point after `steps` evaluations: each goes back along the straight line to the noise."""
        end = noise_BND
        for step in range(steps):
            tau = step / steps
            x = noise_BND + tau * (end - noise_BND)
            end = self.end_point(x, x.new_full((len(x),), tau), base_BND, latent_BND, features)
        return end
