"""A page as a file, and each of its figures, too: drawings as SVG with their title and legend, pictures as they are."""

from __future__ import annotations

import base64
import binascii
import re
from html import escape, unescape
from itertools import count
from pathlib import Path

from ups.core.errors import UserError
from ups.core.runtime import write_atomic
from ups.pages.charts import STYLE
from ups.pages.page import slug

_FIGURE = re.compile(r"<figure\b.*?</figure>", re.DOTALL)
_CAPTION = re.compile(r"<figcaption>(.*?)</figcaption>", re.DOTALL)
_DRAWING = re.compile(r'<svg viewBox="0 0 ([\d.]+) ([\d.]+)"([^>]*)>(.*?)</svg>', re.DOTALL)
_ENTRY = re.compile(r"<li><svg[^>]*>(.*?)</svg>(.*?)</li>", re.DOTALL)
_PICTURE = re.compile(r'<img\b[^>]*\bsrc="data:image/(png|gif);base64,([^"]*)"')
_LETTERS = 60
"""of a file's name"""
_TITLE, _LINE, _LETTER = 28, 20, 7.2
"""pixels: height of the title, of a line of the legend, width of a letter"""


def write_page(page: str, target: Path, figures_in: Path | None = None) -> None:
    """Write a finished page, and with `figures_in` each of its figures below that folder, too.

    Raises:
        UserError: the page or a figure cannot be written.
    """
    if target.is_dir():
        raise UserError(f"{target}: is a folder; name a file such as {target / 'report.html'}")
    try:
        write_atomic(target, page.encode())
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from None
    if figures_in is not None:
        write_figures(page, figures_in)


def write_figures(page: str, folder: Path) -> list[Path]:
    """Write each <figure> of a finished page below `folder`, and return the files in the order of the page.

    A drawing becomes NAME.svg, which holds its style, title and legend and needs nothing of the page; a picture
    becomes NAME.png or NAME.gif. NAME is the figure's caption; of figures with the same one the later get a number.

    Raises:
        UserError: the folder cannot be written.
    """
    taken: set[str] = set()
    written = []
    for figure in _FIGURE.findall(page):
        caption = _CAPTION.search(figure)
        title = re.sub(r"<[^>]*>", "", caption[1]) if caption else ""
        for kind, content in _contents(figure, title):
            target = folder / f"{_name(unescape(title), taken)}.{kind}"
            try:
                write_atomic(target, content)
            except OSError as error:
                raise UserError(f"{target}: cannot be written ({error.strerror})") from None
            written.append(target)
    return written


def _contents(figure: str, title: str) -> list[tuple[str, bytes]]:
    """(ending, bytes) of what a figure shows."""
    pictures = []
    for kind, text in _PICTURE.findall(figure):
        try:
            pictures.append((kind, base64.b64decode(text, validate=True)))
        except binascii.Error:
            raise AssertionError(f"{title}: not what we embedded") from None
    drawing = _DRAWING.search(figure)
    if drawing is not None and "aria-hidden" not in drawing[3]:
        width, height = float(drawing[1]), float(drawing[2])
        pictures.append(("svg", _standalone(title, drawing[3], width, height, drawing[4], _ENTRY.findall(figure))))
    return pictures


def _standalone(
    title: str, attributes: str, width: float, height: float, drawing: str, legend: list[tuple[str, str]]
) -> bytes:
    """A file of its own: the title above the drawing, the legend below it."""
    entries, x, y = [], 4.0, _TITLE + height + 4
    for sample, label in legend:
        room = 30 + _LETTER * len(unescape(label))
        if x > 4 and x + room > width:
            x, y = 4.0, y + _LINE
        entries.append(
            f'<g transform="translate({x:.1f} {y:.1f})">{sample}<text x="28" y="12">{label}</text></g>',
        )
        x += room + 10
    whole = y + _LINE if legend else _TITLE + height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {whole:g}" width="{width:g}" '
        f'height="{whole:g}"{attributes}><style>{escape(STYLE)}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="4" y="18" font-weight="600">{title}</text><g transform="translate(0 {_TITLE})">{drawing}</g>'
        f"{''.join(entries)}</svg>\n"
    ).encode()


def _name(title: str, taken: set[str]) -> str:
    plain = slug(title)[:_LETTERS].rstrip("-")
    name = next(name for number in count(1) if (name := plain if number == 1 else f"{plain}-{number}") not in taken)
    taken.add(name)
    return name
