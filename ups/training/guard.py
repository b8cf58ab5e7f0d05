"""The gradient guard: measures every update before clipping, skips bad ones, and ends a stage that explodes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ups.core.ranks import ALONE, Ranks
from ups.core.schema import Schema


class GuardConfig(Schema):
    """Limits of the unscaled global gradient norm."""

    warn_norm: float = Field(100.0, gt=0)
    skip_norm: float = Field(1e3, gt=0)
    explode_norm: float = Field(1e6, gt=0)
    max_skips: int = Field(20, ge=1)
    """skipped updates in a row that end the stage"""

    @model_validator(mode="after")
    def _ordered(self) -> GuardConfig:
        if not self.warn_norm <= self.skip_norm <= self.explode_norm:
            raise ValueError(
                "needs warn_norm <= skip_norm <= explode_norm, "
                f"got {self.warn_norm:g}, {self.skip_norm:g}, {self.explode_norm:g}"
            )
        return self


class Exploded(Exception):
    """A stage must end now; the message gives step, norm and the parameter group with the largest share."""


@dataclass
class GradientGuard:
    """Counts what happened to the gradients of one stage; its state travels in the checkpoint."""

    config: GuardConfig
    stage: str
    skipped: int = 0
    skipped_in_row: int = 0
    refusal: str = ""
    """the latest update that was skipped, in words"""
    warned: int = 0
    warnings: list[str] = field(default_factory=list)

    def check_loss(self, loss: float, step: int) -> None:
        """Raises Exploded for a training loss that is not finite."""
        if not math.isfinite(loss):
            raise Exploded(f"training loss {loss} at step {step} of {self.stage}")

    def admits(self, model: nn.Module, step: int, ranks: Ranks = ALONE) -> tuple[bool, float]:
        """Whether the update may be made, and the global norm of its gradient.

        Raises:
            Exploded: the norm is above `explode_norm`, or this is the `max_skips`-th skip in a row.
        """
        named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm([grad for _, grad in named]))
        # gradients are the same on all ranks; were their processors not, rank 0 would decide
        norm = ranks.first(float(norms.norm()))
        config = self.config
        if norm > config.explode_norm:
            raise Exploded(self._describe(norm, step, [name for name, _ in named], norms))
        if not math.isfinite(norm) or norm > config.skip_norm:
            self.skipped += 1
            self.skipped_in_row += 1
            self.refusal = self._describe(norm, step, [name for name, _ in named], norms)
            if self.skipped_in_row >= config.max_skips:
                raise self.exploded()
            return False, norm
        self.skipped_in_row = 0
        if norm > config.warn_norm:
            self.warned += 1
            if self.warned == 1:
                self.warnings.append(f"gradient norm {norm:.3g} at step {step} of {self.stage}")
        return True, norm

    def exploded(self) -> Exploded:
        """What to raise when a stage must end while its updates are being refused."""
        return Exploded(f"{self.skipped_in_row} updates in a row refused; {self.refusal}")

    def state(self) -> dict[str, Any]:
        return {
            "refusal": self.refusal,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
            "warned": self.warned,
            "warnings": self.warnings,
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def _describe(self, norm: float, step: int, names: list[str], norms: Tensor) -> str:
        shares: dict[str, float] = {}
        for name, value in zip(names, norms.tolist(), strict=True):
            group = ".".join(name.split(".")[:3])
            shares[group] = shares.get(group, 0.0) + (value**2 if math.isfinite(value) else math.inf)
        largest = max(shares, key=lambda group: shares[group])
        return f"gradient norm {norm:.3g} at step {step} of {self.stage}, largest in {largest}"


def clip_gradients(
    parameters: Iterable[Tensor], max_norm: float | None, per_parameter: bool, norm: float | None = None
) -> None:
    """Scale gradients down to `max_norm`: their global norm (`norm`, where it is known already), or each one's own."""
    if max_norm is None:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients)) if per_parameter or norm is None else None
    if norms is not None and per_parameter:
        torch._foreach_mul_(gradients, list((max_norm / (norms + 1e-6)).clamp_max(1.0).unbind()))
        return
    norm = float(norms.norm()) if norms is not None else norm
    assert norm is not None
    if norm + 1e-6 > max_norm:
        total = torch.tensor(norm, device=gradients[0].device)
        torch._foreach_mul_(gradients, (max_norm / (total + 1e-6)).clamp_max(1.0))
