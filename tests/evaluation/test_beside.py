"""Runs beside another one: on the same trajectories, or refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ups.config import RunConfig
from ups.core.errors import UserError
from ups.data.task import Task, load_task
from ups.evaluation.beside import Errors, Measured, beside_table, error_over_time, load_beside, task_protocol
from ups.evaluation.compare import comparable
from ups.evaluation.evaluate import evaluate_run
from ups.evaluation.pictures import pictures_of_run
from ups.evaluation.report import load_report, reference_curves
from ups.evaluation.run_page import run_page
from ups.evaluation.runs import task_of
from ups.inference.build import load_surrogate


@pytest.fixture(scope="module")
def task(tiny: dict[str, Any]) -> Task:
    return load_task(RunConfig.parse(tiny).task)


def without_a_report(run: Path, out: Path) -> Path:
    """As a search leaves its trials."""
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("report.json", "store"))
    return out


def changed(run: Path, out: Path, protocol: dict[str, Any]) -> Path:
    """The same run with another protocol in its report."""
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("store"))
    report = json.loads((out / "report.json").read_text())
    report["protocol"] |= protocol
    (out / "report.json").write_text(json.dumps(report))
    return out


def cells(page: str) -> dict[str, list[str]]:
    """Rows of the table of those who stand beside each other."""
    body = re.search('aria-label="Beside".*?<tbody>(.*?)</tbody>', page)
    assert body
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall("<tr>(.*?)</tr>", body[1])]
    return {row[0]: row[1:] for row in rows}


def legend(page: str, split: str) -> list[str]:
    """Of the figure of errors over time."""
    (figure,) = re.findall(f"<figure><figcaption>Error over time on {split}.*?</figure>", page)
    return re.findall("</svg>([^<]*)</li>", figure)


def test_a_run_has_its_peers_from_their_reports(finished: Path, fno: Path) -> None:
    page = run_page(finished, [fno, fno])
    name = f"fno: {fno}"
    known = ["coarse solver", "initial mean", "persistence"]
    assert legend(page, "test") == ["10% and 90% quantiles of this run", "this run", name, *known]
    ours, theirs = (load_report(run / "report.json") for run in (finished, fno))
    error, other = (report.metrics["rollout_nrmse"] for report in (ours, theirs))
    weights = [f"{report.cost['parameters']:,.0f}" for report in (ours, theirs)]
    assert weights[0] != weights[1]
    assert cells(page) == {
        "this run": [f"{error:.4g}", "", weights[0]],
        name: [f"{other:.4g}", f"{error / other:.3g}", weights[1]],
    }


def test_where_there_is_no_report_everybody_is_rolled_out_on_the_same_validation_trajectories(
    finished: Path, fno: Path, task: Task, tmp_path: Path
) -> None:
    page = run_page(without_a_report(finished, tmp_path / "trial"), [fno])
    assert "Of validation trajectories: the run has no report on test" in page
    assert "ypical test" not in page
    # no more of them than are rolled out
    ours, theirs = (evaluate_run(load_surrogate(run), task, "validation") for run in (finished, fno))
    error, other = (report.metrics["rollout_nrmse"] for report in (ours, theirs))
    name = f"fno: {fno}"
    rows = cells(page)
    assert [rows[each][0] for each in ("this run", name)] == [f"{error:.4g}", f"{other:.4g}"]
    assert rows[name][1] == f"{error / other:.3g}"
    models = [
        Measured("this run", error, {"nrmse": ours.curves["nrmse"]}),
        Measured(name, other, {"nrmse": theirs.curves["nrmse"]}),
    ]
    wanted = Errors(
        models, reference_curves(ours.curves), ours.curves["time"], "validation", "4 validation trajectories"
    )
    assert error_over_time(wanted) in page


def test_a_report_on_validation_does_not_stand_beside_one_on_test(finished: Path, fno: Path, tmp_path: Path) -> None:
    run = changed(finished, tmp_path / "run", {"split": "validation"})
    with pytest.raises(UserError, match=r"report\.json: is not about test trajectories, as --beside needs; `ups evalu"):
        run_page(run, [fno])
    assert "Error over time on validation" in run_page(run)
    # the page of a study rolls everybody out
    peers = load_beside([fno], task_protocol(task_of(run)), "the study")
    html = pictures_of_run(run, "validation", beside=peers).html
    other = load_report(fno / "report.json").metrics["rollout_nrmse"]
    assert cells(html)[f"fno: {fno}"][0] != f"{other:.4g}"


def test_a_peer_without_weights_is_named(finished: Path, fno: Path, task: Task, tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    shutil.copytree(fno, lost, ignore=shutil.ignore_patterns("checkpoints", "store"))
    peers = load_beside([lost], task_protocol(task), "it")
    drawn = pictures_of_run(finished, "validation", beside=peers)
    assert f"fno: {lost} is not shown: " in drawn.below
    assert f"fno: {lost}" not in "".join(drawn.figures)
    # on test its report is enough
    assert f"fno: {lost}" in "".join(pictures_of_run(finished, "test", beside=peers).figures)


@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        ({"cells": 64}, "cells 64 instead of 32"),
        ({"frames": 5}, "frames 5 instead of 9"),
        ({"data": "f00d"}, "other data or another split of it"),
        ({"split": "validation"}, "is not about test trajectories"),
    ],
)
def test_a_run_of_another_task_is_refused(
    finished: Path, fno: Path, task: Task, tmp_path: Path, protocol: dict[str, Any], told: str
) -> None:
    other = changed(fno, tmp_path / "other", protocol)
    for wanted in (comparable(load_report(finished / "report.json")), task_protocol(task)):
        assert len(load_beside([fno], wanted, "it")) == 1
        with pytest.raises(UserError, match=told) as refused:
            load_beside([other], wanted, "it")
        assert str(other) in str(refused.value)
    with pytest.raises(UserError, match=told):
        run_page(finished, [other])


def test_what_is_no_finished_run_is_refused(finished: Path, fno: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run here"):
        run_page(finished, [tmp_path])
    with pytest.raises(UserError, match=r"report\.json: no such report"):
        run_page(finished, [without_a_report(fno, tmp_path / "unread")])
    ended = changed(fno, tmp_path / "ended", {})
    result = json.loads((ended / "result.json").read_text())
    (ended / "result.json").write_text(json.dumps({**result, "status": "EXPLODED", "reason": "boom"}))
    with pytest.raises(UserError, match=r"ended EXPLODED \(boom\); --beside needs a run that is COMPLETE"):
        run_page(finished, [ended])
    (ended / "result.json").write_text(json.dumps(result))
    (ended / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml: not the config of a run"):
        run_page(finished, [ended])


def test_what_is_not_finite_has_no_ratio_and_breaks_no_figure() -> None:
    inf = float("inf")
    models = [Measured("a", 0.2, {"nrmse": [0.1, 0.3]}), Measured("b", inf, {"nrmse": [0.5, inf]})]
    errors = Errors(models, {}, [0.1, 0.2], "test", "2 test trajectories")
    figure = error_over_time(errors)
    assert "At the end: b not finite." in figure
    assert legend(figure, "test") == ["a", "b (not finite)"]
    assert not re.search(r'd="[^"]*(nan|inf)', figure)
    assert cells(beside_table(errors))["b"] == ["not finite", "–", "–"]
    assert beside_table(Errors(models[:1], {}, [0.1, 0.2], "test", "2 test trajectories")) == ""
