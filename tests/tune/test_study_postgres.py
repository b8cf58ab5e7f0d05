"""A study in PostgreSQL that several drivers search: a real server, real processes, real deaths."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from urllib.parse import quote

import pytest
from postgres_server import PASSWORD
from sqlalchemy.exc import OperationalError

from tune import database, presence, storage_url
from tune.database import StorageLost
from tune.study import OpenStudy, load_plan, load_study
from ups.core.errors import UserError
from ups.core.types import Status

LR = "stages.operator.optimizer.lr"
_names = itertools.count()


@pytest.fixture
def name():
    return f"study{next(_names)}"


@pytest.fixture
def open_study(make_plan, postgres, tmp_path, name):
    """Opens the study of this test in a folder, as one more driver."""
    opened = []

    def open_(folder="a", resume=False, url=None, **strategy):
        plan = make_plan(**strategy).kept_at(url or postgres.url, name)
        opened.append(OpenStudy(tmp_path / folder, plan, resume=resume))
        return opened[-1]

    yield open_
    for study in opened:
        study.__exit__(None, None, None)


def asked(study):
    return len(study.optuna.get_trials(deepcopy=False))


def finish(study, trial, score):
    trial.set_user_attr("state", "COMPLETE")
    trial.set_user_attr("score", score)
    study.optuna.tell(trial, score)
    return study.note_ended(trial.number)


def ask_all(study, wanted, meeting):
    """What a driver does, without the training; gives the numbers it got. It waits until the others have one, too."""
    mine = []
    while (number := asked(study)) < wanted:
        trial = study.ask(number)
        if trial is not None:
            trial.suggest_float(LR, 1e-4, 10.0, log=True)
            finish(study, trial, float(number))
            mine.append(trial.number)
            if len(mine) == 1:
                meeting.wait(120)
    return mine


def test_two_drivers_give_every_number_once_and_none_more_than_were_wanted(open_study, tmp_path):
    studies = [open_study("a"), open_study("b")]
    got, meeting = [[], []], threading.Barrier(2)
    threads = [threading.Thread(target=lambda k=k: got[k].extend(ask_all(studies[k], 40, meeting))) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got[0] + got[1]) == list(range(40))
    assert all(len(each) > 0 for each in got)
    for k, folder in enumerate("ab"):
        assert [record.number for record in studies[k].records()] == list(range(40))
        found = load_study(tmp_path / folder)
        assert found.best.number == 0
        lines = (tmp_path / folder / "trials.jsonl").read_text().splitlines()
        assert len(lines) == len(got[k])  # its own


def test_of_several_that_claim_a_dead_drivers_trials_each_is_taken_by_one(open_study, postgres):
    dead = open_study("dead")
    for number in range(12):
        assert dead.ask(number) is not None
    dead.__exit__(None, None, None)
    heirs = [open_study(folder) for folder in "bcd"]
    barrier = threading.Barrier(3)
    got = [[], [], []]

    def claim(k):
        barrier.wait()
        got[k] = [trial.number for trial in heirs[k].unfinished()]

    threads = [threading.Thread(target=claim, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(itertools.chain(*got)) == list(range(12))
    for k, heir in enumerate(heirs):
        assert heir.unfinished() == []  # each once
        assert [number for number in range(12) if heir.holds(number)] == got[k]


def test_nobody_takes_a_living_drivers_trials_and_it_takes_up_its_own_after_a_kill(open_study):
    first, second = open_study("a"), open_study("b")
    trial = first.ask(0)
    assert (first.unfinished(), second.unfinished()) == ([], [])
    assert second.others_work()
    assert not first.others_work()
    assert [record.state for record in second.records(searching=False)] == [Status.RUNNING]
    first._lock.close()  # what the kernel does with a killed process
    again = open_study("a", resume=True)
    assert [each.number for each in again.unfinished()] == [trial.number]
    assert again.unfinished() == []


def test_a_trial_that_was_taken_over_is_no_longer_held(open_study):
    first = open_study("a")
    trial = first.ask(0)
    first._backend._presence.stop()
    second = open_study("b")
    assert [each.number for each in second.unfinished()] == [0]
    assert second.holds(0)
    assert not first.holds(0)
    finish(second, trial, 0.5)
    assert not second.holds(0)


def test_a_copy_of_a_folder_is_another_driver(open_study, tmp_path):
    first = open_study("a")
    first.ask(0)
    (tmp_path / "copy").mkdir()
    for file in ("study.yaml", ".driver"):
        (tmp_path / "copy" / file).write_text((tmp_path / "a" / file).read_text())
    assert open_study("copy", resume=True).unfinished() == []


def test_another_space_under_the_same_name_is_refused_and_its_folder_stays_free(open_study, tmp_path, name):
    open_study("a")
    with pytest.raises(UserError, match=rf"study '{name}': holds a study of another space \(strategy.keep is 0.33"):
        open_study("b", keep=0.5)
    assert not (tmp_path / "b" / "study.yaml").exists()
    open_study("b")


def test_a_folder_goes_on_where_its_trials_are(open_study, make_plan, tmp_path, name, postgres):
    finish(study := open_study("a"), study.ask(0), 0.25)
    study.__exit__(None, None, None)
    again = OpenStudy(tmp_path / "a", make_plan(), resume=True)  # the space file does not say where
    assert again.is_shared
    assert [record.score for record in again.records()] == [0.25]
    again.__exit__(None, None, None)
    with pytest.raises(UserError, match=rf"kept in {postgres.url} as '{name}', not in .*/elsewhere.log"):
        OpenStudy(tmp_path / "a", make_plan().kept_at("elsewhere.log", None), resume=True)
    with pytest.raises(UserError, match=f"not in {postgres.url} as 'other'"):
        OpenStudy(tmp_path / "a", make_plan().kept_at(postgres.url, "other"), resume=True)
    assert load_plan(tmp_path / "a").config.resources.study_name == name


def test_the_name_is_the_folders_unless_it_is_given(make_plan, postgres, tmp_path, name):
    with OpenStudy(tmp_path / f"{name}-folder", make_plan().kept_at(postgres.url, None), resume=False) as study:
        assert study.optuna.study_name == f"{name}-folder"


def test_a_study_that_is_gone_is_a_line(open_study, postgres, tmp_path, name):
    open_study("a").__exit__(None, None, None)
    postgres.execute(f"UPDATE studies SET study_name = '{name}-moved' WHERE study_name = '{name}'")
    with pytest.raises(UserError, match=f"has no study '{name}'"):
        load_study(tmp_path / "a")


def test_drivers_that_start_at_once_make_the_tables_once(make_plan, postgres, tmp_path):
    postgres.execute("CREATE DATABASE fresh")
    url = postgres.url.removesuffix("postgres") + "fresh"
    script = (
        "import sys\nfrom pathlib import Path\nfrom tune.study import OpenStudy, Plan\n"
        "plan = Plan.from_yaml(Path(sys.argv[1]).read_text())\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "with OpenStudy(Path(sys.argv[2]), plan, resume=False) as study:\n    print(study.ask(0) is not None)\n"
    )
    (tmp_path / "plan").write_text(make_plan().kept_at(url, "one").to_yaml())
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "plan"), str(tmp_path / f"d{k}")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(2)
    ]
    for driver in drivers:
        assert driver.stdout.readline() == "ready\n"
    for driver in drivers:  # both before either answers
        driver.stdin.write("go\n")
        driver.stdin.flush()
    answers = [driver.communicate(timeout=300)[0].strip() for driver in drivers]
    assert sorted(answers) == ["False", "True"]


def test_a_password_opens_the_database_and_is_written_nowhere(make_plan, postgres, tmp_path, monkeypatch, name, capfd):
    monkeypatch.setattr(storage_url, "_kept", {})
    monkeypatch.delenv("PGPASSWORD")
    with pytest.raises(UserError, match=r"cannot be opened \(.*password.*PGPASSWORD or ~/.pgpass"):
        OpenStudy(tmp_path / "none", make_plan().kept_at(postgres.url, name), resume=False)
    escaped = quote(PASSWORD, safe="")
    plan = make_plan().kept_at(postgres.url.replace("ups@", f"ups:{escaped}@"), name)
    assert plan.config.resources.study_storage == postgres.url
    with OpenStudy(tmp_path / "a", plan, resume=False) as study:
        study.ask(0)
    for file in (tmp_path / "a").rglob("*"):
        assert file.is_dir() or (PASSWORD not in file.read_text() and escaped not in file.read_text())
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    kept = postgres.execute("SELECT value_json FROM study_user_attributes") + postgres.execute(
        "SELECT value_json FROM trial_user_attributes"
    )
    assert not any(PASSWORD in str(value) or escaped in str(value) for (value,) in kept)
    wrong = postgres.url.replace("ups@", "ups:wr0ng@")
    with pytest.raises(UserError, match="password authentication failed") as error:
        OpenStudy(tmp_path / "b", make_plan().kept_at(wrong, name), resume=False)
    assert "wr0ng" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_restart_of_the_server_is_waited_for(open_study, postgres):
    study = open_study("a")
    finish(study, study.ask(0), 0.5)
    trial = study.ask(1)
    postgres.stop()
    started = threading.Timer(1.0, postgres.start)
    started.start()
    trial.suggest_float(LR, 1e-4, 10.0, log=True)
    started.join()
    for number in (1, 2, 3):
        postgres.stop()
        postgres.start()
        finish(study, trial, 0.1)
        postgres.stop()
        postgres.start()
        trial = study.ask(number + 1)
        trial.report(0.5, 0)
    assert [record.state for record in study.records()] == [Status.COMPLETE] * 4 + [Status.RUNNING]
    assert study.unfinished() == []


def test_a_write_whose_answer_is_lost_is_done_once(open_study, postgres, monkeypatch):
    study = open_study("a")

    def once_lost(method):
        """The method, with the answer of its first call lost after its work was done."""
        done = []

        def call(*args, **kwargs):
            found = method(*args, **kwargs)
            if not done:
                done.append(found)
                raise OperationalError("commit", None, Exception("server closed the connection unexpectedly"))
            return found

        return call

    with monkeypatch.context() as patch:
        patch.setattr(database.RDBStorage, "_create_new_trial", once_lost(database.RDBStorage._create_new_trial))
        assert study.ask(0) is None  # its number is taken: by itself, which it cannot know
    (mine,) = study.unfinished()
    assert (mine.number, study.holds(0)) == (0, True)
    with monkeypatch.context() as patch:
        original = database.RDBStorage.set_trial_state_values
        patch.setattr(database.RDBStorage, "set_trial_state_values", once_lost(original))
        study.optuna.tell(0, 0.5)
    assert study.optuna.get_trials()[0].value == 0.5


def test_a_server_that_stays_away_ends_the_search_with_a_line_and_everything_can_be_resumed(
    open_study, postgres, monkeypatch
):
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 1.0)
    study = open_study("a")
    finish(study, study.ask(0), 0.5)
    study.ask(1)
    postgres.stop()
    try:
        with pytest.raises(StorageLost, match=r"no answer for 1 s .*start the server and continue with --resume"):
            study.ask(2)
        with pytest.raises(StorageLost):  # at once: it has been waited for
            study.records()
        study.__exit__(None, None, None)
    finally:
        postgres.start()
    again = open_study("a", resume=True)
    assert [trial.number for trial in again.unfinished()] == [1]
    assert again.records()[0].score == 0.5


def test_the_trials_of_a_driver_killed_with_9_go_to_the_one_that_is_left(
    open_study, make_plan, postgres, tmp_path, name, monkeypatch
):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom tune.study import OpenStudy, Plan\n"
        "study = OpenStudy(Path(sys.argv[2]), Plan.from_yaml(Path(sys.argv[1]).read_text()), resume=False)\n"
        "assert study.ask(0) and study.ask(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "plan").write_text(make_plan().kept_at(postgres.url, name).to_yaml())
    command = [sys.executable, "-c", script, str(tmp_path / "plan"), str(tmp_path / "killed")]
    assert subprocess.run(command, check=False).returncode == -9
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.1)
    left = open_study("left")
    assert left.unfinished() == []  # it might still live
    monkeypatch.setattr(presence, "DEAD_SECONDS", 2.0)
    taken = []
    while len(taken) < 2:
        time.sleep(0.1)
        taken += left.unfinished()
    assert [trial.number for trial in taken] == [0, 1]
    assert not left.others_work()
    assert [record.state for record in load_study(tmp_path / "left").trials] == [Status.RUNNING] * 2
