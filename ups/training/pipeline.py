"""The stages of a run in their order: each is found in the store or trained, and named by what determines it."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ups.core.checkpoint import BEST, LAST, Checkpoint, copy_of, load_checkpoint, save_checkpoint
from ups.core.errors import DataError
from ups.core.leases import Lease, LeaseLost
from ups.core.ranks import ALONE, Ranks
from ups.core.runtime import (
    RuntimeConfig,
    deterministic_mode,
    is_out_of_memory,
    own_randomness,
    peak_memory_gib,
    reset_peak_memory,
)
from ups.core.schema import fingerprint
from ups.core.store import Store
from ups.core.types import Progress, Report, Status
from ups.data.task import Task
from ups.evaluation.evaluate import score
from ups.inference.build import ModelConfig
from ups.inference.reward_fit import NoReward, fit_search
from ups.inference.rewards import FittedReward
from ups.inference.search import Search
from ups.inference.surrogate import Correction, Surrogate
from ups.models.corrector import Corrector, Student
from ups.training.flow_matching import PairStageConfig
from ups.training.latents import VERSION as LATENTS_VERSION
from ups.training.latents import Pairs, open_pairs, residual_scale, write_pairs
from ups.training.loop import Stage, StageResult, train_stage
from ups.training.stage_config import LoggingConfig, StageConfig
from ups.training.stage_order import DEPLOYED_AS, SEARCH, StagesConfig
from ups.training.stage_results import copy_stage, load_own, load_result, save_result
from ups.training.stages.consistency_distill import ConsistencyDistillStage
from ups.training.stages.diff_residual import DiffResidualStage
from ups.training.stages.operator import OperatorStage
from ups.training.stages.steady_prior import SteadyPriorStage
from ups.training.takeover import adopt, copy_state, take_over

_GONE_AT_MOST = 5
"""times that latents are removed between being found and being read; more is a store that workers see differently"""


@dataclass(frozen=True)
class StageSummary:
    """What a stage cost and brought."""

    status: Status
    score_before: float | None
    """validation rollout_nrmse of what was deployed without the stage"""
    score_after: float | None
    """and of the predictor with it, at the stage's best validation"""
    kept: bool
    """whether it is part of the deployed predictor"""
    seconds: float
    parameters: int
    reused: bool
    """found in the store"""
    peak_memory_gib: float
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "status": str(self.status)}


