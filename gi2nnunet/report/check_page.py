"""Page of a check: what a source holds and its suspects with pictures, as one HTML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gi2nnunet.core.errors import OutputError
from gi2nnunet.core.files import check_place, replace_file
from gi2nnunet.core.workers import Progress, count_cores, ignore
from gi2nnunet.formats.ids import CONTOUR_COLOURS, ORGANS
from gi2nnunet.report.figures import draw_figures
from gi2nnunet.report.pictures import Picture, View, join_words, take_pictures
from gi2nnunet.source.check.check import HEIGHT_BINS, SourceReport
from gi2nnunet.source.check.in_scans import describe_placement
from gi2nnunet.source.check.measures import ScanMeasures
from gi2nnunet.source.check.suspects import MEANINGS, Suspect


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


MOST_CARDS_OF_A_KIND = 15
_MOST_SLICES = 6  # suspect ones that follow each other on one card
_MOST_OTHER_DAYS = 3
_TYPICAL_HEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)
_ORGAN_HEIGHTS = (0.2, 0.5, 0.8)

Geometry = tuple[tuple[int, int, int], tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture with what stands under it; ``marked`` where it is what the suspect is about."""

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
    """What is told and shown of one scan, or of some slices of it that follow each other.

    Attributes
    ----------
    scan_id, where
        Of what, in words.
    anchor
        Its name in the page.
    suspects
        What is told of it.
    strips
        What is shown; empty where too many others of its kind came before.
    """

    scan_id: str
    where: str
    anchor: str
    suspects: tuple[Suspect, ...]
    strips: tuple[Strip, ...]


def plan_cards(found: SourceReport, *, show_all: bool = False) -> tuple[Card, ...]:
    """Return cards, the surest first.

    All suspects of a scan as a whole share one, those of each run of slices, and each that is about
    a stretch of slices has its own.

    Parameters
    ----------
    found
        What was measured.
    show_all
        Picture all, not only the first :data:`MOST_CARDS_OF_A_KIND` of each kind.
    """
    scans = {scan.scan_id: scan for scan in found.scans}
    typical = find_typical(found)
    groups = [
        (scan_id, suspects)
        for scan_id, of_scan in groupby(found.suspects, key=lambda suspect: suspect.scan_id)
        for suspects in _group_slices(list(of_scan))
    ]
    groups.sort(key=lambda group: min(s.rank for s in group[1]))
    pictured: Counter[str] = Counter()
    anchors: Counter[str] = Counter()
    cards = []
    for scan_id, suspects in groups:
        kind, number = suspects[0].kind, suspects[0].slice_number
        pictured[kind] += 1
        scan = scans[scan_id]
        if not show_all and pictured[kind] > MOST_CARDS_OF_A_KIND:
            strips: tuple[Strip, ...] = ()
        elif number is None:
            strips = tuple(_show_whole(scan, suspects, found=found, typical=typical))
        elif suspects[0].last_slice_number is not None:
            strips = tuple(_show_stretch(scan, suspects[0], scans=scans))
        else:
            strips = tuple(_show_slices(scan, suspects))
        anchor = f"{scan_id}-{number or 'whole'}"
        anchors[anchor] += 1
        cards.append(
            Card(
                scan_id=scan_id,
                where=_tell_where(suspects),
                anchor=anchor if anchors[anchor] == 1 else f"{anchor}-{anchors[anchor]}",
                suspects=tuple(suspects),
                strips=strips,
            )
        )
    return tuple(cards)


def _group_slices(suspects: Sequence[Suspect]) -> Iterator[list[Suspect]]:
    """Yield the suspects of the whole scan, each stretch, and runs of slices that follow."""
    whole = [suspect for suspect in suspects if suspect.slice_number is None]
    if whole:
        yield whole
    yield from ([suspect] for suspect in suspects if suspect.last_slice_number is not None)
    run: list[Suspect] = []
    for suspect in suspects:
        if suspect.slice_number is None or suspect.last_slice_number is not None:
            continue
        numbers = _numbers(run)
        if run and not (
            suspect.slice_number <= numbers[-1] + 1
            and suspect.slice_number < numbers[0] + _MOST_SLICES
        ):
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
    if last is not None:
        return f"slices {first} to {last}"
    return _tell_slices(_numbers(suspects))


