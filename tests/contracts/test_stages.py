"""What every stage must do: learn, move the prediction, touch its own weights alone, resume exactly, come back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ups.config import RunConfig
from ups.core.artifacts import ArtifactStore
from ups.core.checkpoint import load_checkpoint
from ups.core.errors import ConfigError, DataError
from ups.core.types import Progress, RunResult, Status
from ups.data.generators import generate
from ups.data.task import Task, load_task
from ups.inference.build import load_surrogate
from ups.inference.surrogate import Surrogate
from ups.models.corrector import Student
from ups.run import build_run_surrogate, train_run
from ups.training.keys import stage_keys
from ups.training.loop import Stage
from ups.training.pipeline import Pipeline
from ups.training.stages.consistency_distill import ConsistencyDistillStage
from ups.training.stages.diff_residual import DiffResidualStage

Values = dict[str, Any]
FLOW = {"epochs": 6, "batch_size": 16, "validations": 2, "windows_per_trajectory": 2, "optimizer": {"lr": 3e-3}}
NAMES = ["operator", "diff_residual", "consistency_distill", "steady_prior"]


class Stop(Exception):
    """Stands for whatever ends a run from outside."""


@pytest.fixture(scope="session")
def evolving(tiny: Values) -> RunConfig:
    """Operator, diffusion residual and student on Burgers."""
    operator = {**tiny["stages"]["operator"], "losses": {"inverse_encoding": {"weight": 0.3}}}
    later = {"diff_residual": {**FLOW, "horizon": 1}, "consistency_distill": {**FLOW, "horizon": 1, "epochs": 4}}
    corrector = {"depth": 1, "hidden_dim": 16, "modes": 4}
    return RunConfig.parse({**tiny, "corrector": corrector, "stages": {"operator": operator, **later}})


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Operator and prior on Darcy flow."""
    file = generate("darcy", tmp_path_factory.mktemp("darcy") / "darcy.h5", trajectories=24, cells=16, seed=1)
    tokens = {"depth": 1, "hidden_dim": 16, "num_heads": 2, "modes": 3}
    return RunConfig.parse(
        {
            "task": {"equation": "darcy", "files": [str(file)], "train": 16, "validation": 4, "test": 4},
            "latent": {"tokens": 16, "dim": 8},
            "encoder": {"width": 16, "blocks": 1, "kernel": 3},
            "operator": tokens,
            "corrector": tokens,
            "decoder": {"kind": "grid", "width": 16, "blocks": 0, "kernel": 3, "cell_width": 4},
            "stages": {
                "operator": {"epochs": 12, "windows_per_trajectory": 1, "batch_size": 8, "validations": 2},
                "steady_prior": {**FLOW, "batch_size": 8},
            },
            "runtime": {"threads": 1},
        }
    )


@dataclass
class Trained:
    config: RunConfig
    folder: Path
    result: RunResult
    task: Task
    store: Path

    @property
    def surrogate(self) -> Surrogate:
        return load_surrogate(self.folder)


def train(config: RunConfig, root: Path, name: str = "run") -> Trained:
    result = train_run(config, root / name, store=root / "store")
    return Trained(config, root / name, result, load_task(config.task), root / "store")


