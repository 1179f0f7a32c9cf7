"""Hausdorff distance: the farthest voxel of one mask from another, exactly.

Two label maps are put into one array, their foreground is listed once, and all later steps work on
that list. It needs no distance transform: only the farthest voxel matters, and bounds rule out
most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from gi2nnunet.formats.labels import ALL_BITS, ORGAN_BITS, LabelMap

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SHIFT = len(ORGAN_BITS)  # the second map's bits are shifted left by this much
MARGIN = (1, 2, 2)  # background voxels around a field, and the largest shift of voxels in it

_FIRST_SHIFTS = 6
_CELL = (4, 8, 8)
_MANY_POINTS = 2000  # from here on, whole cells of points are ruled out first
_TREE_SIZES = (4000, 24000)  # target voxels in the trees that bound from above
_ROUNDS = 24  # points measured one by one with each


@dataclass(frozen=True, kw_only=True)
class VoxelField:
    """Two label maps in one array with a margin of background, and its foreground voxels.

    Attributes
    ----------
    shape
        Shape of the array with the margin.
    codes
        Flat: the bits of the first map, and those of the second shifted by :data:`SHIFT`.
    found, values
        Flat index of each voxel that is not 0, ascending, and their codes.
    """

    shape: tuple[int, int, int]
    codes: NDArray[np.uint8]
    found: IntArray
    values: NDArray[np.uint8]

    def strides(self) -> IntArray:
        """Return the distance in ``codes`` of neighbours along each axis, as ``(3,)``."""
        return np.array([self.shape[1] * self.shape[2], self.shape[2], 1])

    def locate(self, flat: IntArray) -> IntArray:
        """Return the ``(n, 3)`` coordinates, margin included, of flat indices."""
        return np.stack(np.unravel_index(flat, self.shape), axis=1)


def make_field(first: LabelMap, second: LabelMap) -> VoxelField:
    """Put two bit-coded ``(z, y, x)`` label maps of one shape into a field."""
    depth, height, width = (
        size + 2 * margin for size, margin in zip(first.shape, MARGIN, strict=True)
    )
    codes = np.zeros((depth, height, width), np.uint8)
    inner = codes[tuple(slice(margin, -margin) for margin in MARGIN)]
    np.left_shift(second & ALL_BITS, SHIFT, out=inner)
    inner |= first & ALL_BITS
    flat = codes.reshape(-1)
    found = np.flatnonzero(flat != 0)
    return VoxelField(shape=(depth, height, width), codes=flat, found=found, values=flat[found])


def find_farthest(field: VoxelField, source_bits: int, target_bits: int, step: FloatArray) -> float:
    r"""Return the distance of the farthest source voxel from the target.

    .. math:: \max_{s \in S} \min_{t \in T} \lVert (s - t) \cdot \text{step} \rVert_2

    Parameters
    ----------
    source_bits, target_bits
        A voxel with any of these bits in its code belongs to the source, or to the target;
        neither may be empty.
    step
        ``(3,)`` length of a voxel's side along each axis, in the unit of the result.

    Returns
    -------
    float
        0 if the source lies within the target.

    Notes
    -----
    Exact in float64, by these facts:

    - A voxel in both is at distance 0.
    - If every shift up to some length has been tried, shortest first, the voxels that met the
      target are nearer to it than those that did not.
    - The nearest target voxel of a voxel outside the target has a face neighbour outside it: one
      step towards that voxel would be nearer.
    - The distance to some of the target is at least the distance to all of it, so a tree of a few
      target voxels bounds from above; the distance of any one source voxel bounds the farthest's
      from below; and a voxel in a cell is at most half the cell's diagonal farther off than the
      cell's centre.
    """
    in_source = (field.values & source_bits) != 0
    in_target = (field.values & target_bits) != 0
    points = field.found[in_source & ~in_target]
    points, distance = _drop_neighbours(field, points, target_bits, step)
    if len(points) == 0:
        return distance
    surface = field.locate(_find_surface(field, field.found[in_target], target_bits)) * step
    columns = np.ascontiguousarray(surface.T)
    coarse = _make_tree(surface, _TREE_SIZES[0])
    places = field.locate(points)
    if len(places) > _MANY_POINTS:
        places = _drop_near_cells(places, field.shape, columns, coarse, step)
    at, below = _raise_bound(places * step, 0.0, coarse, columns)
    for size in _TREE_SIZES[1:]:
        if len(at):
            at, below = _raise_bound(at, below, _make_tree(surface, size), columns)
    if len(at):
        whole = cKDTree(surface, balanced_tree=False, compact_nodes=False)
        below = max(below, float(whole.query(at)[0].max()))
    return below


def _make_tree(surface: FloatArray, size: int) -> cKDTree:
    """Return a tree of about ``size`` voxels of the surface, evenly spaced."""
    every = -(-len(surface) // size)
    return cKDTree(surface[::every], balanced_tree=False, compact_nodes=False)


def _raise_bound(
    at: FloatArray, below: float, tree: cKDTree, columns: FloatArray
) -> tuple[FloatArray, float]:
    """Measure the likeliest points; return those that may be farther off, and the distance."""
    above = tree.query(at)[0]
    for _ in range(_ROUNDS):
        keep = above > below
        at, above = at[keep], above[keep]
        if len(at) == 0:
            break
        top = int(above.argmax())
        below = max(below, _measure(at[top], columns, float(above[top])))
        above[top] = 0.0
    keep = above > below
    return at[keep], below


def _measure(point: FloatArray, columns: FloatArray, above: float) -> float:
    """Return the distance of a point from the nearest of many, ``(3, n)`` ordered by z."""
    reach = above * (1 + 1e-9)  # bounds the distance, so only these planes are searched
    first, last = np.searchsorted(columns[0], [point[0] - reach, point[0] + reach])
    z, y, x = columns[:, first:last]
    squares = (y - point[1]) ** 2
    squares += (x - point[2]) ** 2
    squares += (z - point[0]) ** 2
    return float(np.sqrt(squares.min()))


def _drop_neighbours(
    field: VoxelField, points: IntArray, target_bits: int, step: FloatArray
) -> tuple[IntArray, float]:
    """Drop the points that a short shift moves into the target.

    Returns the points left, all at least as far off as those dropped, and the farthest dropped one.
    """
    reach = np.array(MARGIN)
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in MARGIN), indexing="ij"), axis=-1)
    shifts = grid.reshape(-1, 3)
    lengths = np.linalg.norm(shifts * step, axis=1)
    # Every shift that is shorter than the shortest one beyond this box is in it.
    complete = np.flatnonzero((lengths > 0) & (lengths < ((reach + 1) * step).min()))
    order = complete[np.argsort(lengths[complete], kind="stable")]
    offsets = (shifts[order] @ field.strides()).tolist()
    n_points, farthest = len(points), 0.0
    for tried, (offset, length) in enumerate(zip(offsets, lengths[order].tolist(), strict=True)):
        if len(points) == 0 or (tried == _FIRST_SHIFTS and len(points) > n_points / 2):
            break  # none left, or most are far off, and trees are faster
        missed = (field.codes[points + offset] & target_bits) == 0
        if not missed.all():
            points, farthest = points[missed], length
    return points, farthest


def _find_surface(field: VoxelField, target: IntArray, target_bits: int) -> IntArray:
    """Return the target voxels with a face neighbour outside the target."""
    inner = np.ones(len(target), np.bool_)
    for stride in field.strides().tolist():
        for offset in (-stride, stride):
            inner &= (field.codes[target + offset] & target_bits) != 0
    return target[~inner]


def _drop_near_cells(
    places: IntArray,
    shape: tuple[int, int, int],
    columns: FloatArray,
    coarse: cKDTree,
    step: FloatArray,
) -> IntArray:
    """Return the places in cells that may hold the farthest one."""
    cell = np.array(_CELL)
    grid = tuple(-(-np.array(shape) // cell))
    cell_of_place = np.ravel_multi_index(tuple((places // cell).T), grid)
    filled = np.zeros(int(np.prod(grid)), np.bool_)
    filled[cell_of_place] = True
    cells = np.flatnonzero(filled)
    centres = np.stack(np.unravel_index(cells, grid), axis=1) * cell + (cell - 1) / 2
    reach = float(np.linalg.norm((cell - 1) / 2 * step)) * (1 + 1e-9)
    above = coarse.query(centres * step)[0]
    below = 0.0  # of the distance of some centre
    for index in np.argsort(above)[: -_ROUNDS - 1 : -1].tolist():
        if above[index] > below:
            below = max(below, _measure(centres[index] * step, columns, float(above[index])))
    filled[cells] = above + reach >= below - reach
    kept: IntArray = places[filled[cell_of_place]]
    return kept