@dataclass
class Pipeline:
    """Trains the stages of one run into `folder`; `surrogate` is the untrained predictor.

    Of several ranks each has a pipeline. Rank 0's deals with the store and the folder, and the others learn from it
    what was found; they need the store itself for latents alone, which are read from it.
    """

    config: ModelConfig
    stages: StagesConfig
    runtime: RuntimeConfig
    logging: LoggingConfig
    task: Task
    surrogate: Surrogate
    folder: Path
    store: Store
    facts: dict[str, Any]
    """travel in every checkpoint that is a predictor"""
    report: Report
    resume: bool
    keys: Mapping[str, str]
    """what each stage is called in the store, see `ups.training.keys`"""
    key_until: Callable[[str, float], str] | None = None
    """what the state of a stage at a share of it is called there; None: no such state is looked for, or put there"""
    wait: bool = True
    """for a stage that another process trains right now; else StageBusy is raised"""
    ranks: Ranks = ALONE
    summaries: dict[str, StageSummary] = field(default_factory=dict)
    milestones: dict[str, float] = field(default_factory=dict)
    corrections: dict[str, Corrector] = field(default_factory=dict)
    search: Search | None = None
    """the one that is deployed"""
    _best: float | None = None
    """score of what would be deployed now"""

    def __post_init__(self) -> None:
        # what the config asks to be deployed does not exist while it is trained
        self.surrogate = self.surrogate.with_inference(corrector="auto")

    def run(self) -> tuple[Status, str]:
        """Train or find every stage; the status is that of the first one that did not complete."""
        for name in ("operator", *self.stages.later()):
            result, reused = self._obtain(name)
            self._note(name, result, reused)
            if result.status is not Status.COMPLETE:
                return result.status, result.reason
        if self.config.ttc.enabled:
            # rank 0 alone deploys
            self.ranks.lead(self._add_search)
        return Status.COMPLETE, ""

    @property
    def score(self) -> float | None:
        """Validation rollout_nrmse of the deployed predictor."""
        return self._best

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.summaries.values() if not each.reused)

    def deploy(self) -> Surrogate:
        """The predictor with its corrections, of which the one that scored best is chosen, and with its search at
        test time where that helped."""
        chosen: Correction = "none"
        for name, summary in self.summaries.items():
            if name in DEPLOYED_AS and summary.kept:
                chosen = DEPLOYED_AS[name]
        wanted = self.config.inference.corrector
        deployed = self.surrogate.with_inference(corrector=wanted).with_corrections(self.corrections, chosen)
        return deployed.with_search(self.search).eval()

    @property
    def can_deploy(self) -> bool:
        """Whether there is a predictor: a later stage that failed is left out."""
        operator = self.summaries.get("operator")
        asked = self.config.inference.corrector
        trained = operator is not None and operator.status is Status.COMPLETE
        return trained and (asked in ("auto", "none") or asked in self.corrections)

    def save(self, path: Path) -> None:
        """Write the deployed predictor as one checkpoint."""
        deployed = self.deploy()
        tensors = {f"model.{name}": value for name, value in deployed.state_dict().items()}
        facts: dict[str, Any] = {"corrections": list(self.corrections), "chosen": deployed.chosen, "score": self._best}
        if self.search is not None:
            assert isinstance(self.search.reward, FittedReward)
            facts["reward"] = self.search.reward.to_json()
        save_checkpoint(path, Checkpoint(tensors, self.facts | facts))

    def _obtain(self, name: str) -> tuple[StageResult, bool]:
        """The stage's result and whether it was found; afterwards its weights are in place."""
        folder = self.folder / "checkpoints" / name
        # a run that is resumed has its own copy of what it finished, even where the store was emptied since
        own = self.ranks.lead(lambda: load_own(folder) if self.resume else None)
        result, reused = own or self._find_or_train(name, folder)
        if result.status is Status.COMPLETE:
            self._load(name, folder)
        return result, reused

    def _find_or_train(self, name: str, folder: Path) -> tuple[StageResult, bool]:
        """Of all runs that need the stage now one trains it."""
        key, needs = self.keys[name], [] if name == "operator" else [self._latents(name)[0]]
        while True:
            found = self.ranks.lead(lambda: self._find(key, folder))
            if found is not None:
                return found, True
            try:
                with self._claim(key, name, folder, needs) as (claimed, lease):
                    if claimed:
                        return self._train(name, folder, lease), False
            except LeaseLost:  # this process was suspended, and what it trained is another's by now
                if name == "operator":
                    self._start_anew()

    @contextlib.contextmanager
    def _claim(
        self, key: str, what: str, folder: Path | None = None, reads: Sequence[str] = ()
    ) -> Iterator[tuple[bool, Lease | None]]:
        """Whether this run has the right to make an artifact, which somebody else may have published meanwhile; and
        the lease, which rank 0 has."""
        lease: Lease | None = None
        with contextlib.ExitStack() as stack:

            def claim() -> bool:
                nonlocal lease
                lease = self.store.claim(key, what, folder=folder, reads=reads, wait=self.wait)
                if lease is not None:
                    stack.enter_context(lease)
                return lease is not None

            yield self.ranks.lead(claim), lease

    def _find(self, key: str, folder: Path) -> StageResult | None:
        """Copy a finished stage from the store; None if there is none."""
        found = self.store.find(key)
        if found is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        try:
            result = load_result(found)
            if result.status is Status.COMPLETE:
                shutil.copyfile(found / BEST, folder / BEST)
            for checkpoint in (LAST, BEST):  # of a part that this run had trained itself
                copy_of(folder / checkpoint).unlink(missing_ok=True)
        except FileNotFoundError:  # a collection removed it this moment
            return None
        if result.status is not Status.COMPLETE:
            result = replace(result, reason=f"{result.reason} (known from an earlier run)")
        save_result(folder, result, reused=True)
        return result

    def _train(self, name: str, folder: Path, lease: Lease | None) -> StageResult:
        """Train the stage, from where an earlier holder of the lease left it, and publish it."""
        key, begin = self.keys[name], time.perf_counter()
        stage = self.build_stage(name)
        prepared = time.perf_counter() - begin
        facts = (self.facts if name == "operator" else {"stage": name}) | {"key": key}
        result = train_stage(
            stage,
            folder=folder,
            facts=facts,
            runtime=self.runtime,
            logging=self.logging,
            report=self._reporter(name, lease),
            resume=self.ranks.lead(
                lambda: take_over(folder, key, lease.remains if lease else ()) or self._fork(name, folder, facts)
            ),
            keep=partial(self._keep, name, folder),
            ranks=self.ranks,
        )
        result = replace(result, seconds=result.seconds + prepared)
        self.ranks.lead(lambda: self._publish(name, folder, result, lease))
        return result

    def _publish(self, name: str, folder: Path, result: StageResult, lease: Lease | None) -> None:
        """Write down how a stage ended; where that holds for every run, in the store, too."""
        save_result(folder, result)
        for checkpoint in (LAST, BEST):
            copy_of(folder / checkpoint).unlink(missing_ok=True)
        if self._is_for_all(result):
            fill: Callable[[Path], None] = lambda temporary: copy_stage(folder, temporary, result)  # noqa: E731
            self.store.publish(self.keys[name], fill, what=name, seconds=result.seconds, folder=folder)
            assert lease is not None
            lease.settle()

    def _fork(self, name: str, folder: Path, facts: Mapping[str, Any]) -> bool:
        """Begin the stage at the latest of its changes up to which an equal run has left its state in the store."""
        config: StageConfig = getattr(self.stages, name)
        if self.key_until is None or not self._repeats:
            return False
        for change in reversed(config.changes):
            found = self.store.find(self.key_until(name, change.share))
            if found is not None and adopt(folder, facts, found):
                return True
        return False

    def _keep(self, name: str, folder: Path, share: float, seconds: float) -> None:
        """Put the state of a stage into the store."""
        if self.key_until is not None and self._repeats:
            key, what = self.key_until(name, share), f"{name} until {share:g}"
            self.store.publish(key, partial(copy_state, folder), what=what, seconds=seconds)

    def _is_for_all(self, result: StageResult) -> bool:
        """Whether every run with the stage's key would end it in this way.

        Another machine may have the memory that this one lacked; and where time is limited, be faster.
        """
        if result.status in (Status.EXPLODED, Status.NOT_FINITE, Status.STALLED):
            return self._repeats
        return result.status is Status.COMPLETE

    @property
    def _repeats(self) -> bool:
        """Whether no stage is limited in time: then each is the same on every machine."""
        return all(getattr(self.stages, name).time_limit_seconds is None for name in self.keys)

    def _start_anew(self) -> None:
        """Put the untrained weights back."""
        surrogate = self.surrogate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.runtime.seed)
            fresh = self.config.build(surrogate.spec, surrogate.normalizer, surrogate.training_parameters)
        surrogate.load_state_dict(fresh.state_dict())
        surrogate.zero_grad(set_to_none=True)

    def _add_search(self) -> None:
        """Fit the search at test time on training trajectories; it is kept if it lowers the validation score."""
        begin, plain, device = time.perf_counter(), self.deploy(), self.surrogate.reference_F.device
        search, after, note, status = None, None, "", Status.COMPLETE
        reset_peak_memory(device)
        try:
            with own_randomness(device), deterministic_mode(self.runtime.deterministic):
                search = fit_search(plain, self.config.ttc, self.task.train)
                after = score(plain.with_search(search), self.task.validation)
        except NoReward as error:
            note = str(error)
        except (MemoryError, RuntimeError) as error:
            # the plain predictor is trained and stays
            if not is_out_of_memory(error):
                raise
            status, note = Status.OUT_OF_MEMORY, "out of memory; fewer ttc.candidates or a smaller ttc.beam_width"
        if after is not None and not math.isfinite(after):
            after, note = None, "a searched rollout left the finite range"
        kept = after is not None and (self._best is None or after < self._best)
        self.search = search if kept else None
        seconds = time.perf_counter() - begin
        self.summaries[SEARCH] = StageSummary(
            status, self._best, after, kept, seconds, 0, False, peak_memory_gib(device), note
        )
        self._best = after if kept else self._best
        if self._best is not None:
            self.milestones[f"{SEARCH}:1"] = self._best
        detail = {} if after is None else {"stage_score": after}
        # nothing is trained: there is neither loss nor gradient
        self.report(Progress(SEARCH, 1, 1, 1.0, 0, 0.0, 0.0, seconds, self._best, detail))

    def build_stage(self, name: str) -> Stage:
        """The stage, untrained, on top of what was trained or found before it."""
        seed = self.runtime.seed
        if name == "operator":
            with self.ranks.agreed():
                return OperatorStage(self.stages.operator, self.surrogate, self.task, self.runtime, self.ranks)
        config = getattr(self.stages, name)
        pairs = self._pairs(name)
        frozen = self.surrogate.eval().requires_grad_(False)
        with self.ranks.agreed():
            correction = self._new(name)
            if name == "consistency_distill":
                assert isinstance(correction, Student)
                teacher = self.corrections["diffusion"]
                correction.load_state_dict(teacher.state_dict())
                return ConsistencyDistillStage(config, correction, teacher, frozen, self.task, pairs, seed, self.ranks)
            correction.scale.fill_(residual_scale(pairs))
            stage = {"diff_residual": DiffResidualStage, "steady_prior": SteadyPriorStage}[name]
            return stage(config, correction, frozen, self.task, pairs, seed, self.ranks)

    def _new(self, name: str) -> Corrector:
        """The untrained correction of a stage, determined by the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.runtime.seed)
            correction = self.config.build_correction(DEPLOYED_AS[name], self.task.spec)
        return correction.to(self.surrogate.reference_F.device)

    def _load(self, name: str, folder: Path) -> None:
        weights = self.ranks.lead(lambda: load_checkpoint(folder / BEST).group("model"))
        if name == "operator":
            self.surrogate.load_state_dict(weights)
        else:
            correction = self._new(name)
            correction.load_state_dict(weights)
            self.corrections[DEPLOYED_AS[name]] = correction.eval().requires_grad_(False)

    def _latents(self, name: str) -> tuple[str, dict[str, Any]]:
        """What the latents of a later stage are called in the store, and what they are made of."""
        config: PairStageConfig = getattr(self.stages, name)
        # the student reads no target: it shares its teacher's pairs
        encoded = self.stages.diff_residual.encoded_target if name == "consistency_distill" else config.encoded_target
        what = {
            "windows_per_trajectory": config.windows_per_trajectory,
            "horizon": config.steps_before,
            "seed": self.runtime.seed,
            "augment": config.augment,
            "encoded": encoded,
        }
        return fingerprint(["latents", LATENTS_VERSION, self.keys["operator"], what]), what

    def _pairs(self, name: str) -> Pairs:
        """The latents that a later stage trains on, encoded once.

        Raises:
            DataError: what one worker finds another one does not.
        """
        key, what = self._latents(name)
        gone = 0
        while True:
            found = self.ranks.lead(lambda: self.store.find(key))
            if found is not None:
                # a collection removed it this moment
                with contextlib.suppress(FileNotFoundError), self.ranks.agreed():
                    return open_pairs(self._here(key, found))
                gone += 1
                if gone == _GONE_AT_MOST:
                    raise DataError(
                        f"{self.store}: not the same place for all workers of a run; choose one on a file system that "
                        "they share, or a URI"
                    )
            with self._claim(key, "latents") as (claimed, lease):
                if claimed:
                    self.ranks.lead(lambda: self._make_pairs(key, what, lease))

    def _here(self, key: str, found: Path) -> Path:
        """The folder of what rank 0 has found; of a store behind a URI, another node has a copy of its own.

        Raises:
            FileNotFoundError: it is gone.
        """
        here = found if found.is_dir() else self.store.find(key)
        if here is None:
            raise FileNotFoundError(found)
        return here

    def _make_pairs(self, key: str, what: Mapping[str, Any], lease: Lease | None) -> None:
        fill = partial(write_pairs, surrogate=self.surrogate.eval(), task=self.task, **what)
        self.store.publish(key, fill, what="latents")
        assert lease is not None
        lease.settle()

    def _note(self, name: str, result: StageResult, reused: bool) -> None:
        """Keep the account of a stage, and decide whether it is deployed."""
        before, after = self._best, result.best
        forced = self.config.inference.corrector
        better = after is not None and (before is None or after < before)
        kept = better if forced == "auto" or name == "operator" else forced == DEPLOYED_AS[name]
        # of a later stage that failed there are no weights to deploy
        kept = kept and (name == "operator" or result.status is Status.COMPLETE)
        if kept and name != "operator":
            # one correction is deployed, not one after the other
            for other in DEPLOYED_AS:
                if other in self.summaries:
                    self.summaries[other] = replace(self.summaries[other], kept=False)
        for key, milestone in result.milestones.items():
            self.milestones[key] = self._deployed_score(name, milestone)
        if kept:
            self._best = after
        part = self.surrogate.model if name == "operator" else self.corrections.get(DEPLOYED_AS[name])
        parameters = sum(parameter.numel() for parameter in part.parameters()) if part is not None else 0
        note = "; ".join([*([result.reason] if result.reason else []), *result.warnings])
        self.summaries[name] = StageSummary(
            result.status, before, after, kept, result.seconds, parameters, reused, result.peak_memory_gib, note
        )

    def _deployed_score(self, name: str, score: float) -> float:
        """What a later stage's score means for the run: it is left out where it does not help."""
        forced = self.config.inference.corrector
        if name == "operator" or self._best is None or forced == DEPLOYED_AS[name]:
            return score
        return min(score, self._best) if forced == "auto" else self._best

    def _reporter(self, name: str, lease: Lease | None) -> Report:
        """Progress with the score of what would be deployed; the stage's own is a detail."""

        def report(progress: Progress) -> None:
            assert lease is not None, "rank 0 alone reports"
            lease.check()
            if progress.score is not None and name != "operator":
                detail = {**progress.detail, "stage_score": progress.score}
                progress = replace(progress, score=self._deployed_score(name, progress.score), detail=detail)
            self.report(progress)

        return report