@pytest.fixture(scope="session")
def trained_evolving(evolving: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(evolving, tmp_path_factory.mktemp("evolving"))


@pytest.fixture(scope="session")
def trained_steady(steady: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(steady, tmp_path_factory.mktemp("steady"))


@pytest.fixture
def trained(request: pytest.FixtureRequest, stage: str) -> Trained:
    return request.getfixturevalue("trained_steady" if stage == "steady_prior" else "trained_evolving")


def pipeline_of(run: Trained) -> Pipeline:
    """The run's pipeline with all weights loaded, as after its last stage."""
    pipeline = Pipeline(
        config=run.config,
        stages=run.config.stages,
        runtime=run.config.runtime,
        logging=run.config.logging,
        task=run.task,
        surrogate=build_run_surrogate(run.config, run.task),
        folder=run.folder,
        store=ArtifactStore(run.store),
        facts={},
        report=lambda progress: None,
        resume=True,
        keys=stage_keys(run.config, run.task.fingerprint),
    )
    assert pipeline.run()[0] is Status.COMPLETE
    return pipeline


def fresh_stage(run: Trained, name: str) -> tuple[Stage, Pipeline]:
    """An untrained stage on top of what the run trained before it."""
    pipeline = pipeline_of(run)
    if name == "operator":
        pipeline.surrogate = build_run_surrogate(run.config, run.task)
    return pipeline.build_stage(name), pipeline


def start_of(task: Task) -> tuple[torch.Tensor, torch.Tensor, int]:
    fields = torch.from_numpy(task.validation.fields_STXC.copy())
    return fields[:, 0], torch.from_numpy(task.validation.parameters_SP.copy()), fields.shape[1] - 1


@pytest.mark.parametrize("stage", NAMES)
def test_a_stage_completes_and_says_what_it_brought(trained: Trained, stage: str) -> None:
    assert trained.result.status is Status.COMPLETE
    summary = trained.result.stages[stage]
    assert summary["status"] == "COMPLETE"
    assert summary["score_after"] is not None
    assert (summary["score_before"] is None) == (stage == "operator")
    assert f"{stage}:1" in trained.result.milestones
    report = json.loads((trained.folder / "report.json").read_text())
    assert report["stages"][stage]["kept"] == summary["kept"]


@pytest.mark.parametrize("stage", NAMES)
def test_a_stage_overfits_one_batch(trained: Trained, stage: str) -> None:
    fresh, _ = fresh_stage(trained, stage)
    fresh.model.train().requires_grad_(True)
    optimizer = torch.optim.Adam(fresh.model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss, _ = fresh.loss(0, 0.0, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < (0.75 if stage != "operator" else 0.6) * losses[0]


@pytest.mark.parametrize("stage", NAMES)
def test_gradients_reach_exactly_the_stages_own_weights(trained: Trained, stage: str) -> None:
    fresh, pipeline = fresh_stage(trained, stage)
    loss, _ = fresh.loss(0, 0.0, 0.0)
    own = {id(parameter) for parameter in fresh.model.parameters()}
    frozen = [
        parameter
        for part in (pipeline.surrogate, *pipeline.corrections.values())
        for parameter in part.parameters()
        if id(parameter) not in own
    ]
    fresh.model.zero_grad()
    loss.backward()
    missed = [name for name, parameter in fresh.model.named_parameters() if parameter.grad is None]
    assert missed == []
    assert any(parameter.grad.abs().max() > 0 for parameter in fresh.model.parameters() if parameter.grad is not None)
    assert all(parameter.grad is None for parameter in frozen)
    assert not frozen or not any(parameter.requires_grad for parameter in frozen)


@pytest.mark.parametrize("stage", NAMES[1:])
def test_a_correction_moves_the_prediction(trained: Trained, stage: str) -> None:
    pipeline = pipeline_of(trained)
    name = {"diff_residual": "diffusion", "consistency_distill": "student", "steady_prior": "prior"}[stage]
    start, parameters, steps = start_of(trained.task)
    plain = pipeline.surrogate.eval().rollout(start, parameters, steps)
    whole = pipeline.deploy().with_inference(corrector=name)
    corrected = whole.rollout(start, parameters, steps)
    assert (corrected - plain).abs().max() > 1e-4
    assert torch.equal(corrected, whole.rollout(start, parameters, steps))
    # the noise is that of the step: neither the other samples nor their number matter
    torch.testing.assert_close(whole.rollout(start[1:2], parameters[1:2], steps), corrected[1:2], atol=1e-5, rtol=1e-4)
    drawn = whole.sample(start, parameters, steps, members=3)
    assert torch.equal(drawn[0], corrected)
    assert (drawn[1] - drawn[2]).abs().max() > 0
    still = whole.with_inference(temperature=0.0).sample(start, parameters, steps, members=2)
    assert torch.equal(still[0], still[1])


@pytest.mark.parametrize("stage", NAMES)
def test_a_run_comes_back_as_it_was_deployed(trained: Trained, stage: str) -> None:
    start, parameters, steps = start_of(trained.task)
    again = pipeline_of(trained).deploy()
    loaded = trained.surrogate
    assert loaded.correction == again.correction
    assert torch.equal(loaded.rollout(start, parameters, steps), again.rollout(start, parameters, steps))
    assert trained.result.stages[stage]["kept"] == (
        stage == "operator"
        or again.correction
        == {"diff_residual": "diffusion", "consistency_distill": "student", "steady_prior": "prior"}[stage]
    )


@pytest.mark.parametrize("stage", NAMES)
def test_resuming_within_a_stage_is_exact(trained: Trained, stage: str, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.stage == stage and progress.score is not None:
            raise Stop

    folder = tmp_path / "run"
    with pytest.raises(Stop):
        train_run(trained.config, folder, interrupt)
    resumed = train_run(trained.config, folder, resume=True)
    assert resumed.milestones == trained.result.milestones
    assert resumed.score == trained.result.score
    for name in trained.result.stages:
        for kind in ("best", "last"):
            file = f"checkpoints/{name}/{kind}.safetensors"
            whole, parts = load_checkpoint(trained.folder / file), load_checkpoint(folder / file)
            assert all(torch.equal(value, parts.tensors[key]) for key, value in whole.tensors.items()), file


@pytest.mark.parametrize("stage", ["consistency_distill", "steady_prior"])
def test_later_stages_leave_the_operator_alone(trained: Trained, stage: str) -> None:
    kept = load_checkpoint(trained.folder / "checkpoints" / "operator" / "best.safetensors").group("model")
    deployed = load_checkpoint(trained.folder / "checkpoints" / "best.safetensors").group("model")
    assert all(torch.equal(value, deployed[name]) for name, value in kept.items())


def test_what_the_store_holds_is_not_trained_again(trained_evolving: Trained, tmp_path: Path) -> None:
    run = trained_evolving
    seen: list[str] = []
    changed = run.config.override({"stages.consistency_distill.optimizer.lr": 1e-3})
    result = train_run(changed, tmp_path / "a", lambda p: seen.append(p.stage), store=run.store, evaluate_on="none")
    assert result.reused_stages == ("operator", "diff_residual")
    assert set(seen) <= {"consistency_distill"}
    assert result.milestones["diff_residual:1"] == run.result.milestones["diff_residual:1"]
    # and takes no time
    assert result.seconds == result.stages["consistency_distill"]["seconds"] > 0
    # whatever determines a stage names it
    for path, value in {
        "runtime.seed": 9,
        "latent.dim": 4,
        "stages.operator.optimizer.lr": 1e-5,
        "inference.rollout": "latent",
        "task.split_seed": 4,
    }.items():
        alone = {"stages.diff_residual.epochs": 0, "stages.consistency_distill.epochs": 0}
        other = run.config.override({path: value, "stages.operator.windows_per_trajectory": 1, **alone})
        assert train_run(other, tmp_path / path, store=run.store, evaluate_on="none").reused_stages == (), path


def test_a_stage_that_worsens_the_score_is_left_out(
    trained_evolving: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained_evolving
    for each in (DiffResidualStage, ConsistencyDistillStage):
        monkeypatch.setattr(each, "score", lambda stage, model: 9.0)
    harmful = run.config.override({"stages.diff_residual.optimizer.lr": 1e-3})
    result = train_run(harmful, tmp_path / "run", store=run.store, evaluate_on="none")
    summary = result.stages["diff_residual"]
    assert summary["score_after"] > summary["score_before"]
    assert not summary["kept"]
    assert result.score == result.stages["operator"]["score_after"]
    assert result.milestones["diff_residual:1"] == result.score
    loaded = load_surrogate(tmp_path / "run")
    start, parameters, steps = start_of(run.task)
    assert loaded.correction == "none"
    plain = loaded.with_inference(corrector="none").rollout(start, parameters, steps)
    assert torch.equal(loaded.rollout(start, parameters, steps), plain)


@pytest.mark.parametrize("forced", ["none", "diffusion", "student"])
def test_what_the_config_asks_for_is_deployed(trained_evolving: Trained, tmp_path: Path, forced: str) -> None:
    run = trained_evolving
    config = run.config.override({"inference.corrector": forced})
    seen: list[tuple[str, float]] = []

    def note(progress: Progress) -> None:
        if progress.score is not None:
            seen.append((progress.stage, progress.score))

    changed = config.override({"stages.diff_residual.optimizer.weight_decay": 0.02})
    result = train_run(changed, tmp_path / "run", note, store=run.store, evaluate_on="none")
    assert load_surrogate(tmp_path / "run").correction == forced
    stages = {"none": "operator", "diffusion": "diff_residual", "student": "consistency_distill"}
    assert [name for name, each in result.stages.items() if each["kept"] and name != "operator"] == (
        [] if forced == "none" else [stages[forced]]
    )
    assert result.score == result.stages[stages[forced]]["score_after"]
    # a stage that will not be deployed has the score of what is
    alone = result.stages["operator"]["score_after"]
    hidden = {"none": {"diff_residual", "consistency_distill"}, "diffusion": set(), "student": {"diff_residual"}}
    assert all(score == alone for stage, score in seen if stage in hidden[forced])


def test_a_later_stage_that_fails_leaves_a_predictor(trained_evolving: Trained, tmp_path: Path) -> None:
    run = trained_evolving
    guard = {"warn_norm": 1e-9, "skip_norm": 1e-9, "explode_norm": 1e-9}
    config = run.config.override({f"stages.diff_residual.guard.{key}": value for key, value in guard.items()})
    result = train_run(config, tmp_path / "run", store=run.store)
    assert result.status is Status.EXPLODED
    assert "diff_residual" in result.reason
    assert result.score == run.result.stages["operator"]["score_after"]
    assert load_surrogate(tmp_path / "run").correction == "none"


def test_a_later_stage_that_fails_late_is_not_deployed(
    trained_evolving: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had scored better than the operator before it failed."""
    run = trained_evolving
    scores = iter([1e-6, float("nan")])
    monkeypatch.setattr(DiffResidualStage, "score", lambda stage, model: next(scores))
    config = run.config.override({"stages.diff_residual.optimizer.lr": 2e-3})
    result = train_run(config, tmp_path / "run", store=run.store, evaluate_on="none")
    assert result.status is Status.NOT_FINITE
    assert not result.stages["diff_residual"]["kept"]
    assert result.score == run.result.stages["operator"]["score_after"]
    assert load_surrogate(tmp_path / "run").correction == "none"


def test_a_stages_own_checkpoint_is_no_predictor(trained_evolving: Trained) -> None:
    file = trained_evolving.folder / "checkpoints" / "diff_residual" / "best.safetensors"
    with pytest.raises(DataError, match="diff_residual alone; give the run's folder") as error:
        load_surrogate(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corrector": {"kind": "pdet_unet", "depths": [1] * 11}}, "corrector: "),
        ({"stages.operator.losses.physics.divergence.weight": 1.0}, "needs a velocity"),
        ({"stages.diff_residual.optimizer.name": "muon", "corrector.hidden_dim": 4}, "muon"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is(
    evolving: RunConfig, tmp_path: Path, changes: Values, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_run(evolving.override(changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def distance(student: Student, stage: ConsistencyDistillStage) -> float:
    """To the teacher's results, over their own size, as the stage measures it."""
    stage.student = student
    return sum(stage.loss(index, 0.0, 0.0)[1]["distance"] for index in range(4)) / 4


def test_a_collapsed_student_is_found_out(trained_evolving: Trained) -> None:
    stage, pipeline = fresh_stage(trained_evolving, "consistency_distill")
    assert isinstance(stage, ConsistencyDistillStage)
    student = pipeline.corrections["student"]
    assert isinstance(student, Student)
    assert distance(student, stage) < 0.35
    for parameter in student.trunk.parameters():
        nn.init.zeros_(parameter.requires_grad_(False))
    assert distance(student, stage) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages.diff_residual.epochs": 0}, "needs a teacher"),
        ({"stages.steady_prior.epochs": 1}, "for steady tasks"),
        ({"inference.corrector": "prior"}, "no stage trains prior"),
        ({"inference.student_steps": 2, "inference.sampler_steps": 1}, "at most inference.sampler_steps"),
        ({"baseline": {"kind": "fno"}, "stages.operator.losses.inverse_encoding.weight": 0.0}, "no latent"),
        ({"stages.diff_residual.tau_min": 0.9, "stages.diff_residual.tau_max": 0.5}, "tau_min < tau_max"),
    ],
)
def test_stages_that_do_not_go_together_are_refused(evolving: RunConfig, changes: Values, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evolving.override(changes)


def test_steady_tasks_have_no_residual(steady: RunConfig) -> None:
    with pytest.raises(ConfigError, match="has no time"):
        steady.override({"stages.diff_residual.epochs": 2})


def test_null_is_a_stage_that_is_off(tiny: Values) -> None:
    stages = {**tiny["stages"], "diff_residual": None, "steady_prior": None}
    assert RunConfig.parse({**tiny, "stages": stages}).stages.later() == []
