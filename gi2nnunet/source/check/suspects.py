"""Suspects of a source: scans and slices that measure unlike the others, and what was tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gi2nnunet.formats.ids import CERTAINTIES, ORGANS, Certainty
from gi2nnunet.source.check.fit import FloatArray, Placement
from gi2nnunet.source.check.measures import MaskMeasures, ScanMeasures

SuspectKind = Literal[
    "masks turned", "masks moved", "masks do not fit", "outline", "organs exchanged", "scan turned",
    "copied images", "copied masks", "no signal", "joint", "repeated slices", "cut off", "gap",
    "missing organ", "volume", "place", "day", "mask jump", "slice order", "model",
]  # fmt: skip

MEANINGS: dict[SuspectKind, str] = {
    "masks turned": "The masks would fit the image if they were turned as it says.",
    "masks moved": "The masks would fit the image if they were moved as it says.",
    "masks do not fit": "The image does not change at the organs' outlines as it does in the "
    "other scans: the masks may be those of another scan.",
    "outline": "The organs' outlines lie outside or inside of where the image changes.",
    "organs exchanged": "The masks measure as if the organs' names had been exchanged.",
    "scan turned": "The organs lie as if image and masks had been turned together.",
    "copied images": "Slices of this scan are slices of another scan too.",
    "copied masks": "Masks of this scan are masks of another scan too.",
    "no signal": "The image of these slices has only one value.",
    "joint": "The image changes from this slice to the next as it does between two scans: slices "
    "may be missing, or the rest may be another scan's.",
    "repeated slices": "The same image follows itself.",
    "cut off": "The masks end too early or too abruptly: slices may have been left undrawn.",
    "gap": "An organ is drawn before and after these slices, but not in them.",
    "missing organ": "An organ that nearly every scan has was not drawn anywhere.",
    "volume": "An organ is far larger or smaller than usual.",
    "place": "An organ lies far from its usual place.",
    "day": "The organs lie elsewhere than on the patient's other days: perhaps another patient.",
    "mask jump": "An organ's mask in this slice does not fit the slices before and after, which "
    "fit each other.",
    "slice order": "The image of this slice does not fit its neighbours: it may be in the wrong "
    "place or come from elsewhere.",
    "model": "Models that did not see the patient disagree with the masks far more than usual.",
}
"""What each kind means."""

WHOLE_SCAN: frozenset[SuspectKind] = frozenset(
    {
        "masks turned", "masks moved", "masks do not fit", "organs exchanged", "scan turned",
        "copied images", "copied masks",
    }
)  # fmt: skip
"""Kinds that explain why a scan's organs measure unlike the others."""
_SYMPTOMS = ("place", "volume", "day", "cut off", "mask jump")


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One thing to look at.

    Attributes
    ----------
    measured, usual, remedy
        What was measured, what is usual, and what to do.
    slice_number, last_slice_number
        The slice, or the first and the last one; ``None`` for a whole scan.
    organ
        ``None`` if it is not about one organ.
    exchanged_with
        The slice with which this one may have changed places.
    certainty
        How sure it is. ``"certain"``: identical, or at least twice as far from usual as a suspect
        must be; ``"likely"``: at least 1.4 times as far; else ``"possible"``.
    placement
        The place in which the masks would fit better.
    """

    kind: SuspectKind
    scan_id: str
    slice_number: int | None = None
    organ: str | None = None
    measured: str
    usual: str
    remedy: str
    exchanged_with: int | None = None
    last_slice_number: int | None = None
    other_scan_id: str | None = None
    certainty: Certainty = "possible"
    placement: Placement | None = None

    @property
    def rank(self) -> int:
        """A sort key that puts the surest first."""
        return CERTAINTIES.index(self.certainty)


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One group of tests, and how far it went.

    Attributes
    ----------
    note
        What the scans were compared with, or what the test would need; may be empty.
    """

    what: str
    kinds: tuple[SuspectKind, ...]
    scans: int
    note: str = ""


def rate_certainty(strength: float) -> Certainty:
    """Return how sure a suspect is; ``strength`` is its distance from usual over the least one."""
    return "certain" if strength >= 2 else "likely" if strength >= 1.4 else "possible"


