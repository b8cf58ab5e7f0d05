"""A page of every run at wandb, if that is asked for; whatever goes wrong there is no harm to the run.

wandb is spoken to by a process of its own, `wandb_child.py`: it starts a service, hooks into the end of its process and
may wait for a network for minutes. What is told goes through a queue, so that a run waits for nothing but, at its end
and for a bounded time, for the last of it to be written. At the first failure the process is ended: no more is told.

The key for wandb's server is found by wandb itself, in WANDB_API_KEY or ~/.netrc, and is never read here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from pydantic import Field, field_validator

from ups.core.errors import UserError
from ups.core.schema import Schema
from ups.core.types import Progress, Report, RunResult, Status

START_SECONDS = 60.0
"""how long wandb may take to begin a run, while that trains"""
END_SECONDS = 20.0
"""how long a run waits at its end for wandb; less than a search waits for a trial that it stops"""
_CLOSE_SECONDS = 2.0
_AT_MOST = 100_000
"""so many reports may wait to be taken"""
_CHILD = Path(__file__).with_name("wandb_child.py")


class WandbConfig(Schema):
    """Where the run is shown besides its own folder. Does not change what is learned."""

    mode: Literal["off", "offline", "online"] = "off"
    """offline writes to RUN/wandb, for `wandb sync`; online sends to the server, and needs WANDB_API_KEY"""
    project: str = Field("ups", pattern=r"^[^/\\#?%:]+$", max_length=128)
    entity: str | None = Field(None, min_length=1)
    """user or team that the project belongs to; null is the one of the key"""

    @field_validator("mode", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value


@dataclass(frozen=True)
class Shown:
    """What a run is called at wandb."""

    folder: Path
    """of the run: wandb's files are in its subfolder `wandb`"""
    name: str
    kind: Literal["train", "trial", "promote"]
    content: Mapping[str, Any]
    """its config, as plain data"""
    group: str | None = None
    """the study of a trial"""
    last_words: Path | None = None
    """where whoever kills the run's process leaves how it ended: a JSON object with its status, reason and facts"""


