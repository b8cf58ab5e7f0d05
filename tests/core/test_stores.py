"""What every store promises: in a folder, in memory:// and on a server of the S3 protocol."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ups.core.artifacts import ArtifactStore
from ups.core.errors import DataError, StageBusy
from ups.core.leases import Lease
from ups.core.remote_store import RemoteStore
from ups.core.store import Store

Open = Callable[[], Store]


@pytest.fixture(params=["folder", "memory", "s3"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """The same store each time, as another machine sees it: with a cache of its own."""
    if request.param == "folder":
        return lambda: ArtifactStore(tmp_path / "store")
    uri = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else request.getfixturevalue("s3").bucket()
    return lambda: RemoteStore(uri, tmp_path / f"cache-{uuid.uuid4().hex}")


def text(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "a").write_text(content) and None


def never(folder: Path) -> None:
    raise AssertionError("filled again")


def test_what_is_published_is_found_everywhere(another: Open) -> None:
    store, other = another(), another()
    assert (store.find("key"), store.has("key"), store.is_there) == (None, False, False)
    folder = store.publish("key", text("one"))
    assert store.find("key") == folder
    for each in (store, other):
        found = each.find("key")
        assert found is not None
        assert (found / "a").read_text() == "one"
        assert each.has("key")
        assert each.is_there
        assert each.find("other") is None


def test_the_second_publisher_does_nothing(another: Open) -> None:
    another().publish("key", text("one"))
    assert (another().publish("key", never) / "a").read_text() == "one"


def test_a_failure_publishes_nothing(another: Open, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise RuntimeError("no luck")

    store = another()
    with pytest.raises(RuntimeError):
        store.publish("key", fail)
    assert store.find("key") is None
    assert another().ls() == []
    assert not [path for path in tmp_path.rglob("a") if path.is_file()]


def test_of_two_that_publish_at_once_one_whole_artifact_stays(another: Open) -> None:
    begin, contents = threading.Barrier(3), [letter * 50_000 for letter in "abc"]

    def publish(content: str) -> None:
        store = another()

        def fill(folder: Path) -> None:
            begin.wait(60)  # nobody has published before all are at it
            (folder / "a").write_text(content)
            (folder / "b").write_text(content)

        store.publish("key", fill)

    threads = [threading.Thread(target=publish, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = another().find("key")
    assert found is not None
    assert (found / "a").read_text() in contents
    assert (found / "b").read_text() == (found / "a").read_text()
    assert len(another().ls()) == 1


def test_who_will_not_wait_is_told_who_is_busy(another: Open) -> None:
    store, other = another(), another()
    with store.claim("key", "operator") as lease:  # type: ignore[union-attr]
        assert other.is_busy("key")
        with pytest.raises(StageBusy, match="operator"):
            other.claim("key", "operator", wait=False)
        store.publish("key", text("content"))
        lease.settle()
    assert not other.is_busy("key")
    assert other.claim("key", "operator", wait=False) is None


def test_a_manifest_says_what_it_is_and_what_it_saves(another: Open) -> None:
    another().publish("key", text("four"), what="operator", seconds=12.5)
    (found,) = another().ls()
    assert (found.key, found.what, found.bytes, found.seconds) == ("key", "operator", 4, 12.5)
    assert not found.is_protected


def test_use_is_what_keeps_an_artifact(another: Open) -> None:
    store = another()
    for key in "abc":
        store.publish(key, text("x" * 100))
    assert store.has("b")  # a look from afar is no use
    time.sleep(0.02)  # a file system's clock ticks every few milliseconds
    another().find("a")
    assert [artifact.key for artifact in store.ls()] == ["b", "c", "a"]
    assert [artifact.key for artifact in store.gc(250, dry_run=True).removed] == ["b"]
    assert [artifact.key for artifact in store.gc(250).removed] == ["b"]
    assert store.find("b") is None
    assert another().find("b") is None
    assert another().find("a")
    store.discard("a")
    assert not another().has("a")


def test_what_is_needed_stays_even_if_the_store_is_too_large(another: Open) -> None:
    store = another()
    for key in ("pinned", "made", "read", "free"):
        store.publish(key, text("x" * 100))
    store.pin("study", ["pinned", "not there yet"])
    # a lease on what is there: it is made anew by somebody who found it missing
    lease = another().leases.acquire("f" * 64, "made", "operator", None, ["read"])
    assert lease is not None
    assert another().pins() == {"study": {"pinned", "not there yet"}}
    result = another().gc(0)
    assert [artifact.key for artifact in result.removed] == ["free"]
    assert (result.bytes_after, result.bytes_protected, result.fits) == (300, 300, False)
    lease.release()
    store.pin("study", [])
    assert store.gc(0).fits
    assert store.ls() == []


def test_a_damaged_pin_stops_a_collection(another: Open, request: pytest.FixtureRequest) -> None:
    store = another()
    store.publish("key", text("content"))
    store.pin("study", ["key"])
    if isinstance(store, RemoteStore):
        (name,) = store.objects.sizes("pins")
        store.objects.write(name, b"{")
    else:
        assert isinstance(store, ArtifactStore)
        next((store.root / "pins").glob("*.json")).write_text("{")
    with pytest.raises(DataError, match="what it protects"):
        store.gc(0)
    assert store.find("key")


KEYS = st.sampled_from("abcdef")


class Collected(RuleBasedStateMachine):
    """Whatever is published, used, pinned, leased and collected in whatever order: found is what must be found."""

    def open(self, folder: Path) -> Store:
        return ArtifactStore(folder)

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = self.open(Path(self.folder.name))
        self.sizes: dict[str, int] = {}
        self.pins: dict[str, set[str]] = {}
        self.leases: dict[str, Lease] = {}

    def teardown(self) -> None:
        for lease in self.leases.values():
            lease.release()
        self.folder.cleanup()

    @rule(key=KEYS, size=st.integers(1, 50))
    def publish(self, key: str, size: int) -> None:
        self.store.publish(key, text("x" * size))
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


class CollectedBehindUri(Collected):
    def open(self, folder: Path) -> Store:
        return RemoteStore(f"memory://{uuid.uuid4().hex}", folder)


def _case(machine: type[Collected], examples: int) -> Any:
    machine.TestCase.settings = settings(max_examples=examples, stateful_step_count=20, deadline=None)
    return machine.TestCase


TestCollected = _case(Collected, 25)
TestCollectedBehindUri = _case(CollectedBehindUri, 10)
