"""Where a study is kept: a journal outside its folder, URLs that hold a secret, who is dead in a database."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune import snapshot, storage, storage_url
from tune.presence import DEAD_SECONDS, Watch
from tune.study import OpenStudy, load_plan, load_study
from ups.core.errors import ConfigError, UserError


def tell(study, number, score):
    trial = study.ask(number)
    trial.set_user_attr("state", "COMPLETE")
    trial.set_user_attr("score", score)
    study.optuna.tell(trial, score)
    study.note_ended(number)


def test_a_journal_outside_the_folder_is_copied_into_it_and_comes_back_from_there(make_plan, tmp_path, monkeypatch):
    journal = tmp_path / "fast" / "journal.log"
    plan = make_plan().kept_at(str(journal), None)
    with OpenStudy(tmp_path / "s", plan, resume=False) as study:
        assert not study.is_shared
        tell(study, 0, 0.5)
        assert not (tmp_path / "s" / "journal.log").exists()  # not for every trial
        monkeypatch.setattr(snapshot, "SNAPSHOT_SECONDS", 0.0)
        tell(study, 1, 0.25)
        monkeypatch.undo()
        copy, deadline = tmp_path / "s" / "journal.log", time.monotonic() + 60
        while not copy.exists() or copy.read_bytes() != journal.read_bytes():
            assert time.monotonic() < deadline, "never came"
            time.sleep(0.02)
        study.ask(2)
    assert [trial.score for trial in load_study(tmp_path / "s").trials] == [0.5, 0.25, None]
    journal.unlink()  # the machine is gone
    assert [trial.score for trial in load_study(tmp_path / "s").trials] == [0.5, 0.25, None]
    with OpenStudy(tmp_path / "s", make_plan(), resume=True) as study:
        assert [trial.number for trial in study.unfinished()] == [2]
        tell(study, 3, 0.125)
    assert load_plan(tmp_path / "s").config.resources.study_storage == str(journal)


def test_what_cannot_be_opened_is_not_copied_over_what_is_left(make_plan, tmp_path):
    journal = tmp_path / "fast" / "journal.log"
    plan = make_plan().kept_at(str(journal), None)
    with OpenStudy(tmp_path / "s", plan, resume=False) as study:
        tell(study, 0, 0.5)
    copy = tmp_path / "s" / "journal.log"
    whole = copy.read_bytes()
    journal.write_bytes(b'{"op_code": "what?"}\n' + whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged, or no journal of Optuna"):
        OpenStudy(tmp_path / "s", plan, resume=True)
    journal.unlink()
    with OpenStudy(tmp_path / "other", make_plan(keep=0.5).kept_at(str(journal), None), resume=False):
        pass
    with pytest.raises(UserError, match="holds a study of another space"):
        OpenStudy(tmp_path / "s", plan, resume=True)
    assert copy.read_bytes() == whole


def test_a_journal_has_one_driver_whatever_its_folder(make_plan, tmp_path):
    plan = make_plan().kept_at(str(tmp_path / "journal"), None)
    with (
        OpenStudy(tmp_path / "a", plan, resume=False),
        pytest.raises(UserError, match="journal: another search is writing to it"),
    ):
        OpenStudy(tmp_path / "b", plan, resume=False)
    other = make_plan(keep=0.5).kept_at(str(tmp_path / "journal"), None)
    with pytest.raises(UserError, match="holds a study of another space"):
        OpenStudy(tmp_path / "b", other, resume=False)


def test_the_driver_sees_in_its_journal_what_anybody_else_reads_there(make_plan, tmp_path):
    with OpenStudy(tmp_path / "s", make_plan(), resume=False) as study:
        for number in range(3):
            trial = study.ask(number)
            trial.set_user_attr("stages", {"operator": (1, 2.5), "ended": None})
            tree = {"depth": 2, "name": "a"}
            trial.set_user_attr("tree", tree)
            tree["depth"] = 3  # what was written does not change with what it was written from
            trial.suggest_float("x", 1e-3, 1.0, log=True)
            trial.suggest_categorical("c", ["[1, 2]", True, None])
            trial.report(0.5, 3)
        tell_first = study.optuna.tell(0, 0.25)
        assert tell_first.value == 0.25
        assert study.trial(0).state.is_finished()
        with pytest.raises(RuntimeError, match="updated"):
            study.optuna._storage.set_trial_user_attr(study.trial(0)._trial_id, "late", 1)
        study.optuna._storage.set_trial_user_attr(study.trial(1)._trial_id, "late", 1)
        there, _ = storage.read_trials(tmp_path / "s", None, None)
        assert study.optuna.get_trials() == there
        assert [study.trial(number) for number in range(3)] == there


def test_a_name_is_for_a_database(make_plan, tmp_path):
    with pytest.raises(UserError, match="a name is for a study in a database"):
        OpenStudy(tmp_path / "a", make_plan().kept_at(None, "name"), resume=False)


def test_what_is_open_is_given_once(make_plan, tmp_path):
    with OpenStudy(tmp_path / "s", make_plan(), resume=False) as study:
        study.ask(0)
        assert study.unfinished() == []
    with OpenStudy(tmp_path / "s", make_plan(), resume=True) as study:
        assert [trial.number for trial in study.unfinished()] == [0]
        assert study.unfinished() == []


def test_a_server_that_cannot_be_reached_is_a_line_and_leaves_the_folder_free(make_plan, tmp_path):
    plan = make_plan().kept_at("postgresql://ups@127.0.0.1:1/db", "x")
    with pytest.raises(UserError, match=r"ups@127.0.0.1:1/db: the study storage cannot be opened .*refused"):
        OpenStudy(tmp_path / "a", plan, resume=False)
    OpenStudy(tmp_path / "a", make_plan(), resume=False).__exit__(None, None, None)


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("postgresql://u:s3cret/x@host/db", "is no readable URL"),
        ("postgresql://u:12/s3cret@host/db", "is no readable URL"),
        ("postgresql://u:s3cret@host:port/db", "is no readable URL"),
        ("mysql://u:s3cret@host/db", "must be the path of a journal or a postgresql:// URL"),
        ("", "must be the path of a journal"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_a_word_of_it(make_plan, place, match):
    with pytest.raises(ConfigError, match=f"resources.study_storage: {match}") as error:
        make_plan().kept_at(place, None)
    assert "s3cret" not in str(error.value)


_words = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=12)


@given(_words, _words, _words, st.sampled_from(["host", "10.0.0.1", "[::1]", "a,b"]))
def test_washing_takes_the_password_and_nothing_else(user, password, database, host):
    quoted = [storage_url.quote(word, safe="") for word in (user, password, database)]
    url = "postgresql://{}:{}@" + host + ":5433/{}?sslmode=prefer"
    washed = storage_url.wash(url.format(*quoted))
    if "@" in database:
        assert washed == storage_url.UNREADABLE  # it may be half a password
        return
    found = storage_url.connection_of(storage_url.check(washed))
    assert storage_url.wash(washed) == washed
    assert (found["user"], found["password"], found["dbname"]) == (user, password, database)
    assert (found["host"], found["sslmode"]) == (host.strip("[]"), "prefer")
    storage_url._kept.clear()
    assert "password" not in storage_url.connection_of(washed)


CARD = {"beat": 1.0}


def test_a_driver_is_dead_when_its_beat_stands_still_by_the_watchers_clock():
    watch = Watch()
    beats = 0.0
    for now in range(0, 200, 5):
        beats += 1
        watch.look({"alive": {"beat": beats}, "dead": CARD, "gone": {**CARD, "ended": True}}, float(now))
        assert watch.is_dead("dead", float(now)) == (now > DEAD_SECONDS)
        assert not watch.is_dead("alive", float(now))
        assert watch.is_dead("gone", float(now))


def test_after_an_absence_of_the_watcher_or_of_the_database_everybody_may_speak_first():
    watch = Watch()
    for now in range(0, 40, 5):
        watch.look({"other": CARD}, float(now))
    assert not watch.is_dead("other", 35.0 + 600)
    watch.look({"other": CARD}, 635.0)
    assert not watch.is_dead("other", 635.0)
    for now in range(640, 640 + int(DEAD_SECONDS) + 5, 5):
        watch.look({"other": CARD}, float(now))
    assert watch.is_dead("other", float(now))
