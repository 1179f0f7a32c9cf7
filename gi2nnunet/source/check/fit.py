"""Fit of masks to their image: contrast across the organs' outlines, where they are and elsewhere.

At an organ's outline the image changes: bowel and stomach are darker than the fat around them. The
*contrast* of an outline is the mean, over its points, of the image just outside minus the image
just inside, in units of the mean of its slice. It is greatest where the mask belongs, a quarter of
that four pixels or four slices away, and near zero at a place that has nothing to do with the
mask. So masks that were moved, turned or taken from another scan show, each scan by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap

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
_TURNS: tuple[Turn, ...] = (
    "upside down", "mirrored", "back to front", "transposed", "rotated by 180 degrees",
)  # fmt: skip

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
    turn
        How the masks would be turned.
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
    better
        The best other placement of all masks together, if one was looked for.
    better_of_organ
        The same for each organ by itself.
    """

    contrast: FloatArray
    points: IntArray
    edges: IntArray
    better: Alternative | None
    better_of_organ: tuple[Alternative | None, ...]

    @property
    def of_organs(self) -> FloatArray:
        """Return ``(organs,)`` the mean contrast without its sign; NaN without an outline."""
        return _average(self.contrast.sum(axis=1), self.points.sum(axis=1))

    @property
    def whole(self) -> float:
        """Return the mean over the organs, each counting by its points; NaN without masks."""
        return _weigh(self.of_organs, self.points.sum(axis=1))


@dataclass(frozen=True, kw_only=True)
class _Outline:
    """Points of one organ's outline: the pixel before and the one after it, along one axis."""

    z: IntArray
    y: IntArray
    x: IntArray
    step_y: IntArray  # from inside to outside
    step_x: IntArray


def measure_fit(
    image: NDArray[Any], label_map: LabelMap, *, level: FloatArray | NDArray[np.float32]
) -> OutlineFit:
    """Measure the contrast across the outlines of a scan's masks.

    Parameters
    ----------
    image
        ``(z, y, x)``.
    label_map
        ``(z, y, x)`` uint8, bit-coded.
    level
        ``(z,)``: mean of each slice's image; slices of zero have no contrast.

    Returns
    -------
    OutlineFit
        Where the fit is poor, or better a little aside, with the best other placement: up to 12
        slices or 20 pixels away, turned, or grown or shrunk by up to 8 pixels.
    """
    outlines, edges = _find_outlines(label_map)
    inverse = np.zeros(len(level))
    inverse[level > 0] = 1 / level[level > 0]
    shape = (len(ORGANS), len(image))
    contrast, points = np.zeros(shape), np.zeros(shape, np.int64)
    for organ, outline in enumerate(outlines):
        values, kept = _look(image, inverse, outline, Placement())
        contrast[organ] = np.bincount(outline.z[kept], values, minlength=len(image))
        points[organ] = np.bincount(outline.z[kept], minlength=len(image))
    found = OutlineFit(
        contrast=contrast, points=points, edges=edges, better=None,
        better_of_organ=(None,) * len(ORGANS),
    )  # fmt: skip
    if not points.any():
        return found
    look = _Looker(image=image, inverse=inverse, outlines=outlines)
    fits = found.of_organs
    if not (fits < SEARCH_BELOW).any() and found.whole >= float(
        look.weigh(look.measure(_NEAR)).max()
    ):
        return found
    return look.search(found)


def place_masks(label_map: LabelMap, placement: Placement) -> LabelMap:
    """Return masks ``(z, y, x)`` in another place; what leaves the image is lost.

    Masks that grow or shrink do so in each slice, by as many pixels to all sides.
    """
    axes = {
        "upside down": (0,), "mirrored": (2,), "back to front": (1,),
        "rotated by 180 degrees": (1, 2),
    }  # fmt: skip
    placed = np.flip(label_map, axes[placement.turn]) if placement.turn in axes else label_map
    if placement.turn == "transposed":
        placed = placed.transpose(0, 2, 1)
    for axis, by in enumerate((placement.slices, placement.rows, placement.columns)):
        if by:
            placed = np.roll(placed, by, axis)
            edge = [slice(None)] * 3
            edge[axis] = slice(0, by) if by > 0 else slice(by, None)
            placed[tuple(edge)] = 0
    if placement.growth:
        side = 2 * abs(placement.growth) + 1
        change = ndimage.maximum_filter if placement.growth > 0 else ndimage.minimum_filter
        grown = np.zeros_like(placed)
        for bit in ORGAN_BITS:
            grown |= change(placed & bit, (1, side, side))
        placed = grown
    return np.ascontiguousarray(placed)


def _find_outlines(label_map: LabelMap) -> tuple[list[_Outline], IntArray]:
    """Return by organ points at which its mask ends, evenly taken, and how many there were."""
    filled = np.flatnonzero(label_map.any(axis=(1, 2)))
    low, high = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
    part = label_map[low:high]
    found: list[list[tuple[IntArray, ...]]] = [[] for _ in ORGAN_BITS]
    # Every fourth line: a mask's outline goes on for longer than a pixel.
    for axis, before, after in (
        (1, part[:, :-1, ::_LINE], part[:, 1:, ::_LINE]),
        (2, part[:, ::_LINE, :-1], part[:, ::_LINE, 1:]),
    ):
        differs = before != after
        at = np.flatnonzero(differs)
        z, y, x = np.unravel_index(at, differs.shape)
        edge, inside_first = before[z, y, x] ^ after[z, y, x], before[z, y, x]
        for organ, bit in enumerate(ORGAN_BITS):
            found[organ].append(
                _take_points(axis, z + low, y, x, (edge & bit) != 0, (inside_first & bit) != 0)
            )
    outlines = []
    for parts in found:
        z, y, x, step_y, step_x, _ = (np.concatenate(row) for row in zip(*parts, strict=True))
        outlines.append(_Outline(z=z, y=y, x=x, step_y=step_y, step_x=step_x))
    return outlines, np.array([sum(int(row[-1][0]) for row in parts) for parts in found])


