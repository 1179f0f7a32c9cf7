"""Listing of a phantom's scans: read from a CSV, or from the names of a source's images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from gi2nnunet.core.errors import MOST_SIDE, InputError, Problem, raise_problems, shorten
from gi2nnunet.formats.ids import ORGANS, SLICE_ID, parse_image_path, scan_order, slice_id
from gi2nnunet.formats.tables import MaskTable, read_csv, to_numbers
from gi2nnunet.source.archive import Archive
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.scan import Part


@dataclass(frozen=True, kw_only=True)
class ListedScan:
    """One scan to make.

    Attributes
    ----------
    scan_id
        Its id.
    part
        Whether it lies in ``train/`` or ``test/``.
    geometry
        Its size.
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
    scan_id: str
    number: int
    part: Part
    size: tuple[int, int, float, float]  # width, height, spacing y, spacing x


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
        For a file that is no listing, a scan whose slices differ in size, a gap in the slice
        numbers, or a slice listed twice.
    """
    is_table = sizes.is_file() and ".csv" in (suffix.lower() for suffix in sizes.suffixes)
    slices = _read_table(sizes) if is_table else _read_names(sizes)
    problems: list[Problem] = []
    scans: dict[str, list[_ListedSlice]] = {}
    for one in slices:
        scans.setdefault(one.scan_id, []).append(one)
    listing = {
        scan_id: _join_slices(scan_id, sizes, scans[scan_id], problems)
        for scan_id in sorted(scans, key=scan_order)
    }
    raise_problems(problems, remedy=f"Correct {sizes}.")
    if not listing:
        raise InputError(
            f"{sizes}: lists no slice. Give a CSV with the columns id, width, height, px_w and "
            "px_h, or a folder or zip with the competition's images."
        )
    return listing


def _read_table(path: Path) -> Iterator[_ListedSlice]:
    frame = read_csv(path)
    needed = ["id", "width", "height", "px_w", "px_h"]
    if not set(needed) <= set(frame):
        raise InputError(
            f"{path}: found the columns {shorten(str(list(frame)))}; "
            f"expected {', '.join(needed)}. Add what is missing."
        )
    place = next((name for name in ("path", "relpath") if name in frame), None)
    places = frame[place] if place else [""] * len(frame["id"])
    numbers = {name: to_numbers(frame[name]).tolist() for name in needed[1:]}
    problems: list[Problem] = []
    listed: list[_ListedSlice] = []
    columns = [frame["id"], places, *numbers.values()]
    for row, (name, where, width, height, px_w, px_h) in enumerate(zip(*columns, strict=True)):
        label = f"{path}, line {row + 2}"
        match = SLICE_ID.fullmatch(name)
        if match is None:
            problems.append(
                Problem(
                    where=label, found=f"id {name!r}",
                    expected="an id such as case123_day20_slice_0065",
                )
            )  # fmt: skip
            continue
        if (
            not all(0 < value < np.inf for value in (width, height, px_w, px_h))
            or max(width, height) > MOST_SIDE
            or width % 1
            or height % 1
        ):
            problems.append(
                Problem(
                    where=label,
                    found=f"size {width} x {height}, spacing {px_w} x {px_h}",
                    expected=f"whole pixels from 1 to {MOST_SIDE} and a spacing in mm above zero",
                )
            )
            continue
        listed.append(
            _ListedSlice(
                where=label, scan_id=match[1], number=int(match[2]),
                part="test" if "test" in PurePosixPath(where).parts else "train",
                size=(int(width), int(height), float(px_h), float(px_w)),
            )
        )  # fmt: skip
    raise_problems(problems, remedy=f"Correct these rows of {path}.")
    yield from listed


def _read_names(path: Path) -> Iterator[_ListedSlice]:
    for name in Archive(path).names():
        if image := parse_image_path(name):
            yield _ListedSlice(
                where=f"{path}, {name}", scan_id=image.scan_id, number=image.number,
                part="test" if "test" in PurePosixPath(name).parts else "train",
                size=(image.width, image.height, *image.spacing_mm),
            )  # fmt: skip


def _join_slices(
    scan_id: str, sizes: Path, slices: Iterable[_ListedSlice], problems: list[Problem]
) -> ListedScan:
    ordered = sorted(slices, key=lambda one: one.number)
    first = ordered[0]
    numbers = [one.number for one in ordered]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        problems.append(
            Problem(
                where=f"{sizes}, {scan_id}",
                found=f"{len(set(numbers))} slices from {numbers[0]} to {numbers[-1]}, "
                f"{len(numbers) - len(set(numbers))} of them twice",
                expected="every slice of the scan once, without a gap",
            )
        )
    problems += [
        Problem(
            where=one.where,
            found=f"{one.size} in {one.part}/",
            expected=f"{first.size} in {first.part}/, as slice {first.number}",
        )
        for one in ordered
        if (one.size, one.part) != (first.size, first.part)
    ]
    width, height, spacing_y, spacing_x = first.size
    return ListedScan(
        scan_id=scan_id,
        part=first.part,
        geometry=Geometry(
            width=width, height=height, slices=len(numbers), spacing_mm=(spacing_y, spacing_x)
        ),
        first_number=numbers[0],
    )


def match_rows(
    table: MaskTable, listing: Mapping[str, ListedScan], *, labels: Path, sizes: Path
) -> tuple[list[ListedScan], dict[str, tuple[tuple[str, ...], ...]]]:
    """Find the scan of each mask row.

    Parameters
    ----------
    table
        The rows.
    listing
        The scans of :func:`read_listing`.
    labels, sizes
        What to call the two in a message.

    Returns
    -------
    tuple
        The scans that have rows, reduced to the slices that have, and moved to ``train/``; and by
        scan id, for each slice, the RLE texts in the order of
        :data:`~gi2nnunet.formats.ids.ORGANS`.

    Raises
    ------
    InputError
        For rows of an unlisted slice, a slice without a row for each organ, or a gap.
    """
    texts: dict[str, dict[int, dict[int, str]]] = {}
    for scan, number, organ, text in zip(
        table.scan.tolist(), table.number.tolist(), table.organ.tolist(), table.texts, strict=True
    ):
        of_scan = texts.setdefault(table.scan_ids[scan], {})
        of_scan.setdefault(number, {})[organ] = text
    problems: list[Problem] = []
    scans: list[ListedScan] = []
    for scan_id in sorted(texts, key=scan_order):
        numbers = np.array(sorted(texts[scan_id]))
        listed = listing.get(scan_id)
        last = -1 if listed is None else listed.first_number + listed.geometry.slices - 1
        outside = (
            numbers
            if listed is None
            else numbers[(numbers < listed.first_number) | (numbers > last)]
        )
        problems += [
            Problem(
                where=f"{labels}, {slice_id(scan_id, number)}",
                found="rows of a slice whose size is not known",
                expected=f"a size for it in {sizes}",
            )
            for number in outside.tolist()
        ]
        problems += [
            Problem(
                where=f"{labels}, {slice_id(scan_id, number)}",
                found=f"{len(found)} of {len(ORGANS)} rows",
                expected=f"one row for each of {', '.join(ORGANS)}",
            )
            for number, found in sorted(texts[scan_id].items())
            if len(found) != len(ORGANS)
        ]
        if numbers[-1] - numbers[0] + 1 != len(numbers):
            problems.append(
                Problem(
                    where=f"{labels}, {scan_id}",
                    found=f"{len(numbers)} slices from {numbers[0]} to {numbers[-1]}",
                    expected="every slice between, without a gap",
                )
            )
        if listed is not None:
            geometry = Geometry(
                width=listed.geometry.width, height=listed.geometry.height, slices=len(numbers),
                spacing_mm=listed.geometry.spacing_mm,
            )  # fmt: skip
            scans.append(
                ListedScan(
                    scan_id=scan_id, part="train", geometry=geometry, first_number=int(numbers[0])
                )
            )
    raise_problems(problems, remedy=f"Complete {labels} or {sizes}.")
    if not scans:
        raise InputError(f"{labels}: holds no row. Give the rows of a train.csv.")
    return scans, {
        scan_id: tuple(
            tuple(of_slice[organ] for organ in range(len(ORGANS)))
            for _, of_slice in sorted(texts[scan_id].items())
        )
        for scan_id in texts
    }
