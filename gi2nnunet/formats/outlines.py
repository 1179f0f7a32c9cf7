"""Outlines of masks as polygons that other programs fill again to the same pixels.

Programs that fill a polygon disagree about pixels on its line: some take a pixel if its centre is
inside, others also if the line touches it, others round the points to whole pixels first. An
outline that runs 0.05 pixel inside the true edges of the pixels gives the same mask in all of them:
it meets no pixel centre, and its rounded points are the centres of the mask's edge pixels, step by
step along rows and columns, so that no corner is cut. Only stairs with steps of one pixel in
width and height become a straight line through their outer corners, which still meets no pixel
centre and takes a third of the points away.

Pixels that touch only at a corner are outlined separately. A hole is joined to the outline around
it by a slit of no width along a row, because some programs fill a hole that is an outline of its
own. A single pixel has four points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.labels import find_box

INSET_PIXELS = 0.05
"""How far an outline runs inside the true edges of the pixels."""

# Quadrants of a pixel, clockwise with rows running down, and their signs along rows and columns.
_NW, _NE, _SE, _SW = range(4)
_ROW_SIGN = np.array([-1, -1, 1, 1])
_COLUMN_SIGN = np.array([-1, 1, 1, -1])

_Indices = NDArray[np.int64]
_Pieces = list[tuple[_Indices, _Indices]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlines:
    """Closed outlines of a volume; the last point of each is joined to its first.

    Attributes
    ----------
    slice_index
        ``(outlines,)`` int64, ascending: the slice of each outline.
    ends
        ``(outlines,)`` int64: where each outline's points end and the next one's begin.
    points
        ``(points, 2)`` float64: row and column in pixels; pixel centres are whole numbers.
    """

    slice_index: NDArray[np.int64]
    ends: NDArray[np.int64]
    points: NDArray[np.float64]


def trace_outlines(
    mask: NDArray[np.bool_], *, close_along: Literal["row", "column"] = "column"
) -> Outlines:
    """Trace the outlines of a mask in every slice.

    An outline is the list of corners where it turns. Each corner lies in a quadrant of a pixel of
    the mask. Along a line of pixel edges, corners are by turns the start and the end of a straight
    piece, so that sorting them joins them, for all slices at once.

    Parameters
    ----------
    mask
        ``(slices, rows, columns)`` bool.
    close_along
        Whether the piece between an outline's last point and its first runs along a row or along a
        column, unless it is a diagonal.

    Returns
    -------
    Outlines
        In the order of each outline's first pixel, clockwise with rows running down; none for an
        empty mask.
    """
    if mask.ndim != 3 or mask.dtype != np.bool_:
        raise ValueError(f"expected a volume of bool, got {mask.dtype} of shape {mask.shape}")
    box = find_box(mask)
    padded = np.pad(mask[box], ((0, 0), (1, 1), (1, 1)))
    pixels = _find_edge_pixels(padded)
    # A corner is 4 * (index of its edge pixel) + quadrant.
    pieces, concave = _find_pieces(padded, pixels)
    corners, lengths, fixed = _join(pieces, padded, pixels, close_along)

    slices, rows, columns = np.unravel_index(pixels[corners // 4], padded.shape)
    reach = 0.5 - INSET_PIXELS
    points = np.stack(
        [
            rows + (box[1].start - 1) + reach * _ROW_SIGN[corners % 4],
            columns + (box[2].start - 1) + reach * _COLUMN_SIGN[corners % 4],
        ],
        axis=1,
    )
    ends = np.cumsum(lengths, dtype=np.int64)
    kept = _find_kept(points, ends, concave=concave[corners], fixed=fixed)
    return Outlines(
        slice_index=slices[ends - lengths] + box[0].start,
        ends=np.cumsum(kept, dtype=np.int64)[ends - 1],
        points=points[kept],
    )


def _find_kept(
    points: NDArray[np.float64],
    ends: _Indices,
    *,
    concave: NDArray[np.bool_],
    fixed: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return which points are left when stairs of single pixels become straight lines."""
    after = np.arange(1, len(points) + 1)
    after[ends - 1] = np.concatenate([[0], ends])[:-1]
    before = np.empty_like(after)
    before[after] = np.arange(len(points))
    single = np.isclose(np.abs(points[after] - points).sum(axis=1), 1.0)
    inner = concave & ~fixed & single & single[before]
    between = inner[before] & inner[after] & ~fixed
    kept: NDArray[np.bool_] = ~(inner | between)
    return kept


def _find_edge_pixels(padded: NDArray[np.bool_]) -> _Indices:
    """Return flat indices of the mask's pixels that have a neighbour outside it, ascending."""
    inner = padded[:, 1:-1] & padded[:, :-2] & padded[:, 2:]
    inner = inner[:, :, 1:-1] & inner[:, :, :-2] & inner[:, :, 2:]
    edge = padded.copy()
    edge[:, 1:-1, 1:-1] &= ~inner
    return np.flatnonzero(edge)


