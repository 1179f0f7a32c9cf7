"""Listing of a phantom's scans: read from a CSV, or from the names of a source's images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from gi2nnunet.core.errors import MOST_SIDE, InputError, Problem, count, raise_problems, shorten
from gi2nnunet.formats.ids import ORGANS, SLICE_ID, parse_image_path, scan_order, slice_id
from gi2nnunet.formats.tables import MaskTable, ScanRows, group_rows, read_csv, to_numbers
from gi2nnunet.source.archive import Archive
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.scan import Part


@dataclass(frozen=True, kw_only=True)
class ListedScan:
    """One scan to make.

    Attributes
    ----------
    first_number
        The number of its first slice; 1 but for a crop.
    """

    scan_id: str
    part: Part
    geometry: Geometry
    first_number: int


@dataclass(frozen=True, kw_only=True)
class _ListedSlice:
    where: str
    number: int
    size: tuple[int, int, float, float]  # width, height, spacing y, spacing x
    part: Part


def read_listing(sizes: Path) -> dict[str, ListedScan]:
    """Read which scans there are and how large they are.

    Parameters
    ----------
    sizes
        CSV (also gzipped) with the columns id, width, height, px_w and px_h (mm) and perhaps path
        or relpath, one row a slice; or a folder or zip that holds images in the competition's
        layout. No image is opened.

    Returns
    -------
    dict
        The scans by id, in numeric order.

    Raises
    ------
    InputError
        For a file that is not a listing, for slices of a scan that differ in size, for a gap in
        the slice numbers, or for a slice that is listed twice.
    """
    is_table = sizes.is_file() and ".csv" in (suffix.lower() for suffix in sizes.suffixes)
    scans: dict[str, list[_ListedSlice]] = {}
    for scan_id, one in _read_table(sizes) if is_table else _read_names(sizes):
        scans.setdefault(scan_id, []).append(one)
    problems: list[Problem] = []
    listing = {}
    for scan_id in sorted(scans, key=scan_order):
        slices = sorted(scans[scan_id], key=lambda one: one.number)
        problems += _find_contradictions(f"{sizes}, {scan_id}", slices)
        width, height, *spacing = slices[0].size
        geometry = Geometry(
            width=width, height=height, slices=len(slices), spacing_mm=(spacing[0], spacing[1])
        )
        listing[scan_id] = ListedScan(
            scan_id=scan_id, part=slices[0].part, geometry=geometry, first_number=slices[0].number
        )
    raise_problems(problems, remedy=f"Correct {sizes}.")
    if not listing:
        raise InputError(
            f"{sizes}: lists no slice. Give a CSV with the columns id, width, height, px_w and "
            "px_h, or a folder or zip with the competition's images."
        )
    return listing


def _read_table(path: Path) -> Iterator[tuple[str, _ListedSlice]]:
    frame = read_csv(path)
    needed = ["id", "width", "height", "px_w", "px_h"]
    if not set(needed) <= set(frame):
        raise InputError(
            f"{path}: found the columns {shorten(str(list(frame)))}; "
            f"expected {', '.join(needed)}. Add what is missing."
        )
    place = next((name for name in ("path", "relpath") if name in frame), None)
    places = frame[place] if place else [""] * len(frame["id"])
    numbers = [to_numbers(frame[name]).tolist() for name in needed[1:]]
    problems: list[Problem] = []
    listed: list[tuple[str, _ListedSlice]] = []
    for row, (name, where, *size) in enumerate(zip(frame["id"], places, *numbers, strict=True)):
        label, match = f"{path}, line {row + 2}", SLICE_ID.fullmatch(name)
        width, height, px_w, px_h = size
        if match is None:
            found, expected = f"id {name!r}", "an id such as case123_day20_slice_0065"
            problems.append(Problem(where=label, found=found, expected=expected))
        elif not all(0 < value < np.inf for value in size) or not all(
            value <= MOST_SIDE and value % 1 == 0 for value in (width, height)
        ):
            found = f"size {width} x {height}, spacing {px_w} x {px_h}"
            expected = f"whole pixels from 1 to {MOST_SIDE} and a spacing in mm above zero"
            problems.append(Problem(where=label, found=found, expected=expected))
        else:
            one = _ListedSlice(
                where=label, number=int(match[2]), part=_find_part(where),
                size=(int(width), int(height), float(px_h), float(px_w)),
            )  # fmt: skip
            listed.append((match[1], one))
    raise_problems(problems, remedy=f"Correct these rows of {path}.")
    yield from listed


def _read_names(path: Path) -> Iterator[tuple[str, _ListedSlice]]:
    for image in filter(None, map(parse_image_path, Archive(path).names())):
        size = (image.width, image.height, *image.spacing_mm)
        yield image.scan_id, _ListedSlice(
            where=f"{path}, {image.path}", number=image.number, part=_find_part(image.path),
            size=size,
        )  # fmt: skip


def _find_part(path: str) -> Part:
    return "test" if "test" in PurePosixPath(path).parts else "train"


def _find_contradictions(where: str, slices: Sequence[_ListedSlice]) -> Iterator[Problem]:
    """Yield gaps and repeats in a scan's slices, and slices unlike the first one."""
    first, last, distinct = slices[0], slices[-1], {one.number for one in slices}
    if not len(slices) == len(distinct) == last.number - first.number + 1:
        yield Problem(
            where=where,
            found=f"{count(len(distinct), 'slice')} from {first.number} to {last.number}, "
            f"{len(slices) - len(distinct)} of them twice",
            expected="every slice of the scan once, without a gap",
        )
    for one in slices:
        if (one.size, one.part) != (first.size, first.part):
            yield Problem(
                where=one.where,
                found=f"{one.size} in {one.part}/",
                expected=f"{first.size} in {first.part}/, as slice {first.number}",
            )


