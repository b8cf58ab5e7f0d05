"""The faults: each finds a search that runs, harms it, and leaves it running again.

Nothing here waits for a time to pass where it can wait for what it needs: a fault comes when the trial that it hits is
in the midst of its training, which its files tell.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from fault_study import INTERVAL, LRS, PATIENCE_SECONDS, STEPS, Search
from raylets import Raylets

from tune.trial import run_folder
from ups.core.artifacts import ArtifactStore
from ups.evaluation.runs import load_result

FAKETIME = "faketime/libfaketimeMT.so.1"
SMALL_BYTES = 4096
"""a file may not grow beyond this on a disk that counts as full: what is there can be written over, as on a real one"""
NODES_IN_A_ROW = 3
"""so many deaths of its own process would be the end of a trial"""
HOUR_SECONDS = 3600
"""how far a clock is set back"""


@dataclass(frozen=True)
class Hit:
    """What a fault did."""

    trials: tuple[int, ...]
    """that it harmed"""
    seconds: float
    """until all of them were trained on: since the fault, or since it was over or somebody said `--resume`"""
    note: str = ""


@dataclass(frozen=True)
class Case:
    name: str
    words: str
    """of the row in the table"""
    strike: Callable[[Search], Hit]
    workers: int = 1
    trials: int = 3
    """of the study; more than `LRS` has are needed where a trial is to reuse what another one trained"""
    steps: int = STEPS
    """of a trial"""
    on_cluster: bool = False
    """of a head without CPUs and a node with one; else a Ray of the search alone"""
    has_clock: bool = False
    """whether the search has a clock that can be set"""
    losses: int = 1
    """how often each trial that is hit loses what it has trained since its last checkpoint"""

    @property
    def bound(self) -> int:
        """Steps that each trial that is hit may have to train again."""
        return self.losses * INTERVAL

    @contextlib.contextmanager
    def search(self, folder: Path, data: Path) -> Iterator[Search]:
        """The study that the fault is made for, ready to be started; whatever is left of it is ended."""
        environment = clock_environment(folder) if self.has_clock else {}
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(contextlib.closing(Raylets(head_cpus=0))) if self.on_cluster else None
            if cluster is not None:
                cluster.add(num_cpus=1)
            size = {"trials": self.trials, "steps": self.steps, "workers": self.workers}
            yield stack.enter_context(
                contextlib.closing(Search(folder, data, cluster=cluster, environment=environment, **size))
            )


def kill_trial_worker(search: Search) -> Hit:
    number = search.amid()
    pid = search.pid_of(number)
    os.kill(pid, signal.SIGKILL)
    return _trained_on(search, [number], dead={pid})


def kill_rank(search: Search) -> Hit:
    """The first rank, which has the lease and writes the checkpoints."""
    number = search.amid()
    folder = str(run_folder(search.study, number).absolute())
    holders = ArtifactStore(search.study / "store").leases.held()
    pid = next(holder.pid for holder in holders if holder.folder is not None and holder.folder.startswith(folder))
    assert pid != search.pid_of(number), "ranks are processes of their own"
    os.kill(pid, signal.SIGKILL)
    return _trained_on(search, [number])


def kill_raylet(search: Search) -> Hit:
    return _lose_node(search, signal.SIGKILL)


def kill_three_raylets(search: Search) -> Hit:
    """Each as soon as the trial is a checkpoint further on the node that came for the one before."""
    hits = [_lose_node(search, signal.SIGKILL)]
    while len(hits) < NODES_IN_A_ROW:
        _train_an_interval(search, *hits[0].trials)
        hits.append(_lose_node(search, signal.SIGKILL))
    return Hit(hits[0].trials, max(hit.seconds for hit in hits))


def reclaim_raylet(search: Search) -> Hit:
    """What a node is told before it is taken away."""
    return _lose_node(search, signal.SIGTERM)


def kill_driver(search: Search) -> Hit:
    search.amid()
    search.process.send_signal(signal.SIGKILL)
    return _resumed(search)


def reclaim_driver(search: Search) -> Hit:
    """What a machine that is taken away says to the search."""
    search.amid()
    begin = time.monotonic()
    search.process.send_signal(signal.SIGTERM)
    code = search.wait()
    stopped = time.monotonic() - begin
    if code != 130:
        raise RuntimeError(f"{search.folder}: SIGTERM gave exit code {code}: {search.said()[-2000:]}")
    return _resumed(search, f"stopped in {stopped:.1f} s")


def fill_disk(search: Search, seconds: float = 3.0) -> Hit:
    """No file of the driver and of its trials can grow, for some seconds."""
    search.amid()
    numbers = [number for number, _ in search.training()]
    return _refuse(search, numbers, [search.process.pid, *map(search.pid_of, numbers)], seconds)


def refuse_writes(search: Search, seconds: float = 30.0) -> Hit:
    """What a trial writes, its checkpoints among it, is refused."""
    number = search.amid()
    return _refuse(search, [number], [search.pid_of(number)], seconds)


def truncate_checkpoint(search: Search) -> Hit:
    """Half of the checkpoint that a killed trial would go on from; beside it lies its copy."""
    number = search.amid()
    _kill(search)
    path = run_folder(search.study, number) / "checkpoints" / "operator" / "last.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    return _resumed(search)


def corrupt_artifact(search: Search) -> Hit:
    """A finished stage is not what was published; the trial that would have reused it has not begun."""
    folder, heir = search.until("a finished stage", lambda: _unused_stage(search))
    weights = folder / "best.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0xFF
    weights.write_bytes(content)
    search.until("the trial that needs it", run_folder(search.study, heir).exists)
    begin = time.monotonic()
    # it goes on from the checkpoints of the one that made the stage, and need not train
    search.until("the end of the trial that needs it", lambda: heir in search.ended())
    return Hit((heir,), time.monotonic() - begin)


def set_clock_back(search: Search) -> Hit:
    """By an hour, for the driver, its workers and its Ray."""
    number = search.amid()
    (search.folder / "clock").write_text(f"-{HOUR_SECONDS}\n")
    return _trained_on(search, [number])


def join_late(search: Search) -> Hit:
    """A search that runs on one node is given another one."""
    search.amid()
    raylet = _cluster(search).add(num_cpus=1)
    begin = time.monotonic()
    number = search.until("a trial on the new node", lambda: _trial_on(search, raylet))
    return Hit((number,), time.monotonic() - begin)


_ON_A_NODE: dict[str, Any] = {"on_cluster": True, "trials": 1, "steps": 2 * STEPS}
CASES = (
    Case("kill_trial_worker", "`kill -9` of a trial's worker", kill_trial_worker),
    Case("kill_rank", "`kill -9` of one DDP rank of two", kill_rank, workers=2, trials=1),
    Case("kill_raylet", "`kill -9` of a raylet with a running trial", kill_raylet, **_ON_A_NODE),
    Case(
        "kill_three_raylets",
        f"`kill -9` of {NODES_IN_A_ROW} raylets in a row under one trial, an interval each",
        kill_three_raylets,
        losses=NODES_IN_A_ROW,
        **_ON_A_NODE,
    ),
    Case("reclaim_raylet", "SIGTERM to a raylet with a running trial", reclaim_raylet, **_ON_A_NODE),
    Case("join_late", "a node that joins late", join_late, steps=4 * STEPS, on_cluster=True),
    Case("kill_driver", "`kill -9` of the driver, then `--resume`", kill_driver),
    Case("reclaim_driver", "SIGTERM to the driver (spot reclaim), then `--resume`", reclaim_driver),
    Case("fill_disk", "disk full for 3 s", fill_disk),
    Case("refuse_writes", "storage refuses the writes of a trial for 30 s", refuse_writes),
    Case("truncate_checkpoint", "driver killed and its trial's last checkpoint truncated", truncate_checkpoint),
    Case("corrupt_artifact", "a corrupt artifact", corrupt_artifact, trials=len(LRS) + 1),
    Case("set_clock_back", "the clock goes back by an hour", set_clock_back, has_clock=True),
)


def clock_environment(folder: Path) -> Mapping[str, str]:
    """Of a search whose clock is what `clock` in the folder says it is ahead, in seconds.

    Raises:
        RuntimeError: libfaketime is not installed.
    """
    found = [path for root in ("/usr/lib", "/usr/local/lib") for path in Path(root).glob(f"**/{FAKETIME}")]
    if not found:
        raise RuntimeError("libfaketime is missing; `apt-get install faketime` has it")
    folder = folder.absolute()  # the search runs elsewhere
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clock").write_text("+0\n")
    (folder / "sitecustomize.py").write_text(_SLEEP)
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
        "FAKETIME_NO_CACHE": "1",
        # a clock that is set is the one that people read: the one that counts from the start of the machine is not
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
    }


_SLEEP = """\
# with a clock of its own that counts on, libfaketime 0.9.10 refuses clock_nanosleep, which Python sleeps with
import select
import time

