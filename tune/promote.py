"""From the best trials of a study to a golden YAML: confirmed on fresh seeds, judged once on test trajectories."""

from __future__ import annotations

import fcntl
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np

from tune import golden
from tune.confirm import compare, seed_deviation
from tune.contenders import Contender, choose, fresh_seeds
from tune.ledger import Ledger, earlier_reads
from tune.objectives import broken
from tune.parts import PARTS, Parts
from tune.promotion import RECORD, Promotion, provenance, shown, summary
from tune.retrain import Job, Retraining, default_workers, retrain
from tune.space import SearchConfig
from tune.study import StudyFolder, load_study
from ups.cli.terminal import shown_seconds
from ups.config import RunConfig
from ups.core.errors import UserError
from ups.core.runtime import write_atomic
from ups.core.tracking import Shown, Tracker, WandbConfig
from ups.core.types import Status

Say = Callable[[str], None]
Count = Callable[[str, int, int], None]
"""is told (what, how many of it are done, how many there are)"""

_FOLDER = "confirm"
_BASELINES = ("persistence", "mean", "coarse_solver")


def promote(
    study: Path,
    *,
    top: int | None,
    seeds: int | None,
    out: Path,
    replace: bool = False,
    force: bool = False,
    workers: int | None = None,
    say: Say = print,
    count: Count = lambda what, done, wanted: None,
    parts: Parts = PARTS,
) -> Promotion:
    """Retrain the best trials on fresh seeds and write the winner to `out` if it really is better.

    The winner among the candidates is the one with the best mean *validation* score that holds the study's constraints
    on every fresh seed. The test split is then read once, for the winner and for what it has to beat: the golden at
    `out` (with `replace`), or else the base. Of a study with several objectives the candidates are its Pareto front,
    and the error alone decides among them: a golden is one config, and the other objectives have had their say.

    Args:
        top, seeds: how many trials, on how many fresh seeds; None takes the study's own.
        replace: `out` may exist and is then the golden to beat.
        force: write the winner even if it is not confirmed; its provenance says so.
        workers: retrainings at a time; None fills the machine.
        say: is given lines of progress, and the summary at the end.
        count: is told how far the retrainings, and then the readings of the test split, are.
        parts: training, evaluation and data.

    Raises:
        UserError: the target, the study, its data or a number is refused; nothing was trained.
    """
    golden.check_target(out, replace)
    opened = load_study(study)
    top = opened.config.confirm.top if top is None else top
    seeds = opened.config.confirm.seeds if seeds is None else seeds
    if top < 1:
        raise UserError(f"--top: at least 1, got {top}")
    if seeds < 2:
        raise UserError(f"--seeds: at least 2, one seed shows no spread over seeds; got {seeds}")
    current = golden.load_golden(out, opened.base) if out.exists() else None
    with _alone(opened.path):
        found = _confirm(opened, current, out, top, seeds, workers, say, count, parts)
        if found.winner is not None and (found.confirmed or force):
            found = _write(found, opened, current)
        write_atomic(opened.path / RECORD, json.dumps(found.to_json(), indent=1).encode())
    for line in summary(found):
        say(line)
    if found.written:
        _show(found, opened, say)
    return found


def _show(found: Promotion, study: StudyFolder, say: Say) -> None:
    """The golden as an artifact at wandb, beside the trials of its study, where those are shown."""
    name = study.config.resources.study_name or study.path.resolve().name
    assert found.winner is not None
    config = found.contender(found.winner).config
    shown = Shown(study.path / _FOLDER, f"golden of {name}", "promote", config.model_dump(mode="json"), name)
    tracker = Tracker(study.base.logging.wandb, shown)
    facts = {"study": found.study, "winner": found.winner, "verdict": found.verdict, "confirmed": found.confirmed}
    tracker.log_file(found.out.absolute(), "golden-" + re.sub(r"[^\w.-]", "_", name), "golden", facts)
    tracker.end(Status.COMPLETE, found.verdict, {"score": found.contender(found.winner).mean_score, **facts})
    if tracker.failure is not None:
        say(f"wandb: {tracker.failure}; the golden is not shown there")


