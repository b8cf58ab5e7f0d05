"""A trained model as a predictor of physical fields.

B batch, T frames, X cells of every axis, C channels, P parameters, N latent tokens, D latent width, K members of an
ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ups.baselines.fno import Fno
from ups.baselines.unet import Unet
from ups.core.errors import UserError
from ups.core.physics import EQUATIONS
from ups.core.runtime import generator
from ups.core.schema import Schema
from ups.core.types import FieldSpec
from ups.data.normalization import Normalizer
from ups.inference.rewards import Move
from ups.inference.search import Search
from ups.inference.unroll import unroll
from ups.models.corrector import Corrector, Solver, Student
from ups.models.frame import CanonicalFrame
from ups.models.latent import LatentModel

Mode = Literal["latent", "reencode"]
Correction = Literal["none", "diffusion", "student", "prior"]
"""what is done to a latent after A: nothing, the sampled residual, its few-step student, a draw of the steady prior"""

_DECAYED = 1e-3
"""of the training deviation: a field smaller than that has decayed to nothing"""


class InferenceConfig(Schema):
    """How a trained model is rolled out."""

    rollout: Mode = "reencode"
    """latent: encode once, advance, decode; reencode: decode and encode again after every `reencode_every` steps"""
    reencode_every: int = Field(1, ge=1)
    corrector: Literal["auto"] | Correction = "auto"
    """auto: whatever scored best on validation when it was trained; a stage that worsened the score is left out"""
    sampler_steps: int = Field(4, ge=1)
    """steps from noise to a residual"""
    solver: Solver = "euler"
    temperature: float = Field(1.0, ge=0)
    """deviation of the noise that sampling starts from; 0 gives the same residual every time"""
    student_steps: int = Field(1, ge=1, le=2)
    """evaluations of the student for one residual"""


class Surrogate(nn.Module):
    """A model of canonical fields, with the frame and the scales that make its input and output physical."""

    reference_F: Tensor
    """the dimensionless numbers of a typical sample, subtracted from every condition"""

    def __init__(
        self,
        model: LatentModel | Fno | Unet,
        spec: FieldSpec,
        normalizer: Normalizer,
        symmetry: Literal["none", "auto"],
        inference: InferenceConfig,
        training_parameters: tuple[tuple[float, ...], ...],
        corrections: Mapping[str, Corrector] | None = None,
        chosen: Correction = "none",
        search: Search | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.corrections = nn.ModuleDict(dict(corrections or {}))
        """trained ones by name: diffusion, student, prior"""
        self.chosen = chosen
        """what `inference.corrector: auto` stands for"""
        self.search = search
        """of the deployed rollout, at test time"""
        self.spec = spec
        self.normalizer = normalizer
        self.symmetry = symmetry
        self.frame = CanonicalFrame(spec, symmetry)
        self.inference = inference
        self.training_parameters = training_parameters
        self.equation = EQUATIONS[spec.equation]
        typical = torch.tensor([normalizer.std[0]]), torch.tensor([_middle(training_parameters)])
        self.register_buffer("reference_F", self.equation.numbers(*typical, spec.dt, spec.length)[0])

    @property
    def num_parameters(self) -> int:
        """Of everything that takes part in a prediction."""
        names = {self.correction, self.search.config.source if self.search is not None else "none"} - {"none"}
        parts = [self.model, *(self.corrections[name] for name in sorted(names))]
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    @property
    def has_latent(self) -> bool:
        return self.model.has_latent

    @property
    def correction(self) -> Correction:
        """What is done after every step of the operator.

        Raises:
            UserError: `inference.corrector` names one that was not trained.
        """
        name = self.chosen if self.inference.corrector == "auto" else self.inference.corrector
        if name != "none" and name not in self.corrections:
            trained = ", ".join(self.corrections) or "none"
            raise UserError(f"inference.corrector: {name} was not trained, choose auto or one of: {trained}")
        return name

    def with_cells(self, cells: int | tuple[int, ...]) -> Surrogate:
        """The same weights on a grid of another number of cells over the same domain.

        Raises:
            UserError: too few cells, or cells that are no longer squares.
        """
        cells = (cells,) * self.spec.axes if isinstance(cells, int) else cells
        if min(cells) < 8:
            raise UserError(f"cells: at least 8 along each axis, got {' x '.join(map(str, cells))}")
        if any(
            here * self.spec.cells[0] != there * cells[0] for here, there in zip(cells, self.spec.cells, strict=True)
        ):
            raise UserError(
                f"cells: must keep the proportions of {' x '.join(map(str, self.spec.cells))}, "
                f"got {' x '.join(map(str, cells))}"
            )
        return self._copy(spec=replace(self.spec, cells=cells))

    def with_inference(self, **changes: Any) -> Surrogate:
        """The same weights, rolled out in another way: keys of `InferenceConfig`."""
        return self._copy(inference=self.inference.override(changes))

    def with_corrections(self, corrections: Mapping[str, Corrector], chosen: Correction) -> Surrogate:
        """The same operator with these corrections, of which `chosen` is the deployed one."""
        return self._copy(corrections=corrections, chosen=chosen)

    def with_search(self, search: Search | None) -> Surrogate:
        """The same weights, rolled out with a search at test time, or without one.

        Raises:
            UserError: there is no latent to search in, no time to search over, or the source was not trained.
        """
        if search is not None:
            if not isinstance(self.model, LatentModel):
                raise UserError("ttc: a baseline has no latent, so there is nothing to search in")
            if self.equation.steady:
                raise UserError(f"ttc: {self.spec.equation} is steady, so there are no steps to search")
            source = search.config.source
            if source != "none" and source not in self.corrections:
                trained = ", ".join(["none", *self.corrections])
                raise UserError(f"ttc.source: {source} was not trained, choose one of: {trained}")
        return self._copy(search=search)

    def _copy(self, **changes: Any) -> Surrogate:
        parts: dict[str, Any] = {
            "model": self.model,
            "spec": self.spec,
            "normalizer": self.normalizer,
            "symmetry": self.symmetry,
            "inference": self.inference,
            "training_parameters": self.training_parameters,
            "corrections": dict(self.corrections.items()),
            "chosen": self.chosen,
            "search": self.search,
        }
        return Surrogate(**{**parts, **changes}).to(self.reference_F.device).train(self.training)

    @torch.no_grad()
    def rollout(self, initial_BXC: Tensor, parameters_BP: Tensor, steps: int, mode: str | None = None) -> Tensor:
        """Frames 1..steps after `initial_BXC` as (B, steps, X, C), physical units in and out.

        Equal calls give equal frames: the noise of a correction is a function of the step alone. A search at test time
        is part of the deployed rollout; a mode that is named is rolled out without one.
        """
        return self._rollout(initial_BXC, parameters_BP, steps, mode, (0, 0))

    @torch.no_grad()
    def sample(self, initial_BXC: Tensor, parameters_BP: Tensor, steps: int, *, members: int, seed: int = 0) -> Tensor:
        """An ensemble of rollouts (K, B, steps, X, C), each with noise of its own; member 0 of seed 0 is `rollout`.

        Without a correction and without a search all members are equal.
        """
        drawn = [self._rollout(initial_BXC, parameters_BP, steps, None, (seed, member)) for member in range(members)]
        return torch.stack(drawn)

    def _rollout(
        self, initial_BXC: Tensor, parameters_BP: Tensor, steps: int, mode: str | None, noise: tuple[int, int]
    ) -> Tensor:
        mean = self.frame.mean(initial_BXC)
        start = initial_BXC - mean[:, 0]
        if self.search is not None and mode is None:
            frames = self.search.frames(self, start, parameters_BP, steps, noise)
        else:
            frames = self.unroll(start, parameters_BP, steps, mode, noise)
        return self.frame.leave(frames, mean, first=1)

    def unroll(
        self,
        start_BXC: Tensor,
        parameters_BP: Tensor,
        steps: int,
        mode: str | None = None,
        noise: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """Frames 1..steps in the co-moving frame (B, steps, X, C), differentiable."""
        made = unroll(self, start_BXC, parameters_BP, steps, mode or self.inference.rollout, noise=noise)
        return torch.stack([step.field for step in made], dim=1)

    def normalise(self, field_BXC: Tensor, parameters_BP: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the model is given: the canonical field, its condition, and (offset, scale) to undo it.

        `(physical - offset) / scale` is the canonical form of a prediction, too.
        """
        space = tuple(range(1, field_BXC.ndim - 1))
        like_B1C = [len(field_BXC), *(1 for _ in space), -1]
        std = field_BXC.new_tensor(self.normalizer.std)
        if self.frame.scales:
            # the floor keeps a field that has decayed to nothing finite
            size = field_BXC.square().mean((*space, -1), keepdim=True)
            scale = (size + (_DECAYED * std[0]) ** 2).sqrt()
            offset = torch.zeros_like(scale)
        else:
            scale = std.expand(like_B1C)
            mean = torch.zeros_like(std) if self.frame.subtracts_mean else field_BXC.new_tensor(self.normalizer.mean)
            offset = mean.expand(like_B1C)
        numbers = self.equation.numbers(scale.flatten(1)[:, 0], parameters_BP, self.spec.dt, self.spec.length)
        given = self.normalizer.given
        canonical = (field_BXC - offset) / scale if given is None else given.normalize(field_BXC)
        return canonical, numbers - self.reference_F, offset, scale

    def correct(self, latent_BND: Tensor, after_BND: Tensor, features: Tensor, noise: tuple[int, int, int]) -> Tensor:
        """The operator's result `after`, corrected as deployed. The noise depends neither on the batch nor on its
        size: every sample of a batch gets the same."""
        name = self.correction
        if name == "none":
            return after_BND
        drawn_ND = torch.randn(after_BND.shape[1:], generator=generator("noise", *noise)).to(after_BND)
        start = (self.inference.temperature * drawn_ND).expand_as(after_BND)
        end = self.flow_end(name, start, after_BND, latent_BND, features)
        correction = self.corrections[name]
        assert isinstance(correction, Corrector)
        return correction.apply_to(after_BND, end)

    def flow_end(self, name: str, start: Tensor, base_BND: Tensor, latent_BND: Tensor, features: Tensor) -> Tensor:
        """What the named correction's flow makes of noise, in units of its scale, in the configured steps."""
        correction = self.corrections[name]
        assert isinstance(correction, Corrector)
        if isinstance(correction, Student):
            return correction.few_steps(start, base_BND, latent_BND, features, self.inference.student_steps)
        steps, solver = self.inference.sampler_steps, self.inference.solver
        return correction.integrate(start, base_BND, latent_BND, features, steps, solver)[:, -1]

    @property
    def floor_C(self) -> Tensor:
        """A size, physical units, below which a field counts as decayed."""
        return _DECAYED * self.reference_F.new_tensor(self.normalizer.std)

    def move(
        self, before_HXC: Tensor, after_HKXC: Tensor, parameters_HP: Tensor, sample_H: Tensor, number: int
    ) -> Move:
        """One step of this task, as a reward judges it."""
        floor_C = self.floor_C.to(before_HXC)
        return Move(self.spec, before_HXC, after_HKXC, parameters_HP, floor_C, sample_H, number)

    def calls_of(self, name: str) -> int:
        """Evaluations of the named correction's network for one result."""
        if isinstance(self.corrections[name], Student):
            return self.inference.student_steps
        steps = self.inference.sampler_steps
        return 2 * steps - 1 if self.inference.solver == "heun" else steps

    @property
    def correction_calls(self) -> int:
        """The same of what is deployed."""
        return 0 if self.correction == "none" else self.calls_of(self.correction)

    def physical(self, canonical_BXC: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
        """The inverse of `normalise` for a prediction."""
        field = canonical_BXC * scale + offset
        # the frame took the conserved mean out: what a model adds to it is an error
        space = tuple(range(1, field.ndim - 1))
        return field - field.mean(space, keepdim=True) if self.frame.subtracts_mean else field


def _middle(sets: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    """The median of each parameter."""
    return tuple(sorted(values)[len(values) // 2] for values in zip(*sets, strict=True))
