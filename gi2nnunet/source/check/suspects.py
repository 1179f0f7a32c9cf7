"""Scans and slices that measure unlike the others: worth a look, not proven wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.source.check.measures import FloatArray, MaskMeasures, ScanMeasures

SuspectKind = Literal["mask jump", "slice order", "volume", "place", "missing organ", "day"]

MEANINGS: dict[SuspectKind, str] = {
    "mask jump": "An organ's mask in this slice does not fit the slices before and after, which "
    "fit each other.",
    "slice order": "The image of this slice does not fit its neighbours: it may be in the wrong "
    "place or come from elsewhere.",
    "volume": "An organ is far larger or smaller than in the other scans.",
    "place": "An organ lies far from where it lies in the other scans.",
    "missing organ": "An organ that nearly every scan has was not drawn anywhere.",
    "day": "The organs lie elsewhere than on the patient's other days: perhaps another patient.",
}
"""What each kind says, for whoever has not read how it is measured."""

# A slice is out of line where its two neighbours agree with each other so much better than either
# does with it.
LEAST_IOU_GAIN = 0.2
LEAST_PIXELS = 30
LEAST_CORRELATION_GAIN = 0.02
# Robust z-scores, and how many scans it takes to call anything usual.
MOST_Z = 6.0
MOST_Z_OF_DAY = 3.0
LEAST_SCANS = 8
# Below these, a spread is measured that could be chance: natural logarithm of a volume, relative
# height, mm.
_LEAST_SPREAD_LOG_VOLUME = 0.15
_LEAST_SPREAD = (0.03, 6.0, 6.0)
_DIRECTIONS = (("anterior", "posterior"), ("right", "left"))
_USUAL_SHARE = 0.9
_NORMAL = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One thing to look at.

    Attributes
    ----------
    kind
        What was noticed.
    scan_id
        In which scan.
    slice_number
        In which slice, where it is one slice.
    organ
        Which organ, where it is one.
    measured, usual
        What was measured and what the others measure.
    remedy
        What to do.
    exchanged_with
        The slice with which this one may have changed places.
    """

    kind: SuspectKind
    scan_id: str
    slice_number: int | None
    organ: str | None
    measured: str
    usual: str
    remedy: str
    exchanged_with: int | None = None


def find_suspects(scans: Sequence[ScanMeasures]) -> tuple[Suspect, ...]:
    """Return what is out of line in the scans, in their order.

    Parameters
    ----------
    scans
        A source's scans. Fewer than :data:`LEAST_SCANS` with truth have no usual volumes and
        places; then only slices are held against their neighbours.
    """
    found: list[Suspect] = []
    for scan in scans:
        found += _find_slices_out_of_order(scan)
        if scan.masks is not None:
            found += _find_jumps(scan, scan.masks)
    labelled = [(scan, scan.masks) for scan in scans if scan.masks is not None]
    if len(labelled) >= LEAST_SCANS:
        found += _find_unusual_organs(labelled)
        found += _find_unlike_days(labelled)
    order = {scan.scan_id: index for index, scan in enumerate(scans)}
    return tuple(
        sorted(found, key=lambda s: (order[s.scan_id], s.slice_number or 0, s.organ or "", s.kind))
    )


def _find_out_of_line(
    following: FloatArray, second: FloatArray, *, least: float
) -> Iterator[tuple[int, float, float]]:
    """Yield ``(z, likeness to its better neighbour, likeness of the neighbours)``, both sides."""
    if len(following) < 3:
        return
    before, after, across = following[:-2], following[1:-1], second[:-2]
    better = np.fmax(np.nan_to_num(before), np.nan_to_num(after))
    for index in np.flatnonzero(across - better > least).tolist():
        yield index + 1, float(better[index]), float(across[index])


def _find_jumps(scan: ScanMeasures, masks: MaskMeasures) -> Iterator[Suspect]:
    for index, organ in enumerate(ORGANS):
        usual = _median(masks.next_iou[index])
        for z, measured, across in _find_out_of_line(
            masks.next_iou[index], masks.second_iou[index], least=LEAST_IOU_GAIN
        ):
            if min(masks.pixels[index, z - 1], masks.pixels[index, z + 1]) < LEAST_PIXELS:
                continue
            yield Suspect(
                kind="mask jump",
                scan_id=scan.scan_id,
                slice_number=scan.first_number + z,
                organ=organ,
                measured=f"IoU {measured:.2f} with its neighbours, which have {across:.2f}",
                usual=f"IoU {usual:.2f} of neighbours in this scan",
                remedy="Look at the three slices; correct the row, or leave the scan out.",
            )


