"""Which slices of which scans the check's page shows, so that a suspect can be judged by eye."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.report.pictures import View, join_words
from gi2nnunet.source.check.check import SourceReport
from gi2nnunet.source.check.measures import ScanMeasures
from gi2nnunet.source.check.suspects import Suspect

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
    """Return a card for all suspects of a scan as a whole, and for those of each run of slices.

    Parameters
    ----------
    found
        What was measured.
    show_all
        Picture all, not only the first :data:`MOST_CARDS_OF_A_KIND` of each kind.
    """
    scans = {scan.scan_id: scan for scan in found.scans}
    typical = find_typical(found)
    pictured: dict[str, int] = {}
    cards = []
    for scan_id, of_scan in groupby(found.suspects, key=lambda suspect: suspect.scan_id):
        for suspects in _group_slices(list(of_scan)):
            kind = suspects[0].kind
            pictured[kind] = pictured.get(kind, 0) + 1
            scan, number = scans[scan_id], suspects[0].slice_number
            if not show_all and pictured[kind] > MOST_CARDS_OF_A_KIND:
                strips: tuple[Strip, ...] = ()
            elif number is None:
                strips = tuple(_show_whole(scan, suspects, found=found, typical=typical))
            else:
                strips = tuple(_show_slices(scan, suspects))
            cards.append(
                Card(
                    scan_id=scan_id,
                    where="whole scan" if number is None else _tell_slices(_numbers(suspects)),
                    anchor=f"{scan_id}-{number or 'whole'}",
                    suspects=tuple(suspects),
                    strips=strips,
                )
            )
    return tuple(cards)


def _group_slices(suspects: Sequence[Suspect]) -> Iterator[list[Suspect]]:
    """Yield the suspects of the whole scan, then those of slices that follow each other."""
    whole = [suspect for suspect in suspects if suspect.slice_number is None]
    if whole:
        yield whole
    run: list[Suspect] = []
    for suspect in suspects:
        if suspect.slice_number is None:
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


def _show_whole(
    scan: ScanMeasures, suspects: Sequence[Suspect], *, found: SourceReport,
    typical: dict[Geometry, str],
) -> Iterator[Strip]:  # fmt: skip
    scans = {other.scan_id: other for other in found.scans}
    other = typical.get((scan.shape, scan.spacing_mm))
    for organ in dict.fromkeys(suspect.organ for suspect in suspects if suspect.organ):
        index = ORGANS.index(organ)
        levels = _find_levels(scan, index)
        if not levels:
            levels = _find_usual_levels(scan, index, found)
        frames = [*_slices(scan, levels, organ=index), _front(scan, organ=index)]
        if other and other != scan.scan_id:
            frames.append(_front(scans[other], organ=index, caption=f"for comparison: {other}"))
        yield Strip(title=_name(organ).capitalize(), frames=tuple(frames))
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


def _find_levels(scan: ScanMeasures, organ: int) -> list[int]:
    if scan.masks is None or not scan.masks.pixels[organ].any():
        return []
    return _spread(np.flatnonzero(scan.masks.pixels[organ]), _ORGAN_HEIGHTS)


def _find_usual_levels(scan: ScanMeasures, organ: int, found: SourceReport) -> list[int]:
    """Return slices of a scan where other scans have the organ."""
    heights = np.array([masks.centre[organ, 0] for masks in found.masks])
    middle, most = float(np.nanmedian(heights)), scan.shape[0] - 1
    return sorted({min(max(round((middle + off) * most), 0), most) for off in (-0.1, 0, 0.1)})


def _find_fullest(scan: ScanMeasures) -> int:
    """Return the slice that shows most organs, and of these most of them."""
    if scan.masks is None:
        return scan.shape[0] // 2
    pixels = scan.masks.pixels
    return int(np.lexsort((pixels.sum(axis=0), (pixels > 0).sum(axis=0)))[-1])


def _name(organ: str) -> str:
    return organ.replace("_", " ")