def drop_explained(suspects: Sequence[Suspect]) -> list[Suspect]:
    """Drop what a scan's other suspects explain.

    If all masks of a scan are turned, moved, another scan's or exchanged, then its organs have
    unusual places and volumes, and stretches of its slices do not fit. If masks are turned or
    moved, then the scan looks turned and its organs exchanged.
    """
    turned = {s.scan_id for s in suspects if s.kind in ("masks turned", "masks moved")}
    left = [
        s for s in suspects
        if s.scan_id not in turned or s.kind not in ("scan turned", "organs exchanged")
    ]  # fmt: skip
    explained = {
        s.scan_id for s in left
        if s.kind in WHOLE_SCAN and s.organ is None and s.slice_number is None
    }  # fmt: skip
    return [
        s for s in left
        if s.scan_id not in explained
        or not (s.kind in _SYMPTOMS or (s.kind == "masks do not fit" and s.slice_number))
    ]  # fmt: skip


Labelled = Sequence[tuple[ScanMeasures, MaskMeasures]]

LEAST_SCANS = 12
"""So many labelled scans have usual values of their own."""
_NORMAL = 1.4826  # a normal distribution's standard deviation over its median absolute deviation

VOLUME, HEIGHT, BACK, LEFT, LONG, DEEP, WIDE, LEVEL, RAGGED = range(9)
"""What is measured of an organ: logarithm of its volume in ml; relative height of its centre, its
distance in mm from the image's middle to posterior and to the patient's left; logarithms of its
standard deviations in mm along z, y and x; image inside; logarithm of outline over area in 1/mm."""
# Below these, a spread could be chance.
_LEAST_SPREAD = np.array([0.15, 0.03, 6.0, 6.0, 0.1, 0.1, 0.1, 0.05, 0.08])
_LEAST_SPREAD_MM = 6.0


@dataclass(frozen=True, kw_only=True)
class _Usual:
    """Usual values: how many scans they come from, and whether they are the source's own."""

    scans: int
    of_source: bool

    @property
    def origin(self) -> str:
        """Return what to add to a usual value that is not the source's own."""
        return "" if self.of_source else f" ({self.scans} scans of the competition)"


@dataclass(frozen=True, kw_only=True)
class UsualOrgans(_Usual):
    """Usual values of what is measured of organs.

    Attributes
    ----------
    middle, spread
        ``(organs, features)``; NaN where nothing is usual.
    heights
        ``(2, 3)``: middle and spread of the distances in mm, to caudal, from stomach to large
        bowel, from stomach to small bowel, and from large to small bowel.
    log_length
        Middle and spread of the logarithm of the length in mm over which there are masks.
    having
        How many scans have each organ.
    """

    middle: FloatArray
    spread: FloatArray
    heights: FloatArray
    log_length: tuple[float, float]
    having: tuple[int, ...]

    def score(self, features: FloatArray) -> FloatArray:
        """Return robust z-scores of ``(organs, features)``; NaN where nothing is usual."""
        scores: FloatArray = (features - self.middle) / self.spread
        return scores

    def score_heights(self, heights: FloatArray) -> FloatArray:
        """Return robust z-scores of :func:`describe_heights`."""
        scores: FloatArray = (heights - self.heights[0]) / self.heights[1]
        return scores


@dataclass(frozen=True, kw_only=True)
class UsualFit(_Usual):
    """Usual contrast across outlines: of all masks, and of each organ, ``(organs,)``."""

    whole: float
    of_organs: FloatArray


def describe_organs(scan: ScanMeasures, masks: MaskMeasures) -> FloatArray:
    """Return ``(organs, features)``; NaN without the organ."""
    found = np.full((len(ORGANS), len(_LEAST_SPREAD)), np.nan)
    there = masks.volume_ml > 0
    area = masks.pixels.sum(axis=1) * scan.spacing_mm[1] * scan.spacing_mm[2]
    outline = masks.fit.edges * np.sqrt(scan.spacing_mm[1] * scan.spacing_mm[2])
    with np.errstate(divide="ignore", invalid="ignore"):
        found[:, VOLUME] = np.log(masks.volume_ml)
        found[:, HEIGHT : LEFT + 1] = masks.centre
        found[:, LONG : WIDE + 1] = np.log(np.maximum(masks.spread_mm, 1))
        found[:, LEVEL] = masks.level
        found[:, RAGGED] = np.log(outline / area)
    found[~there] = np.nan
    return found


def describe_heights(scan: ScanMeasures, masks: MaskMeasures) -> FloatArray:
    """Return ``(3,)`` mm to caudal: stomach to large, stomach to small, large to small bowel."""
    large, small, stomach = masks.centre[:, 0] * (scan.shape[0] - 1) * scan.spacing_mm[0]
    return np.array([large - stomach, small - stomach, small - large])


