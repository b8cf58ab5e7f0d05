"""The shipped golden config beside FNO: test error of both, given the same training time on one core.

    python benchmarks/golden_vs_fno.py                  # three seeds that no promotion has used
    python benchmarks/golden_vs_fno.py --report-only    # the section of RESULTS.md again, from the JSON

The golden is trained as it is, to the end of its own stages. An FNO, which sees the fields in the same canonical
frame, then has as many seconds as the golden took on average, in the same loop, with the learning rate that
`ups_vs_fno.py` chose for it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import common
import training
from common import Job, machine_words, number, spread, table
from pairs import Data, compared, pair_table
from peers import WORDS, config_of
from script import Script, parser, settle

from ups.config import RunConfig, load_config
from ups.core.errors import UserError
from ups.core.types import Status
from ups.data.task import load_task
from ups.evaluation.evaluate import evaluate_run
from ups.inference.build import load_surrogate

NAME = "golden_vs_fno"
GOLDEN = Path("configs/golden/burgers1d.yaml")
PEER, PEER_RATE = "fno_frame", 3e-3
SEEDS = [11, 12, 13]


def _measure(args: argparse.Namespace, work: Path) -> Data:
    golden = load_config(args.golden)
    if golden.provenance is None:
        raise UserError(f"{args.golden}: says nothing of where it comes from; write it with `ups promote`")
    file = training.data_file(args.data, 0.01, quick=args.quick)
    split = training.split_of(args.quick)
    machine = common.machine(args.lanes)
    task = {name: value for name, value in training.headline(file, split).items() if name != "task.equation"}
    on_file = golden.override({**task, "provenance": None, "runtime.threads": 1, "runtime.device": "cpu"})
    about = {"machine": machine, "data": load_task(on_file.task).fingerprint}

    def job(model: str, seed: int, config: RunConfig) -> Job:
        request = {**about, "config": config.model_dump(mode="json")}
        return Job(f"{model}, seed {seed}", work / f"{model}_{seed}", request)

    jobs = {("golden", seed): job("golden", seed, on_file.override({"runtime.seed": seed})) for seed in args.seeds}
    common.run_jobs(Path(__file__), list(jobs.values()), args.lanes)
    seconds = round(fmean(each.answer()["seconds"] for each in jobs.values()))
    for seed in args.seeds:
        peer = config_of(PEER, file, split, rate=PEER_RATE, seed=seed, seconds=seconds)
        jobs[PEER, seed] = job(PEER, seed, peer)
    common.run_jobs(Path(__file__), [each for (model, _), each in jobs.items() if model == PEER], args.lanes)
    runs: dict[str, list[Data]] = {"golden": [], PEER: []}
    for (model, seed), each in jobs.items():
        runs[model].append({"seed": seed, **each.answer()})
    errors = {model: {run["seed"]: run["errors"] for run in found if run["errors"]} for model, found in runs.items()}
    story = golden.provenance
    return {
        "benchmark": NAME,
        "protocol": {"seeds": args.seeds, "seconds": seconds, "rate": PEER_RATE, **split},
        "machine": machine,
        "golden": {name: story.get(name) for name in ("study", "trial", "seeds", "improvement", "core_seconds")},
        "runs": runs,
        "comparison": compared(errors["golden"], errors[PEER], ("golden", WORDS[PEER])),
    }


def _work(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    config, run = RunConfig.parse(request["config"]), folder / "run"
    found = training.train(config, run)
    errors: list[float | None] = []
    if found["status"] == Status.COMPLETE:
        report = evaluate_run(load_surrogate(run), load_task(config.task), "test")
        errors = [common.finite(error) for error in report.trajectory_nrmse]
        found["ms_per_trajectory"] = 1e3 * report.cost["rollout_seconds"]
    return {**found, "errors": errors}


def render(data: Data) -> str:
    p = data["protocol"]
    rows = []
    for model, runs in data["runs"].items():
        complete = [run for run in runs if run["errors"]]
        rows.append([
            "**golden**" if model == "golden" else WORDS[model],
            f"{runs[0]['parameters']:,}",
            spread([run["seconds"] for run in runs]),
            spread([fmean(run["errors"]) for run in complete]) if complete else "–",
            spread([run["ms_per_trajectory"] for run in complete]) if complete else "–",
        ])  # fmt: skip
    found = data["comparison"]
    pair = pair_table(["pair"], [([f"golden / {WORDS[PEER]}"], found)]) if found else "Too few runs to compare them."
    story = data["golden"]
    return "\n\n".join([
        "## The golden config beside FNO, Burgers nu = 0.01",
        f"`{GOLDEN}` is trial {story['trial']} of a search of `burgers1d_small`, whose stages are short. nRMSE of 40 "
        f"frames from one on {p['test']} test trajectories, as deployed (the golden with its search at test time), "
        f"mean ± standard deviation over seeds {', '.join(map(str, p['seeds']))}. The golden trains to the end of its "
        f"stages, FNO in the same canonical frame for as many seconds ({p['seconds']}) on one core, learning rate "
        f"{number(p['rate'])}.",
        table(["", "parameters", "training, s", "nRMSE", "ms/trajectory"], rows),
        pair,
        f"Measured on {machine_words(data['machine'], [run for runs in data['runs'].values() for run in runs])}.",
    ])  # fmt: skip


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME)
    made.add_argument("--golden", type=Path, default=GOLDEN, help=f"[{GOLDEN}]")
    args = made.parse_args(words)
    args.seeds = args.seeds or (SEEDS[:2] if args.quick else SEEDS)
    return settle(args)


def main() -> None:
    Script(NAME, _measure, _work, render).run(_arguments())


if __name__ == "__main__":
    sys.exit(common.exit_code(main))
