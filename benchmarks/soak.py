"""A search that goes on and on: what its memory, its open files and its disk come to in a day.

    python benchmarks/soak.py                 # 20 minutes on two cores, as many trials as possible
    python benchmarks/soak.py --steps 1600 --seconds 1800    # trials that train for longer: a section of its own
    python benchmarks/soak.py --report-only   # the section of RESULTS.md again, from the JSON

`ups search` as a user starts it, with real training in short trials, so that as many as possible begin and end, and
with room for few checkpoints, so that they have to go. What all its processes hold is looked at from outside every few
seconds; the slope over the second half of the time is taken for that of a day, since the processes of trials grow until
each has had some 150 of them. Memory is the proportional set size: pages that several processes share count once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import common
import psutil
import yaml
from common import table
from fault_study import Search, base_config, make_data
from pairs import Data
from scipy.stats import theilslopes
from script import Script, parser, settle

from tune.sizes import parse_size, shown_size
from tune.study import load_study
from ups.core.errors import UserError

NAME = "soak"
DAY_SECONDS = 24 * 3600.0
STEPS = 160
"""of a trial"""
DISK = "5MB"
"""for the store, and for the checkpoints of ended trials: of a few dozen trials"""
MEMORY_AIM, FILES_AIM = 2**30, 100.0
"""bytes and open files by which a day may make the search grow, to be called flat"""
MINUTES_DAY = 2 * 24 * 60
"""trials of a minute each that two workers do in a day"""
SLACK = 2.0
"""a bound is looked after now and then, and may be exceeded by this factor between"""


class Soaked(Search):
    """A search without an end in sight; of the small study it has the data and the processes."""

    def __init__(self, folder: Path, data: Path, steps: int) -> None:
        super().__init__(folder, data, trials=10**6, steps=steps)
        space = {
            "base": "base.yaml",
            "space": {
                "stages.operator.optimizer.lr": {"float": [1e-4, 1e-1], "log": True},
                "latent.tokens": {"choice": [8, 16]},
            },
            "strategy": {"milestones": {"operator": [0.25, 0.5, 1.0]}},
            "resources": {"disk": DISK},
        }
        # what the small study writes down of every step is not what a search does
        base = {name: value for name, value in base_config(data, steps).items() if name != "logging"}
        (folder / "base.yaml").write_text(yaml.safe_dump(base))
        (folder / "space.yaml").write_text(yaml.safe_dump(space))


def measure(args: argparse.Namespace, work: Path) -> Data:
    """
    Raises:
        RuntimeError: the search ended before its time.
    """
    work.mkdir(parents=True, exist_ok=True)
    data = work / "burgers.h5"
    if not data.exists():
        make_data(data)
    with tempfile.TemporaryDirectory(prefix="soak", dir=work) as folder:
        search = Soaked(Path(folder), data.absolute(), args.steps)
        with contextlib.closing(search):
            search.start()
            samples = list(_watch(search, args.seconds, args.every))
            search.process.terminate()
            code = search.wait()
        states = Counter(str(record.state) for record in load_study(search.study).trials)
    protocol = {"seconds": args.seconds, "every": args.every, "steps": args.steps, "disk": parse_size(DISK)}
    protocol["nice"] = os.nice(0)
    return collect(protocol, samples, code, states, common.machine(len(common.cores())))


def _watch(search: Soaked, seconds: float, every: float) -> Iterator[Data]:
    search.until("a trial that ended", lambda: search.ended() or None)
    begin, due = time.monotonic(), 0.0
    while (now := time.monotonic() - begin) < seconds:
        if search.process.poll() is not None:
            raise RuntimeError(f"the search ended after {now:.0f} s: {search.said()[-2000:]}")
        if now >= due:
            yield {"seconds": now, **look(search)}
            due += every
        time.sleep(0.2)


def look(search: Search) -> Data:
    """What the processes of a search hold at the moment, in bytes and numbers."""
    files, memory = 0, {"driver": 0, "trials' processes": 0, "Ray": 0}
    for process in search.processes():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            held, name = process.memory_full_info().pss, "".join(process.cmdline()[:1])
            files += process.num_fds()
            is_driver = process.pid == search.process.pid
            memory["driver" if is_driver else "trials' processes" if name.startswith("ray::Impl") else "Ray"] += held
    study = search.study
    kept = sum(_size(folder / "checkpoints") for folder in (study / "runs").glob("[0-9]*"))
    store = _size(study / "store")
    return {
        "trials": len(search.ended()),
        "memory": sum(memory.values()),
        **memory,
        "files": files,
        "checkpoints": kept,
        "store": store,
        "records": _size(study) - kept - store,
        "logs": sum(_size(folder) for folder in _ray_folders(search)),
    }


def _ray_folders(search: Search) -> Iterator[Path]:
    """Where the Ray of a search keeps its sockets and logs."""
    names = {
        word
        for process in search.processes()
        for word in _words(process)
        if "/ups-ray-" in word and word.partition("=")[0] in ("--temp-dir", "--temp_dir")
    }
    return (Path(folder) for folder in {name.partition("=")[2] for name in names})


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _size(folder: Path) -> int:
    """Bytes on the disk."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
    return total


