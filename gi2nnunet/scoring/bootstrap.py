"""Gains of one way of deciding over another: scores of added-up sums, intervals over patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.scoring.metric import combine

FloatArray = NDArray[np.float64]


def _draw(n_patients: int, *, n_resamples: int, seed: int) -> FloatArray:
    """Return how often each patient is drawn, ``(resamples, patients)``."""
    if n_patients == 0:
        return np.zeros((n_resamples, 0))
    rng = np.random.default_rng(seed)
    share = np.full(n_patients, 1 / n_patients)
    return rng.multinomial(n_patients, share, size=n_resamples).astype(np.float64)


def _bounds(drawn: FloatArray, n_patients: int, confidence: float) -> dict[str, float]:
    """Return the percentile interval; resamples that counted nothing are passed over."""
    counted = drawn[~np.isnan(drawn)]
    if n_patients < 2 or len(counted) == 0:
        return {"low": math.nan, "high": math.nan}
    low, high = np.quantile(counted, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"low": float(low), "high": float(high)}


N_RESAMPLES = 2000
CONFIDENCE = 0.95
CONFIDENCE_OF_EACH = 1 - (1 - CONFIDENCE) / len(ORGANS)
"""Of each organ's interval, so that all of them hold together (Bonferroni)."""

Sums = NDArray[np.float64]
"""Sum of Dice, number of rows, sum of distances, number of distances: ``(4,)``."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A cross-fitted gain over the plain threshold, with its interval over patients.

    The scores are those of all organs together.

    Attributes
    ----------
    plain, tuned
        Scores; NaN where nothing was counted.
    low, high
        Interval of ``tuned - plain``; NaN of fewer than two patients.
    tuned_low, tuned_high
        Interval of ``tuned`` itself, likewise.
    """

    plain: float
    tuned: float
    low: float = math.nan
    high: float = math.nan
    tuned_low: float = math.nan
    tuned_high: float = math.nan

    @property
    def gain(self) -> float:
        """Return ``tuned - plain``."""
        return self.tuned - self.plain


def score_of_sums(sums: Sums) -> float:
    """Return the score of sums; NaN where a mean has nothing."""
    if sums[1] == 0 or sums[3] == 0:
        return math.nan
    return combine(float(sums[0] / sums[1]), float(sums[2] / sums[3]))


def rank_score(score: float) -> float:
    """Return a score that compares: where nothing was counted, lower than any."""
    return -1.0 if math.isnan(score) else score


def measure_gain(
    plain: NDArray[np.float64],
    tuned: NDArray[np.float64],
    patients: Sequence[str],
    *,
    seed: int,
    confidence: float = CONFIDENCE,
) -> Gain:
    """Compare ``(organs, scans, 4)`` sums; the same patients are drawn on both sides."""
    names = list(dict.fromkeys(patients))
    rows = np.zeros((len(names), len(patients)))
    for number, patient in enumerate(patients):
        rows[names.index(patient), number] = 1
    both = [rows @ side.sum(axis=0) for side in (plain, tuned)]
    before, after = (score_of_sums(side.sum(axis=0)) for side in both)
    if len(names) < 2:
        return Gain(plain=before, tuned=after)
    chance = np.random.default_rng(seed)
    share = np.full(len(names), 1 / len(names))
    drawn = chance.multinomial(len(names), share, size=N_RESAMPLES).astype(np.float64)
    scores = np.array([[score_of_sums(sums) for sums in drawn @ side] for side in both])
    scores = scores[:, ~np.isnan(scores).any(axis=0)]
    if not scores.size:
        return Gain(plain=before, tuned=after)
    quantiles = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(scores[1] - scores[0], quantiles).tolist()
    tuned_low, tuned_high = np.quantile(scores[1], quantiles).tolist()
    return Gain(
        plain=before, tuned=after, low=low, high=high, tuned_low=tuned_low, tuned_high=tuned_high
    )
