"""Promotion with made-up training: who is retrained, who wins, who may look at the test split, what is written."""

import dataclasses
import json
import os

import numpy as np
import pytest
from wandb_files import pages

from tune import contenders
from tune import promote as module
from tune.parts import Parts, Reading
from tune.promote import promote
from tune.space import SearchConfig
from tune.study import StudyFolder, TrialRecord
from ups.config import RunConfig, dump_yaml, load_config
from ups.core import tracking
from ups.core.errors import UserError
from ups.core.types import RunResult, Status
from ups.evaluation.runs import RESULT

TASK = {"equation": "burgers", "files": ["data/a.h5"], "train": 8, "validation": 2, "test": 20}
BASE = RunConfig.parse({"task": TASK})
SEARCH = SearchConfig.parse(
    {
        "base": "configs/base.yaml",
        "space": {"stages.operator.optimizer.lr": {"float": [1e-5, 1.0], "log": True}},
        "confirm": {"top": 3, "seeds": 3},
    }
)
LR = "stages.operator.optimizer.lr"


def record(number, lr, score, state=Status.COMPLETE, reason="", origin="sampled", **metrics):
    params = {} if lr is None else {LR: lr}
    return TrialRecord(number, state, score, reason, params, 10.0, (), {}, 100, origin, metrics)


