"""The artifact store: whole or absent, made once, never damaged in silence, and collected without harm."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ups.core.artifacts import ArtifactStore
from ups.core.errors import DataError, StageBusy
from ups.core.leases import Lease

SPAWN = multiprocessing.get_context("spawn")


def publish(store: ArtifactStore, key: str, text: str) -> Path:
    return store.publish(key, lambda folder: (folder / "a").write_text(text) and None)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.02)


def test_what_is_published_is_found(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert store.find("key") is None
    folder = store.publish("key", lambda temporary: (temporary / "a.txt").write_text("one") and None)
    assert store.find("key") == folder
    assert (folder / "a.txt").read_text() == "one"
    assert store.find("other") is None


def test_the_second_publisher_gets_the_first_ones_copy(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    first = store.publish("key", lambda temporary: (temporary / "a").write_text("one") and None)

    def never(temporary: Path) -> None:
        raise AssertionError("filled again")

    assert store.publish("key", never) == first

    def while_another_publishes(temporary: Path) -> None:
        (temporary / "a").write_text("late")
        store.publish("race", lambda inner: (inner / "a").write_text("early") and None)

    folder = store.publish("race", while_another_publishes)
    assert (folder / "a").read_text() == "early"
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]


def test_a_failure_publishes_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def fail(temporary: Path) -> None:
        (temporary / "a").write_text("half")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError):
        store.publish("key", fail)
    assert store.find("key") is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest"])
def test_a_damaged_artifact_is_put_aside_and_made_anew(tmp_path: Path, damage: str) -> None:
    store = ArtifactStore(tmp_path)
    folder = store.publish("key", lambda temporary: (temporary / "a").write_text("one") and None)
    if damage == "changed":
        (folder / "a").write_text("two")
    elif damage == "missing":
        (folder / "a").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    with pytest.warns(UserWarning, match="made anew") as warned:
        assert store.find("key") is None
    assert "\n" not in str(warned[0].message)
    assert str(folder) in str(warned[0].message)
    assert not store.has("key")
    again = store.publish("key", lambda temporary: (temporary / "a").write_text("three") and None)
    assert (again / "a").read_text() == "three"
    assert store.find("key") == again
    assert [*(tmp_path / "damaged").iterdir()]
    store.gc(10**9)
    assert not [*(tmp_path / "damaged").iterdir()]


def test_damage_that_cannot_be_put_aside_is_one_line_that_names_the_folder(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    folder = store.publish("key", lambda temporary: (temporary / "a").write_text("one") and None)
    (folder / "a").write_text("two")
    (tmp_path / "damaged").touch()  # stands where the folder would be made
    with pytest.raises(DataError, match="delete the folder") as error:
        store.find("key")
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def _publish_and_stop(root: Path, moment: str) -> None:
    """Publish, and be stopped while the files are written, or right before the folder gets its name."""

    def stop(*paths: object) -> None:
        (root / "begun").touch()
        time.sleep(600)

    def fill(temporary: Path) -> None:
        (temporary / "a").write_text("half")
        if moment == "filling":
            stop()

    os.rename = stop  # type: ignore[assignment]
    ArtifactStore(root).publish("key", fill)


@pytest.mark.parametrize("moment", ["filling", "renaming"])
def test_a_publisher_that_is_killed_leaves_nothing_to_be_found(tmp_path: Path, moment: str) -> None:
    process = SPAWN.Process(target=_publish_and_stop, args=(tmp_path, moment))
    process.start()
    try:
        until((tmp_path / "begun").exists)
    finally:
        process.kill()
        process.join()
    store = ArtifactStore(tmp_path)
    assert store.find("key") is None
    assert store.ls() == []
    assert (publish(store, "key", "whole") / "a").read_text() == "whole"


def _make_once(root: Path) -> None:
    store = ArtifactStore(root / "store")
    while store.find("key") is None:
        lease = store.claim("key", "operator")
        if lease is not None:
            with lease, open(root / "made", "a") as stream:
                stream.write(f"{os.getpid()}\n")
                time.sleep(0.2)
                publish(store, "key", "content")
                lease.settle()


def test_of_many_that_need_an_artifact_one_makes_it(tmp_path: Path) -> None:
    processes = [SPAWN.Process(target=_make_once, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert len((tmp_path / "made").read_text().splitlines()) == 1


def test_who_will_not_wait_is_told_who_is_busy(tmp_path: Path) -> None:
    store, other = ArtifactStore(tmp_path), ArtifactStore(tmp_path)
    with store.claim("key", "operator") as lease:  # type: ignore[union-attr]
        assert other.is_busy("key")
        with pytest.raises(StageBusy, match="operator") as error:
            other.claim("key", "operator", wait=False)
        again = pickle.loads(pickle.dumps(error.value))
        assert (again.stage, again.key, str(again)) == ("operator", "key", str(error.value))
        publish(store, "key", "content")
        lease.settle()
    assert not other.is_busy("key")
    assert other.claim("key", "operator", wait=False) is None


def test_a_manifest_says_what_it_is_and_what_it_saves(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    store.publish("key", lambda folder: (folder / "a").write_text("four") and None, what="operator", seconds=12.5)
    (found,) = store.ls()
    assert (found.key, found.what, found.bytes, found.seconds) == ("key", "operator", 4, 12.5)
    assert not found.is_protected
    assert found.created == pytest.approx(time.time(), abs=60)


def test_use_is_what_keeps_an_artifact(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    for key in "abc":
        folder = publish(store, key, "x" * 100)
        os.utime(folder / "manifest.json", (1000.0, 1000.0 + ord(key)))
    assert [artifact.key for artifact in store.ls()] == ["a", "b", "c"]
    assert store.has("b")  # a look from afar is no use
    store.find("a")
    assert [artifact.key for artifact in store.ls()] == ["b", "c", "a"]
    assert [artifact.key for artifact in store.gc(250, dry_run=True).removed] == ["b"]
    assert [artifact.key for artifact in store.gc(250).removed] == ["b"]
    assert store.find("a")
    assert store.find("b") is None


def test_what_is_needed_stays_even_if_the_store_is_too_large(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    for key in ("pinned", "made", "read", "free"):
        publish(store, key, "x" * 100)
    store.pin("study", ["pinned", "not there yet"])
    # a lease on what is there: it is made anew by somebody who found it missing
    lease = store.leases.acquire("f" * 64, "made", "operator", None, ["read"])
    assert lease is not None
    result = store.gc(0)
    assert [artifact.key for artifact in result.removed] == ["free"]
    assert (result.bytes_after, result.bytes_protected, result.fits) == (300, 300, False)
    lease.release()
    store.pin("study", [])
    assert store.gc(0).fits
    assert store.ls() == []


def test_a_collection_clears_rests_and_touches_nothing_else(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    group = publish(store, "key", "x").parent
    rest, young = (group / f".{12 * digit}.{32 * digit}" for digit in "01")
    for folder in (rest, young, tmp_path / "trash" / ("2" * 32), tmp_path / "trash" / "mine", group / ".git"):
        folder.mkdir(parents=True)
        (folder / "a").write_text("x" * 10)
        for path in (folder / "a", folder):
            os.utime(path, (0, 0))
    os.utime(young / "a")
    result = store.gc(10**9)
    assert (result.bytes_before, result.bytes_after, result.removed) == (11, 11, ())
    assert not rest.exists()
    assert young.exists()
    assert [path.name for path in (tmp_path / "trash").iterdir()] == ["mine"]
    assert (group / ".git" / "a").exists()


def test_a_reader_that_meets_a_collection_finds_nothing_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path)
    publish(store, "key", "content")
    read = Path.read_text

    def removed_after_the_manifest_was_read(path: Path, *arguments: object, **options: object) -> str:
        text = read(path, *arguments, **options)  # type: ignore[arg-type]
        monkeypatch.setattr(Path, "read_text", read)
        store.gc(0)
        return text

    monkeypatch.setattr(Path, "read_text", removed_after_the_manifest_was_read)
    assert store.find("key") is None


def test_a_damaged_pin_stops_a_collection(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    publish(store, "key", "content")
    store.pin("study", ["key"])
    next((tmp_path / "pins").glob("*.json")).write_text("{")
    with pytest.raises(DataError, match="what it protects"):
        store.gc(0)
    assert store.find("key")


KEYS = st.sampled_from("abcdef")


class Collected(RuleBasedStateMachine):
    """Whatever is published, used, pinned, leased and collected in whatever order: found is what must be found."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = ArtifactStore(Path(self.folder.name))
        self.sizes: dict[str, int] = {}
        self.pins: dict[str, set[str]] = {}
        self.leases: dict[str, Lease] = {}

    def teardown(self) -> None:
        for lease in self.leases.values():
            lease.release()
        self.folder.cleanup()

    @rule(key=KEYS, size=st.integers(1, 50))
    def publish(self, key: str, size: int) -> None:
        publish(self.store, key, "x" * size)
        self.sizes.setdefault(key, size)

    @rule(key=KEYS)
    def use(self, key: str) -> None:
        self.store.find(key)

    @rule(owner=st.sampled_from(["one", "other"]), keys=st.sets(KEYS))
    def pin(self, owner: str, keys: set[str]) -> None:
        self.store.pin(owner, keys)
        self.pins[owner] = keys

    @rule(key=KEYS)
    def lease(self, key: str) -> None:
        if key in self.leases:
            self.leases.pop(key).release()
        else:
            lease = self.store.leases.acquire(hashlib.sha256(key.encode()).hexdigest(), key, "operator")
            assert lease is not None
            self.leases[key] = lease

    @rule(max_bytes=st.integers(0, 200), dry_run=st.booleans())
    def collect(self, max_bytes: int, dry_run: bool) -> None:
        protected = set().union(*self.pins.values()) | set(self.leases)
        order = [artifact.key for artifact in self.store.ls()]
        result = self.store.gc(max_bytes, dry_run=dry_run)
        removed = [artifact.key for artifact in result.removed]
        free = [key for key in order if key not in protected]
        assert removed == free[: len(removed)]  # the least recently used, and none that is needed
        kept = {key: size for key, size in self.sizes.items() if key not in removed}
        assert result.bytes_after == sum(kept.values())
        assert result.fits == (result.bytes_after <= max_bytes)
        assert result.fits or removed == free
        if removed:  # no more than had to go
            assert result.bytes_after + self.sizes[removed[-1]] > max_bytes
        if not dry_run:
            self.sizes = kept

    @invariant()
    def what_was_published_and_not_collected_is_found(self) -> None:
        assert {artifact.key: artifact.bytes for artifact in self.store.ls()} == self.sizes
        assert all(self.store.has(key) == (key in self.sizes) for key in "abcdef")


Collected.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestCollected = Collected.TestCase
