"""RTSTRUCT files read: contours of any program as masks on the slices of a DICOM series.

A voxel belongs to a contour if its centre is inside it or on its line. Several contours of a
structure on one slice are even-odd, so that a contour inside another is a hole; a hole may also be
joined to its outline by a slit. A contour lies on the slice that it refers to; without a reference,
on the slice with the same position along the normal. Whatever does not fit the series is refused
with all that was found.

Nothing here is shared with :mod:`~gi2nnunet.formats.rtstruct`, which writes such files.

References
----------
https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.8.8.6.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, raise_problems
from gi2nnunet.formats.dicom_series import Series, be_discreet, read_dicom
from gi2nnunet.formats.rle import run_pixels
from gi2nnunet.formats.structures import (
    OrganMasks,
    find_other_frame,
    find_other_series,
    list_structures,
    match_names,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_ON_LINE_PIXELS = 0.01
_OUTSIDE_PIXELS = 0.5 + _ON_LINE_PIXELS  # beyond the centre of the outermost pixels
_NEAR = 0.1  # of the distance to the next slice
_CONTOUR_DATA = 0x30060050

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Contours:
    """Contours of one structure.

    Attributes
    ----------
    points_mm
        ``(points, 3)`` float64 in LPS mm.
    counts
        ``(contours,)`` int64: points of each contour.
    slice_index
        ``(contours,)`` int64: the slice that each refers to, or -1.
    numbers
        ``(contours,)`` int64: place of each in the file, from 1.
    """

    points_mm: Floats
    counts: Indices
    slice_index: Indices
    numbers: Indices


@be_discreet()
def read_rtstruct(
    path: Path | BinaryIO,
    *,
    series: Series,
    names: Mapping[str, str] | None = None,
    shown_as: str = "",
) -> OrganMasks:
    """Read the masks of the organs.

    Parameters
    ----------
    path
        The file.
    series
        The images that its contours were drawn on.
    names
        Name of an organ's structure where it is not one of the usual ones; see
        :func:`~gi2nnunet.formats.structures.match_names`.
    shown_as
        What messages call the file. By default the last digits of its instance UID, because paths
        often hold a patient's name.

    Returns
    -------
    OrganMasks
        A mask for each organ that has a structure; all False for a structure without contours.

    Raises
    ------
    InputError
        If the file cannot be read or is not an RTSTRUCT; belongs to another series or frame of
        reference; has no structure for any organ, or two for one; or if a contour is open, has one
        point, lies between slices or off the image, or crosses itself. All problems are listed.
    """
    dataset = _open(path, shown_as or "the RTSTRUCT file")
    where = shown_as or f"RTSTRUCT ...{str(dataset.get('SOPInstanceUID', '?'))[-6:]}"
    other = find_other_series(dataset, series, where, what="structures")
    raise_problems(other, remedy=_OTHER_FILE)
    rois = list(dataset.get("StructureSetROISequence") or [])
    roi_names, _ = list_structures(dataset)
    match = match_names(roi_names, where=where, given=names)

    problems: list[Problem] = []
    masks = {}
    for organ, index in match.of_organ.items():
        at = f"{where}, structure {roi_names[index]!r}"
        problems += find_other_frame(rois[index].get("ReferencedFrameOfReferenceUID"), series, at)
        number = rois[index].get("ROINumber")
        items = [
            item
            for item in dataset.get("ROIContourSequence") or []
            if item.get("ReferencedROINumber") == number
        ]
        if len(items) > 1 or [roi.get("ROINumber") for roi in rois].count(number) > 1:
            problems.append(
                Problem(where=at, found=f"its number {number} twice", expected="its own number")
            )
        contours = _read_contours(items[0] if items else None, series, at, problems)
        masks[organ] = _draw(contours, series, at, problems)
    problems += _find_lost_contours(dataset, where)
    raise_problems(problems, remedy=_OTHER_FILE)
    return OrganMasks(
        masks=masks,
        names={organ: roi_names[index] for organ, index in match.of_organ.items()},
        unmatched=match.unmatched,
    )


_OTHER_FILE = (
    "Give the RTSTRUCT that was drawn on this series, or correct it in the program that made it."
)


def _open(path: Path | BinaryIO, shown_as: str) -> Dataset:
    from pydicom.uid import RTStructureSetStorage

    dataset = read_dicom(path, shown_as=shown_as)
    found = dataset.get("SOPClassUID")
    if found != RTStructureSetStorage:
        raise InputError(
            f"{shown_as}: found a file of the kind {getattr(found, 'name', found)}; expected an RT "
            "Structure Set. Give another file."
        )
    if "ROIContourSequence" not in dataset:
        raise InputError(
            f"{shown_as}: found no ROIContourSequence; expected one, even without contours. The "
            "file may end early: copy it again from where it came from."
        )
    return dataset


def _find_lost_contours(dataset: Dataset, where: str) -> Iterator[Problem]:
    """Find contours of a number that no structure has, while a structure has no contours."""
    numbers = {roi.get("ROINumber") for roi in dataset.get("StructureSetROISequence") or []}
    items = dataset.get("ROIContourSequence") or []
    drawn = {item.get("ReferencedROINumber") for item in items if "ContourSequence" in item}
    if drawn - numbers and numbers - drawn:
        yield Problem(
            where=where,
            found=f"contours of the structures number {', '.join(map(str, drawn - numbers))}",
            expected=f"of those that it lists, {', '.join(map(str, sorted(numbers, key=str)))}",
        )


def _read_contours(
    item: Dataset | None, series: Series, where: str, problems: list[Problem]
) -> _Contours:
    """Read the points of a structure; contours that are no closed polygons become problems."""
    frames = series.frame_numbers or (None,) * len(series.sop_instance_uids)
    slices = {
        key: index for index, key in enumerate(zip(series.sop_instance_uids, frames, strict=True))
    }
    points, counts, indices, numbers = [], [], [], []
    sequence = (item.get("ContourSequence") if item is not None else None) or []
    for number, contour in enumerate(sequence, start=1):
        try:
            values = _read_numbers(contour)
            index = _find_slice(contour, slices, multi_frame=series.frame_numbers is not None)
        except ValueError as error:
            found, expected = error.args
            problems.append(
                Problem(where=f"{where}, contour {number}", found=found, expected=expected)
            )
            continue
        points.append(values)
        counts.append(len(values) // 3)
        indices.append(index)
        numbers.append(number)
    return _Contours(
        points_mm=np.concatenate([*points, np.zeros(0)]).reshape(-1, 3),
        counts=np.array(counts, np.int64),
        slice_index=np.array(indices, np.int64),
        numbers=np.array(numbers, np.int64),
    )


def _read_numbers(contour: Dataset) -> Floats:
    """Return the coordinates of a closed contour; ValueError(found, expected) for another one."""
    kind = str(contour.get("ContourGeometricType", ""))
    if kind not in _CLOSED and kind != "POINT":
        raise ValueError(f"the type {kind or 'none'}", "CLOSED_PLANAR")
    # The bytes as they are in the file: pydicom's own numbers take many times as long.
    element = contour.get_item(_CONTOUR_DATA) if _CONTOUR_DATA in contour else None
    data = getattr(element, "value", None) or b""
    try:
        words = data.split(b"\\") if isinstance(data, bytes) else data
        values = np.array(list(map(float, words)) if data else [], np.float64)
    except ValueError:
        raise ValueError("coordinates that are not numbers", "three numbers a point") from None
    stated = contour.get("NumberOfContourPoints")
    if len(values) % 3 or not np.isfinite(values).all() or stated not in (None, len(values) // 3):
        raise ValueError(
            f"{len(values)} coordinates for {stated} points", "three finite numbers a point"
        )
    if len(values) < 6:
        raise ValueError(
            "a contour of one point" if len(values) else "no points", "a closed line around an area"
        )
    return values


def _find_slice(
    contour: Dataset, slices: Mapping[tuple[str, int | None], int], *, multi_frame: bool
) -> int:
    """Return the slice that a contour refers to, -1 for none; ValueError(found, expected)."""
    images = contour.get("ContourImageSequence")
    if not images:
        return -1
    uid = str(images[0].get("ReferencedSOPInstanceUID", ""))
    frame = images[0].get("ReferencedFrameNumber")
    if multi_frame and frame is None:
        return -1
    found = slices.get((uid, int(frame) if multi_frame else None))
    if found is None:
        raise ValueError(f"a reference to the image ...{uid[-6:]}", "an image of the series")
    return found


def _draw(
    contours: _Contours, series: Series, where: str, problems: list[Problem]
) -> NDArray[np.bool_]:
    """Return the mask of a structure; contours that do not fit become problems."""
    mask = np.zeros(series.shape, np.bool_)
    if not len(contours.counts):
        return mask
    slice_index, off_plane = _place(contours, series)
    from_slice = contours.points_mm - np.repeat(
        series.positions_mm[slice_index], contours.counts, axis=0
    )
    row_spacing, column_spacing = series.pixel_spacing_mm
    rows = from_slice @ np.array(series.column_direction) / row_spacing
    columns = from_slice @ np.array(series.row_direction) / column_spacing
    outside = np.zeros(len(rows), np.bool_)
    for values, size in ((rows, series.shape[1]), (columns, series.shape[2])):
        outside |= (values < -_OUTSIDE_PIXELS) | (values > size - 1 + _OUTSIDE_PIXELS)
    starts = np.cumsum(contours.counts) - contours.counts
    off_image = np.logical_or.reduceat(outside, starts)

    good = ~off_image & ~off_plane
    of_good = np.repeat(good, contours.counts)
    crossing = np.zeros(len(good), np.bool_)
    crossing[good] = _fill(
        mask, rows[of_good], columns[of_good], contours.counts[good], slice_index[good]
    )
    depth = series.positions_mm @ series.normal
    for bad, found, expected in (
        (off_plane, "points at {0:.2f} mm along the normal", "the plane of a slice, at {1:.2f} mm"),
        (off_image, "points outside the image", "all points on the image"),
        (crossing, "a line that crosses itself", "a line around one area"),
    ):
        for index in np.flatnonzero(bad).tolist():
            lies = float(contours.points_mm[starts[index]] @ series.normal)
            nearest = float(depth[slice_index[index]])
            problems.append(
                Problem(
                    where=f"{where}, contour {contours.numbers[index]}",
                    found=found.format(lies),
                    expected=expected.format(lies, nearest),
                )
            )
    return mask


def _place(contours: _Contours, series: Series) -> tuple[Indices, NDArray[np.bool_]]:
    """Return the slice of each contour, and which contours do not lie on theirs."""
    depth = series.positions_mm @ series.normal
    gaps = np.diff(depth, prepend=-np.inf, append=np.inf)
    gap = np.minimum(gaps[:-1], gaps[1:])
    gap[np.isinf(gap)] = 1.0  # a single slice
    lies = contours.points_mm @ series.normal
    starts = np.cumsum(contours.counts) - contours.counts
    low, high = np.minimum.reduceat(lies, starts), np.maximum.reduceat(lies, starts)
    middle = (low + high) / 2
    after = np.clip(np.searchsorted(depth, middle), 1, max(len(depth) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(depth) - 1)
    nearest = np.where(depth[after] - middle < middle - depth[before], after, before)
    referenced = contours.slice_index >= 0
    index = np.where(referenced, contours.slice_index, nearest)
    # Some programs write the mean distance of slices into the points, but refer to the right slice.
    allowed = np.where(referenced, 0.5, _NEAR) * gap[index]
    off = (np.abs(middle - depth[index]) > allowed) | (high - low > _NEAR * gap[index])
    return index, off


def _fill(
    mask: NDArray[np.bool_], rows: Floats, columns: Floats, counts: Indices, slice_index: Indices
) -> NDArray[np.bool_]:
    """Fill polygons, even-odd on each slice, lines included.

    Parameters
    ----------
    mask
        ``(slices, rows, columns)`` bool, filled in place.
    rows, columns
        ``(points,)`` float64 in pixels, within the image.
    counts, slice_index
        ``(polygons,)`` int64: points and slice of each polygon.

    Returns
    -------
    numpy.ndarray
        ``(polygons,)`` bool: whether a polygon's line crosses itself, around a voxel's centre at
        least: then its winding number is neither 0 nor always the same there.
    """
    if not len(counts):
        return np.zeros(0, np.bool_)
    height, width = mask.shape[1:]
    flat = mask.reshape(-1)
    polygon = np.repeat(np.arange(len(counts)), counts)
    rows, columns = _snap(rows), _snap(columns)
    following = np.arange(1, len(rows) + 1)
    ends = np.cumsum(counts)
    following[ends - 1] = ends - counts
    next_rows, next_columns = rows[following], columns[following]
    line_of = slice_index[polygon] * height

    # Where the edges cross the rows of voxel centres; the lower end of an edge is not counted.
    first = np.ceil(np.minimum(rows, next_rows)).astype(np.int64)
    crossed = np.ceil(np.maximum(rows, next_rows)).astype(np.int64) - first
    edge = np.repeat(np.arange(len(rows)), crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed - first, crossed)
    slope = (next_columns[edge] - columns[edge]) / (next_rows[edge] - rows[edge])
    column = columns[edge] + (row - rows[edge]) * slope
    line = line_of[edge] + row

    order = np.lexsort((column, line))
    enter, leave = order[0::2], order[1::2]
    _fill_runs(flat, line[enter] * width, column[enter], column[leave], width)

    # Lines along a row of centres, and points on a centre, are on the line without crossing it.
    level = np.flatnonzero((rows == next_rows) & (rows == np.rint(rows)))
    low = np.minimum(columns[level], next_columns[level])
    high = np.maximum(columns[level], next_columns[level])
    base = (line_of[level] + rows[level].astype(np.int64)) * width
    _fill_runs(flat, base, low, high, width)
    point = np.flatnonzero(rows == np.rint(rows))
    base = (line_of[point] + rows[point].astype(np.int64)) * width
    _fill_runs(flat, base, columns[point], columns[point], width)

    direction = np.sign(next_rows - rows)[edge]
    return _find_crossing(column, row, direction, polygon[edge], len(counts))


def _find_crossing(
    column: Floats, row: Indices, direction: Floats, of_polygon: Indices, n_polygons: int
) -> NDArray[np.bool_]:
    """Return which polygons cross themselves, from where their edges cross rows of centres."""
    order = np.lexsort((column, row, of_polygon))
    winding = np.cumsum(direction[order])
    column, of_polygon = column[order], of_polygon[order]
    around_centre = np.ceil(column[:-1]) <= np.floor(column[1:])
    around_centre &= np.diff(column) > _ON_LINE_PIXELS
    counted, of_polygon = winding[:-1][around_centre], of_polygon[:-1][around_centre]
    right = np.bincount(of_polygon[counted > 0], minlength=n_polygons) > 0
    left = np.bincount(of_polygon[counted < 0], minlength=n_polygons) > 0
    twice = np.bincount(of_polygon[np.abs(counted) > 1], minlength=n_polygons) > 0
    crossing: NDArray[np.bool_] = (right & left) | twice
    return crossing


def _snap(values: Floats) -> Floats:
    """Return values with those next to a whole number on it."""
    whole = np.rint(values)
    return np.where(np.abs(values - whole) < _ON_LINE_PIXELS, whole, values)


def _fill_runs(
    flat: NDArray[np.bool_], base: Indices, low: Floats, high: Floats, width: int
) -> None:
    """Set the voxels from ``low`` to ``high``, ends included, of lines that begin at ``base``."""
    first = np.maximum(np.ceil(low - _ON_LINE_PIXELS).astype(np.int64), 0)
    last = np.minimum(np.floor(high + _ON_LINE_PIXELS).astype(np.int64), width - 1)
    lengths = np.maximum(last - first + 1, 0)
    flat[run_pixels(base + first, lengths)] = True
