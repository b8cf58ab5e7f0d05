"""Real processes that train one run together over gloo, started once and used by many tests."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ups.core.ranks import ALONE, Ranks

SPAWN = multiprocessing.get_context("spawn")
PATIENCE_SECONDS = 300.0
"""after which a rank that does not answer hangs; they wait for one that is being started, too"""

HANGS = "hangs"

Work = Callable[..., Any]
"""called as work(ranks, *arguments) on every rank; a function of a module"""


class Crew:
    """A pool of processes; `run` gives what each rank returned, or the exception that it ended with."""

    def __init__(self) -> None:
        self._members: list[tuple[Any, Connection]] = []

    def run(self, size: int, work: Work, *arguments: Any) -> list[Any]:
        if size == 1:
            return [work(ALONE, *arguments)]
        self._members = [member for member in self._members if member[0].is_alive()]
        while len(self._members) < size:
            self._members.append(_start())
        with tempfile.TemporaryDirectory() as folder:
            for rank, (_, pipe) in enumerate(self._members[:size]):
                pipe.send((f"{folder}/meet", rank, size, work, arguments))
            answers = [_answer(*member) for member in self._members[:size]]
        if HANGS in answers:
            self.close()
            raise AssertionError(f"a rank hangs: {answers}")
        return answers

    def pid(self, rank: int) -> int:
        return self._members[rank][0].pid

    def close(self) -> None:
        for process, _ in self._members:
            process.kill()
            process.join()
        self._members = []


def equal(values: Sequence[Any]) -> Any:
    """The one value that all ranks came to."""
    assert all(value == values[0] for value in values), values
    return values[0]


def _start() -> tuple[Any, Connection]:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _answer(process: Any, pipe: Connection) -> Any:
    try:
        return pipe.recv() if pipe.poll(PATIENCE_SECONDS) else HANGS
    except EOFError:
        # it has closed its end, and is not quite dead: who asks for a crew next must not be given it
        process.join()
        return f"exit {process.exitcode}"


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        meet, rank, size, work, arguments = pipe.recv()
        dist.init_process_group(
            "gloo", init_method=f"file://{Path(meet)}", rank=rank, world_size=size, timeout=timedelta(seconds=200)
        )
        try:
            answer = work(Ranks.of_process_group(), *arguments)
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = error
        # what a process leaves behind that ends is what its peers see of a failure
        dist.destroy_process_group()
        try:
            pipe.send(answer)
        except Exception:
            pipe.send(RuntimeError(repr(answer)))
