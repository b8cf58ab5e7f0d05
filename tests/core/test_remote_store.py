"""A store behind a URI: servers that refuse, answers that are lost, blobs that are damaged, and who may not come in."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem
from s3_server import S3Server

from ups.core import objects, remote_store, unfinished
from ups.core.artifacts import ArtifactStore
from ups.core.errors import UserError
from ups.core.leases import Leases
from ups.core.numbered import NumberedObjects
from ups.core.objects import Objects, StoreUnreachable
from ups.core.remote_store import RemoteStore, open_store
from ups.core.store_uri import check, is_uri, wash


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(objects, "LONGEST_PAUSE_SECONDS", 0.05)


@pytest.fixture
def another(s3: S3Server, tmp_path: Path) -> Callable[[], RemoteStore]:
    """The same store each time, as another machine sees it."""
    uri = s3.bucket()
    return lambda: RemoteStore(uri, tmp_path / f"cache-{uuid.uuid4().hex}")


def text(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "a").write_text(content) and None


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.02)


def test_it_can_be_a_store(another: Callable[[], RemoteStore], s3: S3Server) -> None:
    store = another()
    store.check()
    assert s3.contents(str(store)) == {}


def test_a_server_that_refuses_for_a_while_loses_nothing(another: Callable[[], RemoteStore], s3: S3Server) -> None:
    store = another()
    s3.refuse = 5
    store.publish("key", text("content"))
    assert s3.refuse == 0
    s3.refuse = 5
    assert (another().find("key") / "a").read_text() == "content"  # type: ignore[operator]
    assert s3.refuse == 0


def test_a_server_that_is_gone_for_a_while_loses_nothing(
    another: Callable[[], RemoteStore], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses, refused = objects._pauses, threading.Event()

    def noted() -> Iterator[float]:
        for pause in pauses():
            refused.set()
            yield pause

    monkeypatch.setattr(objects, "_pauses", noted)
    s3.stop()
    publisher = threading.Thread(target=another().publish, args=("key", text("content")))
    publisher.start()
    was_refused = refused.wait(60)
    s3.start()
    assert was_refused
    publisher.join(60)
    assert (another().find("key") / "a").read_text() == "content"  # type: ignore[operator]


def test_patience_ends_with_one_line_and_nothing_is_half_there(
    another: Callable[[], RemoteStore], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PATIENCE_SECONDS", 0.1)
    store = another()
    store.publish("other", text("content"))
    s3.refuse = 10**6
    with pytest.raises(StoreUnreachable, match="no answer") as error:
        store.publish("key", text("content"))
    assert "\n" not in str(error.value)
    s3.refuse = 0
    assert not store.has("key")
    assert [artifact.key for artifact in another().ls()] == ["other"]
    store.publish("key", text("again"))
    assert (another().find("key") / "a").read_text() == "again"  # type: ignore[operator]


def test_patience_is_at_least_half_a_minute_of_growing_pauses() -> None:
    assert objects.PATIENCE_SECONDS >= 30
    pauses = objects._pauses()
    assert max(next(pauses) for _ in range(20)) <= objects.LONGEST_PAUSE_SECONDS


def test_a_created_object_is_known_as_ones_own_though_the_answer_was_lost(
    another: Callable[[], RemoteStore], s3: S3Server
) -> None:
    store = another().objects
    s3.lose_answers = 2
    assert store.create("name", b"mine")
    assert s3.lose_answers < 2
    s3.lose_answers = 0
    assert not store.create("name", b"another's")
    assert store.read("name") == b"mine"


def test_what_will_not_pass_is_told_at_once(
    another: Callable[[], RemoteStore], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_pauses", lambda: iter(()))  # a repeated request would find no pause to make
    nowhere = RemoteStore("s3://there-is-no-such-bucket/store", Path("unused"))
    for act in (nowhere.check, lambda: nowhere.has("key"), lambda: nowhere.objects.write("a", b"")):
        with pytest.raises(UserError, match=r"no such bucket .*create it"):
            act()
    store = another()
    s3.deny = True
    with pytest.raises(UserError, match=r"access denied .* into the environment") as error:
        store.find("key")
    assert "testing" not in str(error.value)


def test_a_place_that_cannot_create_exclusively_is_no_store(
    another: Callable[[], RemoteStore], s3: S3Server, tmp_path: Path
) -> None:
    s3.ignore_conditions = True
    with pytest.raises(UserError, match="cannot create an object only where there is none"):
        another().check()

    class LooksFirst(MemoryFileSystem):
        protocol = "looksfirst"
        pipe_file = AbstractFileSystem.pipe_file

    fsspec.register_implementation("looksfirst", LooksFirst, clobber=True)
    with pytest.raises(UserError, match="conditional writes"):
        RemoteStore("looksfirst://store", tmp_path).check()


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest", "escape"])
def test_a_damaged_artifact_is_put_aside_and_made_anew(another: Callable[[], RemoteStore], damage: str) -> None:
    store = another()
    store.publish("key", text("content"))
    (blob,) = store.objects.sizes("blobs")
    (manifest,) = store.objects.sizes("manifests")
    if damage == "truncated":
        store.objects.write(blob, b"cont")
    elif damage == "missing":
        store.objects.remove([blob])
    elif damage == "manifest":
        store.objects.write(manifest, b"{")
    else:
        facts = json.loads(store.objects.read(manifest) or b"")
        store.objects.write(manifest, json.dumps({**facts, "sha256": {"../../a": "0" * 64}}).encode())
    other = another()
    with pytest.warns(UserWarning, match=r"^[^\n]*made anew[^\n]*\Z"):
        assert other.find("key") is None
    assert not store.has("key")
    assert len(other.objects.sizes("damaged")) == 1
    other.publish("key", text("again"))
    assert (another().find("key") / "a").read_text() == "again"  # type: ignore[operator]
    other.gc(10**9)
    assert other.objects.sizes("damaged") == {}


def test_an_artifact_that_is_replaced_while_it_is_read_is_read_again(
    another: Callable[[], RemoteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = another(), another()
    store.publish("key", text("first"))
    get = Objects.get

    def too_late(self: Objects, name: str, file: Path) -> bool:
        monkeypatch.setattr(Objects, "get", get)
        store.replace("key", text("second"))
        return get(self, name, file)

    monkeypatch.setattr(Objects, "get", too_late)
    assert (other.find("key") / "a").read_text() == "second"  # type: ignore[operator]


def test_what_killed_uploads_left_is_collected_in_the_end(
    another: Callable[[], RemoteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = another()
    store.publish("key", text("content"))
    rest = f"blobs/{'0' * 64}/{time.time():.0f}-{uuid.uuid4().hex}/a"
    store.objects.write(rest, b"half")
    result = store.gc(10**9)
    assert (result.bytes_before, result.bytes_protected) == (11, 4)
    now = time.time()
    monkeypatch.setattr(remote_store.time, "time", lambda: now + 1.1 * remote_store.ABANDONED_SECONDS)
    assert store.gc(10**9).bytes_before == 7
    assert rest not in store.objects.sizes("blobs")
    assert another().find("key")


def test_the_cache_is_bounded_and_gives_way_to_what_is_needed(
    another: Callable[[], RemoteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_store, "CACHE_BYTES", 250)
    store, other = another(), another()
    for key in "abcd":
        store.publish(key, text("x" * 100))
        assert sum(artifact.bytes for artifact in store.cache.ls()) <= 350
    store.publish("large", text("x" * 1000))
    for key in ("a", "b", "c", "large", "a"):
        folder = other.find(key)
        assert folder is not None
        assert (folder / "a").exists()
    assert sum(artifact.bytes for artifact in other.cache.ls()) <= 250


def test_a_suspended_holder_is_replaced_and_notices(another: Callable[[], RemoteStore]) -> None:
    places = [NumberedObjects(another().objects, "leases") for _ in range(2)]
    places[0].look_seconds = 0.0
    silent = Leases(places[0], beat_seconds=1000.0).acquire("a" * 64, "key", "operator")
    assert silent is not None
    observer = Leases(places[1], ttl_seconds=0.2)
    until(lambda: not observer.is_held("a" * 64))
    assert silent.is_lost
    following = observer.acquire("a" * 64, "key", "operator")
    assert following is not None
    silent.release()
    assert not following.is_lost
    following.release()


def test_a_suspended_holder_does_not_bring_back_what_another_has_removed(another: Callable[[], RemoteStore]) -> None:
    places = [NumberedObjects(another().objects, "leases") for _ in range(2)]
    held = Leases(places[0], beat_seconds=0.02).acquire("a" * 64, "key", "operator")
    assert held is not None
    observer = Leases(places[1], ttl_seconds=0.2)
    with held._lock:  # it cannot beat
        until(lambda: not observer.is_held("a" * 64))
        with observer.acquire("a" * 64, "key", "operator") as following:  # type: ignore[union-attr]
            following.settle()
        assert places[1].places() == []
    until(lambda: held.is_lost)
    time.sleep(0.1)  # several beats
    assert places[1].places() == []
    held.release()
    assert places[1].places() == []


def test_a_holder_beats_and_a_refusing_server_does_not_take_its_lease(
    another: Callable[[], RemoteStore], s3: S3Server
) -> None:
    place = NumberedObjects(another().objects, "leases")
    place.look_seconds = 0.0
    with Leases(place, beat_seconds=0.01).acquire("a" * 64, "key", "operator") as lease:  # type: ignore[union-attr]
        first = place.read("a" * 64, 1)
        until(lambda: place.read("a" * 64, 1) != first)
        s3.refuse = 20
        until(lambda: s3.refuse == 0)
        assert not lease.is_lost
        lease.settle()
    assert place.places() == []


def test_checkpoints_of_an_unfinished_stage_reach_the_next_holder_and_go_with_its_end(
    another: Callable[[], RemoteStore], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(unfinished, "LOOK_SECONDS", 0.01)
    store, work = another(), tmp_path / "work"
    work.mkdir()
    lease = store.claim("key", "operator", folder=work)
    assert lease is not None
    for step in range(3):
        (work / "last.safetensors").write_text(f"step {step}")
        until(lambda step=step: _unfinished_text(another()) == f"step {step}")
    # one copy, whatever is written; the one before goes after the latest is there
    until(lambda: len(store.objects.sizes("blobs")) == 1)
    (artifact,) = store.ls()
    assert (artifact.what, artifact.leased) == ("operator, unfinished", True)
    (work / "last.safetensors").write_text("the last step")
    lease.release()
    other = another()
    following = other.claim("key", "operator", folder=tmp_path / "elsewhere")
    assert following is not None
    assert (following.remains[-1] / "last.safetensors").read_text() == "the last step"
    other.publish("key", text("content"))
    following.settle()
    following.release()
    assert [artifact.key for artifact in store.ls()] == ["key"]
    assert len(store.objects.sizes("blobs")) == 1
    assert store.objects.sizes("leases") == {}


def _unfinished_text(store: RemoteStore) -> str | None:
    found = next((store.find(artifact.key) for artifact in store.ls()), None)
    return None if found is None else (found / "last.safetensors").read_text()


FULL = """
import resource, sys
from pathlib import Path
from ups.core.errors import UserError
from ups.core.remote_store import RemoteStore, open_store
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
root = Path(sys.argv[1])
for store in (open_store(root / "store"), RemoteStore("memory://full", root / "cache")):
    store.publish("small", lambda folder: (folder / "a").write_text("small") and None)
    try:
        store.publish("key", lambda folder: (folder / "a").write_text(100_000 * "x") and None)
    except UserError as error:
        print(error)
    assert store.find("key") is None
    assert [artifact.key for artifact in store.ls()] == ["small"]
    assert store._bytes_being_written() == 0
