"""What the slice viewer shows of a scan, packed small enough to stand inside a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap
from gi2nnunet.scoring.metric import dice_of_counts

_WINDOW_PERCENTILES = (1.0, 99.5)
_QUALITY = 70


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
    low, high = (float(v) for v in np.percentile(image, _WINDOW_PERCENTILES))
    grey = np.clip((image.astype(np.float32) - low) * (255 / max(high - low, 1e-6)), 0, 255)
    columns = int(np.ceil(np.sqrt(depth)))
    rows = -(-depth // columns)
    if small:
        grey = _halve(grey)
    tile_height, tile_width = grey.shape[1:]
    sheet = np.zeros((rows * columns, tile_height, tile_width), np.uint8)
    sheet[:depth] = grey.astype(np.uint8)
    sheet = sheet.reshape(rows, columns, tile_height, tile_width).swapaxes(1, 2)
    sheet = np.ascontiguousarray(sheet).reshape(rows * tile_height, columns * tile_width)
    colours = np.repeat(sheet[..., None], 3, axis=2)
    webp = imagecodecs.webp_encode(colours, level=_QUALITY, lossless=False, method=2)
    content: dict[str, Any] = {
        "id": scan_id,
        "shape": [depth, height, width],
        "spacing": list(spacing_mm),
        "first": first_number,
        "window": [round(low), round(high)],
        "columns": columns,
        "tile": [tile_height, tile_width],
        "image": "data:image/webp;base64," + base64.b64encode(webp).decode("ascii"),
        "hasTruth": truth is not None,
        "hasPrediction": pred is not None,
        "masks": base64.b64encode(encode_codes(_join(truth, pred, image.shape))).decode("ascii"),
        "dice": None,
    }
    if truth is not None and pred is not None:
        content["dice"] = [
            [None if np.isnan(value) else round(float(value), 4) for value in of_organ]
            for of_organ in slice_dice(pred, truth)
        ]
    return PackedScan(scan_id=scan_id, content=content)


def _halve(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of every 2 x 2 pixels; an odd last row or column counts twice."""
    even = np.pad(grey, ((0, 0), (0, grey.shape[1] % 2), (0, grey.shape[2] % 2)), mode="edge")
    depth, height, width = even.shape
    means: NDArray[np.float32] = even.reshape(depth, height // 2, 2, width // 2, 2).mean(
        axis=(2, 4), dtype=np.float32
    )
    return means


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


def encode_codes(codes: LabelMap) -> bytes:
    """Encode values below 128 run by run: a byte of value, the length as a base-128 number.

    The length's low seven bits come first; the high bit of a byte says that another follows.
    """
    flat = codes.reshape(-1)
    if not len(flat):
        return b""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [len(flat)]])
    packed = bytearray()
    lengths = np.diff(starts).tolist()
    for value, run in zip(flat[starts[:-1]].tolist(), lengths, strict=True):
        packed.append(value)
        left = run
        while left > 127:
            packed.append(left & 127 | 128)
            left >>= 7
        packed.append(left)
    return bytes(packed)


def decode_codes(packed: bytes, *, shape: tuple[int, ...]) -> LabelMap:
    """Undo :func:`encode_codes`."""
    values: list[int] = []
    lengths: list[int] = []
    position = 0
    while position < len(packed):
        values.append(packed[position])
        position += 1
        length = shift = 0
        while True:
            byte = packed[position]
            position += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        lengths.append(length)
    return np.repeat(np.array(values, np.uint8), lengths).reshape(shape)
