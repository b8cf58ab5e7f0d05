"""The trained surrogates that test-time search is measured on: equations, configs, and the jobs that train them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import common
import training
from common import Job
from pairs import Data

from ups.config import RunConfig
from ups.data.generators import generate

STAGES = ("operator", "diff_residual", "consistency_distill")


@dataclass(frozen=True)
class Case:
    equation: str
    parameters: dict[str, float]
    config: str
    """a shipped config"""

    @property
    def name(self) -> str:
        return " ".join([self.equation, *(f"{name} {value:g}" for name, value in self.parameters.items())])

    def file(self, folder: Path, *, quick: bool) -> Path:
        """The data file in that folder, generated if it is not there."""
        facts = "_".join(f"{name}{value:g}" for name, value in self.parameters.items())
        file = folder / f"{self.equation}_{facts}{'_quick' if quick else ''}.h5"
        if not file.is_file():
            common.say(f"generating {file}")
            count = sum(training.split_of(quick).values())
            generate(self.equation, file, parameters=self.parameters, trajectories=count, seed=0)
        return file


CASES = (
    Case("burgers", {"nu": 0.01}, "burgers1d_diffusion"),
    Case("burgers", {"nu": 0.001}, "burgers1d_diffusion"),
    Case("advection", {"beta": 0.4}, "burgers1d_diffusion"),
)


def config_of(args: argparse.Namespace, case: Case, seed: int) -> RunConfig:
    """Every stage for its own wall time."""
    task = training.headline(case.file(args.data, quick=args.quick), training.split_of(args.quick))
    changes: Data = {"task.equation": case.equation}
    for stage, seconds in zip(STAGES, (args.seconds, args.diffusion_seconds, args.distill_seconds), strict=True):
        changes |= training.timed(seconds, seed=seed, validations=4, stage=stage)
    return training.run_config(case.config, task, changes)


def wide_config_of(args: argparse.Namespace, case: Case, seed: int) -> RunConfig:
    """An operator of more channels, for the time of all stages."""
    task = training.headline(case.file(args.data, quick=args.quick), training.split_of(args.quick))
    changes: Data = {"task.equation": case.equation, "operator.hidden_dim": args.wide_hidden_dim}
    changes |= training.timed(args.wide_seconds, seed=seed, validations=4)
    changes |= {f"stages.{name}.epochs": 0 for name in STAGES[1:]}
    return training.run_config(case.config, task, changes)


def training_job(args: argparse.Namespace, name: str, config: RunConfig, work: Path, machine: Data) -> Job:
    """Trains into `FOLDER/run`. What a search at test time is told does not enter the request, and neither does
    `inference`, which keeps its defaults: corrections are sampled at temperature 1 while they train."""
    determined = set(RunConfig.model_fields) - {"inference", "ttc", "logging", "provenance"}
    request = {"kind": "train", "machine": machine, "config": config.model_dump(mode="json", include=determined)}
    return Job(name, work / name.replace(" ", "_"), request)


def train(request: Data, folder: Path) -> Data:
    """In the process of a job."""
    return training.train(RunConfig.parse(request["config"]), folder / "run")