def collect(protocol: Data, samples: Sequence[Data], code: int, states: Data, machine: Data) -> Data:
    """Everything that was measured as one JSON-able record."""
    late = [each for each in samples if each["seconds"] >= protocol["seconds"] / 2]
    if len(late) < 3:
        raise UserError("--seconds: too short, there is nothing to extrapolate")
    days = {name: slope(late, name) * DAY_SECONDS for name in samples[0] if name != "seconds"}
    peaks = {name: max(each[name] for each in late) for name in ("checkpoints", "store")}
    return {
        "benchmark": NAME,
        "protocol": protocol,
        "machine": machine,
        "samples": list(samples),
        "code": code,
        "states": states,
        "a_day": days,
        "first": late[0],
        "last": late[-1],
        "peaks": peaks,
        "flat": days["memory"] <= MEMORY_AIM and days["files"] <= FILES_AIM,
        "bounded": all(peak <= SLACK * protocol["disk"] for peak in peaks.values()),
        "commit": common.commit(),
        "date": common.today(),
    }


def slope(samples: Sequence[Data], name: str) -> float:
    """A second's growth: the median of the slopes between all pairs (P. K. Sen, J. Am. Stat. Assoc. 63 (1968) 1379)."""
    return float(theilslopes([each[name] for each in samples], [each["seconds"] for each in samples])[0])


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p, first, last, day = (data[name] for name in ("protocol", "first", "last", "a_day"))
    words = {
        "memory": "memory of all processes",
        "driver": "of these the driver",
        "trials' processes": "the processes of trials",
        "Ray": "Ray's own processes",
        "checkpoints": "checkpoints in run folders",
        "store": "store",
        "records": "journal, curves, configs, results",
        "logs": "logs of Ray",
    }
    rows = [[text, *(_signed(each[name]) for each in (first, last, day))] for name, text in words.items()]
    rows.insert(4, ["open files", *(f"{each['files']:.0f}" for each in (first, last)), f"{day['files']:+.0f}"])
    trials = sum(data["states"].values())
    states = ", ".join(f"{count} {state}" for state, count in sorted(data["states"].items()))
    driver, records = (day[name] / max(day["trials"], 1.0) for name in ("driver", "records"))
    remembered, others = MINUTES_DAY * driver, day["memory"] - day["driver"]
    beside = f", with the cores that other work left it (nice {p['nice']})" if p.get("nice") else ""
    parts = [
        f"## A search that goes on, trials of {p['steps']} steps",
        f"`ups search` of a small model for {p['seconds'] / 60:.0f} minutes, two trials of at most {p['steps']} steps "
        f"at a time: {trials} trials ({states}), ended by SIGTERM with exit code {data['code']}. `resources.disk` is "
        f"{shown_size(p['disk'])}. Looked at every {p['every']:g} s; the first half is left out; the growth of a "
        f"day is the median slope, at {day['trials']:,.0f} trials a day.",
        table(["", "after a half", "at the end", "growth in a day"], rows),
        f"Memory and open files are {'flat' if data['flat'] else '**not flat**'} at this rate (aim: a day adds at "
        f"most {shown_size(MEMORY_AIM)} and {FILES_AIM:.0f} files). The driver takes {_signed(driver)} for "
        f"each trial, which the study remembers; {MINUTES_DAY:,} trials of a minute, a day of two workers, would add "
        f"{_signed(remembered)}, and everything else {_signed(others)}: "
        f"{'flat' if remembered + others <= MEMORY_AIM else '**not flat**'}.",
        "The disk of checkpoints and store is "
        f"{'bounded' if data['bounded'] else '**not bounded**'}: at most {shown_size(data['peaks']['checkpoints'])} "
        f"and {shown_size(data['peaks']['store'])} between two collections. What is written down of a trial takes "
        f"{shown_size(round(records))} and stays.",
        f"Measured on {common.machine_words(data['machine'], [data])}{beside}.",
    ]
    return "\n\n".join(parts)


def _signed(size: float) -> str:
    return f"{'−' if size < 0 else ''}{shown_size(round(abs(size)))}"


def _no_work(request: Data, folder: Path) -> Data:
    raise AssertionError("this script has no jobs: the search needs all cores")


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME, seeds=False)
    made.add_argument("--steps", type=int, default=STEPS, help=f"of a trial at most [{STEPS}]")
    made.add_argument("--seconds", type=float, help="of the search, from its first ended trial [1200]")
    made.add_argument("--every", type=float, help="seconds between two looks [5]")
    return settle(made.parse_args(words), seconds=(20.0, 1200.0), every=(1.0, 5.0))


def main() -> None:
    args = _arguments()
    name = NAME if args.steps == STEPS else f"{NAME}_{args.steps}"
    Script(name, measure, _no_work, render).run(args)


if __name__ == "__main__":
    sys.exit(common.exit_code(main))
