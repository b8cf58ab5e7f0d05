"""Laws of what a report says of a search at test time."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from ups.config import RunConfig
from ups.data.task import Task, Trajectories, load_task
from ups.evaluation import paired as paired_module
from ups.evaluation import searched
from ups.evaluation.compare import compare_html
from ups.evaluation.evaluate import Report, evaluate_run, score
from ups.evaluation.foreign import evaluate_file
from ups.evaluation.report import load_report, report_table, save_report
from ups.evaluation.search_report import SearchReport
from ups.evaluation.search_table import budget_png
from ups.evaluation.searched import budgets, evaluate_search, with_candidates, with_search
from ups.inference.reward_fit import fit_search
from ups.inference.rewards import FittedReward
from ups.inference.search import Search
from ups.inference.search_config import SearchConfig
from ups.inference.surrogate import Surrogate
from ups.run import build_run_surrogate

SETTINGS = SearchConfig(candidates=4, noise_std=0.05)


@pytest.fixture(autouse=True, scope="module")
def fewer_resamples() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired_module, "RESAMPLES", 500)
        yield


def some(trajectories: Trajectories, rows: list[int]) -> Trajectories:
    return replace(
        trajectories, fields_STXC=trajectories.fields_STXC[rows], parameters_SP=trajectories.parameters_SP[rows]
    )


@pytest.fixture(scope="module")
def task(tiny: dict[str, Any]) -> Task:
    return load_task(RunConfig.parse(tiny).task)


@pytest.fixture(scope="module")
def surrogate(tiny: dict[str, Any], task: Task) -> Surrogate:
    """Untrained, with an operator that does not leave every field as it is."""
    made = build_run_surrogate(RunConfig.parse(tiny), task).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=random))
    return made


@pytest.fixture(scope="module")
def search(surrogate: Surrogate, task: Task) -> Search:
    return fit_search(surrogate, SETTINGS, task.train)


@pytest.fixture(scope="module")
def found(surrogate: Surrogate, search: Search, task: Task) -> SearchReport:
    return evaluate_search(surrogate, search, task.test)


@pytest.fixture(scope="module")
def report(surrogate: Surrogate, search: Search, task: Task) -> Report:
    deployed = surrogate.with_search(search)
    return with_search(evaluate_run(deployed, task), deployed, task.test)


def test_the_errors_are_the_scores(surrogate: Surrogate, search: Search, task: Task, found: SearchReport) -> None:
    assert found.nrmse == pytest.approx(score(surrogate.with_search(search), task.test))
    assert found.plain_nrmse == pytest.approx(score(surrogate, task.test))
    assert found.ratio == pytest.approx(found.nrmse / found.plain_nrmse)
    assert found.gain is not None
    assert found.gain.difference == pytest.approx(found.nrmse - found.plain_nrmse)
    assert found.gain.low <= found.gain.difference <= found.gain.high


def test_a_run_with_a_search_has_a_row_without_it(report: Report, found: SearchReport) -> None:
    assert report.ttc is not None
    assert report.metrics["plain_rollout_nrmse"] == pytest.approx(found.plain_nrmse)
    assert report.metrics["plain_rollout_nrmse"] == report.metrics["reencode_rollout_nrmse"]
    assert report.metrics["rollout_nrmse"] == pytest.approx(found.nrmse)


def test_a_run_without_a_search_is_reported_as_before(surrogate: Surrogate, task: Task) -> None:
    plain = evaluate_run(surrogate, task)
    assert with_search(plain, surrogate, task.test) is plain
    assert "plain_rollout_nrmse" not in plain.metrics


def test_no_choice_of_one_step_is_better_than_the_oracles(found: SearchReport) -> None:
    assert found.one_step_oracle <= 1  # candidate 0 is the plain step
    assert found.one_step_oracle <= found.one_step_reward


@pytest.mark.parametrize("choice", ["sample", "token"])
def test_over_one_step_the_oracle_is_never_worse_than_the_plain_rollout(
    surrogate: Surrogate, task: Task, choice: str
) -> None:
    one_step = replace(task.test, fields_STXC=task.test.fields_STXC[:, :2])
    found = evaluate_search(surrogate, Search(SETTINGS.override({"choice": choice}), FittedReward(())), one_step)
    assert list(found.oracle_nrmse) == ["sample", "token"][: 1 + (choice == "token")]
    assert all(value <= found.examined_plain_nrmse for value in found.oracle_nrmse.values())


def test_the_cost_is_counted_for_each_trajectory(
    surrogate: Surrogate, search: Search, task: Task, found: SearchReport
) -> None:
    steps = task.test.fields_STXC.shape[1] - 1
    assert (found.plain_cost.operator, found.plain_cost.evaluations) == (steps, 0)
    assert found.plain_cost.decoder == 2 * steps
    assert found.cost.operator == steps
    assert found.cost.evaluations == steps * SETTINGS.candidates
    assert found.cost.decoder == steps * (SETTINGS.candidates + 1)
    assert found.cost.most == SETTINGS.candidates
    assert found.cost.seconds > 0
    # the cost of a trajectory does not depend on how many there are
    two = evaluate_search(surrogate, search, some(task.test, [0, 1]))
    assert two.cost.decoder == found.cost.decoder


def test_the_curve_starts_at_the_plain_rollout_and_passes_the_search(found: SearchReport) -> None:
    by_candidates = {point.candidates: point for point in found.curve}
    assert list(by_candidates) == budgets(4) == [1, 2, 4, 8, 16]
    assert by_candidates[1].nrmse == found.examined_plain_nrmse
    assert by_candidates[4].nrmse == found.examined_nrmse
    assert [point.evaluations for point in found.curve] == list(by_candidates)


@pytest.mark.parametrize(
    ("configured", "wanted"), [(1, [1]), (2, [1, 2, 4, 8]), (6, [1, 2, 4, 6, 8, 16]), (32, [1, 2, 4, 8, 16, 32])]
)
def test_budgets_are_powers_of_two_and_what_is_configured(configured: int, wanted: list[int]) -> None:
    assert budgets(configured) == wanted


def test_a_wider_search_is_not_cut_off_by_the_budget_of_the_configured_one() -> None:
    config = SearchConfig(candidates=8, beam_width=4, max_evaluations=32, rounds=2)
    assert with_candidates(config, 16).max_evaluations == 64
    assert with_candidates(config, 8) == config
    assert with_candidates(config, 1).rounds == 1


def test_ranks_are_those_of_what_was_judged(found: SearchReport) -> None:
    assert found.correlation is not None
    assert -1 <= found.correlation <= 1
    assert {term.name for term in found.terms} >= {"conservation", "residual"}
    used = [term for term in found.terms if term.used]
    assert used
    if [term.name for term in used] == ["residual"]:
        # one distance alone ranks as the merit does, up to what the tolerance leaves to ties
        assert used[0].correlation == pytest.approx(found.correlation, abs=0.05)


def test_ranks_of_perfect_and_of_reversed_values() -> None:
    error = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
    judged = torch.ones(5, 6, dtype=torch.bool)
    judged[2:, 4:] = False
    judged[4, 1:] = False  # a single candidate ranks nothing
    for sign in (1, -1):
        parts = searched._correlations(sign * error, error, judged)
        assert sum(len(part) for part in parts) == 4
        assert all(part == pytest.approx(sign) for part in parts)


def test_examined_trajectories_lie_evenly_and_are_told(surrogate: Surrogate, search: Search, task: Task) -> None:
    found = evaluate_search(surrogate, search, task.test, examined=2)
    ends = some(task.test, [0, -1])
    assert found.examined == 2
    assert found.examined_plain_nrmse == pytest.approx(score(surrogate, ends), rel=1e-4)
    assert found.plain_nrmse == pytest.approx(score(surrogate, task.test))


def test_one_candidate_is_the_plain_rollout_and_says_so(surrogate: Surrogate, task: Task) -> None:
    search = fit_search(surrogate, SearchConfig(candidates=1), task.train)
    found = evaluate_search(surrogate, search, task.test)
    assert found.nrmse == found.plain_nrmse
    assert (found.oracle_nrmse, found.correlation, len(found.curve)) == ({}, None, 1)
    words = found.words(None, None)
    assert "undecided" in words[0]
    assert "nothing to choose from" in words[1]


def test_the_words_say_what_the_interval_allows(found: SearchReport) -> None:
    assert found.gain is not None
    helps = replace(found, gain=replace(found.gain, difference=-0.1, low=-0.2, high=-0.05, per_seed=(-0.1,)))
    harms = replace(found, gain=replace(found.gain, difference=0.1, low=0.05, high=0.2, per_seed=(0.1,)))
    open_ = replace(found, gain=replace(found.gain, difference=-0.1, low=-0.2, high=0.05, per_seed=(-0.1,)))
    for each, word in ((helps, "it helps"), (harms, "it harms"), (open_, "undecided, the interval includes zero")):
        assert word in each.words(None, None)[0]
    assert "no interval" in replace(found, gain=None).words(None, None)[0]


def test_a_reward_that_solves_the_equation_says_so(found: SearchReport) -> None:
    solving = replace(found, solver_nrmse=0.02, solver_seconds=0.1)
    (line,) = [line for line in solving.words(0.0093, 0.014) if "holds a solver" in line]
    assert "alone has 0.02 in 0.1 s" in line
    assert "the coarse solver 0.0093 in 0.014 s" in line
    without = replace(found, solver_nrmse=None, solver_seconds=None)
    assert not any("solver" in line for line in without.words(0.0093, 0.014))


def test_the_solver_of_the_reward_stands_beside(found: SearchReport) -> None:
    used = {term.name for term in found.terms if term.used}
    assert (found.solver_nrmse is not None) == ("residual" in used)
    assert found.solver_nrmse is None or found.solver_nrmse < 0.2


def test_it_is_read_back_as_it_was_written(report: Report, tmp_path: Path) -> None:
    assert report.ttc is not None
    diverged = replace(
        report.ttc, nrmse=math.inf, gain=None, correlation=None, oracle_nrmse={"sample": math.inf},
        solver_nrmse=math.inf, solver_seconds=0.1, curve=(replace(report.ttc.curve[0], nrmse=math.inf),),
    )  # fmt: skip
    for each in (report, replace(report, ttc=diverged), replace(report, ttc=None)):
        save_report(each, tmp_path / "report.json")
        assert load_report(tmp_path / "report.json") == each
        json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert diverged.to_json()["ratio"] is None


def test_a_search_that_diverges_has_no_interval_and_no_numbers_that_are_none(
    surrogate: Surrogate, search: Search, task: Task
) -> None:
    broken = replace(task.test, fields_STXC=task.test.fields_STXC.copy())
    broken.fields_STXC[0, 0] = 1e30
    found = evaluate_search(surrogate, search, broken)
    assert found.gain is None
    json.dumps(found.to_json(), allow_nan=False)
    found.words(0.1, 0.1)


def text(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_terminal_and_page_show_every_part(report: Report) -> None:
    shown = text(report_table(report, "run"))
    wanted = ("without its search", "oracle, choice by token", "4 (configured)", "residual", "rank corr", "judged")
    assert all(word in shown for word in wanted)
    page = compare_html({"<a>": report, "b": replace(report, ttc=None)})
    assert page.count("<h2>Search at test time") == 1
    assert "<h2>Search at test time: &lt;a&gt;" in page
    assert page.count("data:image/png;base64,") == 3
    assert "oracle, choice by token" in page
    assert report.ttc is not None
    lost = replace(report.ttc, nrmse=math.inf, curve=tuple(replace(p, nrmse=math.inf) for p in report.ttc.curve))
    for each in (report, replace(report, ttc=lost)):
        assert imread(io.BytesIO(budget_png(each)), format="png").std() > 0.01
        assert "nan" not in text(report_table(each, "run")).split()


def test_another_file_is_scored_with_and_without(surrogate: Surrogate, search: Search, burgers_file: Path) -> None:
    found = evaluate_file(surrogate.with_search(search), burgers_file)
    assert found.ttc is not None
    assert found.ttc.plain_nrmse == pytest.approx(found.metrics["plain_rollout_nrmse"])
    assert found.ttc.nrmse == pytest.approx(found.metrics["rollout_nrmse"])
    assert any("search: rollout nRMSE" in note for note in found.notes)