def _find_pieces(padded: NDArray[np.bool_], pixels: _Indices) -> tuple[_Pieces, NDArray[np.bool_]]:
    """Find the straight pieces of all outlines.

    Returns
    -------
    tuple
        For the top, right, bottom and left of pixels the corners where pieces start and where they
        end, ordered by slice, row, column (top, bottom) or by slice, column, row (right, left); and
        by corner whether the outline turns left there.
    """
    flat, width = padded.reshape(-1), padded.shape[2]
    left, right, up, down = (flat[pixels + step] for step in (-1, 1, -width, width))
    # By quadrant, clockwise: the neighbours before and after its corner, and the pixel across it.
    around = (
        (left, up, flat[pixels - width - 1]),
        (up, right, flat[pixels - width + 1]),
        (right, down, flat[pixels + width + 1]),
        (down, left, flat[pixels + width - 1]),
    )
    convex = [~before & ~after for before, after, _ in around]
    concave = [before & after & ~across for before, after, across in around]

    def list_corners(convex_in: int, concave_in: int) -> _Indices:
        found = np.flatnonzero(convex[convex_in] | concave[concave_in])
        return 4 * found + np.where(convex[convex_in][found], convex_in, concave_in)

    slices, rows, columns = np.unravel_index(pixels, padded.shape)
    by_column = np.empty(len(pixels), np.int64)
    by_column[np.lexsort((rows, columns, slices))] = np.arange(len(pixels))
    pieces = []
    for first, second in ((_NW, _NE), (_NE, _SE), (_SE, _SW), (_SW, _NW)):
        starts, ends = list_corners(first, second), list_corners(second, first)
        if first in (_NE, _SW):
            starts = starts[np.argsort(by_column[starts // 4])]
            ends = ends[np.argsort(by_column[ends // 4])]
        pieces.append((starts, ends))
    return pieces, np.stack(concave, axis=1).reshape(-1)


def _join(
    pieces: _Pieces,
    padded: NDArray[np.bool_],
    pixels: _Indices,
    close_along: Literal["row", "column"],
) -> tuple[_Indices, _Indices, NDArray[np.bool_]]:
    """Join pieces to rings and rings to outlines.

    Returns
    -------
    tuple
        All corners, the number of each outline, and which corners are ends of slits.
    """
    next_of = np.full(4 * len(pixels), -1, np.int64)
    for starts, ends in pieces:
        next_of[starts] = ends
    following = next_of.tolist()

    # The first corner of a ring, in the order of pixels, is the NW one of its top left pixel, or
    # the SE one of the pixel up and left of a hole.
    seen = bytearray(len(following))
    outer, holes, hole_ends = [], [], []
    for first in np.flatnonzero(next_of >= 0).tolist():
        if seen[first]:
            continue
        last = corner = first
        while not seen[corner]:
            seen[corner] = True
            last, corner = corner, following[corner]
        if first % 4 == _NW:
            outer.append(first)
        else:
            holes.append(first)
            hole_ends.append(last)

    # Put each hole into the ring that it is joined to: out along the slit, around, and back.
    corners = list(range(len(following)))
    slit_ends = set(holes)
    slits = _find_slits(np.array(holes, np.int64), pieces, padded, pixels)
    for hole, hole_end, (start, point) in zip(holes, hole_ends, slits, strict=True):
        there, closed, back = range(len(corners), len(corners) + 3)
        corners += [point, hole, point]
        following += [hole, back, following[start]]
        following[hole_end] = closed
        following[start] = hole if point == start else there
        slit_ends |= {start, there, closed, back}

    begins = [following[corner] for corner in outer] if close_along == "row" else outer
    order, lengths = _follow(begins, following)
    fixed = np.zeros(len(corners), np.bool_)
    fixed[list(slit_ends)] = True
    return np.array(corners, np.int64)[order], lengths, fixed[order]


def _follow(begins: Sequence[int], following: Sequence[int]) -> tuple[_Indices, _Indices]:
    """Return the corners of all outlines, one outline after another, and the number of each."""
    order: list[int] = []
    lengths: list[int] = []
    for first in begins:
        before, corner = len(order), first
        while True:
            order.append(corner)
            corner = following[corner]
            if corner == first:
                break
        lengths.append(len(order) - before)
    return np.array(order, np.int64), np.array(lengths, np.int64)


def _find_slits(
    holes: _Indices,
    pieces: _Pieces,
    padded: NDArray[np.bool_],
    pixels: _Indices,
) -> list[tuple[int, int]]:
    """Find where the slit from each hole's first corner to the left meets another ring.

    Returns
    -------
    list
        For each hole the corner after which the slit begins, and the corner of the same place: the
        first one again, or one that lies on the piece after it.
    """
    # Either at the start of a piece along the bottom of pixels, which runs to the left on the
    # slit's own line, or else on the left side of the first pixel that has no left neighbour.
    bottom_starts = pieces[2][0]
    left_starts, left_ends = pieces[3]
    from_pixel = holes // 4
    flat = padded.reshape(-1)
    row_starts = np.flatnonzero(~flat[pixels - 1])
    row_start = row_starts[np.searchsorted(row_starts, from_pixel, side="right") - 1]
    at = np.searchsorted(bottom_starts // 4, from_pixel, side="right") - 1
    bottom_start = np.where(at >= 0, bottom_starts[at] if len(bottom_starts) else -1, -1)

    def place_on_column(corner: _Indices) -> _Indices:
        """Return sort keys by slice, column and row in half pixels."""
        slices, rows, columns = np.unravel_index(pixels[corner // 4], padded.shape)
        half_rows = 2 * rows + (_ROW_SIGN[corner % 4] > 0)
        return np.asarray(
            (slices * padded.shape[2] + columns) * (2 * padded.shape[1]) + half_rows, np.int64
        )

    point = 4 * row_start + _SW
    piece = np.searchsorted(place_on_column(left_ends), place_on_column(point), side="left") - 1
    meets_bottom = bottom_start // 4 > row_start
    start = np.where(meets_bottom, bottom_start, left_starts[piece])
    return list(zip(start.tolist(), np.where(meets_bottom, start, point).tolist(), strict=True))
