"""Training many configs again, several at a time, in processes of their own; what is finished is not trained twice."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch

from tune.trial import metrics_of
from ups.config import RunConfig, load_config
from ups.core.runtime import pick_device
from ups.core.types import RunResult, Status
from ups.evaluation.runs import RESULT, load_result
from ups.run import identity

Train = Callable[[RunConfig, Path, Path | str], RunResult]
"""Trains a config into a run folder, going on with what it finds there, with stages from a store; never looks at test
data."""


@dataclass(frozen=True)
class Job:
    """One config, its seed and threads included, and where it is trained."""

    config: RunConfig
    folder: Path
    store: Path | str
    """of finished stages: configs that begin with the same ones, on the same seed, train those once"""


@dataclass(frozen=True)
class Retraining:
    """How one retraining ended."""

    seed: int
    status: Status
    reason: str
    score: float | None
    """validation rollout_nrmse, physical units"""
    seconds: float
    threads: int
    folder: str
    """name below STUDY/confirm"""
    reused: bool
    """found finished from an earlier promotion"""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """what was measured, as in `Outcome.metrics`; inference_ms while the other retrainings ran"""

    @property
    def complete(self) -> bool:
        return self.status is Status.COMPLETE and self.score is not None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "status": str(self.status)}


def retrain(jobs: Sequence[Job], train: Train, workers: int) -> Iterator[tuple[Job, Retraining]]:
    """Every job with how it ended, in the order they finish; those finished before come first.

    Args:
        train: a function of a module (it travels to the worker processes), unless `workers` is 1.
        workers: runs at a time; 1 trains in this process.

    Raises:
        RuntimeError: a worker process died without a word.
    """
    waiting = []
    for job in jobs:
        _clear_other(job)
        if (job.folder / RESULT).is_file():
            yield job, _outcome(job, load_result(job.folder), reused=True)
        else:
            waiting.append(job)
    if workers == 1 or len(waiting) < 2:
        for job in waiting:
            yield job, _outcome(job, train(job.config, job.folder, job.store))
    else:
        yield from _in_processes(waiting, train, min(workers, len(waiting)))


def default_workers(config: RunConfig) -> int:
    """As many runs at a time as the machine has GPUs, or else CPUs for their threads."""
    if pick_device(config.runtime.device).type == "cuda":
        return len(_gpus())
    return max(1, len(os.sched_getaffinity(0)) // (config.runtime.threads or 1))


def _clear_other(job: Job) -> None:
    """Threads may change between two promotions of a study; what was trained on other ones is not this run."""
    recorded = job.folder / "config.yaml"
    if recorded.is_file() and identity(load_config(recorded)) != identity(job.config):
        shutil.rmtree(job.folder)


def _outcome(job: Job, result: RunResult, *, reused: bool = False) -> Retraining:
    return Retraining(
        seed=job.config.runtime.seed,
        status=result.status,
        reason=result.reason,
        score=result.score,
        seconds=result.seconds,
        threads=job.config.runtime.threads or 1,
        folder=job.folder.name,
        reused=reused,
        metrics=metrics_of(result),
    )


def _in_processes(jobs: list[Job], train: Train, workers: int) -> Iterator[tuple[Job, Retraining]]:
    context = multiprocessing.get_context("spawn")  # a forked child of a process with torch threads may hang
    # the workers' end of the pipe ends when ours is closed, whether by us or by our death
    alive, ours = context.Pipe(duplex=False)
    places: SimpleQueue[str | None] = context.SimpleQueue()
    for _, gpu in zip(range(workers), itertools.cycle(_gpus() or [None]), strict=False):
        places.put(gpu)
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(alive, places))
    try:
        futures = {pool.submit(train, job.config, job.folder, job.store): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], _outcome(futures[future], future.result())
        pool.shutdown(wait=True)
    except BrokenProcessPool:
        raise RuntimeError(
            "a process that retrained a config was killed, perhaps for want of memory; "
            "promote again: finished retrainings are kept"
        ) from None
    finally:
        ours.close()  # after Ctrl-C, or an error, nothing goes on unseen
        pool.shutdown(wait=True, cancel_futures=True)
        alive.close()


def _begin(alive: Connection, places: SimpleQueue[str | None]) -> None:
    """In a new worker: one GPU of its own, and no life after the promotion that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent decides
    gpu = places.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_watch, args=(alive,), daemon=True).start()


def _watch(alive: Connection) -> None:
    alive.poll(None)
    os._exit(0)


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES is to be for each GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]
