"""The config of the operator stage's loss, and which terms mean something for which task."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ups.core.errors import ConfigError
from ups.core.physics import EQUATIONS
from ups.core.runtime import generator
from ups.core.schema import Schema
from ups.core.types import FieldSpec
from ups.training.curriculum import RolloutLossConfig, TermConfig

LATENT_TERMS = ("inverse_encoding", "inverse_decoding", "latent_norm")


class ForwardLossConfig(Schema):
    weight: float = Field(1.0, gt=0)


class InverseDecodingConfig(TermConfig):
    detach_target: bool = False
    """stop the gradient at the advanced latent that the decoded and encoded one is compared with"""


class PhysicsConfig(Schema):
    """What the equation says about a predicted field, without the truth."""

    residual: TermConfig = TermConfig()
    """Burgers: distance to the equation integrated from the given frame"""
    divergence: TermConfig = TermConfig()
    """of a velocity that has none"""
    boundary: TermConfig = TermConfig()
    """value (dirichlet) or normal gradient (neumann) at the walls"""
    positivity: TermConfig = TermConfig()
    """negative values of fields that have none"""


class QueriesConfig(Schema):
    """Where forward and rollout terms look.

    It saves time with the anypoint decoder, where no other term reads the whole field, none of it is encoded again, and
    the canonical frame takes no mean out of it; else the field is decoded whole and looked at here and there.
    """

    kind: Literal["all", "uniform", "stratified"] = "all"
    """uniform: random cells, none twice; stratified: one in each of as many equal blocks"""
    count: int = Field(2048, ge=1)
    """cells that a sample draws; a grid that has no more is taken whole"""

    def draw(self, cells: tuple[int, ...], seed: int, step: int) -> Tensor | None:
        """Indices (Q) into the flattened grid, a pure function of seed and step; None stands for all cells.

        Every cell is drawn equally often on average, so the mean over the draw estimates that over the grid.
        """
        total = math.prod(cells)
        if self.kind == "all" or self.count >= total:
            return None
        draw = generator(seed, "queries", step)
        if self.kind == "uniform":
            return torch.randperm(total, generator=draw)[: self.count]
        blocks = _blocks(self.count, cells)
        where = torch.meshgrid(*(torch.arange(parts) for parts in blocks), indexing="ij")
        index = torch.zeros(self.count, dtype=torch.long)
        for axis, parts, block in zip(cells, blocks, where, strict=True):
            # a block may begin within a cell: positions are continuous, so that no cell is favoured
            place = (block.flatten() + torch.rand(self.count, generator=draw, dtype=torch.float64)) * axis / parts
            index = index * axis + place.long().clamp_max(axis - 1)
        return index


def _blocks(count: int, cells: tuple[int, ...]) -> tuple[int, ...]:
    """`count` equal blocks along the axes, each as close to a square as the divisors of `count` allow."""
    if len(cells) == 1:
        return (count,)
    first = min(
        (parts for parts in range(1, count + 1) if count % parts == 0),
        key=lambda parts: abs(math.log(parts * parts * cells[1] / (count * cells[0]))),
    )
    return (first, count // first)


class LossesConfig(Schema):
    """Weights and curricula of the operator stage's terms."""

    error: Literal["nrmse", "relative_mse"] = "nrmse"
    """what forward and rollout terms average over samples and frames: nRMSE as the score does, or its square"""
    forward: ForwardLossConfig = ForwardLossConfig()
    rollout: RolloutLossConfig = RolloutLossConfig()
    inverse_encoding: TermConfig = TermConfig()
    inverse_decoding: InverseDecodingConfig = InverseDecodingConfig()
    spectral: TermConfig = TermConfig()
    mean: TermConfig = TermConfig()
    physics: PhysicsConfig = PhysicsConfig()
    latent_norm: TermConfig = TermConfig()
    queries: QueriesConfig = QueriesConfig()

    @property
    def terms(self) -> dict[str, TermConfig]:
        """The terms beside forward and rollout by their paths below `losses`, such as `physics.residual`."""
        physics = {f"physics.{name}": getattr(self.physics, name) for name in PhysicsConfig.model_fields}
        names = ("inverse_encoding", "inverse_decoding", "spectral", "mean")
        return {name: getattr(self, name) for name in names} | physics | {"latent_norm": self.latent_norm}

    def needs_latent(self) -> bool:
        return any(self.terms[name].weight > 0 for name in LATENT_TERMS)

    def weights(self, index: int, epoch: float, epochs: int) -> dict[str, float]:
        """The terms that the `index`-th batch has beside forward and rollout, with their weights, none of them 0."""
        weights = {name: term.of_batch(index, epoch, epochs) for name, term in self.terms.items()}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def check(self, spec: FieldSpec, *, symmetry: str, has_latent: bool) -> None:
        """Refuse terms that would be zero or meaningless for these fields.

        Raises:
            ConfigError: the term's path, the rule, and the remedy.
        """
        equation = EQUATIONS[spec.equation]
        rules = {
            "mean": _mean_rule(spec, symmetry),
            "physics.residual": None if spec.equation == "burgers" else "is that of Burgers' equation alone",
            "physics.divergence": None if equation.velocity else "needs a velocity among the fields",
            "physics.boundary": "needs walls: a periodic field has none" if spec.boundary == "periodic" else None,
            "physics.positivity": None if equation.positive else "needs a field that is never negative",
        }
        rules |= dict.fromkeys(LATENT_TERMS, None if has_latent else "needs a latent: a baseline has none")
        for name, rule in rules.items():
            if rule is not None and self.terms[name].weight > 0:
                raise ConfigError(
                    f"stages.operator.losses.{name}.weight: this term {rule} (the task's equation is {spec.equation}); "
                    f"set it to 0, got {self.terms[name].weight:g}"
                )


def _mean_rule(spec: FieldSpec, symmetry: str) -> str | None:
    equation = EQUATIONS[spec.equation]
    if not equation.conserves_mean:
        return "needs an equation that conserves the mean"
    if symmetry == "auto" and equation.free_mean:
        return "cannot be lowered where the canonical frame (symmetry: auto) conserves the mean exactly"
    return None
