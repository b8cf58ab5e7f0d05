"""The factorial table of real learning curves that `search_cost.py` replays: every combination of a small space,
trained stage by stage, with what every validation scored and every second of it cost.

    python benchmarks/stage_table.py                     # benchmarks/stage_table_space.yaml, seeds 0 and 1
    python benchmarks/stage_table.py --report-only       # the JSON again, from what the work folder holds

A node is a prefix of a config: one of 24 operators, of 6 diffusions below each, of 2 students below each of those, of
12 searches at test time below each of those. Each is trained once, below the node above it, by the project's own
pipeline in one process with one thread. Costs are CPU seconds, which a busy machine does not change much. A node is a
line of `SEED.jsonl` as soon as it is finished; started again, the script goes on after the last one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import torch
from common import finite
from pairs import Data
from stage_grid import GROUPS, OUT, STAGES, Grid, read_lines, write_table

from ups.config import RunConfig, load_config
from ups.core.artifacts import ArtifactStore
from ups.core.types import Progress, Status
from ups.data.task import Trajectories, load_task
from ups.evaluation.evaluate import score
from ups.inference import reward_fit
from ups.inference.reward_fit import NoReward, fit_search
from ups.inference.search import Search
from ups.inference.surrogate import Surrogate
from ups.run import build_run_surrogate
from ups.training.keys import stage_keys
from ups.training.loop import Stage
from ups.training.pipeline import Pipeline
from ups.training.stage_order import DEPLOYED_AS


def record(seed: int, grid: Grid, folder: Path) -> None:
    """Train what `SEED.jsonl` in `folder` does not have yet."""
    recorder = Recorder(seed, grid, folder)
    dead: list[tuple[int, ...]] = []
    for operator in grid.prefixes(1):
        for path in [operator, *(path for depth in (2, 3) for path in grid.prefixes(depth) if path[:1] == operator)]:
            if any(path[: len(end)] == end for end in dead):
                continue
            if recorder.train(path)["status"] != Status.COMPLETE:
                dead.append(path)
            elif len(path) == len(STAGES):
                recorder.search(path)
        common.say(f"seed {seed}, operator {operator[0] + 1} of {len(grid.levels['operator'])}")


class Recorder:
    """Trains the nodes of one seed; every one of them is a line of the file."""

    def __init__(self, seed: int, grid: Grid, folder: Path) -> None:
        self.grid, self.folder = grid, folder
        self.base = load_config(grid.base, {"runtime.seed": seed, "ttc.enabled": False})
        self.task = load_task(self.base.task)
        self.store = TimedStore(folder / f"store_{seed}")
        self.file = folder / f"{seed}.jsonl"
        self.done: dict[tuple[int, ...], Data] = {tuple(each["path"]): each for each in read_lines(self.file)}
        self.searched: dict[tuple[Any, ...], Data] = {
            (*each["deployed"], each["path"][-1]): each for each in self.done.values() if "deployed" in each
        }
        reward_fit._tolerances = _READ
        self._warm_up()
        self.tolerances = Tolerances()
        reward_fit._tolerances = self.tolerances

    def train(self, path: tuple[int, ...]) -> Data:
        """The node of the last stage on `path`; those above it are in the store."""
        if path not in self.done:
            pipeline, note = self._run(path)
            name = STAGES[len(path) - 1]
            summary, pairs = pipeline.summaries[name], note.pairs
            assert not summary.reused, path
            self._write(path, {
                "status": str(summary.status),
                "reason": summary.note,
                "shares": [each.share for each in note.progress],
                "scores": [finite(float(each.score)) for each in note.progress if each.score is not None],
                "stage_scores": [finite(each.detail.get("stage_score", each.score)) for each in note.progress],
                "cpu": [round(each - note.trained_from, 4) for each in note.cpu],
                "cpu_total": round(note.end - note.begin - pairs, 4),
                "cpu_prepared": round(note.trained_from - note.begin - pairs, 4),
                "cpu_pairs": round(pairs, 4),
                "seconds": round(summary.seconds, 4),
                "parameters": summary.parameters,
                "peak_memory_gib": round(summary.peak_memory_gib, 4),
                "best": finite(pipeline.score),
            })  # fmt: skip
        return self.done[path]

    def search(self, above: tuple[int, ...]) -> None:
        """Every search at test time below a student."""
        paths = [(*above, position) for position in range(len(self.grid.levels["inference"]))]
        if all(path in self.done for path in paths):
            return
        pipeline, _ = self._run(above)
        plain = pipeline.deploy()
        # what is deployed does not depend on stages that did not help: equal predictors are searched once
        stage = next((name for name, each in DEPLOYED_AS.items() if each == plain.correction), "operator")
        deployed = above[: STAGES.index(stage) + 1]
        fitted: dict[tuple[Any, ...], tuple[Search | None, float, str]] = {}
        for path in paths:
            if path in self.done:
                continue
            known = self.searched.get((*deployed, path[-1]))
            if known is None:
                known = self._search(path, plain, pipeline.score, fitted)
                self.searched[*deployed, path[-1]] = known
            self._write(path, {**known, "path": path, "deployed": deployed})

    def _search(
        self,
        path: tuple[int, ...],
        plain: Surrogate,
        before: float | None,
        fitted: dict[tuple[Any, ...], tuple[Search | None, float, str]],
    ) -> Data:
        config = self._config(path, {"ttc.enabled": True}).ttc
        # the fit draws at least eight candidates in one round, whatever the search does: equal fits are made once
        key = (config.noise_std, max(8, config.candidates))
        if key not in fitted:
            spent, begin = self.tolerances.spent, time.process_time()
            try:
                search, note = fit_search(plain, config, self.task.train), ""
            except NoReward as error:
                search, note = None, str(error)
            fitted[key] = search, time.process_time() - begin - (self.tolerances.spent - spent), note
        search, fit, note = fitted[key]
        begin, wall, after = time.process_time(), time.perf_counter(), None
        if search is not None:
            after = finite(score(plain.with_search(Search(config, search.reward)), self.task.validation))
        spent, wall = time.process_time() - begin, time.perf_counter() - wall
        best = min((each for each in (before, after) if each is not None), default=None)
        return {
            "status": str(Status.COMPLETE),
            "reason": note,
            "after": after,
            "best": best,
            "cpu_fit": round(fit, 4),
            "cpu_tolerances": round(self.tolerances.spent, 4),
            "cpu_total": round(fit + spent, 4),
            "inference_ms": round(1e3 * wall / len(self.task.validation), 3),
        }

    def _run(self, path: tuple[int, ...]) -> tuple[Pipeline, Note]:
        """A run to the last stage on `path`: trained if the store does not have it."""
        config, folder = self._config(path), self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        note = Note(STAGES[len(path) - 1])
        self.store.filled = 0.0
        pipeline = self._pipeline(config, folder, self.store, note)
        pipeline.run()
        note.end = time.process_time()
        return pipeline, note

    def _pipeline(self, config: RunConfig, folder: Path, store: TimedStore, note: Note) -> TimedPipeline:
        pipeline = TimedPipeline(
            config=config,
            stages=config.stages,
            runtime=config.runtime,
            logging=config.logging,
            task=self.task,
            surrogate=build_run_surrogate(config, self.task),
            folder=folder,
            store=store,
            facts={},
            report=note,
            resume=False,
            keys=stage_keys(config, self.task.fingerprint),
        )
        pipeline.note = note
        return pipeline

    def _config(self, path: tuple[int, ...], more: Mapping[str, Any] | None = None) -> RunConfig:
        off = {f"stages.{stage}.epochs": 0 for stage in STAGES[len(path[:3]) :]}
        return self.base.override({**self.grid.params(path), **off, **(more or {})})

    def _write(self, path: tuple[int, ...], node: Data) -> None:
        node = {"path": list(path), **{name: value for name, value in node.items() if name != "path"}}
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(node, allow_nan=False) + "\n")
        self.done[path] = node

    def _warm_up(self) -> None:
        """What a process does once, such as loading code, belongs to no node."""
        short = {f"stages.{stage}.epochs": 1 for stage in STAGES} | {"runtime.seed": 10**6}
        config, folder = self.base.override(short), self.folder / "warm_up"
        pipeline = self._pipeline(config, folder / "run", TimedStore(folder / "store"), Note(STAGES[-1]))
        pipeline.run()
        fit_search(pipeline.deploy(), self.base.ttc, self.task.train)
        shutil.rmtree(folder)


class TimedStore(ArtifactStore):
    """A store that says how long the latest latents took to compute."""

    filled = 0.0
    """CPU seconds"""

    def publish(
        self, key: str, fill: Callable[[Path], None], *, what: str = "artifact", seconds: float | None = None
    ) -> Path:
        def timed(folder: Path) -> None:
            begin = time.process_time()
            fill(folder)
            self.filled += time.process_time() - begin

        return super().publish(key, timed, what=what, seconds=seconds)


class TimedPipeline(Pipeline):
    """Notes when the stage in question begins to be prepared, and to be trained."""

    note: Note

    def build_stage(self, name: str) -> Stage:
        self.note.begin = time.process_time()
        stage = super().build_stage(name)
        assert isinstance(self.store, TimedStore)
        self.note.pairs = self.store.filled
        self.note.trained_from = time.process_time()
        return stage


class Note:
    """The validations of one stage, and the CPU clock at each."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.progress: list[Progress] = []
        self.cpu: list[float] = []
        self.begin = self.trained_from = self.end = 0.0
        """readings of the CPU clock"""
        self.pairs = 0.0
        """CPU seconds of the latents that the stage trains on, 0 where they were there"""

    def __call__(self, progress: Progress) -> None:
        if progress.stage == self.stage and progress.score is not None:
            self.cpu.append(time.process_time())
            self.progress.append(progress)


