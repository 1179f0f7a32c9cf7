"""Page of a comparison: the better one, by patient, organ, scan and slice, as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from gi2nnunet.core.errors import raise_problems
from gi2nnunet.core.files import check_place, replace_file
from gi2nnunet.core.workers import Progress, ignore
from gi2nnunet.formats.ids import CONTOUR_COLOURS
from gi2nnunet.formats.labels import LabelMap
from gi2nnunet.formats.tables import MaskTable, decode_table, group_rows, take_rows
from gi2nnunet.pages.figures import draw_differences, draw_patients
from gi2nnunet.pages.summary import STANDINGS
from gi2nnunet.pages.template import PAGE_BEGINS, format_number, render
from gi2nnunet.pages.viewer import PackedScan, pack_scan
from gi2nnunet.scoring.bootstrap import count_digits, name_quantity
from gi2nnunet.scoring.compare import Comparison
from gi2nnunet.scoring.medical import measure_label_maps, silence_library
from gi2nnunet.scoring.result import ScanScore
from gi2nnunet.source.scan import Scan

MOST_SHOWN = 6
"""Scans that the page shows slices of."""
FEW_PATIENTS = 10
_LAYERS = ("A", "B")
_NOT_RECORDED = (True, "It is not recorded what its models were trained on.")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison, and the masks and images to show it with.

    Attributes
    ----------
    a, b, truth
        The rows that were compared.
    images
        The scans that can be shown, by id; empty without images.
    """

    found: Comparison
    a: MaskTable
    b: MaskTable
    truth: MaskTable
    images: Mapping[str, Scan]


def write_compare_page(compared: Compared, path: Path, *, progress: Progress | None = None) -> None:
    """Write the page, over an earlier one.

    Raises
    ------
    InputError
        If an image that it shows cannot be read.
    OutputError
        If the page cannot be written.
    """
    path = check_place(path, begins=PAGE_BEGINS)
    found = compared.found
    images = choose_images(compared.images, compared.truth)
    shown = tuple(_pack_scans(compared, images, progress=progress or ignore))
    changes = {scan.scan_id: scan.change for scan in found.scans}
    text = render(
        "compare.html",
        found=found,
        letters=_LAYERS,
        truth="/".join(Path(found.truth).parts[-2:]),
        quantities={name: name_quantity(name) for name in found.differences},
        digits={name: f".{count_digits(name)}f" for name in found.differences},
        standings=[STANDINGS.get(side.standing, _NOT_RECORDED) for side in found.sides],
        warnings=list(dict.fromkeys((*found.a.warnings, *found.b.warnings))),
        has_images=bool(images),
        few=found.n_patients < FEW_PATIENTS,
        patients_figure=draw_patients(found),
        differences_figure=draw_differences(found),
        shown=shown,
        viewed={scan.scan_id: index for index, scan in enumerate(shown)},
        labels={s.scan_id: f"B - A {format_number(changes[s.scan_id], '+.3f')}" for s in shown},
        colours=CONTOUR_COLOURS,
        version=version("gi2nnunet"),
    )
    replace_file(path, text)


def _pack_scans(
    compared: Compared, images: Mapping[str, Scan], *, progress: Progress
) -> Iterator[PackedScan]:
    """Pack the scans that changed most, with both predictions, for the viewer."""
    names = [scan.scan_id for scan in compared.found.scans if scan.change]  # NaN is true
    names = [name for name in names if name in images][:MOST_SHOWN]
    tables = [take_rows(table, names) for table in (compared.truth, compared.a, compared.b)]
    by_scan = [
        {scan.scan_id: scan for scan in score.per_scan}
        for score in (compared.found.a, compared.found.b)
    ]
    for done, name in enumerate(names, 1):
        scan = images[name]
        loaded = scan.load()
        raise_problems(
            loaded.problems, remedy="The images changed while they were read: run again."
        )
        truth, *masks = (_decode(table, scan) for table in tables)
        scores = [
            _measure(of[name], pred, truth, spacing_mm=scan.spacing_mm)
            for of, pred in zip(by_scan, masks, strict=True)
        ]
        yield pack_scan(
            name, replace(loaded, label_map=truth),
            predictions=dict(zip(_LAYERS, masks, strict=True)),
            scores=dict(zip(_LAYERS, scores, strict=True)),
        )  # fmt: skip
        progress(done, len(names), "packing scans")


def _measure(
    score: ScanScore,
    pred: LabelMap | None,
    truth: LabelMap | None,
    *,
    spacing_mm: tuple[float, float, float],
) -> ScanScore:
    """Return a scan's score with its measures in mm and ml."""
    if score.measures is not None or pred is None or truth is None:
        return score
    with silence_library():
        return replace(score, measures=measure_label_maps(pred, truth, spacing_mm=spacing_mm))


def _decode(table: MaskTable | None, scan: Scan) -> LabelMap | None:
    """Return a scan's label map ``(z, y, x)``; a slice without rows is empty.

    It is ``None`` if the rows are not of the image.
    """
    rows = take_rows(table, [scan.scan_id]) if table is not None else None
    if rows is None:
        return None
    label_map = np.zeros(scan.shape, np.uint8)
    for _, numbers, planes in decode_table(rows, sizes={scan.scan_id: scan.size}):
        if not set(numbers) <= set(scan.numbers):
            return None
        label_map[[scan.numbers.index(number) for number in numbers]] = planes
    return label_map


def choose_images(images: Mapping[str, Scan], truth: MaskTable) -> dict[str, Scan]:
    """Return the scans that are in the truth, without those of another image size than it names."""
    chosen = {}
    for rows in group_rows(truth):
        scan, row = images.get(rows.scan_id), int(rows.rows.max())
        sizes = [] if truth.height is None or truth.width is None else [truth.height, truth.width]
        if scan is not None and all(
            int(side[row]) == of_scan for side, of_scan in zip(sizes, scan.size, strict=False)
        ):
            chosen[rows.scan_id] = scan
    return chosen