def finish(folder, config, status, score, reason="", inference_ms=None):
    """What a training run leaves behind."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump_yaml(config))
    result = RunResult(status, reason, score, {}, 5.0, 100, folder, inference_ms=inference_ms)
    (folder / RESULT).write_text(json.dumps({**dataclasses.asdict(result), "folder": None}))
    return result


class World:
    """Scores by learning rate; None explodes. Counts what is trained and what is read of the test split."""

    def __init__(self, validation, test, spread=0.001, milliseconds=lambda lr, seed: 1.0):
        self.validation, self.test, self.spread, self.milliseconds = validation, test, spread, milliseconds
        self.trained, self.read, self.stores = [], [], set()

    def train(self, config, folder, store):
        self.stores.add(store)
        lr, seed = config.stages.operator.optimizer.lr, config.runtime.seed
        self.trained.append((lr, seed))
        score = self.validation[lr]
        if score is None:
            return finish(folder, config, Status.EXPLODED, None, "gradient norm 1e9 at step 3 of operator")
        took = self.milliseconds(lr, seed)
        return finish(folder, config, Status.COMPLETE, score + self.spread * (seed % 7) / 7, inference_ms=took)

    def read_test(self, folder):
        config = load_config(folder / "config.yaml")
        lr, seed = config.stages.operator.optimizer.lr, config.runtime.seed
        self.read.append((lr, seed))
        mean = self.test[lr](seed) if callable(self.test[lr]) else self.test[lr]
        per_trajectory = np.linspace(-0.01, 0.01, 20) + mean + self.spread * (seed % 7) / 7
        return Reading(tuple(per_trajectory.tolist()), {"mean_rollout_nrmse": 0.9, "rollout_nrmse": mean})

    @property
    def parts(self):
        return Parts(self.train, self.read_test, lambda config: "data0")


BASE_LR = BASE.stages.operator.optimizer.lr
TRIALS = (
    record(0, None, 0.30),
    record(1, 0.01, 0.10),
    record(2, 0.02, 0.11),
    record(3, 0.03, 0.12),
    record(4, 0.04, 0.13),
    record(5, 0.9, None, Status.EXPLODED, "boom"),
    record(6, 0.05, 0.01, Status.PRUNED),
)
VALIDATION = {BASE_LR: 0.30, 0.01: 0.15, 0.02: 0.12, 0.03: 0.14, 0.04: 0.01}
TEST = {BASE_LR: 0.30, 0.01: 0.01, 0.02: 0.13, 0.03: 0.14, 0.04: 0.01}


@pytest.fixture
def study(tmp_path, monkeypatch):
    folder = tmp_path / "study"
    folder.mkdir()

    def place(trials=TRIALS, base=BASE, search=SEARCH):
        monkeypatch.setattr(module, "load_study", lambda path: StudyFolder(path, search, base, tuple(trials)))
        return folder

    place()
    place.folder = folder
    return place


def run(study, world, out, **options):
    options = {"top": None, "seeds": None, "workers": 1, "say": lambda line: None, **options}
    return promote(study.folder, out=out, parts=world.parts, **options)


def test_winner_is_chosen_by_validation_and_only_finalists_are_tested(study, tmp_path):
    world = World(VALIDATION, TEST)
    counted = []
    found = run(study, world, tmp_path / "golden.yaml", count=lambda *count: counted.append(count))
    runs, seeds = 4 * len(found.seeds), len(found.seeds)
    assert counted == [
        *(("retraining", done, runs) for done in range(runs + 1)),
        *(("reading the test split", done, 2 * seeds) for done in range(2 * seeds + 1)),
    ]
    assert found.winner == "trial 2", "trial 1 led the search, and is best on test: neither counts"
    assert {lr for lr, _ in world.trained} == {0.01, 0.02, 0.03, BASE_LR}
    assert sorted(world.read) == sorted((lr, seed) for lr in (0.02, BASE_LR) for seed in found.seeds)
    assert found.confirmed
    assert found.written
    assert found.comparison.improvement == pytest.approx(0.17)


def limited(**limits):
    return SearchConfig.parse(
        {**SEARCH.model_dump(mode="json"), "constraints": {name: {"max": limit} for name, limit in limits.items()}}
    )


def test_a_trial_that_broke_a_constraint_in_the_search_is_no_candidate(study, tmp_path):
    trials = [
        record(1, 0.01, 0.10, inference_ms=9.0),
        record(2, 0.02, 0.11, inference_ms=5.0),
        record(3, 0.03, 0.12),
        record(4, 0.04, 0.13, inference_ms=1.0),
    ]
    study(trials, search=limited(inference_ms=5.0))
    world = World(VALIDATION, TEST)
    run(study, world, tmp_path / "golden.yaml")
    assert {lr for lr, _ in world.trained} == {0.02, 0.04, BASE_LR}, "too slow, and not measured, are left out"
    study([record(1, 0.01, 0.10, inference_ms=9.0)], search=limited(inference_ms=5.0))
    found = run(study, World(VALIDATION, TEST), tmp_path / "none.yaml")
    assert found.verdict == "nothing to promote: no trial ran to the end and holds the constraints (1 COMPLETE)"


def test_the_winner_holds_the_constraints_on_every_fresh_seed(study, tmp_path):
    trials = [record(number, lr, 0.1, inference_ms=1.0) for number, lr in ((1, 0.01), (2, 0.02), (3, 0.03))]
    study(trials, search=limited(inference_ms=5.0))
    seeds = contenders.fresh_seeds(StudyFolder(study.folder, SEARCH, BASE, tuple(trials)), None, 3)
    lines = []
    world = World(VALIDATION, TEST, milliseconds=lambda lr, seed: 9.0 if (lr, seed) == (0.02, seeds[1]) else 1.0)
    found = run(study, world, tmp_path / "golden.yaml", say=lines.append)
    assert found.winner == "trial 3", "trial 2 has the best mean, and is too slow once"
    assert {lr for lr, _ in world.read} == {0.03, BASE_LR}
    why = f"inference_ms 9, at most 5 (seed {seeds[1]})"
    assert found.passed_over == {"trial 2": why}
    assert f"trial 2 was passed over: {why}" in lines
    story = load_config(found.out).provenance
    assert story["constraints"] == {"inference_ms": 5.0}
    assert story["passed_over"] == found.passed_over
    assert [measured["inference_ms"] for measured in story["measured"]["golden"]] == [1.0] * 3


def test_nothing_is_promoted_if_no_candidate_holds_the_constraints(study, tmp_path):
    study([record(1, 0.01, 0.1, inference_ms=1.0)], search=limited(inference_ms=5.0))
    world = World(VALIDATION, TEST, milliseconds=lambda lr, seed: 9.0)
    found = run(study, world, tmp_path / "golden.yaml", force=True)
    assert found.verdict == "nothing to promote: no candidate holds the constraints on every fresh seed"
    assert list(found.passed_over) == ["trial 1"]
    assert not found.written
    assert world.read == []


def test_several_objectives_are_promoted_from_the_pareto_front_by_error(study, tmp_path):
    several = [{"metric": "rollout_nrmse"}, {"metric": "parameters"}]
    search = SearchConfig.parse({**SEARCH.model_dump(mode="json"), "objective": several})
    trials = [
        record(1, 0.01, 0.10, parameters=90),
        record(2, 0.02, 0.11, parameters=90),
        record(3, 0.03, 0.12, parameters=50),
        record(4, 0.04, 0.13, parameters=10),
    ]
    study(trials, search=search)
    world = World(VALIDATION, TEST)
    found = run(study, world, tmp_path / "golden.yaml", top=2)
    assert [each.name for each in found.contenders] == ["trial 1", "trial 3", "base"]
    assert found.winner == "trial 3"
    assert load_config(found.out).provenance["objectives"] == ["rollout_nrmse", "parameters"]


def test_the_base_on_further_seeds_is_no_candidate(study, tmp_path):
    study([*TRIALS, record(7, None, 0.001, origin="noise")])
    found = run(study, World(VALIDATION, TEST), tmp_path / "golden.yaml")
    assert [each.name for each in found.contenders] == ["trial 1", "trial 2", "trial 3", "base"]


@pytest.mark.parametrize("shared", [None, "elsewhere"])
def test_contenders_share_the_store_of_the_study(study, tmp_path, shared):
    study(search=SEARCH.override({"resources.store": None if shared is None else str(tmp_path / shared)}))
    world = World(VALIDATION, TEST)
    run(study, world, tmp_path / "golden.yaml")
    assert world.stores == {study.folder / "store" if shared is None else tmp_path / shared}


def test_the_golden_tells_everything_that_its_score_rests_on(study, tmp_path):
    story = load_config(run(study, World(VALIDATION, TEST), tmp_path / "golden.yaml").out).provenance
    assert set(story) >= {
        "study", "trial", "parent_golden", "commit", "data", "seeds", "scores", "mean", "improvement", "changed",
        "hardware", "versions", "core_seconds", "test_split_reads", "objectives", "constraints", "measured",
    }  # fmt: skip
    assert story["improvement"]["interval"] == sorted(story["improvement"]["interval"])


def test_seeds_are_fresh_repeatable_and_shared(study, tmp_path):
    world = World(VALIDATION, TEST)
    found = run(study, world, tmp_path / "a.yaml")
    assert len(set(found.seeds)) == 3
    assert BASE.runtime.seed not in found.seeds
    for lr in (0.01, 0.02, 0.03, BASE_LR):
        assert [seed for trained, seed in world.trained if trained == lr] == list(found.seeds)
    seeded = BASE.override({"runtime.seed": found.seeds[0]})
    study(base=seeded)
    assert found.seeds[0] not in run(study, World(VALIDATION, TEST), tmp_path / "b.yaml").seeds


def test_golden_round_trip(study, tmp_path):
    found = run(study, World(VALIDATION, TEST), tmp_path / "deep" / "golden.yaml")
    golden = load_config(found.out)
    story = golden.provenance
    assert golden.stages.operator.optimizer.lr == 0.02
    assert golden.runtime.seed == found.seeds[0]
    assert golden.runtime.threads == 1
    assert golden.task == BASE.task
    assert RunConfig.parse(golden.model_dump(mode="json")) == golden
    first = json.loads((study.folder / "confirm" / f"trial2-s{found.seeds[0]}" / RESULT).read_text())
    assert story["expected"] == {
        "seed": found.seeds[0],
        "validation_rollout_nrmse": first["score"],
        "test_rollout_nrmse": pytest.approx(found.test["trial 2"][found.seeds[0]]),
        "repeats_exactly": True,
    }
    assert story["trial"] == 2
    assert story["confirmed"] is True
    assert story["data"] == "data0"
    assert story["seeds"] == list(found.seeds)
    assert len(story["scores"]["golden"]["validation"]) == len(story["scores"]["reference"]["test"]) == 3
    assert story["improvement"]["interval"][0] > 0
    assert story["noise_floor"]["validation"] >= 0
    assert story["changed"] == {LR: {"base": BASE_LR, "here": 0.02}}
    assert story["test_split_reads"] == {"in_this_study": 1, "total": 1}
    assert story["core_seconds"] == {"search": 70.0, "confirmation": 60.0}
    assert story["test_baselines"] == {"mean": 0.9}
    assert {"commit", "hardware", "versions", "parent_golden"} <= set(story)
    assert str(tmp_path) not in found.out.read_text()


def test_promotion_record_is_strict_json(study, tmp_path):
    run(study, World(VALIDATION, {**TEST, BASE_LR: np.inf}), tmp_path / "g.yaml")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads((study.folder / "promotion.json").read_text(), parse_constant=refuse)
    assert data["winner"] == "trial 2"
    assert [each["name"] for each in data["contenders"]] == ["trial 1", "trial 2", "trial 3", "base"]


def test_not_confirmed_writes_nothing_unless_forced(study, tmp_path):
    worse = {**TEST, 0.02: 0.30}
    lines = []
    out = tmp_path / "golden.yaml"
    found = run(study, World(VALIDATION, worse), out, say=lines.append)
    assert not found.confirmed
    assert not found.written
    assert not out.exists()
    assert any("not confirmed: the interval includes zero" in line for line in lines)
    forced = run(study, World(VALIDATION, worse), out, force=True)
    assert forced.written
    assert load_config(out).provenance["confirmed"] is False


def test_seeds_that_disagree_do_not_confirm(study, tmp_path):
    """Two seeds are far better and one is slightly worse."""
    seeds = contenders.fresh_seeds(StudyFolder(study.folder, SEARCH, BASE, TRIALS), None, 3)
    mixed = {**TEST, 0.02: lambda seed: 0.302 if seed == seeds[1] else 0.1}
    found = run(study, World(VALIDATION, mixed, spread=0.0), tmp_path / "golden.yaml")
    assert found.comparison.improvement > 0.1
    assert not found.confirmed


def test_existing_target_is_refused_before_training(study, tmp_path):
    out = tmp_path / "golden.yaml"
    out.write_text(dump_yaml(BASE))
    world = World(VALIDATION, TEST)
    with pytest.raises(UserError, match="--replace"):
        run(study, world, out)
    assert world.trained == []
    assert not (study.folder / "confirm").exists()


def test_replace_compares_with_the_golden(study, tmp_path):
    out = tmp_path / "golden.yaml"
    reads = {"in_this_study": 2, "total": 5}
    story = {"seeds": [1, 2], "study": "other", "trial": 9, "data": "data0", "test_split_reads": reads}
    old = BASE.override({LR: 0.2, "runtime.seed": 1, "provenance": story})
    out.write_text(dump_yaml(old))
    world = World({**VALIDATION, 0.2: 0.2}, {**TEST, 0.2: 0.2})
    found = run(study, world, out, replace=True)
    assert found.reference == "golden"
    assert {lr for lr, _ in world.trained} == {0.01, 0.02, 0.03, 0.2, BASE_LR}
    assert {lr for lr, _ in world.read} == {0.02, 0.2}
    assert found.comparison.improvement == pytest.approx(0.07)
    after = load_config(out).provenance
    assert after["parent_golden"]["study"] == "other"
    assert after["parent_golden"]["trial"] == 9
    assert after["compared_with"] == "golden"
    assert after["test_split_reads"] == {"in_this_study": 1, "total": 6}


def test_better_golden_stays(study, tmp_path):
    out = tmp_path / "golden.yaml"
    out.write_text(dump_yaml(BASE.override({LR: 0.2})))
    before = out.read_bytes()
    found = run(study, World({**VALIDATION, 0.2: 0.05}, {**TEST, 0.2: 0.05}), out, replace=True)
    assert not found.written
    assert "worse than the reference" in found.verdict
    assert out.read_bytes() == before


def test_golden_of_another_task_is_refused(study, tmp_path):
    out = tmp_path / "golden.yaml"
    out.write_text(dump_yaml(RunConfig.parse({"task": {**TASK, "train": 4}})))
    world = World(VALIDATION, TEST)
    with pytest.raises(UserError, match=r"task\.train is 4 there and 8 in the study"):
        run(study, world, out, replace=True)
    assert world.trained == []


@pytest.mark.parametrize("target", ["folder", "file/golden.yaml"])
def test_impossible_targets_are_refused(study, tmp_path, target):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    world = World(VALIDATION, TEST)
    with pytest.raises(UserError, match="folder"):
        run(study, world, tmp_path / target)
    assert world.trained == []


def test_folder_without_permission_is_refused(study, tmp_path, monkeypatch):
    # the superuser may write everywhere, so the answer of the system is made up
    locked = tmp_path / "locked"
    locked.mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked and real(path, mode))
    world = World(VALIDATION, TEST)
    with pytest.raises(UserError, match="no permission"):
        run(study, world, locked / "new" / "golden.yaml")
    assert world.trained == []
    assert list(locked.iterdir()) == []


@pytest.mark.parametrize("numbers", [{"top": 0}, {"seeds": 1}])
def test_numbers_are_checked(study, tmp_path, numbers):
    with pytest.raises(UserError, match="at least"):
        run(study, World(VALIDATION, TEST), tmp_path / "g.yaml", **numbers)


def test_unreadable_data_is_refused_before_training(study, tmp_path):
    world = World(VALIDATION, TEST)

    def missing(config):
        raise UserError("data/a.h5: no such file")

    parts = dataclasses.replace(world.parts, data_hash=missing)
    with pytest.raises(UserError, match="no such file"):
        promote(study.folder, top=None, seeds=None, out=tmp_path / "g.yaml", workers=1, parts=parts)
    assert world.trained == []


def test_finished_retrainings_are_reused(study, tmp_path):
    first = World(VALIDATION, TEST)

    def interrupted(config, folder, store):
        if len(first.trained) == 5:
            raise KeyboardInterrupt
        return first.train(config, folder, store)

    out = tmp_path / "golden.yaml"
    parts = dataclasses.replace(first.parts, train=interrupted)
    with pytest.raises(KeyboardInterrupt):
        promote(study.folder, top=None, seeds=None, out=out, workers=1, say=lambda line: None, parts=parts)
    second = World(VALIDATION, TEST)
    lines = []
    found = run(study, second, out, say=lines.append)
    assert len(second.trained) == 12 - 5
    assert not set(first.trained) & set(second.trained)
    assert sum("trained before" in line for line in lines) == 5
    assert found.written


def test_test_split_is_read_once_for_the_same_question(study, tmp_path):
    run(study, World(VALIDATION, TEST), tmp_path / "a.yaml")
    again = World(VALIDATION, TEST)
    found = run(study, again, tmp_path / "b.yaml")
    assert again.read == again.trained == []
    assert found.test_reads["in_this_study"] == 1
    more = World(VALIDATION, TEST)
    assert run(study, more, tmp_path / "c.yaml", seeds=4).test_reads["in_this_study"] == 2
    assert len(more.read) == 2, "winner and base on the one new seed"


def test_changed_threads_train_anew(study, tmp_path, monkeypatch):
    run(study, World(VALIDATION, TEST), tmp_path / "a.yaml")
    two = SEARCH.override({"resources.cpus_per_worker": 2})
    monkeypatch.setattr(module, "load_study", lambda path: StudyFolder(path, two, BASE, TRIALS))
    again = World(VALIDATION, TEST)
    found = run(study, again, tmp_path / "b.yaml")
    assert len(again.trained) == 12
    assert load_config(found.out).runtime.threads == 2


def test_exploded_seed_rules_a_candidate_out(study, tmp_path):
    found = run(study, World({**VALIDATION, 0.02: None}, TEST), tmp_path / "golden.yaml")
    assert found.winner == "trial 3"


def test_all_candidates_explode(study, tmp_path):
    world = World({BASE_LR: 0.3, 0.01: None, 0.02: None, 0.03: None}, TEST)
    out = tmp_path / "golden.yaml"
    found = run(study, world, out, force=True)
    assert not found.written
    assert "no candidate came through" in found.verdict
    assert "gradient norm 1e9" in found.verdict
    assert world.read == []
    assert not out.exists()


def test_runs_that_did_not_end_well_have_no_score_in_the_golden(study, tmp_path):
    found = run(study, World({**VALIDATION, BASE_LR: None}, TEST), tmp_path / "golden.yaml", force=True)
    story = load_config(found.out).provenance
    assert story["scores"]["reference"]["validation"] == [None, None, None]
    assert story["confirmed"] is False
    assert story["test_split_reads"] == {"in_this_study": 0, "total": 0}


def test_base_that_explodes_leaves_nothing_to_compare_with(study, tmp_path):
    found = run(study, World({**VALIDATION, BASE_LR: None}, TEST), tmp_path / "golden.yaml")
    assert not found.confirmed
    assert "too few to compare with" in found.verdict


def test_no_complete_trial(study, tmp_path):
    study(trials=[record(0, 0.9, None, Status.EXPLODED), record(1, 0.5, 0.2, Status.PRUNED)])
    world = World(VALIDATION, TEST)
    found = run(study, world, tmp_path / "golden.yaml")
    assert not found.written
    assert "1 EXPLODED" in found.verdict
    assert world.trained == []


def test_base_that_leads_is_not_promoted(study, tmp_path):
    study(trials=[record(0, None, 0.05), record(1, 0.01, 0.10)])
    world = World({BASE_LR: 0.05, 0.01: 0.1}, TEST)
    found = run(study, world, tmp_path / "golden.yaml", top=1)
    assert found.winner == "base"
    assert not found.written
    assert world.read == [], "nothing to ask the test split"


def test_equal_configs_count_once(study, tmp_path):
    study(trials=[record(1, 0.01, 0.10), record(2, 0.01, 0.10), record(3, 0.03, 0.2)])
    found = run(study, World(VALIDATION, TEST), tmp_path / "golden.yaml", top=2)
    assert [each.name for each in found.contenders] == ["trial 1", "trial 3", "base"]


def test_winner_that_diverges_on_test_is_not_confirmed(study, tmp_path):
    found = run(study, World(VALIDATION, {**TEST, 0.02: np.inf}), tmp_path / "golden.yaml")
    assert not found.confirmed
    assert "diverges on 20 test trajectories" in found.verdict


def test_two_promotions_of_one_study_are_refused(study, tmp_path):
    world = World(VALIDATION, TEST)

    def nested(config, folder, store):
        with pytest.raises(UserError, match="another promotion"):
            run(study, World(VALIDATION, TEST), tmp_path / "b.yaml")
        return world.train(config, folder, store)

    parts = dataclasses.replace(world.parts, train=nested)
    options = {"top": 1, "seeds": 2, "workers": 1, "say": lambda line: None}
    promote(study.folder, out=tmp_path / "a.yaml", parts=parts, **options)


def test_the_golden_goes_to_wandb_where_its_study_did_and_is_not_shown_there_itself(study, tmp_path, monkeypatch):
    for name in ("START_SECONDS", "END_SECONDS"):  # a busy machine is slow to start wandb
        monkeypatch.setattr(tracking, name, 120.0)
    shown = BASE.override({"logging.wandb.mode": "offline", "logging.wandb.entity": "us"})
    study(base=shown)
    lines: list[str] = []
    found = run(study, World(VALIDATION, TEST), tmp_path / "golden.yaml", say=lines.append)
    assert found.written
    assert not [line for line in lines if line.startswith("wandb")]
    (page,) = pages(tmp_path / "study")
    assert (page.kind, page.group, page.summary["winner"]) == ("promote", "study", "trial 2")
    assert page.artifacts == [("golden-study", "golden")]
    golden = load_config(found.out)
    assert golden.logging == BASE.logging
    assert not [path for path in golden.provenance["changed"] if path.startswith("logging")]
