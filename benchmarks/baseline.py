"""The tuned baseline of `search_cost.py`: how Ray Tune with OptunaSearch and ASHA is set up, replayed and real."""

from __future__ import annotations

METRIC = "rollout_nrmse"
SHARES = {"operator": 0.5, "diff_residual": 0.3, "consistency_distill": 0.15, "inference": 0.05}
"""parts of a whole trial, by which ASHA counts how far one is: a key that grows through all stages"""
GRACE_PERCENT = 12.5
MAX_PERCENT = 101
"""above the end: ASHA stops whoever reaches its `max_t`, at 100 before the trial has returned"""
REDUCTION_FACTOR = 4
CLIPPED = 1.0
"""what is reported of a trial that diverged: the score of a constant prediction"""


def progress_percent(stage: str, share: float) -> float:
    """How far a trial is, given the share of its stage that is done."""
    before = [SHARES[each] for each in list(SHARES)[: list(SHARES).index(stage)]]
    return 100 * (sum(before) + share * SHARES[stage])
