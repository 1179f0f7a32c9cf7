"""The tables of the check's page: what the plots show, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gi2nnunet.kaggle import ORGANS
from gi2nnunet.report.cards import Geometry
from gi2nnunet.scan_measures import ScanMeasures
from gi2nnunet.survey import HEIGHT_BINS, SourceReport

_NONE = "–"  # noqa: RUF001


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as text: what it is called, its columns, its rows."""

    label: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def name_of(organ: str) -> str:
    """Return an organ, or a pair of them, as a reader calls it."""
    return organ.replace("_", " ").replace("+", " with ")


def build_tables(found: SourceReport, *, typical: Mapping[Geometry, str]) -> dict[str, Table]:
    """Return every table by name.

    Parameters
    ----------
    found
        What was measured.
    typical
        A scan of each geometry.
    """
    return {
        "parts": Table(
            label="Counts",
            heads=("Part", "Patients", "Scans", "Slices", "With truth", "Without any mask"),
            rows=[
                (
                    part, *(f"{row[key]:,}" for key in ("patients", "scans", "slices")),
                    *_tell_empty(row["labelled_slices"], row["empty_slices"]),
                )
                for part, row in found.count_parts().items()
            ],
        ),
        "geometries": Table(
            label="Geometries",
            heads=("Width x height x slices", "Spacing in mm", "Scans", "Median intensity",
                   "99th percentile", "Greatest", "A typical scan"),
            rows=[
                (
                    tell_size(shape), " x ".join(f"{mm:g}" for mm in reversed(spacing)),
                    f"{number:,}",
                    *(_tell_range(found, (shape, spacing), at) for at in (1, 2, 3)),
                    typical[shape, spacing],
                )
                for shape, spacing, number in found.count_geometries()
            ],
        ),
        "prevalence": Table(
            label="Slices that show each organ, by tenth of the height",
            heads=("Tenth of the height, cranial first", *map(str, range(1, HEIGHT_BINS + 1))),
            rows=[
                (name, *(_NONE if share is None else f"{share:.0%}" for share in shares))
                for name, shares in (
                    *((name_of(organ), of) for organ, of in found.measure_prevalence().items()),
                    ("no mask at all", found.measure_emptiness()),
                )
            ],
        ),
        "volumes": Table(
            label="Volumes in ml",
            heads=("Volume in ml", "Scans", "Least", "Median", "Greatest"),
            rows=[
                (name_of(organ), *(f"{value:,.0f}" for value in row or (0,)),
                 *([] if row else _NONE * 3))
                for organ, row in found.measure_volumes().items()
            ],
        ),
        "overlaps": Table(
            label="Overlaps",
            heads=("Organs", "Pixels in both", "Slices with such pixels"),
            rows=[
                (name_of(pair), *(f"{number:,}" for number in row))
                for pair, row in found.count_overlaps().items()
            ],
        ),
        "scans": Table(
            label="Every scan",
            heads=("Scan", "No.", "Part", "Width x height x slices", "Least intensity", "Median",
                   "99th percentile", "Greatest", *(f"{name_of(o)}, ml" for o in ORGANS),
                   "Slices without any mask"),
            rows=[_tell_scan(index, scan) for index, scan in enumerate(found.scans, 1)],
        ),
    }  # fmt: skip


def tell_size(shape: tuple[int, int, int]) -> str:
    """Return ``(z, y, x)`` as width, height and slices."""
    return " x ".join(map(str, reversed(shape)))


def _tell_empty(labelled: int, empty: int) -> tuple[str, str]:
    if not labelled:
        return "0", _NONE
    return f"{labelled:,}", f"{empty:,} ({empty / labelled:.0%})"


def _tell_range(found: SourceReport, geometry: Geometry, at: int) -> str:
    values = [s.intensity[at] for s in found.scans if (s.shape, s.spacing_mm) == geometry]
    return f"{min(values):,.0f} to {max(values):,.0f}"


def _tell_scan(index: int, scan: ScanMeasures) -> tuple[str, ...]:
    of_masks = [_NONE] * (len(ORGANS) + 1)
    if scan.masks is not None:
        volumes = [f"{volume:,.0f}" for volume in scan.masks.volume_ml.tolist()]
        of_masks = [*volumes, str(int((~scan.masks.pixels.any(axis=0)).sum()))]
    intensities = [f"{value:,.0f}" for value in scan.intensity]
    return (scan.scan_id, str(index), scan.part, tell_size(scan.shape), *intensities, *of_masks)
