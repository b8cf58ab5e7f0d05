"""From a config, or from a checkpoint, to a predictor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ups.baselines.fno import Fno
from ups.baselines.unet import Unet
from ups.core.checkpoint import Checkpoint, load_checkpoint
from ups.core.errors import ConfigError, DataError
from ups.core.physics import EQUATIONS
from ups.core.schema import Schema
from ups.core.types import FieldSpec
from ups.data.normalization import Normalizer
from ups.inference.rewards import FittedReward
from ups.inference.search import Search
from ups.inference.search_config import SearchConfig
from ups.inference.surrogate import InferenceConfig, Surrogate
from ups.models.corrector import Corrector, Student
from ups.models.decoder import Decoder, GridDecoder
from ups.models.encoder import GridEncoder, LatentConfig
from ups.models.latent import LatentModel
from ups.models.operator import Operator, PdetStack
from ups.models.steady_prior import SteadyPrior

Baseline = Fno.Config | Unet.Config


class ModelConfig(Schema):
    """The parts of a run's config that a predictor is built from."""

    symmetry: Literal["none", "auto"] = "auto"
    """auto: take the equation's exact symmetries out before the model (the canonical frame)"""
    latent: LatentConfig = LatentConfig()
    encoder: GridEncoder.Config = GridEncoder.Config()
    operator: Operator = Field(default_factory=PdetStack.Config, discriminator="kind")
    decoder: Decoder = Field(default_factory=GridDecoder.Config, discriminator="kind")
    corrector: Operator = Field(default_factory=PdetStack.Config, discriminator="kind")
    """the velocity network of the diffusion residual, of its student, and of the steady prior"""
    baseline: Baseline | None = Field(None, discriminator="kind")
    """when given, this field-space model is trained instead of encoder, operator and decoder"""
    inference: InferenceConfig = InferenceConfig()
    ttc: SearchConfig = SearchConfig()
    """the search at test time"""

    @field_validator("decoder", mode="before")
    @classmethod
    def _default_decoder(cls, value: Any) -> Any:
        return {"kind": "grid", **value} if isinstance(value, Mapping) else value

    @field_validator("operator", "corrector", mode="before")
    @classmethod
    def _default_operator(cls, value: Any) -> Any:
        return {"kind": "pdet_stack", **value} if isinstance(value, Mapping) else value

    def build(
        self, spec: FieldSpec, normalizer: Normalizer, training_parameters: tuple[tuple[float, ...], ...]
    ) -> Surrogate:
        """The untrained predictor: model alone, no correction.

        Raises:
            ConfigError: the model does not fit the grid of `spec`.
        """
        features = EQUATIONS[spec.equation].num_numbers
        model: LatentModel | Fno | Unet
        if self.baseline is not None:
            model = self.baseline.build(spec, features)
        else:
            model = LatentModel(self.encoder, self.operator, self.decoder, self.latent, spec, features)
        return Surrogate(model, spec, normalizer, self.symmetry, self.inference, training_parameters)

    def build_correction(self, name: str, spec: FieldSpec) -> Corrector:
        """An untrained `diffusion`, `student` or `prior`.

        Raises:
            ConfigError: the velocity network does not fit the token grid.
        """
        kind = {"diffusion": Corrector, "student": Student, "prior": SteadyPrior}[name]
        try:
            return kind(self.corrector, spec, self.latent, EQUATIONS[spec.equation].num_numbers)
        except ConfigError as error:
            raise ConfigError(f"corrector: {error}") from None


def load_surrogate(run: Path, device: str = "cpu") -> Surrogate:
    """The trained predictor of a run folder as it is deployed, or of one checkpoint file.

    Of a run that has not finished it is the best operator so far, without corrections.

    Raises:
        DataError: nothing trained there, or the file is damaged.
    """
    path = checkpoint_of(run)
    if not path.is_file():
        raise DataError(f"{run}: no trained run here ({path} is missing); `ups train CONFIG --out {run}` makes one")
    try:
        return surrogate_of(load_checkpoint(path)).to(device).eval()
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from None


def checkpoint_of(run: Path) -> Path:
    """The file that `load_surrogate` reads."""
    if run.is_file():
        return run
    deployed = run / "checkpoints" / "best.safetensors"
    operator = run / "checkpoints" / "operator" / "best.safetensors"
    return operator if operator.is_file() and not deployed.is_file() else deployed


def surrogate_of(saved: Checkpoint) -> Surrogate:
    """The predictor that a checkpoint holds.

    Raises:
        DataError: it holds a later stage alone, or weights of another model than its config says.
    """
    facts = saved.facts
    if "config" not in facts:
        raise DataError(f"holds the stage {facts.get('stage', 'of something else')} alone; give the run's folder")
    # a predictor from before there was a search has no `ttc`
    known = facts["config"]
    config = ModelConfig.parse({name: known[name] for name in ModelConfig.model_fields if name in known})
    spec = FieldSpec.from_json(facts["spec"])
    surrogate = config.build(
        spec,
        Normalizer.from_json(facts["normalizer"]),
        tuple(tuple(each) for each in facts["training_parameters"]),
    )
    if "chosen" not in facts:  # the operator's own checkpoint
        surrogate = surrogate.with_inference(corrector="auto")
    corrections = {name: config.build_correction(name, spec) for name in facts.get("corrections", ())}
    surrogate = surrogate.with_corrections(corrections, facts.get("chosen", "none"))
    # `last` keeps the raw weights beside the averaged ones; what is deployed is the average
    try:
        surrogate.load_state_dict(saved.group("ema") or saved.group("model"))
    except RuntimeError as error:  # torch has no other name for it
        line = str(error).splitlines()[0]
        raise DataError(f"its weights are not of the model that its config describes ({line})") from None
    if facts.get("reward"):  # the search is part of what is deployed
        surrogate = surrogate.with_search(Search(config.ttc, FittedReward.from_json(facts["reward"])))
    return surrogate
