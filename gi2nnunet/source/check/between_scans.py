"""Suspects among several scans: copies of each other, and a patient's days against each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.source.check.measures import MaskMeasures, ScanMeasures
from gi2nnunet.source.check.prints import find_copies
from gi2nnunet.source.check.suspects import Suspect, rate_certainty
from gi2nnunet.source.check.usual import Labelled, measure_spread

MOST_Z_OF_DAY = 3.0
LEAST_DAYS = 3
LEAST_SCANS_WITH_DAYS = 8
_LEAST_COPIED_MASKS = 4


def find_copied(scans: Sequence[ScanMeasures]) -> Iterator[Suspect]:
    """Yield scans that hold slices, or masks, of another one; both are named."""
    for copy in find_copies([scan.prints for scan in scans]):
        pair = (scans[copy.first], scans[copy.second])
        for side, (scan, other) in enumerate((pair, pair[::-1])):
            numbers = sorted({scan.first_number + slices[side] for slices in copy.slices})
            whole = len(numbers) >= 0.9 * scan.shape[0]
            yield Suspect(
                kind="copied images", scan_id=scan.scan_id,
                slice_number=None if whole else numbers[0],
                last_slice_number=None if whole else numbers[-1], organ=None,
                measured=f"{len(numbers)} of {scan.shape[0]} slices are slices of "
                f"{other.scan_id} too",
                usual="no slice of another scan",
                remedy="Find out which scan the images are of; leave the other one out.",
                other_scan_id=other.scan_id, certainty="certain",
            )  # fmt: skip
    yield from _find_copied_masks(scans)


def _find_copied_masks(scans: Sequence[ScanMeasures]) -> Iterator[Suspect]:
    """Find masks that measure exactly as those of another scan, in slices that follow each other.

    Pixels of each organ and their overlap with the next slice are equal only if the masks are.
    """
    where: dict[tuple[float, ...], list[tuple[int, int]]] = defaultdict(list)
    for index, scan in enumerate(scans):
        if scan.masks is None:
            continue
        values = np.concatenate([scan.masks.pixels, scan.masks.next_iou, scan.masks.second_iou])
        keys = np.nan_to_num(values, nan=-1.0).T
        # One organ of some pixels that overlaps the next slice says enough.
        for z in np.flatnonzero((scan.masks.next_iou > 0).any(axis=0)).tolist():
            where[tuple(keys[z].tolist())].append((index, z))
    shared: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for places in where.values():
        for at, (first, z) in enumerate(places[:-1]):
            for second, z_second in places[at + 1 :]:
                if first != second:
                    shared[first, second].append((z, z_second))
    for (first, second), slices in sorted(shared.items()):
        if len(slices) < _LEAST_COPIED_MASKS:
            continue
        pair = (scans[first], scans[second])
        for side, (scan, other) in enumerate((pair, pair[::-1])):
            numbers = sorted({scan.first_number + places[side] for places in slices})
            masks = scan.masks
            drawn = int(np.count_nonzero(masks.pixels.any(axis=0))) if masks is not None else 0
            whole = len(numbers) >= 0.8 * drawn
            yield Suspect(
                kind="copied masks", scan_id=scan.scan_id,
                slice_number=None if whole else numbers[0],
                last_slice_number=None if whole else numbers[-1], organ=None,
                measured=f"masks of {len(numbers)} of {drawn} slices are masks of "
                f"{other.scan_id} too",
                usual="no mask of another scan",
                remedy="Find out which scan the masks are of; correct the rows of the other one.",
                other_scan_id=other.scan_id, certainty="certain",
            )  # fmt: skip


def find_unlike_days(
    labelled: Labelled,
) -> Iterator[Suspect]:
    """Hold each day of a patient with three or more against the median of the patient's others."""
    of_patient: dict[str, list[tuple[ScanMeasures, MaskMeasures]]] = {}
    for scan, masks in labelled:
        of_patient.setdefault(scan.patient_id, []).append((scan, masks))
    patients = [days for days in of_patient.values() if len(days) >= LEAST_DAYS]
    distances = np.array([distance for days in patients for distance in _measure_days(days)])
    if len(distances) < LEAST_SCANS_WITH_DAYS:
        return
    usual, spread = float(np.median(distances)), measure_spread(distances)
    limit = usual + MOST_Z_OF_DAY * max(spread, usual / 4)
    for days in patients:
        left = list(days)
        # One day that is far off moves the median of the others' other days: it goes first.
        while len(left) >= 2:
            measured = _measure_days(left)
            farthest = int(np.argmax(measured))
            if measured[farthest] <= limit:
                break
            yield Suspect(
                kind="day", scan_id=left.pop(farthest)[0].scan_id, slice_number=None, organ=None,
                measured=f"organs {measured[farthest]:.0f} mm away from the patient's other days",
                usual=f"{usual:.0f} mm, at most {limit:.0f}",
                remedy="Look whether the scan is the patient's; else leave it out.",
                certainty=rate_certainty(measured[farthest] / limit),
            )  # fmt: skip


def _measure_days(days: Sequence[tuple[ScanMeasures, MaskMeasures]]) -> list[float]:
    """Return how far each day is from the median of the others, in mm."""
    return [_distance(masks, [other for s, other in days if s is not scan]) for scan, masks in days]


def _distance(masks: MaskMeasures, others: Sequence[MaskMeasures]) -> float:
    """Return the mean distance in the plane, in mm, of the organs' centres from their median."""
    centres = np.array([other.centre[:, 1:] for other in others])
    found = []
    for organ in range(len(ORGANS)):
        of_organ = centres[:, organ][np.isfinite(centres[:, organ, 0])]
        if len(of_organ) and np.isfinite(masks.centre[organ, 1]):
            found.append(
                float(np.linalg.norm(masks.centre[organ, 1:] - np.median(of_organ, axis=0)))
            )
    return float(np.mean(found)) if found else 0.0
