"""What ranks promise each other: one mind, whatever fails where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes_ranks import Crew, equal

from ups.core import ranks as module
from ups.core.errors import ConfigError
from ups.core.leases import LeaseLost
from ups.core.ranks import ALONE, Part, RankError, Ranks


@pytest.mark.parametrize(("count", "size"), [(16, 2), (16, 4), (10, 4), (7, 3), (4, 4), (5, 1)])
def test_the_parts_of_a_batch_are_the_batch(count: int, size: int) -> None:
    parts = [Ranks(rank, size).part(count) for rank in range(size)]
    rows = list(range(count))
    assert [row for part in parts for row in rows[part.rows]] == rows
    assert sum(part.share for part in parts) == pytest.approx(1)
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_a_rank_without_a_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^stages.operator.batch_size: .* got 3 and 4; raise it"):
        Ranks(0, 4).part(3, "stages.operator.batch_size")


def _alone_among(ranks: Ranks) -> Any:
    assert ranks.size == 1
    return ranks.lead(lambda: 5), ranks.mean_of(lambda: 2.5, Part.whole(3)), ranks.first(1.5)


def test_alone_there_is_nobody_to_talk_to() -> None:
    assert _alone_among(ALONE) == (5, 2.5, 1.5)
    given = [torch.ones(2)]
    ALONE.add_up(given)
    assert given[0].tolist() == [1, 1]
    with pytest.raises(KeyError), ALONE.agreed():
        raise KeyError


def _talk(ranks: Ranks) -> Any:
    part = ranks.part(10)
    shapes = [(3,), (2, 2), (5,), ()]
    tensors = [torch.full(shape, float(ranks.rank + index)) for index, shape in enumerate(shapes)]
    tensors.append(torch.tensor([0.1 * (ranks.rank + 1)], dtype=torch.float64))
    ranks.add_up(tensors)
    samples = torch.arange(10, dtype=torch.float64)[part.rows]
    return (
        ranks.lead(lambda: {"rank": ranks.rank}),
        ranks.mean_of(lambda: float(samples.mean()), part),
        ranks.means({"a": float(samples.square().mean()), "b": 1.0}, part),
        ranks.first(ranks.rank + 0.1),
        [tensor.tolist() for tensor in tensors],
    )


def _talk_in_small_buckets(ranks: Ranks) -> Any:
    module.BUCKET_BYTES = 8
    return _talk(ranks)


def test_numbers_are_those_of_the_batch_and_decisions_those_of_the_first(crew: Crew) -> None:
    led, mean, means, first, sums = equal(crew.run(3, _talk))
    assert led == {"rank": 0}
    assert mean == pytest.approx(4.5, rel=1e-15)
    assert means == {"a": pytest.approx(28.5), "b": pytest.approx(1)}
    assert first == 0.1
    assert sums == [[3.0] * 3, [[6.0] * 2] * 2, [9.0] * 5, 12.0, [pytest.approx(0.6)]]
    assert equal(crew.run(3, _talk_in_small_buckets))[-1] == sums


def _add_up_without_memory(ranks: Ranks) -> Any:
    tensors, empty = [torch.ones(4), torch.ones(2)], torch.empty

    def refuse(*given: Any, **more: Any) -> Any:
        torch.empty = empty
        raise MemoryError("no room for gradients")

    try:
        torch.empty = refuse if ranks.rank == 1 else empty
        ranks.add_up(tensors)
    except MemoryError as error:
        # whoever ran out said so before anything was on its way: the next sum is whole
        ranks.add_up(tensors)
        return str(error), tensors[0].tolist()
    return "nothing was raised"


def test_who_has_no_memory_for_gradients_says_so_before_they_are_sent(crew: Crew) -> None:
    assert equal(crew.run(2, _add_up_without_memory)) == ("no room for gradients", [2.0] * 4)


class Untransportable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("does not say what it was made of")


def _fail(ranks: Ranks, how: str, where: int, error: BaseException) -> Any:
    def act() -> float:
        if ranks.rank == where:
            raise error
        return 1.0

    try:
        if how == "lead":
            ranks.lead(act)
        elif how == "mean_of":
            ranks.mean_of(act, ranks.part(10))
        else:
            with ranks.agreed():
                act()
    except BaseException as raised:
        # nobody hangs, and the talk goes on
        return type(raised).__name__, str(raised), ranks.raised is raised, ranks.first(ranks.rank)
    return None


@pytest.mark.parametrize(
    ("how", "where", "error", "seen"),
    [
        ("lead", 0, LeaseLost("gone"), ("LeaseLost", "gone")),
        ("agreed", 2, ValueError("of two"), ("ValueError", "of two")),
        ("mean_of", 1, torch.OutOfMemoryError("full"), ("OutOfMemoryError", "full")),
    ],
)
def test_a_failure_of_one_is_the_failure_of_all(
    crew: Crew, how: str, where: int, error: Exception, seen: tuple[str, str]
) -> None:
    assert equal(crew.run(3, _fail, how, where, error)) == (*seen, True, 0.0)


def _fail_unspeakably(ranks: Ranks, interrupt: bool) -> Any:
    return _fail(ranks, "lead", 0, KeyboardInterrupt("ctrl c") if interrupt else Untransportable(1, 2))


@pytest.mark.parametrize("interrupt", [False, True])
def test_what_cannot_travel_is_told(crew: Crew, interrupt: bool) -> None:
    first, *others = crew.run(3, _fail_unspeakably, interrupt)
    name = "KeyboardInterrupt" if interrupt else "Untransportable"
    assert first[0] == name
    assert [other[0] for other in others] == [RankError.__name__] * 2
    assert all(other[1].startswith(f"another rank ended with {name}: ") for other in others)


def test_the_first_cannot_lead_while_it_leads() -> None:
    ranks = Ranks(0, 2)
    ranks._leads = True
    with pytest.raises(AssertionError, match="leads already"):
        ranks.lead(lambda: None)
