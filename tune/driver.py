"""The side of a search that decides: which trial is next, who is stopped, what an end means. Knows nothing of Ray."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from tune.batch import Batch, SharedVerdict
from tune.objectives import Reference, best_of, is_eligible, reference_of
from tune.running import Account, Running, Snapshot, View
from tune.sampler import Proposer, outcome_of
from tune.scheduler import MilestoneAsha
from tune.study import OpenStudy, TrialRecord, record_of
from tune.trial import SHARED, Outcome, Trial, milestone_key
from ups.config import RunConfig, stages_of
from ups.core.errors import ConfigError
from ups.core.types import Status

INFEASIBLE_IN_A_ROW = 100
"""so many refused proposals after each other, and the search gives up instead of asking on"""

LOST_IN_A_ROW = 3
"""so many trials after each other whose processes died for good, and the search ends: no worker can run here"""

SPENT, ENOUGH = 50, 5
"""how many of the latest trials an expectation of time rests on, and at least has to"""

ASK_AGAIN_SECONDS = 2.0
"""after which a trial asks again whether another driver has trained the stage that it needs"""

LATE = "no further trial is expected to end within the time budget"
SETTLED = "the population has come to its end"
EXHAUSTED = "there is no further combination, or none that is expected to end within the time budget"

Check = Callable[[RunConfig], int | None]
"""number of weights of a config's model; raises ConfigError when the model does not fit the data"""

Keys = Callable[[RunConfig], Mapping[str, str]]
"""what the stages of a config are called in the store"""