class Tracker:
    """Tells wandb of one run. Begins with the first report, so that a run that is refused has no page."""

    def __init__(self, config: WandbConfig, shown: Shown) -> None:
        self.failure: str | None = None
        """why no more is told, if it came to that"""
        self._config, self._shown = config, shown
        self._process: subprocess.Popen[str] | None = None
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._broken: str | None = None
        self._has_started = False
        self._over = threading.Event()
        self._begun = 0.0

    @property
    def has_begun(self) -> bool:
        return self._process is not None

    def report(self, progress: Progress) -> None:
        if self._begin():
            self._tell({"progress": asdict(progress)})

    def log_file(self, path: Path, name: str, kind: str, facts: Mapping[str, Any]) -> None:
        """Add a file as an artifact of the run."""
        if self._begin():
            self._tell({"artifact": {"path": str(path), "name": name, "kind": kind, "facts": dict(facts)}})

    def end(self, status: Status, reason: str, facts: Mapping[str, Any] | None = None) -> None:
        """Say how the run ended, and wait until that is written, for at most `END_SECONDS`."""
        if not self._begin():
            return
        # a trial that was stopped in time is as much in order as one that came to its end
        in_order = status in (Status.COMPLETE, Status.PRUNED)
        summary = {**(facts or {}), "status": str(status), "reason": reason}
        self._tell({"end": {"summary": summary, "code": 0 if in_order else 1}})
        if self.failure is None and not self._over.wait(END_SECONDS):
            self._broken = f"no answer within {END_SECONDS:g} s at the end of the run"
        self._look()
        self._close()

    def _begin(self) -> bool:
        """Whether there is somebody to tell."""
        if self._config.mode == "off" or self.failure is not None:
            return False
        if self._process is None:
            try:
                self._start()
            except OSError as error:
                self.failure = f"cannot be started ({error.strerror})"
                return False
        return self._look()

    def _start(self) -> None:
        place = self._shown.folder / "wandb"
        place.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "WANDB_SILENT": "true"}
        environment.pop("WANDB_SERVICE", None)  # somebody else's, who may end it
        # else what is logged offline is kept in the home folder until it is sent
        environment.setdefault("WANDB_DATA_DIR", str(place.absolute()))
        self._begun = time.monotonic()
        self._process = subprocess.Popen(
            # -P: modules beside the script must not stand in for those of Python
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run, which then says how it ended
        )
        for task in (self._write, self._read):
            threading.Thread(target=task, args=(self._process,), daemon=True).start()
        config, shown = self._config, self._shown
        self._tell(
            {
                "mode": config.mode,
                "project": config.project,
                "entity": config.entity,
                "id": _identity(place / "id"),
                "dir": str(shown.folder.absolute()),
                "name": shown.name,
                "group": shown.group,
                "job_type": shown.kind,
                "config": dict(shown.content),
                "last_words": None if shown.last_words is None else str(shown.last_words.absolute()),
                "seconds": START_SECONDS - 5,
                "end_seconds": END_SECONDS,
            }
        )

    def _tell(self, message: Mapping[str, Any]) -> None:
        self._lines.put(json.dumps(message))

    def _look(self) -> bool:
        """Whether all is well; where it is not, that is the end of it."""
        if self._broken is None and not self._has_started and time.monotonic() - self._begun > START_SECONDS:
            self._broken = f"no answer within {START_SECONDS:g} s"
        if self._broken is None and self._lines.qsize() > _AT_MOST:
            self._broken = f"{_AT_MOST} reports wait to be taken"
        if self._broken is not None:
            self.failure = self._broken
            self._kill()
        return self.failure is None

    def _write(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended, or was ended here
            while (line := self._lines.get()) is not None:
                process.stdin.write(f"{line}\n")
                process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        said: dict[str, Any] = {}
        for line in process.stdout:
            said = json.loads(line)
            self._has_started = True
            if "done" in said or "failed" in said:
                break
        if "done" not in said:
            self._broken = said.get("failed", "its process ended before the run did")
        self._over.set()

    def _close(self) -> None:
        assert self._process is not None
        self._lines.put(None)
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()

    def _kill(self) -> None:
        """End the process and what it started: a service that hangs would not notice that it is alone."""
        assert self._process is not None
        self._lines.put(None)
        if self._process.poll() is None:
            for child in _children(self._process.pid):
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL)
            self._process.kill()
        self._process.wait()


def check_installed(config: WandbConfig) -> None:
    """
    Raises:
        UserError: wandb is asked for and not there.
    """
    if config.mode == "off":
        return
    found = importlib.util.find_spec("wandb")
    if found is None or found.origin is None:  # a folder that wandb left here is no package of it
        raise UserError(
            f"logging.wandb.mode: {config.mode} needs the package wandb, which is not installed; "
            "pip install 'universal-physics-stack[wandb]', or set it to off"
        )


def follow(tracker: Tracker, train: Callable[[Report], RunResult], report: Report) -> RunResult:
    """What `train` gives, which reports to `report` and to wandb; what it raises ends the page, too."""

    def both(progress: Progress) -> None:
        report(progress)
        tracker.report(progress)

    try:
        result = train(both)
    except BaseException as error:
        if tracker.has_begun:
            is_failure = isinstance(error, Exception)
            tracker.end(Status.FAILED if is_failure else Status.INTERRUPTED, f"{type(error).__name__}: {error}")
        raise
    tracker.end(result.status, result.reason, facts_of(result))
    return result


def facts_of(result: RunResult) -> dict[str, Any]:
    """What the page of a run says of how it ended, besides its status."""
    return {
        "score": result.score,
        "seconds": result.seconds,
        "parameters": result.parameters,
        "reused_stages": list(result.reused_stages),
        "peak_memory_gib": result.peak_memory_gib,
        "inference_ms": result.inference_ms,
    }


def _identity(path: Path) -> str:
    """What the run is called by wandb's server: a run that is resumed goes on with its page."""
    if not path.is_file():
        path.write_text(uuid.uuid4().hex[:12])
    return path.read_text().strip()


def _children(process: int) -> Iterator[int]:
    """Where the kernel says; elsewhere a service is left to notice the end of its process."""
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, path.read_text().split())
