"""Page of a check: what a source holds and its suspects with pictures, as one HTML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np

from gi2nnunet.core.errors import OutputError
from gi2nnunet.core.files import check_place, replace_file
from gi2nnunet.core.workers import Progress, count_cores, ignore
from gi2nnunet.formats.ids import CONTOUR_COLOURS, ORGANS
from gi2nnunet.pages.figures import draw_figures
from gi2nnunet.pages.pictures import View, join_words, take_pictures
from gi2nnunet.pages.template import DASH, PAGE_BEGINS, name_of, render
from gi2nnunet.source.check.check import HEIGHT_BINS, SourceReport
from gi2nnunet.source.check.fit import Placement
from gi2nnunet.source.check.in_scans import describe_placement
from gi2nnunet.source.check.measures import ScanMeasures
from gi2nnunet.source.check.suspects import MEANINGS, Suspect

MOST_CARDS_OF_A_KIND = 15
_MOST_SLICES = 6  # neighbouring suspect slices on one card
_MOST_OTHER_DAYS = 3
_TYPICAL_HEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)
_ORGAN_HEIGHTS = (0.2, 0.5, 0.8)

Geometry = tuple[tuple[int, int, int], tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class WrittenPage:
    """A page: where it is, its size in bytes, and how many suspects it lists without a picture."""

    path: Path
    size: int
    without_pictures: int


def check_page_place(path: Path, *, source: Path) -> Path:
    """Return the file to write; an :class:`OutputError` if it cannot be, or is in the source."""
    there, of_source = path.absolute().resolve(), source.absolute().resolve()
    if there == of_source or of_source in there.parents:
        raise OutputError(
            f"{path}: found a place inside the source {source}; expected one outside it, so that "
            "the source stays as it is. Give another place."
        )
    return check_place(path, begins=PAGE_BEGINS)


def write_check_page(
    found: SourceReport,
    path: Path,
    *,
    show_all: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> WrittenPage:
    """Write the page, over an earlier one; scans that it shows are read again.

    Parameters
    ----------
    show_all
        Take pictures of all suspects, not only of the first of each kind.
    jobs
        How many scans to work on at the same time; by default one for each core.

    Raises
    ------
    InputError
        If a scan can no longer be read.
    OutputError
        If the page cannot be written.
    """
    path = check_page_place(path, source=found.path)
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
    text = render(
        "check.html",
        found=found,
        title=found.path.name or found.path.resolve().name,
        tables=build_tables(found, typical={key: strip.title for key, strip in typical.items()}),
        figures=draw_figures(found),
        cards=cards,
        anchors={suspect: card.anchor for card in cards for suspect in card.suspects},
        meanings=MEANINGS,
        typical=typical,
        bad=bad,
        pictures=pictures,
        organs=ORGANS,
        colours=CONTOUR_COLOURS,
        version=version("gi2nnunet"),
    )
    replace_file(path, text)
    without_pictures = sum(len(card.suspects) for card in cards if not card.strips)
    return WrittenPage(path=path, size=len(text.encode("utf-8")), without_pictures=without_pictures)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as text."""

    label: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


_SIZE = "Width x height x slices"
_TABLES: Mapping[str, tuple[str, Sequence[str]]] = {
    "parts": (
        "Counts", ("Part", "Patients", "Scans", "Slices", "With truth", "Without any mask"),
    ),
    "geometries": (
        "Geometries",
        (_SIZE, "Spacing in mm", "Scans", "Median intensity", "99th percentile", "Greatest",
         "A typical scan"),
    ),
    "prevalence": (
        "Slices that show each organ, by tenth of the height",
        ("Tenth of the height, cranial first", *map(str, range(1, HEIGHT_BINS + 1))),
    ),
    "volumes": ("Volumes in ml", ("Volume in ml", "Scans", "Least", "Median", "Greatest")),
    "overlaps": ("Overlaps", ("Organs", "Pixels in both", "Slices with such pixels")),
    "scans": (
        "Every scan",
        ("Scan", "No.", "Part", _SIZE, "Least intensity", "Median", "99th percentile", "Greatest",
         *(f"{name_of(organ)}, ml" for organ in ORGANS), "Slices without any mask"),
    ),
}  # fmt: skip


