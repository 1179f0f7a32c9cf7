"""Figures of the pages as SVG text; equal data give equal text."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gi2nnunet.core.errors import count
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.pages.template import name_of
from gi2nnunet.scoring.compare import Comparison
from gi2nnunet.scoring.result import Interval, Score
from gi2nnunet.source.check.check import HEIGHT_BINS, SourceReport
from gi2nnunet.source.check.measures import MaskMeasures
from gi2nnunet.training.record import Epoch

# Each has a contrast of at least 4.5 on white (text) and 3 on mid grey (contours are outlined).
ORGAN_COLOURS = {"large_bowel": "#b3430a", "small_bowel": "#00663d", "stomach": "#2a4fb8"}
# Organs differ by more than their colour.
_LINES = dict(zip(ORGANS, ("-", "--", ":"), strict=True))
_MARKERS = dict(zip(ORGANS, ("o", "s", "^"), strict=True))
_STYLE: Any = {"svg.hashsalt": "gi2nnunet", "svg.fonttype": "none", "font.size": 9}
_PLAIN = "#333333"


@mpl.rc_context(_STYLE)
def draw_curves(epochs: Sequence[Epoch], *, title: str) -> tuple[str, ...]:
    """Draw loss, pseudo Dice and learning rate over epochs; return the SVG text of each."""
    dice = np.full((len(ORGANS), len(epochs)), np.nan)
    for at, epoch in enumerate(epochs):
        dice[: len(epoch.pseudo_dice), at] = epoch.pseudo_dice[: len(ORGANS)]
    curves: dict[str, list[tuple[str, str, str, Sequence[Any]]]] = {
        "loss": [
            ("training", "-", _PLAIN, [epoch.train_loss for epoch in epochs]),
            ("validation", "--", "#b3430a", [epoch.val_loss for epoch in epochs]),
        ],
        "pseudo Dice": [
            (name_of(organ), _LINES[organ], ORGAN_COLOURS[organ], values.tolist())
            for organ, values in zip(ORGANS, dice, strict=True)
        ],
        "learning rate": [("", "-", _PLAIN, [epoch.learning_rate for epoch in epochs])],
    }
    return tuple(
        _draw_curve(epochs, lines, heading=heading, title=title)
        for heading, lines in curves.items()
    )


def _draw_curve(
    epochs: Sequence[Epoch], lines: Sequence[tuple[str, str, str, Sequence[Any]]], *,
    heading: str, title: str,
) -> str:  # fmt: skip
    figure, (axes,) = _new(size=(3.4, 2.5), left=0.2)
    numbers = [epoch.number + 1 for epoch in epochs]
    marker = "." if len(epochs) < 30 else ""  # a line of a single epoch would not be seen
    for name, line, colour, values in lines:
        axes.plot(numbers, values, line, color=colour, marker=marker, label=name)
    if heading == "learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    else:
        axes.legend(loc="upper right" if heading == "loss" else "lower right")
    if heading == "pseudo Dice":
        axes.set(ylim=(0, 1))
    if len(epochs) == 1:
        axes.set(xlim=(numbers[0] - 0.5, numbers[0] + 0.5))
    axes.set(title=heading, xlabel="epoch")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    return _to_svg(figure, label=f"{title}: {heading} over {count(len(epochs), 'epoch')}")


@mpl.rc_context(_STYLE)
def draw_scores(score: Score, intervals: Mapping[str, Interval]) -> str:
    """Draw the score and each organ's Dice of every scan, with the mean and its interval."""
    rows = [("score", _PLAIN, "score", [scan.score for scan in score.per_scan])]
    for organ in ORGANS:
        values = [scan.per_organ[organ].dice for scan in score.per_scan]
        rows.append((f"{name_of(organ)} Dice", ORGAN_COLOURS[organ], f"{organ}.dice", values))
    rows.reverse()
    figure, (axes,) = _new(size=(7, 2.6), left=0.18)
    for place, (_, colour, key, values) in enumerate(rows):
        known = [value for value in values if not math.isnan(value)]
        # Spread by a fixed pattern, so that equal values do not hide one another.
        heights = [place + 0.22 * ((7 * index) % 11 - 5) / 5 for index in range(len(known))]
        axes.plot(known, heights, "o", color=colour, markersize=4, alpha=0.55)
        if (found := intervals.get(key)) is not None and not math.isnan(found.value):
            if not math.isnan(found.low):
                axes.plot([found.low, found.high], [place, place], "-", color="black", lw=2)
            axes.plot([found.value], [place], "D", color="black", markersize=6)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    shown = [value for row in rows for value in row[3] if not math.isnan(value)]
    left = max(0.0, min(shown, default=0) - 0.05)
    axes.set(ylim=(-0.6, len(rows) - 0.4), xlim=(left, 1.005))
    label = (
        f"Score and Dice of each of {count(len(score.per_scan), 'scan')}, with means and intervals"
    )
    return _to_svg(figure, label=label)