Texts = tuple[tuple[str, ...], ...]  # for each slice the RLE texts in the order of ORGANS


def match_rows(
    table: MaskTable, listing: Mapping[str, ListedScan], *, masks: Path, sizes: Path
) -> list[tuple[ListedScan, Texts]]:
    """Find the scan of each mask row.

    Parameters
    ----------
    masks, sizes
        What to call the rows and the listing in a message.

    Returns
    -------
    list
        The scans that have rows, in numeric order, reduced to the slices that have, and moved to
        ``train/``; and for each slice the RLE texts in the order of
        :data:`~gi2nnunet.formats.ids.ORGANS`.

    Raises
    ------
    InputError
        For rows of an unlisted slice, a slice without a row for each organ, or a gap.
    """
    problems: list[Problem] = []
    scans: list[tuple[ListedScan, Texts]] = []
    for found in group_rows(table):
        listed = listing.get(found.scan_id)
        problems += _find_incomplete(found, listed, masks=masks, sizes=sizes)
        if listed is not None and not problems:
            geometry = replace(listed.geometry, slices=len(found.numbers))
            scan = replace(listed, part="train", geometry=geometry, first_number=found.numbers[0])
            rows = found.rows.tolist()
            scans.append((scan, tuple(tuple(table.texts[row] for row in each) for each in rows)))
    raise_problems(problems, remedy=f"Complete {masks} or {sizes}.")
    if not scans:
        raise InputError(f"{masks}: holds no row. Give the rows of a train.csv.")
    return scans


def _find_incomplete(
    scan: ScanRows, listed: ListedScan | None, *, masks: Path, sizes: Path
) -> Iterator[Problem]:
    """Yield slices of unknown size, slices without a row for each organ, and gaps."""
    first = listed.first_number if listed else 0
    known = range(first, first + listed.geometry.slices) if listed else range(0)
    numbers = scan.numbers
    for number, rows in zip(numbers, np.sum(scan.rows >= 0, axis=1), strict=True):
        where = f"{masks}, {slice_id(scan.scan_id, number)}"
        if number not in known:
            yield Problem(
                where=where,
                found="rows of a slice of unknown size",
                expected=f"a size for it in {sizes}",
            )
        if rows != len(ORGANS):
            yield Problem(
                where=where,
                found=f"{rows} of {len(ORGANS)} rows",
                expected=f"one row for each of {', '.join(ORGANS)}",
            )
    if numbers[-1] - numbers[0] + 1 != len(numbers):
        yield Problem(
            where=f"{masks}, {scan.scan_id}",
            found=f"{count(len(numbers), 'slice')} from {numbers[0]} to {numbers[-1]}",
            expected="every slice between, without a gap",
        )
