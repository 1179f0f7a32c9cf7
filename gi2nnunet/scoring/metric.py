r"""The competition's metric, in four named conventions; pure functions on arrays.

.. math:: \text{score} = 0.4 \cdot \text{Dice} + 0.6 \cdot (1 - \text{Hausdorff})

Kaggle's own code is not public, so every number from any public code is an approximation; the
convention's name belongs beside it (:data:`~gi2nnunet.scoring.conventions.CONVENTIONS`).

``per-class``
    Dice per row, rows with both masks empty skipped. Hausdorff per scan and organ: symmetric, 3D,
    over all voxels of the masks, coordinates divided by (D, H, W), the distance by sqrt(3);
    1 if one mask is empty, skipped if both are.
``joined``
    The same, the organs of a scan OR-ed before the Hausdorff distance.
``mle-bench``
    The grader of openai/mle-bench: as ``joined``, but RLE read column-major (on images that are
    not square the geometry is scrambled), and the distance is 1 if there are more than ten times as
    many predicted voxels as true ones.
``slice-2d``
    Dice per row, rows with empty truth skipped. Hausdorff per slice and organ, 2D, one-sided: the
    farthest edge pixel of the prediction from the truth's edge, in pixels, divided by the image's
    diagonal; 1 if one mask is empty, 0 if both are.

No value of these functions depends on the order of voxels or on cropping: they are exact, equal to
comparing all pairs of voxels to float64 rounding.

References
----------
https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/overview/evaluation
https://github.com/openai/mle-bench
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from gi2nnunet.formats.labels import ALL_BITS, ORGAN_BITS, LabelMap, find_box
from gi2nnunet.scoring.conventions import Metric, require_convention
from gi2nnunet.scoring.hausdorff import MARGIN, SHIFT, VoxelField, find_farthest, make_field

DICE_WEIGHT = 0.4
HAUSDORFF_WEIGHT = 0.6
MOST_TIMES_TRUTH = 10  # mle-bench: a larger prediction costs the whole distance

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
_Value = TypeVar("_Value", float, FloatArray)
IntArray = NDArray[np.int64]


def combine(dice: _Value, hausdorff: _Value) -> _Value:
    """Return ``0.4 * dice + 0.6 * (1 - hausdorff)``; NaN if either is."""
    return DICE_WEIGHT * dice + HAUSDORFF_WEIGHT * (1.0 - hausdorff)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The values of one scan in the means of a convention; a mean skips NaN.

    Attributes
    ----------
    dice
        ``(organs, slices)`` float64 in [0, 1].
    hausdorff
        Normalised distances, float64 in [0, 1]: ``(organs, 1)`` for ``per-class``, ``(1, 1)`` for
        ``joined`` and ``mle-bench`` (organs joined), ``(organs, slices)`` for ``slice-2d``.
    counts
        Voxels of both masks, of the prediction, of the truth: ``(3, organs, slices)`` int64;
        ``None`` if they are not known.
    """

    dice: FloatArray
    hausdorff: FloatArray
    counts: IntArray | None = None


def score_label_maps(pred: LabelMap, truth: LabelMap, *, metric: Metric = "per-class") -> Terms:
    """Compare two bit-coded label maps of one scan.

    Parameters
    ----------
    pred, truth
        ``(z, y, x)`` uint8 of one shape, bit-coded, as row-major RLE decodes; ``mle-bench``'s
        column-major reading is done here.

    Raises
    ------
    ValueError
        For an unknown convention, or arrays that are not 3D or differ in shape.
    """
    require_convention(metric)
    if pred.ndim != 3 or pred.shape != truth.shape:
        raise ValueError(f"label maps of shapes {pred.shape} and {truth.shape}: need one 3D shape")
    depth, height, width = pred.shape
    if metric == "mle-bench":
        # Column-major pixel k of (H, W) is (k % H, k // H): row-major in an image of (W, H), which
        # is the grader's image transposed; the distance does not mind the transposition.
        height, width = width, height
        pred = np.ascontiguousarray(pred).reshape(depth, height, width)
        truth = np.ascontiguousarray(truth).reshape(depth, height, width)
    shape = (depth, height, width)
    box = find_box(pred, truth)
    pred, truth = pred[box], truth[box]
    field = make_field(pred, truth)
    counts = np.zeros((3, SHIFT, depth), np.int64)
    counts[:, :, box[0]] = _count_voxels(field)
    dice = dice_of_counts(*counts)
    if metric == "slice-2d":
        dice[counts[2] == 0] = np.nan
        distance = np.zeros((SHIFT, depth))
        for organ, bit in enumerate(ORGAN_BITS):
            distance[organ, box[0]] = slice_hausdorff(
                (pred & bit) != 0, (truth & bit) != 0, shape=shape[1:]
            )
        return Terms(dice=dice, hausdorff=distance, counts=counts)
    if metric == "per-class":
        distances = [[_field_hausdorff(field, bit, shape=shape)] for bit in ORGAN_BITS]
        return Terms(dice=dice, hausdorff=np.array(distances), counts=counts)
    most = MOST_TIMES_TRUTH if metric == "mle-bench" else None
    joined = _field_hausdorff(field, ALL_BITS, shape=shape, most_times_truth=most)
    return Terms(dice=dice, hausdorff=np.array([[joined]]), counts=counts)


