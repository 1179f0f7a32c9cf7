"""Slice viewer: a scan and the contours of its masks as data that the viewer's script reads.

A page shows it with the macros of ``viewer.html``, ``viewer.css`` and, through the macros,
``viewer.js``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap
from gi2nnunet.pages.pictures import encode_image, find_window, scale_grey
from gi2nnunet.pages.summary import describe_scan
from gi2nnunet.scoring.metric import FloatArray, average_organs, dice_of_counts
from gi2nnunet.scoring.result import ScanScore, to_plain
from gi2nnunet.source.scan import LoadedScan

_QUALITY = 50
_PREDICTED_LINES = ("dashed", "dotted")
# Code k of a mask is the grey value 32 k + 16, so that a browser that changes pixels a little does
# no harm; as a palette of eight colours, a pixel has four bits.
_PALETTE = [level for code in range(8) for level in (32 * code + 16,) * 3]


@dataclass(frozen=True, kw_only=True)
class PackedScan:
    """A scan as the viewer's script reads it; the content is JSON."""

    scan_id: str
    content: dict[str, Any]


def pack_scan(
    scan_id: str,
    scan: LoadedScan,
    *,
    predictions: Mapping[str, LabelMap | None],
    scores: Mapping[str, ScanScore | None] | None = None,
    small: bool = False,
) -> PackedScan:
    """Pack a scan with its truth, if known, and predictions of it.

    Parameters
    ----------
    predictions
        One or two bit-coded label maps of the image's shape, by the names that the page shows;
        ``None`` if a prediction has no masks of this scan. All scans of a page need the same
        names in the same order. The truth is drawn solid, the first dashed, the second dotted.
    scores
        Scores of this scan by the same names, whose measures the viewer shows in a table; it shows
        dashes for those that are missing.
    small
        Halve the picture in both directions of the slice; masks stay as they are.

    Raises
    ------
    ValueError
        For masks of another shape than the image's, and for more than two predictions.
    """
    image, truth = scan.image, scan.label_map
    if len(predictions) > len(_PREDICTED_LINES):
        raise ValueError(f"{len(predictions)} predictions: the viewer draws two at most")
    for mask in (truth, *predictions.values()):
        if mask is not None and mask.shape != image.shape:
            raise ValueError(f"{scan_id}: masks of shape {mask.shape} on {image.shape}")
    window = find_window(image)
    columns = math.ceil(math.sqrt(len(image)))
    dice: dict[str, FloatArray] = {}
    if truth is not None:
        dice = {n: slice_dice(mask, truth) for n, mask in predictions.items() if mask is not None}
    means = average_organs(np.stack(list(dice.values()))) if dice else ()
    errors = {name: 1 - mean for name, mean in zip(dice, means, strict=True)}
    tiles = [Image.fromarray(grey) for grey in scale_grey(image, window)]
    if small:
        tiles = [tile.reduce(2) for tile in tiles]
    layers = [_pack_layer("truth", "solid", truth, columns)]
    for (name, pred), line in zip(predictions.items(), _PREDICTED_LINES, strict=False):
        layer = _pack_layer(name, line, pred, columns)
        if name in dice:
            layer["dice"] = to_plain(dice[name].tolist())
            layer["error"] = to_plain(errors[name].tolist())
        facts = describe_scan((scores or {}).get(name))
        layer["facts"] = [organ.list_cells() for organ in facts.values()]
        layers.append(layer)
    content: dict[str, Any] = {
        "id": scan_id,
        "shape": list(image.shape),
        "spacing": list(scan.spacing_mm),
        "first": scan.first_number,
        "window": [_round(bound, span=window[1] - window[0]) for bound in window],
        "columns": columns,
        "tile": list(tiles[0].size[::-1]),
        "image": encode_image(_lay_out(tiles, columns), "jpeg", quality=_QUALITY, optimize=True),
        "layers": layers,
    }
    return PackedScan(scan_id=scan_id, content=content)


def _pack_layer(name: str, line: str, masks: LabelMap | None, columns: int) -> dict[str, Any]:
    """Return a layer's name, its line and its sheet of masks, without its Dice."""
    sheet = None
    if masks is not None:
        picture = _lay_out(map(Image.fromarray, masks), columns)
        picture.putpalette(_PALETTE)
        sheet = encode_image(picture, "png", bits=4)
    return {"name": name, "line": line, "masks": sheet, "dice": None, "error": None}


def _round(value: float, *, span: float) -> float:
    """Return a bound of a window with no more digits than its span needs."""
    return round(value) if span >= 20 else float(f"{value:.4g}")


def _lay_out(tiles: Iterable[Image.Image], columns: int) -> Image.Image:
    """Return a sheet of tiles of one size, row by row."""
    tiles = list(tiles)
    width, height = tiles[0].size
    sheet = Image.new("L", (columns * width, math.ceil(len(tiles) / columns) * height))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    return sheet


def slice_dice(pred: LabelMap, truth: LabelMap) -> FloatArray:
    """Return Dice of each organ and slice, ``(organs, z)``; NaN where both are empty."""
    both, in_pred, in_truth = (
        np.array([((mask & bit) != 0).sum(axis=(1, 2)) for bit in ORGAN_BITS], np.int64)
        for mask in (pred & truth, pred, truth)
    )
    return dice_of_counts(both, in_pred, in_truth)
