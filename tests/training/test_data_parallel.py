"""Several ranks train what one would: losses, decisions, checkpoints, and ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes_ranks import Crew, equal
from torch import Tensor, nn

from ups.config import RunConfig
from ups.core.blocks import DropPath
from ups.core.checkpoint import load_checkpoint
from ups.core.errors import ConfigError
from ups.core.ranks import RankLost, Ranks
from ups.core.runtime import RuntimeConfig, generator
from ups.core.types import Progress, RunResult, Status
from ups.data.task import Task, Trajectories, load_task
from ups.run import build_run_surrogate, train_run
from ups.training.loop import StageResult, train_stage
from ups.training.stage_config import LoggingConfig, StageConfig
from ups.training.stages.operator import OperatorStage

RELATIVE = {torch.float32: 1e-4, torch.float64: 1e-8}
CONFIG = StageConfig.parse({"epochs": 4, "validations": 4, "batch_size": 10, "grad_clip": 0.1})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.mix, self.out = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.drop = DropPath(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.lift(x))
        return self.out(x + self.drop(torch.tanh(self.mix(x))))


class SampledStage:
    """Regression whose noise belongs to the samples of a batch, and whose model drops residuals."""

    name = "sampled"
    no_skill: float | None = None
    batches_per_epoch = 6

    def __init__(self, config: StageConfig, ranks: Ranks, dtype: torch.dtype = torch.float32) -> None:
        self.config, self.ranks = config, ranks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: nn.Module = Net().to(dtype)
        self.part = ranks.part(config.batch_size)
        draw = generator("data")
        self.inputs = torch.randn(64, 6, generator=draw).to(dtype)
        self.targets = torch.randn(64, 3, generator=draw).to(dtype)

    def loss(self, index: int, epoch: float, share: float) -> tuple[Tensor, dict[str, float]]:
        draw, part = generator("rows", index), self.part
        rows = torch.randint(0, 64, (part.of,), generator=draw)[part.rows]
        noise = torch.randn(part.of, 6, generator=draw)[part.rows].to(self.inputs)
        error = (self.model(self.inputs[rows] + 0.1 * noise) - self.targets[rows]).square().mean()
        return error, {"error": float(error.detach())}

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        assert self.ranks.is_first, "rank 0 alone validates"
        return float((model.eval()(self.inputs) - self.targets).square().mean())


def train(
    stage: Any, ranks: Ranks, folder: Path, seen: list[Progress], *, resume: bool = False, stop_at: int | None = None
) -> StageResult:
    def report(progress: Progress) -> None:
        assert ranks.is_first, "rank 0 alone reports"
        seen.append(progress)
        if progress.step == stop_at:
            raise Stop(f"at step {stop_at}")

    return train_stage(
        stage,
        folder=folder,
        facts={},
        runtime=RuntimeConfig(),
        logging=LoggingConfig(log_every_n_steps=1),
        report=report,
        resume=resume,
        ranks=ranks,
    )


class Stop(Exception):
    """Stands for whatever ends a run from outside."""


def losses(seen: list[Progress]) -> list[float]:
    """Of each step; a validation is a second report of its step."""
    return list({progress.step: progress.train_loss for progress in seen}.values())


def fingerprint(model: nn.Module) -> str:
    return str([value.double().sum().item().hex() for value in model.state_dict().values()])


def _losses_of_a_stage(ranks: Ranks, config: StageConfig, dtype: torch.dtype, folder: Path) -> Any:
    stage, seen = SampledStage(config, ranks, dtype), list[Progress]()
    result = train(stage, ranks, folder / str(ranks.size), seen)
    details = [progress.detail["error"] for progress in seen]
    return ranks.lead(lambda: (losses(seen), details)), fingerprint(stage.model), result.milestones, result.status


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (2, {}),
        (4, {}),  # 10 samples: 3, 3, 2, 2
        (3, {"accumulation_steps": 4, "grad_clip_per_param": True}),
        (2, {"optimizer.name": "muon"}),
    ],
)
def test_a_stage_has_the_losses_of_one_rank(
    crew: Crew, tmp_path: Path, dtype: torch.dtype, size: int, changes: dict[str, Any]
) -> None:
    config = CONFIG.override(changes)
    alone, _, milestones, _ = _losses_of_a_stage(*crew_of_one(), config, dtype, tmp_path)
    # weights agree to the last bit
    found = equal(crew.run(size, _losses_of_a_stage, config, dtype, tmp_path))
    assert found[3] is Status.COMPLETE
    assert len(alone[0]) == 24
    for ours, theirs in zip(found[0], alone, strict=True):
        assert ours[:20] == pytest.approx(theirs[:20], rel=RELATIVE[dtype])
    assert found[2] == pytest.approx(milestones, rel=1e-3)


def crew_of_one() -> tuple[Ranks]:
    return (Ranks(),)


def everything(config: RunConfig) -> RunConfig:
    """Every term of the loss and every random thing that a step may have."""
    return config.override(
        {
            "operator.drop_path": 0.3,
            "stages.operator.batch_size": 7,
            "stages.operator.epochs": 6,
            "stages.operator.losses.queries.kind": "stratified",
            "stages.operator.losses.queries.count": 8,
            "stages.operator.losses.rollout.warmup": 0.2,
            "stages.operator.losses.rollout.horizon": 3,
            "stages.operator.losses.inverse_encoding.weight": 0.1,
            "stages.operator.losses.inverse_decoding.weight": 0.1,
            "stages.operator.losses.spectral.weight": 0.1,
            "stages.operator.losses.latent_norm.weight": 0.1,
            "stages.operator.losses.physics.residual.weight": 0.1,
            "logging.log_every_n_steps": 1,
        }
    )


def in_double(task: Task) -> Task:
    """The task with fields and parameters in float64."""

    def doubled(part: Trajectories) -> Trajectories:
        return Trajectories(part.fields_STXC.astype("f8"), part.parameters_SP.astype("f8"), part.file_S, part.dt)

    return Task(**{**vars(task), **{name: doubled(getattr(task, name)) for name in ("train", "validation", "test")}})


def _losses_of_the_operator(ranks: Ranks, config: RunConfig, folder: Path) -> Any:
    """In float64."""
    task = in_double(load_task(config.task))
    surrogate = build_run_surrogate(config, task).double()
    stage, seen = OperatorStage(config.stages.operator, surrogate, task, config.runtime, ranks), list[Progress]()
    stage.score = lambda model: 0.0  # type: ignore[method-assign]
    train(stage, ranks, folder / str(ranks.size), seen)
    return ranks.lead(lambda: losses(seen)), fingerprint(surrogate)


@pytest.mark.parametrize("size", [2, 4])
def test_the_operator_stage_in_double_precision(crew: Crew, tiny: dict[str, Any], tmp_path: Path, size: int) -> None:
    config = everything(RunConfig.parse(tiny))
    alone, _ = _losses_of_the_operator(*crew_of_one(), config, tmp_path)
    ours, _ = equal(crew.run(size, _losses_of_the_operator, config, tmp_path))
    assert len(alone) >= 20
    assert ours[:20] == pytest.approx(alone[:20], rel=1e-8)


def _run(
    ranks: Ranks,
    config: RunConfig,
    out: Path,
    resume: bool = False,
    stop_at: int | None = None,
    store: Path | None = None,
) -> RunResult:
    def report(progress: Progress) -> None:
        if progress.step == stop_at:
            raise Stop(f"at step {stop_at}")

    return train_run(config, out, report, resume=resume, store=store, ranks=ranks)


def stage_curve(run: Path, stage: str, what: str) -> list[float]:
    """One number for each step that was reported."""
    rows = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    return list({row["step"]: row[what] for row in rows if row["stage"] == stage}.values())


def test_a_run_of_every_stage(crew: Crew, tiny: dict[str, Any], tmp_path: Path) -> None:
    later = {"epochs": 2, "windows_per_trajectory": 1, "batch_size": 9, "validations": 2, "horizon": 1}
    corrector = {"corrector": {"kind": "pdet_stack", "depth": 1, "hidden_dim": 16}, "inference.sampler_steps": 2}
    first = everything(RunConfig.parse({**tiny, "corrector": {}})).override(corrector)
    second = first.override({"stages.diff_residual": later})
    third = second.override({"stages.consistency_distill": later})
    configs = {"operator": first, "diff_residual": second, "consistency_distill": third}
    # by the end of a stage rounding has drifted: each one stands on the same one before it
    for name, config in configs.items():
        alone, ours = tmp_path / name, tmp_path / f"{name} of two"
        store = tmp_path / f"store of {name}"
        if (tmp_path / "store").exists():
            shutil.copytree(tmp_path / "store", store)
        one = train_run(config, alone, store=tmp_path / "store")
        found = equal(crew.run(2, _run, config, ours, False, None, store))
        assert found.status is Status.COMPLETE
        assert found.reused_stages == one.reused_stages
        assert found.stage_keys == one.stage_keys
        assert found.score == pytest.approx(one.score, rel=1e-2)
        losses_of_one = stage_curve(alone, name, "train_loss")
        assert len(losses_of_one) >= 14
        assert stage_curve(ours, name, "train_loss")[:20] == pytest.approx(losses_of_one[:20], rel=1e-4), name
        assert stage_curve(ours, name, "lr") == stage_curve(alone, name, "lr")
    assert json.loads((ours / "report.json").read_text())["metrics"]


def test_more_workers_than_samples_are_refused(crew: Crew, tiny: dict[str, Any], tmp_path: Path) -> None:
    config = RunConfig.parse(tiny).override({"stages.operator.batch_size": 1})
    for error in crew.run(2, _run, config, tmp_path / "run"):
        assert isinstance(error, ConfigError)
        assert "stages.operator.batch_size: a batch needs a sample for each worker, got 1 and 2" in str(error)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- going on


def _part_of_a_stage(ranks: Ranks, config: StageConfig, folder: Path, stop_at: int | None) -> Any:
    stage, seen = SampledStage(config, ranks, torch.float64), list[Progress]()
    with contextlib.suppress(Stop):
        train(stage, ranks, folder, seen, resume=True, stop_at=stop_at)
    return ranks.lead(lambda: {progress.step: progress.train_loss for progress in seen})


@pytest.mark.parametrize("sizes", [(1, 3), (3, 2), (2, 1)])
def test_a_stage_goes_on_with_another_number_of_ranks(crew: Crew, tmp_path: Path, sizes: tuple[int, int]) -> None:
    # of 24 batches four make an update: the checkpoints of steps 6 and 18 fall between them
    config = CONFIG.override({"accumulation_steps": 4})
    whole = _part_of_a_stage(*crew_of_one(), config, tmp_path / "whole", None)
    seen = dict[int, float]()
    for size, stop_at in zip(sizes, (8, None), strict=True):
        seen |= equal(crew.run(size, _part_of_a_stage, config, tmp_path / "parts", stop_at))
    assert seen == pytest.approx(whole, rel=1e-8)
    ends = [load_checkpoint(tmp_path / name / "last.safetensors") for name in ("whole", "parts")]
    for name, value in ends[0].tensors.items():
        assert torch.allclose(value, ends[1].tensors[name], rtol=1e-8, atol=1e-12), name


# ---------------------------------------------------------------- deciding together


class Troubled(SampledStage):
    """Something happens to one rank alone."""

    trouble, where, at = "", 1, 9

    def loss(self, index: int, epoch: float, share: float) -> tuple[Tensor, dict[str, float]]:
        error, terms = super().loss(index, epoch, share)
        if self.ranks.rank != self.where or index < self.at:
            return error, terms
        if self.trouble == "nan":
            return error * float("nan"), terms
        if self.trouble == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.trouble == "error":
            raise ZeroDivisionError("of rank 1")
        if self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        # a large gradient, the loss nearly as it was
        large = {"skip": 1e4, "skip once": 1e4 if index == self.at else 0.0, "explode": 1e8}[self.trouble]
        weight = next(self.model.parameters())
        return error + large * (weight.sum() - weight.sum().detach()), terms


def _in_trouble(ranks: Ranks, config: StageConfig, folder: Path, trouble: str) -> Any:
    stage = Troubled(config, ranks)
    stage.trouble = trouble
    result = train(stage, ranks, folder, [])
    return result.status, result.reason.split(";")[0], result.skipped, result.steps, fingerprint(stage.model)


@pytest.mark.parametrize(
    ("trouble", "status", "reason", "skipped"),
    [
        ("skip once", Status.COMPLETE, "", 1),
        ("skip", Status.EXPLODED, "3 updates in a row refused", 3),
        ("explode", Status.EXPLODED, "gradient norm", 0),
        ("nan", Status.EXPLODED, "training loss nan at step 10 of sampled", 0),
        ("memory", Status.OUT_OF_MEMORY, "out of memory at step 10 of sampled", 0),
    ],
)
def test_the_guard_decides_for_all(
    crew: Crew, tmp_path: Path, trouble: str, status: Status, reason: str, skipped: int
) -> None:
    config = CONFIG.override({"guard.max_skips": 3})
    answers = crew.run(3, _in_trouble, config, tmp_path, trouble)
    if trouble == "memory":  # the peak is each process's own
        answers = [(*answer[:1], answer[1].split(" with ")[0], *answer[2:]) for answer in answers]
    found = equal(answers)
    assert (found[0], found[2]) == (status, skipped)
    assert found[1].startswith(reason)


def test_an_error_of_one_rank_ends_all_of_them(crew: Crew, tmp_path: Path) -> None:
    answers = crew.run(3, _in_trouble, CONFIG, tmp_path, "error")
    assert [type(answer) for answer in answers] == [ZeroDivisionError] * 3


def _stopped(ranks: Ranks, config: RunConfig, out: Path, stop_at: int) -> Any:
    try:
        _run(ranks, config, out, stop_at=stop_at)
    except Stop as stop:
        return str(stop)
    return "not stopped"


def test_a_stop_of_the_first_stops_all_and_the_run_goes_on_from_there(
    crew: Crew, tiny: dict[str, Any], tmp_path: Path
) -> None:
    config = RunConfig.parse(tiny).override({"logging.log_every_n_steps": 1})
    whole = train_run(config, tmp_path / "whole")
    assert equal(crew.run(2, _stopped, config, tmp_path / "run", 6)) == "at step 6"
    resumed = equal(crew.run(3, _run, config, tmp_path / "run", True))
    assert resumed.milestones == pytest.approx(whole.milestones, rel=1e-3)
    # what is finished is known to every rank
    assert equal(crew.run(2, _run, config, tmp_path / "run", True)) == resumed


class Slow(SampledStage):
    """Each rank has another clock."""

    def loss(self, index: int, epoch: float, share: float) -> tuple[Tensor, dict[str, float]]:
        if not self.ranks.is_first:
            time.sleep(0.01)
        return super().loss(index, epoch, share)


def _within_a_limit(ranks: Ranks, config: StageConfig, folder: Path) -> Any:
    stage = Slow(config, ranks)
    # the others also began long ago
    result = train(stage, ranks, folder, [])
    return result.steps, result.seconds, result.milestones, fingerprint(stage.model)


def test_the_first_rank_has_the_clock(crew: Crew, tmp_path: Path) -> None:
    config = CONFIG.override({"epochs": 10**6, "time_limit_seconds": 0.4})
    steps, seconds, milestones, _ = equal(crew.run(2, _within_a_limit, config, tmp_path))
    assert steps > 0
    assert seconds >= 0.4
    assert len(milestones) == 4


def test_the_ranks_of_a_killed_one_end(crew: Crew, tmp_path: Path) -> None:
    answers = crew.run(3, _in_trouble, CONFIG, tmp_path, "killed")
    assert answers[1].startswith("exit")
    assert [type(answers[rank]) for rank in (0, 2)] == [RankLost] * 2
    # what was saved before can be gone on from
    assert load_checkpoint(tmp_path / "last.safetensors").facts["state"]["step"] == 6
