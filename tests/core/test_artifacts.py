"""The artifact store: whole or absent, once, and never damaged in silence."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from ups.core.artifacts import ArtifactStore
from ups.core.errors import DataError


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
def test_damage_is_one_line_that_names_the_folder(tmp_path: Path, damage: str) -> None:
    store = ArtifactStore(tmp_path)
    folder = store.publish("key", lambda temporary: (temporary / "a").write_text("one") and None)
    if damage == "changed":
        (folder / "a").write_text("two")
    elif damage == "missing":
        (folder / "a").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="delete the folder") as error:
        store.find("key")
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def _publish_slowly(root: Path) -> None:
    def fill(temporary: Path) -> None:
        (temporary / "a").write_text("half")
        (root / "begun").touch()
        time.sleep(60)

    ArtifactStore(root).publish("key", fill)


def test_a_publisher_that_is_killed_leaves_nothing_to_be_found(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_publish_slowly, args=(tmp_path,))
    process.start()
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.join()
    store = ArtifactStore(tmp_path)
    assert store.find("key") is None
    assert (store.publish("key", lambda temporary: (temporary / "a").write_text("whole") and None) / "a").exists()
