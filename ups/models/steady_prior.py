"""The steady prior: a flow from noise to the latent of a steady solution, given the encoded coefficient field."""

from __future__ import annotations

from torch import Tensor

from ups.core.layers import rms_norm
from ups.models.corrector import Corrector


class SteadyPrior(Corrector):
    """As `Corrector`, but its data is the solution's latent itself and not a residual of the operator's."""

    def apply_to(self, base_BND: Tensor, data_BND: Tensor) -> Tensor:
        return rms_norm(self.scale * data_BND)

    def data_of(self, base_BND: Tensor, target_BND: Tensor) -> Tensor:
        return target_BND
