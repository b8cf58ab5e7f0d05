"""The steady prior: a flow from noise to the latent of a steady solution, given the encoded coefficient field."""

from __future__ import annotations

from torch import Tensor

from ups.core.layers import rms_norm
from ups.models.corrector import Corrector


class SteadyPrior(Corrector):
    """As `Corrector`, but the flow ends at the solution's latent itself and not at a residual of the operator's.

    The end point is predicted as a change of the operator's answer: an untrained prior draws that answer every time.
    """

    def end_point(self, x_BND: Tensor, tau_B: Tensor, base_BND: Tensor, latent_BND: Tensor, features: Tensor) -> Tensor:
        change = super().end_point(x_BND, tau_B, base_BND, latent_BND, features)
        return base_BND + self.scale * change

    def apply_to(self, base_BND: Tensor, data_BND: Tensor) -> Tensor:
        return rms_norm(data_BND)

    def data_of(self, base_BND: Tensor, target_BND: Tensor) -> Tensor:
        return target_BND
