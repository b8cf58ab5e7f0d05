"""Inverse losses on against off: does the latent say what the field says, and do rollouts gain by it?

    python benchmarks/inverse_losses.py                  # configs/burgers1d_latent.yaml, three seeds
    python benchmarks/inverse_losses.py --report-only    # the section of RESULTS.md again, from the JSON

Equal wall time for all runs, on one core each. The rollout term alternates between latent and re-encoded steps, so that
both rollouts are trained; the best checkpoint is that of the re-encoded one. What is finished stays in the work folder
and is not measured again.

B trajectories, T frames, X cells, C channels, P parameters, N tokens, D latent width.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import torch
import training
from common import Job, finite, machine_words, number, spread, starved_note, table
from pairs import Data, compared, mean_error, pair_table
from script import Script, parser, settle
from torch import Tensor

from ups.config import RunConfig
from ups.core.types import Status
from ups.data.task import Trajectories, load_task
from ups.evaluation.evaluate import batches
from ups.inference.build import load_surrogate
from ups.inference.surrogate import Surrogate
from ups.models.latent import LatentModel

NAME = "inverse_losses"
ARMS = {"off": 0.0, "on": None}
"""arm -> weight of both terms, None for the one that was asked for"""
MEASURES = {
    "field": "field, encoded and decoded",
    "latent": "advanced latent, decoded and encoded",
    "prediction": "predicted field, encoded, against the advanced latent",
    "one_step": "one step",
    "latent_rollout": "40 frames, latent",
    "reencode_rollout": "40 frames, re-encoded",
}
_LOSSES = "stages.operator.losses"


def config_of(args: argparse.Namespace, arm: str, seed: int) -> RunConfig:
    """The run of one arm."""
    file = training.data_file(args.data, 0.01, quick=args.quick)
    weight = args.weight if ARMS[arm] is None else ARMS[arm]
    return training.run_config(
        args.config,
        training.headline(file, training.split_of(args.quick)),
        training.timed(args.seconds, seed=seed, validations=4),
        {
            f"{_LOSSES}.rollout.mode": "alternate",
            # the best checkpoint is chosen by the rollout that is stable from the start
            "inference.rollout": "reencode",
            **{f"{_LOSSES}.inverse_{which}coding.weight": weight for which in ("en", "de")},
            **{f"{_LOSSES}.inverse_{which}coding.max_weight": None for which in ("en", "de")},
        },
    )


def consistency(surrogate: Surrogate, trajectories: Trajectories) -> dict[str, list[float]]:
    """How well encoder and decoder undo each other, as nRMSE of each trajectory, mean over its frames but the last.

    `field`: decode(encode(u)) against u; `latent`: encode(decode(z')) against z' = A(encode(u)); `prediction`:
    encode(w') against z', where w' = u + decode(z') - decode(z) is the field that re-encoding starts from.
    """
    model = surrogate.model
    assert isinstance(model, LatentModel), "only a model with a latent has something to be consistent with"
    found: dict[str, list[float]] = {name: [] for name in ("field", "latent", "prediction")}
    with torch.no_grad():
        for fields_BTXC, parameters_BP in batches(trajectories):
            given = range(fields_BTXC.shape[1] - 1)
            frames = [_frame_errors(surrogate, model, fields_BTXC[:, t], parameters_BP) for t in given]
            for name, errors in found.items():
                errors += torch.stack([each[name] for each in frames]).mean(0).tolist()
    return found


def _frame_errors(
    surrogate: Surrogate, model: LatentModel, field_BXC: Tensor, parameters_BP: Tensor
) -> dict[str, Tensor]:
    moving = field_BXC - surrogate.frame.mean(field_BXC)[:, 0]
    canonical, features, _, _ = surrogate.normalise(moving, parameters_BP)
    latent = model.encode(canonical)
    after = model.advance(latent, features)
    decoded, decoded_after = model.decode(latent), model.decode(after)
    return {
        "field": _nrmse(decoded, canonical),
        "latent": _nrmse(model.encode(decoded_after), after),
        "prediction": _nrmse(model.encode(canonical + decoded_after - decoded), after),
    }


def _nrmse(ours: Tensor, true: Tensor) -> Tensor:
    return (ours - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)


def collect(protocol: Data, found: Sequence[Data], machine: Data) -> Data:
    """Everything that was measured as one JSON-able record, comparisons included."""
    pairs = []
    for name in MEASURES:
        on, off = ({run["seed"]: run["errors"][name] for run in _complete(found, arm)} for arm in ("on", "off"))
        pair = compared(on, off, ("on", "off"))
        if pair:
            pairs.append({"measure": name, **pair})
    return {"benchmark": NAME, "protocol": protocol, "machine": machine, "runs": list(found), "pairs": pairs}


def render(data: Data) -> str:
    """The section of RESULTS.md."""
    p = data["protocol"]
    columns = list(MEASURES)
    rows = []
    for arm in ARMS:
        complete = _complete(data["runs"], arm)
        cells = [spread([mean_error(run["errors"][name]) for run in complete]) for name in columns]
        rows.append([arm, *cells, spread([run["steps"] / run["seconds"] for run in complete])])
    parts = [
        "## Inverse losses, Burgers nu = 0.01",
        f"`{p['config']}` with rollouts trained latent and re-encoded in turn, the best checkpoint chosen by the "
        f"latter; inverse encoding and inverse decoding both at weight {p['weight']:g}, or both off. "
        f"{p['seconds']:g} s on one core for every run, seeds {', '.join(map(str, p['seeds']))}. nRMSE on {p['test']} "
        f"test trajectories ({p['train']} train, {p['validation']} validate), {p['cells']} cells, {p['frames']} frames "
        f"of {p['dt']:g}; mean over trajectories, ± standard deviation over seeds. The first three columns say how "
        "well encoder and decoder undo each other.",
        table(["inverse losses", *MEASURES.values(), "steps/s"], rows),
        "On against off, paired over seeds and trajectories (two-way resampling, 95 %; with few seeds all must agree): "
        "a ratio below 1 says that the losses help.",
        pair_table(["on / off"], [([MEASURES[each["measure"]]], each) for each in data["pairs"]]),
        *_verdict(data),
        f"Measured on {machine_words(data['machine'], data['runs'])}.",
        *_notes(data),
    ]
    return "\n\n".join(parts)


def _verdict(data: Data) -> Iterator[str]:
    """One sentence on consistency and rollouts."""
    effects: dict[str, list[str]] = {"lower": [], "raise": [], "leave undecided": []}
    for pair in data["pairs"]:
        effect = "leave undecided" if not pair["decided"] else "lower" if pair["difference"] < 0 else "raise"
        effects[effect].append(f"{MEASURES[pair['measure']]} ({number(pair['ratio_of_means'])})")
    said = [f"{effect} {', '.join(names)}" for effect, names in effects.items() if names]
    if said:
        yield f"The inverse losses {'; '.join(said)}. In brackets the ratio of means, on over off."


def _notes(data: Data) -> Iterator[str]:
    for run in data["runs"]:
        if run["status"] != "COMPLETE":
            yield f"Note: {run['arm']}, seed {run['seed']} is left out, {run['status']}: {run['reason']}."
    yield from starved_note([run["core_share"] for run in data["runs"]])


def _complete(found: Sequence[Data], arm: str) -> list[Data]:
    return [run for run in found if run["arm"] == arm and run["status"] == "COMPLETE"]


def _measure(args: argparse.Namespace, work: Path) -> Data:
    machine = common.machine(args.lanes)
    # reduced once, in one process, before anything is timed
    data = load_task(config_of(args, "off", args.seeds[0]).task).fingerprint
    jobs = {
        (arm, seed): Job(
            f"inverse losses {arm}, seed {seed}",
            work / f"{arm}_seed{seed}",
            {"machine": machine, "data": data, "config": config_of(args, arm, seed).model_dump(mode="json")},
        )
        for seed in args.seeds
        for arm in ARMS
    }
    common.run_jobs(Path(__file__), list(jobs.values()), args.lanes)
    found = [{"arm": arm, "seed": seed, **job.answer()} for (arm, seed), job in jobs.items()]
    protocol = {
        **{"config": args.config, "cells": 256, "frames": 41, "dt": 0.05},
        **training.split_of(args.quick),
        **{"seconds": args.seconds, "seeds": args.seeds, "weight": args.weight},
    }
    return collect(protocol, found, machine)


def _work(request: Mapping[str, Any], folder: Path) -> Data:
    """In the process of a job."""
    config, run = RunConfig.parse(request["config"]), folder / "run"
    found = training.train(config, run)
    if found["status"] == Status.COMPLETE:
        surrogate, task = load_surrogate(run), load_task(config.task)
        errors = consistency(surrogate, task.test)
        for name, protocol in (("one_step",) * 2, ("latent_rollout", "latent"), ("reencode_rollout", "reencode")):
            errors[name] = training.trajectory_errors(surrogate, task.test, protocol)
        found["errors"] = {name: [finite(error) for error in each] for name, each in errors.items()}
    return found


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__, NAME)
    made.add_argument("--config", default="burgers1d_latent", help="[burgers1d_latent]")
    made.add_argument("--seconds", type=float, help="of each run [50]")
    made.add_argument("--weight", type=float, default=0.1, help="of both terms where they are on [0.1]")
    return settle(made.parse_args(words), seconds=(15.0, 50.0))


if __name__ == "__main__":
    sys.exit(common.exit_code(lambda: Script(NAME, _measure, _work, render).run(_arguments())))