def build_tables(found: SourceReport, *, typical: Mapping[Geometry, str]) -> dict[str, Table]:
    """Return every table by name; ``typical`` names a scan of each geometry."""
    prevalence = {name_of(organ): of for organ, of in found.measure_prevalence().items()}
    prevalence["no mask at all"] = found.measure_emptiness()
    rows: dict[str, list[Sequence[str]]] = {
        "parts": [
            (part, *(f"{row[key]:,}" for key in ("patients", "scans", "slices", "labelled_slices")),
             _tell_empty(row["labelled_slices"], row["empty_slices"]))
            for part, row in found.count_parts().items()
        ],
        "geometries": [
            (tell_size(shape), " x ".join(f"{mm:g}" for mm in reversed(spacing)), f"{number:,}",
             *(_tell_range(found, (shape, spacing), at) for at in (1, 2, 3)),
             typical[shape, spacing])
            for shape, spacing, number in found.count_geometries()
        ],
        "prevalence": [
            (name, *(DASH if share is None else f"{share:.0%}" for share in shares))
            for name, shares in prevalence.items()
        ],
        "volumes": [
            (name_of(organ), *(_tell_whole(row) if row else ("0", *DASH * 3)))
            for organ, row in found.measure_volumes().items()
        ],
        "overlaps": [
            (name_of(pair), *_tell_whole(row)) for pair, row in found.count_overlaps().items()
        ],
        "scans": [_tell_scan(index, scan) for index, scan in enumerate(found.scans, 1)],
    }  # fmt: skip
    return {
        name: Table(label=label, heads=heads, rows=rows[name])
        for name, (label, heads) in _TABLES.items()
    }


def tell_size(shape: tuple[int, int, int]) -> str:
    """Return ``(z, y, x)`` as width, height and slices."""
    return " x ".join(map(str, reversed(shape)))


def _tell_whole(values: Sequence[float]) -> list[str]:
    return [f"{value:,.0f}" for value in values]


def _tell_empty(labelled: int, empty: int) -> str:
    return f"{empty:,} ({empty / labelled:.0%})" if labelled else DASH


def _tell_range(found: SourceReport, geometry: Geometry, at: int) -> str:
    values = [s.intensity[at] for s in found.scans if (s.shape, s.spacing_mm) == geometry]
    return f"{min(values):,.0f} to {max(values):,.0f}"


