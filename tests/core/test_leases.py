"""Leases: one holder at a time, the dead are replaced, the suspended notice. Holders are real processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from ups.core import leases as module
from ups.core.leases import Leases

NAME = "a" * 64
SPAWN = multiprocessing.get_context("spawn")


def take(leases: Leases, folder: Path | None = None):
    return leases.acquire(NAME, "key", "operator", folder)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.02)


def _hold(root: Path, folder: Path, beat_seconds: float) -> None:
    """Take the lease, tell so, and keep it until told to end; then say whether it was lost."""
    lease = Leases(root / "leases", beat_seconds).acquire(NAME, "key", "operator", folder)
    assert lease is not None
    (root / "held").touch()
    while not (root / "end").exists():
        time.sleep(0.02)
    (root / "lost").write_text(str(lease.is_lost))
    lease.release()


def _compete(root: Path, number: int) -> None:
    (root / f"ready{number}").touch()
    while not (root / "go").exists():
        pass
    lease = take(Leases(root / "leases"))
    (root / f"result{number}").write_text("none" if lease is None else "taken")
    while not (root / "end").exists():
        time.sleep(0.02)


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    """Start a process of this test; what is left of them at the end is killed."""
    started: list[BaseProcess] = []

    def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
        process = SPAWN.Process(target=target, args=arguments)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    one, other = Leases(tmp_path), Leases(tmp_path)
    lease = take(one)
    assert lease is not None
    assert not lease.is_lost
    assert take(one) is None
    assert take(other) is None
    assert other.is_held(NAME)
    assert [holder.key for holder in other.held()] == ["key"]
    lease.release()
    lease.release()
    assert not other.is_held(NAME)
    with take(other) as following:
        assert not following.is_lost
        assert take(one) is None


def test_what_is_left_unfinished_is_handed_on_and_what_is_settled_is_not(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    for name in ("first", "second", "first"):
        take(leases, tmp_path / name).release()
    with take(leases, tmp_path / "third") as lease:
        assert lease.remains == (tmp_path / "first", tmp_path / "second")
    with take(leases, tmp_path / "second") as lease:
        assert lease.remains == (tmp_path / "third", tmp_path / "first")
        lease.settle()
    assert list(tmp_path.iterdir()) == []
    assert take(leases).remains == ()


def test_a_killed_holder_is_replaced_at_once(tmp_path: Path, start: Callable[..., BaseProcess]) -> None:
    holder = start(_hold, tmp_path, tmp_path / "work", 5.0)
    until((tmp_path / "held").exists)
    leases = Leases(tmp_path / "leases")
    assert take(leases) is None
    os.kill(holder.pid or 0, signal.SIGKILL)
    # not joined: a process that nobody waited for yet is dead, too
    until(lambda: not leases.is_held(NAME))
    lease = take(Leases(tmp_path / "leases"))
    assert lease is not None
    assert lease.remains == (tmp_path / "work",)


def test_of_many_observers_one_takes_the_lease_of_the_dead(tmp_path: Path, start: Callable[..., BaseProcess]) -> None:
    holder = start(_hold, tmp_path, tmp_path / "work", 5.0)
    until((tmp_path / "held").exists)
    for number in range(4):
        start(_compete, tmp_path, number)
    until(lambda: len(list(tmp_path.glob("ready*"))) == 4)
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()
    (tmp_path / "go").touch()
    until(lambda: len([path for path in tmp_path.glob("result*") if path.read_text()]) == 4)
    assert sorted(path.read_text() for path in tmp_path.glob("result*")) == ["none", "none", "none", "taken"]


def test_a_suspended_holder_is_replaced_and_notices(tmp_path: Path, start: Callable[..., BaseProcess]) -> None:
    holder = start(_hold, tmp_path, tmp_path / "work", 0.05)
    until((tmp_path / "held").exists)
    observer = Leases(tmp_path / "leases", ttl_seconds=2.0)
    os.kill(holder.pid or 0, signal.SIGSTOP)
    until(lambda: not observer.is_held(NAME))
    # whoever asks next gets it without watching the counter anew
    lease = take(Leases(tmp_path / "leases"))
    assert lease is not None
    os.kill(holder.pid or 0, signal.SIGCONT)
    (tmp_path / "end").touch()
    holder.join(60)
    assert (tmp_path / "lost").read_text() == "True"
    assert not lease.is_lost  # its release took nothing away
    assert take(observer) is None


def test_who_beats_is_alive_however_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, observer = Leases(tmp_path, beat_seconds=0.01), Leases(tmp_path, ttl_seconds=2.0)
    with take(holder) as lease:
        file, clock = next(tmp_path.glob("*/*")), time.monotonic
        for looks in range(20):
            assert observer.is_held(NAME)
            seen = file.read_bytes()
            until(lambda seen=seen: file.read_bytes() != seen)
            # however late the observer comes to look again
            monkeypatch.setattr(time, "monotonic", lambda looks=looks: clock() + 3600.0 * (looks + 1))
        assert observer.is_held(NAME)
        assert not lease.is_lost


def test_a_pause_of_the_observer_itself_kills_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = Leases(tmp_path, ttl_seconds=60.0)
    with take(Leases(tmp_path, beat_seconds=1000.0)):
        assert observer.is_held(NAME)
        now = time.monotonic()
        # a machine that slept for a day
        monkeypatch.setattr(time, "monotonic", lambda: now + 86_400.0)
        assert observer.is_held(NAME)
        # and then looks again and again
        for looks in range(1, 10):
            monkeypatch.setattr(time, "monotonic", lambda looks=looks: now + 86_400.0 + 20.0 * looks)
            if not observer.is_held(NAME):
                break
        assert looks == 3


def test_asking_for_a_lease_that_is_given_back_this_moment_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, read = take(Leases(tmp_path)), module._read
    lease.settle()

    def and_then_it_is_given_back(*given: Any) -> Any:
        found = read(*given)
        lease.release()
        return found

    monkeypatch.setattr(module, "_read", and_then_it_is_given_back)
    Leases(tmp_path).is_held(NAME)
    assert not Leases(tmp_path).is_held(NAME)
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_was_not_written_to_its_end_is_no_dead_one(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "00000001").touch()
    assert Leases(tmp_path).is_held(NAME)
    assert take(Leases(tmp_path)) is None


def test_a_forked_child_gives_nothing_back(tmp_path: Path) -> None:
    lease = take(Leases(tmp_path))
    child = os.fork()
    if child == 0:
        lease.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert not lease.is_lost
    assert Leases(tmp_path).is_held(NAME)
    lease.release()


def test_a_lease_keeps_no_process_alive(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\nfrom ups.core.leases import Leases\n"
        f"lease = Leases(Path({str(tmp_path)!r})).acquire({NAME!r}, 'key', 'operator')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert not Leases(tmp_path).is_held(NAME)


def test_sweep_keeps_what_is_held_and_what_can_be_gone_on_from(tmp_path: Path) -> None:
    leases, names = Leases(tmp_path / "leases"), [digit * 64 for digit in "1234"]
    (tmp_path / "work").mkdir()
    folders = [tmp_path / "work", tmp_path / "gone", tmp_path / "work", tmp_path / "work"]
    taken = [leases.acquire(name, name, "operator", folder) for name, folder in zip(names, folders, strict=True)]
    for lease in taken[:3]:
        assert lease is not None
        lease.release()
    leases.sweep(published={names[2], names[3]})
    assert sorted(path.name for path in (tmp_path / "leases").iterdir()) == [names[0], names[3]]
