"""A study whose store is an object store: what is refused before it begins, and what of it is there when it is lost."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
from s3_server import S3Server

from tune import snapshot
from tune.driver import Driver
from tune.running import NoView
from tune.search import run_search
from tune.space import SearchConfig
from tune.study import OpenStudy, Plan, load_study, store_place
from ups.core import objects
from ups.core.errors import ConfigError, UserError
from ups.core.objects import Objects
from ups.core.types import Status


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.02)


def stored_at(plan: Plan, uri: str) -> Plan:
    return Plan(plan.config.override({"resources.store": uri}), plan.base, plan.start_from)


def tell(study, number, score):
    trial = study.ask(number)
    trial.set_user_attr("state", "COMPLETE")
    trial.set_user_attr("score", score)
    study.optuna.tell(trial, score)
    study.note_ended(number)


def copies(uri: str) -> dict[str, bytes]:
    store = Objects(uri)
    return {name.rpartition("/")[2]: content for name, content in store.read_many(store.sizes("studies")).items()}


@pytest.mark.parametrize("outside", [False, True])
def test_a_study_comes_back_from_its_store(make_plan, tmp_path, monkeypatch, outside):
    uri = f"memory://{uuid.uuid4().hex}"
    plan = stored_at(make_plan(), uri)
    if outside:
        plan = plan.kept_at(str(tmp_path / "fast.log"), None)
    with OpenStudy(tmp_path / "s", plan, resume=False) as study:
        tell(study, 0, 0.5)
        assert copies(uri) == {}  # not for every trial
        monkeypatch.setattr(snapshot, "SNAPSHOT_SECONDS", 0.0)
        tell(study, 1, 0.25)
        until(lambda: "journal.log" in copies(uri))
        tell(study, 2, 0.125)
    again = tmp_path / "again"
    again.mkdir()
    for name, content in copies(uri).items():
        (again / name).write_bytes(content)
    if outside:
        (tmp_path / "fast.log").unlink()
    assert [trial.score for trial in load_study(again).trials] == [0.5, 0.25, 0.125]
    with OpenStudy(again, plan, resume=True) as study:
        tell(study, 3, 0.1)


@pytest.mark.parametrize("outside", [False, True])
def test_what_long_trials_report_is_copied_by_the_clock(make_plan, tmp_path, monkeypatch, outside):
    now, uri = [0.0], f"memory://{uuid.uuid4().hex}"
    monkeypatch.setattr(snapshot, "time", SimpleNamespace(monotonic=lambda: now[0]))
    plan, journal = stored_at(make_plan(), uri), tmp_path / "s" / "journal.log"
    if outside:
        journal = tmp_path / "fast.log"
        plan = plan.kept_at(str(journal), None)

    def found() -> list[bytes]:
        local = [tmp_path / "s" / "journal.log"] if outside else []
        return [*copies(uri).values(), *(path.read_bytes() for path in local if path.exists())]

    def are_new() -> bool:
        return sum(content == journal.read_bytes() for content in found()) == 1 + outside

    with OpenStudy(tmp_path / "s", plan, resume=False) as study:
        ways = {"check": lambda config: 5, "keys": lambda config: {}, "view": NoView()}
        driver = Driver(study, concurrency=2, time_budget=None, **ways)
        number = driver.next().number
        for share, begin in ((0.25, 0.0), (0.5, snapshot.SNAPSHOT_SECONDS + 1)):
            before, copied = journal.read_bytes(), found()
            for seconds in range(int(snapshot.SNAPSHOT_SECONDS)):
                now[0] = begin + seconds
                score = {"score": share} if seconds == 0 else {}
                driver.progress(number, {"stage": "operator", "share": share, "seconds": now[0], **score})
            assert journal.read_bytes() != before
            assert found() == copied
            now[0] += 2
            driver.progress(number, {"stage": "operator", "share": share, "seconds": now[0]})
            until(are_new)
        assert [trial.state for trial in load_study(tmp_path / "s").trials] == [Status.RUNNING]


def test_two_studies_of_one_name_keep_their_own_copies(make_plan, tmp_path):
    uri = f"memory://{uuid.uuid4().hex}"
    for place in ("a", "b"):
        with OpenStudy(tmp_path / place / "study", stored_at(make_plan(), uri), resume=False) as study:
            tell(study, 0, 0.5)
    with OpenStudy(tmp_path / "a" / "study", stored_at(make_plan(), uri), resume=True):
        pass
    assert len(Objects(uri).sizes("studies")) == 4


def test_a_store_that_is_gone_at_the_end_costs_the_copy_alone(make_plan, tmp_path, s3: S3Server, monkeypatch):
    monkeypatch.setattr(objects, "PATIENCE_SECONDS", 0.0)
    plan = stored_at(make_plan(), s3.bucket())
    study = OpenStudy(tmp_path / "s", plan, resume=False)
    tell(study, 0, 0.5)
    s3.refuse = 1000
    with pytest.warns(UserWarning, match="no snapshot of the study"):
        study.__exit__(None, None, None)
    assert [trial.score for trial in load_study(tmp_path / "s").trials] == [0.5]


def test_a_place_that_cannot_be_a_store_is_refused_before_the_search_begins(make_plan, tmp_path, s3: S3Server):
    def never(*arguments, **settings):
        raise AssertionError("a trial began")

    with pytest.raises(UserError, match="no such bucket"):
        run_search(stored_at(make_plan(), "s3://no-bucket-here/store"), tmp_path / "s", trainer=never)
    uri = s3.bucket()
    s3.ignore_conditions = True
    with pytest.raises(UserError, match="conditional writes"):
        run_search(stored_at(make_plan(), uri), tmp_path / "s", trainer=never)
    assert not (tmp_path / "s").exists()


def test_a_study_never_holds_the_credentials_of_its_store(make_plan, tmp_path):
    given = {"base": "base.yaml", "space": {"latent.tokens": {"choice": [4, 8]}}}
    for uri in ("s3://key:hidden@bucket/x", "s3://bucket/x?secret=hidden"):
        with pytest.raises(ConfigError, match=r"resources.store: .*environment") as error:
            SearchConfig.parse({**given, "resources": {"store": uri}})
        assert "hidden" not in str(error.value)


def test_a_folder_is_absolute_and_a_uri_stays_what_it_is(make_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, found in (
        (None, tmp_path / "s" / "store"),
        ("shared", tmp_path / "shared"),
        (f"file://{tmp_path}/shared", tmp_path / "shared"),
        ("s3://bucket/x", "s3://bucket/x"),
    ):
        config = make_plan().config.override({"resources.store": place})
        assert store_place(Path("s"), config) == found