def _new(
    columns: int = 1, *, size: tuple[float, float] = (4.6, 2.6), left: float | None = None
) -> tuple[Figure, list[Axes]]:
    """Make a figure; with ``left``, the share of its left margin, it has fixed margins."""
    figure = Figure(figsize=size, layout=None if left else "constrained")
    if left:  # to find margins, matplotlib would lay out all text once more
        figure.subplots_adjust(left=left, right=0.97, bottom=0.18, top=0.9)
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        one.grid(alpha=0.3)
        one.set_axisbelow(True)
    return figure, axes


def _to_svg(figure: Figure, *, label: str, title: str = "") -> str:
    """Return SVG text; ``label`` describes the figure, and only it may have this title or label."""
    text, title = io.StringIO(), title or label
    # savefig would draw it twice.
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(text, metadata={"Date": None, "Title": title})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # A page holds many figures: ids of each begin with its title, so that none is used twice.
    mark = re.sub(r"\W+", "-", title)
    svg = re.sub(r'\bid="', f'id="{mark}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{mark}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


@mpl.rc_context(_STYLE)
def draw_figures(found: SourceReport) -> Mapping[str, str]:
    """Draw every plot that the source has something for; by name, as SVG text."""
    figures = {"days": _draw_days(found), "intensities": _draw_intensities(found)}
    if found.masks:
        figures["prevalence"] = _draw_prevalence(found)
        figures["volumes"] = _draw_volumes(found)
        figures["places"] = _draw_places(found)
    return figures


def _draw_days(found: SourceReport) -> str:
    figure, (axes,) = _new(size=(4.6, 2.2))
    days = found.count_days()
    axes.bar_label(axes.bar(list(days), list(days.values()), color=_PLAIN, width=0.7))
    axes.margins(y=0.2)
    axes.set(xticks=list(days), xlabel="scans of the patient", ylabel="patients")
    counts = ", ".join(f"{patients} with {number}" for number, patients in days.items())
    return _to_svg(figure, title="Scans of a patient", label=f"Patients by their scans: {counts}")


def _draw_prevalence(found: SourceReport) -> str:
    figure, (axes,) = _new()
    middles = (np.arange(HEIGHT_BINS) + 0.5) / HEIGHT_BINS
    for organ, shares in found.measure_prevalence().items():
        axes.plot(
            middles, np.array(shares, float), _LINES[organ], marker=_MARKERS[organ], markersize=4,
            color=ORGAN_COLOURS[organ], label=name_of(organ),
        )  # fmt: skip
    empty = np.array(found.measure_emptiness(), float)  # None becomes NaN
    axes.plot(middles, empty, "-.", color=_PLAIN, label="no mask at all")
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="slices")
    axes.xaxis.set_major_formatter(ticker.PercentFormatter(1))
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
    axes.set_xlabel("height in the scan: cranial left, caudal right")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    label = "Share of slices that show each organ, by height in the scan; numbers in the table"
    return _to_svg(figure, title="Prevalence", label=label)


def _list_organs(
    found: SourceReport, kind: str
) -> Iterator[tuple[int, list[MaskMeasures], NDArray[np.bool_]]]:
    """Yield for each organ its index, measures of scans that have it, and which are suspect."""
    odd = {(s.scan_id, s.organ) for s in found.suspects if s.kind == kind}
    for index, organ in enumerate(ORGANS):
        named = [(s.scan_id, s.masks) for s in found.scans if s.masks and s.masks.volume_ml[index]]
        marked = np.array([(scan_id, organ) in odd for scan_id, _ in named], np.bool_)
        yield index, [masks for _, masks in named], marked


def _scatter(
    axes: Axes, index: int, x: NDArray[Any], y: NDArray[Any], marked: NDArray[np.bool_]
) -> None:
    """Plot scans of an organ, with circles around the suspect ones."""
    organ = ORGANS[index]
    axes.plot(
        x, y, _MARKERS[organ], markersize=3.5, color=ORGAN_COLOURS[organ], alpha=0.55,
        markeredgewidth=0, label=name_of(organ),
    )  # fmt: skip
    axes.plot(x[marked], y[marked], "o", markersize=10, mfc="none", mec="black")


