"""Bootstrap over patients: intervals of scores, and of the gain of one setting over another.

Slices of a scan, and scans of a patient, are alike, so whole patients with all their scans are
drawn.

References
----------
Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.scoring.metric import combine
from gi2nnunet.scoring.result import Interval, ScanScore, Score

FloatArray = NDArray[np.float64]

SCORE_RESAMPLES = 5000
GAIN_RESAMPLES = 2000
CONFIDENCE = 0.95
CONFIDENCE_OF_EACH = 1 - (1 - CONFIDENCE) / len(ORGANS)
"""Confidence of each organ's interval, so that all of them hold together (Bonferroni)."""

_QUANTITIES = {
    "score": "score",
    "dice": "Dice",
    "hausdorff": "Hausdorff (normalised)",
    "surface_dice": "surface Dice",
    "hd95_mm": "HD95 (mm)",
    "volume_error_ml": "volume error (ml)",
    "volume_error_abs_ml": "size of the volume error (ml)",
}
Sums = FloatArray
"""Sum of Dice, number of rows, sum of distances, number of distances: ``(4,)``."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A cross-fitted gain over the plain threshold, with its interval over patients.

    Attributes
    ----------
    plain, tuned
        Scores of all organs together; NaN if nothing was counted.
    low, high
        Interval of ``tuned - plain``; NaN for fewer than two patients.
    tuned_low, tuned_high
        Interval of ``tuned``; NaN for fewer than two patients.
    """

    plain: float
    tuned: float
    low: float
    high: float
    tuned_low: float
    tuned_high: float

    @property
    def gain(self) -> float:
        """Return ``tuned - plain``."""
        return self.tuned - self.plain


def draw_patients(n_patients: int, *, n_resamples: int, seed: int) -> FloatArray:
    """Return how often each patient is drawn, ``(resamples, patients)``."""
    if n_patients == 0:
        return np.zeros((n_resamples, 0))
    rng = np.random.default_rng(seed)
    share = np.full(n_patients, 1 / n_patients)
    return rng.multinomial(n_patients, share, size=n_resamples).astype(np.float64)


