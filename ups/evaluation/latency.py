"""How long a trained predictor takes for one step: what a search weighs against its error.

B batch, T frames, X the cells of all axes, C channels, P parameters.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from ups.data.task import Trajectories
from ups.inference.surrogate import Surrogate

MOST_STEPS = 16
"""of a rollout that is timed: enough that what is done once, such as encoding the first frame, weighs little"""
REPEATS = 5
SECONDS = 0.5
"""no further repetition after that"""


def inference_ms(surrogate: Surrogate, split: Trajectories) -> float:
    """Milliseconds of one rollout step of one trajectory, of steady tasks of the one prediction.

    Measured as deployed, with its correction and its search at test time, on the first trajectory of `split` and on
    the device the surrogate is on: the fastest of a few short rollouts after one to warm up. The fastest, because
    whatever else runs on the machine can only add to it.

    Args:
        split: trajectories of the surrogate's own task; a batch of one is taken from them.
    """
    device = surrogate.reference_F.device
    steps = min(MOST_STEPS, split.fields_STXC.shape[1] - 1)
    first_BXC = torch.from_numpy(np.array(split.fields_STXC[:1, 0], dtype=np.float32)).to(device)
    parameters_BP = torch.tensor(split.parameters_SP[:1], dtype=torch.float32, device=device)

    def seconds() -> float:
        begin = time.perf_counter()
        surrogate.rollout(first_BXC, parameters_BP, steps)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    spent, fastest = seconds(), float("inf")
    for _ in range(REPEATS):
        took = seconds()
        fastest, spent = min(fastest, took), spent + took
        if spent > SECONDS:
            break
    return 1000 * fastest / steps