def _tell_scan(index: int, scan: ScanMeasures) -> tuple[str, ...]:
    of_masks = [DASH] * (len(ORGANS) + 1)
    if scan.masks is not None:
        empty = int((~scan.masks.pixels.any(axis=0)).sum())
        of_masks = [*_tell_whole(scan.masks.volume_ml.tolist()), str(empty)]
    size, intensities = tell_size(scan.shape), _tell_whole(scan.intensity)
    return (scan.scan_id, str(index), scan.part, size, *intensities, *of_masks)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture with its caption; ``marked`` if it shows what the suspect is about."""

    view: View
    caption: str
    marked: bool = False


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Pictures side by side, and what they show together."""

    title: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Suspects of one scan, or of some neighbouring slices of it, with their pictures.

    ``anchor`` is its id in the page. It has no strips if too many others of its kind came before.
    """

    scan_id: str
    where: str
    anchor: str
    suspects: tuple[Suspect, ...]
    strips: tuple[Strip, ...]


def plan_cards(found: SourceReport, *, show_all: bool = False) -> tuple[Card, ...]:
    """Return cards, the surest first.

    All suspects about a whole scan share a card, and so do those of each run of slices; a suspect
    about a stretch of slices has its own. Only the first :data:`MOST_CARDS_OF_A_KIND` of each kind
    have pictures, unless ``show_all``.
    """
    typical = find_typical(found)
    groups = [
        suspects
        for _, of_scan in groupby(found.suspects, key=lambda suspect: suspect.scan_id)
        for suspects in _group_slices(list(of_scan))
    ]
    groups.sort(key=lambda group: min(suspect.rank for suspect in group))
    pictured: Counter[str] = Counter()
    anchors: Counter[str] = Counter()
    cards = []
    for suspects in groups:
        first = suspects[0]
        pictured[first.kind] += 1
        shown = show_all or pictured[first.kind] <= MOST_CARDS_OF_A_KIND
        anchor = f"{first.scan_id}-{first.slice_number or 'whole'}"
        anchors[anchor] += 1
        cards.append(
            Card(
                scan_id=first.scan_id,
                where=_tell_where(suspects),
                anchor=anchor if anchors[anchor] == 1 else f"{anchor}-{anchors[anchor]}",
                suspects=tuple(suspects),
                strips=tuple(_show(suspects, found=found, typical=typical)) if shown else (),
            )
        )
    return tuple(cards)


def _group_slices(suspects: Sequence[Suspect]) -> Iterator[list[Suspect]]:
    """Yield the suspects of the whole scan, each stretch, and runs of slices that follow."""
    if whole := [suspect for suspect in suspects if suspect.slice_number is None]:
        yield whole
    yield from ([suspect] for suspect in suspects if suspect.last_slice_number is not None)
    run: list[Suspect] = []
    for suspect in suspects:
        number = suspect.slice_number
        if number is None or suspect.last_slice_number is not None:
            continue
        numbers = _numbers(run)
        if run and number > min(numbers[-1] + 1, numbers[0] + _MOST_SLICES - 1):
            yield run
            run = []
        run.append(suspect)
    if run:
        yield run


def _numbers(suspects: Sequence[Suspect]) -> list[int]:
    """Return the slices that suspects are about, in order."""
    both = [n for s in suspects for n in (s.slice_number, s.exchanged_with) if n is not None]
    return sorted(set(both))


def _tell_where(suspects: Sequence[Suspect]) -> str:
    first, last = suspects[0].slice_number, suspects[0].last_slice_number
    if first is None:
        return "whole scan"
    return _tell_slices(_numbers(suspects)) if last is None else f"slices {first} to {last}"


def _tell_slices(numbers: Sequence[int]) -> str:
    return f"slice{'s' if len(numbers) > 1 else ''} {join_words([str(n) for n in numbers])}"


def _show(
    suspects: Sequence[Suspect], *, found: SourceReport, typical: Mapping[Geometry, str]
) -> Iterator[Strip]:
    """Show the suspects of one card."""
    scans = {scan.scan_id: scan for scan in found.scans}
    scan = scans[suspects[0].scan_id]
    if suspects[0].slice_number is None:
        other = typical.get((scan.shape, scan.spacing_mm), scan.scan_id)
        yield from (strip for suspect in suspects for strip in _show_placed(scan, suspect))
        beside = dict.fromkeys(s.other_scan_id for s in suspects if s.other_scan_id is not None)
        yield from (_show_beside(scan, scans[other_id]) for other_id in beside)
        yield from _show_organs(scan, suspects, found=found, other=scans[other])
        if any(suspect.kind == "day" for suspect in suspects):
            yield from _show_days(scan, found)
    elif suspects[0].last_slice_number is not None:
        yield from _show_stretch(scan, suspects[0], scans=scans)
    else:
        yield from _show_slices(scan, suspects)


def _show_slices(scan: ScanMeasures, suspects: Sequence[Suspect]) -> Iterator[Strip]:
    """Show each organ's masks, or the images, with the slice before and the one after."""
    for organ in (None, *ORGANS):
        numbers = _numbers([suspect for suspect in suspects if suspect.organ == organ])
        if not numbers:
            continue
        at = [number - scan.first_number for number in numbers]
        shown = tuple(range(max(at[0] - 1, 0), min(at[-1] + 2, scan.shape[0])))
        frames = [
            _axial(scan, z, organ=organ, around=shown if organ else (), marked=z in at)
            for z in shown
        ]
        if organ is None:
            frames.append(_cut(scan, numbers))
        what = "Images of" if organ is None else f"{name_of(organ).capitalize()} in"
        yield Strip(title=f"{what} these slices and their neighbours", frames=tuple(frames))


def _show_stretch(
    scan: ScanMeasures, suspect: Suspect, *, scans: Mapping[str, ScanMeasures]
) -> Iterator[Strip]:
    """Show the ends of a stretch with the slices beside it, and a cut through its joints."""
    first, last = suspect.slice_number or 0, suspect.last_slice_number or 0
    middle, end = (first + last) // 2, scan.first_number + scan.shape[0] - 1
    frames = [
        _axial(scan, n - scan.first_number, organ=suspect.organ, marked=first <= n <= last)
        for n in dict.fromkeys((first - 1, first, middle, last, last + 1))
        if scan.first_number <= n <= end
    ]
    jumps = suspect.kind in ("joint", "repeated slices", "no signal")
    frames.append(_cut(scan, sorted({first, last})) if jumps else _front(scan, organ=suspect.organ))
    yield Strip(title="These slices and those beside them", frames=tuple(frames))
    if suspect.kind == "model":
        yield Strip(title="The same slices as predicted", frames=tuple(map(_predict, frames)))
    if suspect.other_scan_id is not None:
        yield _show_beside(scan, scans[suspect.other_scan_id], middle)


