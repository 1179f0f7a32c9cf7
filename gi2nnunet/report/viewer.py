"""Slice viewer: a scan's images and masks, packed as pictures that the browser decodes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap
from gi2nnunet.report.pictures import encode_image, find_window, scale_grey
from gi2nnunet.scoring.metric import dice_of_counts

_QUALITY = 50


@dataclass(frozen=True, kw_only=True)
class PackedScan:
    """A scan as the viewer's script reads it.

    Attributes
    ----------
    scan_id
        Which.
    content
        Values for JSON: geometry, window, images, masks, Dice of each organ and slice.
    """

    scan_id: str
    content: dict[str, Any]


def pack_scan(
    scan_id: str,
    *,
    image: NDArray[Any],
    truth: LabelMap | None,
    pred: LabelMap | None,
    spacing_mm: tuple[float, float, float],
    first_number: int = 1,
    small: bool = False,
) -> PackedScan:
    """Pack one scan.

    Parameters
    ----------
    scan_id
        Its name.
    image
        ``(z, y, x)`` intensities in slice order.
    truth, pred
        Bit-coded label maps of that shape; ``None`` where there is none.
    spacing_mm
        ``(z, y, x)``.
    first_number
        The competition's number of slice z = 0.
    small
        Halve the picture in both directions of the slice; masks stay as they are.

    Raises
    ------
    ValueError
        Where the shapes differ.
    """
    for mask in (truth, pred):
        if mask is not None and mask.shape != image.shape:
            raise ValueError(f"{scan_id}: masks of shape {mask.shape} on {image.shape}")
    depth, height, width = image.shape
    window = find_window(image)
    columns = math.ceil(math.sqrt(depth))
    tiles = [Image.fromarray(grey) for grey in scale_grey(image, window)]
    if small:
        tiles = [tile.reduce(2) for tile in tiles]
    codes = [Image.fromarray(plane * 4 + 2) for plane in _join(truth, pred, image.shape)]
    content: dict[str, Any] = {
        "id": scan_id,
        "shape": [depth, height, width],
        "spacing": list(spacing_mm),
        "first": first_number,
        "window": [round(bound) for bound in window],
        "columns": columns,
        "tile": list(tiles[0].size[::-1]),
        "image": encode_image(_lay_out(tiles, columns), "jpeg", quality=_QUALITY, optimize=True),
        "hasTruth": truth is not None,
        "hasPrediction": pred is not None,
        # Four times the code and two, so that a browser that changes pixels a little does no harm.
        "masks": encode_image(_lay_out(codes, columns), "png"),
        "dice": None,
    }
    if truth is not None and pred is not None:
        content["dice"] = [
            [None if np.isnan(value) else round(float(value), 4) for value in of_organ]
            for of_organ in slice_dice(pred, truth)
        ]
    return PackedScan(scan_id=scan_id, content=content)


def _lay_out(tiles: Iterable[Image.Image], columns: int) -> Image.Image:
    """Return a sheet of tiles of one size, row by row."""
    tiles = list(tiles)
    width, height = tiles[0].size
    sheet = Image.new("L", (columns * width, math.ceil(len(tiles) / columns) * height))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    return sheet


def slice_dice(pred: LabelMap, truth: LabelMap) -> NDArray[np.float64]:
    """Return Dice of each organ and slice, ``(organs, z)``; NaN where both are empty."""
    both, in_pred, in_truth = (
        np.array([((mask & bit) != 0).sum(axis=(1, 2)) for bit in ORGAN_BITS], np.int64)
        for mask in (pred & truth, pred, truth)
    )
    return dice_of_counts(both, in_pred, in_truth)


def _join(truth: LabelMap | None, pred: LabelMap | None, shape: tuple[int, ...]) -> LabelMap:
    """Return truth in the three low bits and the prediction in the three above."""
    codes = np.zeros(shape, np.uint8)
    if truth is not None:
        codes |= truth
    if pred is not None:
        codes |= pred << len(ORGANS)
    return codes
