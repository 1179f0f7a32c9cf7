"""Figures of both pages as SVG text; equal data give equal text."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    ScalarFormatter,
)

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.scoring.bootstrap import Interval
from gi2nnunet.scoring.result import Score
from gi2nnunet.source.check.check import HEIGHT_BINS, SourceReport
from gi2nnunet.training.record import Epoch

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


# Organs differ by more than their colour.
_LINES = dict(zip(ORGANS, ("-", "--", ":"), strict=True))
_MARKERS = dict(zip(ORGANS, ("o", "s", "^"), strict=True))
_PLAIN = "#333333"


def draw_figures(found: SourceReport) -> Mapping[str, str]:
    """Draw every plot that the source has something for; by name, as SVG text."""
    with mpl.rc_context(STYLE):
        figures = {
            "days": _draw_days(found),
            "intensities": _draw_intensities(found),
        }
        if found.masks:
            figures |= {
                "prevalence": _draw_prevalence(found),
                "volumes": _draw_volumes(found),
                "places": _draw_places(found),
            }
    return figures


def _new(columns: int = 1, *, width: float = 4.6, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        one.grid(alpha=0.3)
        one.set_axisbelow(True)
    return figure, axes


def _draw_days(found: SourceReport) -> str:
    figure, (axes,) = _new(height=2.2)
    days = found.count_days()
    bars = axes.bar(list(days), list(days.values()), color=_PLAIN, width=0.7)
    axes.bar_label(bars)
    axes.margins(y=0.2)
    axes.set_xticks(list(days))
    axes.set_xlabel("scans of the patient")
    axes.set_ylabel("patients")
    told = ", ".join(f"{patients} with {number}" for number, patients in days.items())
    return to_svg(figure, title="Scans of a patient", label=f"Patients by their scans: {told}")


def _draw_prevalence(found: SourceReport) -> str:
    figure, (axes,) = _new()
    middles = (np.arange(HEIGHT_BINS) + 0.5) / HEIGHT_BINS
    for organ, shares in found.measure_prevalence().items():
        values = [np.nan if share is None else share for share in shares]
        axes.plot(
            middles, values, _LINES[organ], marker=_MARKERS[organ], markersize=4,
            color=ORGAN_COLOURS[organ], label=organ.replace("_", " "),
        )  # fmt: skip
    empty = [np.nan if share is None else share for share in found.measure_emptiness()]
    axes.plot(middles, empty, "-.", color=_PLAIN, label="no mask at all")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("height in the scan: cranial left, caudal right")
    axes.set_ylabel("slices")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    label = "Share of slices that show each organ, by height in the scan; numbers in the table"
    return to_svg(figure, title="Prevalence", label=label)


def _draw_volumes(found: SourceReport) -> str:
    figure, (axes,) = _new(height=2.6)
    generator = np.random.default_rng(0)
    odd = {(s.scan_id, s.organ) for s in found.suspects if s.kind == "volume"}
    for index, organ in enumerate(ORGANS):
        named = [
            (scan.scan_id, scan.masks.volume_ml[index])
            for scan in found.scans
            if scan.masks is not None and scan.masks.volume_ml[index] > 0
        ]
        if not named:
            continue
        values = np.array([value for _, value in named])
        places = index + generator.uniform(-0.25, 0.25, len(values))
        axes.plot(
            values, places, _MARKERS[organ], markersize=3.5, color=ORGAN_COLOURS[organ], alpha=0.55,
            markeredgewidth=0,
        )  # fmt: skip
        axes.plot([np.median(values)] * 2, [index - 0.35, index + 0.35], color="black", lw=2)
        marked = [at for at, (scan_id, _) in enumerate(named) if (scan_id, organ) in odd]
        axes.plot(values[marked], places[marked], "o", markersize=10, mfc="none", mec="black")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(ORGANS)), [organ.replace("_", " ") for organ in ORGANS])
    axes.invert_yaxis()
    axes.set_xlabel("ml (line: median; circle: suspect)")
    return to_svg(
        figure, title="Volumes", label="Volume of each organ in every scan; numbers in the table"
    )


def _draw_places(found: SourceReport) -> str:
    figure, (front, below) = _new(2, height=3.2)
    odd = {(s.scan_id, s.organ) for s in found.suspects if s.kind == "place"}
    for index, organ in enumerate(ORGANS):
        named = [
            (scan.scan_id, *scan.masks.centre[index])
            for scan in found.scans
            if scan.masks is not None and scan.masks.volume_ml[index] > 0
        ]
        for axes, across in ((front, 1), (below, 2)):
            axes.plot(
                [row[3] for row in named], [row[across] for row in named], _MARKERS[organ],
                markersize=3.5, color=ORGAN_COLOURS[organ], alpha=0.55, markeredgewidth=0,
                label=organ.replace("_", " ") if axes is front else None,
            )  # fmt: skip
            marked = [row for row in named if (row[0], organ) in odd]
            axes.plot(
                [row[3] for row in marked], [row[across] for row in marked], "o", markersize=10,
                mfc="none", mec="black",
            )  # fmt: skip
    front.set_title("from the front")
    front.set_ylabel("height in the scan")
    front.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    below.set_title("from the feet")
    below.set_ylabel("mm to posterior")
    for axes in (front, below):
        axes.invert_yaxis()
        axes.set_xlabel("mm to the left")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    label = "Centre of each organ in every scan, seen from the front and from the feet"
    return to_svg(figure, title="Places", label=label)


def _draw_intensities(found: SourceReport) -> str:
    figure, (axes,) = _new()
    numbers = np.arange(1, len(found.scans) + 1)
    _, median, high, greatest = np.array([scan.intensity for scan in found.scans]).T
    axes.vlines(numbers, median, high, color="#8a8a8a", lw=1)
    for values, marker, colour, name in (
        (greatest, "^", ORGAN_COLOURS["stomach"], "greatest"),
        (high, "_", ORGAN_COLOURS["large_bowel"], "99th percentile"),
        (median, "o", _PLAIN, "median"),
    ):
        axes.plot(numbers, values, marker, markersize=3.5, color=colour, label=name)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("scan, in the order of the table of scans")
    axes.set_ylabel("intensity")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    label = "Median, 99th percentile and greatest intensity of every scan; numbers in the table"
    return to_svg(figure, title="Intensities", label=label)
