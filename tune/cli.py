"""`ups`: everything of `ups.cli`, and the search."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune.store_cli import store_app
from ups.cli import Beside, app, train_and_show, write_run_page
from ups.cli import train as train_alone
from ups.cli.bars import counting_several
from ups.cli.config import Config, Overrides
from ups.cli.terminal import can_redraw, console, run_app, say
from ups.core.errors import UserError

if TYPE_CHECKING:
    from tune.search import Summary
    from tune.study import Plan
    from ups.config import RunConfig
    from ups.core.types import Report, RunResult

app.add_typer(store_app, name="store")
# the ones below train on several workers, and know studies, too
app.registered_commands = [command for command in app.registered_commands if command.name not in ("train", "report")]

Study = Annotated[Path, typer.Argument(help="A STUDY folder, written by `ups search`.", metavar="STUDY")]


def main() -> int:
    """Entry point of `ups`; gives the exit code."""
    return run_app(app)


@app.command("train")
def train(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. [runs/NAME-OF-CONFIG]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    workers: Annotated[
        int, typer.Option(help="Processes that train the run together, each on its part of every batch.", min=1)
    ] = 1,
) -> None:
    """Train one run and evaluate it on its test trajectories.

    Example: ups train burgers1d stages.operator.epochs=20 --out runs/first

    Example: ups train burgers1d_upt17m --workers 8 --out runs/large
    """
    if workers == 1:
        train_alone(config, overrides, out, resume)
        return

    def on_workers(run_config: RunConfig, folder: Path, report: Report) -> RunResult:
        from tune.distributed import train_distributed, workers_of_this_machine
        from tune.search import embedded_ray
        from ups.run import check_folder

        check_folder(run_config, folder, resume)  # before Ray starts
        of_run = workers_of_this_machine(workers, run_config)
        with embedded_ray(workers * of_run.each.cpus, workers * int(of_run.each.gpus)):
            return train_distributed(run_config, folder, report, workers=of_run, resume=resume)

    train_and_show(config, overrides, out, on_workers)


@app.command("search")
def search(
    space: Annotated[str, typer.Argument(help="A SPACE file, or the bare name of a shipped one.", metavar="SPACE")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values for the base; they leave the space.", metavar="[path=value ...]")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="In total, over all resumes. [the space's]")] = None,
    time_budget: Annotated[str | None, typer.Option(help="From now on, such as 30m or 2h. [the space's]")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Trials at a time. [as many as fit]")] = None,
    workers_per_trial: Annotated[
        int | None, typer.Option(help="Processes that train one trial together. [the space's]", min=1)
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="1, a share such as 0.25, or 0. [one where there are any]", min=0)
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster that runs already: auto, or host:port of its head. [this machine alone]",
            metavar="ADDR",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="STUDY folder. [runs/NAME-OF-SPACE]")] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Where finished stages live: a folder, or a URI such as s3://bucket/path; studies may share it. "
            "[STUDY/store]",
            metavar="URI",
        ),
    ] = None,
    study_storage: Annotated[
        str | None,
        typer.Option(
            help="Path of a journal, or postgresql:// to search with others. [STUDY/journal.log]", metavar="URL"
        ),
    ] = None,
    study_name: Annotated[str | None, typer.Option(help="In a database. [the name of the STUDY folder]")] = None,
    run: Annotated[
        Path | None, typer.Option(help="A finished run: the base, with its store; no stage is trained again.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the study in the folder.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Show ten sampled configs and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search the settings of a run, on this machine or on a cluster.

    Example: ups search demo --trials 20 --out runs/demo
    """
    from tune.checks import load_plan_from_space
    from tune.finished import check_trains_nothing, config_of_finished
    from ups.config import parse_overrides

    base_file = None
    if run is not None:
        base_file, store = config_of_finished(run), store or str(run / "store")
    changes = {
        "strategy.trials": trials,
        "budget.time": time_budget,
        "resources.concurrency": concurrency,
        "resources.workers_per_trial": workers_per_trial,
        "resources.gpus_per_worker": gpus_per_worker,
        "resources.store": store,
        "resources.study_storage": study_storage,
        "resources.study_name": study_name,
    }
    given = {path: value for path, value in changes.items() if value is not None}
    plan = load_plan_from_space(space, parse_overrides(overrides or []), given, base_file)
    if run is not None and store is not None:
        check_trains_nothing(plan, run, store)
    if preview:
        _preview(plan, trains=run is None)
        return
    from tune.search import run_search

    out = out or Path("runs") / Path(space).stem
    with _view(str(out), quiet) as view:
        tell = None if quiet else partial(print, file=sys.stderr)
        summary = run_search(plan, out, resume=resume, view=view, address=address, say=tell)
    if json:
        _print_json(summary)
    else:
        _print_summary(summary)
    if summary.signalled:
        raise typer.Exit(130)
    if summary.best is None or summary.refused:
        raise typer.Exit(1)


@app.command("trials")
def trials(
    study: Study,
    top: Annotated[int, typer.Option(help="How many rows.", min=1)] = 10,
    json: Annotated[Path | None, typer.Option(help="Write every trial to this file, too.", dir_okay=False)] = None,
) -> None:
    """List the trials of a study, the best first.

    Example: ups trials runs/demo --top 5 --json trials.json
    """
    from tune.listing import pareto_table, trials_json, trials_table
    from tune.study import load_study
    from ups.core.runtime import write_atomic

    found = load_study(study)
    console().print(trials_table(found, top))
    front = pareto_table(found)
    if front is not None:
        console().print(front)
    if json is not None:
        write_atomic(json, trials_json(found.trials).encode())