class Driver:
    """The state of a running search; every method is called from one thread."""

    def __init__(
        self,
        study: OpenStudy,
        *,
        check: Check,
        keys: Keys,
        concurrency: int,
        time_budget: float | None,
        view: View,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            keys: config -> what its stages are called in the store: of two trials that need the same one, the second
                waits without a worker.
            clock: seconds; simulated ones where a search is replayed on recorded curves.
        """
        self._config = study.plan.config
        self._space = study.plan.space
        self._study = study
        self._check, self._keys, self._clock = check, keys, clock
        self.wanted = self._config.strategy.trials
        self.concurrency = concurrency
        """trials at a time; follows the cluster while nodes join and leave"""
        self._view = view
        self._proposer = Proposer(study)
        self._prunes = self._config.strategy.scheduler != "none"
        self._by_weights = "parameters" in [objective.metric for objective in self._config.objectives]
        self._batch = (
            Batch(self._config.strategy.batch, self._proposer.asked, study) if self._config.strategy.batch else None
        )
        self.rungs = self._proposer.population or MilestoneAsha(
            self._config.strategy.milestones, self._config.strategy.keep
        )
        self._passed: defaultdict[int, dict[int, float]] = defaultdict(dict)
        self.records: dict[int, TrialRecord] = {}
        self._states: Counter[Status] = Counter()
        self._best: TrialRecord | None = None
        self._reference: Reference | None = None
        self._account = Account()
        for record in study.records():
            if record.state is not Status.RUNNING:
                self._add(record)
        self._record_arrivals()
        self.running: dict[int, Running] = {}
        self.parked: list[Running] = []
        """asked for, and waiting for a stage that another trial trains"""
        self._trained: set[str] = set()
        self._held: Counter[str] = Counter()
        """stages of the trials that run"""
        if self._batch is not None:
            self._remember_verdicts()
        self.stop_reason: str | None = None
        self._has_no_more = False
        self._infeasible = 0
        self._lost = 0
        self._start = clock()
        self._spent: deque[float] = deque(maxlen=SPENT)
        self._deadline = None if time_budget is None else self._start + time_budget

    def stop(self, reason: str) -> None:
        """Ask for the end: nothing new is started, and what runs is left for `--resume`."""
        self.stop_reason = self.stop_reason or reason

    def should_stop(self) -> bool:
        if self._deadline is not None and self._clock() >= self._deadline:
            self.stop("the time budget is spent")
        return self.stop_reason is not None

    @property
    def has_work(self) -> bool:
        """Whether any trial of the study has not ended."""
        return len(self.records) < self.wanted or self._proposer.may_come_back

    @property
    def is_over(self) -> bool:
        """Whether `next` will give nothing any more."""
        return self.should_stop() or (self._has_no_more and not self.parked and not self._proposer.may_come_back)

    def next(self) -> Trial | None:
        """The next trial to run, or None when there is none, or none yet: see `is_over`.

        An infeasible proposal ends here, at no cost.
        """
        while not self.should_stop():
            ready = self._unpark()
            if ready is not None:
                return ready.trial
            if len(self.parked) >= self.concurrency or (self._batch is not None and self._batch.is_full):
                return None
            if self._is_too_late():
                self._stop_asking(LATE)
                return None
            # in deterministic mode no clock has a say in what is proposed
            trial = self._proposer.next(None if self._batch else self._seconds_left)
            if trial is None:
                population = self._proposer.population
                spent = SETTLED if population is not None and not population.needs_founder else EXHAUSTED
                self._stop_asking(None if self._proposer.asked >= self.wanted else spent)
                return None
            if self._batch is not None:
                self._batch.start(trial.number)
            running = self._admit(trial)
            if running is None or self._shares_a_verdict(running):
                continue
            if self._must_wait(running):
                self.parked.append(running)
                continue
            return self._go(running).trial
        return None

    def progress(self, number: int, report: Mapping[str, Any]) -> bool:
        """Take in a report of a running trial; True stops it."""
        running = self.running[number]
        running.stage, running.share, running.epoch = report["stage"], report["share"], report.get("epoch", 0)
        running.found = report.get("found", running.found)
        running.stage_seconds[running.stage] = report["seconds"]
        self._note_passed(running)
        score = report.get("score")
        if score is not None:
            running.score = score
            self._arrive(running, score)
        self._study.copy_if_due()
        self.show()
        return self.is_stopped(number)

    def is_stopped(self, number: int) -> bool:
        return self.running[number].verdict.stop

    def end(self, number: int, outcome: Outcome) -> None:
        """Close a trial; in deterministic mode when all of its batch have ended."""
        running = self._leave(number)
        if outcome.state is Status.COMPLETE:
            self._trained.update(running.keys.values())
        # a stage that exploded at once has reported nothing: its trial has passed those before it all the same
        running.stage = next(reversed([*outcome.stage_seconds]), running.stage)
        self._note_passed(running)
        self._lost = self._lost + 1 if outcome.state is Status.FAILED and running.is_lost else 0
        if self._lost >= LOST_IN_A_ROW:
            self.stop(f"the workers of the last {self._lost} trials died for good")
        if running.since is not None:
            # a first trial also waits for its worker to start, which no later one does
            self._spent.append(outcome.seconds or self._clock() - running.since)
        self._inherit(running, outcome)
        if self._batch is None:
            self._tell(number, outcome)
            return
        self._batch.end(number, outcome)
        self._close_batch(last=self._has_no_more)

    def waits(self, number: int) -> None:
        """The trial found that another driver trains a stage that it needs: it gives its worker back and asks
        again."""
        running = self._leave(number)
        running.since = None
        running.not_before = self._clock() + ASK_AGAIN_SECONDS
        self.parked.append(running)

    def pruned(self, number: int) -> Outcome:
        """The outcome of a trial that `progress` stopped."""
        running = self.running[number]
        finite = running.score is not None and math.isfinite(running.score)
        return self._outcome(
            running,
            Status.PRUNED if finite else Status.NOT_FINITE,
            running.verdict.reason,
            running.score if finite else None,
        )

    def lost(self, number: int, reason: str) -> Outcome:
        """The outcome of a trial whose worker died for good."""
        running = self.running[number]
        running.is_lost = True
        return self._outcome(running, Status.FAILED, reason, None)

    def show(self) -> None:
        self._view.progress(self.snapshot())

    def snapshot(self) -> Snapshot:
        return Snapshot(
            wanted=self.wanted,
            states=self._states,
            running=tuple(self.running.values()),
            waiting=len(self.parked),
            slots=self.concurrency,
            best=self._best,
            reference=self._reference,
            account=self._account,
            cores=self._config.resources.cpus_per_trial,
            now=self._clock(),
            elapsed_seconds=self._clock() - self._start,
            left_seconds=self._left(len(self.records)),
        )

    # ------------------------------------------------------------------ starting

    def _admit(self, trial: Trial) -> Running | None:
        """The trial as it will run; None for one that is infeasible."""
        try:
            config = self._space.config_of(trial.params)
            parameters = self._check(config)
            limit = self._config.constraints.get("parameters")
            if limit is not None and parameters is not None and parameters > limit.max and not trial.protected:
                raise ConfigError(f"parameters: at most {limit.max:.0f} by the constraint, got {parameters}")
        except ConfigError as error:
            self._infeasible += 1
            self.running[trial.number] = Running(trial, None)
            self.end(trial.number, Outcome(Status.INFEASIBLE, reason=str(error)))
            if self._infeasible >= INFEASIBLE_IN_A_ROW:
                self.stop(f"the last {self._infeasible} proposals were infeasible, such as: {error}")
            return None
        self._infeasible = 0
        passed = self._passed.get(trial.number, {})
        running = Running(
            trial,
            parameters,
            milestones={self.rungs.milestones[index].key: score for index, score in passed.items()},
            stages=stages_of(config),
            keys=self._keys(config),
        )
        if self._by_weights and parameters is not None:
            self._proposer.note_weights(trial.number, parameters)
        return None if self._batch is not None and self._is_stopped_before(running, passed) else running

    def _is_stopped_before(self, running: Running, passed: Mapping[int, float]) -> bool:
        """In deterministic mode a trial that was taken up again is judged once more where it was before: its driver
        may have been killed after the verdict and before the end of its batch."""
        for index, score in sorted(passed.items()):
            running.stage, running.score = self.rungs.milestones[index].stage, score
            self._judge(running, index, score)
            if running.verdict.stop:
                running.stage_seconds.setdefault(running.stage, 0.0)
                self.running[running.trial.number] = running
                self.end(running.trial.number, self.pruned(running.trial.number))
                return True
        running.stage, running.score = "", None
        return False

    def _go(self, running: Running) -> Running:
        running.since = self._clock()
        self.running[running.trial.number] = running
        self._held.update(running.keys.values())
        self.show()
        return running

    def _leave(self, number: int) -> Running:
        """The trial, which runs no more."""
        running = self.running.pop(number)
        if running.since is not None:
            self._held -= Counter(running.keys.values())
        return running

    def _unpark(self) -> Running | None:
        """The first waiting trial that need not wait any more; of two that wait for one stage the earlier trains it."""
        wanted: set[str] = set()
        for running in sorted(self.parked, key=lambda each: each.trial.number):
            key = self._next_key(running)
            is_free = key is None or (key not in self._held and key not in wanted)
            if is_free and self._clock() >= running.not_before:
                self.parked.remove(running)
                return self._go(running)
            wanted.update(running.keys.values())
        return None

    def _note_passed(self, running: Running) -> None:
        self._trained.update(running.keys[stage] for stage in running.passed if stage in running.keys)

    def _must_wait(self, running: Running) -> bool:
        """Whether another trial trains, or is going to train, what this one needs first."""
        key = self._next_key(running)
        return key is not None and (key in self._held or any(key in each.keys.values() for each in self.parked))

    def _next_key(self, running: Running) -> str | None:
        """The first stage of the trial that nobody is known to have trained."""
        return next((key for key in running.keys.values() if key not in self._trained), None)

    def _inherit(self, ended: Running, outcome: Outcome) -> None:
        """A verdict on a stage holds for every trial that waits for it: it would come to the same place."""
        if outcome.state not in SHARED:
            return
        stage = next(reversed([*outcome.stage_seconds]), "")
        key = ended.keys.get(stage)
        if key is None or key in self._trained:
            return
        verdict = SharedVerdict(ended.trial.number, stage, outcome)
        if self._batch is not None:
            self._batch.verdicts.setdefault(key, verdict)
        heirs = [each for each in self.parked if verdict.holds_for(each, key)]
        self.parked = [each for each in self.parked if each not in heirs]
        for running in heirs:
            self._end_alike(running, verdict)

    def _shares_a_verdict(self, running: Running) -> bool:
        """In deterministic mode: end a trial that shares a stage at which one of its batch was stopped, as it would
        have waited for that one had it been asked for earlier."""
        known = {} if self._batch is None else self._batch.verdicts
        verdict = next((verdict for key, verdict in known.items() if verdict.holds_for(running, key)), None)
        if verdict is not None:
            self._end_alike(running, verdict)
        return verdict is not None

    def _remember_verdicts(self) -> None:
        """In deterministic mode: those of the open batch that an earlier driver told before it was killed."""
        assert self._batch is not None
        for trial in self._study.optuna.get_trials(deepcopy=False):
            is_member = trial.state.is_finished() and not self._batch.is_closed(trial.number)
            if is_member and outcome_of(trial).state in SHARED:
                config = self._space.config_of(record_of(trial, True).params)
                ended = Running(Trial(trial.number, {}), None, keys=self._keys(config))
                self._inherit(ended, outcome_of(trial))

    def _end_alike(self, running: Running, verdict: SharedVerdict) -> None:
        outcome = verdict.outcome
        self.running[running.trial.number] = running
        self.end(
            running.trial.number,
            Outcome(
                outcome.state,
                outcome.score,
                f"shares {verdict.stage} with trial {verdict.number}: {outcome.reason}",
                outcome.milestones,
                parameters=running.parameters,
                stage_seconds={verdict.stage: 0.0},
            ),
        )

    @property
    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._clock())

    def _is_too_late(self) -> bool:
        """Whether no trial is expected to end within the time budget, by the quicker half of the latest ones."""
        left = self._seconds_left
        return left is not None and len(self._spent) >= ENOUGH and median(self._spent) > left

    def _stop_asking(self, reason: str | None) -> None:
        """There is nothing to propose: for good when all trials were asked for; else what has not ended, or was not
        told, may open something still."""
        if reason is None:
            self._has_no_more = True
        elif self.running or self.parked:
            return
        elif self._batch is None or not self._batch.is_begun:
            self.stop(reason)
        if self._batch is not None:
            self._close_batch(last=True)

    # ------------------------------------------------------------------ judging

    def _arrive(self, running: Running, score: float) -> None:
        number = running.trial.number
        if math.isfinite(score):
            running.milestones[milestone_key(running.stage, running.share)] = score
        milestone = self.rungs.milestone(running.stage, running.share)
        if milestone is None or milestone.index in self._passed[number]:
            return
        if math.isfinite(score):
            self._proposer.report(number, milestone.index, score)
            self._passed[number][milestone.index] = score
        self._judge(running, milestone.index, score)

    def _judge(self, running: Running, index: int, score: float) -> None:
        number, milestone = running.trial.number, self.rungs.milestones[index]
        weights = float(running.parameters or 0) if self._by_weights else 0.0
        if self._study.is_shared:
            self._record_arrivals()
        if self._batch is None:
            self.rungs.record(number, index, score, weights)
        at_end = milestone.share >= 1.0 and running.stages[-1:] == (milestone.stage,)
        verdict = self.rungs.judge(
            number, index, score, protected=running.trial.protected, at_end=at_end, weights=weights
        )
        if self._prunes:
            running.verdict = verdict

    def _record_arrivals(self) -> None:
        """Put on the rungs what the journal has; in deterministic mode that of closed batches alone."""
        for number, index, score, weights in self._proposer.arrivals():
            if number not in self.records:
                self._passed[number][index] = score
            if self._batch is None or self._batch.is_closed(number):
                self.rungs.record(number, index, score, weights)

    # ------------------------------------------------------------------ ending

    def _close_batch(self, *, last: bool) -> None:
        """In deterministic mode: tell what a whole batch came to, by number, and put its arrivals on the rungs."""
        assert self._batch is not None
        if not self._batch.is_over(last):
            return
        for number, outcome in self._batch.take():
            self._tell(number, outcome)
        self._record_arrivals()

    def _tell(self, number: int, outcome: Outcome) -> None:
        record = self._proposer.tell(number, outcome)
        self._passed.pop(number, None)
        if record is not None:
            self._add(record)
            self._view.ended(record, self.snapshot())

    def _add(self, record: TrialRecord) -> None:
        self.records[record.number] = record
        self._states[record.state] += 1
        self._account.add(record)
        if record.origin != "sampled":
            self._reference = reference_of(self.records.values(), self._study.plan.goldens)
        if is_eligible(record, self._config):
            self._best = best_of([record] if self._best is None else [self._best, record], self._config)

    def _outcome(self, running: Running, state: Status, reason: str, score: float | None) -> Outcome:
        return Outcome(
            state,
            score,
            reason,
            milestones=running.milestones,
            seconds=running.seconds,
            parameters=running.parameters,
            reused_stages=running.reused,
            stage_seconds=running.stage_seconds,
            reused_seconds=running.found,
        )

    def _left(self, ended: int) -> float | None:
        """Mean time of the latest trials times what is left, shared by the workers."""
        left = None
        if self._spent:
            left = sum(self._spent) / len(self._spent) * max(0, self.wanted - ended) / self.concurrency
        until = self._seconds_left
        return left if until is None else until if left is None else min(left, until)
