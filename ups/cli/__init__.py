"""`ups`: data, training, evaluation. `tune.cli` mounts the same app and adds the search.

Only light modules are imported here, so that `ups --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ups.cli.bars import training
from ups.cli.config import Config, Overrides, config_app
from ups.cli.data import data_app
from ups.cli.terminal import console, run_app, say
from ups.core.errors import ConfigError, UserError

if TYPE_CHECKING:
    from ups.config import RunConfig
    from ups.core.types import Report, RunResult
    from ups.inference.search_config import SearchConfig

app = typer.Typer(
    name="ups",
    help="Train, evaluate and compare latent surrogates of PDEs.",
    rich_markup_mode="rich",
    add_completion=False,
)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")

Beside = Annotated[
    list[Path] | None,
    typer.Option(
        help="A finished run of the same task, drawn and listed beside it. May be given several times.", metavar="RUN"
    ),
]
Run = Annotated[Path, typer.Argument(help="A run folder, written by `ups train`.", metavar="RUN")]


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def main() -> int:
    """Entry point of `python -m ups`; gives the exit code."""
    return run_app(app)


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
    from ups.run import train_run

    train_and_show(config, overrides, out, lambda *given: train_run(*given, resume=resume))


def train_and_show(
    config: str,
    overrides: list[str] | None,
    out: Path | None,
    train: Callable[[RunConfig, Path, Report], RunResult],
) -> None:
    """What `ups train` does with its arguments, whoever trains."""
    from ups.config import load_config, parse_overrides, stages_of
    from ups.core.tracking import Shown, Tracker, check_installed, follow
    from ups.core.types import Status
    from ups.evaluation.report import FILE_NAME, load_report, report_table
    from ups.evaluation.runs import RESULT
    from ups.evaluation.stages import with_stages

    run_config = load_config(config, parse_overrides(overrides or []))
    out = out or Path("runs") / Path(config).stem
    check_installed(run_config.logging.wandb)
    shown = Shown(out, out.resolve().name, "train", run_config.model_dump(mode="json"))
    tracker = Tracker(run_config.logging.wandb, shown)
    with training(stages_of(run_config)) as report:
        result = follow(tracker, lambda both: train(run_config, out, both), report)
    if tracker.failure is not None:
        say(f"wandb: {tracker.failure}; it was told no more of this run, which went on", 0)
    if result.status is not Status.COMPLETE:
        say(f"{result.status}: {result.reason}", 1)
        raise typer.Exit(1)
    if (out / FILE_NAME).is_file():
        console().print(report_table(with_stages(load_report(out / FILE_NAME), out / RESULT), str(out)))
    print(out)


@app.command("evaluate")
def evaluate(
    run: Run,
    data: Annotated[Path | None, typer.Option(help="Score on every trajectory of this file.")] = None,
    split: Annotated[Split | None, typer.Option(help="Which of the run's own trajectories. [test]")] = None,
    ttc: Annotated[
        str | None, typer.Option(help="Search at test time: a YAML file of settings, or a shipped name.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.", dir_okay=False)] = None,
) -> None:
    """Score a trained run in physical units, beside rows that need no training.

    With a search at test time (--ttc, or the run's own) also what that search brings and costs. Its reward is fitted
    on the run's training trajectories.

    Example: ups evaluate runs/first --data data/other_nu.h5 --json report.json

    Example: ups evaluate runs/first --ttc burgers1d
    """
    if data is not None and split is not None:
        raise UserError("--split names the run's own trajectories and --data another file: give one of them")
    from ups.evaluation.evaluate import evaluate_run
    from ups.evaluation.foreign import evaluate_file
    from ups.evaluation.report import report_table, save_report
    from ups.evaluation.runs import RESULT, files_of, task_of
    from ups.evaluation.searched import with_search
    from ups.evaluation.stages import with_stages
    from ups.inference.build import load_surrogate
    from ups.inference.reward_fit import fit_search

    settings = None if ttc is None else _search_config(ttc)
    surrogate, task = load_surrogate(run), None
    if settings is not None:
        task = task_of(run)
        surrogate = surrogate.with_search(fit_search(surrogate, settings, task.train))
    if data is not None:
        trained_on = files_of(run)
        report, title = evaluate_file(surrogate, data, trained_on), f"{run} on {data}"
    else:
        task, split = task or task_of(run), split or Split.TEST
        report = with_stages(evaluate_run(surrogate, task, split), run / RESULT)
        report, title = with_search(report, surrogate, getattr(task, split)), str(run)
    console().print(report_table(report, title))
    if json is not None:
        save_report(report, json)


@app.command("rollout")
def rollout(
    run: Run,
    out: Annotated[Path, typer.Option(help="A picture (.png) or the fields (.h5).", dir_okay=False)],
    trajectory: Annotated[int, typer.Option(help="Number within the run's test trajectories.", min=0)] = 0,
    cells: Annotated[int | None, typer.Option(help="Cells along each axis. [the run's]", min=1)] = None,
) -> None:
    """Predict one test trajectory from its first frame.

    Example: ups rollout runs/first --trajectory 3 --out rollout.png
    """
    if out.suffix not in (".png", ".h5"):
        raise UserError(f"--out: must end in .png or .h5, got {out}")
    from ups.evaluation.rollout import predict_one, save_fields, save_picture
    from ups.evaluation.runs import task_of
    from ups.inference.build import load_surrogate

    surrogate, task = load_surrogate(run), task_of(run)
    if cells is not None:
        surrogate, task = surrogate.with_cells(cells), task_of(run, cells=cells)
    predicted = predict_one(surrogate, task.test, trajectory)
    save = save_picture if out.suffix == ".png" else save_fields
    save(predicted, out, title=f"{run}, test trajectory {trajectory}")
    print(out)


@app.command("report")
def report(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="The page to write. [RUN/report.html]")] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Folder for every figure as a file of its own, too, SVG, PNG or GIF.", metavar="DIR"),
    ] = None,
    beside: Beside = None,
) -> None:
    """Write a page about a run: its training, its fields beside the truth, its scores.

    Example: ups report runs/first --beside runs/fno --out first.html
    """
    write_run_page(run, out, figures, beside or ())


def write_run_page(run: Path, out: Path | None, figures: Path | None, beside: Sequence[Path]) -> None:
    """What `ups report` does with a run."""
    from ups.evaluation.run_page import run_page
    from ups.pages.files import write_page

    target = out or run / "report.html"
    write_page(run_page(run, beside), target, figures)
    print(target)


@app.command("compare")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or files of `evaluate --json`.", metavar="RUN...")],
    out: Annotated[Path | None, typer.Option(help="Write a page (.html) or a picture (.png, .svg), too.")] = None,
) -> None:
    """Put the test reports of several runs side by side.

    Example: ups compare runs/first runs/second --out compare.html
    """
    if out is not None and out.suffix not in (".html", ".png", ".svg"):
        raise UserError(f"--out: must end in .html, .png or .svg, got {out}")
    from ups.core.runtime import write_atomic
    from ups.evaluation.compare import compare_html, compare_picture, compare_table
    from ups.evaluation.report import FILE_NAME, load_report

    reports = {str(run): load_report(run / FILE_NAME if run.is_dir() else run) for run in runs}
    console().print(compare_table(reports))
    if out is not None:
        page = out.suffix == ".html"
        write_atomic(out, compare_html(reports).encode() if page else compare_picture(reports, out.suffix))
        print(out)


def _search_config(source: str) -> SearchConfig:
    from ups.config import load_search_config

    try:
        return load_search_config(source)
    except ConfigError as error:
        raise UserError(f"--ttc: {error}") from None
