"""What is varied in ablations.py, and what was claimed about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ablation_report import Claim

_LOSSES = "stages.operator.losses"
_DIFFUSION = "stages.diff_residual"


@dataclass(frozen=True)
class Axis:
    """One shipped space, what of it is run, and what was claimed about it."""

    title: str
    space: str
    """shipped SPACE file"""
    words: Mapping[str, str]
    """name of the space -> how an arm says it; the value follows"""
    claims: Sequence[Claim]
    part: Mapping[str, Any] | None = None
    """domains in place of the shipped ones, where those would not fit the time"""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """values of the base"""


AXES: dict[str, Axis] = {
    "tokens": Axis(
        "Latent tokens",
        "ablation_tokens",
        {"latent.tokens": "tokens"},
        [Claim("small is best", "tokens 16", tuple(f"tokens {count}" for count in (32, 64, 128, 256)))],
    ),
    "inverse": Axis(
        "Inverse losses",
        "ablation_inverse",
        {
            f"{_LOSSES}.inverse_encoding.weight": "encoding",
            f"{_LOSSES}.inverse_decoding.weight": "decoding",
            f"{_LOSSES}.inverse_encoding.warmup": "encoding warm-up",
            f"{_LOSSES}.inverse_decoding.warmup": "decoding warm-up",
        },
        [
            Claim(
                "inverse losses harm",
                "encoding 0, decoding 0",
                tuple(
                    f"encoding {encoding:g}, decoding {decoding:g}, {term} warm-up {warmup:g}"
                    for encoding, decoding, term in ((0.1, 0, "encoding"), (0, 0.1, "decoding"), (0.1, 0.1, "encoding"))
                    for warmup in (0, 0.25)
                ),
            )
        ],
        part={
            f"{_LOSSES}.inverse_encoding.weight": {"choice": [0.0, 0.1]},
            f"{_LOSSES}.inverse_decoding.weight": {"choice": [0.0, 0.1]},
            # with both terms on, the warm-up of the decoding term is the base's: none
            f"{_LOSSES}.inverse_encoding.warmup": {
                "choice": [0.0, 0.25],
                "when": {f"{_LOSSES}.inverse_encoding.weight": "> 0"},
            },
            f"{_LOSSES}.inverse_decoding.warmup": {
                "choice": [0.0, 0.25],
                "when": {
                    f"{_LOSSES}.inverse_encoding.weight": 0.0,
                    f"{_LOSSES}.inverse_decoding.weight": "> 0",
                },
            },
        },
        # the cap would make weights above it the same
        changes={f"{_LOSSES}.inverse_{which}coding.max_weight": None for which in ("en", "de")},
    ),
    "operator": Axis(
        "Operators",
        "ablation_operator",
        {"operator.kind": "", "operator.mixer": ""},
        [
            Claim("the U-Net over tokens beats the stack", f"pdet_unet {mixer}", (f"pdet_stack {mixer}",))
            for mixer in ("attention", "spectral", "hybrid")
        ]
        + [
            Claim("the hybrid mixer beats attention", f"{kind} hybrid", (f"{kind} attention",))
            for kind in ("pdet_stack", "pdet_unet")
        ]
        + [
            Claim("the hybrid mixer beats the spectral one", f"{kind} hybrid", (f"{kind} spectral",))
            for kind in ("pdet_stack", "pdet_unet")
        ],
    ),
    "diffusion": Axis(
        "The diffusion residual",
        "ablation_diffusion",
        {
            f"{_DIFFUSION}.epochs": "epochs",
            f"{_DIFFUSION}.optimizer.lr": "rate",
            f"{_DIFFUSION}.optimizer.weight_decay": "decay",
            f"{_DIFFUSION}.tau_sampling": "",
        },
        [
            Claim("diffusion overfits: fewer epochs are better", "epochs 3", ("epochs 8, rate 0.003",)),
            Claim("diffusion overfits: a smaller rate is better", "epochs 8, rate 2e-05", ("epochs 8, rate 5e-05",)),
            Claim(
                "diffusion overfits: more weight decay is better",
                "epochs 8, rate 0.003, decay 0.05, stratified",
                ("epochs 8, rate 0.003, decay 0.015",),
            ),
            Claim(
                "stratified flow times beat uniform ones",
                "epochs 8, rate 0.003, decay 0.05, stratified",
                ("epochs 8, rate 0.003, decay 0.05, uniform",),
            ),
        ],
        # one setting at a time about the base; the whole grid would be 24 trials
        part={
            f"{_DIFFUSION}.epochs": {"choice": [8, 3]},
            f"{_DIFFUSION}.optimizer.lr": {"choice": [3e-3, 2e-5, 5e-5], "when": {f"{_DIFFUSION}.epochs": 8}},
            f"{_DIFFUSION}.optimizer.weight_decay": {
                "choice": [0.05, 0.015],
                "when": {f"{_DIFFUSION}.epochs": 8, f"{_DIFFUSION}.optimizer.lr": 3e-3},
            },
            f"{_DIFFUSION}.tau_sampling": {
                "choice": ["stratified", "uniform"],
                "when": {f"{_DIFFUSION}.optimizer.weight_decay": 0.05},
            },
        },
        changes={
            "stages.consistency_distill.epochs": 0,
            f"{_DIFFUSION}.validations": 4,
            f"{_DIFFUSION}.windows_per_trajectory": 2,
        },
    ),
}


def arm_of(axis: Axis, params: Mapping[str, Any]) -> str:
    """What a trial is called in the tables."""
    words = []
    for name, said in axis.words.items():
        if name in params:
            value = params[name]
            shown = f"{value:g}" if isinstance(value, (int, float)) else str(value)
            words.append((said, shown))
    kept = [f"{said} {shown}".strip() for said, shown in words]
    return (" " if not any(said for said, _ in words) else ", ").join(kept)
