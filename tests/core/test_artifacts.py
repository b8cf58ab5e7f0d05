"""The artifact store: whole or absent, made once, never damaged in silence, and collected without harm."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ups.core.artifacts import ArtifactStore
from ups.core.errors import DataError, StageBusy

SPAWN = multiprocessing.get_context("spawn")


def publish(store: ArtifactStore, key: str, text: str) -> Path:
    return store.publish(key, lambda folder: (folder / "a").write_text(text) and None)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.02)


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
    with pytest.warns(UserWarning, match=rf"^{re.escape(str(folder))}[^\n]*made anew[^\n]*\Z"):
        assert store.find("key") is None
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
