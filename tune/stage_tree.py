"""The stage tree: which prefix the next trial branches from, and what is proposed below it.

Trials that agree in everything down to some stage share its result. The tree has a node for every distinct prefix:
at level 0 the operators, below each the corrections that were trained on it, and so on. A trial either opens a new
root or branches below a finished prefix and pays for what lies below alone. The choice compares the expected
improvement of the best score per second, both estimated from the study's own trials. Each level learns from its own
observations, in which a prefix counts once, with its best child, and relative to where it branched: how good a
correction is shows against its operator, not against other operators.

Scores are logarithms here: stages multiply an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from tune.checks import random_value
from tune.domain import Value
from tune.levels import STAGES
from tune.prefixes import Node, furthest, key_of, last_of, last_stage, log_score
from tune.prospects import STRIKES, Prospects
from tune.space import Space
from tune.trial import DIVERGED, Outcome
from tune.views import Shelf
from ups.config import RunConfig, stages_of
from ups.core.types import Status

EXPLORE = 0.1
"""share of proposals that open a root whatever the comparison says"""
CONSIDERED = 20
"""prefixes of a level that are compared, the best"""
_ATTEMPTS, _DRAWS = 4, 20
"""proposals below a prefix that turn out to be known until chance draws instead, and until what is left is counted"""


@dataclass(frozen=True)
class Branch:
    """What was proposed, and why."""

    params: dict[str, Value]
    below: int | None
    """trial whose prefix it shares; None is a new root"""
    stage: str | None
    """the last stage that it shares"""
    reason: str


class StageTree:
    """Learns from every trial of a search, and proposes the next."""

    def __init__(
        self, space: Space, levels: Mapping[str, int], *, startup: int, nominal_costs: bool, shares: bool = True
    ) -> None:
        """
        Args:
            levels: name -> level, see `tune.levels.levels_of`.
            startup: roots, and observations of a level, before anything but chance proposes.
            nominal_costs: weigh stages by fixed costs: what was measured in seconds never comes out twice.
            shares: False proposes roots alone, which is TPE.
        """
        self._space = space
        # a level without names of its own cannot differ: it goes with the one above
        self.levels = sorted(set(levels.values())) if shares else [0]
        self._level_of = {name: self._place(level) for name, level in levels.items()}
        self._startup = startup
        self.trunk = Node(-1, {}, None, -1, score=0.0, is_open=True)
        domains = [
            {name: domain for name, domain in space.domains.items() if self._level_of[name] == level}
            for level in range(len(self.levels))
        ]
        self._shelves = [Shelf(each) for each in domains]
        self._open: list[list[Node]] = [[] for _ in self.levels]
        self._stopped: list[list[Node]] = [[] for _ in self.levels]
        self._taken_up: set[int] = set()
        self._roots_opened = 0
        assert isinstance(space.base, RunConfig)
        on = stages_of(space.base)
        stages = [stage for place, stage in enumerate(STAGES) if stage in on or place in self.levels]
        self._prospects = Prospects(self.levels, stages, nominal=nominal_costs)
        self._branched_at: dict[int, int] = {}
        self._refused: dict[str, Node] = {}
        """combinations that are infeasible"""
        self.best: float | None = None

    # ------------------------------------------------------------------ learning

    def start(self, number: int, params: Mapping[str, Value]) -> None:
        """A trial with these values of the space runs."""
        node = self.trunk
        branched = None
        for level, own in enumerate(self._split(params)):
            below = node.nodes.get(key_of(own))
            if below is None:
                below = node.nodes[key_of(own)] = Node(level, own, node, number)
                self._shelves[level].running(below, number, own)
                branched = level - 1 if branched is None else branched
            elif below.stopped is not None:
                below.stopped = None
                self._stopped[level] = [each for each in self._stopped[level] if each is not below]
                self._taken_up.add(number)
            below.running += 1
            node = below
        self._branched_at[number] = len(self.levels) - 1 if branched is None else branched
        self._roots_opened += branched == -1

    def end(self, number: int, params: Mapping[str, Value], outcome: Outcome, *, feasible: bool = True) -> None:
        """A trial that was started came to an end.

        Args:
            feasible: whether a complete one holds the constraints.
        """
        nodes = list(self._walk(params))
        branched = self._branched_at.pop(number)
        for node in nodes[1:]:
            node.running -= 1
        for stage, seconds in outcome.stage_seconds.items():
            if outcome.state is Status.COMPLETE or stage != last_of(outcome.stage_seconds):
                self._prospects.note_stage(stage, seconds)
        if outcome.state in (Status.FAILED, Status.INTERRUPTED):
            for node in nodes[1:]:
                if node.score is None and not node.running:
                    self._shelves[node.level].drop(node)
            return
        if number not in self._taken_up:
            self._prospects.note_cost(branched, sum(outcome.stage_seconds.values()))
        self._taken_up.discard(number)
        ended = self._ended_at(outcome, branched)
        scores = self._scores(outcome, ended)
        final = log_score(outcome.score) if outcome.state is Status.COMPLETE and feasible else None
        for node in nodes[1:]:
            if scores[node.level] is not None:
                node.score = scores[node.level]
            if node.level < ended and not node.is_open and node.score is not None:
                node.is_open = True
                self._open[node.level].append(node)
            elif node.level == ended and not node.is_open:
                self._note_stop(node, outcome)
        if branched < 0:
            self._prospects.note_root()
        for node in nodes[max(1, branched + 1) : -1]:
            if node.level < ended and node.score is not None:
                self._note_gain(node, outcome, final, scores, feasible)
        if final is not None:
            self.best = final if self.best is None else min(self.best, final)
            for node in nodes[1:]:
                node.best = final if node.best is None else min(node.best, final)
            for key, score in outcome.milestones.items():
                self._prospects.note_rest(key, final - log_score(score))
        for node in nodes[1:]:
            self._shelve(node, outcome, ended, feasible)
        for above, node in pairwise(nodes):
            if node.level > ended and not node.running and node.score is None and node.stopped is None:
                # its stage was never reached: it may be proposed again, should the prefix be taken up
                del above.nodes[key_of(node.params)]
                above.is_exhausted = False
                break
        if outcome.state is Status.INFEASIBLE:
            # which of the values do not go together is not known: with others, each may be proposed again
            opened = nodes[branched + 2]
            assert opened.above is not None
            self._refused[key_of(params)] = opened.above.nodes.pop(key_of(opened.params))

    def _note_stop(self, node: Node, outcome: Outcome) -> None:
        """Its stage did not come to its end; below the last one taking it up would be the same trial once more."""
        step, score = furthest(outcome)
        is_last = node.level == len(self.levels) - 1
        if outcome.state is not Status.PRUNED or is_last or score is None or node.stopped is not None:
            return
        if self._place(step // 1000) == node.level:
            node.stopped = step, score
            node.stops += 1
            self._stopped[node.level].append(node)

    def _note_gain(
        self, node: Node, outcome: Outcome, final: float | None, scores: Sequence[float | None], feasible: bool
    ) -> None:
        """What one more trial below `node` came to, in the unit of its score; what was left out gained nothing."""
        assert node.score is not None
        is_spoiled = outcome.state in DIVERGED or not feasible
        self._prospects.note_spoiled(node, is_spoiled)
        if is_spoiled:
            return
        known = [score for score in scores if score is not None]
        last = final if final is not None else (known[-1] if known else node.score)
        self._prospects.note_gain(node, last - node.score)

    def _shelve(self, node: Node, outcome: Outcome, ended: int, feasible: bool) -> None:
        """What a level learns of a prefix."""
        assert node.above is not None
        shelf, start = self._shelves[node.level], node.above.score
        is_reached = node.level <= ended or node.score is not None or node.stopped is not None
        if start is None:
            shelf.drop(node)
        elif not is_reached:
            if not node.running:
                shelf.drop(node)
        elif node.best is not None:
            shelf.complete(node, node.number, node.params, node.best - start)
        elif (
            (node.level == ended and outcome.state in DIVERGED)
            # which of its stages breaks a constraint is not known, nor which is to blame where all below diverges
            or (outcome.state is Status.COMPLETE and not feasible)
            or (node.spoiled >= STRIKES - 1 and not node.gains)
        ):
            shelf.diverged(node, node.number, node.params)
        else:
            step, score = furthest(outcome)
            if score is None:
                score = log_score(outcome.score) if outcome.score else 0.0
            shelf.stopped(node, node.number, node.params, step, score - start)

    # ------------------------------------------------------------------ proposing

    def propose(self, number: int, *, seed: int, seconds_left: float | None = None) -> Branch | None:
        """The next trial, or None when every combination was tried or nothing ends in `seconds_left`.

        A function of what was learned and of `seed`.
        """
        explores = np.random.default_rng(seed).random() < EXPLORE
        exhausted: set[Node] = set()
        while True:
            chosen = self._choose(explores, seconds_left, exhausted)
            if chosen is None:
                return None
            node, reason = chosen
            params = self._proposal(node, seed)
            if params is not None:
                below = None if node.level < 0 else node.number
                stage = None if node.level < 0 else STAGES[self.levels[node.level]]
                return Branch(params, below, stage, reason)
            exhausted.add(node)

    def _proposal(self, node: Node, seed: int) -> dict[str, Value] | None:
        """Something below the prefix that was not tried; None where chance finds nothing, or nothing is left."""
        for attempt in range(_ATTEMPTS):
            params = self._fill(node, seed + attempt)
            if self._is_new(params, node):
                return params
        fixed, random = node.prefix, np.random.default_rng(seed)
        for _ in range(_DRAWS):
            params = self._space.draw(lambda name, domain: fixed.get(name, random_value(domain, random)))
            if self._is_new(params, node):
                return params
        left = self._left(node)
        node.is_exhausted = left == {}
        if not left:
            return None
        return self._space.draw(lambda name, domain: left[name] if name in left else random_value(domain, random))

    def _left(self, node: Node) -> dict[str, Value] | None:
        """Values down to the level below the prefix that were not tried; empty where there are none, None where they
        cannot be counted."""
        names = [name for name in self._space.order if self._level_of[name] <= node.level + 1]
        try:
            found = self._space.combinations(node.prefix, names)
            return next((values for values in found if self._is_new(values, node)), {})
        except ValueError:
            return None

    def _is_new(self, params: Mapping[str, Value], node: Node) -> bool:
        """Whether it opens a prefix right below the node: one that is there already has a worth of its own."""
        return key_of(self._split(params)[node.level + 1]) not in node.nodes and key_of(params) not in self._refused

    def _choose(self, explores: bool, seconds_left: float | None, exhausted: set[Node]) -> tuple[Node, str] | None:
        """The prefix below which a second is worth most."""
        arms: list[tuple[float, Node, str]] = []
        for node in (self.trunk, *self._candidates()):
            if node in exhausted or node.is_exhausted:
                continue
            cost = self._prospects.cost(node)
            if seconds_left is not None and cost is not None and cost > seconds_left:
                continue
            gain = self._gain(node)
            rate = gain / (max(cost or 1.0, 1e-3) * (1 + node.running))
            arms.append((rate, node, f"expected gain {gain:.2g} for {cost or 0.0:.3g} s"))
        if not arms:
            return None
        first = arms[0]
        starts = self._roots_opened < self._startup
        if first[1] is self.trunk and (self.best is None or starts or explores):
            return first[1], "the first roots" if starts else "another root, to explore"
        rate, node, reason = max(arms, key=lambda arm: arm[0])
        return node, reason

    def _candidates(self) -> Iterator[Node]:
        """The most promising prefixes that have something below them, finished ones and such as were stopped."""
        for level, stopped in enumerate(self._stopped):
            self._stopped[level] = sorted(stopped, key=self._prospects.end_of_stopped)[: 4 * CONSIDERED]
            yield from self._stopped[level][:CONSIDERED]
        for level in range(len(self.levels) - 1):
            expected = self._prospects.usual_gain(level)
            left = (node for node in self._open[level] if not node.is_exhausted)
            nodes = sorted(left, key=partial(_promise, expected=expected))
            if len(nodes) > 8 * CONSIDERED:  # the worst never come back
                nodes = nodes[: 4 * CONSIDERED]
            self._open[level] = nodes
            yield from nodes[:CONSIDERED]

    def _gain(self, node: Node) -> float:
        """Expected improvement of the best score; before there is one, of a root alone."""
        if self.best is None:
            return 1.0 if node.level < 0 else 0.0
        return self._prospects.gain(node, self.best, self._open[0])

    def _fill(self, node: Node, seed: int) -> dict[str, Value]:
        """The prefix and a value for every name below it."""
        fixed = node.prefix
        suggests: dict[int, Any] = {}

        def suggest(name: str, domain: Any) -> Value:
            if name in fixed:
                return fixed[name]
            level = self._level_of[name]
            if level not in suggests:
                # each level has chance of its own: with one seed for all, the n-th names of two levels go together
                own = int(np.random.SeedSequence([seed, level]).generate_state(1)[0])
                suggests[level] = self._shelves[level].suggest(own, startup=self._startup)
            return suggests[level](name, domain)

        return self._space.draw(suggest)

    # ------------------------------------------------------------------ words

    def _place(self, level: int) -> int:
        return max((index for index, each in enumerate(self.levels) if each <= level), default=0)

    def _split(self, params: Mapping[str, Value]) -> list[dict[str, Value]]:
        """The values by level; what is no name of the space is none of ours."""
        parts: list[dict[str, Value]] = [{} for _ in self.levels]
        for name, value in params.items():
            if name in self._level_of:
                parts[self._level_of[name]][name] = value
        return parts

    def _walk(self, params: Mapping[str, Value]) -> Iterator[Node]:
        node = self.trunk
        yield node
        for own in self._split(params):
            node = node.nodes[key_of(own)]
            yield node

    def _scores(self, outcome: Outcome, ended: int) -> list[float | None]:
        """By level, the score at the end of its stage, where the stage is off that of the one before; None where the
        trial, which ended at level `ended`, did not come to the end of the stage."""
        scores: list[float | None] = []
        latest = None
        milestones = {key: score for key, score in outcome.milestones.items() if key.endswith(":1")}
        through = ended + (f"{last_stage(outcome)}:1" in milestones)
        ends = [*self.levels[1:], len(STAGES)]
        for level, end in enumerate(ends):
            for stage in STAGES[:end]:
                if f"{stage}:1" in milestones:
                    latest = log_score(milestones[f"{stage}:1"])
            scores.append(latest if level < through else None)
        return scores

    def _ended_at(self, outcome: Outcome, branched: int) -> int:
        """The level at which the trial ended; one more than the last of a complete one."""
        if outcome.state is Status.COMPLETE:
            return len(self.levels)
        if outcome.state is Status.INFEASIBLE:
            return branched + 1
        return self._place(STAGES.index(last_stage(outcome)))


def _promise(node: Node, expected: float) -> float:
    assert node.score is not None
    return node.score + (min(node.gains) if node.gains else expected)
