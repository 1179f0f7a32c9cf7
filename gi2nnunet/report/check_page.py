"""What a source holds and what in it is worth a look, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gi2nnunet.core.errors import OutputError
from gi2nnunet.core.files import check_place, replace_file
from gi2nnunet.core.progress import Progress, ignore
from gi2nnunet.core.workers import count_cores
from gi2nnunet.formats.ids import CONTOUR_COLOURS, ORGANS
from gi2nnunet.report.check_figures import draw_figures
from gi2nnunet.report.pictures import Picture, View, take_pictures
from gi2nnunet.report.suspect_cards import (
    Card,
    Geometry,
    Strip,
    find_typical,
    plan_cards,
    show_scan,
)
from gi2nnunet.source.check.check import HEIGHT_BINS, SourceReport
from gi2nnunet.source.check.measures import ScanMeasures
from gi2nnunet.source.check.suspects import MEANINGS


@dataclass(frozen=True, kw_only=True)
class WrittenPage:
    """What was written: where, its bytes, and how many suspects it tells without a picture."""

    path: Path
    size: int
    without_pictures: int


def check_page_place(path: Path, *, source: Path) -> None:
    """Refuse a place where the page cannot be written, or would be written into its source.

    Raises
    ------
    OutputError
        Saying which.
    """
    there, of_source = path.absolute().resolve(), source.absolute().resolve()
    if there == of_source or of_source in there.parents:
        raise OutputError(
            f"{path}: found a place inside the source {source}; expected one outside it, so that "
            "the source stays as it is. Give another place."
        )
    check_place(path)


def write_check_page(
    found: SourceReport,
    path: Path,
    *,
    show_all: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> WrittenPage:
    """Write the page; scans that it shows are read again.

    Parameters
    ----------
    found
        What :func:`~gi2nnunet.source.check.check.check_source` found.
    path
        Where; a former page is replaced.
    show_all
        Take pictures of all suspects, not of the first of each kind.
    jobs
        Scans in work at once; by default one a core.
    progress
        Told ``(done, total, what)``.

    Raises
    ------
    InputError
        Where a scan cannot be read any more.
    OutputError
        Where the page cannot be written.
    """
    check_page_place(path, source=found.path)
    cards = plan_cards(found, show_all=show_all)
    scans = {scan.scan_id: scan for scan in found.scans}
    typical = {key: show_scan(scans[scan_id]) for key, scan_id in find_typical(found).items()}
    bad = {scan_id: show_scan(scans[scan_id]) for scan_id in found.known_bad}
    strips = [*typical.values(), *bad.values(), *(s for card in cards for s in card.strips)]
    pictures = take_pictures(
        (frame.view for strip in strips for frame in strip.frames),
        load=found.load,
        predict=found.predict,
        jobs=jobs or count_cores(),
        progress=progress or ignore,
    )
    text = _render(found, cards=cards, typical=typical, bad=bad, pictures=pictures)
    replace_file(path, text)
    return WrittenPage(
        path=path,
        size=len(text.encode("utf-8")),
        without_pictures=sum(len(card.suspects) for card in cards if not card.strips),
    )


def _render(
    found: SourceReport, *, cards: tuple[Card, ...],
    typical: dict[tuple[tuple[int, int, int], tuple[float, float, float]], Strip],
    bad: dict[str, Strip], pictures: dict[View, Picture],
) -> str:  # fmt: skip
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["name"] = name_of
    template = environment.from_string(_read("check.html"))
    return template.render(
        found=found,
        title=found.path.name or found.path.resolve().name,
        tables=build_tables(found, typical={key: strip.title for key, strip in typical.items()}),
        figures={name: Markup(svg) for name, svg in draw_figures(found).items()},  # noqa: S704
        cards=cards,
        anchors={suspect: card.anchor for card in cards for suspect in card.suspects},
        kinds={
            kind: (
                sum(suspect.kind == kind for suspect in found.suspects),
                meaning,
                list(dict.fromkeys(s.remedy for s in found.suspects if s.kind == kind)),
            )
            for kind, meaning in MEANINGS.items()
        },
        suspects=sorted(found.suspects, key=lambda s: s.rank),
        typical=typical,
        bad=bad,
        pictures=pictures,
        organs=ORGANS,
        colours=CONTOUR_COLOURS,
        version=version("gi2nnunet"),
        css=Markup(_read("report.css") + _read("check.css")),  # noqa: S704
    )


def _read(name: str) -> str:
    return (files("gi2nnunet.report") / name).read_text(encoding="utf-8")


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