def find_bounds(drawn: FloatArray, *, n_patients: int, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of a value, given its value in each resample.

    ``confidence`` is the share of the resamples between the bounds, in (0, 1). NaN in a resample
    is left out; the bounds are NaN if all are, or if there are fewer than two patients.
    """
    counted = drawn[~np.isnan(drawn)]
    if n_patients < 2 or len(counted) == 0:
        return math.nan, math.nan
    low, high = np.quantile(counted, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return low, high


def estimate_intervals(
    score: Score,
    *,
    n_resamples: int = SCORE_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return a bootstrap interval over patients for every mean of a score.

    Parameters
    ----------
    n_resamples
        How often the patients are drawn.
    confidence
        Share of the resamples between the bounds (percentile interval), in (0, 1).
    seed
        The same seed gives the same bounds.

    Returns
    -------
    dict
        By quantity: ``score``, ``dice``, ``hausdorff``, and the same of each organ as
        ``stomach.dice``; with the medical measures, if the score has them, as ``stomach.hd95_mm``.

    Raises
    ------
    ValueError
        If the score was read from a file, which does not hold the values of its rows.
    """
    n_patients = len(list_patients(score))
    return {
        name: find_interval(means, n_patients=n_patients, confidence=confidence)
        for name, means in resample_means(score, n_resamples=n_resamples, seed=seed).items()
    }


def resample_means(score: Score, *, n_resamples: int, seed: int) -> dict[str, FloatArray]:
    """Return every mean of a score: of all patients, of each single one, and of each resample.

    By quantity, ``(1 + patients + resamples,)``; NaN if nothing was counted.
    """
    n_patients = len(list_patients(score))
    drawn = draw_patients(n_patients, n_resamples=n_resamples, seed=seed)
    sums = _sum_patients(score)
    parts = [_weigh(sums, w) for w in (np.ones((1, n_patients)), np.eye(n_patients), drawn)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def find_interval(means: FloatArray, *, n_patients: int, confidence: float) -> Interval:
    """Return a mean with its interval, given what :func:`resample_means` returns of it.

    The bounds are NaN if fewer than two patients have a value of their own.
    """
    value, alone, drawn = np.split(means, [1, 1 + n_patients])
    n_counted = int(np.count_nonzero(~np.isnan(alone)))
    low, high = find_bounds(drawn, n_patients=n_counted, confidence=confidence)
    return Interval(value=float(value[0]), low=low, high=high)


def list_patients(score: Score) -> tuple[str, ...]:
    """Return the patients of a score, each once, in the order of the scans."""
    return tuple(dict.fromkeys(scan.patient_id for scan in score.per_scan))


def name_quantity(name: str) -> str:
    """Return a quantity such as ``stomach.dice`` as a reader calls it."""
    organ, _, quantity = name.rpartition(".")
    return f"{organ.replace('_', ' ')}, {_QUANTITIES[quantity]}" if organ else _QUANTITIES[quantity]


def count_digits(name: str) -> int:
    """Return how many digits after the point a quantity is shown with."""
    return 1 if name.endswith(("_mm", "_ml")) else 4


def _sum_patients(score: Score) -> dict[str, FloatArray]:
    """Return the sum and the number of each patient's values, ``(patients, 2)``, by quantity."""
    patients = list_patients(score)
    row_of = {patient_id: index for index, patient_id in enumerate(patients)}
    sums: dict[str, FloatArray] = {}
    for scan in score.per_scan:
        for name, values in _list_values(scan).items():
            counted = values[~np.isnan(values)]
            entry = sums.setdefault(name, np.zeros((len(patients), 2)))
            entry[row_of[scan.patient_id]] += counted.sum(), counted.size
    return sums


def _weigh(sums: Mapping[str, FloatArray], weights: FloatArray) -> dict[str, FloatArray]:
    """Return each mean ``(weightings,)`` under weightings ``(weightings, patients)``."""
    means = {name: _divide(*(weights @ entry).T) for name, entry in sums.items()}
    for prefix in ("", *(f"{organ}." for organ in ORGANS)):
        if f"{prefix}dice" in means and f"{prefix}hausdorff" in means:
            means[f"{prefix}score"] = combine(means[f"{prefix}dice"], means[f"{prefix}hausdorff"])
    return dict(sorted(means.items(), key=lambda item: _rank(item[0])))


def _divide(total: FloatArray, count: FloatArray) -> FloatArray:
    ratio: FloatArray = np.full(np.shape(total), np.nan)
    np.divide(total, count, out=ratio, where=count > 0)
    return ratio


def _rank(name: str) -> tuple[int, int]:
    organ, _, quantity = name.rpartition(".")
    return ORGANS.index(organ) + 1 if organ else 0, list(_QUANTITIES).index(quantity)


def _list_values(scan: ScanScore) -> dict[str, FloatArray]:
    """Return one scan's values of each mean."""
    terms = scan.terms
    if terms is None:
        raise ValueError(f"{scan.scan_id}: a score that was read from a file has no terms")
    values = {"dice": terms.dice.reshape(-1), "hausdorff": terms.hausdorff.reshape(-1)}
    for index, organ in enumerate(ORGANS):
        values[f"{organ}.dice"] = terms.dice[index]
        if len(terms.hausdorff) == len(ORGANS):
            values[f"{organ}.hausdorff"] = terms.hausdorff[index]
        if scan.measures is not None:
            measures = scan.measures[organ]
            values[f"{organ}.surface_dice"] = np.array([measures.surface_dice])
            values[f"{organ}.hd95_mm"] = np.array([measures.hd95_mm])
            values[f"{organ}.volume_error_ml"] = np.array([measures.counted_error_ml])
            values[f"{organ}.volume_error_abs_ml"] = np.array([abs(measures.counted_error_ml)])
    return values


def score_of_sums(sums: FloatArray) -> FloatArray:
    """Return the scores ``(...)`` of sums ``(..., 4)``; NaN if a mean has no value."""
    dice, n_rows, distance, n_distances = np.moveaxis(sums, -1, 0)
    scores: FloatArray = combine(_divide(dice, n_rows), _divide(distance, n_distances))
    return scores


def rank_score(score: float | FloatArray) -> float:
    """Return a score to sort by: lower than any if nothing was counted."""
    return -1.0 if math.isnan(score) else float(score)


def measure_gain(
    plain: FloatArray,
    tuned: FloatArray,
    patients: Sequence[str],
    *,
    seed: int,
    confidence: float = CONFIDENCE,
    n_resamples: int = GAIN_RESAMPLES,
) -> Gain:
    """Compare two settings; the same patients are drawn on both sides.

    ``plain`` and ``tuned`` are sums of each organ and scan, ``(organs, scans, 4)``; ``patients`` is
    the patient of each scan.
    """
    names = list(dict.fromkeys(patients))
    rows = np.zeros((len(names), len(patients)))
    for number, patient in enumerate(patients):
        rows[names.index(patient), number] = 1
    both = [rows @ side.sum(axis=0) for side in (plain, tuned)]
    before, after = (float(score_of_sums(side.sum(axis=0))) for side in both)
    weights = draw_patients(len(names), n_resamples=n_resamples, seed=seed)
    drawn = [score_of_sums(weights @ side) for side in both]
    low, high = find_bounds(drawn[1] - drawn[0], n_patients=len(names), confidence=confidence)
    tuned_low, tuned_high = find_bounds(drawn[1], n_patients=len(names), confidence=confidence)
    return Gain(
        plain=before, tuned=after, low=low, high=high, tuned_low=tuned_low, tuned_high=tuned_high
    )
