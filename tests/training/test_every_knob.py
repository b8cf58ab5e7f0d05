"""A config key that cannot change what is learned or predicted is a defect: every leaf of RunConfig is listed here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ups.config import RunConfig
from ups.core.schema import known_paths
from ups.data.generators import generate
from ups.run import train_run
from ups.training.losses import LossesConfig

Values = dict[str, Any]
STAGE = "stages.operator."
LOSSES = STAGE + "losses."
POOLED = {"encoder.patch": 2}
HYBRID = {"operator.mixer": "hybrid", "operator.hidden_dim": 16, "operator.num_heads": 2}
POINTS = {"decoder.kind": "anypoint", "decoder.width": 16, "decoder.num_heads": 2}
ATTENTION = {"mixer": "attention", "hidden_dim": 16, "num_heads": 2, "depth": 2}
FLOW = {"task.equation": "navier_stokes"}
DARCY = {"task.equation": "darcy"}
SAMPLED = {LOSSES + "queries.kind": "uniform", LOSSES + "queries.count": 8}
UNET = {"baseline.kind": "unet", "baseline.width": 8, "baseline.levels": 1}
FNO = {"baseline.kind": "fno", "baseline.width": 8, "baseline.modes": 4, "baseline.depth": 2}

DIFFUSION = {"stages.diff_residual.epochs": 2, "stages.diff_residual.horizon": 1}
DISTILLED = {**DIFFUSION, "stages.consistency_distill.epochs": 2, "stages.consistency_distill.horizon": 1}
PRIOR = {**DARCY, "stages.steady_prior.epochs": 2}
SEARCHED = {"ttc.enabled": True, "ttc.noise_std": 0.1}
# candidates far enough apart for every law to be broken by some, and one term that most choices follow
WILD = {"ttc.enabled": True, "ttc.choice": "sample", "ttc.noise_std": 0.3, "ttc.reward.kind": "composite"}
JUDGED = {**WILD, "ttc.reward.dissipation": 1.0}
IN_FLOW = {**FLOW, **WILD, "ttc.noise_std": 1.0}
SAMPLED_FROM = {**DIFFUSION, "ttc.enabled": True, "ttc.noise_std": 0.0, "ttc.source": "diffusion"}


def under(part: str, values: Values) -> Values:
    return {f"{part}.{key}": value for key, value in values.items()}


def trunk(part: str, context: Values) -> dict[str, tuple[Any, Values]]:
    """The keys of the operator's menu where they stand below `part`."""
    attention = {**context, **under(part, ATTENTION)}
    serial = {**context, f"{part}.block": "serial"}
    unet = {**context, **under(part, {"kind": "pdet_unet", "mixer": "spectral"})}
    found: dict[str, tuple[Any, Values]] = {
        "kind": ("pdet_unet", {**context, f"{part}.mixer": "spectral"}),
        "mixer": ("conv", context),
        "block": ("serial", context),
        "depth": (2, context),
        "depths": ((1, 2, 1), unet),
        "hidden_dim": (12, context),
        "num_heads": (4, attention),
        "group_size": (8, attention),
        "window": (4, attention),
        "kernel": (3, {**context, f"{part}.mixer": "conv"}),
        "modes": (2, context),
        "mlp_ratio": (1.0, serial),
        "drop_path": (0.5, {**context, f"{part}.depth": 2}),
    }
    return under(part, found)


def stage(name: str, context: Values) -> dict[str, tuple[Any, Values]]:
    """The keys that every stage has: one loop reads them, each stage must hand them on."""
    at = f"stages.{name}."
    found: dict[str, tuple[Any, Values]] = {
        "epochs": (3, {}),
        "windows_per_trajectory": (3, {}),
        "batch_size": (4, {}),
        "accumulation_steps": (2, {}),
        "grad_clip": (0.001, {}),
        "grad_clip_per_param": (True, {at + "grad_clip": 0.001}),
        "augment": (False, {}),
        "optimizer.name": ("muon", {}),
        "optimizer.lr": (1e-2, {}),
        "optimizer.weight_decay": (0.3, {}),
        "optimizer.beta2": (0.9, {}),
        "changes": ([{"share": 0.25, "lr": 1e-2}], {}),
        "schedule.kind": ("constant", {}),
        "schedule.warmup": (0.3, {}),
        "schedule.final": (0.5, {}),
        "ema.decay": (0.0, {}),
        "guard.skip_norm": (1e-3, {at + "guard.warn_norm": 1e-4}),
    }
    return {at + key: (value, {**context, **more}) for key, (value, more) in found.items()}