def _draw_volumes(found: SourceReport) -> str:
    figure, (axes,) = _new()
    generator = np.random.default_rng(0)
    for index, of_scans, marked in _list_organs(found, "volume"):
        if not of_scans:
            continue
        values = np.array([masks.volume_ml[index] for masks in of_scans])
        places = index + generator.uniform(-0.25, 0.25, len(values))
        _scatter(axes, index, values, places, marked)
        axes.plot([np.median(values)] * 2, [index - 0.35, index + 0.35], color="black", lw=2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_yticks(range(len(ORGANS)), [name_of(organ) for organ in ORGANS])
    axes.invert_yaxis()
    axes.set_xlabel("ml (line: median; circle: suspect)")
    label = "Volume of each organ in every scan; numbers in the table"
    return _to_svg(figure, title="Volumes", label=label)


def _draw_places(found: SourceReport) -> str:
    figure, (front, below) = _new(2, size=(4.6, 3.2))
    for index, of_scans, marked in _list_organs(found, "place"):
        centres = np.array([masks.centre[index] for masks in of_scans]).reshape(-1, 3)
        for axes, across in ((front, 0), (below, 1)):
            _scatter(axes, index, centres[:, 2], centres[:, across], marked)
    front.set(title="from the front", ylabel="height in the scan")
    front.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    below.set(title="from the feet", ylabel="mm to posterior")
    for axes in (front, below):
        axes.invert_yaxis()
        axes.set_xlabel("mm to the left")
    handles, labels = front.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    label = "Centre of each organ in every scan, seen from the front and from the feet"
    return _to_svg(figure, title="Places", label=label)


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
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set(xlabel="scan, in the order of the table of scans", ylabel="intensity")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    label = "Median, 99th percentile and greatest intensity of every scan; numbers in the table"
    return _to_svg(figure, title="Intensities", label=label)


# Which one is better; they also differ by marker and by the side of zero.
_BETTER = {"b": ("#2a4fb8", "o"), "a": ("#b3430a", "s"), "same": (_PLAIN, "|")}
_MOST_NAMED = 40


@mpl.rc_context(_STYLE)
def draw_patients(found: Comparison) -> str:
    """Draw each patient's difference of the score, the largest gain of B at the top."""
    known = [p for p in found.patients if not math.isnan(p.change)]
    known.sort(key=lambda patient: patient.change)
    named = len(known) <= _MOST_NAMED
    height = 1.3 + (0.2 if named else 0.06) * len(known)
    figure, (axes,) = _new(size=(4.4, min(height, 12)))
    for side, (colour, marker) in _BETTER.items():
        rows = [i for i, patient in enumerate(known) if _name_better(patient.change) == side]
        values = [known[i].change for i in rows]
        axes.hlines(rows, 0, values, color=colour, lw=1.5)
        axes.plot(values, rows, marker, color=colour, markersize=5 if named else 3)
    axes.axvline(0, color="black", lw=1)
    score = found.differences["score"]
    if not math.isnan(score.low):
        axes.axvspan(score.low, score.high, color="#8a8a8a", alpha=0.25, lw=0)
        axes.axvline(score.difference, color=_PLAIN, lw=1, ls="--")
    if named:
        axes.set_yticks(range(len(known)), [patient.patient_id for patient in known])
    else:
        axes.set_yticks([])
        axes.set_ylabel(count(len(known), "patient"))
    axes.set(ylim=(-0.8, len(known) - 0.2), xlabel="score, B - A")
    _spread_around_zero(axes, [patient.change for patient in known])
    label = f"Score of B minus A of {count(len(known), 'patient')}; numbers in the table"
    return _to_svg(figure, title="Patients", label=label)


def _name_better(change: float) -> str:
    return "b" if change > 0 else "a" if change < 0 else "same"


def _spread_around_zero(axes: Axes, values: Sequence[float]) -> None:
    """Show as much left of zero as right of it, and say what each side means."""
    axes.set_title("\N{LEFTWARDS ARROW} A better", loc="left", fontsize=9)
    axes.set_title("B better \N{RIGHTWARDS ARROW}", loc="right", fontsize=9)
    most = max((abs(value) for value in values if not math.isnan(value)), default=0) or 0.01
    axes.set_xlim(-1.1 * most, 1.1 * most)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4))  # more would overlap if they are small


@mpl.rc_context(_STYLE)
def draw_differences(found: Comparison) -> str:
    """Draw the difference of the score and of each organ's Dice, with intervals."""
    rows = [("score", _PLAIN, "D", "score"), ("Dice, all organs", _PLAIN, "D", "dice")]
    rows += [
        (f"{name_of(organ)} Dice", ORGAN_COLOURS[organ], _MARKERS[organ], f"{organ}.dice")
        for organ in ORGANS
    ]
    rows.reverse()
    figure, (axes,) = _new(size=(4.4, 2.4))
    shown: list[float] = []
    for place, (_, colour, marker, key) in enumerate(rows):
        one = found.differences[key]
        if math.isnan(one.difference):
            continue
        shown += [one.difference, one.low, one.high]
        if not math.isnan(one.low):
            axes.plot([one.low, one.high], [place, place], "-", color=colour, lw=2)
        axes.plot([one.difference], [place], marker, color=colour, markersize=6)
    axes.axvline(0, color="black", lw=1)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set(ylim=(-0.6, len(rows) - 0.4), xlabel="B - A")
    _spread_around_zero(axes, shown)
    label = "Difference of the score and of each organ's Dice with intervals; numbers in the table"
    return _to_svg(figure, title="Differences", label=label)
