"""Who this process is among those that train one run together, and how they stay of one mind.

Every rank runs the same program on its own part of each global batch. Three rules keep the ranks together:

- What touches the world (checkpoints, the store, reports, validation) is done by rank 0 under `lead`, and the others
  go on with what it found.
- What each rank does with its own part (a forward or backward pass) is done under `agreed` or `mean_of`: if it fails on
  any rank, all ranks raise that failure, and nobody waits for a rank that has left.
- Decisions rest on numbers that are the same on every rank: means over the global batch, sums of gradients, and
  where two machines might round differently, what rank 0 has.

`ALONE` is the one rank of an ordinary run: it calls what it is given and talks to nobody.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ups.core.errors import ConfigError

T = TypeVar("T")

BUCKET_BYTES = 25 * 2**20
"""of gradients that are summed in one message: large enough that latency does not count (DDP has the same)"""


class RankError(Exception):
    """Another rank failed with something that cannot travel between processes; the message says what."""


class RankLost(RuntimeError):
    """Another rank does not answer any more: its process died, or the network did."""


@dataclass(frozen=True)
class Part:
    """The samples of a global batch that are one rank's: `start` to `stop` of `of`.

    Whatever is drawn for a batch is drawn for all of its samples on every rank, which then keeps these rows: random
    numbers belong to a sample, however many ranks there are.
    """

    start: int
    stop: int
    of: int

    @classmethod
    def whole(cls, count: int) -> Part:
        return cls(0, count, count)

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def share(self) -> float:
        """The weight of the mean over these samples in the mean over the batch."""
        return (self.stop - self.start) / self.of


class Ranks:
    """This process among `size` processes that train one run."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.raised: BaseException | None = None
        """the latest failure that was raised on every rank"""
        self._leads = False
        self._room: list[Tensor] = []

    @classmethod
    def of_process_group(cls) -> Ranks:
        """Those of torch's default process group, which must carry tensors of the CPU, too (gloo)."""
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, count: int, path: str = "batch_size") -> Part:
        """This rank's samples of a batch of `count`: equal shares, the first ranks have one more where they must.

        Args:
            path: of the setting that says `count`, for the error.

        Raises:
            ConfigError: a rank would have none.
        """
        if count < self.size:
            raise ConfigError(
                f"{path}: a batch needs a sample for each worker, got {count} and {self.size}; raise it, or take "
                "fewer workers"
            )
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return Part(start, start + each + (self.rank < more), count)

    def lead(self, act: Callable[[], T]) -> T:
        """What `act` gives on rank 0, on every rank; so is what it raises. It travels pickled."""
        if self.size == 1:
            return act()
        assert not self._leads, "rank 0 leads already: nobody would hear it"
        if not self.is_first:
            found, failure = self._talk(_receive, 0)
            if failure is not None:
                self.raised = failure
                raise failure
            return found
        self._leads = True
        try:
            found = act()
        except BaseException as error:
            with contextlib.suppress(RankLost):  # what is raised here says more
                self._talk(_send, (None, _sendable(error)))
            self.raised = error
            raise
        finally:
            self._leads = False
        self._talk(_send, (found, None))
        return found

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """What is raised inside on any rank is raised on all of them. Nothing inside may talk to other ranks."""
        if self.size == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        self._sum_or_raise([], failure)

    def mean_of(self, act: Callable[[], float], part: Part) -> float:
        """The mean over a global batch of what `act` gives as the mean over each part; fails on all ranks or none."""
        if self.size == 1:
            return act()
        failure, mine = None, 0.0
        try:
            mine = act() * part.share
        except Exception as error:
            failure = error
        return self._sum_or_raise([mine], failure)[0]

    def means(self, values: Mapping[str, float], part: Part) -> dict[str, float]:
        """Each value as its mean over the global batch."""
        if self.size == 1:
            return dict(values)
        total = torch.tensor([value * part.share for value in values.values()], dtype=torch.float64)
        self._talk(dist.all_reduce, total)
        return dict(zip(values, total.tolist(), strict=True))

    def first(self, value: float) -> float:
        """The value that rank 0 has."""
        if self.size == 1:
            return value
        found = torch.tensor([value], dtype=torch.float64)
        self._talk(dist.broadcast, found, 0)
        return float(found)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the ranks, bit for bit the same on each of them.

        A few large messages instead of one for each tensor; those on their way overlap with the packing of the next.
        """
        if self.size == 1:
            return
        buckets = [*_buckets(tensors)]
        sent = []
        for bucket, flat in zip(buckets, self._room_for(buckets), strict=True):
            torch.cat([tensor.reshape(-1) for tensor in bucket], out=flat)
            sent.append((bucket, flat, self._talk(dist.all_reduce, flat, async_op=True)))
        for bucket, flat, work in sent:
            self._talk(work.wait)
            pieces = flat.split([tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [piece.view_as(each) for piece, each in zip(pieces, bucket, strict=True)])

    def _room_for(self, buckets: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """What the buckets are packed into, made once: a rank that has no memory for it must say so while nothing is
        on its way."""
        sizes = [(sum(tensor.numel() for tensor in bucket), bucket[0].dtype, bucket[0].device) for bucket in buckets]
        if sizes != [(flat.numel(), flat.dtype, flat.device) for flat in self._room]:
            with self.agreed():
                room = [torch.empty(count, dtype=dtype, device=device) for count, dtype, device in sizes]
            self._room = room
        return self._room

    def _sum_or_raise(self, values: list[float], failure: Exception | None) -> list[float]:
        """The sums over ranks; or the failure of the first rank that has one, on all of them."""
        flags = [float(rank == self.rank and failure is not None) for rank in range(self.size)]
        total = torch.tensor([*flags, *values], dtype=torch.float64)
        self._talk(dist.all_reduce, total)
        found = total.tolist()
        failed = [rank for rank in range(self.size) if found[rank]]
        if failed:
            source = failed[0]
            if self.rank == source:
                assert failure is not None
                self._talk(_send, (None, _sendable(failure)))
            else:
                failure = self._talk(_receive, source)[1]
                assert failure is not None
            self.raised = failure
            raise failure
        return found[self.size :]

    def _talk(self, collective: Callable[..., Any], *given: Any, **more: Any) -> Any:
        """Call torch's collective; one that fails has lost a rank."""
        try:
            return collective(*given, **more)
        except RuntimeError as error:
            line = (str(error).splitlines() or [""])[0]
            raise RankLost(f"rank {self.rank} of {self.size} lost another one: {line}") from error


ALONE = Ranks()
"""the one rank of a run in one process"""


def _send(message: tuple[Any, BaseException | None]) -> None:
    # only processes of this run are in the group: what is unpickled at the other end is its own
    dist.broadcast_object_list([message], dist.get_rank(), device=torch.device("cpu"))


def _receive(source: int) -> Any:
    found: list[Any] = [None]
    dist.broadcast_object_list(found, source, device=torch.device("cpu"))
    return found[0]


def _sendable(error: BaseException) -> BaseException:
    """The failure itself where it survives the journey; what ends a process on its own is told, not repeated."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # anything may go wrong in somebody's __reduce__
        copy = None
    if isinstance(error, Exception) and type(copy) is type(error):
        return error
    return RankError(f"another rank ended with {type(error).__name__}: {error}")


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, cut where a bucket is full or the type changes."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size >= BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket
