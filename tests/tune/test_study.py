"""The STUDY folder: who may write to it, what may change on a resume, what survives a kill."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tune.sampler import Proposer
from tune.study import OpenStudy, load_plan, load_study
from tune.trial import Outcome
from ups.core.errors import UserError
from ups.core.types import Status

LR = "stages.operator.optimizer.lr"


def test_a_study_is_read_back_as_it_was_planned(make_plan, base, tmp_path):
    plan = make_plan(start_from=(base.override({LR: 0.5}),))
    with OpenStudy(tmp_path / "s", plan, resume=False):
        assert load_plan(tmp_path / "s") == plan


def test_best_and_configs_of_trials(make_plan, tmp_path):
    with OpenStudy(tmp_path / "s", make_plan(), resume=False) as study:
        proposer = Proposer(study)
        params = []
        for outcome in (
            Outcome(Status.COMPLETE, 0.3),
            Outcome(Status.PRUNED, 0.01),
            Outcome(Status.COMPLETE, 0.2),
            Outcome(Status.EXPLODED),
        ):
            trial = proposer.next()
            params.append(trial.params)
            proposer.tell(trial.number, outcome)
    found = load_study(tmp_path / "s")
    assert found.best.number == 2  # a pruned trial is never the best, however good it looked
    assert found.config_of(found.best).stages.operator.optimizer.lr == params[2][LR]
    assert found.run_folder(found.best) == tmp_path / "s" / "runs" / "0002"
    lines = [json.loads(line) for line in (tmp_path / "s" / "trials.jsonl").read_text().splitlines()]
    assert [(line["number"], line["state"]) for line in lines] == [
        (0, "COMPLETE"),
        (1, "PRUNED"),
        (2, "COMPLETE"),
        (3, "EXPLODED"),
    ]


def test_an_open_trial_runs_while_its_search_does_and_is_interrupted_after_it(make_plan, tmp_path):
    with OpenStudy(tmp_path / "s", make_plan(), resume=False) as study:
        Proposer(study).next()
        assert load_study(tmp_path / "s").trials[0].state is Status.RUNNING
    assert load_study(tmp_path / "s").trials[0].state is Status.INTERRUPTED


def test_a_folder_has_one_driver(make_plan, tmp_path):
    with (
        OpenStudy(tmp_path / "s", make_plan(), resume=False),
        pytest.raises(UserError, match="another search is writing to it"),
    ):
        OpenStudy(tmp_path / "s", make_plan(), resume=True)
    OpenStudy(tmp_path / "s", make_plan(), resume=True).__exit__(None, None, None)


def test_the_lock_of_a_killed_driver_is_free(make_plan, tmp_path):
    with OpenStudy(tmp_path / "s", make_plan(), resume=False):
        pass
    script = (
        "import fcntl, os, signal\n"
        f"lock = open({str(tmp_path / 's' / '.lock')!r}, 'a')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with OpenStudy(tmp_path / "s", make_plan(), resume=True):
        pass


def test_an_existing_study_needs_resume(make_plan, tmp_path):
    OpenStudy(tmp_path / "s", make_plan(), resume=False).__exit__(None, None, None)
    with pytest.raises(UserError, match="holds this study already; continue it with --resume"):
        OpenStudy(tmp_path / "s", make_plan(), resume=False)


def test_a_folder_of_another_space_is_refused_and_left_alone(make_plan, tmp_path):
    OpenStudy(tmp_path / "s", make_plan(), resume=False).__exit__(None, None, None)
    before = (tmp_path / "s" / "study.yaml").read_text()
    other = make_plan(space={LR: {"float": [1e-4, 5.0], "log": True}, "latent.tokens": {"choice": [16, 32, 64]}})
    with pytest.raises(UserError, match=rf"another space \(space.{LR}.float is \[0.0001, 10.0\] there and \[0.0001, 5"):
        OpenStudy(tmp_path / "s", other, resume=True)
    with pytest.raises(UserError, match=r"strategy.keep is 0.33 there and 0.5 here"):
        OpenStudy(tmp_path / "s", make_plan(keep=0.5), resume=True)
    assert (tmp_path / "s" / "study.yaml").read_text() == before


def test_the_number_of_trials_may_change_on_a_resume(make_plan, tmp_path):
    OpenStudy(tmp_path / "s", make_plan(trials=3), resume=False).__exit__(None, None, None)
    OpenStudy(tmp_path / "s", make_plan(trials=9), resume=True).__exit__(None, None, None)
    assert load_plan(tmp_path / "s").config.strategy.trials == 9


def test_a_folder_with_something_else_is_refused(make_plan, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty and no study"):
        OpenStudy(tmp_path / "s", make_plan(), resume=False)
    with pytest.raises(UserError, match="no study here"):
        load_study(tmp_path / "s")


def test_a_folder_that_cannot_be_made_is_a_line(make_plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        OpenStudy(tmp_path / "file" / "s", make_plan(), resume=False)


def test_a_damaged_study_file_is_a_line(make_plan, tmp_path):
    OpenStudy(tmp_path / "s", make_plan(), resume=False).__exit__(None, None, None)
    (tmp_path / "s" / "study.yaml").write_text("search: [")
    with pytest.raises(UserError, match=r"study.yaml: damaged"):
        load_study(tmp_path / "s")