def _confirm(
    study: StudyFolder,
    current: RunConfig | None,
    out: Path,
    top: int,
    number: int,
    workers: int | None,
    say: Say,
    count: Count,
    parts: Parts,
) -> Promotion:
    """Everything up to the verdict; nothing is written outside of STUDY/confirm."""
    candidates, base, reference = choose(study, top, current)
    seeds = fresh_seeds(study, current, number)
    found = Promotion(study.path.resolve().name, out, seeds, parts.data_hash(study.base), reference=reference.name)
    ledger = Ledger(study.path / _FOLDER, parts.read_test, say, count)
    earlier = earlier_reads([current, study.base], found.study, found.data)
    found = replace(found, test_reads={"in_this_study": ledger.count, "total": ledger.count + earlier})
    if not candidates:
        states = Counter(str(trial.state) for trial in study.trials)
        seen = ", ".join(f"{number} {state}" for state, number in states.most_common()) or "no trials"
        rule = " and holds the constraints" if study.config.constraints else ""
        return replace(found, verdict=f"nothing to promote: no trial ran to the end{rule} ({seen})")

    everyone = {contender.name: contender for contender in (*candidates, reference, base)}
    contenders = _retrained(study, list(everyone.values()), seeds, workers, say, count, parts)
    found = replace(
        found,
        contenders=contenders,
        core_seconds=_core_seconds(study, contenders),
    )
    spread = [run.score for run in found.contender("base").runs if run.complete and run.score is not None]
    found = replace(found, noise_floor={"validation": seed_deviation(spread), "test": None})
    tried = [found.contender(candidate.name) for candidate in candidates]
    finalists = [contender for contender in tried if contender.is_complete]
    if not finalists:
        ends = "; ".join(map(_failure, tried))
        return replace(found, verdict=f"nothing to promote: no candidate came through on every fresh seed ({ends})")
    finalists.sort(key=lambda finalist: finalist.mean_score or 0.0)
    breaches = {finalist.name: _breach(finalist, study.config) for finalist in finalists}
    winner = next((finalist for finalist in finalists if not breaches[finalist.name]), None)
    ahead = finalists if winner is None else finalists[: finalists.index(winner)]
    found = replace(found, passed_over={finalist.name: breaches[finalist.name] for finalist in ahead})
    if winner is None:
        return replace(found, verdict="nothing to promote: no candidate holds the constraints on every fresh seed")
    found = replace(found, winner=winner.name)
    if winner.name == found.reference:
        return replace(found, verdict=f"not confirmed: no trial does better than the {winner.name} on validation")
    found = _judged(found, ledger)
    return replace(found, test_reads={"in_this_study": ledger.count, "total": ledger.count + earlier})


def _failure(contender: Contender) -> str:
    broken = [run for run in contender.runs if not run.complete]
    return f"{contender.name} on {len(broken)} of {len(contender.runs)}: {broken[0].status}, {broken[0].reason}"


def _breach(contender: Contender, config: SearchConfig) -> str:
    """The constraints that its retrainings broke, with the seeds; empty if all held."""
    found = [f"{each} (seed {run.seed})" for run in contender.runs for each in broken(run.metrics, config)]
    return "; ".join(found)


def _retrained(
    study: StudyFolder,
    contenders: list[Contender],
    seeds: tuple[int, ...],
    workers: int | None,
    say: Say,
    count: Count,
    parts: Parts,
) -> tuple[Contender, ...]:
    """The contenders with their runs on the fresh seeds."""
    jobs, owner = [], {}
    for seed in seeds:
        for contender in contenders:
            folder = study.path / _FOLDER / f"{contender.folder}-s{seed}"
            jobs.append(Job(_seeded(study, contender.config, seed), folder, study.store))
            owner[folder] = contender.name
    workers = min(workers or default_workers(jobs[0].config), len(jobs))
    names = ", ".join(contender.name for contender in contenders)
    say(
        f"retraining {names} on fresh seeds {', '.join(map(str, seeds))}: {len(jobs)} runs, {workers} at a time, "
        f"about {shown_seconds(_expected_seconds(study, contenders) * len(seeds) / workers)}"
    )
    runs: dict[tuple[str, int], Retraining] = {}
    count("retraining", 0, len(jobs))
    for done, (job, run) in enumerate(retrain(jobs, parts.train, workers), start=1):
        name = owner[job.folder]
        runs[name, run.seed] = run
        end = shown(run.score) if run.complete else f"{run.status}: {run.reason}"
        took = "trained before" if run.reused else f"{run.seconds:.0f} s"
        say(f"[{done}/{len(jobs)}] {name}, seed {run.seed}: {end} ({took})")
        count("retraining", done, len(jobs))
    return tuple(
        replace(contender, runs=tuple(runs[contender.name, seed] for seed in seeds)) for contender in contenders
    )


