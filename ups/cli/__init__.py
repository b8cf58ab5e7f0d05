"""`ups`: data, training, evaluation. `tune.cli` mounts the same app and adds the search.

Only light modules are imported here, so that `ups --help` answers at once.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups.cli.terminal import console, counting, run_app, say, training
from ups.core.errors import UserError

if TYPE_CHECKING:
    from ups.data.task import Task, TaskConfig

app = typer.Typer(
    name="ups",
    help="Train, evaluate and compare latent surrogates of PDEs.",
    rich_markup_mode="rich",
    add_completion=False,
)
data_app = typer.Typer(help="Generate and inspect PDEBench-format files.")
config_app = typer.Typer(help="Show and compare configs.")
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")

Run = Annotated[Path, typer.Argument(help="A run folder, written by `ups train`.", metavar="RUN")]
Config = Annotated[str, typer.Argument(help="A YAML file, or the bare name of a shipped config.", metavar="CONFIG")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Values to replace.", metavar="[path=value ...]")]


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def main() -> int:
    """Entry point of `python -m ups`; gives the exit code."""
    return run_app(app)


@data_app.command("generate")
def data_generate(
    equation: Annotated[str, typer.Argument(help="burgers or advection.", metavar="EQUATION")],
    out: Annotated[Path, typer.Option(help="HDF5 file to write.")],
    nu: Annotated[float | None, typer.Option(help="Burgers: the viscosity is nu/pi. [0.01]")] = None,
    beta: Annotated[float | None, typer.Option(help="Advection: the speed. [0.4]")] = None,
    trajectories: Annotated[int | None, typer.Option(help="How many. [1024, or all of --initial]")] = None,
    cells: Annotated[int | None, typer.Option(help="Cells stored. [1024, or those of --initial]")] = None,
    frames: Annotated[int, typer.Option(help="Frames, the initial one included.")] = 201,
    dt: Annotated[float, typer.Option(help="Time between two frames.")] = 0.01,
    oversample: Annotated[int, typer.Option(help="Solve on that many times the cells and stride.")] = 1,
    seed: Annotated[int, typer.Option(help="Draws the initial fields.")] = 0,
    initial: Annotated[Path | None, typer.Option(help="Evolve the first frames of this file.")] = None,
) -> None:
    """Generate trajectories in PDEBench's layout.

    Example: ups data generate burgers --nu 0.01 --trajectories 64 --cells 256 --out data/burgers.h5
    """
    from ups.data.generators import generate

    parameter = _parameter(equation, {"nu": nu, "beta": beta})
    with counting(f"{equation} to {out}", "trajectories") as count:
        generate(
            equation,
            out,
            parameter=parameter,
            trajectories=trajectories,
            cells=cells,
            frames=frames,
            dt=dt,
            seed=seed,
            initial=initial,
            oversample=oversample,
            on_progress=count,
        )
    print(out)


@data_app.command("inspect")
def data_inspect(file: Annotated[Path, typer.Argument(help="An HDF5 file.", metavar="FILE")]) -> None:
    """Say what a file holds, without reading its fields.

    Example: ups data inspect data/burgers.h5
    """
    from ups.data.pdebench import inspect

    info = inspect(file)
    facts = {
        "file": info.path,
        "layout": info.family,
        "equation": info.equation or "not stated",
        "trajectories": info.trajectories,
        "frames": f"{info.frames}, dt {info.dt:g}",
        "cells": f"{' x '.join(map(str, info.cells))}, length {info.length:g}",
        "channels": info.channels,
        "parameters": ", ".join(f"{name} {value:g}" for name, value in info.parameters.items()) or "none",
    }
    for name, value in facts.items():
        print(f"{name:<13}{value}")
    for note in info.notes:
        print(f"{'note':<13}{note}")


@app.command("train")
def train(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. [runs/NAME-OF-CONFIG]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
) -> None:
    """Train one run and evaluate it on its test trajectories.

    Example: ups train burgers1d stages.operator.epochs=20 --out runs/first
    """
    from ups.config import load_config, parse_overrides
    from ups.core.types import Status
    from ups.evaluation.report import FILE_NAME, load_report, report_table
    from ups.run import train_run

    run_config = load_config(config, parse_overrides(overrides or []))
    out = out or Path("runs") / Path(config).stem
    with training() as report:
        result = train_run(run_config, out, report, resume=resume)
    if result.status is not Status.COMPLETE:
        say(f"{result.status}: {result.reason}", 1)
        raise typer.Exit(1)
    if (out / FILE_NAME).is_file():
        console().print(report_table(load_report(out / FILE_NAME), str(out)))
    print(out)


@app.command("evaluate")
def evaluate(
    run: Run,
    data: Annotated[Path | None, typer.Option(help="Score on every trajectory of this file.")] = None,
    split: Annotated[Split | None, typer.Option(help="Which of the run's own trajectories. [test]")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
) -> None:
    """Score a trained run in physical units, beside persistence, the initial mean and a coarse solver.

    Example: ups evaluate runs/first --data data/other_nu.h5 --json report.json
    """
    if data is not None and split is not None:
        raise UserError("--split names the run's own trajectories and --data another file: give one of them")
    from ups.evaluation.evaluate import evaluate_run
    from ups.evaluation.foreign import evaluate_file
    from ups.evaluation.report import report_table, save_report
    from ups.inference.surrogate import load_surrogate

    surrogate = load_surrogate(run)
    if data is not None:
        trained_on = _task_config(_facts_of(run)).files
        report, title = evaluate_file(surrogate, data, trained_on), f"{run} on {data}"
    else:
        report = evaluate_run(surrogate, _task_of(run), split or Split.TEST)
        title = str(run)
    console().print(report_table(report, title))
    if json is not None:
        save_report(report, json)


@app.command("rollout")
def rollout(
    run: Run,
    out: Annotated[Path, typer.Option(help="A picture (.png) or the fields (.h5).")],
    trajectory: Annotated[int, typer.Option(help="Number within the run's test trajectories.", min=0)] = 0,
    cells: Annotated[int | None, typer.Option(help="Predict on another grid. [the run's]", min=1)] = None,
) -> None:
    """Predict one test trajectory from its first frame.

    Example: ups rollout runs/first --trajectory 3 --out rollout.png
    """
    if out.suffix not in (".png", ".h5"):
        raise UserError(f"--out: must end in .png or .h5, got {out}")
    from ups.evaluation.rollout import predict_one, save_fields, save_picture
    from ups.inference.surrogate import load_surrogate

    surrogate, task = load_surrogate(run), _task_of(run)
    if cells is not None:
        surrogate, task = surrogate.with_cells(cells), _task_of(run, cells=cells)
    predicted = predict_one(surrogate, task.test, trajectory)
    save = save_picture if out.suffix == ".png" else save_fields
    save(predicted, out, title=f"{run}, test trajectory {trajectory}")
    print(out)


@app.command("compare")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or files of `evaluate --json`.", metavar="RUN...")],
    out: Annotated[Path | None, typer.Option(help="Write a page (.html) or a picture (.png), too.")] = None,
) -> None:
    """Put the test reports of several runs side by side.

    Example: ups compare runs/first runs/second --out compare.html
    """
    if out is not None and out.suffix not in (".html", ".png"):
        raise UserError(f"--out: must end in .html or .png, got {out}")
    from ups.core.runtime import write_atomic
    from ups.evaluation.report import FILE_NAME, compare_html, compare_png, compare_table, load_report

    reports = {str(run): load_report(run / FILE_NAME if run.is_dir() else run) for run in runs}
    console().print(compare_table(reports))
    if out is not None:
        write_atomic(out, compare_png(reports) if out.suffix == ".png" else compare_html(reports).encode())
        print(out)


@config_app.command("show")
def config_show(config: Config, overrides: Overrides = None) -> None:
    """Print the complete config, defaults and includes filled in.

    Example: ups config show burgers1d latent.tokens=32
    """
    from ups.config import dump_yaml, load_config, parse_overrides

    print(dump_yaml(load_config(config, parse_overrides(overrides or []))), end="")


@config_app.command("diff")
def config_diff(
    a: Annotated[str, typer.Argument(help="A config.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Another one.", metavar="B")],
) -> None:
    """List the values in which two configs differ.

    Example: ups config diff burgers1d runs/first/config.yaml
    """
    from ups.config import diff, load_config

    for path, (left, right) in diff(load_config(a), load_config(b)).items():
        print(f"{path}: {left} -> {right}")


def _parameter(equation: str, given: dict[str, float | None]) -> float:
    """The equation's own parameter among the options.

    Raises:
        UserError: unknown equation, or the parameter of another one.
    """
    from ups.core.physics import EQUATIONS

    defaults = {"nu": 0.01, "beta": 0.4}
    if equation not in EQUATIONS:
        raise UserError(f"EQUATION: must be one of {', '.join(EQUATIONS)}, got {equation!r}")
    (own,) = EQUATIONS[equation].parameters
    for name, value in given.items():
        if name != own and value is not None:
            raise UserError(f"--{name}: {equation} has no {name}, its parameter is --{own}")
    value = given[own]
    return defaults[own] if value is None else value


def _task_of(run: Path, cells: int | None = None) -> Task:
    """The task that a run was trained on, at the run's cells or at others that a stride of its files gives.

    Raises:
        UserError: the files changed since, or no stride gives the cells.
    """
    from ups.data.pdebench import inspect
    from ups.data.task import load_task

    facts = _facts_of(run)
    task_config = _task_config(facts)
    task = load_task(task_config)
    if facts["data"] != task.fingerprint:
        raise UserError(
            f"{run}: its data changed since it was trained, so test trajectories may have been trained on; "
            "restore the files, or score it on another file with --data"
        )
    if cells is None:
        return task
    native = inspect(task_config.files[0]).cells[0]
    if native % cells:
        raise UserError(f"--cells: must divide the {native} cells of {task_config.files[0]}, got {cells}")
    return load_task(task_config.override({"space_stride": native // cells}))


def _facts_of(run: Path) -> dict[str, Any]:
    """What the run's best checkpoint says of it."""
    from ups.core.checkpoint import load_checkpoint

    return load_checkpoint(run if run.is_file() else run / "checkpoints" / "best.safetensors").facts


def _task_config(facts: dict[str, Any]) -> TaskConfig:
    from ups.data.task import TaskConfig

    return TaskConfig.parse(facts["config"]["task"])
