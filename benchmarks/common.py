"""What the benchmark scripts share: jobs pinned to one core each, numbers for people, the sections of RESULTS.md."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from ups.core.errors import UserError
from ups.core.runtime import write_atomic

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
STARVED = 0.95
"""share of a core below which a job had to share it with somebody: its wall time says little"""

_HEADER = """# Results

Side-by-side measurements, written by the scripts in this folder; every number is also in `results/*.json`.
Every section says how it was measured. A section is replaced when its script runs again.
"""
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_DONE = "done.json"
_REQUEST = "request.json"


@dataclass(frozen=True)
class Job:
    """Something to be measured in a process of its own; `folder` keeps the answer, so that it is not repeated."""

    name: str
    folder: Path
    request: Mapping[str, Any]
    """JSON-able, and everything that the answer depends on: an answer to another request is not taken"""

    def result(self) -> dict[str, Any] | None:
        """The answer, if there is one to this very request."""
        try:
            done = json.loads((self.folder / _DONE).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return done["result"] if done["request"] == json.loads(json.dumps(self.request)) else None

    def answer(self) -> dict[str, Any]:
        """The answer, of a job that `run_jobs` has run."""
        found = self.result()
        assert found is not None, self.name
        return found


def run_jobs(script: Path, jobs: Sequence[Job], lanes: int) -> None:
    """Answer all jobs, `lanes` at a time, each on one core by `script --job FOLDER` (see `answer`).

    Raises:
        RuntimeError: a job failed; the others were finished before.
    """
    waiting = deque(job for job in jobs if job.result() is None)
    total, begun, failed, children = len(waiting), 0, list[str](), list[subprocess.Popen[bytes]]()
    stop, lock = threading.Event(), threading.Lock()
    if len(jobs) > total:
        say(f"{len(jobs) - total} of {len(jobs)} jobs were finished before")

    def lane(core: int) -> None:
        nonlocal begun
        # of this thread alone; the processes that it starts inherit it
        os.sched_setaffinity(0, {core})
        while not stop.is_set():
            with lock:
                if not waiting:
                    return
                job = waiting.popleft()
                begun += 1
                say(f"[{begun}/{total}] {job.name} on core {core}")
                child = _start(script, job)
                children.append(child)
            code = child.wait()
            if code and not stop.is_set():
                failed.append(f"{job.name} (exit {code}, see {job.folder / 'log.txt'})")
                say(f"failed: {failed[-1]}")

    with ThreadPoolExecutor(lanes) as pool:
        futures = [pool.submit(lane, core) for core in cores()[:lanes]]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            for child in children:
                child.terminate()
            raise
    if failed:
        raise RuntimeError("; ".join(failed))


def answer(folder: Path, work: Callable[[dict[str, Any], Path], dict[str, Any]]) -> None:
    """What a job's process does: read the request in `folder`, work, write the answer beside it."""
    assert len(os.sched_getaffinity(0)) == 1, "a job is pinned by the lane that starts it"
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    request = json.loads((folder / _REQUEST).read_text())
    result = {**work(request, folder), "commit": commit(), "date": today()}
    write_json(folder / _DONE, {"request": request, "result": result})


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def machine(lanes: int) -> dict[str, Any]:
    """The hardware and software that a wall time depends on."""
    siblings = set()
    for core in cores():
        path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        siblings.add(path.read_text().strip() if path.is_file() else str(core))
    return {
        "cpu": _cpu_model(),
        "cores": len(cores()),
        "physical_cores": len(siblings),
        "jobs_at_a_time": lanes,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def machine_words(facts: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> str:
    """The line under every table that says where, when and with which commits the answers of its jobs were found."""
    dates, commits = (sorted({str(each[key]) for each in answers}) for key in ("date", "commit"))
    return (
        f"{facts['cpu']}, {facts['cores']} cores ({facts['physical_cores']} physical), one core a job, "
        f"{facts['jobs_at_a_time']} jobs at a time, torch {facts['torch']}, Python {facts['python']}, "
        f"{', '.join(dates)}, commit {', '.join(commits)}"
    )


def starved_note(shares: Sequence[float]) -> list[str]:
    """What to say of runs that did not have their core for themselves: nothing, or one line."""
    starved = sum(share < STARVED for share in shares)
    if not starved:
        return []
    return [
        f"Note: {starved} of {len(shares)} runs had less than {STARVED:.0%} of their core (the least "
        f"{min(shares):.0%}): something else ran on this machine, so that their wall time is not all theirs."
    ]


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def commit() -> str:
    """Short hash of the checkout, marked when it holds changes."""
    found = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"], capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


def finite(value: float | None) -> float | None:
    """For JSON: what is not finite becomes null."""
    return value if value is not None and math.isfinite(value) else None


def write_json(path: Path, data: Any) -> None:
    write_atomic(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def number(value: float | None) -> str:
    """Three significant digits; a dash for what was not measured."""
    if value is None:
        return "–"
    return f"{value:.3g}" if math.isfinite(value) else "diverges"


def spread(values: Sequence[float | None]) -> str:
    """`mean ± std` (n - 1) over seeds; a dash for none, the number alone for one."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or not all(map(math.isfinite, known)):
        return number(fmean(known) if known else None)
    return f"{number(fmean(known))} ± {stdev(known):.2g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column to the left, numbers to the right."""
    assert all(len(row) == len(header) for row in rows), [len(row) for row in rows]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def update_section(path: Path, name: str, body: str) -> None:
    """Put `body` between the markers of section `name`; a section that is not there yet comes last.

    Raises:
        UserError: the begin marker stands without its end.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    text = path.read_text() if path.is_file() else _HEADER
    section = f"{begin}\n{body.strip()}\n{end}"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{section}\n"
    else:
        before, _, rest = text.partition(begin)
        if end not in rest:
            raise UserError(f"{path}: '{begin}' stands there without '{end}'")
        text = before + section + rest.partition(end)[2]
    write_atomic(path, text.encode())


def say(line: str) -> None:
    print(f"{datetime.now().strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def exit_code(main: Callable[[], None]) -> int:
    """Run a script's main: a user's mistake is one line and 2, a job that failed one line and 1."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is not finished", file=sys.stderr)
        return 130
    return 0


def _start(script: Path, job: Job) -> subprocess.Popen[bytes]:
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / _DONE).unlink(missing_ok=True)
    write_json(job.folder / _REQUEST, job.request)
    with open(job.folder / "log.txt", "wb") as log:
        return subprocess.Popen(
            [sys.executable, str(script), "--job", str(job.folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | dict.fromkeys(_ONE_THREAD, "1"),
        )


def _die_with_parent() -> None:
    """The pipe from the parent ends with it; a job that went on unseen would disturb the next measurement."""
    os.read(0, 1)  # not sys.stdin, whose lock would be held when the interpreter ends
    os._exit(1)


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