_READ = reward_fit._tolerances


class Tolerances:
    """The tolerances of a reward, read off true steps once: they are the same for every model of the task."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], Any] = {}
        self.spent = 0.0
        """CPU seconds of the first reading, which every search without this memory pays again"""

    def __call__(self, surrogate: Surrogate, training: Trajectories, names: list[Any]) -> Any:
        if tuple(names) not in self._known:
            begin = time.process_time()
            self._known[tuple(names)] = _READ(surrogate, training, names)
            self.spent += time.process_time() - begin
        return self._known[tuple(names)]


def collect(seeds: Sequence[int], grid: Grid, folder: Path) -> Data:
    """The table as one compact record; nodes that the seeds' files do not have are absent."""
    config = load_config(grid.base)
    return {
        "benchmark": "stage_table",
        "protocol": {
            "base": config.model_dump(mode="json"),
            "levels": grid.levels,
            "seeds": list(seeds),
            "nodes": {stage: len(list(grid.prefixes(depth + 1))) for depth, stage in enumerate(GROUPS)},
        },
        "machine": common.machine(1),
        "seeds": {
            str(seed): [
                {name: node[name] for name in _KEPT if name in node} for node in read_lines(folder / f"{seed}.jsonl")
            ]
            for seed in seeds
        },
    }


_KEPT = (
    "path", "status", "shares", "scores", "cpu", "cpu_total", "cpu_prepared", "cpu_pairs", "cpu_fit", "cpu_tolerances",
    "after", "best", "parameters", "peak_memory_gib", "inference_ms", "deployed",
)  # fmt: skip


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="[0 1]")
    made.add_argument("--work", type=Path, default=Path("runs/benchmarks/stage_table"), help="keeps what is finished")
    made.add_argument("--out", type=Path, default=OUT, help=f"[{OUT}]")
    made.add_argument("--report-only", action="store_true", help="only write the JSON again")
    args = made.parse_args()
    grid = Grid.load()
    if not args.report_only:
        torch.set_num_threads(1)
        args.work.mkdir(parents=True, exist_ok=True)
        for seed in args.seeds:
            record(seed, grid, args.work)
    write_table(args.out, collect(args.seeds, grid, args.work))
    common.say(f"wrote {args.out}")


if __name__ == "__main__":
    sys.exit(common.exit_code(main))
