"""Every page that is written, opened in headless Chromium: nothing is missing, broken, too small or too pale.

A further page is a line in PAGES: the command that writes it, from which fixture, and the headings that it must have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from looking import Browser
from test_report import SECTIONS

from tune.cli import app
from ups.cli.terminal import run_app


class Page(NamedTuple):
    made_of: str
    """a fixture that gives a folder"""
    command: str
    """with the folder in place of {}"""
    sections: tuple[str, ...]
    """how their headings begin"""
    figures: tuple[str, ...] = ()
    """captions of some that must be seen"""


PAGES = {
    "study": Page("study", "report {} --beside {}/../run", SECTIONS, ("Error over time on test", "Energy spectrum")),
    "pareto study": Page(
        "pareto_study",
        "report {} --beside {}/../run",
        (*SECTIONS[:3], "Pareto front", *SECTIONS[3:]),
        ("Error over time on validation", "Energy spectrum"),
    ),
    "run": Page(
        "run",
        "report {} --beside {}",
        ("Summary", "Course of training", "Pictures", "Scores", "Config"),
        ("Learning rate", "Error over time on test", "Energy spectrum"),
    ),
    "compare": Page("run", "compare {} {}/report.json", ("Scores", "Pictures")),
    "leaderboard": Page(
        "folder", "leaderboard {}", ("burgers, 4 test trajectories", "Studies that have promoted nothing yet")
    ),
}


@pytest.fixture(scope="module")
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the file of a page, written once."""
    folder = tmp_path_factory.mktemp("written")

    def write(name: str) -> Path:
        out = folder / f"{name}.html"
        if not out.exists():
            words = PAGES[name].command.replace("{}", str(request.getfixturevalue(PAGES[name].made_of))).split()
            assert run_app(app, [*words, "--out", str(out)]) == 0
        return out

    return write


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read(name: str, width: int, written: Callable[[str], Path], browser: Browser) -> None:
    browser.open(written(name), width)
    sections = browser.sections()
    wanted = PAGES[name].sections
    assert len(sections) == len(wanted), list(sections)
    assert all(heading.startswith(begin) for heading, begin in zip(sections, wanted, strict=True)), list(sections)
    assert all(sections.values()), sections
    assert set(PAGES[name].figures) <= set(browser.figures())
    assert browser.complaints() == []


FINE = '<html><body style="color:#222"><section><h2>A</h2><p>words</p>{}</section></body></html>'
CHART = '<svg role="img" aria-label="a chart" viewBox="0 0 400 200" width="400">{}</svg>'
MARKS = '<rect width="9" height="9"/><circle r="3"/><path d="M0 0L9 9"/>'


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("<p>more</p>", None),
        (CHART.format(MARKS + '<text x="20" y="60" font-size="16">fine</text>'), None),
        ('<p style="font-size:9px">tiny</p>', "small text, 9.0 px: tiny"),
        ('<p style="color:#999">pale</p>', "contrast 2.85: pale"),
        ('<p style="background:#333">dark</p>', "contrast 1.26: dark"),
        ('<p style="white-space:nowrap">' + "long " * 100 + "</p>", "scrolls sideways"),
        ('<img src="https://127.0.0.1:9/a.png" alt="far">', "network: https://127.0.0.1:9/a.png"),
        ('<img src="data:image/png;base64,AAAA" alt="torn">', "a broken picture: torn"),
        ("<script>undefined_function()</script>", "console: "),
        (CHART.format(""), "an empty chart: a chart"),
        (CHART.format(MARKS + '<text x="380" y="60">outside it</text>'), "text outside its figure: outside it"),
        (CHART.format(MARKS + '<text x="9" y="60" font-size="10">fine print</text>'), "small text, 10.0 px"),
        (CHART.format(MARKS + '<rect width="400" height="200"/><text x="9" y="60">hidden</text>'), "contrast 1.00"),
    ],
)
def test_what_a_reader_would_complain_of_is_found(
    content: str, complaint: str | None, tmp_path: Path, browser: Browser
) -> None:
    (tmp_path / "page.html").write_text(FINE.format(content))
    browser.open(tmp_path / "page.html", 400 if complaint else 1280)
    found = browser.complaints()
    if complaint is None:
        assert found == []
    else:
        assert any(each.startswith(complaint) for each in found), found
