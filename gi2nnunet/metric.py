r"""The competition's metric, in four named conventions; pure functions on arrays.

.. math:: \text{score} = 0.4 \cdot \text{Dice} + 0.6 \cdot (1 - \text{Hausdorff})

Kaggle's own code is not public, so every number from any public code is an approximation; the
convention's name belongs beside it (:data:`CONVENTIONS`).

``per-class``
    Dice per row, rows with both masks empty skipped. Hausdorff per scan and organ: symmetric, 3D,
    over all voxels of the masks, coordinates divided by (D, H, W), the distance by sqrt(3);
    1 where one mask is empty, skipped where both are.
``joined``
    The same, the organs of a scan OR-ed before the Hausdorff distance.
``mle-bench``
    The grader of openai/mle-bench: as ``joined``, but RLE read column-major (on images that are
    not square the geometry is scrambled), and the distance is 1 where the predicted voxels number
    more than ten times the true ones.
``slice-2d``
    Dice per row, rows with empty truth skipped. Hausdorff per slice and organ, 2D, one-sided: the
    farthest edge pixel of the prediction from the truth's edge, in pixels, divided by the image's
    diagonal; 1 where one mask is empty, 0 where both are.

No value of these functions depends on the order of voxels or on cropping: they are exact, equal to
comparing all pairs of voxels to float64 rounding.

References
----------
https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/overview/evaluation
https://github.com/openai/mle-bench
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from gi2nnunet.labels import ALL_BITS, ORGAN_BITS, LabelMap

Metric = Literal["per-class", "joined", "mle-bench", "slice-2d"]
CONVENTIONS: tuple[Metric, ...] = get_args(Metric)

DICE_WEIGHT = 0.4
HAUSDORFF_WEIGHT = 0.6
MOST_TIMES_TRUTH = 10  # mle-bench: a larger prediction costs the whole distance

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BITS = len(ORGAN_BITS)
# Cells of (4, 8, 8) voxels, then (2, 2, 2), then voxels; see :func:`directed_distance`.
_CELLS = ((4, 8, 8), (2, 2, 2))
_FEW_POINTS = 64
_FIRST_SHIFTS = 6
_SHIFTS = (1, 2, 2)  # how far a point is shifted along each axis before a tree is asked


def combine(dice: float, hausdorff: float) -> float:
    """Return ``0.4 * dice + 0.6 * (1 - hausdorff)``; NaN where either is."""
    return DICE_WEIGHT * dice + HAUSDORFF_WEIGHT * (1.0 - hausdorff)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What one scan adds to the means of a convention; NaN is skipped in a mean.

    Attributes
    ----------
    dice
        ``(organs, slices)`` float64 in [0, 1].
    hausdorff
        Normalised distances, float64 in [0, 1]: ``(organs, 1)`` for ``per-class``, ``(1, 1)`` for
        ``joined`` and ``mle-bench`` (organs joined), ``(organs, slices)`` for ``slice-2d``.
    """

    dice: FloatArray
    hausdorff: FloatArray


def score_label_maps(pred: LabelMap, truth: LabelMap, *, metric: Metric = "per-class") -> Terms:
    """Compare two bit-coded label maps of one scan.

    Parameters
    ----------
    pred, truth
        ``(z, y, x)`` uint8 of one shape, bit-coded, as row-major RLE decodes; ``mle-bench``'s
        column-major reading is done here.
    metric
        The convention.

    Returns
    -------
    Terms
        Dice of every row and the distances.

    Raises
    ------
    ValueError
        For an unknown convention, or arrays that are not 3D or differ in shape.
    """
    if metric not in CONVENTIONS:
        raise ValueError(f"metric {metric!r} is none of {CONVENTIONS}")
    if pred.ndim != 3 or pred.shape != truth.shape:
        raise ValueError(f"label maps of shapes {pred.shape} and {truth.shape}: need one 3D shape")
    depth, height, width = pred.shape
    if metric == "mle-bench":
        # Column-major pixel k of (H, W) is (k % H, k // H): row-major in an image of (W, H), which
        # is the grader's image transposed; the distance does not mind the transposition.
        height, width = width, height
        pred = np.ascontiguousarray(pred).reshape(depth, height, width)
        truth = np.ascontiguousarray(truth).reshape(depth, height, width)
    first_plane, pred_box, truth_box = _crop_bits(pred, truth)
    both, n_pred, n_true = _count_voxels(pred_box, truth_box)
    counts = np.zeros((3, _BITS, depth), np.int64)
    counts[:, :, first_plane : first_plane + both.shape[1]] = both, n_pred, n_true
    dice = dice_of_counts(*counts)
    shape = (depth, height, width)
    if metric == "slice-2d":
        dice[counts[2] == 0] = np.nan
        distance = np.zeros((_BITS, depth))
        for organ, bit in enumerate(ORGAN_BITS):
            part = slice_hausdorff((pred_box & bit) != 0, (truth_box & bit) != 0, shape=shape[1:])
            distance[organ, first_plane : first_plane + len(part)] = part
        return Terms(dice=dice, hausdorff=distance)
    if metric == "per-class":
        distances = [
            [normalised_hausdorff((pred_box & bit) != 0, (truth_box & bit) != 0, shape=shape)]
            for bit in ORGAN_BITS
        ]
        return Terms(dice=dice, hausdorff=np.array(distances))
    joined = normalised_hausdorff(
        pred_box != 0,
        truth_box != 0,
        shape=shape,
        most_times_truth=MOST_TIMES_TRUTH if metric == "mle-bench" else None,
    )
    return Terms(dice=dice, hausdorff=np.array([[joined]]))