# path -> (value, what else must be set for the path to matter)
KNOBS: dict[str, tuple[Any, Values]] = {
    "symmetry": ("none", {}),
    "latent.tokens": (16, {}),
    "latent.dim": (4, {}),
    "encoder.patch": (2, {}),
    "encoder.width": (12, {}),
    "encoder.kernel": (5, {}),
    "encoder.blocks": (0, {}),
    "encoder.num_heads": (2, POOLED),
    "encoder.positions": ("fourier", {}),
    **trunk("operator", {}),
    "decoder.kind": ("anypoint", {}),
    "decoder.width": (12, {}),
    "decoder.kernel": (5, {}),
    "decoder.blocks": (1, {}),
    "decoder.cell_width": (2, {}),
    "decoder.log_clamp": (1.0, {}),
    "decoder.num_heads": (4, POINTS),
    "decoder.locality": ("global", POINTS),
    "decoder.window": (2, POINTS),
    "decoder.frequencies": (3, POINTS),
    "baseline": ({"kind": "fno", "width": 8}, {}),
    "baseline.width": (4, FNO),
    "baseline.modes": (2, FNO),
    "baseline.depth": (1, FNO),
    "baseline.position": (False, FNO),
    "baseline.kind": ("unet", {"baseline.kind": "fno", "baseline.width": 8}),
    "baseline.levels": (2, UNET),
    "baseline.kernel": (5, UNET),
    **trunk("corrector", DIFFUSION),
    "inference.rollout": ("latent", {}),
    "inference.reencode_every": (2, {}),
    "inference.corrector": ("none", DIFFUSION),
    "inference.sampler_steps": (2, DIFFUSION),
    "inference.solver": ("heun", DIFFUSION),
    "inference.temperature": (0.0, DIFFUSION),
    "inference.student_steps": (2, DISTILLED),
    "ttc.enabled": (True, {}),
    "ttc.steps": (2, SEARCHED),
    "ttc.candidates": (4, SEARCHED),
    "ttc.choice": ("sample", SEARCHED),
    "ttc.source": ("diffusion", {**DIFFUSION, **SEARCHED}),
    "ttc.around": ("operator", SAMPLED_FROM),
    "ttc.temperature": (0.5, SAMPLED_FROM),
    "ttc.source_scale": (0.5, SAMPLED_FROM),
    "ttc.noise_std": (0.05, SEARCHED),
    "ttc.rounds": (2, SEARCHED),
    "ttc.round_decay": (0.2, {**SEARCHED, "ttc.rounds": 2}),
    "ttc.beam_width": (3, SEARCHED),
    "ttc.horizon": (2, SEARCHED),
    "ttc.max_evaluations": (3, SEARCHED),
    "ttc.early_stop": (0.1, {**SEARCHED, "ttc.rounds": 2}),
    "ttc.reward.min_correlation": (1.0, SEARCHED),
    "ttc.reward.without": (("residual",), SEARCHED),
    "ttc.reward.conservation": (1000.0, {**IN_FLOW, "ttc.reward.dissipation": 1.0}),
    "ttc.reward.residual": (1000.0, JUDGED),
    "runtime.seed": (7, {}),
    "runtime.precision": ("bf16", {}),
    **stage("operator", {}),
    **stage("diff_residual", DIFFUSION),
    "stages.diff_residual.horizon": (2, DIFFUSION),
    "stages.diff_residual.target": ("encoded", DIFFUSION),
    "stages.diff_residual.tau_sampling": ("uniform", DIFFUSION),
    "stages.diff_residual.tau_min": (0.2, DIFFUSION),
    "stages.diff_residual.tau_max": (0.8, DIFFUSION),
    **stage("consistency_distill", DISTILLED),
    "stages.consistency_distill.horizon": (2, DISTILLED),
    **stage("steady_prior", PRIOR),
    "stages.steady_prior.target": ("encoded", {**PRIOR, LOSSES + "inverse_encoding.weight": 0.1}),
    "stages.steady_prior.tau_sampling": ("beta", PRIOR),
    "stages.steady_prior.tau_min": (0.2, PRIOR),
    "stages.steady_prior.tau_max": (0.8, PRIOR),
    LOSSES + "error": ("relative_mse", {}),
    LOSSES + "forward.weight": (3.0, {}),
    LOSSES + "rollout.weight": (3.0, {}),
    LOSSES + "rollout.horizon": (4, {}),
    LOSSES + "rollout.warmup": (0.0, {}),
    LOSSES + "rollout.mode": ("latent", {}),
    LOSSES + "rollout.every": (2, {}),
    LOSSES + "rollout.pushforward": (True, {LOSSES + "rollout.warmup": 0.0}),
    LOSSES + "inverse_encoding.weight": (1.0, {}),
    LOSSES + "inverse_decoding.weight": (1.0, {}),
    LOSSES + "inverse_decoding.detach_target": (True, {LOSSES + "inverse_decoding.weight": 1.0}),
    LOSSES + "spectral.weight": (1.0, {}),
    LOSSES + "mean.weight": (1.0, {"symmetry": "none"}),
    LOSSES + "physics.residual.weight": (1.0, {}),
    LOSSES + "physics.divergence.weight": (1.0, FLOW),
    LOSSES + "physics.boundary.weight": (1.0, DARCY),
    LOSSES + "physics.positivity.weight": (10.0, FLOW),
    LOSSES + "latent_norm.weight": (1.0, {}),
    LOSSES + "queries.kind": ("stratified", SAMPLED),
    LOSSES + "queries.count": (4, SAMPLED),
}
CURRICULUM: dict[str, tuple[Any, Values]] = {
    "warmup": (0.3, {}),
    "max_weight": (0.1, {}),
    "ramp": ("cosine", {"warmup": 0.3}),
    "every": (2, {}),
}
# limits that end a stage, the clock, what is measured, what is written, and names of the only choice there is
ELSEWHERE = {
    **{
        f"stages.{name}.{key}": where
        for name in ("operator", "diff_residual", "consistency_distill", "steady_prior")
        for key, where in {
            "time_limit_seconds": "test_run.py",
            "validations": "test_run.py",
            "guard.warn_norm": "test_guard_and_curriculum.py",
            "guard.explode_norm": "test_guard_and_curriculum.py",
            "guard.max_skips": "test_guard_and_curriculum.py",
        }.items()
    },
    **{f"{LOSSES}{term}.{key}": "below, without training" for term in LossesConfig().terms for key in CURRICULUM},
    **{
        f"ttc.reward.{bound}": "a bound that no tiny model breaks: test_rewards.py"
        for bound in ("dissipation", "maximum_principle", "total_variation", "positivity")
    },
    "ttc.reward.kind": "which of the keys below it there are: test_rewards.py",
    "runtime.device": "where, not what",
    "runtime.threads": "where, not what",
    "runtime.compile": "how, not what: test_loop.py",
    "runtime.deterministic": "how, not what: test_loop.py",
    "logging.log_every_n_steps": "what is written",
    "logging.checkpoint_every_n_epochs": "what is written",
    "logging.keep_at": "what is written: test_changes.py",
    "logging.wandb.mode": "where it is shown: test_tracking.py",
    "logging.wandb.project": "where it is shown: test_tracking.py",
    "logging.wandb.entity": "where it is shown: test_tracking.py",
    "provenance": "what is recorded",
}


