"""A study as one HTML page that loads nothing from elsewhere.

In the order in which a reader asks: what came out and whether it is confirmed, what the winner predicts, how the search
got there, what the score depends on, what trials shared, why they stopped; tables of details at the end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tune import confirm_figures, figures, report_tables
from tune.endings import endings, endings_over_trials
from tune.importance import rank
from tune.importance_figure import importances, not_judged
from tune.objectives import best_of, claim, noise_floor, pareto_front
from tune.parallel import parallel_coordinates
from tune.promotion import RECORD
from tune.report_tables import delta, duration, number
from tune.sharing import chains, prefixes
from tune.slices import slices
from tune.study import StudyFolder, diverged_shares, load_study
from tune.tree_figure import stage_tree
from ups.core.errors import UserError
from ups.core.types import Status
from ups.data.task import load_task
from ups.evaluation.beside import Beside, load_beside, task_protocol
from ups.evaluation.compare import comparable
from ups.evaluation.pictures import pictures_of_run
from ups.evaluation.report import FILE_NAME, load_report
from ups.inference.build import checkpoint_of
from ups.pages.files import write_page
from ups.pages.page import cards, details, gallery, page, remark, section, uneven_gallery

SLICES = 8
"""parameters whose slices are shown at once, the most important; the others are folded away"""


def write_report(
    study: Path, out: Path | None = None, figures_in: Path | None = None, beside: Sequence[Path] = ()
) -> Path:
    """Write the page of a study, finished or not, and return where it is; `out` defaults to STUDY/report.html.

    Args:
        figures_in: a folder that gets every figure of the page as a file of its own, too.
        beside: finished runs of the same task, which are shown beside the winner.

    Raises:
        UserError: no study there, one of `beside` is refused, or the page or a figure cannot be written.
    """
    opened = load_study(study)
    target = out or opened.path / "report.html"
    write_page(render(opened, _read_json(opened.path / RECORD), beside), target, figures_in)
    return target


def render(study: StudyFolder, promotion: Mapping[str, Any] | None, beside: Sequence[Path] = ()) -> str:
    """The whole page; `promotion` is the content of promotion.json.

    Raises:
        UserError: a run of `beside` is refused, see `load_beside`.
    """
    name = study.path.resolve().name
    names = chains(study)
    sections = [
        section("Result", _result(study, promotion)),
        section("The winner", _winner(study, promotion, beside)),
        section("Course of the search", _course(study)),
        *([section("Pareto front", _pareto(study))] if len(study.config.objectives) > 1 else []),
        section("What the score depends on", _dependence(study, names)),
        section("What trials shared", _sharing(study, names)),
        section("Why trials stopped", _stopped(study)),
        section("Best trials", report_tables.best_trials(study)),
        section("Confirmation", report_tables.confirmation(promotion)),
        section("What was searched", report_tables.space(study)),
    ]
    return page(f"Search {name}", sections)


def _result(study: StudyFolder, promotion: Mapping[str, Any] | None) -> str:
    parts = [_facts(study, promotion)]
    if promotion is None:
        parts.append(
            remark("Nothing was promoted yet: scores are of the search itself, and the best of many is lucky.")
        )
        return "".join(parts)
    comparison = promotion["comparison"]
    if comparison:
        parts.append(
            f"<p>Improvement on test {number(comparison['improvement'])}, 95 % interval {number(comparison['low'])} to "
            f"{number(comparison['high'])} over {len(comparison['per_seed'])} seeds and "
            f"{comparison['trajectories']} trajectories; noise floor (standard deviation of the "
            f"{escape(promotion['reference'])} over seeds) {number(promotion['noise_floor']['test'])}. The test split "
            f"was read {promotion['test_reads']['total']} time(s) so far.</p>"
        )
    return "".join([*parts, gallery(confirm_figures.confirmation(promotion))])


def _facts(study: StudyFolder, promotion: Mapping[str, Any] | None) -> str:
    best, base = best_of(study.trials, study.config), figures.base_of(study)
    facts: list[tuple[str, str, str]] = []
    if promotion is not None:
        facts.append(("golden", "confirmed" if promotion["confirmed"] else "not confirmed", promotion["verdict"]))
    if best is not None:
        facts.append(("best score", number(best.score), f"trial {best.number}, validation rollout_nrmse"))
    else:
        ended = any(trial.state is Status.COMPLETE for trial in study.trials)
        facts.append(("best score", "none", f"no trial {'holds the constraints' if ended else 'ran to the end'}"))
    if base is not None:
        against = "the best trial is the base itself" if best is base else ""
        if best is not None and best is not base:
            against = f"the best is {delta(best, base)} against it"
        facts.append(("score of the base", number(base.score), against))
    floor = noise_floor(study.trials)
    if floor is not None:
        note = claim(study.trials, study.config) or f"standard deviation of the base over {floor.n} seeds"
        facts.append(("noise floor", number(floor.sd), note))
    states = Counter(str(trial.state) for trial in study.trials)
    facts.append(
        (
            "trials",
            f"{len(study.trials)} of {study.config.strategy.trials}",
            ", ".join(f"{count} {state}" for state, count in states.most_common()) or "none yet",
        )
    )
    shares = diverged_shares(study.trials)
    if shares is not None:
        note = "of the sampled trials, in the first and in the second half"
        facts.append(("exploded", f"{shares[0]:.0%} → {shares[1]:.0%}", note))
    spent = sum(trial.seconds for trial in study.trials) * study.config.resources.cpus_per_trial
    facts.append(("time spent", duration(spent), "core time, summed over trials"))
    return cards(facts)


def _winner(study: StudyFolder, promotion: Mapping[str, Any] | None, beside: Sequence[Path]) -> str:
    """Its predictions: on test trajectories once it is promoted, and before that on validation trajectories."""
    if promotion is not None and promotion["winner"] is not None:
        folders = {
            each["name"]: folder
            for each in promotion["contenders"]
            if each["name"] in (promotion["winner"], promotion["reference"])
            and (folder := _finished_run(study, each["runs"])) is not None
        }
        if promotion["winner"] in folders:
            return _confirmed(study, promotion["winner"], folders, beside)
    return _best_so_far(study, beside, is_promoted=promotion is not None)


def _confirmed(study: StudyFolder, winner: str, folders: Mapping[str, Path], beside: Sequence[Path]) -> str:
    """The winner of a promotion, beside what it had to beat."""
    folder = folders[winner]
    peers = [
        Beside(other, name, load_report(other / FILE_NAME)) for name, other in folders.items() if name != winner
    ] + load_beside(beside, comparable(load_report(folder / FILE_NAME)), str(study.path))
    told = f"<p>{escape(winner)}, retrained on a fresh seed: confirm/{escape(folder.name)}.</p>"
    return told + pictures_of_run(folder, "test", name=winner, beside=peers).html


def _best_so_far(study: StudyFolder, beside: Sequence[Path], *, is_promoted: bool) -> str:
    """The best trial of the search, on what it was chosen by; why not, if its weights or its data are out of reach."""
    peers = load_beside(beside, task_protocol(load_task(study.base.task)), str(study.path)) if beside else []
    best = study.best
    if best is None:
        return remark("No trial can be drawn yet: none has run to its end and holds the constraints.")
    name, folder = f"trial {best.number}", study.run_folder(best)
    if not checkpoint_of(folder).is_file():
        return remark(
            f"Of {name}, the best so far, nothing is drawn: its weights are not in runs/{folder.name}. They were "
            "removed to free the disk, or are on another machine; `ups promote` trains it anew."
        )
    try:
        drawn = pictures_of_run(folder, "validation", name=name, beside=peers).html
    except (UserError, OSError) as error:
        return remark(f"Of {name}, the best so far, nothing is drawn: {str(error).replace(f'{folder}: ', '')}.")
    told = (
        f"{name.capitalize()}, the best so far, on validation trajectories: the search has chosen it for its errors on "
        "these, so it probably looks better here than it is. "
    )
    told += (
        "The promotion has left no test report of a winner."
        if is_promoted
        else "`ups promote` retrains the best on fresh seeds; then the winner is drawn on test trajectories."
    )
    return remark(told) + drawn


def _finished_run(study: StudyFolder, runs: Sequence[Mapping[str, Any]]) -> Path | None:
    """Folder of the first of these runs that still has its report."""
    folders = (study.path / "confirm" / run["folder"] for run in runs)
    return next((folder for folder in folders if (folder / FILE_NAME).is_file()), None)


def _course(study: StudyFolder) -> str:
    if not study.trials:
        return remark("No trials yet.")
    return gallery([figures.scores_over_trials(study), figures.best_over_time(study), figures.learning_curves(study)])


def _pareto(study: StudyFolder) -> str:
    front = pareto_front(study.trials, study.config)
    if not front:
        return remark("No trial is on it yet.")
    names = ", ".join(objective.metric for objective in study.config.objectives)
    told = f"The trials that no other one beats in all of {names}."
    return (
        f"<p>{escape(told)}</p>" + gallery(figures.pareto(study)) + report_tables.scored("Pareto front", front, study)
    )


def _dependence(study: StudyFolder, names: Mapping[int, Mapping[str, str]]) -> str:
    ranking = rank(study, names)
    order = ranking.order()
    charts = importances(ranking)
    charts.insert(1, parallel_coordinates(study, order))
    each = slices(study, order)
    parts = [uneven_gallery(charts)] if any(charts) else []
    if not_judged(ranking):
        parts.append(remark(not_judged(ranking)))
    parts.append(gallery(each[:SLICES]))
    if len(each) > SLICES:
        parts.append(details(f"{len(each) - SLICES} more parameters", gallery(each[SLICES:])))
    return "".join(parts)


def _sharing(study: StudyFolder, names: Mapping[int, Mapping[str, str]]) -> str:
    roots = prefixes(study, names)
    if not roots:
        return remark("No trial has trained a stage yet.")
    return gallery([stage_tree(study, roots)]) + report_tables.sharing(study, roots)


def _stopped(study: StudyFolder) -> str:
    found = endings(study.trials)
    if not found:
        return remark("Every trial ran to the end." if study.trials else "No trials yet.")
    return gallery([endings_over_trials(study.trials)]) + report_tables.stopped(found)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