def dice_of_counts(both: IntArray, pred: IntArray, truth: IntArray) -> FloatArray:
    """Return ``2 * both / (pred + truth)`` of voxel counts of any one shape; NaN for 0 / 0."""
    total = (pred + truth).astype(np.float64)
    dice = np.full(total.shape, np.nan)
    np.divide(2.0 * both, total, out=dice, where=total > 0)
    return dice


def _crop_bits(pred: LabelMap, truth: LabelMap) -> tuple[int, LabelMap, LabelMap]:
    """Return the first plane of the box that holds both maps' foreground, and both cropped to it.

    A box of no voxels where both are empty.
    """
    box = _find_box(pred, truth)
    return box[0].start, pred[box], truth[box]


def _find_box(*arrays: NDArray[np.uint8] | BoolArray) -> tuple[slice, slice, slice]:
    """Return the smallest box that holds the non-zero voxels of all arrays."""
    planes = np.zeros(arrays[0].shape[0], np.bool_)
    for array in arrays:
        planes |= array.any(axis=(1, 2))
    if not planes.any():
        return slice(0, 0), slice(0, 0), slice(0, 0)
    z = _span(planes)
    image: BoolArray = np.zeros(arrays[0].shape[1:], np.bool_)
    for array in arrays:
        image |= array[z].any(axis=0)
    return z, _span(np.any(image, axis=1)), _span(np.any(image, axis=0))


def _span(line: BoolArray) -> slice:
    found = np.flatnonzero(line)
    return slice(int(found[0]), int(found[-1]) + 1)


