"""An HTML page of its own: sections, tables and charts, nothing loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from ups.pages.charts import STYLE

# text and marks have a contrast of at least 4.5 on their ground; everything fits a screen of 400 pixels
_STYLE = """
:root { color-scheme: light; --ink: #1b2530; --soft: #55606b; --line: #d5dbe1; --ground: #f6f7f9 }
* { box-sizing: border-box }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff }
main { max-width: 76rem; margin: 0 auto; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 1rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .7rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line) }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(13rem, 100%), 1fr)); gap: .75rem }
.facts { margin: 0 0 .75rem }
.facts > div { background: var(--ground); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem }
dt { color: var(--soft); font-size: .9rem } dd { margin: 0; overflow-wrap: anywhere }
dd strong { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums }
dd span, .note, figure .note { color: var(--soft); font-size: .9rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1.5rem }
.charts { margin: .75rem 0 }
.uneven { columns: 2 24rem; column-gap: 1.5rem } .uneven > figure { break-inside: avoid; margin-bottom: 1.5rem }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 0 0 1rem; padding: 0 }
a { color: #1f5fa8 } h2, section { scroll-margin-top: .5rem }
details { margin: 1rem 0 } summary { cursor: pointer; font-weight: 600; padding: .3rem 0 }
summary:focus-visible, a:focus-visible { outline: 2px solid #1f5fa8 }
figure { margin: 0; max-width: 38rem; min-width: 0 }
figcaption { font-weight: 600; overflow-wrap: anywhere }
figure > svg, figure img { display: block; width: 100%; height: auto; background: #fff }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem }
.legend { margin: .2rem 0; padding: 0; font-size: .9rem }
.legend li { display: flex; align-items: center; gap: .4rem } .legend svg { flex: none }
.note { margin: .2rem 0 }
.wide { overflow-x: auto; margin: .75rem 0 } .wide:focus-visible { outline: 2px solid #1f5fa8 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line) }
th { font-weight: 600; white-space: nowrap } td { white-space: pre-line; overflow-wrap: anywhere; min-width: 3.5rem }
td:nth-child(-n+4) { white-space: nowrap; overflow-wrap: normal }
td:last-child { min-width: 11rem }
.short td { white-space: nowrap; min-width: 0 } .short th[scope=row] { white-space: normal; min-width: 7rem }
@media print { .wide { overflow: visible } section { break-inside: avoid-page } }
"""


_CONTENTS_FROM = 4
"""sections, from which on a page has a table of contents"""
_HEADING = re.compile(r'<section id="([^"]*)"><h2>(.*?)</h2>')


def page(title: str, sections: Sequence[str]) -> str:
    """The whole document; `sections` are what `section` gives."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n{_contents(sections)}{''.join(sections)}</main></body></html>\n"
    )


def _contents(sections: Sequence[str]) -> str:
    headings = [match.groups() for text in sections if (match := _HEADING.match(text))]
    if len(headings) < _CONTENTS_FROM:
        return ""
    entries = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading in headings)
    return f'<nav aria-label="Contents"><ul>{entries}</ul></nav>\n'


def section(title: str, content: str) -> str:
    return f'<section id="{slug(title)}"><h2>{escape(title)}</h2>{content}</section>\n'


def slug(title: str) -> str:
    """A title as a name for links and files: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "untitled"


def details(title: str, content: str) -> str:
    """What few readers ask for, behind a line that opens it."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>\n"


def gallery(charts: Sequence[str]) -> str:
    shown = "".join(charts)
    return f'<div class="charts">{shown}</div>' if shown else remark("Nothing to draw yet.")


def uneven_gallery(charts: Sequence[str]) -> str:
    """Of charts of very different heights: one below the other in two columns, where there is room for two."""
    shown = "".join(charts)
    return f'<div class="uneven">{shown}</div>' if shown else remark("Nothing to draw yet.")


def table(name: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, short: bool = False) -> str:
    """A table that scrolls within itself where the screen is narrow, with the keyboard too.

    The first cell of a row is what the row is about. `short`: the others are numbers and single words, none of which
    may be broken.
    """
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in header)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    kind = ' class="short"' if short else ""
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(name)}">'
        f"<table{kind}>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def remark(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def cards(facts: Sequence[tuple[str, str, str]]) -> str:
    """What is to be seen first: (label, value, note) each on a card of its own."""
    shown = "".join(
        f"<div><dt>{escape(label)}</dt><dd><strong>{escape(value)}</strong><span>{escape(note)}</span></dd></div>"
        for label, value, note in facts
    )
    return f'<dl class="facts">{shown}</dl>'