@app.command("promote")
def promote(
    study: Study,
    out: Annotated[Path, typer.Option(help="The golden YAML to write.")],
    top: Annotated[int | None, typer.Option(help="How many trials are retrained. [the study's]")] = None,
    seeds: Annotated[int | None, typer.Option(help="On how many fresh seeds. [the study's]")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="An existing target is the one to beat.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write even if it is not confirmed.")] = False,
) -> None:
    """Confirm the best trials on fresh seeds and write the winner as a golden config.

    Example: ups promote runs/demo --top 3 --seeds 3 --out configs/golden/burgers1d.yaml
    """
    from tune.pinning import pin_study
    from tune.promote import promote as confirm
    from tune.study import load_study
    from ups.core.remote_store import open_store

    with counting_several() as count:
        found = confirm(study, top=top, seeds=seeds, out=out, replace=replace, force=force, count=count)
    opened = load_study(study)
    pin_study(opened, open_store(opened.store))
    if not found.written:
        raise typer.Exit(1)


@app.command("replay")
def replay(study: Study) -> None:
    """Decide once more on everything that a deterministic search decided, from its journal; nothing is trained.

    Example: ups replay runs/demo
    """
    from tune.replay import replay as decide

    found = decide(study)
    if found.difference is not None:
        say(f"{study}: came out differently after {found.proposals} proposals: {found.difference}", 1)
        raise typer.Exit(1)
    print(f"{found.proposals} proposals and {found.verdicts} verdicts came out the same")


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="A folder of `ups search` or `ups train`.", metavar="STUDY|RUN")],
    out: Annotated[Path | None, typer.Option(help="The page to write. [report.html in the folder]")] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Folder for every figure as a file of its own, too, SVG, PNG or GIF.", metavar="DIR"),
    ] = None,
    beside: Beside = None,
) -> None:
    """Write a page about a study (its trials, its best configs, its promotion), or about a single run.

    Example: ups report runs/demo --out demo.html --figures figures

    Example: ups report runs/demo --beside runs/fno
    """
    from tune.report import write_report

    if (folder / "config.yaml").is_file():
        write_run_page(folder, out, figures, beside or ())
    else:
        print(write_report(folder, out or folder / "report.html", figures, beside or ()))


@app.command("leaderboard")
def leaderboard(
    folder: Annotated[Path, typer.Argument(help="A folder with runs and studies, however deep.", metavar="DIR")],
    out: Annotated[Path | None, typer.Option(help="Write a table (.csv) or a page (.html), too.")] = None,
) -> None:
    """Rank the runs and studies below a folder by their test error, each protocol on its own.

    Example: ups leaderboard runs --out leaderboard.html
    """
    if out is not None and out.suffix not in (".csv", ".html"):
        raise UserError(f"--out: must end in .csv or .html, got {out}")
    from tune.leaderboard import leaderboard_csv, leaderboard_html, leaderboard_table, load_leaderboard
    from ups.core.runtime import write_atomic

    board = load_leaderboard(folder)
    console().print(leaderboard_table(board))
    if out is not None:
        text = leaderboard_csv(board) if out.suffix == ".csv" else leaderboard_html(board, folder)
        write_atomic(out, text.encode())
        print(out)


@app.command("dashboard")
def dashboard(
    study: Study,
    port: Annotated[
        int | None, typer.Option(help="To listen on, of 127.0.0.1. [the first free one from 8080 on]", min=1, max=65535)
    ] = None,
) -> None:
    """Show a study in a browser, also while it is searched: optuna-dashboard, on this machine alone, until Ctrl-C.

    Example: ups dashboard runs/demo --port 8090
    """
    from tune.dashboard import announce, serve

    serve(study, port, announce)


@app.command("doctor")
def doctor(
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster: auto, or host:port of its head. [this machine]", metavar="ADDR"),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Folder or URI that every node has to reach.", metavar="URI")
    ] = None,
) -> None:
    """Check what a search needs before a night is spent: cluster, token, dashboard, versions, GPUs, disks, store.

    Example: ups doctor --address auto --store s3://bucket/studies
    """
    from tune.doctor import examine

    wrong = 0
    for finding in examine(address, store):
        wrong += not finding.ok
        print(finding, flush=True)
    if wrong:
        say(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong", 1)
        raise typer.Exit(1)


def _view(title: str, quiet: bool) -> Any:
    """A context manager that gives the view of a search."""
    from rich.console import Console

    from tune.live import LineView
    from tune.panel import PanelView
    from tune.running import NoView

    screen = Console(stderr=True)
    if quiet:
        return nullcontext(NoView())
    return PanelView(title, screen) if can_redraw(screen) else nullcontext(LineView(sys.stderr))


def _preview(plan: Plan, *, trains: bool) -> None:
    from tune.listing import preview_table
    from tune.preview import preview

    console().print(preview_table(plan, list(preview(plan, trains=trains)), trains=trains))


def _print_summary(summary: Summary) -> None:
    from tune.listing import nothing_complete, summary_lines

    for line in summary_lines(summary):
        print(line)
    if summary.best is None and not summary.signalled:
        say(nothing_complete(summary), 1)


def _print_json(summary: Summary) -> None:
    import json

    from tune.listing import nothing_complete, summary_json

    print(json.dumps(summary_json(summary), indent=1))
    if summary.best is None and not summary.signalled:
        say(nothing_complete(summary), 1)
