"""What a kill in the midst of a checkpoint and a damaged file cost together: one checkpoint's interval."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes_loop import NoisyStage
from torch import Tensor

from ups.core.checkpoint import BEST, LAST, Checkpoint, copy_of, load_checkpoint, save_checkpoint, save_twice
from ups.core.errors import DataError
from ups.core.runtime import RuntimeConfig
from ups.training import takeover
from ups.training.loop import train_stage
from ups.training.stage_config import LoggingConfig, StageConfig
from ups.training.takeover import take_over

INTERVAL = 5
"""steps between two checkpoints; every second one is written at a validation"""
CONFIG = StageConfig(epochs=6, validations=3)
NAMES = tuple(file.name for name in (LAST, BEST) for file in (Path(name), copy_of(Path(name))))


class Counting(NoisyStage):
    """Knows how far it has been trained; every validation but the second is better than all before."""

    reached = 0

    def loss(self, index: int, epoch: float, share: float) -> tuple[Tensor, dict[str, float]]:
        self.reached = index + 1
        return super().loss(index, epoch, share)

    def score(self, model: torch.nn.Module) -> float:
        return {10: 3.0, 20: 4.0, 30: 2.0}[self.reached]


@dataclass(frozen=True)
class Left:
    """What a kill would have left at one moment."""

    reached: int
    """steps that were trained"""
    files: dict[str, tuple[int, bytes]]
    """name -> where on the disk it lies, and what is there"""

    @classmethod
    def at(cls, folder: Path, reached: int) -> Left:
        files = {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}
        return cls(reached, files)

    def put(self, folder: Path, damaged: str | None, harm: Callable[[bytes], bytes]) -> None:
        """All files, after the place of one of them was damaged, by whatever names it is reached."""
        folder.mkdir()
        place = None if damaged is None else self.files[damaged][0]
        for name, (own, content) in self.files.items():
            (folder / name).write_bytes(harm(content) if own == place else content)


def train(stage: NoisyStage, folder: Path, *, resume: bool = False) -> None:
    train_stage(
        stage,
        folder=folder,
        facts={"key": "key"},
        runtime=RuntimeConfig(),
        logging=LoggingConfig(log_every_n_steps=1, checkpoint_every_n_epochs=1),
        report=lambda progress: None,
        resume=resume,
    )


def flipped(at: float) -> Callable[[bytes], bytes]:
    """One bit of a file, at a share of it."""

    def harm(content: bytes) -> bytes:
        place = int(at * (len(content) - 1))
        return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]

    return harm


HARMS = {
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "bit of the header": flipped(0.05),
    "bit of the weights": flipped(0.9),
}


@pytest.fixture
def moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Left]:
    """Before and after every operation on files of one whole training."""
    stage, folder, found = Counting(CONFIG), tmp_path / "whole", []

    def watched(act: Callable[..., None], *given: Any, **named: Any) -> None:
        found.append(Left.at(folder, stage.reached))
        act(*given, **named)
        found.append(Left.at(folder, stage.reached))

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "link", "unlink"):
            patch.setattr(os, name, partial(watched, getattr(os, name)))
        train(stage, folder)
    return found


def states_of(moments: list[Left], tmp_path: Path) -> dict[tuple[str, float], Checkpoint]:
    """Every checkpoint that was written: the state of a step, or the weights of a score."""
    found = {}
    for number, content in enumerate({content for each in moments for _, content in each.files.values()}):
        file = tmp_path / f"{number}.safetensors"  # what was read is in the memory as long as its file is
        file.write_bytes(content)
        try:
            checkpoint = load_checkpoint(file)
        except DataError:  # it was on its way
            continue
        facts = checkpoint.facts
        found["best" if "score" in facts else "last", facts.get("score", facts.get("state", {}).get("step"))] = (
            checkpoint
        )
    return found


def is_equal(one: Checkpoint, other: Checkpoint) -> bool:
    same = one.tensors.keys() == other.tensors.keys()
    return same and all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


def cases(moments: list[Left]) -> Iterator[tuple[Left, str | None, str]]:
    seen = []
    for each in moments:
        if each in seen:
            continue
        seen.append(each)
        yield each, None, "empty"
        for name in NAMES:
            if name in each.files:
                yield from ((each, name, harm) for harm in HARMS)


def test_a_kill_and_a_damaged_file_cost_one_interval(moments: list[Left], tmp_path: Path) -> None:
    written = states_of(moments, tmp_path)
    assert {key for kind, key in written if kind == "last"} == {5, 10, 15, 20, 25, 30}
    assert {key for kind, key in written if kind == "best"} == {3.0, 2.0}
    replaced = 0
    for number, (left, damaged, harm) in enumerate(cases(moments)):
        folder, case = tmp_path / str(number), (left.reached, sorted(left.files), damaged, harm)
        left.put(folder, damaged, HARMS[harm])
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            found = take_over(folder, "key", ())
        # not those of what a garbage collection closes in between
        told = [str(each.message) for each in warned if each.category is UserWarning]
        assert [damaged in each for each in told] == ([] if damaged is None else [True]), case
        step, worst = 0, left.reached - INTERVAL
        if found:
            last = load_checkpoint(folder / LAST)
            step = last.facts["state"]["step"]
            assert is_equal(last, written["last", step]), case
            if last.facts["state"]["best"] is not None:
                best = load_checkpoint(folder / BEST)
                assert best.facts["score"] <= last.facts["state"]["best"], case
                assert is_equal(best, written["best", best.facts["score"]]), case
        assert step >= worst, case
        # nothing half stays, and the next damage costs no more
        assert {path.name for path in folder.iterdir()} <= {*NAMES}, case
        for name in NAMES:
            if (folder / name).exists():
                load_checkpoint(folder / name)
        assert not found or is_equal(load_checkpoint(copy_of(folder / LAST)), last), case
        replaced += damaged == LAST and step == left.reached
    assert replaced


@pytest.mark.parametrize("name", [LAST, BEST])
def test_a_copy_that_is_refused_is_a_checkpoint_that_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(Counting(CONFIG), tmp_path / "whole")
    folder, replace, asked = tmp_path / "run", os.replace, list[Path]()

    def full(source: Any, to: Path) -> None:
        asked.append(to)
        if to == copy_of(folder / name) and asked.count(to) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(to))
        replace(source, to)

    monkeypatch.setattr(os, "replace", full)
    stage = Counting(CONFIG)
    with pytest.raises(OSError, match="No space left"):
        train(stage, folder)
    assert {path.name for path in folder.iterdir()} <= {*NAMES}  # nothing half stays
    assert take_over(folder, "key", ())
    assert load_checkpoint(folder / LAST).facts["state"]["step"] >= stage.reached - INTERVAL
    train(Counting(CONFIG), folder, resume=True)
    assert is_equal(load_checkpoint(folder / LAST), load_checkpoint(tmp_path / "whole" / LAST))


def test_what_cannot_be_read_now_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    train(Counting(CONFIG), folder)
    whole = Left.at(folder, 30)
    refused = set(NAMES)

    def load(path: Path) -> Checkpoint:
        if path.parent == folder and path.name in refused:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return load_checkpoint(path)

    with monkeypatch.context() as patch:
        patch.setattr(takeover, "load_checkpoint", load)
        with pytest.raises(OSError, match="Input/output error"):
            take_over(folder, "key", ())
        assert Left.at(folder, 30) == whole
        # a place that stays bad costs nothing while the other copy can be read
        refused.intersection_update({LAST})
        with pytest.warns(UserWarning, match=f"{LAST}.*goes on at step 30"):
            assert take_over(folder, "key", ())
    assert is_equal(load_checkpoint(folder / LAST), load_checkpoint(copy_of(folder / LAST)))


@pytest.mark.parametrize(
    "odd", [torch.arange(10.0)[::5][:1], torch.ones(2, dtype=torch.complex64).conj(), torch.ones(2, 3).T]
)
def test_a_tensor_of_any_layout_comes_back(tmp_path: Path, odd: Tensor) -> None:
    save_checkpoint(tmp_path / LAST, Checkpoint({"odd": odd}, {}))
    assert torch.equal(load_checkpoint(tmp_path / LAST).tensors["odd"], odd.resolve_conj())


def test_what_is_taken_from_another_folder_is_there_twice(tmp_path: Path) -> None:
    """Whichever file of the other one is damaged."""
    train(Counting(CONFIG), tmp_path / "theirs")
    theirs = Left.at(tmp_path / "theirs", 30)
    for number, damaged in enumerate(NAMES):
        other, folder = tmp_path / f"other-{number}", tmp_path / f"ours-{number}"
        theirs.put(other, damaged, HARMS["bit of the weights"])
        assert take_over(folder, "key", [other])
        assert not take_over(tmp_path / "none", "another key", [other])
        for name in NAMES:
            assert is_equal(load_checkpoint(folder / name), load_checkpoint(tmp_path / "theirs" / name))
        assert len({(folder / name).stat().st_ino for name in NAMES}) == len(NAMES)


def test_no_bit_of_a_checkpoint_changes_unnoticed(tmp_path: Path) -> None:
    file, dtypes = tmp_path / LAST, (torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.complex64)
    shapes: list[tuple[int, ...]] = [(), (0,), (3, 2)]
    given = Checkpoint(
        {f"{dtype} {shape}": torch.ones(shape).to(dtype) for dtype in dtypes for shape in shapes}, {"a": 7}
    )
    save_checkpoint(file, given)
    content, noticed = file.read_bytes(), 0
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        try:
            read = load_checkpoint(file)
        except DataError:
            noticed += 1
            continue
        # such as the name under which the checksum stands
        assert is_equal(read, given)
        assert read.facts == given.facts
    assert noticed >= 0.9 * len(content)


def test_a_checkpoint_and_its_copy_are_two_files(tmp_path: Path) -> None:
    save_twice(tmp_path / LAST, Checkpoint({}, {}))
    both = [tmp_path / LAST, copy_of(tmp_path / LAST)]
    assert len({path.stat().st_ino for path in both}) == 2
    assert len({path.read_bytes() for path in both}) == 1