def dice_of_counts(both: IntArray, pred: IntArray, truth: IntArray) -> FloatArray:
    """Return ``2 * both / (pred + truth)`` of voxel counts of any one shape; NaN for 0 / 0."""
    total = (pred + truth).astype(np.float64)
    dice = np.full(total.shape, np.nan)
    np.divide(2.0 * both, total, out=dice, where=total > 0)
    return dice


def average_organs(dice: FloatArray) -> FloatArray:
    """Return the mean Dice of each slice, ``(submissions, slices)``, for submissions side by side.

    Parameters
    ----------
    dice
        ``(submissions, organs, slices)``; NaN for an organ that neither mask has.

    Returns
    -------
    numpy.ndarray
        Means over the organs that the truth or a submission has; one that is rightly empty counts
        as 1. NaN for a slice without organs.
    """
    counted = ~np.isnan(dice).all(axis=0)
    n_organs = counted.sum(axis=0)
    total = (np.where(np.isnan(dice), 1.0, dice) * counted).sum(axis=1)
    means: FloatArray = np.full(total.shape, np.nan)
    np.divide(total, n_organs, out=means, where=n_organs > 0)
    return means


def _count_voxels(field: VoxelField) -> IntArray:
    """Return the voxels of both maps, of the prediction, of the truth: ``(3, organs, slices)``.

    One histogram a slice of the codes serves all organs.
    """
    size = 1 << (2 * SHIFT)
    plane = field.found // (field.shape[1] * field.shape[2])
    histogram = np.bincount(plane * size + field.values, minlength=field.shape[0] * size)
    histogram = histogram.reshape(-1, size)[MARGIN[0] : -MARGIN[0]]
    code = np.arange(size)
    in_pred = np.array([(code & bit) != 0 for bit in ORGAN_BITS], np.int64)
    in_truth = np.array([(code & (bit << SHIFT)) != 0 for bit in ORGAN_BITS], np.int64)
    return np.stack([table @ histogram.T for table in (in_pred * in_truth, in_pred, in_truth)])


def _field_hausdorff(
    field: VoxelField,
    bits: int,
    *,
    shape: tuple[int, int, int],
    most_times_truth: int | None = None,
) -> float:
    """Return :func:`normalised_hausdorff` of the voxels that have any of ``bits``.

    It is 1 if the prediction has more than ``most_times_truth`` times the voxels of the truth.
    """
    n_pred = int(np.count_nonzero(field.values & bits))
    n_true = int(np.count_nonzero(field.values & (bits << SHIFT)))
    if n_pred == 0 and n_true == 0:
        return float("nan")
    if n_pred == 0 or n_true == 0:
        return 1.0
    if most_times_truth is not None and n_pred > most_times_truth * n_true:
        return 1.0  # never identical masks, so their 0 needs no look first
    step = 1.0 / np.asarray(shape, np.float64)
    distance = max(
        find_farthest(field, bits, bits << SHIFT, step),
        find_farthest(field, bits << SHIFT, bits, step),
    )
    return distance / float(np.sqrt(3.0))


def normalised_hausdorff(
    pred: BoolArray,
    truth: BoolArray,
    *,
    shape: tuple[int, int, int] | None = None,
) -> float:
    """Return the symmetric Hausdorff distance in the unit cube, divided by its diagonal.

    Parameters
    ----------
    pred, truth
        ``(z, y, x)`` masks of one shape.
    shape
        ``(D, H, W)`` that divides the coordinates, if the masks are cropped out of a larger
        volume; by default the masks' own.

    Returns
    -------
    float
        In [0, 1]; 1 if one mask is empty, NaN if both are, 0 if they are identical.
    """
    depth, height, width = pred.shape if shape is None else shape
    maps = pred.astype(np.uint8), truth.astype(np.uint8)
    box = find_box(*maps)
    field = make_field(maps[0][box], maps[1][box])
    return _field_hausdorff(field, 1, shape=(depth, height, width))


def slice_hausdorff(pred: BoolArray, truth: BoolArray, *, shape: tuple[int, int]) -> FloatArray:
    """Return the one-sided 2D distance of every slice, divided by the image's diagonal.

    Parameters
    ----------
    pred, truth
        ``(z, y, x)`` masks of one shape.
    shape
        ``(H, W)`` of the whole image in pixels; its diagonal divides the distance.

    Returns
    -------
    numpy.ndarray
        ``(z,)`` float64 in [0, 1]: the farthest edge pixel of ``pred`` from the edge pixels of
        ``truth``; 1 if one of the two is empty, 0 if both are. An edge pixel has one of its
        four neighbours outside the mask; the outside of the image counts as such.
    """
    has_pred, has_true = pred.any(axis=(1, 2)), truth.any(axis=(1, 2))
    result: FloatArray = (has_pred != has_true).astype(np.float64)
    paired = np.flatnonzero(has_pred & has_true)
    if len(paired) == 0:
        return result
    sources, targets = _edges(pred[paired]), _edges(truth[paired])
    # One tree for all slices: they lie so far apart that the nearest edge is in the same slice.
    apart = np.array([4.0 * sum(pred.shape[1:]), 1.0, 1.0])
    nearest = cKDTree(targets * apart).query(sources * apart)[0]
    farthest = np.zeros(len(paired))
    np.maximum.at(farthest, sources[:, 0], nearest)
    result[paired] = farthest / float(np.hypot(*shape))
    return result


def _edges(masks: BoolArray) -> IntArray:
    """Return ``(n, 3)`` coordinates of the pixels a 4-neighbour erosion of each slice removes."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    inner = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return np.stack(np.unravel_index(np.flatnonzero(masks & ~inner), masks.shape), axis=1)
