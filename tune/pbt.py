"""Population based training: settings of the optimizer that are found while models train.

M. Jaderberg et al., Population Based Training of Neural Networks, arXiv:1711.09846 (2017). A population of trials
trains side by side. At a milestone, one that is among the worst that arrived there is stopped, and a copy of one of the
best takes its place: it goes on from the state that the other one had there, with other settings of the optimizer.

What is found is a schedule, and the config of a copy says all of it (`stages.operator.changes`): a run of that config
alone gives the same weights. So a copy is an ordinary trial, and its beginning is found in the store like any other
work that was done before. Members need not run side by side: one that comes late is compared with all that came before.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from tune.classic import seed_of
from tune.domain import Domain, Value
from tune.scheduler import GO_ON, MilestoneAsha, Verdict
from tune.space import SearchConfig, Space, Strategy
from tune.storage_url import is_database
from tune.study import Plan, record_of
from ups.config import RunConfig
from ups.core.errors import ConfigError
from ups.core.types import Status
from ups.training.stage_config import SAME_SHARE, StageConfig

STAGE = "operator"
CHANGES = f"stages.{STAGE}.changes"
CHANGEABLE = {f"stages.{STAGE}.optimizer.lr": "lr", f"stages.{STAGE}.optimizer.weight_decay": "weight_decay"}
"""name of a space -> what a change calls it; all else is as it was in the first trial of a line"""
FACTORS = 0.8, 1.25
"""of the paper's perturbation"""
REPLACES, REPLACED_BY = "replaces", "replaced_by"
"""what the journal has beside a copy, and beside the trial whose place it takes"""
COPIED_OVER = (Status.EXPLODED, Status.NOT_FINITE, Status.STALLED, Status.OUT_OF_MEMORY, Status.TIMED_OUT)
"""a member that came to this end is replaced like one of the worst"""


@dataclass(frozen=True)
class Copy:
    """What takes the place of a trial."""

    parent: int
    milestone: str
    """from which on it differs from its parent"""
    params: dict[str, Any]
    """all of its settings: those of the parent, and the change"""

    def to_json(self) -> dict[str, Any]:
        """For the journal, beside the trial that is replaced; `Copy(**data)` undoes it."""
        return asdict(self)


