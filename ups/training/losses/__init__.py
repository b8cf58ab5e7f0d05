"""The operator stage's loss: its config, and the one function that a batch's loss is computed by."""

from ups.training.losses.config import LossesConfig
from ups.training.losses.operator import operator_loss

__all__ = ["LossesConfig", "operator_loss"]
