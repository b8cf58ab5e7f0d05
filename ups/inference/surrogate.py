"""A trained model as a predictor of physical fields. B batch, T frames, X cells, C channels, P parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ups.baselines.fno import Fno
from ups.core.checkpoint import load_checkpoint
from ups.core.errors import UserError
from ups.core.physics import EQUATIONS
from ups.core.schema import Schema
from ups.core.types import FieldSpec
from ups.data.normalization import Normalizer
from ups.models.decoder import Decoder, GridDecoder
from ups.models.encoder import GridEncoder, LatentConfig
from ups.models.frame import CanonicalFrame
from ups.models.latent import LatentModel
from ups.models.operator import PdetStack

Mode = Literal["latent", "reencode"]


class InferenceConfig(Schema):
    """How a trained model is rolled out."""

    rollout: Mode = "reencode"
    """latent: encode once, advance, decode; reencode: decode and encode again after every `reencode_every` steps"""
    reencode_every: int = Field(1, ge=1)


class Surrogate(nn.Module):
    """A model of canonical fields, with the frame and the scales that make its input and output physical."""

    reference_F: Tensor
    """the dimensionless numbers of a typical sample, subtracted from every condition"""

    def __init__(
        self,
        model: LatentModel | Fno,
        spec: FieldSpec,
        normalizer: Normalizer,
        symmetry: str,
        inference: InferenceConfig,
        training_parameters: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self.normalizer = normalizer
        self.symmetry = symmetry
        self.frame = CanonicalFrame(spec, symmetry)
        self.inference = inference
        self.training_parameters = training_parameters
        self.equation = EQUATIONS[spec.equation]
        typical = torch.tensor([normalizer.std[0]]), torch.tensor([[_middle(training_parameters)]])
        self.register_buffer("reference_F", self.equation.numbers(*typical, spec.dt, spec.length)[0])

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def has_latent(self) -> bool:
        return self.model.has_latent

    def with_cells(self, cells: int) -> Surrogate:
        """The same weights on a grid of another number of cells over the same domain.

        Raises:
            UserError: the model has a fixed grid.
        """
        if cells < 8:
            raise UserError(f"cells: at least 8, got {cells}")
        spec = FieldSpec(**{**self.spec.to_json(), "cells": (cells,), "parameter_names": self.spec.parameter_names})
        other = Surrogate(self.model, spec, self.normalizer, self.symmetry, self.inference, self.training_parameters)
        return other.to(self.reference_F.device).train(self.training)

    @torch.no_grad()
    def rollout(self, initial_BXC: Tensor, parameters_BP: Tensor, steps: int, mode: str | None = None) -> Tensor:
        """Frames 1..steps after `initial_BXC` as (B, steps, X, C), physical units in and out."""
        mean = self.frame.mean(initial_BXC)
        start = initial_BXC - mean[:, 0]
        return self.frame.leave(self.unroll(start, parameters_BP, steps, mode), mean, first=1)

    def unroll(self, start_BXC: Tensor, parameters_BP: Tensor, steps: int, mode: str | None = None) -> Tensor:
        """Frames 1..steps in the co-moving frame (B, steps, X, C), differentiable."""
        mode = mode or self.inference.rollout
        if not self.has_latent:
            stride = 1
        else:
            stride = steps if mode == "latent" else self.inference.reencode_every
        frames: list[Tensor] = []
        field = start_BXC
        while len(frames) < steps:
            frames.extend(self._stretch(field, parameters_BP, min(stride, steps - len(frames))))
            field = frames[-1]
        return torch.stack(frames, dim=1)

    def normalise(self, field_BXC: Tensor, parameters_BP: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the model is given: the canonical field, its condition, and (offset, scale) to undo it."""
        std = field_BXC.new_tensor(self.normalizer.std)
        if self.frame.scales:
            # the floor keeps a field that has decayed to nothing finite
            scale = (field_BXC.square().mean((1, 2), keepdim=True) + (1e-3 * std[0]) ** 2).sqrt()
            offset = torch.zeros_like(scale)
        else:
            scale = std.expand(len(field_BXC), 1, -1)
            mean = torch.zeros_like(std) if self.frame.subtracts_mean else field_BXC.new_tensor(self.normalizer.mean)
            offset = mean.expand(len(field_BXC), 1, -1)
        numbers = self.equation.numbers(scale[:, 0, 0], parameters_BP, self.spec.dt, self.spec.length)
        return (field_BXC - offset) / scale, numbers - self.reference_F, offset, scale

    def _stretch(self, field_BXC: Tensor, parameters_BP: Tensor, steps: int) -> list[Tensor]:
        """`steps` frames from one encoding."""
        canonical, features, offset, scale = self.normalise(field_BXC, parameters_BP)
        if not isinstance(self.model, LatentModel) or steps == 1:
            return [self._physical(self.model.step(canonical, features), offset, scale)]
        cells = field_BXC.shape[1]
        latent = self.model.encode(canonical)
        rest = canonical - self.model.decode(latent, cells)
        frames = []
        for _ in range(steps):
            latent = self.model.advance(latent, features)
            frames.append(self._physical(rest + self.model.decode(latent, cells), offset, scale))
        return frames

    def _physical(self, canonical_BXC: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
        field = canonical_BXC * scale + offset
        # the frame took the conserved mean out: what a model adds to it is an error
        return field - field.mean(1, keepdim=True) if self.frame.subtracts_mean else field


def _middle(values: tuple[float, ...]) -> float:
    return sorted(values)[len(values) // 2]


class ModelConfig(Schema):
    """The parts of a run's config that a predictor is built from."""

    symmetry: Literal["none", "auto"] = "auto"
    """auto: take the equation's exact symmetries out before the model (the canonical frame)"""
    latent: LatentConfig = LatentConfig()
    encoder: GridEncoder.Config = GridEncoder.Config()
    operator: PdetStack.Config = PdetStack.Config()
    decoder: Decoder = Field(default_factory=GridDecoder.Config, discriminator="kind")
    baseline: Fno.Config | None = None
    """when given, this field-space model is trained instead of encoder, operator and decoder"""
    inference: InferenceConfig = InferenceConfig()

    @field_validator("decoder", mode="before")
    @classmethod
    def _default_kind(cls, value: Any) -> Any:
        return {"kind": "grid", **value} if isinstance(value, Mapping) else value

    def build(self, spec: FieldSpec, normalizer: Normalizer, training_parameters: tuple[float, ...]) -> Surrogate:
        """The untrained predictor.

        Raises:
            ConfigError: the model does not fit the grid of `spec`.
        """
        features = EQUATIONS[spec.equation].num_numbers
        model: LatentModel | Fno
        if self.baseline is not None:
            model = self.baseline.build(spec, features)
        else:
            model = LatentModel(self.encoder, self.operator, self.decoder, self.latent, spec, features)
        return Surrogate(model, spec, normalizer, self.symmetry, self.inference, training_parameters)


def load_surrogate(run: Path, device: str = "cpu", checkpoint: str = "best") -> Surrogate:
    """The trained predictor of a run folder (its `best` or `last`), or of one checkpoint file.

    Raises:
        DataError: nothing trained there, or the file is damaged.
    """
    saved = load_checkpoint(run if run.is_file() else run / "checkpoints" / f"{checkpoint}.safetensors")
    facts = saved.facts
    config = ModelConfig.parse({name: facts["config"][name] for name in ModelConfig.model_fields})
    surrogate = config.build(
        FieldSpec.from_json(facts["spec"]),
        Normalizer.from_json(facts["normalizer"]),
        tuple(facts["training_parameters"]),
    )
    # `last` keeps the raw weights beside the averaged ones; what is deployed is the average
    weights = saved.group("ema") or saved.group("model")
    surrogate.load_state_dict(weights)
    return surrogate.to(device).eval()
