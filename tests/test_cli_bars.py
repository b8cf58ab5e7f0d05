"""Progress of training and of counted things: bars on a terminal, single lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ups.cli.bars import LINE_SECONDS, CountInLines, counting, shown_pace, shown_speed, training
from ups.core.types import Progress

STAGES = ("operator", "diff_residual")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(width=80):
    return Console(file=Terminal(), width=width, height=24, _environ={"TERM": "xterm"}, force_terminal=True)


def elsewhere():
    return Console(file=io.StringIO(), width=80, _environ={})


def progress(stage, share, score=None, seconds=20.0):
    return Progress(stage, round(100 * share), 100, share, 3, 0.0123, 1.0, seconds, score)


def last_frame(screen):
    """The lines that were drawn last."""
    return screen.file.getvalue().split("\x1b[2K")[-1]


@pytest.mark.parametrize("width", [80, 200])
def test_a_stage_in_training_has_a_bar_with_pace_and_what_is_left(width):
    screen = terminal(width)
    with training(STAGES, screen) as report:
        report(progress("operator", 0.25, 0.5))
        report(progress("operator", 0.5))  # the score of before stays
    drawn = last_frame(screen)
    for part in ("operator", "50%", "nRMSE 0.5", "2.5 steps/s, 20 s left", "diff_residual"):
        assert part in drawn
    assert ("loss 0.0123" in drawn) == (width == 200)


def test_a_stage_that_says_nothing_was_found_and_the_run_ends_with_its_evaluation():
    screen = terminal()
    with training(STAGES, screen) as report:
        report(progress("diff_residual", 1.0, 0.4))
    drawn = last_frame(screen)
    assert "from the store" in drawn
    assert drawn.count("100%") == 3


def test_a_run_that_was_stopped_has_no_evaluation():
    screen = terminal()
    with training(STAGES, screen) as report:
        report(progress("operator", 0.5, 0.4))
    assert "evaluation" not in last_frame(screen)


def test_bars_go_when_what_they_show_fails():
    screen = terminal()
    with pytest.raises(ValueError, match="refused"), counting("making", "things", screen):
        raise ValueError("refused")
    assert last_frame(screen).strip() in ("", "\x1b[?25h")


def test_elsewhere_every_validation_is_a_line():
    screen = elsewhere()
    with training(STAGES, screen) as report:
        report(progress("operator", 0.5))
        report(progress("operator", 0.5, 0.35))
        report(progress("diff_residual", 1.0, 0.25))
    first, second = screen.file.getvalue().splitlines()
    assert first == "operator  50.0%  epoch 3  loss 0.0123  rollout_nrmse 0.35  20 s, 2.5 steps/s, 20 s left"
    assert second.startswith("diff_residual 100.0%")
    assert "\x1b" not in first + second


def test_counted_things_have_a_bar_with_rate_and_what_is_left():
    screen = terminal()
    with counting("burgers to a.h5", "trajectories", screen) as count:
        count(3, 4)
        count(4, 4)
    for part in ("burgers to a.h5", "4/4", "trajectories/s, 0 s left"):
        assert part in last_frame(screen)


def test_elsewhere_a_count_is_a_line_now_and_then_and_at_its_end():
    now, stream = 0.0, io.StringIO()
    count = CountInLines("burgers to a.h5", "trajectories", stream, lambda: now)
    for done in range(1, 1001):
        now = done * LINE_SECONDS / 400
        count(done, 1000)
    assert stream.getvalue().splitlines() == [
        "burgers to a.h5: 400 of 1000 trajectories, 40 trajectories/s, 15 s left",
        "burgers to a.h5: 800 of 1000 trajectories, 40 trajectories/s, 5 s left",
        "burgers to a.h5: 1000 of 1000 trajectories, 40 trajectories/s, 0 s left",
    ]


def test_nothing_is_said_of_a_pace_before_there_is_one():
    assert shown_speed(0, 10, 5.0, "runs") == ""
    assert shown_pace(progress("operator", 0.5, seconds=0.0)) == ""
