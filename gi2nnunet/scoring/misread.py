"""Submission or truth of another form of RLE: pixels counted column by column, or starts from 0.

Such a file decodes without an error, to other masks. It shows in the agreement of the two, which is
far better if the same texts are read in the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.labels import ALL_BITS, ORGAN_BITS, LabelMap

# Another reading is reported from this Dice on, and if it leaves at most this share of the error.
_READINGS = ("column-major", "zero-based", "column-major")  # of the submission; the last, the truth
_LEAST_DICE = {"column-major": 0.6, "zero-based": 0.9}
_MOST_ERROR_LEFT = {"column-major": 0.6, "zero-based": 0.4}

_SLICES = 8  # counted of a scan; all of them would take half as long as the score itself

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Misreading:
    """How a file seems to be meant, ``"column-major"`` or ``"zero-based"``, and a warning of it."""

    meant: str
    warning: str


def count_agreement(pred: LabelMap, truth: LabelMap) -> Counts:
    """Return the voxels of both maps in four readings, of the prediction, and of the truth.

    Of a scan of many slices, about eight spread evenly are counted.

    Parameters
    ----------
    pred, truth
        ``(z, y, x)`` uint8, bit-coded, as row-major RLE decodes.

    Returns
    -------
    numpy.ndarray
        ``(6, organs)`` int64: voxels in both as they are, with the prediction's pixels counted
        column by column, with its starts counted from 0, with the truth's pixels counted column by
        column; voxels of the prediction; of the truth.
    """
    height, width = pred.shape[1:]
    step = max(1, len(pred) // _SLICES)
    pred, truth = (np.ascontiguousarray(m[step // 2 :: step]) for m in (pred, truth))
    flat_pred, flat_truth = pred.reshape(-1), truth.reshape(-1)
    found = np.flatnonzero(flat_pred)
    values = flat_pred[found]
    plane, pixel = np.divmod(found, height * width)
    column, row = np.divmod(pixel, height)
    row_here, column_here = np.divmod(pixel, width)
    readings = [
        found,
        (plane * height + row) * width + column,
        np.minimum(found + 1, pred.size - 1),
        (plane * width + column_here) * height + row_here,
    ]
    maps = [values & flat_truth[index] for index in readings]
    maps += [values, flat_truth[np.flatnonzero(flat_truth)]]
    codes = np.arange(ALL_BITS + 1)
    has_bit = np.array([(codes & bit) != 0 for bit in ORGAN_BITS], np.int64)
    return np.stack([has_bit @ np.bincount(m, minlength=len(codes)) for m in maps])


def find_misreading(counts: Sequence[Counts]) -> Misreading | None:
    """Return how submission and truth agree far better, if they do so in another reading.

    It has to do so for every organ that is in both tables, and to reach a Dice that a prediction
    that is only bad does not reach by chance.
    """
    if not counts:
        return None
    total = np.sum(counts, axis=0)
    both, sizes = total[:-2], total[-2:]
    used = (sizes > 0).all(axis=0)
    if not used.any():
        return None
    dice = 2.0 * both / np.maximum(sizes.sum(axis=0), 1)
    means = 2.0 * both.sum(axis=1) / sizes.sum()
    for index, reading in enumerate(_READINGS, start=1):
        better = (dice[index] > dice[0])[used].all()
        left = (1 - means[index]) / max(1 - means[0], 1e-9)
        enough = means[index] >= _LEAST_DICE[reading]
        if better and enough and left <= _MOST_ERROR_LEFT[reading]:
            warning = _WARNINGS[reading].format(now=means[0], then=means[index])
            return Misreading(meant=reading, warning=warning)
    return None


_AGREES = "submission and truth agree far better (Dice {then:.2f} instead of {now:.2f}) if "
_WARNINGS = {
    "column-major": _AGREES + "one of them is read as column-major, pixels counted from top to "
    "bottom and then left to right. The competition's rows are row-major, left to right and then "
    "top to bottom: encode masks in this order, or write them as NIfTI and use gi2nnunet encode",
    "zero-based": _AGREES + "the submission's starts are counted from 0. The competition's rows "
    "count from 1: add 1 to every start",
}