def _count_voxels(pred: LabelMap, truth: LabelMap) -> tuple[IntArray, IntArray, IntArray]:
    """Return the voxels of both, of ``pred``, of ``truth``, each ``(organs, slices)``.

    One histogram a slice of the pair of bit codes serves all organs.
    """
    depth = len(pred)
    codes = (pred & ALL_BITS) | ((truth & ALL_BITS) << _BITS)
    flat = codes.reshape(-1)
    found = np.flatnonzero(flat)
    plane = max(codes.shape[1] * codes.shape[2], 1)
    size = 1 << (2 * _BITS)
    histogram = np.bincount(found // plane * size + flat[found], minlength=depth * size)
    histogram = histogram.reshape(depth, size)
    code = np.arange(size)
    in_pred = np.array([(code & bit) != 0 for bit in ORGAN_BITS], np.int64)
    in_truth = np.array([(code & (bit << _BITS)) != 0 for bit in ORGAN_BITS], np.int64)
    tables = in_pred * in_truth, in_pred, in_truth
    both, n_pred, n_true = (table @ histogram.T for table in tables)
    return both, n_pred, n_true


def normalised_hausdorff(
    pred: BoolArray,
    truth: BoolArray,
    *,
    shape: tuple[int, int, int] | None = None,
    most_times_truth: int | None = None,
) -> float:
    """Return the symmetric Hausdorff distance in the unit cube, divided by its diagonal.

    Parameters
    ----------
    pred, truth
        ``(z, y, x)`` masks of one shape.
    shape
        ``(D, H, W)`` that divides the coordinates, where the masks are cropped out of a larger
        volume; by default the masks' own.
    most_times_truth
        Where ``pred`` has more than so many times the voxels of ``truth``, the distance is 1.

    Returns
    -------
    float
        In [0, 1]; 1 where one mask is empty, NaN where both are, 0 where they are identical.
    """
    n_pred, n_true = int(np.count_nonzero(pred)), int(np.count_nonzero(truth))
    if n_pred == 0 and n_true == 0:
        return float("nan")
    if n_pred == 0 or n_true == 0:
        return 1.0
    if most_times_truth is not None and n_pred > most_times_truth * n_true:
        return 1.0  # never identical masks, so their 0 needs no look first
    divisors = pred.shape if shape is None else shape
    step = 1.0 / np.asarray(divisors, np.float64)
    box = _find_box(pred, truth)
    pred, truth = pred[box], truth[box]
    distance = max(
        directed_distance(pred, truth, step=step), directed_distance(truth, pred, step=step)
    )
    return distance / float(np.sqrt(3.0))


def directed_distance(source: BoolArray, target: BoolArray, *, step: FloatArray) -> float:
    r"""Return how far the farthest voxel of ``source`` lies from ``target``.

    .. math:: \max_{s \in S} \min_{t \in T} \lVert (s - t) \cdot \text{step} \rVert_2

    Parameters
    ----------
    source, target
        ``(z, y, x)`` masks of one shape, neither empty.
    step
        ``(3,)`` length of a voxel's side along each axis, in the unit of the result.

    Returns
    -------
    float
        0 where ``source`` lies within ``target``.

    Notes
    -----
    Exact, by five facts. A voxel in both masks is at distance 0. Where every shift up to some
    length has been tried, shortest first, the voxels that met the target are nearer to it than
    those that did not. The nearest target voxel of one outside the target has a face neighbour
    outside it (one step towards the source voxel comes nearer), so a tree of the target's surface
    suffices. A voxel in a cell lies within half the cell's diagonal of the cell's centre, so cells
    whose centre's distance plus that half diagonal falls short of another cell's distance less its
    half diagonal cannot hold the farthest voxel. What remains is looked up in the tree in float64.
    """
    found = np.flatnonzero(source & ~target)
    if len(found) == 0:
        return 0.0
    points = _coordinates(found, source.shape)
    points, distance = _drop_neighbours(points, target, step)
    if len(points) == 0:
        return distance
    tree = cKDTree(_surface(target) * step, balanced_tree=False, compact_nodes=False)
    for cell in _CELLS:
        if len(points) > _FEW_POINTS:
            points = _drop_near_cells(points, np.array(cell), tree, source.shape, step)
    return float(tree.query(points * step)[0].max())


def _drop_neighbours(
    points: IntArray, target: BoolArray, step: FloatArray
) -> tuple[IntArray, float]:
    """Drop the points from which a short shift meets the target.

    Returns
    -------
    tuple
        The points left, all farther than those dropped, and the farthest of those dropped.
    """
    reach = np.array(_SHIFTS)
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    shifts = grid.reshape(-1, 3)
    lengths = np.linalg.norm(shifts * step, axis=1)
    # Every shift that is shorter than the shortest one beyond this box is in it.
    complete = np.flatnonzero((lengths > 0) & (lengths < ((reach + 1) * step).min()))
    order = complete[np.argsort(lengths[complete], kind="stable")]
    padded = np.pad(target, [(n, n) for n in _SHIFTS])
    flat = padded.reshape(-1)
    strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    at = (points + reach) @ strides
    left = np.arange(len(points))
    farthest = 0.0
    for tried, index in enumerate(order.tolist()):
        if tried == _FIRST_SHIFTS and len(left) > len(points) / 2:
            break  # most lie far off: the tree is faster
        shift, length = shifts[index], float(lengths[index])
        missed = ~flat[at + int(shift @ strides)]
        if not missed.all():
            left, at, farthest = left[missed], at[missed], length
        if len(left) == 0:
            break
    return points[left], farthest


def _drop_near_cells(
    points: IntArray,
    cell: IntArray,
    tree: cKDTree,
    shape: tuple[int, ...],
    step: FloatArray,
) -> IntArray:
    """Return the points whose cell may hold the farthest one."""
    grid = tuple(-(-np.array(shape) // cell))
    cell_of_point = np.ravel_multi_index(tuple((points // cell).T), grid)
    filled = np.zeros(int(np.prod(grid)), np.bool_)
    filled[cell_of_point] = True
    cells = np.flatnonzero(filled)
    centres = _coordinates(cells, grid) * cell + (cell - 1) / 2
    distance = tree.query(centres * step)[0]
    reach = float(np.linalg.norm((cell - 1) / 2 * step)) * (1 + 1e-9)
    filled[cells] = distance + reach >= distance.max() - reach
    kept: IntArray = points[filled[cell_of_point]]
    return kept


def _surface(mask: BoolArray) -> IntArray:
    """Return ``(n, 3)`` coordinates of the voxels with a face neighbour outside the mask."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + mask.shape[axis])
            inner &= padded[tuple(window)]
    return _coordinates(np.flatnonzero(mask & ~inner), mask.shape)


def _coordinates(flat: IntArray, shape: tuple[int, ...]) -> IntArray:
    """Return the ``(n, 3)`` coordinates of flat indices; ``numpy.nonzero`` in 3D is slower."""
    return np.stack(np.unravel_index(flat, shape), axis=1)


def slice_hausdorff(pred: BoolArray, truth: BoolArray, *, shape: tuple[int, int]) -> FloatArray:
    """Return the one-sided 2D distance of every slice, divided by the image's diagonal.

    Parameters
    ----------
    pred, truth
        ``(z, y, x)`` masks of one shape.
    shape
        ``(H, W)`` of the whole image in pixels, whose diagonal divides the distance.

    Returns
    -------
    numpy.ndarray
        ``(z,)`` float64 in [0, 1]: the farthest edge pixel of ``pred`` from the edge pixels of
        ``truth``; 1 where one of the two is empty, 0 where both are. An edge pixel has one of its
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
    return _coordinates(np.flatnonzero(masks & ~inner), masks.shape)