class Population(MilestoneAsha):
    """Who trains on, who is replaced, and by what; a function of what the study has of its trials.

    Nobody is replaced who is protected, before about `1/quantile` have arrived, where the trial has nothing left to
    train, or when the last trial of the search has been given away. Parents are never trials that were stopped or came
    to a bad end, nor the base on a further seed.
    """

    def __init__(self, space: Space, strategy: Strategy, given: int) -> None:
        """
        Args:
            given: number of trials before the sampler's: the base and `start_from`. They may be copied, and have no
                place that another could take.
        """
        super().__init__(strategy.milestones, 1 - strategy.quantile)
        self.minimum_arrivals = max(2, round(1 / strategy.quantile))
        self._space, self._strategy, self._given = space, strategy, given
        self._members: dict[int, Mapping[str, Any]] = {}
        self._configs: dict[int, RunConfig] = {}
        self._founders: set[int] = set()
        self._arrived: list[dict[int, float]] = [{} for _ in self.milestones]
        self._gone: set[int] = set()
        self._decided: dict[int, Copy] = {}
        """of trials that are being stopped"""
        self._pending: dict[int, Copy] = {}
        """of trials that have ended, and whose copy has not been started"""
        self._vacant = 0
        """places whose trial has ended badly without a copy: the sampler fills them"""

    def restore(self, trial: FrozenTrial) -> None:
        """Learn of a trial that has ended in an earlier run of the search. To be called by number."""
        record, copy = record_of(trial, False), trial.user_attrs.get(REPLACED_BY)
        self.start(trial.number, record.params, trial.user_attrs.get(REPLACES))
        self._close(trial.number, record.state, None if copy is None else Copy(**copy))

    def start(self, number: int, params: Mapping[str, Any], replaces: int | None = None) -> None:
        """A trial was started, or taken up again; `replaces` is whose place a copy takes."""
        self._members[number] = params
        with contextlib.suppress(ConfigError):  # an infeasible one, which comes to its end at once
            self._configs[number] = self._space.config_of(params)
        if replaces is not None:
            self._pending.pop(replaces, None)
        elif number >= self._given:
            self._founders.add(number)

    def end(self, number: int, state: Status) -> Copy | None:
        """A trial has ended; what is to take its place, if that is not the sampler's."""
        decided = self._decided.pop(number, None)
        copy = decided if state is Status.PRUNED else None
        if state in COPIED_OVER and number >= self._given and self._has_room:
            copy = self._copy_for_lost(number)
        self._close(number, state, copy)
        return copy

    def _close(self, number: int, state: Status, copy: Copy | None) -> None:
        if state is Status.COMPLETE:
            return
        self._gone.add(number)
        if copy is not None:
            self._pending[number] = copy
        elif number >= self._given:
            self._vacant += 1

    @property
    def pending(self) -> Mapping[int, Copy]:
        """Trial whose place is free -> the copy that is to be started there, the earliest first."""
        return self._pending

    @property
    def needs_founder(self) -> bool:
        """Whether the sampler has a place to fill."""
        return self._owed > 0

    def record(self, number: int, index: int, score: float, weights: float = 0.0) -> None:
        super().record(number, index, score, weights)
        if self.is_recorded(number, index):
            self._arrived[index].setdefault(number, score)

    def judge(
        self,
        number: int,
        index: int,
        score: float,
        *,
        protected: bool = False,
        at_end: bool = False,
        weights: float = 0.0,
    ) -> Verdict:
        self._decided.pop(number, None)
        at_end = at_end or self.milestones[index].share >= 1
        verdict = super().judge(number, index, score, protected=protected, at_end=at_end, weights=weights)
        if not verdict.stop or not math.isfinite(score):
            return verdict
        copy = self._copy_for(number, index, below=score) if self._has_room else None
        if copy is None:
            return GO_ON
        self._decided[number] = copy
        return Verdict(stop=True, reason=f"{verdict.reason}; a copy of trial {copy.parent} takes its place there")

    @property
    def _owed(self) -> int:
        return max(0, self._strategy.population + self._vacant - len(self._founders))

    @property
    def _has_room(self) -> bool:
        """Whether one more trial can be asked for, besides those that will be."""
        given = self._given - sum(number < self._given for number in self._members)
        promised = len(self._pending) + len(self._decided) + self._owed + given
        return len(self._members) + promised < self._strategy.trials

    def _copy_for_lost(self, number: int) -> Copy | None:
        """At the first milestone that the trial did not reach, or one before if too few have come so far."""
        reached = [index for index, arrived in enumerate(self._arrived) if number in arrived]
        first = min(len(reached), len(self.milestones) - 1)
        for index in range(first, -1, -1):
            besides = len(self._arrived[index]) - (number in self._arrived[index])
            if self.milestones[index].share < 1 and besides + 1 >= self.minimum_arrivals:
                copy = self._copy_for(number, index, below=math.inf)
                if copy is not None:
                    return copy
        return None

    def _copy_for(self, number: int, index: int, *, below: float) -> Copy | None:
        """A copy, other than any that there is, of one of the best at a milestone that scored below `below`."""
        arrived = self._arrived[index]
        ranked = sorted((score, other) for other, score in arrived.items() if self._can_be_copied(other))
        places = max(1, math.floor(self._strategy.quantile * len(arrived) + 0.5))
        parents = [other for score, other in ranked[:places] if score < below and other != number]
        random = np.random.default_rng(seed_of(self._strategy, number))
        promised = [self._space.config_of(copy.params) for copy in (*self._pending.values(), *self._decided.values())]
        taken = [*self._configs.values(), *promised]
        for place in random.permutation(len(parents)):
            parent = parents[place]
            copies = list(self._copies(parent, self.milestones[index].share))
            for choice in random.permutation(len(copies)):
                if self._space.config_of(copies[choice]) not in taken:
                    return Copy(parent, self.milestones[index].key, copies[choice])
        return None

    def _can_be_copied(self, number: int) -> bool:
        # the base on another seed would hand that seed on
        bad = number in self._gone or number in self._decided or number not in self._configs
        return not bad and "runtime.seed" not in self._members[number]

    def _copies(self, parent: int, share: float) -> Iterator[dict[str, Any]]:
        """The settings of a trial with every changeable one of them moved from a share of the stage on."""
        params = self._members[parent]
        stage: StageConfig = getattr(self._configs[parent].stages, STAGE)
        before = stage.changed(share)
        moves: list[list[tuple[str, float]]] = []
        for name, setting in CHANGEABLE.items():
            if name in self._space.domains and self._space.is_active(name, params):
                value = before.get(setting, getattr(stage.optimizer, setting))
                moved = moved_values(self._space.domains[name], value)
                moves += [[(setting, each) for each in moved]] if moved else []
        earlier = [{"share": each.share, **each.settings} for each in stage.changes if each.share < share - SAME_SHARE]
        at_share = [each.settings for each in stage.changes if abs(each.share - share) <= SAME_SHARE]
        for combination in itertools.product(*moves) if moves else ():
            change = {"share": share, **(at_share[0] if at_share else {}), **dict(combination)}
            yield {**params, CHANGES: [*earlier, change]}


