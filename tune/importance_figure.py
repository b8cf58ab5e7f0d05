"""The picture of what the score depends on: a row for each parameter, beside what chance alone would give it."""

from __future__ import annotations

from html import escape

from tune.importance import FEWEST, MOST, QUANTILE, REPEATS, Panel, Ranking
from ups.pages.charts import BLUE, GREY, figure, legend_key, px, wrapped

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 440, 4, 12, 4, 32
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_FLOOR = "#d9dde2"


def importances(ranking: Ranking) -> list[str]:
    """Parameters that all trials have, and conditional ones; empty where nothing could be judged."""
    charts = []
    always = [panel for panel in ranking.panels if not panel.condition]
    below = [panel for panel in ranking.panels if panel.condition]
    if always:
        charts.append(_drawing("Importance of each parameter", always, _said(always[0])))
    if below:
        said = "Each judged on the trials that have it, beside the parameters that all of these have."
        charts.append(_drawing("Importance of conditional parameters", below, said))
    return charts


def not_judged(ranking: Ranking) -> str:
    """What the charts leave out, and why; empty if nothing."""
    if not ranking.panels:
        few = f"there are {ranking.complete}" if ranking.complete < FEWEST else "in these no parameter varies"
        return f"Importance needs {FEWEST} trials that ran to their end within the space; {few}."
    if not ranking.left_out:
        return ""
    return (
        f"Not judged, as fewer than {FEWEST} such trials have them or other conditions held more often: "
        f"{', '.join(ranking.left_out)}."
    )


def _said(panel: Panel) -> str:
    real = [each.name for each in panel.found if not each.is_noise]
    looked = f"{MOST} of {panel.trials}" if panel.trials > MOST else str(panel.trials)
    verdict = f"Above the noise: {', '.join(real)}." if real else "No parameter stands out from the noise."
    return (
        f"Share of the variance of log score that a parameter explains on its own (fANOVA, {looked} complete trials, "
        f"{REPEATS} forests; the bar spans them, the mark is their mean). {verdict} The grey ground is the noise "
        f"floor: in {QUANTILE:.0%} of the forests no parameter without influence gets more."
    )


def _drawing(title: str, panels: list[Panel], said: str) -> str:
    parts: list[str] = []
    y = float(_TOP)
    for panel in panels:
        if panel.condition:
            told = f"where {panel.condition} ({panel.trials} trials):"
            for line in wrapped(told, _WIDTH - _LEFT):
                parts.append(f'<text class="soft" x="{_LEFT}" y="{px(y + 13)}">{escape(line)}</text>')
                y += 17
            y += 3
        for each in panel.found:
            colour = GREY if each.is_noise else BLUE
            bar = y + 22
            parts.append(
                f'<path fill="{_FLOOR}" d="M{_LEFT} {px(y + 17)}H{_x(each.floor)}v10H{_LEFT}z"/>'
                f'<path stroke="{colour}" stroke-width="3" d="M{_x(each.low)} {px(bar)}H{_x(each.high)}"/>'
                f'<circle cx="{_x(each.mean)}" cy="{px(bar)}" r="4.5" fill="{"#fff" if each.is_noise else colour}" '
                f'stroke="{colour}" stroke-width="1.8"/>'
                f'<text x="{_LEFT}" y="{px(y + 12)}">{escape(each.name)}</text>'
                f'<text class="soft" x="{_WIDTH - _RIGHT}" y="{px(y + 12)}" text-anchor="end">{each.mean:.0%}</text>'
            )
            y += _ROW
    axis = []
    for tick in _TICKS:
        anchor = "start" if tick == 0 else "end" if tick == 1 else "middle"
        axis.append(f'<line class="grid" x1="{_x(tick)}" x2="{_x(tick)}" y1="{_TOP}" y2="{px(y)}"/>')
        axis.append(f'<text class="soft" x="{_x(tick)}" y="{px(y + 16)}" text-anchor="{anchor}">{tick:.0%}</text>')
    legend = [
        legend_key(_sample(BLUE, BLUE), "above the noise"),
        legend_key(_sample(GREY, "#fff"), "noise"),
        legend_key(f'<path fill="{_FLOOR}" d="M0 2h22v10h-22z"/>', "noise floor"),
    ]
    return figure(title, said, "".join([*axis, *parts]), (_WIDTH, y + 22), legend)


def _sample(colour: str, fill: str) -> str:
    return (
        f'<path fill="none" stroke="{colour}" stroke-width="3" d="M0 7h22"/>'
        f'<circle cx="11" cy="7" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="1.8"/>'
    )


def _x(share: float) -> str:
    return px(_LEFT + 2 + min(share, 1.0) * (_WIDTH - _LEFT - _RIGHT))
