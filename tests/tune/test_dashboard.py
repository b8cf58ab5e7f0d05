"""`ups dashboard`: the real server on real studies, also while a search writes them; and nothing there changes them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from made_up_search import LR, MadeUpSearch

from tune import dashboard
from tune.cli import app
from tune.cluster import dashboard_address
from tune.storage import reading
from tune.study import load_study
from ups.cli.terminal import run_app
from ups.core.errors import UserError
from ups.core.types import Status

COMMAND = "import sys; from tune.cli import main; sys.exit(main())"


def score(values, stage):
    return Status.EXPLODED if values[LR] > 1.0 else values[LR]


def ask(address: str, path: str, method: str = "GET", content: object = None):
    data = None if content is None else json.dumps(content).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(address + path, data, headers, method=method), timeout=120
    ) as got:
        return json.loads(got.read())


def attributes(trial):
    return {each["key"]: each["value"] for each in trial["user_attrs"]}


@pytest.fixture
def plan(make_plan):
    return make_plan(milestones={"operator": [0.25, 0.5, 1]}, sampler="random", scheduler="none", trials=12)


def test_the_page_follows_a_search_and_changes_nothing(plan, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with MadeUpSearch(plan, folder, score) as search:
        search.run(until=lambda: len(search.driver.records) >= 3)
        server = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "dashboard", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            page = server.stdout.readline().strip()
            address, _, number = page.partition("/dashboard/studies/")
            assert address.startswith("http://127.0.0.1:")
            (study,) = ask(address, "/api/studies")["study_summaries"]
            assert (study["study_id"], study["study_name"]) == (int(number), "s")
            detail = f"/api/studies/{number}"
            trials = ask(address, detail)["trials"]
            assert [trial["number"] for trial in trials] == [record.number for record in search.records]
            # those on their way say so, and what they have reached
            open_ones = [trial for trial in trials if trial["state"] == "Running"]
            assert open_ones
            for trial in open_ones:
                running = search.driver.running[trial["number"]]
                assert attributes(trial)["state"] == "RUNNING"
                assert json.loads(attributes(trial)["milestones"]).items() <= running.milestones.items()
            before = (folder / "journal.log").read_bytes()
            writes = [
                ("POST", "/api/studies", {"study_name": "x", "directions": ["minimize"]}),
                ("DELETE", detail, {}),
                ("PUT", f"{detail}/note", {"version": 1, "body": "x"}),
                ("POST", f"/api/trials/{open_ones[0]['trial_id']}/tell", {"state": "Complete", "values": [0.0]}),
                ("POST", f"/api/trials/{open_ones[0]['trial_id']}/user-attrs", {"user_attrs": {"a": 1}}),
            ]
            for method, path, content in writes:
                with pytest.raises(urllib.error.HTTPError) as error:
                    ask(address, path, method, content)
                assert error.value.code == 403
                assert "only shown" in json.loads(error.value.read())["reason"]
            assert (folder / "journal.log").read_bytes() == before
            # asked without a pause while the search appends
            seen: list[int] = []
            over = threading.Event()

            def look() -> None:
                while not (seen and over.is_set()):
                    seen.append(len(ask(address, f"{detail}?after={len(seen)}")["directions"]))

            looker = threading.Thread(target=look)
            looker.start()
            search.run()
            over.set()
            looker.join()
            assert set(seen) == {1}
        finally:
            server.send_signal(signal.SIGINT)
            _, said = server.communicate(timeout=120)
        assert server.returncode == 0
        assert "Traceback" not in said
    assert not (folder / "journal.log.lock").exists()


@contextmanager
def shown(folder: Path) -> Iterator[dashboard.ShownStorage]:
    plan = load_study(folder).config
    with reading(folder, plan.resources.study_storage, plan.resources.study_name) as reader:
        yield dashboard.ShownStorage(reader, (), "s")


def test_every_trial_has_its_state_its_reason_and_its_milestones(plan, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with MadeUpSearch(plan, folder, score) as search:
        search.run()
    records = {record.number: record for record in load_study(folder).trials}
    assert Status.EXPLODED in {record.state for record in records.values()}
    with shown(folder) as storage:
        trials = storage.get_all_trials(storage.study_id)
        assert len(trials) == 12
        for trial in trials:
            record = records[trial.number]
            assert trial.user_attrs["state"] == str(record.state)
            assert trial.user_attrs["reason"] == record.reason
            assert trial.user_attrs["milestones"] == record.milestones
            # what the page takes a trial for infeasible by, so that it draws no exploded one as a result
            exceeded = any(excess > 0 for excess in trial.system_attrs["constraints"])
            assert exceeded == (record.state is Status.EXPLODED)
            assert storage.get_trial(trial._trial_id).number == trial.number
        best = load_study(folder).best
        assert best is not None
        assert storage.get_best_trial(storage.study_id).number == best.number
        with pytest.raises(RuntimeError, match="only shown"):
            storage.set_trial_user_attr(0, "a", 1)
        with pytest.raises(KeyError):
            storage.get_study_name_from_id(7)


def test_what_nobody_searches_any_more_is_interrupted_there(plan, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with MadeUpSearch(plan, folder, score) as search:
        search.run(until=lambda: len(search.driver.records) >= 2)
    with shown(folder) as storage:
        states = [trial.user_attrs["state"] for trial in storage.get_all_trials(storage.study_id)]
    assert states.count("INTERRUPTED") == len(states) - 2


def test_a_study_in_a_database_is_shown_without_its_neighbours(make_plan, postgres, tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        plan = make_plan(scheduler="none", sampler="random", trials=2).kept_at(postgres.url, f"dashboard_{name}")
        with MadeUpSearch(plan, tmp_path / name, score) as search:
            search.run()
    with shown(tmp_path / "ours") as storage:
        assert [study.study_name for study in storage.get_all_studies()] == ["s"]
        states = [trial.user_attrs["state"] for trial in storage.get_all_trials(storage.study_id)]
    assert states == [str(record.state) for record in load_study(tmp_path / "ours").trials]


def test_a_port_that_is_taken_is_passed_over_or_refused(monkeypatch) -> None:
    def application(environment, start):
        raise AssertionError("nobody asks")

    with socket.socket() as taken:
        taken.bind((dashboard.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port: {port} cannot be listened on .*in use"):
            dashboard._bound(application, port)
        monkeypatch.setattr(dashboard, "PORT", port)
        with dashboard._bound(application, None) as server:
            assert port < server.server_port < port + dashboard.PORTS
            assert server.server_address[0] == "127.0.0.1"
        monkeypatch.setattr(dashboard, "PORTS", 1)
        with pytest.raises(UserError, match="all taken"):
            dashboard._bound(application, None)


def test_what_is_no_study_is_refused_in_one_line(tmp_path: Path, capsys) -> None:
    assert run_app(app, ["dashboard", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"ups: {tmp_path}: no study here (study.yaml is missing)\n"


@pytest.mark.usefixtures("ray_session")
def test_the_page_of_a_cluster_is_named_if_there_is_one(monkeypatch) -> None:
    assert dashboard_address() is None  # the session's Ray has none
    monkeypatch.setattr(ray._private.worker._global_node, "_webui_url", "10.0.0.1:8265")
    assert dashboard_address() == "http://10.0.0.1:8265"