def _take_points(
    axis: int, z: IntArray, y: IntArray, x: IntArray, edge: NDArray[np.bool_],
    inside_first: NDArray[np.bool_],
) -> tuple[IntArray, ...]:  # fmt: skip
    """Return of some edges the pixel inside, the step to outside along both axes; and how many."""
    at = np.flatnonzero(edge)
    number = np.array([len(at)])
    at = at[:: max(1, -(-len(at) // _MOST_POINTS))]
    out = np.where(inside_first[at], 1, -1)
    second = (out < 0).astype(np.int64)  # then the pixel inside is the later one
    nothing = np.zeros_like(out)
    if axis == 1:
        return z[at], y[at] + second, x[at] * _LINE, out, nothing, number
    return z[at], y[at] * _LINE, x[at] + second, nothing, out, number


def _look(
    image: NDArray[Any], inverse: FloatArray, outline: _Outline, placement: Placement
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return the contrast at an outline's points, and which of them stay in the image."""
    depth, height, width = image.shape
    z, y, x = outline.z, outline.y, outline.x
    step_y, step_x = outline.step_y, outline.step_x
    if placement.turn == "upside down":
        z = depth - 1 - z
    if placement.turn in ("back to front", "rotated by 180 degrees"):
        y, step_y = height - 1 - y, -step_y
    if placement.turn in ("mirrored", "rotated by 180 degrees"):
        x, step_x = width - 1 - x, -step_x
    if placement.turn == "transposed":
        y, x, step_y, step_x = x, y, step_x, step_y
    z = z + placement.slices
    grown_in, grown_out = placement.growth - (_REACH - 1), placement.growth + _REACH
    y_in, x_in = (
        y + placement.rows + grown_in * step_y,
        x + placement.columns + grown_in * step_x,
    )
    y_out, x_out = (
        y + placement.rows + grown_out * step_y,
        x + placement.columns + grown_out * step_x,
    )
    kept = (
        (z >= 0) & (z < depth)
        & (np.minimum(y_in, y_out) >= 0) & (np.maximum(y_in, y_out) < height)
        & (np.minimum(x_in, x_out) >= 0) & (np.maximum(x_in, x_out) < width)
    )  # fmt: skip
    z, y_in, x_in, y_out, x_out = (part[kept] for part in (z, y_in, x_in, y_out, x_out))
    flat = image.reshape(-1)
    start = z * (height * width)
    outside = flat[start + y_out * width + x_out].astype(np.float64)
    inside = flat[start + y_in * width + x_in].astype(np.float64)
    values = (outside - inside) * inverse[z]
    return np.clip(values, -_MOST_CONTRAST, _MOST_CONTRAST), kept


def _average(sums: FloatArray, numbers: IntArray) -> FloatArray:
    found = np.full(len(sums), np.nan)
    some = numbers > 0
    found[some] = np.abs(sums[some]) / numbers[some]
    return found


def _weigh(fits: FloatArray, points: IntArray) -> float:
    some = np.isfinite(fits) & (points > 0)
    return float(np.average(fits[some], weights=points[some])) if some.any() else float("nan")


@dataclass(frozen=True, kw_only=True)
class _Looker:
    """Looks at one scan's outlines under other placements."""

    image: NDArray[Any]
    inverse: FloatArray
    outlines: Sequence[_Outline]

    def measure(self, placements: Sequence[Placement]) -> FloatArray:
        """Return ``(placements, organs)`` the contrast; NaN without the organ.

        Points that leave the image have no contrast, so moving masks out of it gains nothing.
        """
        fits = np.full((len(placements), len(self.outlines)), np.nan)
        for organ, outline in enumerate(self.outlines):
            if not len(outline.z):
                continue
            for at, placement in enumerate(placements):
                values, _ = _look(self.image, self.inverse, outline, placement)
                fits[at, organ] = abs(values.sum()) / len(outline.z)
        return fits

    def weigh(self, fits: FloatArray) -> FloatArray:
        """Return ``(placements,)`` the mean over the organs, each counting by its points."""
        points = np.array([len(outline.z) for outline in self.outlines], np.float64)
        some = points > 0
        weighed: FloatArray = fits[:, some] @ (points[some] / points.sum())
        return weighed

    def thin(self) -> _Looker:
        """Return one that looks at every third point."""
        outlines = [
            _Outline(**{name: part[::3] for name, part in vars(outline).items()})
            for outline in self.outlines
        ]
        return _Looker(image=self.image, inverse=self.inverse, outlines=outlines)

    def search(self, found: OutlineFit) -> OutlineFit:
        """Look everywhere, coarsely, and then around the best places."""
        square = self.image.shape[1] == self.image.shape[2]
        places = [p for p in _FAR if square or p.turn != "transposed"]
        fits = self.thin().measure(places)

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
    *(Placement(turn=turn) for turn in _TURNS),
    *(Placement(slices=n) for n in range(-_MOST_SLICES_AWAY, _MOST_SLICES_AWAY + 1) if n),
    *(
        Placement(rows=rows, columns=columns)
        for rows in range(-_MOST_PIXELS_AWAY, _MOST_PIXELS_AWAY + 1, 2)
        for columns in range(-_MOST_PIXELS_AWAY, _MOST_PIXELS_AWAY + 1, 2)
        if rows or columns
    ),
    *(Placement(growth=n) for n in range(-_MOST_GROWTH, _MOST_GROWTH + 1) if n),
]
