"""Figures as SVG text; equal data give equal text."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.nnunet.curves import Epoch
from gi2nnunet.scoring.bootstrap import Interval
from gi2nnunet.scoring.result import Score

# Each has a contrast of at least 4.5 on white (text) and 3 on mid grey (contours are outlined).
ORGAN_COLOURS = {"large_bowel": "#b3430a", "small_bowel": "#00663d", "stomach": "#2a4fb8"}
STYLE: Any = {"svg.hashsalt": "gi2nnunet", "svg.fonttype": "none", "font.size": 9}
_DARK = "#333333"


def draw_curves(epochs: Sequence[Epoch], *, title: str) -> tuple[str, str, str]:
    """Draw loss, pseudo Dice and learning rate over epochs; return the SVG text of each."""
    numbers = [epoch.number + 1 for epoch in epochs]
    # A line of a single epoch would not be seen.
    marker = "." if len(epochs) < 30 else ""

    def frame(axes: Any) -> None:
        if len(epochs) == 1:
            axes.set_xlim(numbers[0] - 0.5, numbers[0] + 0.5)

    def draw_loss(axes: Any) -> None:
        losses = [e.train_loss for e in epochs], [e.val_loss for e in epochs]
        axes.plot(numbers, losses[0], "-", color=_DARK, marker=marker, label="training")
        axes.plot(numbers, losses[1], "--", color="#b3430a", marker=marker, label="validation")
        axes.legend(loc="upper right")
        frame(axes)

    def draw_dice(axes: Any) -> None:
        for index, (organ, style) in enumerate(zip(ORGANS, ("-", "--", ":"), strict=True)):
            values = [
                e.pseudo_dice[index] if index < len(e.pseudo_dice) else math.nan for e in epochs
            ]
            name, colour = organ.replace("_", " "), ORGAN_COLOURS[organ]
            axes.plot(numbers, values, style, color=colour, marker=marker, label=name)
        axes.set_ylim(0, 1)
        axes.legend(loc="lower right")
        frame(axes)

    def draw_rate(axes: Any) -> None:
        axes.plot(numbers, [e.learning_rate for e in epochs], color=_DARK, marker=marker)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        frame(axes)

    said = f"{title}: {{}} over {len(epochs)} epochs"
    loss, dice, rate = (
        _draw(draw, heading=heading, label=said.format(heading), x_label="epoch")
        for draw, heading in (
            (draw_loss, "loss"), (draw_dice, "pseudo Dice"), (draw_rate, "learning rate"),
        )
    )  # fmt: skip
    return loss, dice, rate


def draw_scores(score: Score, intervals: Mapping[str, Interval]) -> str:
    """Draw the score and each organ's Dice of every scan, with the mean and its interval."""
    rows = [("score", _DARK, "score", [scan.score for scan in score.per_scan])]
    rows += [
        (
            f"{organ.replace('_', ' ')} Dice", ORGAN_COLOURS[organ], f"{organ}.dice",
            [scan.per_organ[organ].dice for scan in score.per_scan],
        )
        for organ in ORGANS
    ]  # fmt: skip

    def draw(axes: Any) -> None:
        for place, (_, colour, key, values) in enumerate(reversed(rows)):
            known = [value for value in values if not math.isnan(value)]
            # Spread by a fixed pattern, so that equal values do not hide one another.
            heights = [place + 0.22 * ((7 * index) % 11 - 5) / 5 for index in range(len(known))]
            axes.plot(known, heights, "o", color=colour, markersize=4, alpha=0.55)
            if (found := intervals.get(key)) is not None and not math.isnan(found.value):
                if not math.isnan(found.low):
                    axes.plot([found.low, found.high], [place, place], "-", color="black", lw=2)
                axes.plot([found.value], [place], "D", color="black", markersize=6)
        axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        shown = [value for row in rows for value in row[3] if not math.isnan(value)]
        axes.set_xlim(max(0.0, min(shown, default=0) - 0.05), 1.005)

    label = f"Score and Dice of each of {len(score.per_scan)} scans, with means and intervals"
    return _draw(draw, heading="", label=label, x_label="", size=(7, 2.6), left=0.18)


def _draw(
    draw: Callable[[Any], None],
    *,
    heading: str,
    label: str,
    x_label: str,
    size: tuple[float, float] = (3.4, 2.5),
    left: float = 0.2,
) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        # Fixed margins: to find them, matplotlib would lay out all text once more.
        figure.subplots_adjust(left=left, right=0.97, bottom=0.18, top=0.9)
        axes = figure.subplots()
        draw(axes)
        axes.set_title(heading)
        axes.set_xlabel(x_label)
        if x_label:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        return to_svg(figure, title=label, label=label)


def to_svg(figure: Figure, *, title: str, label: str) -> str:
    """Return a figure as SVG text to stand in a page; to be called within :data:`STYLE`.

    Parameters
    ----------
    figure
        What to draw.
    title
        Unlike that of every other figure of the page: ids are made of it.
    label
        What it shows, in words, for whoever does not see it.
    """
    text = io.StringIO()
    # savefig would draw it twice.
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(text, metadata={"Date": None, "Title": title})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # One page holds many figures: an id must not stand twice in it.
    mark = re.sub(r"\W+", "-", title)
    svg = re.sub(r'\bid="', f'id="{mark}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{mark}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