def moved_values(domain: Domain, value: float) -> list[float]:
    """A step down and a step up from a value: by a factor and within the bounds, or to the neighbour among the choices.

    Never the value itself: at an end of the domain there is one step.
    """
    if domain.options is not None:
        numbers = sorted(_numbers(domain.options))
        lower, higher = [each for each in numbers if each < value], [each for each in numbers if each > value]
        return [*lower[-1:], *higher[:1]]
    low, high = domain.bounds
    moved = [min(max(value * factor, low), high) for factor in FACTORS]
    return [each for each in dict.fromkeys(moved) if each != value]


def _numbers(options: Sequence[Value]) -> list[float]:
    return [float(each) for each in options if isinstance(each, int | float) and not isinstance(each, bool)]


def space_of_workers(plan: Plan) -> Space:
    """The space of a search whose trials leave their state at the milestones in the store, for copies."""
    if plan.config.strategy.scheduler != "pbt":
        return plan.space
    shares = [share for share in plan.config.strategy.milestones[STAGE] if share < 1]
    return Space(plan.config.space, plan.base.override({"logging.keep_at": shares}))


def check_pbt(config: SearchConfig, space: Space) -> None:
    """Refuse what population based training cannot do: its trials change while others run, in one stage.

    Raises:
        ConfigError: with the setting, the rule and the remedy.
    """
    strategy, milestones = config.strategy, config.strategy.milestones
    if strategy.sampler == "grid" or strategy.batch is not None:
        word, why = ("sampler", "a grid") if strategy.sampler == "grid" else ("batch", "a deterministic search")
        raise ConfigError(f"strategy.{word}: {why} is known before it begins, and pbt copies what does well on the way")
    if len(config.objectives) > 1:
        raise ConfigError("strategy.scheduler: pbt copies by the validation error alone; use one objective")
    if is_database(config.resources.study_storage):
        raise ConfigError("strategy.scheduler: pbt has one driver; leave resources.study_storage out")
    if set(milestones) != {STAGE} or milestones[STAGE][0] >= 1:
        raise ConfigError(
            f"strategy.milestones: pbt needs those of {STAGE} and of no other stage, one of them below 1, such as "
            f"{{{STAGE}: [0.25, 0.5, 1]}}"
        )
    if strategy.population + 1 < 1 / strategy.quantile:
        raise ConfigError(
            f"strategy.quantile: at least 1/{strategy.population + 1} with a population of {strategy.population}, else "
            f"nobody is among the worst, got {strategy.quantile:g}"
        )
    for path in (path for path in space.known if path.endswith(".time_limit_seconds")):
        if path in space.domains or space.base_values[path] is not None:
            raise ConfigError(f"{path}: a stage that is limited in time does not repeat itself; pbt needs null")
    if not any(name in space.domains and _can_move(space.domains[name]) for name in CHANGEABLE):
        raise ConfigError(
            f"strategy.scheduler: pbt changes {' or '.join(CHANGEABLE)} on the way, and the space has a range of "
            "neither; add one, or use milestone_asha"
        )


def _can_move(domain: Domain) -> bool:
    return all(moved_values(domain, end) for end in domain.ends if isinstance(end, int | float))
