"""Figures as SVG text; equal data give equal text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from gi2nnunet.kaggle import ORGANS
from gi2nnunet.report.curves import Epoch

# Each has a contrast of at least 4.5 on white (text) and 3 on mid grey (contours are outlined).
ORGAN_COLOURS = {"large_bowel": "#b3430a", "small_bowel": "#00663d", "stomach": "#2a4fb8"}
STYLE: Any = {"svg.hashsalt": "gi2nnunet", "svg.fonttype": "none", "font.size": 9}


def draw_curves(epochs: Sequence[Epoch], *, title: str) -> str:
    """Draw loss, pseudo Dice and learning rate over epochs; return SVG text."""
    numbers = [epoch.number + 1 for epoch in epochs]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.6), layout="constrained")
        loss, dice, rate = figure.subplots(1, 3)
        loss.plot(numbers, [e.train_loss for e in epochs], "-", color="#333333", label="training")
        loss.plot(numbers, [e.val_loss for e in epochs], "--", color="#b3430a", label="validation")
        loss.set_title("Loss")
        loss.legend()
        for index, (organ, style) in enumerate(zip(ORGANS, ("-", "--", ":"), strict=True)):
            values = [
                e.pseudo_dice[index] if index < len(e.pseudo_dice) else float("nan") for e in epochs
            ]
            name = organ.replace("_", " ")
            dice.plot(numbers, values, style, color=ORGAN_COLOURS[organ], label=name)
        dice.set_title("Pseudo Dice")
        dice.set_ylim(0, 1)
        dice.legend()
        rate.plot(numbers, [e.learning_rate for e in epochs], color="#333333")
        rate.set_title("Learning rate")
        for axes in (loss, dice, rate):
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.3)
        label = f"{title}: loss, pseudo Dice and learning rate over {len(epochs)} epochs"
        return to_svg(figure, title=title, label=label)


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
    figure.savefig(text, format="svg", metadata={"Date": None, "Title": title})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # One page holds many figures: an id must not stand twice in it.
    mark = re.sub(r"\W+", "-", title)
    svg = re.sub(r'\bid="', f'id="{mark}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{mark}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
