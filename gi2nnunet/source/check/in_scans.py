"""Suspects among whole scans: masks against images, organs and images against other scans'."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.source.check.fit import Alternative, FloatArray, Placement
from gi2nnunet.source.check.measures import MaskMeasures, ScanMeasures
from gi2nnunet.source.check.suspects import (
    BACK,
    HEIGHT,
    LEFT,
    LONG,
    VOLUME,
    Labelled,
    Suspect,
    SuspectKind,
    UsualFit,
    UsualOrgans,
    describe_heights,
    describe_length,
    describe_organs,
    measure_spread,
    rate_certainty,
)
from gi2nnunet.source.prints import find_copies

MOST_Z = 6.0
"""Robust z-scores of volumes and places above this are suspects."""
USUAL_SHARE = 0.9
"""An organ is missing if this share of the scans has it."""
# Outlines elsewhere need so many times the contrast that they have where they are, and so much of
# the usual one; masks fit nowhere with less than that share of the usual one.
LEAST_BETTER = 1.3
_LEAST_OF_USUAL = 0.6
_LEAST_OF_USUAL_GROWN = 0.4
MOST_OF_USUAL = 0.55
MOST_OF_USUAL_ORGAN = 0.35
_FITTING = 0.8
_LEAST_POINTS = 50
_LEAST_AWAY = 2  # pixels or slices
# Sums of squared z-scores, each of at most 25: by so much they must fall; three times as much if
# the usual values are the competition's.
LEAST_GAIN = 12.0
_MOST_SQUARE = 25.0
# Where masks end: lengths as robust z-scores; areas of a last slice over the median one.
_SHORTER, _SHORT, _VERY_SHORT, _BOTH_SHORT = -1.0, -2.0, -4.0, -5.5
_ABRUPT, _VERY_ABRUPT = 0.5, 0.8
_NEAR_END = 1  # slice

_ALONG = ("cranial", "caudal")
_DIRECTIONS = (("anterior", "posterior"), ("right", "left"))
_REMEDY = "Look at the scan's masks; correct its rows, or leave the scan out."


def find_in_fit(scan: ScanMeasures, masks: MaskMeasures, usual: UsualFit) -> Iterator[Suspect]:
    """Yield where the masks would fit their image better, or that they do not fit."""
    fit = masks.fit
    if not np.isfinite(fit.whole) or not np.isfinite(usual.whole):
        return
    points = fit.points.sum(axis=1)
    found = _judge(scan, fit.whole, fit.better, usual.whole, MOST_OF_USUAL, None, usual)
    # If one organ fits as usual, it is the others that do not.
    fitting = (points >= _LEAST_POINTS) & (fit.of_organs >= _FITTING * usual.of_organs)
    if found is not None and not (found.kind == "masks do not fit" and fitting.any()):
        yield found
        return
    for index, organ in enumerate(ORGANS):
        here, there = float(fit.of_organs[index]), fit.better_of_organ[index]
        own = float(usual.of_organs[index])
        if points[index] < _LEAST_POINTS or not here < MOST_OF_USUAL * own:
            continue
        found = _judge(scan, here, there, own, MOST_OF_USUAL_ORGAN, organ, usual)
        if found is not None:
            yield found


def _judge(
    scan: ScanMeasures, here: float, better: Alternative | None, own: float, most: float,
    organ: str | None, usual: UsualFit,
) -> Suspect | None:  # fmt: skip
    """Return what is to be said of masks with the contrast ``here``, if anything."""
    kind: SuspectKind | None = None
    strength = 0.0
    if better is not None and better.fit >= LEAST_BETTER * here:
        placement = better.placement
        away = max(abs(placement.slices), abs(placement.rows), abs(placement.columns))
        grown = abs(placement.growth) > away
        turned = placement.turn != "as they are"
        far = turned or max(away, abs(placement.growth)) >= _LEAST_AWAY
        if far and better.fit >= (_LEAST_OF_USUAL_GROWN if grown else _LEAST_OF_USUAL) * own:
            kind = "masks turned" if turned else "outline" if grown else "masks moved"
            strength = better.fit / max(here, 0.01) / LEAST_BETTER
    if kind is None and here < most * own:
        kind, better = "masks do not fit", None
        strength = most * own / max(here, 0.01)
    if kind is None:
        return None
    elsewhere = ""
    if better is not None:
        elsewhere = f", {better.fit:.2f} {describe_placement(better.placement, scan.spacing_mm)}"
    return Suspect(
        kind=kind, scan_id=scan.scan_id, organ=organ,
        measured=f"contrast {here:.2f} across the outlines{elsewhere}",
        usual=f"contrast {own:.2f}{usual.origin}",
        remedy="Look whether the masks belong to this image; correct the rows, or leave the scan "
        "out.",
        certainty=rate_certainty(strength),
        placement=None if better is None else better.placement,
    )  # fmt: skip


def describe_placement(placement: Placement, spacing_mm: tuple[float, float, float]) -> str:
    """Return in words how masks would have to be placed."""
    if placement.turn != "as they are":
        return f"with the masks {placement.turn}"
    moves = [
        f"{abs(number) * size:.0f} {unit} to {names[int(number > 0)]}"
        for number, size, unit, names in (
            (placement.slices, 1, "slice" if abs(placement.slices) == 1 else "slices", _ALONG),
            (placement.rows, spacing_mm[1], "mm", _DIRECTIONS[0]),
            (placement.columns, spacing_mm[2], "mm", ("the patient's right", "the patient's left")),
        )
        if number
    ]
    changes = [f"moved by {' and '.join(moves)}"] if moves else []
    if placement.growth:
        mm = abs(placement.growth) * spacing_mm[2]
        changes.append(f"drawn {mm:.0f} mm {'larger' if placement.growth > 0 else 'smaller'}")
    return f"with the masks {' and '.join(changes)}"


def find_in_organs(labelled: Labelled, usual: UsualOrgans) -> Iterator[Suspect]:
    """Yield what is unusual in the organs of labelled scans."""
    for scan, masks in labelled:
        features = describe_organs(scan, masks)
        yield from _find_exchanged(scan, features, usual)
        yield from _find_turned(scan, masks, features, usual)
        yield from _find_cut_off(scan, masks, features, usual)
        yield from _find_unusual(scan, features, usual)


def _sum_squares(scores: FloatArray) -> float:
    return float(np.nansum(np.minimum(scores**2, _MOST_SQUARE)))


def _find_exchanged(
    scan: ScanMeasures, features: FloatArray, usual: UsualOrgans
) -> Iterator[Suspect]:
    there = np.isfinite(features[:, VOLUME]) & np.isfinite(usual.middle[:, VOLUME])
    now = _sum_squares(usual.score(features))
    best, choice = 0.0, None
    for order in permutations(range(len(ORGANS))):
        moved = [organ for organ, other in enumerate(order) if organ != other]
        if not moved or not there[moved].all():
            continue
        gain = now - _sum_squares(usual.score(features[list(order)]))
        if gain > best:
            best, choice = gain, order
    least = LEAST_GAIN if usual.of_source else 3 * LEAST_GAIN
    if choice is None or best < least:
        return
    names = [ORGANS[organ] for organ, other in enumerate(choice) if organ != other]
    exchanged = " and ".join(names).replace("_", " ")
    yield Suspect(
        kind="organs exchanged", scan_id=scan.scan_id,
        measured=f"sum of squared z-scores of the organs' measures {now:.0f}, "
        f"{now - best:.0f} with {exchanged} exchanged",
        usual=f"least with their own names{usual.origin}",
        remedy="Look which organ is which; correct the class of its rows.",
        certainty=rate_certainty(best / least),
    )  # fmt: skip


def _find_turned(
    scan: ScanMeasures, masks: MaskMeasures, features: FloatArray, usual: UsualOrgans
) -> Iterator[Suspect]:
    heights, scores = describe_heights(scan, masks), usual.score(features)
    ways = {"upside down": (usual.score_heights(heights), usual.score_heights(-heights))}
    for name, axis in (("back to front", BACK), ("mirrored", LEFT)):
        ways[name] = (scores[:, axis], usual.score(-features)[:, axis])
    sums = {name: (_sum_squares(here), _sum_squares(there)) for name, (here, there) in ways.items()}
    name, (now, then) = max(sums.items(), key=lambda way: way[1][0] - way[1][1])
    least = LEAST_GAIN if usual.of_source else 3 * LEAST_GAIN
    if now - then < least or then > now / 2:
        return
    yield Suspect(
        kind="scan turned", scan_id=scan.scan_id,
        measured=f"sum of squared z-scores of the organs' places {now:.0f}, {then:.0f} if the "
        f"scan were {name}",
        usual=f"least as they are{usual.origin}",
        remedy="Look which way up the images are; turn them, or leave the scan out.",
        certainty=rate_certainty((now - then) / least),
    )  # fmt: skip


def _find_cut_off(
    scan: ScanMeasures, masks: MaskMeasures, features: FloatArray, usual: UsualOrgans
) -> Iterator[Suspect]:
    log_length = describe_length(scan, masks)
    if not np.isfinite(log_length):
        return
    short = (log_length - usual.log_length[0]) / usual.log_length[1]
    large, small, stomach = masks.pixels
    signs = {
        f"the {name} {verb} with {share:.0%} of its median area": share
        for name, verb, share in (
            ("stomach", "ends", _measure_end(stomach, -1)),
            ("large bowel", "begins", _measure_end(large, 0)),
            ("small bowel", "begins", _measure_end(small, 0)),
        )
    }
    abrupt = [text for text, share in signs.items() if share > _ABRUPT]
    worst = max((share for share in signs.values() if np.isfinite(share)), default=0.0)
    drawn = np.flatnonzero(masks.pixels.any(axis=0))
    near_end = bool(stomach.any()) and drawn[-1] - np.flatnonzero(stomach)[-1] <= _NEAR_END
    if near_end:
        abrupt.append("the stomach ends where all masks end")
    # A small bowel that is short too says that slices are missing at its end.
    both = short + min(0.0, float(usual.score(features)[ORGANS.index("small_bowel"), LONG]))
    rules = (
        (True, short / _VERY_SHORT),
        (short <= _SHORT and np.isfinite(both), both / _BOTH_SHORT),
        (short <= _SHORT and bool(abrupt), 1 + (short / _SHORT - 1) / 2),
        (short <= _SHORTER and near_end, 1.0),
        (not short > 0, worst / _VERY_ABRUPT),
    )
    strength = max((value for holds, value in rules if holds and np.isfinite(value)), default=0.0)
    if strength < 1:
        return
    length = f"masks over {np.exp(log_length):.0f} mm"
    usually = "first and last slices of an organ are small"
    if usual.of_source:
        middle, spread = usual.log_length
        low, high = np.exp(middle - 2 * spread), np.exp(middle + 2 * spread)
        usually = f"{low:.0f} to {high:.0f} mm; {usually}"
    yield Suspect(
        kind="cut off", scan_id=scan.scan_id, measured="; ".join([length, *abrupt]), usual=usually,
        remedy="Look at the slices beyond the first and the last mask; draw what is there, or "
        "leave the scan out.",
        certainty=rate_certainty(strength),
    )  # fmt: skip


def _measure_end(pixels: NDArray[np.int64], end: int) -> float:
    """Return the area of an organ's first (0) or last (-1) slice over its median area.

    It is 0 at the scan's own end, and NaN for an organ in fewer than two slices.
    """
    filled = np.flatnonzero(pixels)
    if len(filled) < 2:
        return float("nan")
    if filled[end] == np.arange(len(pixels))[end]:
        return 0.0
    return float(pixels[filled[end]] / np.median(pixels[filled]))


def _find_unusual(
    scan: ScanMeasures, features: FloatArray, usual: UsualOrgans
) -> Iterator[Suspect]:
    scores = usual.score(features)
    low, high = usual.middle - MOST_Z * usual.spread, usual.middle + MOST_Z * usual.spread
    for index, organ in enumerate(ORGANS):
        if not np.isfinite(features[index, VOLUME]):
            having, every = usual.having[index], usual.scans
            if having >= USUAL_SHARE * every:
                yield Suspect(
                    kind="missing organ", scan_id=scan.scan_id, organ=organ, measured="no mask",
                    usual=f"in {having} of {every} scans{usual.origin}", remedy=_REMEDY,
                    certainty="likely",
                )  # fmt: skip
            continue
        for feature in (VOLUME, LONG, HEIGHT, BACK, LEFT):
            z = float(scores[index, feature])
            if abs(z) > MOST_Z:
                here, *span = (float(value[index, feature]) for value in (features, low, high))
                yield Suspect(
                    kind="volume" if feature in (VOLUME, LONG) else "place",
                    scan_id=scan.scan_id, organ=organ,
                    measured=f"{_describe_values(feature, here)} (robust z {z:+.1f})",
                    usual=_describe_values(feature, *span) + usual.origin,
                    remedy=_REMEDY, certainty=rate_certainty(abs(z) / MOST_Z),
                )  # fmt: skip


def _describe_values(feature: int, *values: float) -> str:
    """Return values of one feature of an organ in words, with their unit."""
    if feature in (VOLUME, LONG):
        numbers = " to ".join(f"{np.exp(value):.0f}" for value in values)
        if feature == VOLUME:
            return f"{numbers} ml"
        return f"standard deviation {numbers} mm along the body"
    if feature == HEIGHT:
        shares = " to ".join(f"{min(max(value, 0), 1):.0%}" for value in values)
        return f"centre at {shares} of the height from cranial"
    names = _DIRECTIONS[0 if feature == BACK else 1]
    away = " to ".join(f"{abs(value):.0f} mm {names[int(value > 0)]}" for value in values)
    return f"centre {away} of the image's middle"


MOST_Z_OF_DAY = 3.0
LEAST_DAYS = 3
LEAST_SCANS_WITH_DAYS = 8
_LEAST_COPIED_MASKS = 4


def find_copied(scans: Sequence[ScanMeasures]) -> Iterator[Suspect]:
    """Yield scans that hold slices, or masks, of another one; both are named."""
    for (first, second), slices in find_copies([scan.prints for scan in scans]).items():
        for scan, other, numbers in _list_sides(scans[first], scans[second], slices):
            every = scan.shape[0]
            yield _describe_copy(
                "images", scan, other, numbers, whole=len(numbers) >= 0.9 * every,
                measured=f"{len(numbers)} of {every} slices are slices",
            )  # fmt: skip
    for (first, second), slices in _find_shared_masks(scans).items():
        for scan, other, numbers in _list_sides(scans[first], scans[second], slices):
            drawn = np.count_nonzero(scan.masks.pixels.any(axis=0)) if scan.masks else 0
            yield _describe_copy(
                "masks", scan, other, numbers, whole=len(numbers) >= 0.8 * drawn,
                measured=f"masks of {len(numbers)} of {drawn} slices are masks",
            )  # fmt: skip


def _list_sides(
    first: ScanMeasures, second: ScanMeasures, slices: Sequence[tuple[int, int]]
) -> Iterator[tuple[ScanMeasures, ScanMeasures, list[int]]]:
    """Yield each of two scans with the other one and the numbers of the slices that they share."""
    for side, (scan, other) in enumerate(((first, second), (second, first))):
        yield scan, other, sorted({scan.first_number + pair[side] for pair in slices})


def _describe_copy(
    what: Literal["images", "masks"], scan: ScanMeasures, other: ScanMeasures,
    numbers: Sequence[int], *, whole: bool, measured: str,
) -> Suspect:  # fmt: skip
    images = what == "images"
    remedy = "leave the other one out" if images else "correct the rows of the other one"
    return Suspect(
        kind="copied images" if images else "copied masks", scan_id=scan.scan_id,
        slice_number=None if whole else numbers[0],
        last_slice_number=None if whole else numbers[-1],
        measured=f"{measured} of {other.scan_id} too",
        usual=f"no {'slice' if images else 'mask'} of another scan",
        remedy=f"Find out which scan the {what} are of; {remedy}.",
        other_scan_id=other.scan_id, certainty="certain",
    )  # fmt: skip


def _find_shared_masks(
    scans: Sequence[ScanMeasures],
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return by pair of scans the slices, of both, in which masks measure exactly alike.

    Pixels of each organ and their overlap with the next slices are equal only if the masks are.
    """
    where: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for index, scan in enumerate(scans):
        if scan.masks is None:
            continue
        masks = scan.masks
        keys = np.nan_to_num([*masks.pixels, *masks.next_iou, *masks.second_iou], nan=-1.0).T
        # One organ of some pixels that overlaps the next slice says enough.
        for z in np.flatnonzero((masks.next_iou > 0).any(axis=0)).tolist():
            where[keys[z].tobytes()].append((index, z))
    shared: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for places in where.values():
        for (first, z), (second, z_second) in combinations(places, 2):
            if first != second:
                shared[first, second].append((z, z_second))
    return {
        pair: slices for pair, slices in sorted(shared.items())
        if len(slices) >= _LEAST_COPIED_MASKS
    }  # fmt: skip


def find_unlike_days(labelled: Labelled) -> Iterator[Suspect]:
    """Yield days far from the median of the patient's other days, of three or more."""
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
                kind="day", scan_id=left.pop(farthest)[0].scan_id,
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