def _find_slices_out_of_order(scan: ScanMeasures) -> Iterator[Suspect]:
    following, second = scan.next_correlation, scan.second_correlation
    usual = _median(following)
    swapped = set()
    # Were slices z and z + 1 exchanged, the likeness at both joints would rise.
    if len(following) >= 4:
        now = following[:-3] + following[2:-1]
        exchanged = second[:-3] + second[1:-2]
        rise = exchanged - now
        margin = max(0.01, abs(_median(rise)) / 2)
        for index in np.flatnonzero(rise > margin).tolist():
            if index and rise[index - 1] > rise[index]:
                continue
            if index + 1 < len(rise) and rise[index + 1] > rise[index]:
                continue
            z = index + 1
            swapped |= {z, z + 1}
            number = scan.first_number + z
            yield Suspect(
                kind="slice order",
                scan_id=scan.scan_id,
                slice_number=number,
                organ=None,
                measured=f"likeness {now[index] / 2:.3f} at the joints, {exchanged[index] / 2:.3f} "
                f"with slices {number} and {number + 1} exchanged",
                usual=f"likeness {usual:.3f} of neighbours in this scan",
                remedy="Look at these slices; put the files in order, or leave the scan out.",
                exchanged_with=number + 1,
            )
    for z, measured, across in _find_out_of_line(following, second, least=LEAST_CORRELATION_GAIN):
        if {z - 1, z, z + 1} & swapped:
            continue
        yield Suspect(
            kind="slice order",
            scan_id=scan.scan_id,
            slice_number=scan.first_number + z,
            organ=None,
            measured=f"likeness {measured:.3f} to its neighbours, which have {across:.3f}",
            usual=f"likeness {usual:.3f} of neighbours in this scan",
            remedy="Look whether this slice belongs here; else leave the scan out.",
        )


def _find_unusual_organs(
    labelled: Sequence[tuple[ScanMeasures, MaskMeasures]],
) -> Iterator[Suspect]:
    remedy = "Look at the scan's masks; correct its rows, or leave the scan out."
    for index, organ in enumerate(ORGANS):
        volumes = np.array([masks.volume_ml[index] for _, masks in labelled])
        present = volumes > 0
        for (scan, _), has in zip(labelled, present, strict=True):
            if not has and present.mean() >= _USUAL_SHARE:
                yield Suspect(
                    kind="missing organ", scan_id=scan.scan_id, slice_number=None, organ=organ,
                    measured="no mask",
                    usual=f"in {np.count_nonzero(present)} of {len(labelled)} scans",
                    remedy=remedy,
                )  # fmt: skip
        having = [pair for pair, has in zip(labelled, present, strict=True) if has]
        if len(having) < LEAST_SCANS:
            continue
        logs = np.log(volumes[present])
        scores, low, high = _score(logs, least_spread=_LEAST_SPREAD_LOG_VOLUME)
        for (scan, masks), z in zip(having, scores.tolist(), strict=True):
            if abs(z) > MOST_Z:
                yield Suspect(
                    kind="volume", scan_id=scan.scan_id, slice_number=None, organ=organ,
                    measured=f"{masks.volume_ml[index]:.0f} ml (robust z {z:+.1f})",
                    usual=f"{np.exp(low):.0f} to {np.exp(high):.0f} ml",
                    remedy=remedy,
                )  # fmt: skip
        for axis in range(1 + len(_DIRECTIONS)):
            places = np.array([masks.centre[index, axis] for _, masks in having])
            scores, low, high = _score(places, least_spread=_LEAST_SPREAD[axis])
            for (scan, _), place, z in zip(having, places.tolist(), scores.tolist(), strict=True):
                if abs(z) > MOST_Z:
                    yield Suspect(
                        kind="place", scan_id=scan.scan_id, slice_number=None, organ=organ,
                        measured=f"centre at {_tell_places(axis, place)} (robust z {z:+.1f})",
                        usual=_tell_places(axis, low, high),
                        remedy=remedy,
                    )  # fmt: skip


def _tell_places(axis: int, *places: float) -> str:
    """Return relative heights, or mm from the image's middle with their direction."""
    if axis == 0:
        return (
            f"{' to '.join(f'{min(max(p, 0), 1):.0%}' for p in places)} of the height from cranial"
        )
    told = [f"{abs(p):.0f} mm {_DIRECTIONS[axis - 1][int(p > 0)]}" for p in places]
    return f"{' to '.join(told)} of the image's middle"


def _find_unlike_days(
    labelled: Sequence[tuple[ScanMeasures, MaskMeasures]],
) -> Iterator[Suspect]:
    """Hold each day of a patient with three or more against the median of the patient's others."""
    of_patient: dict[str, list[tuple[ScanMeasures, MaskMeasures]]] = {}
    for scan, masks in labelled:
        of_patient.setdefault(scan.patient_id, []).append((scan, masks))
    patients = [days for days in of_patient.values() if len(days) >= 3]
    distances = np.array([distance for days in patients for distance in _measure_days(days)])
    if len(distances) < LEAST_SCANS:
        return
    usual, spread = float(np.median(distances)), _spread(distances)
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


def _spread(values: FloatArray) -> float:
    return float(_NORMAL * np.median(np.abs(values - np.median(values))))


def _score(values: FloatArray, *, least_spread: float) -> tuple[FloatArray, float, float]:
    """Return robust z-scores, and the range that passes."""
    middle, spread = float(np.median(values)), max(_spread(values), least_spread)
    scores: NDArray[np.float64] = (values - middle) / spread
    return scores, middle - MOST_Z * spread, middle + MOST_Z * spread


def _median(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")
