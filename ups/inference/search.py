"""Test-time search: several candidates for every step, judged by what the equation says, a beam of the best.

B batch, W hypotheses of each sample (the beam), H = B W, K candidates of each hypothesis, X the cells of all axes,
C channels, N tokens, D latent width, P parameters.

A step, for every sample on its own: each hypothesis proposes what the plain rollout would do (candidate 0) and draws
others around it; with `choice: token` the last candidate takes every token from the candidate that is locally best.
The best candidates are looked ahead from by plain steps, and the best `beam_width` of them survive. At the end the
hypothesis with the largest sum of merits is the prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ups.inference.candidates import Candidates, Draws, shared_out
from ups.inference.rewards import Judgement, Move, Reward
from ups.inference.search_config import SearchConfig
from ups.inference.stretch import Stretch
from ups.models.latent import LatentModel

if TYPE_CHECKING:
    from ups.inference.surrogate import Surrogate


@dataclass
class Effort:
    """What a search cost, summed over the samples of its batches."""

    trajectories: int = 0
    steps: int = 0
    """searched steps of a rollout"""
    operator: int = 0
    """states that A was applied to"""
    source: int = 0
    """latents that the network of a correction or of the source was applied to"""
    decoder: int = 0
    """latents that were decoded"""
    evaluations: int = 0
    """states that were judged"""
    most: int = 0
    """the most states of one trajectory that were judged in one step"""


@dataclass(frozen=True)
class Pool:
    """Everything that was judged in a step, before the survivors are chosen."""

    move: Move
    judgement: Judgement
    judged_HK: Tensor
    """False where a sample had stopped already"""
    beam: int
    """hypotheses of each sample"""


_STEP_VALUES = 2**20
"""most values of all fields that are judged in a step at once"""

Observer = Callable[[Pool], None]


@dataclass(frozen=True)
class Search:
    """A configured search with its reward."""

    config: SearchConfig
    reward: Reward
    effort: Effort = field(default_factory=Effort, compare=False)
    observe: Observer | None = None

    @torch.no_grad()
    def frames(
        self, surrogate: Surrogate, start_BXC: Tensor, parameters_BP: Tensor, steps: int, noise: tuple[int, int]
    ) -> Tensor:
        """Frames 1..steps in the co-moving frame, (B, steps, X, C); noise is (seed, member), as for a rollout.

        A large batch is searched in parts, so that the states of a step stay bounded.
        """
        self.effort.trajectories += len(start_BXC)
        states = self.config.beam_width * self.config.candidates
        size = max(1, _STEP_VALUES // (states * start_BXC[0].numel()))
        parts = []
        for first in range(0, len(start_BXC), size):
            rollout = _Rollout(self, surrogate, parameters_BP[first : first + size], steps, noise, first)
            parts.append(rollout.run(start_BXC[first : first + size]))
        return torch.cat(parts)


@dataclass(frozen=True)
class _Beam:
    """The hypotheses after a step."""

    field_BWXC: Tensor
    stretch: Stretch | None
    """of all H hypotheses"""
    merit_BW: Tensor
    """sum over the steps so far"""

    @property
    def width(self) -> int:
        return self.field_BWXC.shape[1]


class _Rollout:
    """One batch on its way."""

    def __init__(
        self,
        search: Search,
        surrogate: Surrogate,
        parameters_BP: Tensor,
        steps: int,
        noise: tuple[int, int],
        first: int,
    ) -> None:
        """Args: `first`: number of the first sample."""
        assert isinstance(surrogate.model, LatentModel), "a baseline has no latent to search in"
        self.config, self.reward = search.config, search.reward
        self.effort, self.observe, self.first = search.effort, search.observe, first
        self.surrogate, self.model = surrogate, surrogate.model
        self.parameters_BP, self.steps, self.noise = parameters_BP, steps, noise
        self.searched = min(steps, self.config.steps or steps)
        inference = surrogate.inference
        self.stride = steps if inference.rollout == "latent" else inference.reencode_every
        self.by_token = self.config.choice == "token" and self.reward.is_local

    def run(self, start_BXC: Tensor) -> Tensor:
        batch = len(start_BXC)
        beam = _Beam(start_BXC[:, None], None, start_BXC.new_zeros(batch, 1))
        frames: list[Tensor] = []
        parents: list[Tensor] = []
        for number in range(1, self.searched + 1):
            beam, parent_BW = self.step(beam, number)
            frames.append(beam.field_BWXC)
            parents.append(parent_BW)
            self.effort.steps += batch
        best_B = beam.merit_BW.argmax(1)
        path = _backtrack(frames, parents, best_B)
        rows = torch.arange(batch, device=best_B.device) * beam.width + best_B
        stretch = None if beam.stretch is None else beam.stretch.select(rows)
        state = path[-1]
        for number in range(self.searched + 1, self.steps + 1):
            state, stretch = self.plain(state, stretch, self.parameters_BP, number)
            path.append(state)
        return torch.stack(path, dim=1)

    def step(self, beam: _Beam, number: int) -> tuple[_Beam, Tensor]:
        """The beam after this step, and which hypothesis before it each one comes from, (B, W)."""
        batch, width = beam.field_BWXC.shape[:2]
        limit = self.config.max_evaluations
        before_HXC = beam.field_BWXC.flatten(0, 1)
        parameters_HP = self.parameters_BP.repeat_interleave(width, 0)
        stretch = self._entered(before_HXC, parameters_HP, beam.stretch, number)
        made, stretch = self._candidates(before_HXC, parameters_HP, stretch, number, beam.merit_BW)
        per_hypothesis = made.count
        evaluated_B = made.judged_HK.view(batch, -1).sum(1)

        total_BK = (beam.merit_BW.flatten()[:, None] + made.merit_HK).view(batch, width * per_hypothesis)
        value_BK, evaluated_B = self._looked_ahead(made, stretch, parameters_HP, number, total_BK, evaluated_B)
        assert int(evaluated_B.max()) <= limit, "the budget of a step is never exceeded"
        self.effort.evaluations += int(evaluated_B.sum())
        self.effort.most = max(self.effort.most, int(evaluated_B.max()))

        # the next beam is as wide as if no sample had stopped: its width shares out the budget of every sample
        missing = width * (self._share(width) - per_hypothesis)
        value_BK, total_BK = (F.pad(each, (0, missing), value=-torch.inf) for each in (value_BK, total_BK))
        # what was looked ahead from comes first; of equal values the lower number, so that the plain one wins a tie
        by_total = total_BK.argsort(dim=1, descending=True, stable=True)
        by_value = value_BK.gather(1, by_total).argsort(dim=1, descending=True, stable=True)
        keep_BW = by_total.gather(1, by_value)[:, : self.config.beam_width]
        kept_BW = total_BK.gather(1, keep_BW)
        return self._survivors(made, stretch, kept_BW, keep_BW.clamp_max(width * per_hypothesis - 1), number)

    def _share(self, width: int) -> int:
        """Candidates of each of so many hypotheses, with the look-ahead's part of the budget left."""
        return min(self.config.candidates, (self.config.max_evaluations - self.config.look_ahead) // width)

    def _survivors(
        self, made: Candidates, stretch: Stretch, merit_BW: Tensor, keep_BW: Tensor, number: int
    ) -> tuple[_Beam, Tensor]:
        per_hypothesis = made.count
        batch = len(keep_BW)
        width = len(made.latent_HKND) // batch
        parent_BW = keep_BW // per_hypothesis
        first_B1 = torch.arange(batch, device=keep_BW.device)[:, None]
        hypothesis_H = (first_B1 * width + parent_BW).flatten()
        candidate_H = (keep_BW % per_hypothesis).flatten()
        latent_HND = made.latent_HKND[hypothesis_H, candidate_H]
        field_HXC = made.field_HKXC[hypothesis_H, candidate_H]
        following = stretch.select(hypothesis_H).follow(latent_HND) if number % self.stride else None
        shape = (batch, keep_BW.shape[1])
        return _Beam(field_HXC.unflatten(0, shape), following, merit_BW), parent_BW

    def _entered(self, field_HXC: Tensor, parameters_HP: Tensor, stretch: Stretch | None, number: int) -> Stretch:
        if stretch is not None:
            return stretch
        ahead = min(self.stride, self.steps - number + 1)
        return Stretch.enter(self.surrogate, field_HXC, parameters_HP, ahead, None).encode(self.model, False)

    def plain(
        self, field_HXC: Tensor, stretch: Stretch | None, parameters_HP: Tensor, number: int
    ) -> tuple[Tensor, Stretch | None]:
        """The step that the rollout without a search would take."""
        stretch = self._entered(field_HXC, parameters_HP, stretch, number)
        first = stretch.decoded is None
        after_HXC, stretch, _ = stretch.advance(self.model, (*self.noise, number - 1))
        self.effort.operator += len(field_HXC)
        self.effort.decoder += len(field_HXC) * (2 if first else 1)
        self.effort.source += len(field_HXC) * self.surrogate.correction_calls
        return after_HXC, stretch if number % self.stride else None

    # candidates

    def _candidates(
        self, before_HXC: Tensor, parameters_HP: Tensor, stretch: Stretch, number: int, merit_BW: Tensor
    ) -> tuple[Candidates, Stretch]:
        """All candidates of a step, judged; and the stretch with what was decoded for them."""
        assert stretch.latent is not None
        config, rows, width = self.config, len(before_HXC), merit_BW.shape[1]
        base_HND = self.model.advance(stretch.latent, stretch.features)
        proposal_HND = self.surrogate.correct(stretch.latent, base_HND, stretch.features, (*self.noise, number - 1))
        self.effort.operator += rows
        self.effort.source += rows * self.surrogate.correction_calls
        draws = Draws(config, self.surrogate, stretch, base_HND, (*self.noise, number), width)
        sample_H = self.first + torch.arange(rows // width, device=before_HXC.device).repeat_interleave(width)
        move = self.surrogate.move(before_HXC, before_HXC[:, None], parameters_HP, sample_H, number)

        made: Candidates | None = None
        going_H = torch.ones(rows, dtype=torch.bool, device=before_HXC.device)
        drawn = 0
        for index, size in enumerate(shared_out(self._share(width), config.rounds)):
            if made is not None and config.early_stop is not None:
                going_H = going_H & ~self._leads(made, merit_BW)
            if not bool(going_H.any()):
                break
            active = None if bool(going_H.all()) else going_H.nonzero()[:, 0]
            mixes = self.by_token and size - (index == 0) >= 2
            count = size - (index == 0) - mixes
            centre_HND = proposal_HND if made is None else made.best()
            parts = [proposal_HND[:, None]] if made is None else []
            if count:
                parts.append(draws.around(centre_HND, drawn, count, index, active))
            drawn += count
            if parts:
                new, stretch = self._judged(move, stretch, torch.cat(parts, dim=1), active)
                made = new if made is None else made.extend(new)
            if mixes:
                assert made is not None
                new, stretch = self._judged(
                    move, stretch, made.recombined(self.surrogate.spec, self.model.grid)[:, None], active
                )
                made = made.extend(new)
        assert made is not None
        self.effort.source += draws.source_calls
        if self.observe is not None:
            self.observe(Pool(replace(move, after_HKXC=made.field_HKXC), made.judgement, made.judged_HK, width))
        return made, stretch

    def _judged(
        self, move: Move, stretch: Stretch, latent_HKND: Tensor, active: Tensor | None
    ) -> tuple[Candidates, Stretch]:
        """New candidates, decoded and judged: of all hypotheses, or of those whose sample has not stopped."""
        rows, count = latent_HKND.shape[:2]
        first = stretch.decoded is None
        if active is None:
            stretch, field_HKXC = self._landed(stretch, latent_HKND)
            judgement = self.reward.judge(replace(move, after_HKXC=field_HKXC))
            judged = torch.ones(rows, count, dtype=torch.bool, device=latent_HKND.device)
            self.effort.decoder += rows * (count + first)
            return Candidates(latent_HKND, field_HKXC, judgement, judged), stretch
        _, part_AKXC = self._landed(stretch.select(active), latent_HKND[active])
        part = self.reward.judge(replace(move.select(active), after_HKXC=part_AKXC))
        self.effort.decoder += len(active) * count

        def spread_out(value: Tensor) -> Tensor:
            return value.new_zeros(rows, *value.shape[1:]).index_copy(0, active, value)

        density = part.density_HKX
        judgement = Judgement(
            spread_out(part.score_HK), spread_out(part.merit_HK), None if density is None else spread_out(density)
        )
        judged = torch.zeros(rows, count, dtype=torch.bool, device=active.device)
        judged[active] = True
        return Candidates(latent_HKND, spread_out(part_AKXC), judgement, judged), stretch

    def _landed(self, stretch: Stretch, latent_HKND: Tensor) -> tuple[Stretch, Tensor]:
        stretch, canonical_HKXC = stretch.land(self.model, latent_HKND)
        count = latent_HKND.shape[1]
        if count == 1:
            return stretch, stretch.physical(canonical_HKXC[:, 0])[:, None]
        wide = replace(
            stretch,
            offset=stretch.offset.repeat_interleave(count, 0),
            scale=stretch.scale.repeat_interleave(count, 0),
        )
        return stretch, wide.physical(canonical_HKXC.flatten(0, 1)).unflatten(0, (-1, count))

    def _leads(self, made: Candidates, merit_BW: Tensor) -> Tensor:
        """Of each hypothesis: whether its sample's best candidate leads by the margin."""
        assert self.config.early_stop is not None
        batch, width = merit_BW.shape
        total_BK = (merit_BW.flatten()[:, None] + made.merit_HK).view(batch, -1)
        return _lead(total_BK, self.config.early_stop).repeat_interleave(width)

    # look-ahead

    def _looked_ahead(
        self,
        made: Candidates,
        stretch: Stretch,
        parameters_HP: Tensor,
        number: int,
        total_BK: Tensor,
        evaluated_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What candidates are chosen by: their sums of merits, with those of plain steps after the best of them; and
        the evaluations of every sample. Where some are looked ahead from, the others are out."""
        ahead = min(self.config.horizon, self.steps - number + 1) - 1
        if ahead == 0 or total_BK.shape[1] == 1:
            return total_BK, evaluated_B
        batch, choices = total_BK.shape
        affordable_B = (self.config.max_evaluations - evaluated_B) // ahead
        count = min(choices, int(affordable_B.max()))
        if self.config.early_stop is not None:
            stopped_B = _lead(total_BK, self.config.early_stop)
            affordable_B = affordable_B.masked_fill(stopped_B, 0)
        if count == 0 or not bool(affordable_B.any()):
            return total_BK, evaluated_B
        order_BL = total_BK.argsort(dim=1, descending=True, stable=True)[:, :count]
        place_L = torch.arange(count, device=total_BK.device)
        chosen_BL = (place_L < affordable_B[:, None]) & total_BK.gather(1, order_BL).isfinite()
        if not bool(chosen_BL.any()):
            return total_BK, evaluated_B
        sample_A, place_A = chosen_BL.nonzero(as_tuple=True)
        pick_A = order_BL[sample_A, place_A]
        per_hypothesis = made.count
        width = len(made.latent_HKND) // batch
        hypothesis_A = sample_A * width + pick_A // per_hypothesis
        candidate_A = pick_A % per_hypothesis
        field_AXC = made.field_HKXC[hypothesis_A, candidate_A]
        state: Stretch | None = None
        if number % self.stride:
            state = stretch.select(hypothesis_A).follow(made.latent_HKND[hypothesis_A, candidate_A])
        parameters_AP = parameters_HP[hypothesis_A]
        sum_A = total_BK[sample_A, pick_A]
        for later in range(number + 1, number + 1 + ahead):
            before_AXC = field_AXC
            field_AXC, state = self.plain(before_AXC, state, parameters_AP, later)
            move = self.surrogate.move(before_AXC, field_AXC[:, None], parameters_AP, self.first + sample_A, later)
            sum_A = sum_A + self.reward.judge(move).merit_HK[:, 0]
        looked_B = chosen_BL.any(1)
        value_BK = total_BK.masked_fill(looked_B[:, None], -torch.inf)
        value_BK[sample_A, pick_A] = sum_A.masked_fill(~sum_A.isfinite(), -torch.inf)
        # where all of them lead out of the finite range, their own step decides
        lost_B = ~value_BK.isfinite().any(1)
        return torch.where(lost_B[:, None], total_BK, value_BK), evaluated_B + chosen_BL.sum(1) * ahead


def _lead(merit_BK: Tensor, margin: float) -> Tensor:
    """Whether the best of each sample leads the next by `margin` deviations of its finite merits, three at least: two
    always lie two deviations apart."""
    if merit_BK.shape[1] < 3:
        return torch.zeros(len(merit_BK), dtype=torch.bool, device=merit_BK.device)
    best_B2 = merit_BK.topk(2, dim=1).values
    known = merit_BK.isfinite()
    count_B = known.sum(1)
    filled = merit_BK.masked_fill(~known, 0)
    mean_B1 = filled.sum(1, keepdim=True) / count_B[:, None]
    spread_B = ((filled - mean_B1).square().masked_fill(~known, 0).sum(1) / count_B).sqrt()
    return (count_B >= 3) & (best_B2[:, 0] - best_B2[:, 1] >= margin * spread_B.clamp_min(1e-12))


def _backtrack(frames: list[Tensor], parents: list[Tensor], best_B: Tensor) -> list[Tensor]:
    """The frames of the path that ends at the best hypothesis."""
    rows = torch.arange(len(best_B), device=best_B.device)
    path = []
    for field_BWXC, parent_BW in zip(reversed(frames), reversed(parents), strict=True):
        path.append(field_BWXC[rows, best_B])
        best_B = parent_BW[rows, best_B]
    return path[::-1]
