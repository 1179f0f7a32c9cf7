"""Pictures of predicted scans: slices with the contours of truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gi2nnunet.formats.ids import CONTOUR_COLOURS
from gi2nnunet.source.arrays import ScanArrays

Masks = Mapping[str, NDArray[np.bool_]]
_WINDOW = (1, 99)  # percentiles of the scan
_INCHES = 3.2  # height of a slice


class _ScanFigure(Figure):
    """A figure that a notebook shows as the last line of a cell; nothing else shows it."""

    def _repr_png_(self) -> bytes:
        written = BytesIO()
        self.savefig(written, format="png", dpi=100)
        return written.getvalue()


def choose_slices(predicted: Masks, truth: Masks | None, *, most: int) -> list[int]:
    """Return the slices to show, by their index, in order.

    With the truth, they are those with the lowest mean Dice over the organs that are there, of
    equal ones those with the most wrong pixels. Without it, or if nothing is wrong, they are those
    with the most predicted pixels.
    """
    ours = np.stack(list(predicted.values()))
    order = np.argsort(-ours.sum((0, 2, 3)), kind="stable")
    if truth is not None:
        true = np.stack([truth[organ] for organ in predicted])
        wrong = (ours ^ true).sum((0, 2, 3))
        pixels = ours.sum((2, 3)) + true.sum((2, 3))  # by organ and slice
        dice = 2 * (ours & true).sum((2, 3)) / np.maximum(pixels, 1)
        means = dice.sum(0) / np.maximum((pixels > 0).sum(0), 1)
        worst = np.lexsort((-wrong, means))
        worst = worst[wrong[worst] > 0]
        order = worst if len(worst) else order
    return sorted(int(z) for z in order[:most])


def plot_slices(
    scan: ScanArrays, truth: Masks | None, *, slices: Sequence[int], title: str
) -> Figure:
    """Draw slices of a predicted scan: the truth's contours solid, the prediction's dashed.

    Parameters
    ----------
    slices
        Indices of slices.
    """
    columns = min(4, len(slices))
    rows = -(-len(slices) // columns)
    _, height, width = scan.shape
    _, dy, dx = scan.spacing_mm
    size = (columns * _INCHES * (width * dx) / (height * dy), rows * _INCHES + 0.8)
    figure = _ScanFigure(figsize=size, layout="constrained")
    low, high = np.percentile(scan.image, _WINDOW)
    for place, z in enumerate(slices, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(scan.image[z], cmap="gray", vmin=low, vmax=max(high, low + 1), aspect=dy / dx)
        for masks, style in ((truth or {}, "solid"), (scan.masks, "dashed")):
            for organ, mask in masks.items():
                _draw_contour(axes, mask[z], colour=CONTOUR_COLOURS[organ], style=style)
        axes.set_title(f"slice {scan.numbers[z]}", fontsize=9)
        axes.set_axis_off()
    figure.suptitle(title, fontsize=10)
    figure.legend(handles=_make_legend(scan.masks, truth), loc="outside lower center", ncols=5)
    return figure


def _draw_contour(axes: Axes, mask: NDArray[np.bool_], *, colour: str, style: Any) -> None:
    if not mask.any():
        return
    framed = np.pad(mask.astype(np.float32), 1)  # so that the line closes at the border
    along = [np.arange(-1, length + 1) for length in mask.shape]
    axes.contour(
        along[1], along[0], framed, levels=[0.5], colors=[colour], linestyles=style, linewidths=1.3
    )


def _make_legend(organs: Masks, truth: Masks | None) -> list[Line2D]:
    lines = [
        Line2D([], [], color=CONTOUR_COLOURS[organ], label=organ.replace("_", " "))
        for organ in organs
    ]
    lines.append(Line2D([], [], color="gray", linestyle="dashed", label="prediction"))
    if truth is not None:
        lines.append(Line2D([], [], color="gray", label="truth"))
    return lines