def _tell_slices(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"slice {numbers[0]}"
    return f"slices {join_words([str(number) for number in numbers])}"


def _show_slices(scan: ScanMeasures, suspects: Sequence[Suspect]) -> Iterator[Strip]:
    """Show each organ's masks, or the images, with the slice before and the one after."""
    for organ in (None, *ORGANS):
        numbers = _numbers([suspect for suspect in suspects if suspect.organ == organ])
        if not numbers:
            continue
        index = None if organ is None else ORGANS.index(organ)
        last = scan.first_number + scan.shape[0] - 1
        shown = range(max(numbers[0] - 1, scan.first_number), min(numbers[-1] + 1, last) + 1)
        around = tuple(number - scan.first_number for number in shown)
        frames = [
            Frame(
                view=View(
                    scan_id=scan.scan_id, plane="axial", slices=(z,), organ=index,
                    around=around if organ else (),
                ),
                caption=f"slice {number}{_tell_pixels(scan, index, z)}",
                marked=number in numbers,
            )
            for number, z in zip(shown, around, strict=True)
        ]  # fmt: skip
        if organ is None:
            at = tuple(number - scan.first_number for number in numbers)
            view = View(scan_id=scan.scan_id, plane="joints", slices=at)
            caption = f"slices one above the other; yellow: {_tell_slices(numbers)}"
            frames.append(Frame(view=view, caption=caption))
            yield Strip(title="Images of these slices and their neighbours", frames=tuple(frames))
        else:
            title = f"{_name(organ).capitalize()} in these slices and their neighbours"
            yield Strip(title=title, frames=tuple(frames))


def _tell_pixels(scan: ScanMeasures, organ: int | None, z: int) -> str:
    if organ is None or scan.masks is None:
        return ""
    return f", {scan.masks.pixels[organ, z]} pixels"


def _show_stretch(
    scan: ScanMeasures, suspect: Suspect, *, scans: Mapping[str, ScanMeasures]
) -> Iterator[Strip]:
    """Show the ends of a stretch with the slices beside it, and a cut through its joints."""
    first, last = suspect.slice_number or 0, suspect.last_slice_number or 0
    end = scan.first_number + scan.shape[0] - 1
    numbers = [first - 1, first, (first + last) // 2, last, last + 1]
    shown = [n for n in dict.fromkeys(numbers) if scan.first_number <= n <= end]
    index = None if suspect.organ is None else ORGANS.index(suspect.organ)
    frames = [
        Frame(
            view=View(scan_id=scan.scan_id, plane="axial", slices=(n - scan.first_number,),
                      organ=index),
            caption=f"slice {n}{_tell_pixels(scan, index, n - scan.first_number)}",
            marked=first <= n <= last,
        )
        for n in shown
    ]  # fmt: skip
    if suspect.kind in ("joint", "repeated slices", "no signal"):
        ends = tuple(sorted({first - scan.first_number, last - scan.first_number}))
        view = View(scan_id=scan.scan_id, plane="joints", slices=ends)
        frames.append(Frame(view=view, caption=f"one above the other; yellow: {first} and {last}"))
    else:
        frames.append(_front(scan, organ=index))
    yield Strip(title="These slices and those beside them", frames=tuple(frames))
    if suspect.kind == "model":
        yield Strip(title="The same slices as predicted", frames=tuple(map(_predict, frames)))
    if suspect.other_scan_id is not None:
        yield _show_beside(scan, scans[suspect.other_scan_id], (first + last) // 2)


def _show_beside(scan: ScanMeasures, other: ScanMeasures, number: int | None = None) -> Strip:
    """Show two scans side by side: slices, and from the front."""
    depth = min(scan.shape[0], other.shape[0])
    if number is None:
        levels = [z for z in _find_levels(scan, None) if z < depth] or [depth // 2]
    else:
        levels = [min(number - scan.first_number, depth - 1)]
    frames = [
        Frame(
            view=View(scan_id=one.scan_id, plane="axial", slices=(z,)),
            caption=f"{one.scan_id}, slice {one.first_number + z}",
            marked=one is scan,
        )
        for z in levels
        for one in (scan, other)
    ]
    frames += [_front(one, caption=one.scan_id, marked=one is scan) for one in (scan, other)]
    return Strip(title=f"{scan.scan_id} and {other.scan_id}", frames=tuple(frames))


def _show_placed(scan: ScanMeasures, suspect: Suspect) -> Iterator[Strip]:
    """Show masks as they are, and where they would fit better, in the same slices."""
    placement = suspect.placement
    if placement is None or scan.masks is None:
        return
    index = None if suspect.organ is None else ORGANS.index(suspect.organ)
    pixels = scan.masks.pixels if index is None else scan.masks.pixels[index : index + 1]
    here = np.atleast_1d(pixels.any(axis=0))
    there = here[::-1] if placement.turn == "upside down" else np.roll(here, placement.slices)
    levels = _spread(np.flatnonzero(here & there if (here & there).any() else there),
                     _ORGAN_HEIGHTS)  # fmt: skip
    for title, chosen in (
        ("The masks as they are", None),
        (f"The same slices {describe_placement(placement, scan.spacing_mm)}", placement),
    ):
        yield Strip(
            title=title,
            frames=tuple(
                Frame(
                    view=View(scan_id=scan.scan_id, plane="axial", slices=(z,), organ=index,
                              placement=chosen),
                    caption=f"slice {scan.first_number + z}",
                    marked=chosen is None,
                )
                for z in levels
            ),
        )  # fmt: skip


def _show_whole(
    scan: ScanMeasures, suspects: Sequence[Suspect], *, found: SourceReport,
    typical: dict[Geometry, str],
) -> Iterator[Strip]:  # fmt: skip
    scans = {other.scan_id: other for other in found.scans}
    other = typical.get((scan.shape, scan.spacing_mm))
    for suspect in suspects:
        yield from _show_placed(scan, suspect)
    beside = dict.fromkeys(s.other_scan_id for s in suspects if s.other_scan_id is not None)
    for other_id in beside:
        yield _show_beside(scan, scans[other_id])
    if any(s.organ is None and not s.other_scan_id and s.placement is None and s.kind != "day"
           for s in suspects):  # fmt: skip
        levels = _find_levels(scan, None) or [scan.shape[0] // 2]
        frames = [*_slices(scan, levels), _front(scan, marked=True)]
        if other and other != scan.scan_id:
            frames.append(_front(scans[other], caption=f"for comparison: {other}"))
        yield Strip(title="The scan", frames=tuple(frames))
    alone = (s.organ for s in suspects if s.organ and s.placement is None)
    for organ in dict.fromkeys(alone):
        index = ORGANS.index(organ)
        levels = _find_levels(scan, index)
        if not levels:
            levels = _find_usual_levels(scan, index, found)
        frames = [*_slices(scan, levels, organ=index), _front(scan, organ=index)]
        if other and other != scan.scan_id:
            frames.append(_front(scans[other], organ=index, caption=f"for comparison: {other}"))
        yield Strip(title=_name(organ).capitalize(), frames=tuple(frames))
        if any(s.kind == "model" and s.organ == organ for s in suspects):
            own = [_predict(frame) for frame in frames if frame.view.scan_id == scan.scan_id]
            title = f"{_name(organ).capitalize()} as predicted"
            yield Strip(title=title, frames=tuple(own))
    if any(suspect.kind == "day" for suspect in suspects):
        days = [day for day in found.scans if day.patient_id == scan.patient_id and day.masks]
        here = [day.scan_id for day in days].index(scan.scan_id)
        near = sorted(range(len(days)), key=lambda at: abs(at - here))
        shown = [days[at] for at in near[: 1 + _MOST_OTHER_DAYS]]
        fullest = [
            Frame(
                view=View(scan_id=day.scan_id, plane="axial", slices=(_find_fullest(day),)),
                caption=f"{day.scan_id}, slice {day.first_number + _find_fullest(day)}",
                marked=day is scan,
            )
            for day in shown
        ]
        fronts = [_front(day, caption=day.scan_id, marked=day is scan) for day in shown]
        yield Strip(title="The slice with most organs, on this and on other days",
                    frames=tuple(fullest))  # fmt: skip
        yield Strip(title="From the front, on this and on other days", frames=tuple(fronts))


def _predict(frame: Frame) -> Frame:
    """Return the same picture with the masks that models predict."""
    caption = f"{frame.caption.split(',')[0]}, predicted"
    return replace(frame, view=replace(frame.view, predicted=True), caption=caption, marked=False)


def show_scan(scan: ScanMeasures) -> Strip:
    """Show a scan from its cranial to its caudal end, where there are masks, and from the front."""
    filled = np.arange(scan.shape[0])
    if scan.masks is not None and scan.masks.pixels.any():
        filled = np.flatnonzero(scan.masks.pixels.any(axis=0))
    levels = _spread(filled, _TYPICAL_HEIGHTS)
    return Strip(title=scan.scan_id, frames=(*_slices(scan, levels), _front(scan)))


def find_typical(found: SourceReport) -> dict[Geometry, str]:
    """Return by geometry the scan that is most like the others: least unlike their medians.

    Scans that are known to be bad or suspect are taken only where there is no other.
    """
    doubtful = {*found.known_bad, *(suspect.scan_id for suspect in found.suspects)}
    typical = {}
    for shape, spacing, _ in found.count_geometries():
        scans = [s for s in found.scans if (s.shape, s.spacing_mm) == (shape, spacing)]
        labelled = [scan for scan in scans if scan.masks is not None] or scans
        chosen = [scan for scan in labelled if scan.scan_id not in doubtful] or labelled
        values = np.array([_features(scan) for scan in chosen])
        absent = np.isnan(values)
        middle = np.array([np.median(c[~np.isnan(c)]) if not np.isnan(c).all() else 0.0
                           for c in values.T])  # fmt: skip
        away = np.where(absent, 0, np.abs(values - middle))
        scale = away.mean(axis=0)
        away = np.where(absent, 3, away / np.where(scale > 0, scale, 1))
        typical[shape, spacing] = chosen[int(away.sum(axis=1).argmin())].scan_id
    return typical


def _features(scan: ScanMeasures) -> list[float]:
    grey = [scan.intensity[1], scan.intensity[2]]
    if scan.masks is None:
        return grey
    volumes = np.where(scan.masks.volume_ml > 0, scan.masks.volume_ml, np.nan)
    return [*grey, *np.log(volumes).tolist(), *scan.masks.centre.ravel().tolist()]


def _slices(
    scan: ScanMeasures, levels: Sequence[int], *, organ: int | None = None
) -> Iterator[Frame]:
    for z in levels:
        yield Frame(
            view=View(scan_id=scan.scan_id, plane="axial", slices=(z,), organ=organ),
            caption=f"slice {scan.first_number + z}{_tell_pixels(scan, organ, z)}",
        )


def _front(
    scan: ScanMeasures, *, organ: int | None = None, caption: str = "from the front",
    marked: bool = False,
) -> Frame:  # fmt: skip
    view = View(scan_id=scan.scan_id, plane="coronal", organ=organ)
    return Frame(view=view, caption=caption, marked=marked)


def _spread(slices: np.ndarray, heights: Sequence[float]) -> list[int]:
    at = [int(slices[min(int(len(slices) * height), len(slices) - 1)]) for height in heights]
    return sorted(set(at))


def _find_levels(scan: ScanMeasures, organ: int | None) -> list[int]:
    """Return slices that show an organ, or any organ; none without it."""
    if scan.masks is None:
        return []
    pixels = scan.masks.pixels if organ is None else scan.masks.pixels[organ : organ + 1]
    shown = np.flatnonzero(pixels.any(axis=0))
    return _spread(shown, _ORGAN_HEIGHTS) if len(shown) else []


def _find_usual_levels(scan: ScanMeasures, organ: int, found: SourceReport) -> list[int]:
    """Return slices of a scan where other scans have the organ."""
    heights = np.array([masks.centre[organ, 0] for masks in found.masks])
    heights = heights[np.isfinite(heights)]
    middle, most = float(np.median(heights)) if len(heights) else 0.5, scan.shape[0] - 1
    return sorted({min(max(round((middle + off) * most), 0), most) for off in (-0.1, 0, 0.1)})


def _find_fullest(scan: ScanMeasures) -> int:
    """Return the slice that shows most organs, and of these most of them."""
    if scan.masks is None:
        return scan.shape[0] // 2
    pixels = scan.masks.pixels
    return int(np.lexsort((pixels.sum(axis=0), (pixels > 0).sum(axis=0)))[-1])


def _name(organ: str) -> str:
    return organ.replace("_", " ")
