"""Storage that refuses: writes are tried again, and what was written of them is taken back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tune import patience
from tune.driver import Driver
from tune.patience import StorageRefused, append, patiently
from tune.search import run_search
from ups.core.objects import StoreDenied, StoreUnreachable
from ups.core.runtime import drop_half_line
from ups.core.store import disk_in_words
from ups.core.types import Progress, RunResult, Status


@pytest.fixture
def pauses(monkeypatch):
    """Instead of being slept."""
    found = []
    monkeypatch.setattr(patience.time, "sleep", found.append)
    return found


def refusing(times, number=errno.ENOSPC):
    left = [times]

    def act():
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number), "a/file")
        return "done"

    return act


def test_a_refusal_is_waited_out_with_growing_pauses(pauses):
    with pytest.warns(UserWarning, match="a/file: No space left on device; trying again in"):
        assert patiently(refusing(6)) == "done"
    assert pauses == [0.5 * 2**k for k in range(6)]
    # an outage of half a minute is one of these
    assert sum(pauses) > 30


@pytest.mark.filterwarnings("ignore")
def test_patience_has_an_end_and_is_for_refusals_alone(pauses):
    with pytest.raises(StorageRefused, match=r"a/file: Read-only file system, for 300 s; make room or mend"):
        patiently(refusing(100, errno.EROFS))
    assert sum(pauses) <= patience.PATIENCE_SECONDS < sum(pauses) + 2 * pauses[-1]
    for other in (errno.ENOENT, errno.EACCES):
        with pytest.raises(OSError, match=os.strerror(other)):
            patiently(refusing(1, other))


@pytest.mark.parametrize(
    "error", [StoreUnreachable("s3://b: no answer for 90 s"), StoreDenied("s3://b: access denied")]
)
def test_a_store_that_did_not_answer_was_waited_for_already_and_one_that_is_closed_needs_a_person(pauses, error):
    def act():
        raise error

    with pytest.raises(StorageRefused, match=f"^{error}$"):
        patiently(act)
    assert pauses == []


def test_what_a_store_says_of_a_full_disk_is_waited_out(pauses, tmp_path):
    refuse = refusing(2)

    def act():
        with disk_in_words(tmp_path, "choose another"):
            return refuse()

    with pytest.warns(UserWarning, match="a/file: No space left on device; trying again in"):
        assert patiently(act) == "done"
    assert len(pauses) == 2


def test_patience_begins_anew_after_work_that_was_not_refused(pauses, monkeypatch):
    clock = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(patience.time, "monotonic", lambda: float(next(clock)))
    with pytest.warns(UserWarning, match=r"trying again in 0\.5 s"):
        assert patiently(refusing(1000)) == "done"
    assert set(pauses) == {0.5}


def test_half_of_what_is_refused_is_taken_back(pauses, monkeypatch, tmp_path):
    path, write, refusals = tmp_path / "lines", os.write, iter([True, True])

    def half(file, content):
        if next(refusals, False):
            write(file, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content[:5])

    append(path, b"first line\n")
    monkeypatch.setattr(patience.os, "write", half)
    append(path, b"second line\n")
    assert path.read_bytes() == b"first line\nsecond line\n"
    assert len(pauses) == 2


@pytest.mark.parametrize(("content", "left"), [(b"", b""), (b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"half", b"")])
def test_half_a_line_is_cut(tmp_path: Path, content: bytes, left: bytes) -> None:
    path = tmp_path / "lines"
    drop_half_line(path)
    path.write_bytes(content)
    drop_half_line(path)
    assert path.read_bytes() == left


@pytest.mark.usefixtures("ray_session")
def test_a_trial_whose_writes_are_refused_goes_on_or_stays_open(make_plan, tmp_path, capfd):
    def train(config, out, report, *, resume, evaluate_on, store, busy):
        from tune import patience

        out.mkdir(parents=True, exist_ok=True)
        before = len(list(out.iterdir()))
        (out / str(before)).touch()
        patience.PATIENCE_SECONDS = 0.6  # one more try
        if before == 0 or (out.name == "0002" and before < 3):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
        return RunResult(Status.COMPLETE, "", 0.5, {"operator:1": 0.5}, 1.0, 7, out)

    # one after the other: the refusal ends the search, and would interrupt what still waits for its own second try
    plan = make_plan(trials=3, sampler="random", concurrency=1)
    first = run_search(plan, tmp_path / "s", trainer=train)
    assert [record.state for record in first.records] == [Status.COMPLETE, Status.COMPLETE, Status.INTERRUPTED]
    assert first.refused
    assert first.stop_reason.endswith("0002: No space left on device, for 1 s; make room or mend the storage")
    second = run_search(plan, tmp_path / "s", trainer=train, resume=True)
    assert [record.state for record in second.records] == [Status.COMPLETE] * 3
    assert not second.refused
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("when", ["a report", "an end"])
def test_a_driver_whose_disk_stays_full_ends_in_good_order(make_plan, tmp_path, monkeypatch, capfd, when):
    def train(config, out, report, *, resume, evaluate_on, store, busy):
        report(Progress("operator", 1, 2, 0.5, 0, 0.5, 1.0, 0.5, score=0.5))
        return RunResult(Status.COMPLETE, "", 0.5, {"operator:0.5": 0.5, "operator:1": 0.5}, 1.0, 7, out)

    plan = make_plan(trials=3, sampler="random")
    with monkeypatch.context() as patch:
        refused = StorageRefused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "journal.log"))
        name = {"a report": "progress", "an end": "end"}[when]
        act = getattr(Driver, name)

        def refuse(self, number, *given):
            if number == 1:
                raise refused
            return act(self, number, *given)

        patch.setattr(Driver, name, refuse)
        first = run_search(plan, tmp_path / "s", trainer=train)
    assert first.refused
    assert first.stop_reason == str(refused)
    assert {record.state for record in first.records} <= {Status.COMPLETE, Status.INTERRUPTED}
    assert first.records[1].state is Status.INTERRUPTED
    second = run_search(plan, tmp_path / "s", trainer=train, resume=True)
    assert [record.state for record in second.records] == [Status.COMPLETE] * 3
    assert capfd.readouterr() == ("", "")
