"""`ups store`: what it lists, what it removes and what it never does, and its one-line refusals."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from tune.cli import app
from tune.pinning import pin_study
from tune.sizes import parse_size, shown_size
from tune.space import SearchConfig
from tune.study import Plan, StudyFolder, TrialRecord
from ups.cli.terminal import run_app
from ups.config import RunConfig, dump_yaml
from ups.core.artifacts import ArtifactStore
from ups.core.errors import UserError
from ups.core.remote_store import RemoteStore
from ups.core.store import Store
from ups.core.types import Status
from ups.data.task import load_task
from ups.training.keys import stage_keys

LR = "stages.operator.optimizer.lr"


@pytest.fixture(scope="module")
def trained_base(tiny):
    return RunConfig.parse(tiny)


@pytest.fixture
def plan(trained_base):
    space = {"base": "base.yaml", "space": {LR: {"float": [1e-4, 1.0], "log": True}}, "confirm": {"top": 2}}
    return Plan(SearchConfig.parse(space), trained_base)


@pytest.fixture
def key_of(trained_base):
    data = load_task(trained_base.task).fingerprint

    def key_of(lr=None, seed=0):
        change = {"runtime.seed": seed} | ({} if lr is None else {LR: lr})
        return stage_keys(trained_base.override(change), data)["operator"]

    return key_of


def ups(*arguments):
    return run_app(app, ["store", *map(str, arguments)])


def fill(store: Store, *keys: str, what: str = "operator") -> None:
    for key in keys:
        store.publish(key, lambda folder: (folder / "a").write_text("x" * 1000) and None, what=what, seconds=90)


def test_a_study_pins_its_best_and_whatever_has_not_ended(plan, trained_base, key_of, tmp_path):
    def trial(number, state, score, lr):
        return TrialRecord(number, state, score, "", {LR: lr}, 1.0, (), {}, None)

    records = (
        trial(0, Status.COMPLETE, 0.5, 0.1),
        trial(1, Status.COMPLETE, 0.3, 0.2),
        trial(2, Status.COMPLETE, 0.2, 0.3),
        trial(3, Status.PRUNED, 0.1, 0.4),
        trial(4, Status.EXPLODED, None, 0.5),
        trial(5, Status.RUNNING, None, 0.6),
        trial(6, Status.INTERRUPTED, None, 0.7),
    )
    confirmed = tmp_path / "confirm" / "golden-s5"
    confirmed.mkdir(parents=True)
    (confirmed / "config.yaml").write_text(dump_yaml(trained_base.override({"runtime.seed": 5})))
    study = StudyFolder(tmp_path, plan.config, trained_base, records)
    store = ArtifactStore(tmp_path / "store")
    pin_study(study, store)
    needed = {key_of(), key_of(seed=5), *(key_of(lr) for lr in (0.2, 0.3, 0.6, 0.7))}
    assert store.pinned() == needed
    # what it does not need any more is free
    pin_study(replace(study, trials=records[:3]), store)
    assert store.pinned() == needed - {key_of(0.6), key_of(0.7)}


def test_a_collection_for_a_study_keeps_what_it_needs(plan, key_of, tmp_path, capsys):
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.yaml").write_text(plan.to_yaml())
    store = ArtifactStore(study / "store")
    fill(store, key_of(), key_of(0.2), key_of(0.3))
    assert ups("gc", study, "--max-size", "1kB", "--dry-run") == 0
    assert "would remove 2 artifacts, 2 kB (180 s of work); would leave 1 kB" in capsys.readouterr().out
    assert len(store.ls()) == 3
    assert ups("gc", study, "--max-size", "1kB") == 0
    assert [artifact.key for artifact in store.ls()] == [key_of()]
    capsys.readouterr()
    assert ups("gc", study, "--max-size", "10B") == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "1 kB are protected, more than 10 B" in error
    assert str(study) in error
    assert [artifact.key for artifact in store.ls()] == [key_of()]


def test_a_store_is_listed(tmp_path, capsys):
    store = ArtifactStore(tmp_path / "store")
    fill(store, "first", "second")
    fill(store, "third", what="latents")
    store.pin("somebody", ["second"])
    assert ups("ls", store.root, "--json", tmp_path / "ls.json") == 0
    printed = capsys.readouterr().out
    assert "3 artifacts, 3 kB, 4 min 30 s of work" in printed
    assert [word in printed for word in ("operator", "latents", "1 min 30 s", "pinned")] == [True] * 4
    rows = json.loads((tmp_path / "ls.json").read_text())
    assert {row["key"]: row["pinned"] for row in rows} == {"first": False, "second": True, "third": False}
    assert set(rows[0]) == {"key", "what", "bytes", "seconds", "created", "last_used", "pinned", "leased"}


def test_a_store_behind_a_uri_is_listed_and_collected_for_its_study(plan, key_of, tmp_path, capsys):
    uri = f"memory://{uuid.uuid4().hex}"
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.yaml").write_text(
        Plan(plan.config.override({"resources.store": uri}), plan.base, plan.start_from).to_yaml()
    )
    store = RemoteStore(uri, tmp_path / "cache")
    fill(store, key_of(), key_of(0.2), key_of(0.3))
    assert ups("ls", uri) == 0
    assert "3 artifacts, 3 kB, 4 min 30 s of work" in capsys.readouterr().out
    assert ups("gc", study, "--max-size", "1kB") == 0
    assert "removed 2 artifacts" in capsys.readouterr().out
    assert [artifact.key for artifact in store.ls()] == [key_of()]
    # two machines may have a study of this path
    (owner,) = store.pins()
    assert owner.startswith("study-")
    assert ups("gc", study, "--max-size", "10B") == 1
    assert f"is a file in {uri}/pins" in capsys.readouterr().err


def test_a_study_that_trained_nothing_has_an_empty_store(plan, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(plan.to_yaml())
    assert ups("ls", tmp_path) == 0
    assert "0 artifacts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ls", "nowhere"), "no artifact store here"),
        (("gc", "folder", "--max-size", "1GB"), "no artifact store here"),
        (("gc", "store", "--max-size", "many"), "a size is written like 500MB"),
        (("gc", "store", "--max-size", "5iB"), "a size is written like 500MB"),
        (("gc", "store"), "max-size"),
        (("ls", "memory://nothing-here"), "no artifact store here"),
        (("ls", "s3://key:hidden@bucket/x"), "credentials belong into the environment"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("folder", "ab").mkdir(parents=True)
    Path("folder", "ab", "mine.txt").write_text("mine")
    fill(ArtifactStore(Path("store")), "key")
    assert ups(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert "hidden" not in error
    assert len(ArtifactStore(Path("store")).ls()) == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("1kB", 1000),
        ("1.5 MB", 1_500_000),
        ("50GB", 5 * 10**10),
        ("2gib", 2**31),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 123_456, 999_999, 10**7, 5 * 10**10, 3 * 10**15])
def test_a_shown_size_is_the_size(size):
    assert parse_size(shown_size(size)) == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize("text", ["", "-1GB", "GB", "1XB", "1e9", "iB", "1 2 GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="500MB"):
        parse_size(text)