def _expected_seconds(study: StudyFolder, contenders: list[Contender]) -> float:
    """Of training each contender once from its beginning, by what its trial took; a config that was none takes as
    long as the others."""
    numbers = [0 if contender.name == "base" else contender.trial for contender in contenders]
    took = {trial.number: trial.seconds + sum(trial.reused_seconds.values()) for trial in study.trials}
    return fmean(took[number] for number in numbers if number in took) * len(contenders)


def _judged(found: Promotion, ledger: Ledger) -> Promotion:
    """The verdict by the test split, on the seeds that winner and reference both came through."""
    assert found.winner is not None
    winner, reference = found.contender(found.winner), found.contender(found.reference)
    pairs = [(ours, theirs) for ours, theirs in zip(winner.runs, reference.runs, strict=True) if theirs.complete]
    if len(pairs) < 2:
        verdict = f"not confirmed: {reference.name} came through on {len(pairs)} of {len(found.seeds)} seeds, which is "
        return replace(found, verdict=verdict + "too few to compare with")
    readings = ledger.read(winner.name, reference.name, [run.folder for pair in pairs for run in pair])
    errors = {
        contender.name: np.array([readings[pair[side].folder].errors_S for pair in pairs])
        for side, contender in enumerate((winner, reference))
    }
    known = readings[pairs[0][0].folder].metrics
    found = replace(
        found,
        test={
            contender.name: {pair[side].seed: float(np.mean(readings[pair[side].folder].errors_S)) for pair in pairs}
            for side, contender in enumerate((winner, reference))
        },
        baselines={name: known[f"{name}_rollout_nrmse"] for name in _BASELINES if f"{name}_rollout_nrmse" in known},
        noise_floor={**found.noise_floor, "test": seed_deviation(errors[reference.name].mean(axis=1).tolist())},
    )
    # a trajectory on which the reference diverges is left out, in its favour; the winner may not diverge on any
    usable_S = np.isfinite(errors[reference.name]).all(axis=0)
    lost = int((~np.isfinite(errors[winner.name])).any(axis=0).sum())
    if lost:
        return replace(found, verdict=f"not confirmed: {winner.name} diverges on {lost} test trajectories")
    if usable_S.sum() < 2:
        return replace(found, verdict=f"not confirmed: {reference.name} diverges on the test trajectories")
    comparison = compare(errors[winner.name][:, usable_S], errors[reference.name][:, usable_S])
    verdict = (
        f"confirmed: {winner.name} beats the {reference.name}"
        if comparison.confirmed
        else f"not confirmed: {comparison.verdict} ({winner.name} against the {reference.name})"
    )
    return replace(found, comparison=comparison, confirmed=comparison.confirmed, verdict=verdict)


def _write(found: Promotion, study: StudyFolder, current: RunConfig | None) -> Promotion:
    """The golden on disk, with its first fresh seed: training it repeats that seed's score."""
    assert found.winner is not None
    winner = found.contender(found.winner)
    config = _seeded(study, winner.config, found.seeds[0])
    headline = f"golden config of the study {found.study}: {winner.name}\n{found.verdict}"
    golden.write_golden(found.out, config, provenance(found, study, current, config), headline)
    return replace(found, written=True)


def _seeded(study: StudyFolder, config: RunConfig, seed: int) -> RunConfig:
    """With the seed, and the threads that a trial of the search had: sums depend on how many share them.

    Not shown at wandb: whoever trains a golden config is not to send his run to a project of ours.
    """
    threads = config.runtime.threads or study.config.resources.cpus_per_worker
    off = WandbConfig().model_dump(mode="json")
    return config.override({"runtime.seed": seed, "runtime.threads": threads, "logging.wandb": off})


def _core_seconds(study: StudyFolder, contenders: tuple[Contender, ...]) -> dict[str, float]:
    searched = sum(trial.seconds for trial in study.trials) * study.config.resources.cpus_per_trial
    confirmed = sum(run.seconds * run.threads for contender in contenders for run in contender.runs)
    return {"search": round(searched, 1), "confirmation": round(confirmed, 1)}


@contextmanager
def _alone(study: Path) -> Iterator[None]:
    """Hold the study's confirmation: two promotions must not train into the same folders.

    Raises:
        UserError: another promotion holds it, or the folder cannot be written.
    """
    folder = study / _FOLDER
    try:
        folder.mkdir(exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115 (held until the end)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{study}: another promotion of this study is running") from None
        yield