def _show_beside(scan: ScanMeasures, other: ScanMeasures, number: int | None = None) -> Strip:
    """Show two scans side by side: slices, and from the front."""
    depth = min(scan.shape[0], other.shape[0])
    if number is None:
        levels = [z for z in _find_levels(scan, None) if z < depth] or [depth // 2]
    else:
        levels = [min(number - scan.first_number, depth - 1)]
    both = (scan, other)
    frames = [_axial(one, z, named=True, marked=one is scan) for z in levels for one in both]
    frames += [_front(one, caption=one.scan_id, marked=one is scan) for one in both]
    return Strip(title=f"{scan.scan_id} and {other.scan_id}", frames=tuple(frames))


def _show_placed(scan: ScanMeasures, suspect: Suspect) -> Iterator[Strip]:
    """Show masks as they are, and where they would fit better, in the same slices."""
    placement = suspect.placement
    if placement is None or scan.masks is None:
        return
    here = np.atleast_1d(_select(scan, suspect.organ).any(axis=0))
    there = here[::-1] if placement.turn == "upside down" else np.roll(here, placement.slices)
    both = here & there
    levels = _spread(np.flatnonzero(both if both.any() else there), _ORGAN_HEIGHTS)
    moved = f"The same slices {describe_placement(placement, scan.spacing_mm)}"
    for title, chosen in (("The masks as they are", None), (moved, placement)):
        frames = [
            _axial(scan, z, organ=suspect.organ, counted=False, placement=chosen, marked=not chosen)
            for z in levels
        ]
        yield Strip(title=title, frames=tuple(frames))


def _show_organs(
    scan: ScanMeasures, suspects: Sequence[Suspect], *, found: SourceReport, other: ScanMeasures
) -> Iterator[Strip]:
    """Show the scan, or the organs that suspects are about, and for comparison another scan."""
    organs: dict[str | None, None] = {}
    if any(
        s.organ is None and not s.other_scan_id and s.placement is None and s.kind != "day"
        for s in suspects
    ):
        organs[None] = None
    organs |= dict.fromkeys(s.organ for s in suspects if s.organ and s.placement is None)
    for organ in organs:
        title = "The scan" if organ is None else name_of(organ).capitalize()
        levels = _find_levels(scan, organ) or _find_usual_levels(scan, organ, found)
        frames = [_axial(scan, z, organ=organ) for z in levels]
        frames.append(_front(scan, organ=organ, marked=organ is None))
        own = map(_predict, tuple(frames))
        if other is not scan:
            caption = f"for comparison: {other.scan_id}"
            frames.append(_front(other, organ=organ, caption=caption))
        yield Strip(title=title, frames=tuple(frames))
        if any(s.kind == "model" and s.organ == organ for s in suspects):
            yield Strip(title=f"{title} as predicted", frames=tuple(own))


def _show_days(scan: ScanMeasures, found: SourceReport) -> Iterator[Strip]:
    """Show a scan beside the patient's nearest other days."""
    days = [day for day in found.scans if day.patient_id == scan.patient_id and day.masks]
    here = [day.scan_id for day in days].index(scan.scan_id)
    near = sorted(enumerate(days), key=lambda day: abs(day[0] - here))
    shown = [day for _, day in near[: 1 + _MOST_OTHER_DAYS]]
    fullest = [_axial(day, _find_fullest(day), named=True, marked=day is scan) for day in shown]
    fronts = [_front(day, caption=day.scan_id, marked=day is scan) for day in shown]
    title = "The slice with most organs, on this and on other days"
    yield Strip(title=title, frames=tuple(fullest))
    yield Strip(title="From the front, on this and on other days", frames=tuple(fronts))


def show_scan(scan: ScanMeasures) -> Strip:
    """Show some slices with masks, or of all if none has any, and the scan from the front."""
    filled = np.flatnonzero(_select(scan, None).any(axis=0))
    levels = _spread(filled if len(filled) else np.arange(scan.shape[0]), _TYPICAL_HEIGHTS)
    frames = [_axial(scan, z) for z in levels]
    return Strip(title=scan.scan_id, frames=(*frames, _front(scan)))


def _axial(
    scan: ScanMeasures, z: int, *, organ: str | None = None, around: tuple[int, ...] = (),
    placement: Placement | None = None, named: bool = False, counted: bool = True,
    marked: bool = False,
) -> Frame:  # fmt: skip
    """Show a slice; the caption gives the scan if ``named``, and the organ's pixels if counted."""
    caption = f"{f'{scan.scan_id}, ' if named else ''}slice {scan.first_number + z}"
    if counted and organ is not None and scan.masks is not None:
        caption += f", {scan.masks.pixels[ORGANS.index(organ), z]} pixels"
    view = View(
        scan_id=scan.scan_id, plane="axial", slices=(z,), organ=organ, around=around,
        placement=placement,
    )  # fmt: skip
    return Frame(view=view, caption=caption, marked=marked)


def _front(
    scan: ScanMeasures, *, organ: str | None = None, caption: str = "from the front",
    marked: bool = False,
) -> Frame:  # fmt: skip
    view = View(scan_id=scan.scan_id, plane="coronal", organ=organ)
    return Frame(view=view, caption=caption, marked=marked)


def _cut(scan: ScanMeasures, numbers: Sequence[int]) -> Frame:
    at = tuple(number - scan.first_number for number in numbers)
    caption = f"slices one above the other; yellow: {_tell_slices(numbers)}"
    return Frame(view=View(scan_id=scan.scan_id, plane="joints", slices=at), caption=caption)


def _predict(frame: Frame) -> Frame:
    """Return the same picture with the masks that models predict."""
    caption = f"{frame.caption.split(',')[0]}, predicted"
    return replace(frame, view=replace(frame.view, predicted=True), caption=caption, marked=False)


def find_typical(found: SourceReport) -> dict[Geometry, str]:
    """Return for each geometry the scan that is most like the others: nearest to their medians.

    Scans that are suspect or known to be bad are taken only if all are.
    """
    doubtful = {*found.known_bad, *(suspect.scan_id for suspect in found.suspects)}
    typical = {}
    for shape, spacing, _ in found.count_geometries():
        scans = [s for s in found.scans if (s.shape, s.spacing_mm) == (shape, spacing)]
        labelled = [scan for scan in scans if scan.masks is not None] or scans
        chosen = [scan for scan in labelled if scan.scan_id not in doubtful] or labelled
        values = np.ma.masked_invalid([_features(scan) for scan in chosen])
        away = abs(values - np.ma.median(values, axis=0))  # type: ignore[no-untyped-call]
        scale = away.filled(0).mean(axis=0)
        away = (away / np.where(scale > 0, scale, 1)).filled(3)
        typical[shape, spacing] = chosen[int(away.sum(axis=1).argmin())].scan_id
    return typical


def _features(scan: ScanMeasures) -> list[float]:
    grey = [scan.intensity[1], scan.intensity[2]]
    if scan.masks is None:
        return grey
    volumes = np.where(scan.masks.volume_ml > 0, scan.masks.volume_ml, np.nan)
    return [*grey, *np.log(volumes).tolist(), *scan.masks.centre.ravel().tolist()]


def _select(scan: ScanMeasures, organ: str | None) -> np.ndarray:
    """Return the pixels of an organ, or of all, in each slice; nothing without masks."""
    if scan.masks is None:
        return np.zeros((1, scan.shape[0]), np.int64)
    return scan.masks.pixels if organ is None else scan.masks.pixels[[ORGANS.index(organ)]]


def _spread(slices: np.ndarray, heights: Sequence[float]) -> list[int]:
    at = [int(slices[min(int(len(slices) * height), len(slices) - 1)]) for height in heights]
    return sorted(set(at))


def _find_levels(scan: ScanMeasures, organ: str | None) -> list[int]:
    """Return slices that show an organ, or any organ; none without it."""
    shown = np.flatnonzero(_select(scan, organ).any(axis=0))
    return _spread(shown, _ORGAN_HEIGHTS) if len(shown) else []


def _find_usual_levels(scan: ScanMeasures, organ: str | None, found: SourceReport) -> list[int]:
    """Return slices of a scan at the heights where other scans have the organ; or the middle."""
    if organ is None:
        return [scan.shape[0] // 2]
    heights = np.array([masks.centre[ORGANS.index(organ), 0] for masks in found.masks])
    heights = heights[np.isfinite(heights)]
    middle, most = float(np.median(heights)) if len(heights) else 0.5, scan.shape[0] - 1
    return sorted({min(max(round((middle + off) * most), 0), most) for off in (-0.1, 0, 0.1)})


def _find_fullest(scan: ScanMeasures) -> int:
    """Return the slice that shows most organs, and among these the most pixels."""
    pixels = _select(scan, None)
    return int(np.lexsort((pixels.sum(axis=0), (pixels > 0).sum(axis=0)))[-1])
