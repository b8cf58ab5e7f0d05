"""Figures as files: each stands alone, none is lost, and no two share a name."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ups.core.errors import UserError
from ups.pages.charts import Area, Axis, Bars, Bundle, Interval, Layer, Line, Points, bundle, chart
from ups.pages.files import write_figures
from ups.pages.page import details, gallery, page, section

SVG = "{http://www.w3.org/2000/svg}"
LAYERS: list[Layer] = [
    Points([1.0, 2.0], [0.5, None], "marks & <signs>", titles=["one", "<two>"]),
    Points([1.0, 2.0], [0.5, 0.6], "rings", mark="ring"),
    Line([1.0, 2.0], [0.5, 0.7], "a line", dashed=True),
    Bundle([[(1.0, 0.4), (2.0, 0.5)]], "lines"),
    Bars([1.0], [2.0], [0.3], [0.4], "bars"),
    Interval([1.5], [0.4], [0.6], "interval"),
    Area([1.0, 2.0], [0.3, 0.4], [0.6, 0.9], "area"),
]
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def drawing(title: str) -> str:
    return chart(title, "What it shows.", Axis("x"), Axis("y"), LAYERS)


def picture(title: str, kind: str = "png") -> str:
    shown = f'<img alt="it" src="data:image/{kind};base64,{base64.b64encode(PIXEL).decode()}">'
    return f"<figure><figcaption>{title}</figcaption>{shown}</figure>"


def test_every_figure_becomes_a_file_in_the_order_of_the_page(tmp_path: Path) -> None:
    inside = gallery([drawing("Score & <loss>"), picture("Fields"), picture("Moving", "gif")])
    whole = page("A page", [section("First", inside), section("More", details("Folded", drawing("Score & <loss>")))])
    written = write_figures(whole, tmp_path / "figures")
    names = ["score-loss.svg", "fields.png", "moving.gif", "score-loss-2.svg"]
    assert [path.name for path in written] == names
    assert written[1].read_bytes() == PIXEL


def test_a_drawing_stands_alone(tmp_path: Path) -> None:
    (path,) = write_figures(page("A page", [drawing("Score & <loss>")]), tmp_path)
    root = ElementTree.fromstring(path.read_text())
    assert root.tag == f"{SVG}svg"
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert texts[0] == "Score & <loss>"
    assert {"marks & <signs>", "rings", "a line", "lines", "bars", "interval", "area"} <= set(texts)
    assert "x" in texts
    assert "var(" not in path.read_text(), "a variable is the page's"
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    moved = [element.attrib["transform"] for element in root.iter(f"{SVG}g") if "transform" in element.attrib]
    for x, y in (each.removeprefix("translate(").removesuffix(")").split() for each in moved if "rotate" not in each):
        assert 0 <= float(x) < width
        assert 0 <= float(y) < height


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_figures(page("A page", [drawing("Score")]), tmp_path / "file" / "figures")
    assert write_figures(page("A page", []), tmp_path / "none") == []


def test_many_marks_are_one_shape_and_those_that_cover_each_other_one_mark() -> None:
    def shapes(count: int) -> str:
        places = [index % 7 / 7 for index in range(count)]
        points = Points(places, places, "", titles=[f"mark {index}" for index in range(count)])
        return chart("Marks", "All.", Axis("x"), Axis("y"), [points])

    assert shapes(50).count("<title>") == 50
    assert shapes(5000).count("<title>") == 0
    assert len(shapes(5000)) == len(shapes(50_000))


def test_an_area_is_as_high_as_what_bounds_it() -> None:
    low, high = [0.3, 0.4], [0.6, 0.9]
    area = chart("Area", "It.", Axis("x"), Axis("y"), [Area([1.0, 2.0], low, high, "")])
    lines = chart("Lines", "It.", Axis("x"), Axis("y"), [Line([1.0, 2.0], high), Line([2.0, 1.0], low[::-1])])
    (outline,) = re.findall('fill-opacity="[^"]*" d="M([^"]*)z"', area)
    assert outline.split("L") == [
        place for d in re.findall('stroke-width="2.2" d="M([^"]*)"', lines) for place in d.split("L")
    ]


def test_what_lines_share_is_drawn_once() -> None:
    shared = [(0.0, 0.0), (10.0, 10.0), (20.0, 10.0)]
    lines = [[*shared, (30.0, 5.0 * end)] for end in range(9)]
    assert bundle(lines[:1]) == "M0 0l10 10l10 0l10 -10"
    assert bundle(lines).count("l") == 2 + 9
