"""The picture of what trials shared: every prefix as a box as high as the trials that went through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from tune.sharing import Prefix, all_of
from tune.study import StudyFolder
from ups.core.types import Status
from ups.pages.charts import AMBER, figure, legend_key, px, short
from ups.training.stage_order import StagesConfig

WIDTH, TOP, HEIGHT, GAP = 440, 38, 300, 8
SMALLEST = 7.0
"""pixels; what would be lower is lumped with its siblings"""
_NAMED = 16.0
"""pixels that a line of text needs"""
_SHADES: tuple[tuple[float, str, str, str], ...] = (
    (0.1, "#1f5fa8", "inverse", "its best trial is among the best tenth"),
    (0.33, "#7ba6d2", "", "among the best third"),
    (1.0, "#c9dbee", "", "behind these"),
)
"""(share of the complete trials that are better, colour, class of the text, words)"""
_NONE, _REST = "#f3e3c4", "#e3e6ea"


def stage_tree(study: StudyFolder, roots: Sequence[Prefix]) -> str:
    """From left to right the stages; boxes side by side are what the same trials went through."""
    every = all_of(tuple(roots))
    stages = [name for name in StagesConfig.model_fields if any(each.stage == name for each in every)]
    drawing = _Drawing(study, stages, sum(len(root.trials) for root in roots))
    drawing.column(list(roots), TOP)
    heads = Counter(each.stage for each in every)
    texts = []
    for index, stage in enumerate(stages):
        x = px(index * drawing.width)
        texts.append(f'<text x="{x}" y="13">{escape(_cut(stage, drawing.width))}</text>')
        texts.append(f'<text class="soft" x="{x}" y="29">{heads[stage]} different</text>')
    widest = roots[0]
    said = (
        f"{drawing.trials} trials went through {heads[stages[0]]} different settings of {stages[0]}; the most used one "
        f"served {len(widest.trials)}. A box is as high as the trials that shared its stage with everything left of "
        "it, and empty space to its right are trials that ended there."
    )
    return figure("Stages that trials shared", said, "".join([*texts, *drawing.boxes]), drawing.size, drawing.legend())


class _Drawing:
    def __init__(self, study: StudyFolder, stages: Sequence[str], trials: int) -> None:
        complete = [each.score for each in study.trials if each.state is Status.COMPLETE and each.score is not None]
        self._scores, self._stages, self.trials = sorted(complete), stages, trials
        self._best = study.best
        # one trial is not drawn as high as the page
        self._unit = min(HEIGHT / trials, 3 * _NAMED)
        self.width = WIDTH / len(stages)
        self.size = (WIDTH, TOP + self._unit * trials + 3)
        self.boxes: list[str] = []
        self._used: dict[str, tuple[str, str]] = {}

    def column(self, prefixes: Sequence[Prefix], top: float) -> None:
        """Draw these from `top` downwards, each with what lies below it to its right."""
        large = [each for each in prefixes if len(each.trials) * self._unit >= SMALLEST]
        small = prefixes[len(large) :]
        if len(small) == 1:
            large, small = [*large, *small], []
        for each in large:
            self._prefix(each, top)
            self.column(each.below, top)
            top += len(each.trials) * self._unit
        self._rests(small, top)

    def _prefix(self, prefix: Prefix, top: float) -> None:
        colour, text, words = self._shade(prefix.best)
        self._used[colour] = (colour, words)
        count, first = len(prefix.trials), prefix.trials[0].number
        said = f"{prefix.stage} of trial {first}: {count} trial{'s' * (count > 1)}"
        if prefix.reused:
            said += f", {prefix.reused} found it finished"
        if prefix.best is not None:
            said += f", best score {short(prefix.best)}"
        names = (f"{count} trials", f"from trial {first}") if count > 1 else (f"trial {first}",)
        is_best = self._best is not None and any(trial.number == self._best.number for trial in prefix.trials)
        self._box(prefix.stage, top, count, colour, text, names, said, is_best)

    def _rests(self, prefixes: Sequence[Prefix], top: float) -> None:
        """All of these as one box for each stage they are of."""
        for stage in self._stages:
            same = [each for each in prefixes if each.stage == stage]
            if same:
                self._rest(same, top)
                top += sum(len(each.trials) for each in same) * self._unit

    def _rest(self, prefixes: Sequence[Prefix], top: float) -> None:
        self._used[_REST] = (_REST, "several small ones together")
        count, kinds, stage = sum(len(each.trials) for each in prefixes), len(prefixes), prefixes[0].stage
        said = f"{kinds} more {stage}, {count} trials together"
        self._box(stage, top, count, _REST, "", (f"{count} trials", f"in {kinds} others"), said, False)
        self._rests([each for prefix in prefixes for each in prefix.below], top)

    def _box(
        self, stage: str, top: float, count: int, colour: str, text: str, names: Sequence[str], said: str, is_best: bool
    ) -> None:
        x, height = self._stages.index(stage) * self.width, count * self._unit
        rim = f' stroke="{AMBER}" stroke-width="3"' if is_best else ""
        shape = (
            f'<rect x="{px(x + 1.5)}" y="{px(top + 1.5)}" width="{px(self.width - GAP)}" '
            f'height="{px(max(height - 3, 1))}" rx="2" fill="{colour}"{rim}/>'
        )
        kind = f' class="{text}"' if text else ""
        for line, name in enumerate(names[: int((height - 2) / _NAMED)]):
            place = f'x="{px(x + 8)}" y="{px(top + 14.5 + line * _NAMED)}"'
            shape += f"<text{kind} {place}>{escape(_cut(name, self.width - GAP - 10))}</text>"
        self.boxes.append(f"<g><title>{escape(said)}</title>{shape}</g>")

    def _shade(self, best: float | None) -> tuple[str, str, str]:
        if best is None:
            return _NONE, "", "no trial through it ran to its end"
        better = sum(score < best for score in self._scores) / len(self._scores)
        return next((colour, text, words) for share, colour, text, words in _SHADES if better <= share)

    def legend(self) -> list[str]:
        order = [*(colour for _, colour, _, _ in _SHADES), _NONE, _REST]
        used = sorted(self._used.values(), key=lambda each: order.index(each[0]))
        keys = [
            legend_key(f'<path fill="{colour}" stroke="#55606b" stroke-width=".5" d="M2 1h18v12h-18z"/>', words)
            for colour, words in used
        ]
        if self._best is not None:
            way = f'<path fill="none" stroke="{AMBER}" stroke-width="3" d="M3 2h16v10h-16z"/>'
            keys.append(legend_key(way, f"the way of trial {self._best.number}, the best"))
        return keys


def _cut(text: str, width: float) -> str:
    """What fits, about 7 pixels a letter."""
    letters = int(width / 7)
    return text if len(text) <= letters else text[: letters - 1] + "…"