def test_every_path_is_listed() -> None:
    paths = {path for path in known_paths(RunConfig) if not path.startswith("task.")}
    assert paths == set(KNOBS) | set(ELSEWHERE)


@pytest.fixture(scope="module")
def outcome(tiny: Values, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Scores of all stages of a run with these changes, each trained once; stages that are equal are shared."""
    base = RunConfig.parse(tiny).override(
        {
            STAGE + "optimizer.lr": 4e-3,
            STAGE + "validations": 2,
            "decoder.cell_width": 3,
            **under("corrector", {"hidden_dim": 16, "depth": 1, "modes": 4}),
            **{
                f"stages.{name}.{key}": value
                for name in ("diff_residual", "consistency_distill", "steady_prior")
                for key, value in {"windows_per_trajectory": 1, "validations": 1, "optimizer.lr": 4e-3}.items()
            },
        }
    )
    root = tmp_path_factory.mktemp("knobs")
    files: dict[str, Path] = {}
    found: dict[str, Values] = {}

    def file_of(equation: str) -> str:
        if equation not in files:
            path = root / f"{equation}.h5"
            more = {} if equation == "darcy" else {"frames": 4, "dt": 0.1}
            files[equation] = generate(equation, path, trajectories=8, cells=16, **more)
        return str(files[equation])

    def train(changes: Values) -> Values:
        if "task.equation" in changes:
            task = {"files": [file_of(changes["task.equation"])], "train": 4, "validation": 2, "test": 2}
            changes = {**under("task", task), **changes}
        config = base.override(changes)
        folder: Path = root / config.fingerprint()[:12]
        if folder.name not in found:
            result = train_run(config, folder, evaluate_on="none", store=root / "store")
            stages = {
                path.parent.name: json.loads(path.read_text())["milestones"]
                for path in folder.glob("checkpoints/*/result.json")
            }
            if "inference" in result.stages:
                stages["inference"] = {"score_after": result.stages["inference"]["score_after"]}
            found[folder.name] = {"status": result.status, "score": result.score, **stages}
        return found[folder.name]

    return train


@pytest.mark.parametrize("path", KNOBS)
def test_the_knob_changes_the_validation_score(outcome: Any, path: str) -> None:
    value, context = KNOBS[path]
    changed, plain = outcome({**context, path: value}), outcome(context)
    assert plain["operator"], "what it is compared with was not trained"
    assert changed != plain
    # a run that ends early differs by that alone: what it had measured until then must differ, too
    stages = [name for name in changed if name in plain and name not in ("status", "score")]
    same = all(
        plain[name][key] == score for name in stages for key, score in changed[name].items() if key in plain[name]
    )
    assert changed["status"] == plain["status"] or not same or path.startswith(STAGE + "guard."), changed["status"]


@pytest.mark.parametrize("key", CURRICULUM)
@pytest.mark.parametrize("term", LossesConfig().terms)
def test_the_curriculum_changes_the_weights_of_its_term(term: str, key: str) -> None:
    value, context = CURRICULUM[key]
    plain = LossesConfig().override(under(term, {"weight": 1.0, **context}))
    changed = plain.override({f"{term}.{key}": value})

    def weights(losses: LossesConfig) -> list[dict[str, float]]:
        return [losses.weights(index, index / 4, 5) for index in range(20)]

    assert weights(changed) != weights(plain)
    assert {name for batch in weights(plain) for name in batch} == {term}
