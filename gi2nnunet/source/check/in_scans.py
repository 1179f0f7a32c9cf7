"""Suspects among whole scans: masks against the image, organs against the other scans'."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.source.check.fit import Alternative, Placement
from gi2nnunet.source.check.measures import FloatArray, MaskMeasures, ScanMeasures
from gi2nnunet.source.check.suspects import Suspect, SuspectKind, rate_certainty
from gi2nnunet.source.check.usual import (
    BACK,
    HEIGHT,
    LEFT,
    LONG,
    VOLUME,
    Labelled,
    UsualFit,
    UsualOrgans,
    describe_ends,
    describe_heights,
    describe_organs,
)

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
        elsewhere = f", {better.fit:.2f} {tell_placement(better.placement, scan.spacing_mm)}"
    return Suspect(
        kind=kind, scan_id=scan.scan_id, slice_number=None, organ=organ,
        measured=f"contrast {here:.2f} across the outlines{elsewhere}",
        usual=f"contrast {own:.2f}{usual.tell_origin()}",
        remedy="Look whether the masks belong to this image; correct the rows, or leave the scan "
        "out.",
        certainty=rate_certainty(strength),
        placement=None if better is None else better.placement,
    )  # fmt: skip


def tell_placement(placement: Placement, spacing_mm: tuple[float, float, float]) -> str:
    """Return in words how masks would have to be placed."""
    if placement.turn != "as they are":
        return f"with the masks {placement.turn}"
    moves = [
        f"{abs(number)} {'slice' if abs(number) == 1 else 'slices'} to "
        f"{'caudal' if number > 0 else 'cranial'}"
        for number in [placement.slices]
        if number
    ]
    moves += [
        f"{abs(pixels) * mm:.0f} mm to {names[int(pixels > 0)]}"
        for pixels, mm, names in (
            (placement.rows, spacing_mm[1], _DIRECTIONS[0]),
            (placement.columns, spacing_mm[2], _DIRECTIONS[1]),
        )
        if pixels
    ]
    told = f"moved by {' and '.join(moves)}" if moves else ""
    if placement.growth:
        mm = abs(placement.growth) * spacing_mm[2]
        grown = f"drawn {mm:.0f} mm {'larger' if placement.growth > 0 else 'smaller'}"
        told = f"{told} and {grown}" if told else grown
    return f"with the masks {told}"


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
    names = [ORGANS[other] for organ, other in enumerate(choice) if organ != other]
    told = ", ".join(name.replace("_", " ") for name in names)
    yield Suspect(
        kind="organs exchanged", scan_id=scan.scan_id, slice_number=None, organ=None,
        measured=f"squared z-scores of the organs' measures {now:.0f}, {now - best:.0f} with "
        f"{told} exchanged",
        usual=f"least with their own names{usual.tell_origin()}",
        remedy="Look which organ is which; correct the class of its rows.",
        certainty=rate_certainty(best / least),
    )  # fmt: skip


def _find_turned(
    scan: ScanMeasures, masks: MaskMeasures, features: FloatArray, usual: UsualOrgans
) -> Iterator[Suspect]:
    heights = describe_heights(scan, masks)
    ways = {
        "upside down": (
            _sum_squares(usual.score_heights(heights)),
            _sum_squares(usual.score_heights(-heights)),
        )
    }
    for name, axis in (("back to front", BACK), ("mirrored", LEFT)):
        turned = features.copy()
        turned[:, axis] *= -1
        ways[name] = (
            _sum_squares(usual.score(features)[:, axis]),
            _sum_squares(usual.score(turned)[:, axis]),
        )
    name, (now, then) = max(ways.items(), key=lambda way: way[1][0] - way[1][1])
    least = LEAST_GAIN if usual.of_source else 3 * LEAST_GAIN
    if now - then < least or then > now / 2:
        return
    yield Suspect(
        kind="scan turned", scan_id=scan.scan_id, slice_number=None, organ=None,
        measured=f"squared z-scores of the organs' places {now:.0f}, {then:.0f} if it were {name}",
        usual=f"least as they are{usual.tell_origin()}",
        remedy="Look which way up the images are; turn them, or leave the scan out.",
        certainty=rate_certainty((now - then) / least),
    )  # fmt: skip


def _find_cut_off(
    scan: ScanMeasures, masks: MaskMeasures, features: FloatArray, usual: UsualOrgans
) -> Iterator[Suspect]:
    ends = describe_ends(scan, masks)
    if not np.isfinite(ends.log_length):
        return
    short = (ends.log_length - usual.log_length[0]) / usual.log_length[1]
    signs = {
        f"the stomach ends with {ends.stomach_last:.0%} of its median area": ends.stomach_last,
        f"the large bowel begins with {ends.large_first:.0%} of its median area": ends.large_first,
        f"the small bowel begins with {ends.small_first:.0%} of its median area": ends.small_first,
    }
    told = [text for text, share in signs.items() if share > _ABRUPT]
    worst = max((share for share in signs.values() if np.isfinite(share)), default=0.0)
    near_end = ends.stomach_to_end <= _NEAR_END
    if near_end:
        told.append("the stomach ends where all masks end")
    # A small bowel that is short too says that slices are missing at its end.
    both = short + min(0.0, float(usual.score(features)[ORGANS.index("small_bowel"), LONG]))
    rules = (
        (True, short / _VERY_SHORT),
        (short <= _SHORT and np.isfinite(both), both / _BOTH_SHORT),
        (short <= _SHORT and bool(told), 1 + (short / _SHORT - 1) / 2),
        (short <= _SHORTER and near_end, 1.0),
        (not short > 0, worst / _VERY_ABRUPT),
    )
    strength = max((value for holds, value in rules if holds and np.isfinite(value)), default=0.0)
    if strength < 1:
        return
    length = f"masks over {np.exp(ends.log_length):.0f} mm"
    usually = "first and last slices of an organ are small"
    if usual.of_source:
        middle, spread = usual.log_length
        low, high = np.exp(middle - 2 * spread), np.exp(middle + 2 * spread)
        usually = f"{low:.0f} to {high:.0f} mm; {usually}"
    yield Suspect(
        kind="cut off", scan_id=scan.scan_id, slice_number=None, organ=None,
        measured="; ".join([length, *told]),
        usual=usually,
        remedy="Look at the slices beyond the first and the last mask; draw what is there, or "
        "leave the scan out.",
        certainty=rate_certainty(strength),
    )  # fmt: skip


def _find_unusual(
    scan: ScanMeasures, features: FloatArray, usual: UsualOrgans
) -> Iterator[Suspect]:
    scores = usual.score(features)
    low, high = usual.middle - MOST_Z * usual.spread, usual.middle + MOST_Z * usual.spread
    origin = usual.tell_origin()
    for index, organ in enumerate(ORGANS):
        if not np.isfinite(features[index, VOLUME]):
            having, every = usual.having[index], usual.scans
            if having >= USUAL_SHARE * every:
                yield Suspect(
                    kind="missing organ", scan_id=scan.scan_id, slice_number=None, organ=organ,
                    measured="no mask", usual=f"in {having} of {every} scans{origin}",
                    remedy=_REMEDY, certainty="likely",
                )  # fmt: skip
            continue
        if abs(z := float(scores[index, VOLUME])) > MOST_Z:
            volume, least, most = (np.exp(value[index, VOLUME]) for value in (features, low, high))
            yield Suspect(
                kind="volume", scan_id=scan.scan_id, slice_number=None, organ=organ,
                measured=f"{volume:.0f} ml (robust z {z:+.1f})",
                usual=f"{least:.0f} to {most:.0f} ml{origin}",
                remedy=_REMEDY, certainty=rate_certainty(abs(z) / MOST_Z),
            )  # fmt: skip
        if abs(z := float(scores[index, LONG])) > MOST_Z:
            length, least, most = (np.exp(value[index, LONG]) for value in (features, low, high))
            yield Suspect(
                kind="volume", scan_id=scan.scan_id, slice_number=None, organ=organ,
                measured=f"standard deviation {length:.0f} mm along the body (robust z {z:+.1f})",
                usual=f"{least:.0f} to {most:.0f} mm{origin}",
                remedy=_REMEDY, certainty=rate_certainty(abs(z) / MOST_Z),
            )  # fmt: skip
        for axis, feature in enumerate((HEIGHT, BACK, LEFT)):
            if abs(z := float(scores[index, feature])) > MOST_Z:
                place = float(features[index, feature])
                yield Suspect(
                    kind="place", scan_id=scan.scan_id, slice_number=None, organ=organ,
                    measured=f"centre at {_tell_places(axis, place)} (robust z {z:+.1f})",
                    usual=_tell_places(axis, low[index, feature], high[index, feature]) + origin,
                    remedy=_REMEDY, certainty=rate_certainty(abs(z) / MOST_Z),
                )  # fmt: skip


def _tell_places(axis: int, *places: float) -> str:
    """Return relative heights, or mm from the image's middle with their direction."""
    if axis == 0:
        shares = " to ".join(f"{min(max(place, 0), 1):.0%}" for place in places)
        return f"{shares} of the height from cranial"
    told = [f"{abs(place):.0f} mm {_DIRECTIONS[axis - 1][int(place > 0)]}" for place in places]
    return f"{' to '.join(told)} of the image's middle"