"""


def test_a_disk_that_refuses_leaves_nothing_and_says_what_helps(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == 2
    for line, folder, remedy in zip(lines, ("store", "cache"), ("choose another --store", "UPS_CACHE"), strict=True):
        assert line.startswith(f"{tmp_path / folder}: the disk is refusing a file of that size (File too large; ")
        assert "GiB free), nothing was published; free some space, or" in line
        assert remedy in line
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:HIDDEN@bucket/x",
        "s3://KEY:HID/DEN@bucket/x",
        "s3://bucket/x?secret=HIDDEN",
        "simplecache::s3://HIDDEN@bucket",
        "abfs://container:HIDDEN@account/x",
        "gs://HIDDEN@bucket/x",
    ],
)
def test_credentials_in_a_uri_are_refused_and_never_shown(uri: str, tmp_path: Path) -> None:
    assert "HID" not in wash(uri)
    with pytest.raises(UserError, match="environment") as error:
        open_store(uri)
    assert "HID" not in str(error.value)
    with pytest.raises(ValueError, match="environment"):
        check(wash(uri))


def test_what_is_no_uri_is_a_folder(tmp_path: Path) -> None:
    for place in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        store = open_store(place)
        assert isinstance(store, ArtifactStore)
        assert store.root == tmp_path
    assert is_uri("abfs://container@account.dfs.core.windows.net/x")
    assert check("abfs://container@account.dfs.core.windows.net/x")
    assert check("s3://bucket/path")
    for nothing in ("", "  ", "s3://"):
        with pytest.raises(UserError, match="folder or a URI"):
            check(nothing)
    with pytest.raises(UserError, match="no store can be opened there"):
        open_store("nothing://x")
