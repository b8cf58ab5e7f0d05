"""The loop's own promises, on a stage of a few numbers: randomness, resume, determinism, compilation, statuses."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes_loop import Net, NoisyStage, train
from torch import nn
from torch._dynamo.utils import counters

from ups.core import runtime as machine
from ups.core.checkpoint import load_checkpoint
from ups.core.errors import ConfigError
from ups.core.runtime import RuntimeConfig, compiled, compiles, deterministic_mode
from ups.core.types import Progress, Status
from ups.training.stage_config import StageConfig

SHORT = StageConfig(epochs=4, validations=4)


class Stop(Exception):
    """Stands for whatever ends a run from outside."""


def losses_into(seen: dict[int, float], stop_at: int | None = None) -> Any:
    def report(progress: Progress) -> None:
        seen[progress.step] = progress.train_loss
        if progress.step == stop_at:
            raise Stop

    return report


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_loss_that_draws_noise_resumes_exactly(tmp_path: Path, optimizer: str, accumulation: int) -> None:
    config = SHORT.override({"optimizer.name": optimizer, "accumulation_steps": accumulation})
    whole: dict[int, float] = {}
    parts: dict[int, float] = {}
    uninterrupted = train(NoisyStage(config), tmp_path / "whole", losses_into(whole))
    torch.manual_seed(99)
    with pytest.raises(Stop):
        # the last checkpoint is that of step 10; what came after it is done again
        train(NoisyStage(config), tmp_path / "parts", losses_into(parts, stop_at=12))
    torch.randn(17)
    resumed = train(NoisyStage(config), tmp_path / "parts", losses_into(parts), resume=True)
    assert len(whole) == 20
    assert parts == whole
    assert resumed.milestones == uninterrupted.milestones
    ends = [load_checkpoint(tmp_path / name / "last.safetensors").tensors for name in ("whole", "parts")]
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_learning_rate_of_the_latest_update_is_reported(tmp_path: Path, accumulation: int) -> None:
    changes = [{"share": 0.5, "lr": 7e-3}]
    config = SHORT.override({"accumulation_steps": accumulation, "schedule.warmup": 0.2, "changes": changes})
    told: dict[int, float | None] = {}

    def report(progress: Progress) -> None:
        told[progress.step] = progress.lr

    def report_to_12(progress: Progress) -> None:
        report(progress)
        if progress.step == 12:
            raise Stop

    with pytest.raises(Stop):
        train(NoisyStage(config), tmp_path, report_to_12)
    train(NoisyStage(config), tmp_path, report, resume=True)
    # of the update that step ends, whose share is that of the steps before it
    updates = [step for step in range(1, 21) if step % accumulation == 0 or step == 20]
    for step in range(1, 21):
        share = (max((each for each in updates if each <= step), default=0) - 1) / 20
        full = 7e-3 if share >= 0.5 else config.optimizer.lr
        wanted = None if share < 0 else pytest.approx(full * config.schedule.factor(share))
        assert told[step] == wanted, step
    assert len(set(told.values())) > len(updates) / 2


def test_nothing_is_drawn_from_or_left_in_the_callers_generator(tmp_path: Path) -> None:
    seen: list[dict[int, float]] = [{}, {}, {}]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    train(NoisyStage(SHORT), tmp_path / "a", losses_into(seen[0]))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    train(NoisyStage(SHORT), tmp_path / "b", losses_into(seen[1]))
    assert seen[0] == seen[1]
    train(NoisyStage(SHORT), tmp_path / "c", losses_into(seen[2]), seed=1)
    assert seen[2] != seen[0]


def test_every_batch_has_noise_of_its_own(tmp_path: Path) -> None:
    drawn: list[float] = []

    class Drawing(NoisyStage):
        def loss(self, index: int, epoch: float, share: float) -> Any:
            drawn.append(float(torch.rand(())))
            return super().loss(index, epoch, share)

    train(Drawing(SHORT), tmp_path)
    assert len(set(drawn)) == len(drawn) == 20


def test_deterministic_mode_lasts_as_long_as_the_stage(tmp_path: Path) -> None:
    inside: list[bool] = []

    class Watching(NoisyStage):
        def loss(self, index: int, epoch: float, share: float) -> Any:
            inside.append(torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic)
            return super().loss(index, epoch, share)

    for wanted in (True, False):
        inside.clear()
        result = train(Watching(SHORT), tmp_path / str(wanted), deterministic=wanted)
        assert result.status is Status.COMPLETE
        assert inside == [wanted] * 20
        assert not torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.deterministic


def test_deterministic_mode_is_undone_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="deterministic"), deterministic_mode(True):
        raise RuntimeError("not deterministic")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("given", "meant"), [(True, "on"), (False, "off"), ("auto", "auto"), ("on", "on")])
def test_compile_reads_yamls_booleans(given: Any, meant: str) -> None:
    assert RuntimeConfig.parse({"compile": given}).compile == meant


def test_compile_is_for_cuda_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert not compiles("auto", cpu)
    assert not compiles("off", torch.device("cuda"))
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"runtime\.compile: on needs a C\+\+ compiler .* set it to off"):
        compiles("on", cpu)
    # auto does without
    assert not compiles("auto", torch.device("cuda"))


def test_the_outermost_parts_are_compiled_inside_and_as_before_afterwards() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([Net(), nn.Sequential(Net(), nn.Linear(2, 2))])

    whole = Whole()

    def replaced() -> list[str]:
        return [name for name, part in whole.named_modules() if "forward" in vars(part)]

    with compiled(whole, True):
        assert replaced() == ["parts.0", "parts.1.0"]
        assert copy.deepcopy(whole).state_dict().keys() == whole.state_dict().keys()
    assert replaced() == []
    with compiled(whole, False):
        assert replaced() == []


def test_field_space_models_are_compiled_by_their_step(tmp_path: Path) -> None:
    class FieldSpace(Net):
        has_latent = False

        def step(self, x: torch.Tensor) -> torch.Tensor:
            return self(x)

    model = FieldSpace()
    with compiled(model, True):
        assert [name for name in ("step", "forward") if name in vars(model)] == ["step"]
    assert "step" not in vars(model)


def test_a_compiled_stage_learns_the_same(tmp_path: Path) -> None:
    # without noise: a compiled graph may draw other numbers from the same seed
    def stage() -> NoisyStage:
        quiet = NoisyStage(StageConfig(epochs=1, validations=1), noise=0.0)
        quiet.model.drop.p = 0.0
        return quiet

    plain = train(stage(), tmp_path / "plain", compile=False)
    graphs = counters["stats"]["unique_graphs"]
    fast = train(stage(), tmp_path / "fast", compile=True)
    assert counters["stats"]["unique_graphs"] > graphs
    assert fast.status is Status.COMPLETE
    assert fast.best == pytest.approx(plain.best, rel=1e-4)


def test_a_stage_without_epochs_ends_at_once(tmp_path: Path) -> None:
    assert StageConfig.parse({"epochs": None}).epochs == 0
    result = train(NoisyStage(StageConfig(epochs=0)), tmp_path)
    assert (result.status, result.steps, result.best) == (Status.COMPLETE, 0, None)


@pytest.mark.parametrize(("no_skill", "status"), [(None, Status.COMPLETE), (1e-6, Status.STALLED)])
def test_only_a_stage_with_a_no_skill_line_stalls(tmp_path: Path, no_skill: float | None, status: Status) -> None:
    assert train(NoisyStage(SHORT, no_skill=no_skill), tmp_path).status is status


def test_a_score_that_is_not_finite_ends_any_stage(tmp_path: Path) -> None:
    class Lost(NoisyStage):
        def score(self, model: nn.Module) -> float:
            return math.nan

    assert train(Lost(SHORT), tmp_path).status is Status.NOT_FINITE


def test_best_is_the_averaged_model_under_its_own_names(tmp_path: Path) -> None:
    stage = NoisyStage(SHORT)
    train(stage, tmp_path)
    best = load_checkpoint(tmp_path / "best.safetensors").group("model")
    last = load_checkpoint(tmp_path / "last.safetensors")
    assert best.keys() == stage.model.state_dict().keys()
    assert any(not torch.equal(best[name], value) for name, value in last.group("model").items())


def test_the_peak_of_memory_is_told(tmp_path: Path) -> None:
    held = torch.ones(2**24)
    result = train(NoisyStage(SHORT), tmp_path)
    assert result.peak_memory_gib > held.nbytes / 2**30
    assert result.peak_memory_gib < 64


def test_running_out_of_memory_tells_batch_and_peak(tmp_path: Path) -> None:
    class Greedy(NoisyStage):
        def loss(self, index: int, epoch: float, share: float) -> Any:
            raise MemoryError

    result = train(Greedy(SHORT), tmp_path)
    assert result.status is Status.OUT_OF_MEMORY
    assert "out of memory at step 1 of noisy with batch_size 16, peak" in result.reason