time.sleep = lambda seconds: (select.select([], [], [], seconds), None)[1]
"""


def _cluster(search: Search) -> Raylets:
    assert search.cluster is not None, "a case of a cluster"
    return search.cluster


def _trained_on(search: Search, numbers: Sequence[int], note: str = "", dead: Collection[int] = ()) -> Hit:
    """Wait until all of the trials have trained a step more, or have ended: one may have been hit after its last step.

    Args:
        dead: processes that do not count: they may outlive whoever ended them for a moment.
    """
    begin, before = time.monotonic(), dict[int, int]()

    def has(number: int) -> bool:
        if number not in before and search.pid_of(number) not in {0, *dead}:
            before[number] = len(search.steps(number))
        trained = number in before and len(search.steps(number)) > before[number]
        return trained or number in search.ended()

    # every one is looked at each time
    search.until("training after the fault", lambda: not [number for number in numbers if not has(number)])
    return Hit(tuple(numbers), time.monotonic() - begin, note)


def _kill(search: Search) -> None:
    """The driver, and wait for the end of the trials that it leaves behind; Ray's agents look for it for a minute."""
    search.process.send_signal(signal.SIGKILL)
    search.wait()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := [process for process in search.processes() if _trains(process)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{search.folder}: {left} outlive their driver")
        time.sleep(0.1)


def _trains(process: psutil.Process) -> bool:
    """Whether it is one of a trial, which may still write."""
    try:
        return process.name().startswith("ray::Impl")
    except psutil.NoSuchProcess:
        return False


def _resumed(search: Search, note: str = "") -> Hit:
    """Go on with a search whose process has ended, or is about to."""
    search.wait()
    numbers = [number for number, _ in search.training()]
    dead = set(map(search.pid_of, numbers))
    search.start()
    return _trained_on(search, numbers, note, dead)


def _lose_node(search: Search, by: signal.Signals) -> Hit:
    """The only node goes, and another one comes."""
    number = search.amid()
    worker = search.pid_of(number)
    _cluster(search).signal(by)
    _cluster(search).add(num_cpus=1)
    return _trained_on(search, [number], dead={worker})


def _train_an_interval(search: Search, number: int) -> None:
    """Wait until a trial has come further by the steps between two checkpoints."""
    reached = max(search.steps(number))
    search.until("the next checkpoint", lambda: max(search.steps(number)) >= reached + INTERVAL)


def _raylet_of(worker: int) -> int:
    """The process of the node that a worker belongs to, which need not be its parent."""
    return int(psutil.Process(worker).environ()["RAY_RAYLET_PID"])


def _trial_on(search: Search, raylet: int) -> int | None:
    """A trial that is trained on a node."""
    for number, _ in search.training():
        with contextlib.suppress(psutil.NoSuchProcess):
            if _raylet_of(search.pid_of(number)) == raylet:
                return number
    return None


def _refuse(search: Search, numbers: Sequence[int], pids: Sequence[int], seconds: float) -> Hit:
    processes = [psutil.Process(pid) for pid in pids]
    for process in processes:
        process.rlimit(resource.RLIMIT_FSIZE, (SMALL_BYTES, resource.RLIM_INFINITY))
    time.sleep(seconds)
    for process in processes:
        if process.is_running():
            process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return _trained_on(search, numbers)


def _unused_stage(search: Search) -> tuple[Path, int] | None:
    """A finished stage, and the trial that will reuse it: the last of these, which has long to go until it begins."""
    store = ArtifactStore(search.study / "store")
    for number in sorted(search.ended(), reverse=True):
        heir = number + len(LRS)
        if heir < search.trials and not run_folder(search.study, heir).exists():
            found = store.find(load_result(run_folder(search.study, number)).stage_keys["operator"])
            if found is not None:
                return found, heir
    return None