def describe_length(scan: ScanMeasures, masks: MaskMeasures) -> float:
    """Return the logarithm of the length in mm over which there are masks; NaN without any."""
    filled = np.flatnonzero(masks.pixels.any(axis=0))
    length = (filled[-1] - filled[0] + 1) * scan.spacing_mm[0] if len(filled) else np.nan
    return float(np.log(length))


def measure_spread(values: FloatArray) -> float:
    """Return the robust standard deviation of values, by their median absolute deviation.

    Few values say little about how far off others may be: it is widened by 3 / their number.
    """
    widened = _NORMAL * (1 + 3 / len(values))
    return float(widened * np.median(np.abs(values - np.median(values))))


def find_usual_organs(labelled: Labelled) -> UsualOrgans:
    """Return what is usual in a source's labelled scans, or with few of them in the competition.

    An organ that fewer than :data:`LEAST_SCANS` have has no usual values.
    """
    if len(labelled) < LEAST_SCANS:
        return OF_COMPETITION
    features = np.array([describe_organs(*pair) for pair in labelled])
    middle, spread = (np.full(features.shape[1:], np.nan) for _ in range(2))
    there = np.isfinite(features[:, :, VOLUME])
    for organ in np.flatnonzero(there.sum(axis=0) >= LEAST_SCANS).tolist():
        having = features[there[:, organ], organ]
        middle[organ] = np.median(having, axis=0)
        spread[organ] = np.fmax([measure_spread(column) for column in having.T], _LEAST_SPREAD)
    lengths = np.array([describe_length(*pair) for pair in labelled])
    lengths = lengths[np.isfinite(lengths)]
    heights = np.array([describe_heights(*pair) for pair in labelled])
    return UsualOrgans(
        middle=middle,
        spread=spread,
        heights=np.array([_find_middle(column, _LEAST_SPREAD_MM) for column in heights.T]).T,
        log_length=_find_middle(lengths, _LEAST_SPREAD[LONG]),
        having=tuple(int(number) for number in there.sum(axis=0)),
        scans=len(labelled),
        of_source=True,
    )


def _find_middle(values: FloatArray, least: float) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if len(finite) < LEAST_SCANS:
        return float("nan"), float("nan")
    return float(np.median(finite)), max(measure_spread(finite), least)


def find_usual_fit(labelled: Labelled) -> UsualFit:
    """Return the usual contrast of a source, or with few labelled scans that of the competition."""
    fits = [masks.fit for _, masks in labelled if np.isfinite(masks.fit.whole)]
    if len(fits) < LEAST_SCANS:
        return FIT_OF_COMPETITION
    by_organ = np.array([fit.of_organs for fit in fits]).T
    return UsualFit(
        whole=float(np.median([fit.whole for fit in fits])),
        of_organs=np.array([_find_middle(column, 0.0)[0] for column in by_organ]),
        scans=len(fits),
        of_source=True,
    )


# Medians and robust spreads of 16 scans of nine patients of the competition's train.csv (every
# scan of 276 x 276 and of 234 x 234). Left open are what needs the image, and the length and the
# heights in the scan, which the annotators and the scanner's staff choose. The spreads are doubled:
# another source has other scanners and other annotators.
_NAN = float("nan")
OF_COMPETITION = UsualOrgans(
    middle=np.array(
        [
            [5.89, _NAN, -44.09, 32.20, 3.46, 3.55, 4.40, _NAN, -3.34],
            [5.65, _NAN, -33.59, 46.12, 3.11, 3.07, 3.89, _NAN, -3.19],
            [5.51, _NAN, -41.51, 42.37, 2.88, 3.43, 3.17, _NAN, -3.76],
        ]
    ),
    spread=2
    * np.array(
        [
            [1.02, _NAN, 13.28, 43.18, 0.26, 0.23, 0.21, _NAN, 0.30],
            [0.65, _NAN, 9.08, 15.31, 0.28, 0.34, 0.16, _NAN, 0.23],
            [0.36, _NAN, 12.55, 8.38, 0.22, 0.10, 0.21, _NAN, 0.14],
        ]
    ),
    heights=np.array([[51.0, 69.0, 18.0], [26.0, 38.0, 24.0]]),
    log_length=(_NAN, _NAN),
    having=(16, 16, 16),
    scans=16,
    of_source=False,
)
# Contrast of the two scans of which the images are known too.
FIT_OF_COMPETITION = UsualFit(
    whole=0.86, of_organs=np.array([1.11, 0.62, 0.78]), scans=2, of_source=False
)
