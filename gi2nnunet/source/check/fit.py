"""Fit of masks to their image: contrast across the organs' outlines, where they are and elsewhere.

At an organ's outline the image changes: bowel and stomach are darker than the fat around them. The
*contrast* of an outline is the mean, over its points, of the image just outside minus the image
just inside, in units of the mean of its slice. It is greatest where the mask belongs, a quarter of
that four pixels or four slices away, and near zero at a place that has nothing to do with the
mask. So masks that were moved, turned or taken from another scan show, each scan by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap, find_box

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Turn = Literal[
    "as they are",
    "upside down",
    "mirrored",
    "back to front",
    "transposed",
    "rotated by 180 degrees",
]
# The axes along which each turn flips.
_FLIPS: Mapping[Turn, tuple[int, ...]] = {
    "as they are": (),
    "upside down": (0,),
    "mirrored": (2,),
    "back to front": (1,),
    "transposed": (),
    "rotated by 180 degrees": (1, 2),
}

_MOST_POINTS = 1200  # of an organ's outline, each way
_LINE = 4
_REACH = 2  # pixels from the outline to where the image is looked at
_MOST_CONTRAST = 1.5  # one point counts no more than this
SEARCH_BELOW = 0.5
"""Fits below this are held against every other placement; a better one nearby does so too."""
_MOST_SLICES_AWAY = 12
_MOST_PIXELS_AWAY = 20
_MOST_GROWTH = 8


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Another place for masks: turned about the image's middle, or moved, or drawn smaller.

    Attributes
    ----------
    slices, rows, columns
        By how much they would be moved: to caudal, to posterior, to the patient's left.
    growth
        By how many pixels they would grow; below zero, shrink.
    """

    turn: Turn = "as they are"
    slices: int = 0
    rows: int = 0
    columns: int = 0
    growth: int = 0


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A placement, and the contrast that the outlines would have there."""

    placement: Placement
    fit: float


@dataclass(frozen=True, kw_only=True)
class OutlineFit:
    """How well a scan's masks fit its image.

    Attributes
    ----------
    contrast
        ``(organs, z)``: sum over the points of a slice; of all that were looked at.
    points
        ``(organs, z)``: how many points those are.
    edges
        ``(organs,)``: pixels at the outline in every fourth line, before points were taken.
    better, better_of_organ
        The best other placement of all masks together, and of each organ by itself, if one was
        looked for.
    """

    contrast: FloatArray
    points: IntArray
    edges: IntArray
    better: Alternative | None = None
    better_of_organ: tuple[Alternative | None, ...] = (None,) * len(ORGANS)

    @property
    def of_organs(self) -> FloatArray:
        """Return ``(organs,)`` the mean contrast without its sign; NaN without an outline."""
        return _average(self.contrast.sum(axis=1), self.points.sum(axis=1))

    @property
    def whole(self) -> float:
        """Return the mean over the organs, each counting by its points; NaN without masks."""
        return float(_weigh(self.of_organs, self.points.sum(axis=1)))


def measure_fit(
    image: NDArray[Any], label_map: LabelMap, *, level: FloatArray | NDArray[np.float32]
) -> OutlineFit:
    """Measure the contrast across the outlines of a scan's masks.

    Parameters
    ----------
    image, label_map
        ``(z, y, x)``; the labels uint8, bit-coded.
    level
        ``(z,)``: mean of each slice's image; slices of zero have no contrast.

    Returns
    -------
    OutlineFit
        If the fit is poor, or better a little aside, with the best other placement: up to 12
        slices or 20 pixels away, turned, or grown or shrunk by up to 8 pixels.
    """
    outline, edges = _find_outline(label_map)
    inverse = np.divide(1.0, level, out=np.zeros(len(level)), where=level > 0)
    look = _Looker(image=image, inverse=inverse, outline=outline)
    values, kept = look.measure_points(Placement())
    shape = (len(ORGANS), len(image))
    at = (outline[0] * len(image) + outline[1])[kept]
    contrast, points = (
        np.bincount(at, weights, shape[0] * shape[1]).reshape(shape) for weights in (values, None)
    )
    found = OutlineFit(
        contrast=contrast.astype(np.float64), points=points.astype(np.int64), edges=edges
    )
    if not points.any():
        return found
    poor = (found.of_organs < SEARCH_BELOW).any()
    if not poor and found.whole >= look.weigh(look.measure(_NEAR)).max():
        return found
    return look.search(found)


def place_masks(label_map: LabelMap, placement: Placement) -> LabelMap:
    """Return masks ``(z, y, x)`` in another place; what leaves the image is lost.

    Masks that grow or shrink do so in each slice, by as many pixels to all sides.
    """
    placed = np.flip(label_map, _FLIPS[placement.turn])
    if placement.turn == "transposed":
        placed = placed.transpose(0, 2, 1)
    for axis, by in enumerate((placement.slices, placement.rows, placement.columns)):
        if by:
            placed = np.roll(placed, by, axis)
            edge = [slice(None)] * 3
            edge[axis] = slice(0, by) if by > 0 else slice(by, None)
            placed[tuple(edge)] = 0
    if placement.growth:
        reach = abs(placement.growth)
        join = np.bitwise_or if placement.growth > 0 else np.bitwise_and
        for axis in (1, 2):
            around = [(reach * (a == axis),) * 2 for a in range(3)]
            padded = np.pad(placed, around, "edge")
            placed = join.reduce(sliding_window_view(padded, 2 * reach + 1, axis), axis=-1)
    return np.ascontiguousarray(placed)


def _find_outline(label_map: LabelMap) -> tuple[IntArray, IntArray]:
    """Return ``(6, points)``: points at which an organ's mask ends, evenly taken; and how many are.

    The rows are the organ, z, y and x of the pixel inside, and the step to the outside along y and
    along x; points of an organ follow each other.
    """
    inside = find_box(label_map)[0]
    part = label_map[inside]
    found: list[list[IntArray]] = [[] for _ in ORGAN_BITS]
    edges = np.zeros(len(ORGANS), np.int64)
    # Every fourth line: a mask's outline goes on for longer than a pixel.
    for axis, before, after in (
        (1, part[:, :-1, ::_LINE], part[:, 1:, ::_LINE]),
        (2, part[:, ::_LINE, :-1], part[:, ::_LINE, 1:]),
    ):
        differs = before != after
        places = np.array(np.unravel_index(np.flatnonzero(differs), differs.shape))
        first = before[tuple(places)]
        edge = first ^ after[tuple(places)]
        places *= np.array([[1], [1 if axis == 1 else _LINE], [1 if axis == 2 else _LINE]])
        places[0] += inside.start
        for organ, bit in enumerate(ORGAN_BITS):
            at = np.flatnonzero(edge & bit)
            edges[organ] += len(at)
            at = at[:: max(1, -(-len(at) // _MOST_POINTS))]
            points = np.zeros((6, len(at)), np.int64)
            points[0], points[1:4] = organ, places[:, at]
            step = points[3 + axis] = np.where(first[at] & bit, 1, -1)
            points[1 + axis] += step < 0  # then the pixel inside is the later one
            found[organ].append(points)
    return np.concatenate([points for of_organ in found for points in of_organ], axis=1), edges


def _average(sums: NDArray[Any], numbers: IntArray) -> FloatArray:
    """Return ``(organs,)`` the mean contrast without its sign; NaN without points."""
    none = np.full(numbers.shape, np.nan)
    averages: FloatArray = np.divide(np.abs(sums), numbers, out=none, where=numbers > 0)
    return averages


def _weigh(fits: FloatArray, points: IntArray) -> FloatArray:
    """Return ``(...,)`` the mean of ``(..., organs)``, each organ counting by its points."""
    some = points > 0
    if not some.any():
        return np.full(fits.shape[:-1], np.nan)
    weighed: FloatArray = fits[..., some] @ (points[some] / points.sum())
    return weighed


@dataclass(frozen=True, kw_only=True)
class _Looker:
    """Looks at the points of one scan's outlines, as :func:`_find_outline` gives them."""

    image: NDArray[Any]
    inverse: FloatArray
    outline: IntArray

    def measure_points(self, placement: Placement) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return the contrast at the points that stay in the image, and which do."""
        depth, height, width = self.image.shape
        _, z, y, x, step_y, step_x = self.outline
        flips = _FLIPS[placement.turn]
        if 0 in flips:
            z = depth - 1 - z
        if 1 in flips:
            y, step_y = height - 1 - y, -step_y
        if 2 in flips:
            x, step_x = width - 1 - x, -step_x
        if placement.turn == "transposed":
            y, x, step_y, step_x = x, y, step_x, step_y
        z, y, x = z + placement.slices, y + placement.rows, x + placement.columns
        ends = [
            (y + reach * step_y, x + reach * step_x)
            for reach in (placement.growth + 1 - _REACH, placement.growth + _REACH)
        ]
        kept = (z >= 0) & (z < depth)
        for y, x in ends:
            kept &= (y >= 0) & (y < height) & (x >= 0) & (x < width)
        z = z[kept]
        inside, outside = (self.image[z, y[kept], x[kept]].astype(np.float64) for y, x in ends)
        values = (outside - inside) * self.inverse[z]
        return np.clip(values, -_MOST_CONTRAST, _MOST_CONTRAST), kept

    def measure(self, placements: Sequence[Placement]) -> FloatArray:
        """Return ``(placements, organs)`` the contrast; NaN without the organ.

        Points that leave the image have no contrast, so moving masks out of it gains nothing.
        """
        organ, points = self.outline[0], self.count_points()
        fits = np.empty((len(placements), len(points)))
        for at, placement in enumerate(placements):
            values, kept = self.measure_points(placement)
            fits[at] = _average(np.bincount(organ[kept], values, len(points)), points)
        return fits

    def count_points(self) -> IntArray:
        """Return ``(organs,)`` how many points each organ has."""
        return np.bincount(self.outline[0], minlength=len(ORGANS))

    def weigh(self, fits: FloatArray) -> FloatArray:
        """Return ``(placements,)`` the mean over the organs."""
        return _weigh(fits, self.count_points())

    def search(self, found: OutlineFit) -> OutlineFit:
        """Look everywhere, coarsely, and then around the best places."""
        square = self.image.shape[1] == self.image.shape[2]
        places = [p for p in _FAR if square or p.turn != "transposed"]
        fits = replace(self, outline=self.outline[:, ::3]).measure(places)  # every third point

        def refine(column: FloatArray, organ: int | None) -> Alternative | None:
            if not np.isfinite(column).any():
                return None
            around = _surround(places[int(np.nanargmax(column))])
            finer = self.measure(around)
            again = self.weigh(finer) if organ is None else finer[:, organ]
            at = int(again.argmax())
            return Alternative(placement=around[at], fit=float(again[at]))

        return replace(
            found,
            better=refine(self.weigh(fits), None),
            better_of_organ=tuple(refine(column, organ) for organ, column in enumerate(fits.T)),
        )


def _surround(placement: Placement) -> list[Placement]:
    """Return the placement and its nearest neighbours, without the one where the masks are."""
    if placement.turn != "as they are":
        return [placement]
    near = [replace(placement, slices=placement.slices + off) for off in (-1, 1)]
    if placement.growth:
        near += [replace(placement, growth=placement.growth + off) for off in (-1, 1)]
    near += [
        replace(placement, rows=placement.rows + rows, columns=placement.columns + columns)
        for rows in (-1, 0, 1)
        for columns in (-1, 0, 1)
    ]
    return [p for p in dict.fromkeys((placement, *near)) if p != Placement()]


_NEAR = _surround(Placement())
_FAR = [
    *(Placement(turn=turn) for turn in _FLIPS if turn != "as they are"),
    *(Placement(slices=n) for n in range(-_MOST_SLICES_AWAY, _MOST_SLICES_AWAY + 1) if n),
    *(
        Placement(rows=rows, columns=columns)
        for rows in range(-_MOST_PIXELS_AWAY, _MOST_PIXELS_AWAY + 1, 2)
        for columns in range(-_MOST_PIXELS_AWAY, _MOST_PIXELS_AWAY + 1, 2)
        if rows or columns
    ),
    *(Placement(growth=n) for n in range(-_MOST_GROWTH, _MOST_GROWTH + 1) if n),
]
