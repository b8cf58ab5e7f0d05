"""A drawn picture as a part of a page."""

from __future__ import annotations

import base64
from html import escape
from typing import Literal


def image(title: str, description: str, content: bytes, kind: Literal["png", "gif"] = "png") -> str:
    """A <figure> that holds the picture itself; `description` says in words and numbers what is seen.

    A GIF moves, so that it can be folded away.
    """
    alt = escape(f"{title}. {description}")
    shown = f'<img alt="{alt}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
    if kind == "gif":
        shown = f"<details open><summary>Animation (fold to stop it)</summary>{shown}</details>"
    return f'<figure><figcaption>{escape(title)}</figcaption>{shown}<p class="note">{escape(description)}</p></figure>'
